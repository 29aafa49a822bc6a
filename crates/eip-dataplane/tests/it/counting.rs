//! What each elastic IP carries.

use std::net::Ipv4Addr;

use eip_dataplane::{Counters, DataPlane, Options};
use eip_model::Volume;
use eip_testkit::eventually;

use crate::alias::with_alias;
use crate::world::{CLIENT, SOON, WEB_1, WEB_2, WEB_3, World, ask, eip};

pub(crate) fn volume(world: &World, address: Ipv4Addr) -> Volume {
    let all = world.plane(|plane| {
        plane.read_traffic();
        plane.traffic().expect("counting is on").latest()
    });
    all.get(&address).copied().unwrap_or_default()
}

/// Pings so often from there, with an IP packet of 128 bytes each way.
pub(crate) fn ping(from: &eip_testkit::netns::Namespace, to: Ipv4Addr, count: u64) {
    from.sh(&format!("ping -q -i 0.01 -s 100 -c {count} {to}"));
}

#[test]
fn packets_and_bytes_are_counted_in_both_directions_whoever_began() {
    let world = World::with(&[(eip(1), WEB_1), (eip(2), WEB_2)]);
    assert_eq!(volume(&world, eip(1)), Volume::default());
    ping(&world.client, eip(1), 10);
    let both = Volume { packets_in: 10, bytes_in: 1280, packets_out: 10, bytes_out: 1280 };
    assert_eq!(volume(&world, eip(1)), both);
    ping(&world.web_1, CLIENT, 5);
    let both = Volume { packets_in: 15, bytes_in: 1920, packets_out: 15, bytes_out: 1920 };
    assert_eq!(volume(&world, eip(1)), both);
    // From the host itself, and from a neighbour with an elastic IP of its own.
    ping(&world.host, eip(1), 2);
    ping(&world.web_2, eip(1), 3);
    let counted = volume(&world, eip(1));
    assert_eq!((counted.packets_in, volume(&world, eip(2)).packets_out), (20, 3));
    // What stays private, and what nobody has, is nobody's.
    ping(&world.web_1, WEB_2, 2);
    assert_eq!(volume(&world, eip(1)), counted);
    assert_eq!(volume(&world, eip(9)), Volume::default());
}

#[test]
fn what_an_alias_carries_is_counted_like_any() {
    let (world, _) = with_alias(&[(eip(2), WEB_2)]);
    volume(&world, eip(1));
    ping(&world.client, eip(1), 10);
    ping(&world.web_1, CLIENT, 5);
    let both = Volume { packets_in: 15, bytes_in: 1920, packets_out: 15, bytes_out: 1920 };
    assert_eq!(volume(&world, eip(1)), both);
    // From the host itself, and from and to a neighbour whose elastic IP is rewritten.
    ping(&world.host, eip(1), 2);
    ping(&world.web_2, eip(1), 3);
    ping(&world.web_1, eip(2), 4);
    let (one, two) = (volume(&world, eip(1)), volume(&world, eip(2)));
    assert_eq!((one.packets_in, two.packets_out), (20 + 4, 3 + 4), "{one:?} {two:?}");
    // In another mode it goes on.
    assert!(!world.apply(&[(eip(1), WEB_1), (eip(2), WEB_2)]).replaced);
    ping(&world.client, eip(1), 1);
    assert_eq!(volume(&world, eip(1)).packets_in, one.packets_in + 1);
}

#[test]
fn counters_go_on_over_moves_replacements_and_restarts_of_the_agent() {
    let world = World::with(&[(eip(1), WEB_1)]);
    volume(&world, eip(1));
    ping(&world.client, eip(1), 4);
    world.apply(&[(eip(1), WEB_2), (eip(3), WEB_3)]);
    ping(&world.client, eip(1), 4);
    assert_eq!(volume(&world, eip(1)).packets_in, 8);
    world.plane(DataPlane::forget);
    assert!(world.apply(&[(eip(1), WEB_2), (eip(3), WEB_3)]).replaced);
    ping(&world.client, eip(1), 4);
    assert_eq!(volume(&world, eip(1)).packets_out, 12);
    world.restart();
    ping(&world.client, eip(1), 4);
    world.apply(&[(eip(1), WEB_2)]);
    assert_eq!(volume(&world, eip(1)).packets_in, 16);
    // What had gone meanwhile is not counted any more.
    let listed = world.host.sh("nft list table ip eip_traffic");
    assert!(listed.contains("100.64.0.1") && !listed.contains("100.64.0.3"), "{listed}");
    // One that comes again begins anew.
    world.apply(&[]);
    volume(&world, eip(1));
    world.apply(&[(eip(1), WEB_1)]);
    assert_eq!(volume(&world, eip(1)), Volume::default());
}

#[test]
fn counting_is_no_change_of_the_rules_and_is_made_again_when_someone_removed_it() {
    let world = World::with(&[(eip(1), WEB_1)]);
    volume(&world, eip(1));
    assert!(world.plane(|plane| plane.intact()).expect("an answer"));
    world.host.sh("nft delete table ip eip_traffic");
    assert!(world.plane(|plane| plane.intact()).expect("an answer"));
    eventually("traffic to be counted again", SOON, || {
        ping(&world.client, eip(1), 1);
        (volume(&world, eip(1)).packets_in > 0).then_some(())
    });
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

#[test]
fn many_addresses_are_counted_soon_and_read_by_name() {
    let world = World::new();
    let many: Vec<_> = (0..5000_u32)
        .map(|n| (Ipv4Addr::from_bits(0x6440_1000 + n), Ipv4Addr::from_bits(0x0a00_0100 + n)))
        .chain([(eip(1), WEB_1)])
        .collect();
    world.apply(&many);
    volume(&world, eip(1));
    ping(&world.client, eip(1), 3);
    assert_eq!(volume(&world, eip(1)).packets_in, 3);
    let all = world.plane(|plane| plane.traffic().expect("counting is on").latest());
    assert_eq!(all.len(), many.len());
    assert!(world.plane(|plane| plane.intact()).expect("an answer"), "nobody else changed rules");
    assert!(world.apply(&many).changed_nothing());
}

#[test]
fn more_addresses_than_the_counters_were_made_for_are_counted_in_larger_ones() {
    let world = World::with(&[(eip(1), WEB_1)]);
    ping(&world.client, eip(1), 10);
    assert_eq!(volume(&world, eip(1)).packets_in, 10);
    let size = || {
        let set = world.host.sh("nft -j list set ip eip_traffic out");
        let listed: serde_json::Value = serde_json::from_str(&set).expect("JSON");
        listed["nftables"][1]["set"]["size"].as_u64().expect("a size")
    };
    let before = size();
    let more = u32::try_from(before).expect("a size") + 10;
    let many: Vec<_> = (0..more)
        .map(|n| (Ipv4Addr::from_bits(0x6440_1000 + n), Ipv4Addr::from_bits(0x0a00_0100 + n)))
        .chain([(eip(1), WEB_1)])
        .collect();
    world.apply(&many);
    // They begin anew, at nothing.
    assert_eq!(volume(&world, eip(1)), Volume::default());
    assert!(size() > before, "{} and {before}", size());
    ping(&world.client, eip(1), 3);
    assert_eq!(volume(&world, eip(1)).packets_in, 3);
    let all = world.plane(|plane| plane.traffic().expect("counting is on").latest());
    assert_eq!(all.len(), many.len());
    // Those that are not wanted any more go, and no other.
    world.apply(&many[many.len() - 5..]);
    assert_eq!(volume(&world, eip(1)).packets_in, 3);
    let all = world.plane(|plane| plane.traffic().expect("counting is on").latest());
    assert_eq!(all.len(), 5);
}

#[test]
fn counting_can_be_off() {
    let world = World::with(&[(eip(1), WEB_1)]);
    volume(&world, eip(1));
    world.plane(|plane| {
        let options = Options { counters: Counters::Off, ..Options::default() };
        *plane = DataPlane::open_with(options).expect("a data plane");
        assert!(plane.traffic().is_none());
    });
    world.apply(&[(eip(1), WEB_1)]);
    assert!(!world.host.sh("nft list tables").contains("eip_traffic"));
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

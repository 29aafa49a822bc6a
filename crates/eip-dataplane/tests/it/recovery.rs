//! Restarts, strangers and refusals.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eip_dataplane::{ApplyError, DataPlane, OpenError};
use eip_testkit::eventually;
use eip_testkit::netns::{Conversation, Namespace, ask_udp};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::alias::with_alias;
use crate::world::{CLIENT, SOON, TCP, UDP, WEB_1, WEB_2, WEB_3, World, ask, eip, hears_nothing};

#[test]
fn applying_the_same_again_commits_nothing() {
    let targets = [(eip(1), WEB_1), (eip(2), WEB_2)];
    let world = World::with(&targets);
    let heard = world.commits_during(|| {
        assert!(world.apply(&targets).changed_nothing());
        assert!(world.plane(|plane| plane.intact()).expect("an answer"));
    });
    // The counters begin in their own time, in a table of their own.
    let heard = heard.replace("ip eip_traffic", "").replace("(eip-traffic)", "");
    assert!(!heard.contains("eip"), "{heard}");
    // The witness is no fool: a change is heard.
    let heard = world.commits_during(|| assert!(!world.apply(&targets[..1]).replaced));
    assert!(heard.contains("delete element ip eip dn { 100.64.0.2"), "{heard}");
    world.host.sh("nft delete table ip finished");
    world.apply(&targets);
    assert_eq!(world.elements("dn"), r#"[["100.64.0.1","10.0.0.11"],["100.64.0.2","10.0.0.12"]]"#);
}

#[test]
fn after_forgetting_a_smaller_set_leaves_nothing_behind() {
    let world = World::with(&[(eip(1), WEB_1), (eip(2), WEB_2)]);
    world.plane(DataPlane::forget);
    assert!(world.apply(&[(eip(2), WEB_2)]).replaced);
    for set in ["dn", "sn", "zd"] {
        let elements = world.elements(set);
        assert!(!elements.contains("100.64.0.1") && !elements.contains("10.0.0.11"), "{elements}");
    }
    assert!(!world.routes().contains("100.64.0.1"));
    hears_nothing(&world.client, eip(1));
    assert_eq!(ask(&world.client, eip(2)), "web-2 saw 192.0.2.2");
}

#[test]
fn a_restart_keeps_connections_and_clears_what_is_no_longer_wanted() {
    let world = World::with(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
    let (mut inbound, udp) = world.client.run(|| {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        udp.connect(SocketAddrV4::new(eip(1), UDP)).expect("a route");
        (Conversation::open(SocketAddrV4::new(eip(1), TCP), SOON).expect("a connection"), udp)
    });
    let mut outbound = world
        .web_1
        .run(|| Conversation::open(SocketAddrV4::new(CLIENT, TCP), SOON).expect("a connection"));
    assert_eq!(outbound.ask().expect("an answer"), "client saw 100.64.0.1");
    for _ in 0..3 {
        world.restart();
        assert!(world.apply(&[(eip(1), WEB_1)]).replaced);
        assert_eq!(inbound.ask().expect("an answer"), "web-1 saw 192.0.2.2");
        assert_eq!(outbound.ask().expect("an answer"), "client saw 100.64.0.1");
        assert_eq!(ask_udp(&udp, SOON).expect("an answer"), "web-1 saw 192.0.2.2");
    }
    assert!(!world.routes().contains("100.64.0.3"));
    hears_nothing(&world.client, eip(3));
}

#[test]
fn replacing_the_table_under_fresh_flows_loses_none() {
    const FLOWS: u32 = 2000;
    let world = World::with(&[(eip(1), WEB_1)]);
    let over = Arc::new(AtomicBool::new(false));
    let client = {
        let over = Arc::clone(&over);
        world.client.spawn(move || {
            let begun = Instant::now();
            let lost = (0..FLOWS).filter(|number| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
                socket.connect(SocketAddrV4::new(eip(1), UDP)).expect("a route");
                let lost = ask_udp(&socket, Duration::from_secs(1)).is_err();
                // A thousand a second: wait for the turn of the next.
                let due = begun + Duration::from_millis(u64::from(*number));
                std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
                lost
            });
            let lost = lost.count();
            over.store(true, Ordering::Relaxed);
            lost
        })
    };
    let mut replaced = 0;
    while !over.load(Ordering::Relaxed) {
        world.plane(DataPlane::forget);
        assert!(world.apply(&[(eip(1), WEB_1)]).replaced);
        replaced += 1;
    }
    println!("{FLOWS} flows under {replaced} replacements of the table");
    assert!(replaced > 2);
    assert_eq!(client.join().expect("the client counts"), 0);
}

#[test]
fn what_nft_shows_of_the_rules_can_be_loaded_again() {
    let (world, _) = with_alias(&[(eip(3), WEB_3)]);
    let shown = || world.host.sh("nft -s list ruleset");
    let before = eventually("the counters to be there", SOON, || {
        let text = shown();
        (text.matches("100.64.0.3").count() == 5).then_some(text)
    });
    world
        .host
        .sh("f=$(mktemp) && nft list ruleset > $f && nft flush ruleset && nft -f $f && rm $f");
    assert_eq!(shown(), before);
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    assert_eq!(ask(&world.client, eip(3)), "web-3 saw 192.0.2.2");
}

#[test]
fn what_strangers_do_to_the_table_is_noticed_and_mended() {
    let world = World::with(&[(eip(1), WEB_1)]);
    for deed in [
        "flush ruleset",
        "delete table ip eip",
        "flush table ip eip",
        "flush map ip eip dn",
        "delete element ip eip zd { 100.64.0.1 }",
        "add rule ip eip pre_raw drop",
    ] {
        world.host.sh(&format!("nft '{deed}'"));
        assert!(!world.plane(|plane| plane.intact()).expect("an answer"), "{deed}");
        assert!(world.apply(&[(eip(1), WEB_1)]).replaced, "{deed}");
        assert!(world.plane(|plane| plane.intact()).expect("an answer"), "{deed}");
        assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2", "{deed}");
        assert!(world.apply(&[(eip(1), WEB_1)]).changed_nothing(), "{deed}");
    }
}

#[test]
fn what_the_kernel_refuses_is_told_and_succeeds_once_it_can() {
    let world = World::with(&[(eip(1), WEB_1)]);
    // Someone else owns a table of our name, for as long as they are there.
    let mut nft = world.host.command("nft");
    let mut owner = nft.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("nft");
    let mut words = owner.stdin.take().expect("a pipe");
    writeln!(words, "delete table ip eip; add table ip eip {{ flags owner; }}").expect("nft reads");
    eventually("the table to be theirs", SOON, || {
        world.host.sh("nft list tables; nft list table ip eip").contains("owner").then_some(())
    });
    for _ in 0..2 {
        let refused = world.apply_state(crate::world::desired(&[(eip(1), WEB_1)]));
        let refused = refused.expect_err("not our table");
        assert!(matches!(refused, ApplyError::Rules { .. }) && refused.retryable(), "{refused:?}");
        assert_eq!(
            refused.to_string(),
            "cannot change the rules: the kernel refused table eip (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4)"
        );
        assert!(!world.plane(|plane| plane.intact()).expect("an answer"));
    }
    drop(words);
    owner.wait().expect("it ends with its input");
    assert!(world.apply(&[(eip(1), WEB_1)]).replaced);
    assert!(world.apply(&[(eip(1), WEB_1)]).changed_nothing());
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

#[test]
fn what_strangers_do_to_their_own_tables_is_no_concern_of_ours() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world.host.sh("nft 'add table ip other; add table inet eip'");
    assert!(world.plane(|plane| plane.intact()).expect("an answer"));
    assert!(!world.apply(&[(eip(2), WEB_1)]).replaced);
    assert_eq!(world.host.sh("nft list table ip other"), "table ip other {\n}\n");
}

#[test]
fn routes_that_vanish_with_the_hosts_address_come_back() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world.host.ip(&["addr add 192.0.2.77/24 dev u0", "addr del 192.0.2.1/24 dev u0"]);
    world.host.ip(&["addr replace 192.0.2.77/24 dev u0", "route replace default via 192.0.2.2"]);
    let applied = world.apply(&[(eip(1), WEB_1)]);
    assert_eq!(applied.routes_added, 1);
    assert!(world.routes().contains("src 192.0.2.77"), "{}", world.routes());
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    assert_eq!(ask(&world.host, eip(1)), "web-1 saw 192.0.2.77");
}

#[test]
fn a_route_that_others_removed_comes_back_once_routes_are_distrusted() {
    let targets = [(eip(1), WEB_1)];
    let world = World::with(&targets);
    world.host.sh("ip route del local 100.64.0.1 table local");
    world.plane(DataPlane::distrust_routes);
    assert_eq!(world.apply(&targets).routes_added, 1);
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

#[test]
fn routes_of_others_are_left_alone() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world.host.ip(&["route add local 203.0.113.9/32 dev lo proto 99"]);
    world.host.ip(&["route add local 100.64.0.9/32 dev lo proto 225"]);
    world.plane(DataPlane::forget);
    assert_eq!(world.apply(&[(eip(1), WEB_1)]).routes_removed, 1);
    assert!(world.host.sh("ip route show table local").contains("203.0.113.9"));
    assert!(!world.host.sh("ip route show table local").contains("100.64.0.9"));
}

#[test]
fn a_dead_data_plane_leaves_traffic_running() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world.restart();
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

#[test]
fn the_maps_grow_past_the_size_they_were_made_for() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let many: Vec<_> = (0..5000_u32)
        .map(|n| (Ipv4Addr::from_bits(0x6440_1000 + n), Ipv4Addr::from_bits(0x0a00_0100 + n)))
        .chain([(eip(1), WEB_1)])
        .collect();
    assert!(world.apply(&many).replaced);
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    let fewer = world.apply(&[(eip(1), WEB_1)]);
    assert_eq!((fewer.replaced, fewer.detached, fewer.routes_removed), (false, 5000, 5000));
    // As many again in one transaction, while the old ones are not yet gone from the maps.
    assert!(!world.apply(&many).replaced);
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

#[test]
fn without_the_right_to_change_the_network_opening_says_which_right_is_missing() {
    let host = Namespace::new("host");
    let refused = host.run(|| {
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            ..capabilities(None).expect("this thread's")
        };
        set_capabilities(None, none).expect("rights can always be given up");
        DataPlane::open().expect_err("no rights")
    });
    assert!(matches!(refused, OpenError::NoRights(_)), "{refused:?}");
    assert!(refused.to_string().contains("CAP_NET_ADMIN"), "{refused}");
}

#[test]
fn without_the_right_to_send_frames_all_but_announcements_works() {
    let world = World::new();
    let warnings = world.plane(|plane| {
        let all = capabilities(None).expect("this thread's");
        let fewer = CapabilitySets { effective: all.effective - CapabilitySet::NET_RAW, ..all };
        set_capabilities(None, fewer).expect("rights can always be given up");
        *plane = DataPlane::open().expect("a data plane");
        plane.apply(&crate::world::desired(&[(eip(1), WEB_1)])).expect("an apply").warnings
    });
    assert!(warnings[0].to_string().contains("CAP_NET_RAW"), "{warnings:?}");
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

#[test]
fn another_namespace_is_refused() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let elsewhere = Namespace::new("elsewhere");
    let mut plane = world.host.run(|| DataPlane::open().expect("a data plane"));
    let refused = elsewhere.run(move || {
        plane.apply(&crate::world::desired(&[])).expect_err("another namespace").to_string()
    });
    assert!(refused.contains("another network namespace"), "{refused}");
    eventually("traffic as before", SOON, || {
        (ask(&world.client, eip(1)) == "web-1 saw 192.0.2.2").then_some(())
    });
}

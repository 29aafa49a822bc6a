//! What is held back of attachments that have ended, and for how long.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use eip_dataplane::faults::{When, arm_helper, disarm_helper};
use eip_dataplane::{ApplyError, DataPlane};
use eip_testkit::eventually;
use eip_testkit::netns::{Namespace, ask_udp};

use crate::alias::{put_on, with_alias};
use crate::world::{CLIENT, NEVER, SOON, UDP, WEB_1, WEB_2, WEB_3, World, ask, desired, eip};

/// From here on the flows cannot be looked through.
fn no_sweep(world: &World) {
    world.host.run(|| arm_helper("eip-sweep", usize::MAX, (0, libc::ENOBUFS, When::Before)));
}

fn sweep_again(world: &World) {
    world.host.run(|| disarm_helper("eip-sweep"));
}

/// A UDP flow from this port of one, to be asked.
fn flow(from: &Namespace, bound: (Ipv4Addr, u16), to: Ipv4Addr) -> UdpSocket {
    from.run(move || {
        let udp = UdpSocket::bind(bound).expect("a port");
        udp.connect(SocketAddrV4::new(to, UDP)).expect("a route");
        udp
    })
}

fn held(world: &World) -> [String; 2] {
    ["stale", "watched"].map(|set| world.elements(set))
}

const NOTHING: &str = "null";

#[test]
fn a_pair_is_held_back_until_its_flows_are_gone() {
    let world = World::with(&[(eip(1), WEB_1)]);
    assert_eq!(held(&world), [NOTHING, NOTHING]);
    ask(&world.client, eip(1));
    no_sweep(&world);
    world.apply(&[(eip(1), WEB_2)]);
    let now = [r#"[{"concat":["100.64.0.1","10.0.0.11"]}]"#, r#"["10.0.0.11"]"#];
    assert_eq!(held(&world), now);
    // Longer than it would take to let it go.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(world.apply(&[(eip(1), WEB_2)]).changed_nothing());
        std::thread::sleep(NEVER);
    }
    assert_eq!(held(&world), now);
    // A table that is replaced keeps what is held.
    world.host.sh("nft add rule ip eip pre_raw accept");
    sweep_again(&world);
    assert!(world.apply(&[(eip(1), WEB_2)]).replaced);
    assert_eq!(held(&world), now);
    eventually("it to be let go of", SOON, || {
        assert!(world.apply(&[(eip(1), WEB_2)]).changed_nothing());
        (held(&world) == [NOTHING, NOTHING]).then_some(())
    });
    assert_eq!(ask(&world.client, eip(1)), "web-2 saw 192.0.2.2");
    // Who has lost it is held back by nothing.
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 192.0.2.1");
}

#[test]
fn an_attachment_that_comes_back_finds_its_flows_as_they_were() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let asking = flow(&world.client, (Ipv4Addr::UNSPECIFIED, 0), eip(1));
    assert_eq!(ask_udp(&asking, SOON).expect("an answer"), "web-1 saw 192.0.2.2");
    let begun = flow(&world.web_1, (Ipv4Addr::UNSPECIFIED, 0), CLIENT);
    assert_eq!(ask_udp(&begun, SOON).expect("an answer"), "client saw 100.64.0.1");
    no_sweep(&world);
    world.apply(&[(eip(1), WEB_2)]);
    assert_eq!(ask_udp(&asking, SOON).expect("an answer"), "web-2 saw 192.0.2.2");
    world.apply(&[(eip(1), WEB_1)]);
    assert_eq!(ask_udp(&asking, SOON).expect("an answer"), "web-1 saw 192.0.2.2");
    assert_eq!(ask_udp(&begun, SOON).expect("an answer"), "client saw 100.64.0.1");
    sweep_again(&world);
}

#[test]
fn the_first_turn_ends_when_no_flow_is_left_of_what_ended_while_nobody_looked() {
    let world = World::with(&[(eip(1), WEB_1)]);
    ask(&world.client, eip(1));
    ask(&world.web_1, CLIENT);
    let stale = || {
        let flows = world.host.sh("conntrack -L 2>/dev/null");
        flows.lines().any(|flow| flow.contains("100.64.0.1") && flow.contains("10.0.0.11"))
    };
    assert!(stale());
    world.restart();
    no_sweep(&world);
    for _ in 0..2 {
        let refused = world.apply_state(desired(&[(eip(1), WEB_2)]));
        assert!(matches!(refused, Err(ApplyError::Flows { .. })), "{refused:?}");
    }
    assert!(stale(), "else the next look proves nothing");
    sweep_again(&world);
    world.apply(&[(eip(1), WEB_2)]);
    assert!(!stale());
    assert!(world.apply(&[(eip(1), WEB_2)]).changed_nothing());
}

#[test]
fn an_alias_that_has_gone_is_not_spoken_as_in_flows_that_are_rewritten() {
    let (world, _) = with_alias(&[(eip(3), WEB_3)]);
    let from = (eip(1), 7000);
    let begun = flow(&world.web_1, from, eip(3));
    assert_eq!(ask_udp(&begun, SOON).expect("an answer"), "web-3 saw 100.64.0.1");
    // Nor is it by a neighbour while it is there, in a flow that is known.
    put_on(&world.web_2, eip(1), "10.0.0.1");
    let spoofed = flow(&world.web_2, from, eip(3));
    ask_udp(&spoofed, NEVER).expect_err("the neighbour has no right to it");
    assert_eq!(ask_udp(&begun, SOON).expect("an answer"), "web-3 saw 100.64.0.1");
    no_sweep(&world);
    world.apply(&[(eip(3), WEB_3)]);
    let before = received(&world.web_3);
    begun.send(b"after").expect("a route");
    ask_udp(&begun, NEVER).expect_err("it is not its any more");
    assert_eq!(received(&world.web_3), before, "nor did it get there");
    sweep_again(&world);
    eventually("it to be let go of", SOON, || {
        world.apply(&[(eip(3), WEB_3)]);
        (held(&world) == [NOTHING, NOTHING]).then_some(())
    });
    ask_udp(&begun, NEVER).expect_err("it is not its any more");
}

#[test]
fn what_a_process_before_held_back_is_held_back_by_the_next() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let asking = flow(&world.web_1, (Ipv4Addr::UNSPECIFIED, 0), CLIENT);
    assert_eq!(ask_udp(&asking, SOON).expect("an answer"), "client saw 100.64.0.1");
    no_sweep(&world);
    world.apply(&[(eip(1), WEB_2)]);
    let now = held(&world);
    assert!(now[0].contains("10.0.0.11"), "{now:?}");
    world.restart();
    no_sweep(&world);
    let refused = world.apply_state(desired(&[(eip(1), WEB_2)]));
    assert!(matches!(refused, Err(ApplyError::Flows { .. })), "{refused:?}");
    assert_eq!(held(&world), now);
    ask_udp(&asking, NEVER).expect_err("it is not its any more");
    sweep_again(&world);
    eventually("it to be let go of", SOON, || {
        world.apply(&[(eip(1), WEB_2)]);
        (held(&world) == [NOTHING, NOTHING]).then_some(())
    });
}

#[test]
fn an_alias_that_goes_while_the_table_is_replaced_is_not_spoken_as_any_more() {
    for what in ["restart", "tamper", "forget"] {
        let (world, _) = with_alias(&[(eip(3), WEB_3)]);
        let begun = flow(&world.web_1, (eip(1), 7000), eip(3));
        assert_eq!(ask_udp(&begun, SOON).expect("an answer"), "web-3 saw 100.64.0.1");
        match what {
            "restart" => world.restart(),
            "tamper" => drop(world.host.sh("nft add rule ip eip pre_raw accept")),
            _ => world.plane(DataPlane::forget),
        }
        assert!(world.apply(&[(eip(3), WEB_3)]).replaced, "{what}");
        assert_eq!(held(&world), [NOTHING, r#"["100.64.0.1"]"#], "{what}");
        let flows = world.host.sh("conntrack -L 2>/dev/null");
        assert!(!flows.contains("src=100.64.0.1"), "{what}: {flows}");
        ask_udp(&begun, NEVER).expect_err(what);
    }
}

/// How many packets have come to an instance.
fn received(web: &Namespace) -> String {
    web.sh("cat /proc/net/snmp | grep '^Udp:' | tail -1 | cut -d' ' -f2").trim().to_owned()
}

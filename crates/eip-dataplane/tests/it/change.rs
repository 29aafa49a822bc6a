//! Attachments that come, go and move under running traffic.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use eip_dataplane::faults::{When, arm_helper, disarm_helper};
use eip_testkit::eventually;
use eip_testkit::netns::{Conversation, Namespace, ask_udp};

use crate::world::{
    CLIENT, NEVER, SOON, TCP, UDP, WEB_1, WEB_2, WEB_3, World, ask, eip, hears_nothing,
};

/// A UDP flow and a TCP connection that have both been answered.
struct Running {
    udp: UdpSocket,
    tcp: Conversation,
}

impl Running {
    fn begin(from: &Namespace, to: Ipv4Addr, answer: &str) -> Self {
        let (udp, tcp) = from.run(move || {
            let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
            udp.connect(SocketAddrV4::new(to, UDP)).expect("a route");
            (udp, Conversation::open(SocketAddrV4::new(to, TCP), SOON).expect("a connection"))
        });
        let mut running = Self { udp, tcp };
        assert_eq!(running.ask_udp().expect("an answer"), answer);
        assert_eq!(running.tcp.ask().expect("an answer"), answer);
        running
    }

    fn ask_udp(&self) -> io::Result<String> {
        ask_udp(&self.udp, SOON)
    }

    fn is_cut(&mut self) {
        let udp = ask_udp(&self.udp, NEVER);
        assert!(udp.is_err(), "UDP: {udp:?}");
        self.connection_is_cut();
    }

    fn connection_is_cut(&mut self) {
        self.tcp.wait_at_most(NEVER);
        let tcp = self.tcp.ask();
        assert!(tcp.is_err(), "TCP: {tcp:?}");
    }
}

#[test]
fn a_move_takes_running_flows_along_at_once_and_leaves_the_rest_alone() {
    let world = World::with(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
    let mut moved = Running::begin(&world.client, eip(1), "web-1 saw 192.0.2.2");
    let mut stays = Running::begin(&world.client, eip(3), "web-3 saw 192.0.2.2");

    let applied = world.apply(&[(eip(1), WEB_2), (eip(3), WEB_3)]);
    assert_eq!((applied.attached, applied.detached, applied.replaced), (1, 1, false));
    assert_eq!((applied.routes_added, applied.routes_removed), (0, 0));

    assert_eq!(moved.ask_udp().expect("an answer"), "web-2 saw 192.0.2.2");
    moved.connection_is_cut();
    assert_eq!(ask(&world.client, eip(1)), "web-2 saw 192.0.2.2");
    assert_eq!(ask(&world.web_2, CLIENT), "client saw 100.64.0.1");
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 192.0.2.1");
    assert_eq!(stays.ask_udp().expect("an answer"), "web-3 saw 192.0.2.2");
    assert_eq!(stays.tcp.ask().expect("an answer"), "web-3 saw 192.0.2.2");
}

#[test]
fn a_move_takes_along_the_flows_of_neighbours_and_of_the_host() {
    let world = World::with(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
    let mut neighbour = Running::begin(&world.web_3, eip(1), "web-1 saw 100.64.0.3");
    let mut host = Running::begin(&world.host, eip(1), "web-1 saw 192.0.2.1");
    world.apply(&[(eip(1), WEB_2), (eip(3), WEB_3)]);
    assert_eq!(neighbour.ask_udp().expect("an answer"), "web-2 saw 100.64.0.3");
    assert_eq!(host.ask_udp().expect("an answer"), "web-2 saw 192.0.2.1");
    neighbour.connection_is_cut();
    host.connection_is_cut();
}

#[test]
fn a_detach_stops_running_flows_in_both_directions() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world.host.serve_tcp(TCP);
    world.host.serve_udp(UDP);
    let mut inbound = Running::begin(&world.client, eip(1), "web-1 saw 192.0.2.2");
    let mut neighbour = Running::begin(&world.web_3, eip(1), "web-1 saw 10.0.0.1");
    let mut outbound = Running::begin(&world.web_1, CLIENT, "client saw 100.64.0.1");
    let applied = world.apply(&[]);
    assert_eq!((applied.detached, applied.routes_removed), (1, 1));
    inbound.is_cut();
    neighbour.is_cut();
    hears_nothing(&world.client, eip(1));
    assert_eq!(world.routes(), "");
    // What the instance still says in its old flows goes out as the host, like anyone's, once they have
    // been deleted; until then it is held back.
    eventually("the client to see the host", SOON, || {
        let seen = ask_udp(&outbound.udp, NEVER).ok()?;
        assert_eq!(seen, "client saw 192.0.2.1");
        Some(())
    });
    outbound.connection_is_cut();
}

#[test]
fn what_an_instance_had_begun_before_carries_its_elastic_ip_soon_after() {
    let world = World::with(&[]);
    let mut outbound = Running::begin(&world.web_1, CLIENT, "client saw 192.0.2.1");
    let mut published = Running::begin(&world.web_2, CLIENT, "client saw 192.0.2.1");
    world.apply(&[(eip(1), WEB_1)]);
    eventually("the client to see the elastic IP", SOON, || {
        (ask_udp(&outbound.udp, NEVER).ok()? == "client saw 100.64.0.1").then_some(())
    });
    outbound.connection_is_cut();
    assert_eq!(published.ask_udp().expect("an answer"), "client saw 192.0.2.1");
    assert_eq!(published.tcp.ask().expect("an answer"), "client saw 192.0.2.1");
}

/// A datagram from one to the other's port 7001, and the sockets of both.
fn greeting(from: &Namespace, to: (&Namespace, Ipv4Addr), by: Ipv4Addr) -> (UdpSocket, UdpSocket) {
    let listening = to.0.run(move || UdpSocket::bind((to.1, 7001)).expect("a port"));
    let asking = from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7000)).expect("a port"));
    for socket in [&listening, &asking] {
        socket.set_read_timeout(Some(NEVER)).expect("a timeout");
    }
    asking.send_to(b"hello", (by, 7001)).expect("a route");
    let (_, caller) = listening.recv_from(&mut [0; 64]).expect("the first datagram");
    listening.connect(caller).expect("a route");
    listening.send(b"before").expect("a route");
    assert_eq!(asking.recv_from(&mut [0; 64]).expect("an answer").1.ip(), by);
    (asking, listening)
}

#[test]
fn what_is_held_back_needs_no_sweep() {
    let world = World::with(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
    let (client, of_client) = greeting(&world.client, (&world.web_1, WEB_1), eip(1));
    let (host, of_host) = greeting(&world.host, (&world.web_3, WEB_3), eip(3));
    let (begun, peer) = greeting(&world.web_1, (&world.client, CLIENT), CLIENT);
    world.host.run(|| arm_helper("eip-sweep", usize::MAX, (0, libc::ENOBUFS, When::Before)));
    // One goes to another instance; the other's instance is given what the first had.
    world.apply(&[(eip(1), WEB_3), (eip(3), WEB_2)]);
    for (heard, said, whose) in [
        (&client, &of_client, "the client's"),
        (&host, &of_host, "the host's"),
        (&peer, &begun, "the instance's own, from it"),
        (&begun, &peer, "the instance's own, to it"),
    ] {
        let to = if whose.ends_with("from it") { Some((CLIENT, 7001)) } else { None };
        match to {
            Some(to) => said.send_to(b"after", to),
            None => said.send(b"after"),
        }
        .expect("a route");
        let got = heard.recv_from(&mut [0; 64]);
        assert!(got.is_err(), "{whose}: {got:?}");
    }
    world.host.run(|| disarm_helper("eip-sweep"));
}

#[test]
fn the_old_instance_does_not_speak_as_the_elastic_ip_after_a_move() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let held = world.client.run(|| {
        let socket = UdpSocket::bind((CLIENT, 7000)).expect("a port");
        socket.set_read_timeout(Some(NEVER)).expect("a timeout");
        socket
    });
    // A flow that the client begins, of which the instance will have the last word.
    let old = world.web_1.run(|| UdpSocket::bind((WEB_1, 7001)).expect("a port"));
    held.send_to(b"hello", (eip(1), 7001)).expect("a route");
    let mut buffer = [0; 64];
    let (_, peer) = old.recv_from(&mut buffer).expect("the first datagram");
    old.send_to(b"before", peer).expect("a route");
    assert_eq!(held.recv_from(&mut buffer).expect("an answer").1.ip(), eip(1));
    world.apply(&[(eip(1), WEB_2)]);
    old.send_to(b"after", peer).expect("a route");
    if let Ok((_, from)) = held.recv_from(&mut buffer) {
        assert_ne!(from.ip(), eip(1));
    }
}

#[test]
fn stale_flows_are_deleted_in_the_background_and_others_stay() {
    let world = World::with(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
    let _moved = Running::begin(&world.client, eip(1), "web-1 saw 192.0.2.2");
    let _own = Running::begin(&world.web_1, CLIENT, "client saw 100.64.0.1");
    let mut stays = Running::begin(&world.client, eip(3), "web-3 saw 192.0.2.2");
    world.apply(&[(eip(3), WEB_3)]);
    eventually("no flow with the old elastic IP", SOON, || {
        (!world.host.sh("conntrack -L 2>/dev/null").contains("100.64.0.1")).then_some(())
    });
    let left = world.host.sh("conntrack -L 2>/dev/null");
    assert!(left.contains("dst=100.64.0.3"), "{left}");
    assert_eq!(stays.tcp.ask().expect("an answer"), "web-3 saw 192.0.2.2");
}

#[test]
fn private_connections_of_an_instance_survive_its_attachment_and_its_detachment() {
    let world = World::with(&[]);
    world.filter_bridged_frames(1);
    let mut same = Running::begin(&world.web_1, WEB_2, "web-2 saw 10.0.0.11");
    let mut other = Running::begin(&world.web_1, WEB_3, "web-3 saw 10.0.0.11");
    for targets in [&[(eip(1), WEB_1)][..], &[]] {
        world.apply(targets);
        assert_eq!(same.tcp.ask().expect("an answer"), "web-2 saw 10.0.0.11");
        assert_eq!(other.tcp.ask().expect("an answer"), "web-3 saw 10.0.0.11");
    }
}

#[test]
fn two_elastic_ips_change_places_in_one_transaction() {
    let world = World::with(&[(eip(1), WEB_1), (eip(2), WEB_2)]);
    let applied = world.apply(&[(eip(1), WEB_2), (eip(2), WEB_1)]);
    assert_eq!((applied.attached, applied.detached, applied.replaced), (2, 2, false));
    assert_eq!(ask(&world.client, eip(1)), "web-2 saw 192.0.2.2");
    assert_eq!(ask(&world.client, eip(2)), "web-1 saw 192.0.2.2");
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 100.64.0.2");
}

#[test]
fn a_network_that_is_new_is_inside_from_then_on() {
    let world = World::new();
    let mut state = crate::world::desired(&[(eip(3), WEB_3)]);
    let late = state.networks.pop().expect("br1");
    let early = state.clone();
    world.apply_state(early).expect("an apply");
    state.networks.push(late);
    let applied = world.apply_state(state.clone()).expect("an apply");
    assert!(!applied.replaced);
    assert_eq!(ask(&world.web_1, eip(3)), "web-3 saw 10.0.1.1");
    assert!(world.apply_state(state).expect("an apply").changed_nothing());
    assert_eq!(world.host.sh("cat /proc/sys/net/ipv4/conf/br1/send_redirects").trim(), "0");
}

#[test]
fn an_address_of_the_host_outside_the_pool_changes_no_rule() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let heard = world.commits_during(|| {
        world.host.ip(&["addr add 198.51.100.7/24 dev u0"]);
        assert!(!world.apply(&[(eip(1), WEB_1)]).replaced);
        assert!(world.apply(&[(eip(1), WEB_1)]).changed_nothing());
    });
    assert!(!heard.contains("(host)"), "{heard}");
}

#[test]
fn a_thousand_moves_are_one_transaction_and_touch_no_route() {
    let world = World::new();
    let pairs = |shift: u32| -> Vec<_> {
        let pair = |n: u32| {
            (Ipv4Addr::from_bits(0x6440_1000 + n), Ipv4Addr::from_bits(0x0a00_0100 + (n + shift)))
        };
        (0..1000).map(pair).chain([(eip(1), WEB_1)]).collect()
    };
    assert!(world.apply(&pairs(0)).replaced);
    let heard = world.commits_during(|| {
        // Everyone gets the private address of the next.
        let applied = world.apply(&pairs(1));
        assert_eq!((applied.attached, applied.detached, applied.replaced), (1000, 1000, false));
        assert_eq!((applied.routes_added, applied.routes_removed, applied.announced), (0, 0, 0));
    });
    // The kernel names the thread that commits.
    assert_eq!(heard.matches("(host)").count(), 1, "{}", &heard[heard.len() - 500..]);
    assert!(world.plane(|plane| plane.intact()).expect("an answer"));
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    let applied = world.apply(&[(eip(1), WEB_1)]);
    assert_eq!((applied.detached, applied.routes_removed, applied.replaced), (1000, 1000, false));
}

#[test]
fn what_a_stranger_did_before_a_large_change_is_noticed() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let many: Vec<_> = (0..2000_u32)
        .map(|n| (Ipv4Addr::from_bits(0x6440_1000 + n), Ipv4Addr::from_bits(0x0a00_0100 + n)))
        .chain([(eip(1), WEB_1)])
        .collect();
    world.apply(&many);
    world.host.sh("nft delete element ip eip zd { 100.64.0.1 }");
    // Nobody has looked since, and the next change is one for which nobody listens.
    assert!(world.apply(&[(eip(1), WEB_1)]).replaced);
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

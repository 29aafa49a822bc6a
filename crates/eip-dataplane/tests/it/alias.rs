//! Elastic IPs that are on their instances' own interfaces.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use eip_dataplane::DesiredState;
use eip_model::OrdMap;
use eip_testkit::netns::{Namespace, ask_udp, fetch};

use crate::world::{
    CLIENT, NEVER, SOON, TCP, UDP, WEB_1, WEB_2, WEB_3, World, alias_at, ask, ask_over_tcp,
    desired, eip, hears_nothing,
};

/// Puts an elastic IP on the interface of an instance, and has what it sends carry it.
pub(crate) fn put_on(web: &Namespace, address: Ipv4Addr, gateway: &str) {
    web.ip(&[
        &format!("addr add {address}/32 dev eth0"),
        &format!("route replace default via {gateway} src {address}"),
    ]);
}

fn take_off(web: &Namespace, address: Ipv4Addr, gateway: &str) {
    web.ip(&[
        &format!("route replace default via {gateway}"),
        &format!("addr del {address}/32 dev eth0"),
    ]);
}

/// What is desired with the elastic IP on this instance, and these others rewritten.
fn on(
    web: &Namespace,
    private: Ipv4Addr,
    address: Ipv4Addr,
    others: &[(Ipv4Addr, Ipv4Addr)],
) -> DesiredState {
    let aliases = OrdMap::unit(address, alias_at(web, private));
    DesiredState { aliases, ..desired(others) }
}

/// A world in which an elastic IP is on the first instance.
pub(crate) fn with_alias(others: &[(Ipv4Addr, Ipv4Addr)]) -> (World, DesiredState) {
    let world = World::new();
    let state = on(&world.web_1, WEB_1, eip(1), others);
    put_on(&world.web_1, eip(1), "10.0.0.1");
    assert!(world.apply_state(state.clone()).expect("applied").replaced);
    assert!(world.apply_state(state.clone()).expect("applied").changed_nothing());
    (world, state)
}

#[test]
fn an_alias_is_reached_and_spoken_as_without_being_rewritten() {
    let (world, _) = with_alias(&[]);
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 100.64.0.1");
    let flows = world.host.sh("conntrack -L 2>/dev/null");
    let ours = flows.lines().filter(|flow| flow.contains("100.64.0.1"));
    assert!(ours.clone().count() > 0 && ours.clone().all(|flow| !flow.contains("10.0.0.11")));
    let delay = world.host.sh("cat /proc/sys/net/ipv4/neigh/u0/proxy_delay");
    assert_eq!(delay.trim(), "0", "or answers to ARP take up to 0.8 s");
}

#[test]
fn an_alias_is_reached_by_neighbours_by_the_host_and_by_itself() {
    for bridged_frames_are_filtered in [0, 1] {
        let (world, _) = with_alias(&[]);
        world.filter_bridged_frames(bridged_frames_are_filtered);
        assert_eq!(ask_over_tcp(&world.web_2, eip(1)), "web-1 saw 10.0.0.12");
        assert_eq!(ask_over_tcp(&world.web_3, eip(1)), "web-1 saw 10.0.1.13");
        assert_eq!(ask(&world.host, eip(1)), "web-1 saw 192.0.2.1");
        assert_eq!(ask_over_tcp(&world.web_1, eip(1)), "web-1 saw 100.64.0.1");
        assert_eq!(ask(&world.web_1, WEB_2), "web-2 saw 10.0.0.11", "on its link it is itself");
        assert_eq!(ask(&world.web_1, WEB_3), "web-3 saw 100.64.0.1");
    }
}

#[test]
fn an_alias_and_rewritten_elastic_ips_reach_each_other_as_what_they_are() {
    for bridged_frames_are_filtered in [0, 1] {
        let (world, _) = with_alias(&[(eip(2), WEB_2), (eip(3), WEB_3)]);
        world.filter_bridged_frames(bridged_frames_are_filtered);
        assert_eq!(ask(&world.web_2, eip(1)), "web-1 saw 100.64.0.2");
        assert_eq!(ask(&world.web_3, eip(1)), "web-1 saw 100.64.0.3");
        assert_eq!(ask(&world.web_1, eip(2)), "web-2 saw 100.64.0.1");
        assert_eq!(ask(&world.web_1, eip(3)), "web-3 saw 100.64.0.1");
    }
}

#[test]
fn an_alias_that_the_kernel_refuses_a_route_to_harms_no_other() {
    let (world, mut state) = with_alias(&[(eip(3), WEB_3)]);
    // Its network is not there: no route leads to the private address.
    let nowhere = Ipv4Addr::new(10, 9, 9, 9);
    state.aliases.insert(eip(2), alias_at(&world.web_2, nowhere));
    for _ in 0..2 {
        let applied = world.apply_state(state.clone()).expect("applied");
        assert_eq!(applied.refused.keys().collect::<Vec<_>>(), [&eip(2)], "{applied:?}");
        assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
        assert_eq!(ask(&world.client, eip(3)), "web-3 saw 192.0.2.2");
        assert!(!world.host.sh("ip neigh show proxy").contains("100.64.0.2"));
    }
    // One that was reachable is not left with the way to where it has been.
    state.aliases.insert(eip(2), alias_at(&world.web_2, WEB_2));
    put_on(&world.web_2, eip(2), "10.0.0.1");
    assert!(world.apply_state(state.clone()).expect("applied").refused.is_empty());
    assert_eq!(ask(&world.client, eip(2)), "web-2 saw 192.0.2.2");
    state.aliases.insert(eip(2), alias_at(&world.web_2, nowhere));
    assert_eq!(world.apply_state(state).expect("applied").refused.len(), 1);
    hears_nothing(&world.client, eip(2));
    let left = world.host.sh("ip route show proto 225; ip neigh show proxy");
    assert!(!left.contains("100.64.0.2") && left.contains("100.64.0.1"), "{left}");
}

#[test]
fn nobody_speaks_as_an_alias_but_the_instance_that_has_it() {
    let (world, state) = with_alias(&[]);
    put_on(&world.web_2, eip(1), "10.0.0.1");
    put_on(&world.web_3, eip(1), "10.0.1.1");
    hears_nothing(&world.web_2, CLIENT);
    hears_nothing(&world.web_3, CLIENT);
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 100.64.0.1");
    take_off(&world.web_3, eip(1), "10.0.1.1");

    // After a move the old one is silenced, on the same bridge, though it still has the address.
    let moved = on(&world.web_2, WEB_2, eip(1), &[]);
    let applied = world.apply_state(moved).expect("applied");
    assert_eq!((applied.attached, applied.detached, applied.replaced), (1, 1, false));
    assert_eq!(ask(&world.client, eip(1)), "web-2 saw 192.0.2.2");
    assert_eq!(ask(&world.web_2, CLIENT), "client saw 100.64.0.1");
    hears_nothing(&world.web_1, CLIENT);

    world.apply(&[]);
    hears_nothing(&world.client, eip(1));
    hears_nothing(&world.web_2, CLIENT);
    take_off(&world.web_2, eip(1), "10.0.0.1");
    assert_eq!(ask(&world.web_2, CLIENT), "client saw 192.0.2.1");
    assert_eq!(world.host.sh("ip route show proto 225; ip neigh show proxy"), "");
    world.apply_state(state).expect("applied");
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

#[test]
fn a_running_flow_follows_from_one_mode_to_the_other_and_to_another_instance() {
    let world = World::with(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
    world.host.serve_udp(UDP);
    let flow = world.client.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        socket.connect(SocketAddrV4::new(eip(1), UDP)).expect("a route");
        socket
    });
    let answer = || ask_udp(&flow, SOON).expect("an answer");
    assert_eq!(answer(), "web-1 saw 192.0.2.2");

    put_on(&world.web_1, eip(1), "10.0.0.1");
    let others = [(eip(3), WEB_3)];
    let applied = world.apply_state(on(&world.web_1, WEB_1, eip(1), &others)).expect("applied");
    assert!(!applied.replaced);
    assert_eq!(answer(), "web-1 saw 192.0.2.2");
    put_on(&world.web_2, eip(1), "10.0.0.1");
    world.apply_state(on(&world.web_2, WEB_2, eip(1), &others)).expect("applied");
    assert_eq!(answer(), "web-2 saw 192.0.2.2");
    take_off(&world.web_1, eip(1), "10.0.0.1");
    world.apply(&[(eip(1), WEB_1), others[0]]);
    assert_eq!(answer(), "web-1 saw 192.0.2.2");
    assert_eq!(ask(&world.client, eip(3)), "web-3 saw 192.0.2.2");
    world.apply(&others);
    ask_udp(&flow, NEVER).expect_err("nobody has it any more");
}

#[test]
fn what_others_remove_or_an_earlier_run_left_is_put_right() {
    let (world, state) = with_alias(&[]);
    world.host.sh("ip route del 100.64.0.1; ip neigh del proxy 100.64.0.1 dev u0");
    world.plane(eip_dataplane::DataPlane::distrust_routes);
    let applied = world.apply_state(state.clone()).expect("applied");
    assert_eq!((applied.routes_added, applied.replaced), (1, false));
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");

    world.host.ip(&[
        "route add 100.64.0.9 via 10.0.0.12 metric 225 proto 225",
        "neigh add proxy 100.64.0.9 dev u0 protocol 225",
        "route add 100.64.0.8 via 10.0.0.12",
        "neigh add proxy 100.64.0.8 dev u0",
    ]);
    world.restart();
    world.apply_state(state).expect("applied");
    let left = world.host.sh("ip route; ip neigh show proxy");
    assert!(!left.contains("100.64.0.9"), "ours, and of no use: {left}");
    assert_eq!(left.matches("100.64.0.8").count(), 2, "an administrator's: {left}");
    let fetched = world.client.run(|| fetch(SocketAddrV4::new(eip(1), TCP), SOON));
    assert_eq!(fetched.expect("an answer"), "web-1 saw 192.0.2.2");
}

#[test]
fn firewalls_may_accept_an_alias_by_its_mark() {
    let (world, _) = with_alias(&[(eip(2), WEB_2)]);
    world
        .host
        .sh("nft 'table ip other { chain f { type filter hook forward priority 0; policy drop; \
         ct state established accept; meta mark & 0x10000 == 0x10000 accept; }; }'");
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");

    // Of a flow that nobody has answered yet, every packet.
    let hears = world.web_1.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9191)).expect("a port"));
    hears.set_read_timeout(Some(SOON)).expect("a socket");
    let speaks = world.web_2.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port"));
    for said in [b"one", b"two"] {
        speaks.send_to(said, (eip(1), 9191)).expect("a route");
        let mut heard = [0; 3];
        let (_, from) = hears.recv_from(&mut heard).expect("what was said");
        assert_eq!((&heard, from.ip()), (said, eip(2).into()));
    }
}

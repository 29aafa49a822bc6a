//! What must not get through.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use eip_testkit::netns::{Conversation, Namespace};

use crate::world::{
    CLIENT, HOST, NEVER, SOON, TCP, UDP, WEB_1, World, ask, ask_over_tcp, desired, eip,
    hears_nothing,
};

/// In the pool, and sent to the host by the client's own routing.
const NOBODYS: Ipv4Addr = Ipv4Addr::new(100, 65, 0, 1);

#[test]
fn the_hosts_own_services_never_answer_on_an_address_of_the_pool() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world.host.serve_tcp(TCP);
    world.host.serve_udp(UDP);
    assert_eq!(ask(&world.client, HOST), "host saw 192.0.2.2");
    hears_nothing(&world.client, NOBODYS);
    // Even if the host holds the address: a route that was left, or made by someone.
    world.host.ip(&["route add local 100.65.0.1/32 dev lo"]);
    hears_nothing(&world.client, NOBODYS);
    hears_nothing(&world.web_1, NOBODYS);
}

#[test]
fn an_address_that_nobody_has_is_not_handed_back_to_the_router() {
    let world = World::with(&[(eip(1), WEB_1)]);
    hears_nothing(&world.client, NOBODYS);
    let guard = world.host.sh("nft list chain ip eip fwd_guard");
    let dropped = guard.lines().find(|line| line.contains("fib daddr")).expect("the rule");
    assert!(!dropped.contains("packets 0"), "{dropped}");
    // To what is elsewhere, the host is a router like any.
    world.host.bridge("br9", "172.20.0.1/24");
    world.host.ip(&["route add 100.65.0.0/24 dev br9"]);
    let before = dropped.to_owned();
    hears_nothing(&world.client, NOBODYS);
    assert!(world.host.sh("nft list chain ip eip fwd_guard").contains(&before));
}

#[test]
fn an_instance_cannot_speak_as_an_elastic_ip_by_itself() {
    let world = World::with(&[(eip(1), WEB_1)]);
    // The routing of the host stops one that speaks as an address that is held here; the guard must, too.
    world.host.sh("echo 1 > /proc/sys/net/ipv4/conf/br0/accept_local");
    // The instance knows its gateway: what stops it is no question that nobody answers.
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 100.64.0.1");
    for spoofed in [eip(1), eip(2)] {
        world.web_1.ip(&[&format!("addr add {spoofed}/32 dev eth0")]);
        let asked = world.web_1.run(move || {
            let socket = UdpSocket::bind((spoofed, 0)).expect("an address of its own");
            socket.connect(SocketAddrV4::new(CLIENT, UDP)).expect("a route");
            eip_testkit::netns::ask_udp(&socket, NEVER)
        });
        assert!(asked.is_err(), "{asked:?}");
    }
    let dropped = world.host.sh("nft list chain ip eip speaks");
    assert!(dropped.contains("counter packets 2"), "{dropped}");
}

#[test]
fn nobody_answers_in_place_of_an_elastic_ip_in_a_flow_that_an_instance_began() {
    const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(100, 64, 9, 9);
    let world = World::with(&[(eip(1), WEB_1)]);
    let socket = |web: &Namespace, address: Ipv4Addr| {
        let socket =
            web.run(move || UdpSocket::bind((address, 7000)).expect("an address of its own"));
        socket.set_read_timeout(Some(NEVER)).expect("a timeout");
        socket
    };
    let asking = socket(&world.web_1, WEB_1);
    world.web_2.ip(&[&format!("addr add {ELSEWHERE}/32 dev eth0")]);
    let forging = socket(&world.web_2, ELSEWHERE);
    for round in ["the first answer", "another"] {
        asking.send_to(b"hello", (ELSEWHERE, 7000)).expect("a route");
        forging.send_to(b"forged", (eip(1), 7000)).expect("a route");
        let heard = asking.recv_from(&mut [0; 64]);
        assert!(heard.is_err(), "{round}: {heard:?}");
    }
    // Who is really there is heard.
    world.client.ip(&[&format!("addr add {ELSEWHERE}/32 dev eth0")]);
    let real = socket(&world.client, ELSEWHERE);
    asking.send_to(b"hello", (ELSEWHERE, 7000)).expect("a route");
    real.send_to(b"real", (eip(1), 7000)).expect("a route");
    assert_eq!(asking.recv_from(&mut [0; 64]).expect("an answer").0, 4);
}

#[test]
fn the_host_does_not_reset_a_connection_that_conntrack_makes_nothing_of() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let mut talking = world
        .client
        .run(|| Conversation::open(SocketAddrV4::new(eip(1), TCP), SOON).expect("a connection"));
    talking.ask().expect("an answer");
    // From here on a connection has to be seen from its beginning.
    world.host.sh("echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose");
    world.host.sh("conntrack -F 2>/dev/null");
    talking.wait_at_most(NEVER);
    let heard = talking.ask().expect_err("nobody is there");
    assert_ne!(heard.kind(), std::io::ErrorKind::ConnectionReset, "{heard}");
}

#[test]
fn what_is_spoofed_is_dropped_whatever_the_ranges_become() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let spoofed = Ipv4Addr::new(198, 18, 0, 1);
    world.web_1.ip(&[&format!("addr add {spoofed}/32 dev eth0")]);
    let speaks = |from: Ipv4Addr| {
        world.web_1.run(move || {
            let socket = UdpSocket::bind((from, 0)).expect("an address of its own");
            socket.send_to(b"here", SocketAddrV4::new(CLIENT, UDP)).expect("a route");
        });
    };
    let dropped = || {
        let rules = world.host.sh("nft list chain ip eip speaks");
        let count = rules.split("counter packets ").nth(1).expect("a counter");
        count.split(' ').next().expect("a number").parse::<u64>().expect("a number")
    };
    speaks(spoofed);
    assert_eq!(dropped(), 0, "it is in no range");
    let mut state = desired(&[(eip(1), WEB_1)]);
    for more in ["100.128.0.0/24", "198.18.0.0/24"] {
        state.ranges.push(more.parse().expect("a range"));
        // Rules never change: it is a matter of elements.
        assert!(!world.apply_state(state.clone()).expect("an apply").replaced, "{more}");
    }
    speaks(spoofed);
    assert_eq!(dropped(), 1);
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 100.64.0.1");
}

#[test]
fn an_address_of_the_pool_that_is_the_hosts_own_stays_the_hosts() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world.host.ip(&["addr add 100.65.0.9/32 dev u0"]);
    world.host.serve_tcp(TCP);
    world.host.serve_udp(UDP);
    assert!(!world.apply(&[(eip(1), WEB_1)]).replaced);
    assert_eq!(ask_over_tcp(&world.client, Ipv4Addr::new(100, 65, 0, 9)), "host saw 192.0.2.2");
    hears_nothing(&world.client, NOBODYS);
    world.host.ip(&["addr del 100.65.0.9/32 dev u0"]);
    world.apply(&[(eip(1), WEB_1)]);
    assert_eq!(world.elements("pool"), r#"[{"prefix":{"addr":"100.64.0.0","len":10}}]"#);
}

#[test]
fn two_elastic_ips_for_one_instance_are_refused_and_change_nothing() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let refused = world.apply_state(desired(&[(eip(1), WEB_1), (eip(2), WEB_1)]));
    let said = refused.expect_err("a refusal").to_string();
    assert_eq!(said, "100.64.0.1 and 100.64.0.2 cannot share the private address 10.0.0.11");
    assert!(world.apply(&[(eip(1), WEB_1)]).changed_nothing());
}

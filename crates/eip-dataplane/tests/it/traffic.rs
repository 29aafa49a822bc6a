//! Who reaches whom, and as whom.

use std::net::Ipv4Addr;

use eip_testkit::eventually;
use eip_testkit::netns::{Namespace, link};

use crate::world::{
    CLIENT, HOST, SOON, TCP, UDP, WEB_1, WEB_2, WEB_3, World, ask, ask_over_tcp, eip,
};

#[test]
fn what_comes_in_reaches_the_instance_and_what_goes_out_carries_the_elastic_ip() {
    let world = World::with(&[(eip(1), WEB_1), (eip(2), WEB_2), (eip(3), WEB_3)]);
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    assert_eq!(ask(&world.client, eip(2)), "web-2 saw 192.0.2.2");
    assert_eq!(ask(&world.client, eip(3)), "web-3 saw 192.0.2.2");
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 100.64.0.1");
    assert_eq!(ask(&world.web_3, CLIENT), "client saw 100.64.0.3");
}

#[test]
fn an_instance_without_an_elastic_ip_goes_out_as_the_host() {
    let world = World::with(&[(eip(1), WEB_1)]);
    assert_eq!(ask(&world.web_2, CLIENT), "client saw 192.0.2.1");
}

#[test]
fn neighbours_reach_each_others_elastic_ips_on_the_same_bridge_and_on_another() {
    for bridged_frames_are_filtered in [0, 1] {
        let world = World::with(&[(eip(1), WEB_1), (eip(2), WEB_2), (eip(3), WEB_3)]);
        world.filter_bridged_frames(bridged_frames_are_filtered);
        assert_eq!(ask(&world.web_1, eip(2)), "web-2 saw 100.64.0.1");
        assert_eq!(ask(&world.web_1, eip(3)), "web-3 saw 100.64.0.1");
        assert_eq!(ask(&world.web_3, eip(1)), "web-1 saw 100.64.0.3");
    }
}

#[test]
fn an_instance_reaches_its_own_elastic_ip() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world.filter_bridged_frames(0);
    assert_eq!(ask(&world.web_1, eip(1)), "web-1 saw 100.64.0.1");
}

#[test]
fn an_instance_reaches_itself_where_bridged_frames_are_filtered_and_its_port_is_given_back() {
    let world = World::new();
    world.filter_bridged_frames(1);
    let hairpin = |port: &str| world.host.sh(&format!("bridge -d link show dev {port}"));
    let on = |port: &str| hairpin(port).contains("hairpin on");
    world.host.sh("bridge link set dev v-web-2 hairpin on");
    world.apply(&[(eip(1), WEB_1), (eip(2), WEB_2)]);
    // The bridge has to have heard of it.
    ask(&world.web_1, CLIENT);
    ask(&world.web_2, CLIENT);
    eventually("the port to be in hairpin mode", SOON, || on("v-web-1").then_some(()));
    assert_eq!(ask(&world.web_1, eip(1)), "web-1 saw 100.64.0.1");
    assert_eq!(ask(&world.web_2, eip(2)), "web-2 saw 100.64.0.2");
    assert!(!on("v-web-3"), "nobody asked for it");
    world.apply(&[(eip(2), WEB_2)]);
    eventually("the port to be as it was", SOON, || (!on("v-web-1")).then_some(()));
    world.apply(&[]);
    world.apply(&[(eip(3), WEB_3)]);
    ask(&world.web_3, CLIENT);
    eventually("the port to be in hairpin mode", SOON, || on("v-web-3").then_some(()));
    assert!(on("v-web-2"), "what somebody else has set is theirs");
}

#[test]
fn ping_path_mtu_and_traceroute_work_through_an_elastic_ip() {
    let world = World::with(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
    for from in [&world.client, &world.host, &world.web_2, &world.web_3] {
        from.sh("ping -q -c 1 -W 5 100.64.0.1");
    }
    // A hop of 1,300 bytes beyond the client: whoever is behind it is reached all the same.
    let far = Namespace::new("far");
    link(&world.client, &far, "narrow", "eth0");
    world.client.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    world.client.ip(&["addr add 198.51.100.1/24 dev narrow", "link set narrow mtu 1300"]);
    far.ip(&[
        "addr add 198.51.100.2/24 dev eth0",
        "link set eth0 mtu 1300",
        "route add default via 198.51.100.1",
    ]);
    world.host.ip(&["route replace default via 192.0.2.2"]);
    far.serve_tcp(TCP);
    far.serve_udp(UDP);
    let refused = world.web_1.try_sh("ping -c 1 -W 5 -M do -s 1400 198.51.100.2");
    assert!(refused.1.contains("mtu = 1300") || refused.1.contains("mtu=1300"), "{}", refused.1);
    assert_eq!(ask(&world.web_1, Ipv4Addr::new(198, 51, 100, 2)), "far saw 100.64.0.1");
    // And the other way round: it is the instance's network that is narrow.
    world.web_1.ip(&["link set eth0 mtu 1300"]);
    world.host.ip(&["route add 10.0.0.11/32 dev br0 mtu lock 1300"]);
    let refused = world.client.try_sh("ping -c 1 -W 5 -M do -s 1400 100.64.0.1");
    assert!(refused.1.contains("mtu = 1300") || refused.1.contains("mtu=1300"), "{}", refused.1);
    world.host.ip(&["route del 10.0.0.11/32 dev br0"]);
    // What traceroute lives on: a packet whose time is over is told of, on both sides.
    let inside = world.web_1.try_sh("ping -c 1 -W 5 -t 1 192.0.2.2").1;
    assert!(inside.contains("From 10.0.0.1") && inside.contains("exceeded"), "{inside}");
    let outside = world.client.try_sh("ping -c 1 -W 5 -t 1 100.64.0.1").1;
    assert!(outside.contains("exceeded"), "{outside}");
    let refused = world.client.try_sh("ping -c 1 -W 5 100.64.0.3");
    assert!(refused.0, "{}", refused.1);
}

#[test]
fn a_neighbour_without_an_elastic_ip_reaches_one_through_the_host() {
    for bridged_frames_are_filtered in [0, 1] {
        let world = World::with(&[(eip(1), WEB_1)]);
        world.filter_bridged_frames(bridged_frames_are_filtered);
        assert_eq!(ask(&world.web_2, eip(1)), "web-1 saw 10.0.0.1");
        assert_eq!(ask(&world.web_3, eip(1)), "web-1 saw 10.0.0.1");
    }
}

#[test]
fn the_host_reaches_elastic_ips_as_itself() {
    let world = World::with(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
    assert_eq!(ask(&world.host, eip(1)), "web-1 saw 192.0.2.1");
    assert_eq!(ask(&world.host, eip(3)), "web-3 saw 192.0.2.1");
    assert!(world.routes().contains("local 100.64.0.1 dev lo scope host src 192.0.2.1"));
}

#[test]
fn private_traffic_stays_as_it_is() {
    for bridged_frames_are_filtered in [0, 1] {
        let world = World::with(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
        world.filter_bridged_frames(bridged_frames_are_filtered);
        assert_eq!(ask(&world.web_1, WEB_2), "web-2 saw 10.0.0.11");
        assert_eq!(ask(&world.web_2, WEB_1), "web-1 saw 10.0.0.12");
        assert_eq!(ask(&world.web_1, WEB_3), "web-3 saw 10.0.0.11");
        assert_eq!(ask(&world.host, WEB_1), "web-1 saw 10.0.0.1");
    }
}

#[test]
fn a_port_that_the_host_publishes_for_an_instance_goes_on_working() {
    let world = World::with(&[(eip(1), WEB_1)]);
    // As `docker run -p 8080:8080 -p 9090:9090/udp` does it.
    world.host.sh("nft 'table ip docker { chain p { type nat hook prerouting priority dstnat; \
         ip daddr 192.0.2.1 tcp dport 8080 dnat to 10.0.0.11; \
         ip daddr 192.0.2.1 udp dport 9090 dnat to 10.0.0.11; }; }'");
    assert_eq!(ask(&world.client, HOST), "web-1 saw 192.0.2.2");
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

#[test]
fn a_masquerade_of_others_hides_neither_elastic_ips_nor_clients() {
    let world = World::with(&[(eip(1), WEB_1)]);
    // A network whose interface is not among ours, masqueraded wherever it goes.
    let other = Namespace::new("other");
    world.host.bridge("br9", "172.20.0.1/24");
    link(&world.host, &other, "v-other", "eth0");
    world.host.ip(&["link set v-other master br9"]);
    other.ip(&["addr add 172.20.0.5/24 dev eth0", "route add default via 172.20.0.1"]);
    other.serve_tcp(TCP);
    other.serve_udp(UDP);
    world.host.sh("nft 'table ip docker { chain p { type nat hook postrouting priority srcnat; \
         ip saddr 172.20.0.0/24 oifname != \"br9\" masquerade; \
         ip saddr 10.0.0.0/24 oifname != \"br0\" masquerade; }; }'");
    assert_eq!(ask(&other, eip(1)), "web-1 saw 172.20.0.5");
    assert_eq!(ask(&world.web_1, Ipv4Addr::new(172, 20, 0, 5)), "other saw 100.64.0.1");
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 100.64.0.1");
}

#[test]
fn elastic_ips_of_other_hosts_are_reached_as_an_elastic_ip_and_reach_ours() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world.client.ip(&["addr add 100.64.7.7/32 dev lo"]);
    assert_eq!(ask_over_tcp(&world.web_1, Ipv4Addr::new(100, 64, 7, 7)), "client saw 100.64.0.1");
    world.client.ip(&["route replace 100.64.0.0/16 dev eth0 src 100.64.7.7"]);
    world.host.ip(&["route add 100.64.7.7/32 via 192.0.2.2"]);
    assert_eq!(ask_over_tcp(&world.client, eip(1)), "web-1 saw 100.64.7.7");
}

#[test]
fn what_was_sent_to_an_elastic_ip_carries_the_mark_that_firewalls_may_accept_by() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world
        .host
        .sh("nft 'table ip other { chain f { type filter hook forward priority 0; policy drop; \
         ct state established accept; meta mark & 0x10000 == 0x10000 accept; }; }'");
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

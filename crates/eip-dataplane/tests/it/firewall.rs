//! Docker's firewall, as Docker sets it up where it is the one to turn forwarding on.

use eip_dataplane::firewall::{Accept, Through, ensure_docker_accept};
use eip_model::{LocalNetwork, OrdMap};

use crate::world::{
    CLIENT, NEVER, SOON, TCP, WEB_1, WEB_3, World, alias_at, ask, ask_over_tcp, desired, eip,
};
use eip_dataplane::DesiredState;
use eip_testkit::netns::fetch;
use std::net::SocketAddrV4;

const AS_DOCKER: &str = "iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; \
     iptables -P FORWARD DROP; iptables -A FORWARD -j DOCKER-USER; \
     iptables -A FORWARD -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; \
     iptables -A FORWARD -i br0 ! -o br0 -j ACCEPT";

fn ensure(world: &World, foreign: &[&str]) -> Accept {
    ensure_that(world, foreign, Through::Rewritten)
}

fn ensure_that(world: &World, foreign: &[&str], through: Through) -> Accept {
    let state = desired(&[]);
    let foreign: Vec<LocalNetwork> =
        state.networks.into_iter().filter(|n| foreign.contains(&n.interface.as_str())).collect();
    world
        .host
        .run(move || ensure_docker_accept(&state.ranges, &foreign, through))
        .expect("iptables does as it is told")
}

#[test]
fn without_docker_there_is_nothing_to_do() {
    let world = World::with(&[(eip(1), WEB_1)]);
    assert_eq!(ensure(&world, &["br1"]), Accept::NotNeeded);
    assert_eq!(
        world.host.sh("iptables -S"),
        "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n"
    );
}

#[test]
fn docker_lets_through_what_is_sent_to_elastic_ips_and_nothing_more() {
    let world = World::with(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
    world.host.sh(AS_DOCKER);
    let get = |address| world.client.run(move || fetch(SocketAddrV4::new(address, TCP), NEVER));
    assert!(get(eip(1)).is_err());
    assert_eq!(ensure(&world, &["br1"]), Accept::Inserted(3));
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    assert_eq!(ask(&world.client, eip(3)), "web-3 saw 192.0.2.2");
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 100.64.0.1");
    assert_eq!(ask(&world.web_3, CLIENT), "client saw 100.64.0.3");
    // By its private address an instance is as unreachable as it was.
    world.client.ip(&["route add 10.0.0.0/16 via 192.0.2.1"]);
    assert!(get(WEB_1).is_err());
}

#[test]
fn the_rules_are_put_in_once_and_found_again_when_someone_removed_them() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world.host.sh(AS_DOCKER);
    assert_eq!(ensure(&world, &[]), Accept::Inserted(1));
    let rules = world.host.sh("iptables -S DOCKER-USER");
    assert_eq!(ensure(&world, &[]), Accept::AlreadyThere);
    assert_eq!(world.host.sh("iptables -S DOCKER-USER"), rules);
    let head = rules.lines().nth(1).expect("a rule");
    assert!(head.contains("--ctorigdst 100.64.0.0/10") && head.contains("--comment eip"), "{head}");
    world.host.sh("iptables -F DOCKER-USER");
    assert_eq!(ensure(&world, &[]), Accept::Inserted(1));
    let again = world.client.run(|| fetch(SocketAddrV4::new(eip(1), TCP), SOON));
    assert_eq!(again.expect("an answer"), "web-1 saw 192.0.2.2");
}

#[test]
fn an_alias_passes_dockers_firewall_and_its_accepts_go_with_it() {
    let world = World::new();
    world.host.sh(AS_DOCKER);
    // Docker keeps its bridges apart.
    world.host.sh("iptables -N ISOLATED; iptables -A ISOLATED -i br0 -o br1 -j DROP; \
         iptables -A ISOLATED -i br1 -o br0 -j DROP; iptables -I FORWARD 2 -j ISOLATED; \
         iptables -A FORWARD -i br1 ! -o br1 -j ACCEPT");
    world.web_1.ip(&[
        "addr add 100.64.0.1/32 dev eth0",
        "route replace default via 10.0.0.1 src 100.64.0.1",
    ]);
    let aliases = OrdMap::unit(eip(1), alias_at(&world.web_1, WEB_1));
    world.apply_state(DesiredState { aliases, ..desired(&[]) }).expect("applied");
    let get = |address| world.client.run(move || fetch(SocketAddrV4::new(address, TCP), NEVER));
    ensure(&world, &[]);
    assert!(get(eip(1)).is_err());
    assert_eq!(ensure_that(&world, &[], Through::AliasesToo), Accept::Inserted(2));
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 100.64.0.1");
    assert_eq!(ask_over_tcp(&world.web_3, eip(1)), "web-1 saw 10.0.1.13");
    let spoofed = world.web_1.run(|| fetch(SocketAddrV4::new(WEB_3, TCP), NEVER));
    assert!(spoofed.is_err(), "an alias opens no way to instances without one: {spoofed:?}");
    assert_eq!(ensure(&world, &[]), Accept::AlreadyThere);
    let rules = world.host.sh("iptables -S DOCKER-USER");
    assert_eq!(rules.matches("--comment eip").count(), 1, "{rules}");
}

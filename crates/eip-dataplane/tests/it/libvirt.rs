//! libvirt's networks and its firewall, as a real libvirt sets them up. On its bridges are
//! namespaces; the end-to-end tests have virtual machines there.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use eip_dataplane::firewall::{Accept, Doubts, Through, ensure_libvirt_accept};
use eip_dataplane::{DataPlane, DesiredState};
use eip_model::{AliasTarget, LocalNetwork, OrdMap, Speaker};
use eip_testkit::machine::Machine;
use eip_testkit::netns::{Namespace, fetch, link};
use eip_testkit::vm::Libvirt;

use crate::world::{CLIENT, NEVER, TCP, UDP, alias_at, ask, ask_over_tcp, eip, mac_of};

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 11);
const PLAIN: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 12);

/// client -- host(libvirt: virbr7: guest, plain). The guest has an elastic IP.
struct Scene<'m> {
    machine: &'m Machine,
    client: Namespace,
    host: Namespace,
    guest: Namespace,
    plain: Namespace,
    state: DesiredState,
    plane: Arc<Mutex<DataPlane>>,
    doubts: Arc<Mutex<Doubts>>,
}

impl<'m> Scene<'m> {
    fn on(network: &str, machine: &'m Machine) -> (Self, Libvirt<'m>) {
        let libvirt = Libvirt::start(machine);
        libvirt.network(&format!(
            "<network><name>seven</name>{network}<bridge name='virbr7' stp='off' delay='0'/>
             <ip address='10.7.0.1' netmask='255.255.255.0'/></network>"
        ));
        let (client, host) = (Namespace::new("client"), Namespace::of("host", machine));
        link(&client, &host, "eth0", "u0");
        client.ip(&[
            "addr add 192.0.2.2/24 dev eth0",
            "route add 100.64.0.0/16 dev eth0",
            "route add 10.7.0.0/24 via 192.0.2.1",
        ]);
        host.ip(&["addr add 192.0.2.1/24 dev u0", "route add default via 192.0.2.2"]);
        let [guest, plain] = [("guest", GUEST), ("plain", PLAIN)].map(|(name, address)| {
            let guest = Namespace::new(name);
            link(&host, &guest, &format!("v-{name}"), "eth0");
            guest.ip(&[
                &format!("addr add {address}/24 dev eth0"),
                "route add default via 10.7.0.1",
            ]);
            guest.serve_tcp(TCP);
            guest.serve_udp(UDP);
            guest
        });
        client.serve_tcp(TCP);
        client.serve_udp(UDP);
        let subnet = "10.7.0.0/24".parse().expect("a subnet");
        let state = DesiredState {
            ranges: vec!["100.64.0.0/10".parse().expect("a range")],
            networks: vec![LocalNetwork {
                routed: network.contains("route"),
                ..LocalNetwork::new("virbr7", subnet)
            }],
            targets: OrdMap::unit(eip(1), GUEST),
            aliases: OrdMap::new(),
        };
        let plane = Arc::new(Mutex::new(host.run(|| DataPlane::open().expect("a data plane"))));
        let doubts = Arc::default();
        let scene = Self { machine, client, host, guest, plain, state, plane, doubts };
        scene.plug_in();
        scene.apply();
        (scene, libvirt)
    }

    fn plug_in(&self) {
        self.host.ip(&["link set v-guest master virbr7", "link set v-plain master virbr7"]);
    }

    fn apply(&self) {
        let (plane, state) = (Arc::clone(&self.plane), self.state.clone());
        self.host
            .run(move || plane.lock().expect("no test panics in here").apply(&state))
            .expect("an apply that succeeds");
    }

    fn ensure(&self) -> Accept {
        self.ensure_that(Through::Rewritten)
    }

    fn ensure_that(&self, through: Through) -> Accept {
        let DesiredState { ranges, networks, .. } = self.state.clone();
        let doubts = Arc::clone(&self.doubts);
        self.host
            .run(move || {
                let mut doubts = doubts.lock().expect("no test panics in here");
                ensure_libvirt_accept(&ranges, &networks, through, &mut doubts)
            })
            .expect("iptables does as it is told")
    }

    fn refused(&self, address: Ipv4Addr) -> bool {
        self.client.run(move || fetch(SocketAddrV4::new(address, TCP), NEVER)).is_err()
    }

    /// The rules of `FORWARD`, one a line.
    fn forward(&self) -> String {
        let rules = self.machine.sh("iptables -S FORWARD");
        rules
            .lines()
            .skip(1)
            .map(|rule| format!("{}\n", rule.trim_start_matches("-A FORWARD ")))
            .collect()
    }
}

const NAT: &str = "<forward mode='nat'/>";
const OURS: &str = "-o virbr7 -m conntrack --ctstate DNAT --ctorigdst 100.64.0.0/10 \
     -m comment --comment eip -j ACCEPT\n";
const THEIRS: &str = "-j LIBVIRT_FWX\n-j LIBVIRT_FWI\n-j LIBVIRT_FWO\n";

#[test]
fn libvirts_nat_networks_let_through_what_is_sent_to_elastic_ips_and_nothing_more() {
    let machine = Machine::start();
    let (scene, _libvirt) = Scene::on(NAT, &machine);
    let before = machine.sh("iptables-save");
    assert!(scene.refused(eip(1)), "or there is nothing to do");
    assert_eq!(scene.ensure(), Accept::Inserted(1));
    assert_eq!(ask(&scene.client, eip(1)), "guest saw 192.0.2.2");
    assert_eq!(ask(&scene.guest, CLIENT), "client saw 100.64.0.1", "ahead of libvirt's masquerade");
    assert_eq!(ask(&scene.plain, CLIENT), "client saw 192.0.2.1", "which the others have");
    assert_eq!(ask(&scene.plain, eip(1)), "guest saw 10.7.0.1");
    assert!(scene.refused(GUEST), "by its private address it is as unreachable as it was");
    assert_eq!(scene.ensure(), Accept::AlreadyThere);
    let words =
        |text: &str| text.lines().filter(|l| l.starts_with('-')).map(str::to_owned).collect();
    let (before, after): (Vec<String>, Vec<String>) =
        (words(&before), words(&machine.sh("iptables-save")));
    let foreign: Vec<_> =
        after.into_iter().filter(|rule| !rule.contains("--comment eip")).collect();
    assert_eq!(foreign, before, "libvirt's own rules stay as they are");
}

#[test]
fn a_routed_network_has_elastic_ips_and_stays_routed() {
    let machine = Machine::start();
    let (scene, _libvirt) = Scene::on("<forward mode='route'/>", &machine);
    scene.ensure();
    assert_eq!(ask(&scene.client, eip(1)), "guest saw 192.0.2.2");
    assert_eq!(ask(&scene.guest, CLIENT), "client saw 100.64.0.1");
    assert_eq!(ask(&scene.plain, CLIENT), "client saw 10.7.0.12", "nobody hides the others");
    assert_eq!(ask(&scene.client, PLAIN), "plain saw 192.0.2.2");
    assert_eq!(ask(&scene.plain, eip(1)), "guest saw 10.7.0.1");
}

#[test]
fn a_network_that_libvirt_leaves_open_has_elastic_ips_too() {
    let machine = Machine::start();
    let (scene, _libvirt) = Scene::on("<forward mode='open'/>", &machine);
    assert_eq!(scene.ensure(), Accept::NotNeeded);
    assert_eq!(ask(&scene.client, eip(1)), "guest saw 192.0.2.2");
    assert_eq!(ask(&scene.guest, CLIENT), "client saw 100.64.0.1");
}

#[test]
fn the_accept_is_ahead_of_libvirts_jumps_whatever_others_do() {
    let machine = Machine::start();
    let (scene, mut libvirt) = Scene::on(NAT, &machine);
    machine.sh("iptables -I FORWARD -s 203.0.113.0/24 -j DROP");
    assert_eq!(scene.ensure(), Accept::Inserted(1));
    let administrators = "-s 203.0.113.0/24 -j DROP\n";
    assert_eq!(scene.forward(), format!("{administrators}{OURS}{THEIRS}"), "behind what was ahead");

    libvirt.virsh("net-destroy seven");
    libvirt.virsh("net-start seven");
    scene.plug_in();
    libvirt.kill();
    libvirt.resume();
    assert_eq!(scene.ensure(), Accept::AlreadyThere);
    assert_eq!(scene.forward(), format!("{administrators}{OURS}{THEIRS}"));

    machine.sh("iptables -D FORWARD -j LIBVIRT_FWI; iptables -I FORWARD -j LIBVIRT_FWI");
    assert!(scene.refused(eip(1)));
    assert_eq!(scene.ensure(), Accept::Inserted(1));
    assert_eq!(
        scene.forward(),
        format!("{OURS}-j LIBVIRT_FWI\n{administrators}-j LIBVIRT_FWX\n-j LIBVIRT_FWO\n")
    );
    machine.sh("iptables -F FORWARD");
    libvirt.kill();
    libvirt.resume();
    assert_eq!(scene.ensure(), Accept::Inserted(1));
    assert_eq!(scene.forward(), format!("{OURS}{THEIRS}"));
    assert_eq!(ask(&scene.client, eip(1)), "guest saw 192.0.2.2");
}

#[test]
fn what_is_for_nobody_any_more_is_taken_away() {
    let machine = Machine::start();
    let (mut scene, _libvirt) = Scene::on(NAT, &machine);
    assert_eq!(scene.ensure(), Accept::Inserted(1));
    scene.state.networks.clear();
    assert_eq!(scene.ensure(), Accept::NotNeeded);
    assert_eq!(scene.forward(), format!("{OURS}{THEIRS}"), "one look may be at a bad moment");
    assert_eq!(scene.ensure(), Accept::NotNeeded);
    assert_eq!(scene.forward(), THEIRS);
}

#[test]
fn the_accept_stays_while_libvirt_has_its_own_rules_out_for_a_moment() {
    let machine = Machine::start();
    let (scene, mut libvirt) = Scene::on(NAT, &machine);
    assert_eq!(scene.ensure(), Accept::Inserted(1));
    for round in 0..2 {
        libvirt.kill();
        machine.sh("iptables -F LIBVIRT_FWI");
        assert_eq!(scene.ensure(), Accept::NotNeeded, "round {round}");
        libvirt.resume();
        assert_eq!(scene.forward(), format!("{OURS}{THEIRS}"), "round {round}");
        assert_eq!(ask(&scene.client, eip(1)), "guest saw 192.0.2.2");
        assert_eq!(scene.ensure(), Accept::AlreadyThere, "round {round}");
    }
}

#[test]
fn an_alias_passes_libvirts_firewall_both_ways_and_its_accepts_go_with_it() {
    let machine = Machine::start();
    let (mut scene, libvirt) = Scene::on(NAT, &machine);
    libvirt.network(&format!(
        "<network><name>eight</name>{NAT}<bridge name='virbr8' stp='off' delay='0'/>
         <ip address='10.8.0.1' netmask='255.255.255.0'/></network>"
    ));
    let stranger = Namespace::new("stranger");
    link(&scene.host, &stranger, "v-stranger", "eth0");
    scene.host.ip(&["link set v-stranger master virbr8"]);
    stranger.ip(&["addr add 10.8.0.11/24 dev eth0", "route add default via 10.8.0.1"]);
    stranger.serve_tcp(TCP);
    assert_eq!(scene.ensure(), Accept::Inserted(1));
    let alias = AliasTarget {
        speakers: [Speaker { interface: "virbr7".to_owned(), mac: mac_of(&scene.guest) }].into(),
        ..alias_at(&scene.guest, GUEST)
    };
    scene.state.targets.clear();
    scene.state.aliases.insert(eip(1), alias);
    scene.guest.ip(&[
        "addr add 100.64.0.1/32 dev eth0",
        "route replace default via 10.7.0.1 src 100.64.0.1",
    ]);
    scene.apply();
    assert!(scene.refused(eip(1)), "or there is nothing to do");
    assert_eq!(scene.ensure_that(Through::AliasesToo), Accept::Inserted(2));
    assert_eq!(scene.ensure_that(Through::AliasesToo), Accept::AlreadyThere);
    assert_eq!(ask(&scene.client, eip(1)), "guest saw 192.0.2.2");
    assert_eq!(ask(&scene.guest, CLIENT), "client saw 100.64.0.1", "no masquerade matches it");
    assert_eq!(ask_over_tcp(&scene.plain, eip(1)), "guest saw 10.7.0.1", "by libvirt's masquerade");
    assert!(scene.refused(GUEST), "by its private address it is as unreachable as it was");
    let neighbour = SocketAddrV4::new(Ipv4Addr::new(10, 8, 0, 11), TCP);
    let reached = scene.guest.run(move || fetch(neighbour, NEVER));
    assert!(reached.is_err(), "an alias opens no other network: {reached:?}");
    for _ in 0..2 {
        assert_eq!(scene.ensure(), Accept::AlreadyThere);
    }
    assert_eq!(scene.forward(), format!("{OURS}{THEIRS}"));
}

//! Where a machine's private address comes from: real networks of libvirt's, with a real DHCP
//! server, and guests that are a network namespace with the hardware address of a machine.

use std::net::Ipv4Addr;

use eip_model::{AddressSource, Backend, InstanceReport, InstanceState, LocalNetwork, Unusable};

use crate::follow::{A_MOMENT, AT_ONCE, Followed, SOON};
use crate::libvirtd::Libvirtd;

const QEMU: &str = "qemu:///system";

const LEASES: &str =
    "<network><name>front</name><forward mode='nat'/><bridge name='virbr7' stp='off' delay='0'/>
    <ip address='192.168.77.1' netmask='255.255.255.0'>
      <dhcp><range start='192.168.77.10' end='192.168.77.99'/></dhcp></ip></network>";
const STATIC: &str =
    "<network><name>back</name><forward mode='open'/><bridge name='virbr8' stp='off' delay='0'/>
    <ip address='192.168.78.1' prefix='24'/></network>";

fn machine(name: &str, number: u32, interfaces: &str, wishes: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name>
           <uuid>00000000-0000-4000-8000-{number:012}</uuid><memory unit='MiB'>32</memory>
           <metadata><eip:instance xmlns:eip='urn:eip:instance' {wishes}/></metadata>
           <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
           <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{interfaces}</devices></domain>"
    )
}

fn plug(mac: u32, source: &str) -> String {
    let kind = source.split('=').next().expect("a source like network='front'");
    format!(
        "<interface type='{kind}'><mac address='{}'/><source {source}/><model type='virtio'/>
           </interface>",
        hardware(mac)
    )
}

fn hardware(mac: u32) -> String {
    format!("52:54:00:00:07:{mac:02x}")
}

struct World {
    libvirtd: Libvirtd,
    followed: Followed,
}

impl World {
    fn new(networks: &[&str]) -> Self {
        let libvirtd = Libvirtd::start();
        for (number, network) in networks.iter().enumerate() {
            let file = libvirtd.file(&format!("network-{number}.xml"), network);
            libvirtd.virsh(QEMU, &format!("net-create {file}"));
        }
        let followed = Followed::start_in(&libvirtd.uri(QEMU), Some(&libvirtd.namespace()));
        followed.until("a first list", SOON, |_| Some(()));
        Self { libvirtd, followed }
    }

    fn machine(&self, name: &str, number: u32, interfaces: &str, wishes: &str) {
        let text = machine(name, number, interfaces, wishes);
        let file = self.libvirtd.file(&format!("{name}.xml"), &text);
        self.libvirtd.virsh(QEMU, &format!("create {file}"));
        self.followed.until_state(name, InstanceState::Running);
    }

    /// Plugs a namespace into a bridge as if it were the guest with that hardware address.
    fn guest(&self, name: &str, mac: u32, bridge: &str) {
        self.libvirtd.machine.sh(&format!(
            "ip netns add {name} && ip link add to-{name} type veth peer name eth0 netns {name} &&
             ip -n {name} link set eth0 address {} && ip -n {name} link set eth0 up &&
             ip link set to-{name} master {bridge} up",
            hardware(mac)
        ));
    }

    fn in_guest(&self, name: &str, line: &str) -> String {
        self.libvirtd.machine.sh(&format!("ip netns exec {name} {line}"))
    }

    /// Has a guest ask for an address by DHCP, and returns what it got.
    fn lease(&self, name: &str, wish: &str) -> Ipv4Addr {
        let script = "#!/bin/sh
            [ \"$1\" = bound ] || exit 0
            ip addr flush dev $interface && ip addr add $ip/$mask dev $interface && echo got $ip";
        let script = self.libvirtd.file("udhcpc", script);
        self.libvirtd.machine.sh(&format!("chmod +x {script}"));
        let said =
            self.in_guest(name, &format!("busybox udhcpc -n -q -f -i eth0 {wish} -s {script}"));
        let got = said.lines().find_map(|line| line.strip_prefix("got "));
        got.unwrap_or_else(|| panic!("{said}")).parse().unwrap()
    }

    /// Gives a guest an address that it has spoken from.
    fn address(&self, name: &str, address: &str, router: &str) {
        let line = format!("ip addr flush dev eth0 && ip addr add {address}/24 dev eth0");
        self.in_guest(name, &format!("sh -c '{line} && ping -c 1 -W 5 {router}'"));
    }

    #[track_caller]
    fn until_at(&self, name: &str, address: Ipv4Addr, source: AddressSource) -> InstanceReport {
        self.followed.until_one(name, AT_ONCE, |one| {
            one.target() == Some(address) && one.address_source == Some(source)
        })
    }

    #[track_caller]
    fn until_unusable(&self, name: &str, why: Unusable) {
        self.followed.until_one(name, AT_ONCE, |one| one.unusable == Some(why));
    }
}

#[test]
fn a_lease_is_followed_within_a_second_and_so_is_the_next_one() {
    let world = World::new(&[LEASES]);
    world.machine("web", 1, &plug(1, "network='front'"), "");
    world.until_unusable("web", Unusable::NoAddress);
    world.guest("web", 1, "virbr7");
    let first = world.lease("web", "");
    let web = world.until_at("web", first, AddressSource::Lease);
    assert_eq!(web.vpc_id.as_deref(), Some("front"));
    let second = world.lease("web", "-x 0x3d:010203 -r 192.168.77.88");
    assert_eq!(second, Ipv4Addr::new(192, 168, 77, 88));
    assert_ne!(first, second);
    world.until_at("web", second, AddressSource::Lease);
    world.libvirtd.virsh(QEMU, "suspend web");
    let paused = world.followed.until_one("web", AT_ONCE, |one| one.target().is_none());
    assert_eq!((paused.state, paused.private_ip), (InstanceState::Paused, Some(second)));
    world.libvirtd.virsh(QEMU, "resume web");
    world.until_at("web", second, AddressSource::Lease);
}

#[test]
fn without_a_lease_the_neighbour_table_is_believed_as_a_guess() {
    let world = World::new(&[STATIC]);
    world.machine("db", 2, &plug(2, "network='back'"), "");
    world.until_unusable("db", Unusable::NoAddress);
    world.guest("db", 2, "virbr8");
    world.address("db", "192.168.78.20", "192.168.78.1");
    let at = |last| Ipv4Addr::new(192, 168, 78, last);
    let db = world.until_at("db", at(20), AddressSource::Neighbour);
    assert!(db.address_source.is_some_and(AddressSource::is_a_guess));
    world.address("db", "192.168.78.21", "192.168.78.1");
    world.until_at("db", at(21), AddressSource::Neighbour);
    // That the kernel has forgotten it is no sign that it has gone.
    world.followed.is_unmoved_by(A_MOMENT, || {
        world.libvirtd.machine.sh("ip neigh flush dev virbr8");
    });
    // That another one is there, is.
    world.guest("other", 3, "virbr8");
    world.in_guest("db", "ip link set eth0 down");
    world.address("other", "192.168.78.21", "192.168.78.1");
    world.until_unusable("db", Unusable::NoAddress);
    // An address that cannot be there is not believed.
    world.in_guest("db", "ip link set eth0 up");
    world.libvirtd.machine.sh("ip addr add 10.99.0.1/24 dev virbr8");
    world.followed.is_unmoved_by(A_MOMENT, || world.address("db", "10.99.0.7", "10.99.0.1"));
}

#[test]
fn two_machines_with_one_hardware_address_are_both_told_why_not() {
    let world = World::new(&[STATIC]);
    world.machine("one", 1, &plug(4, "network='back'"), "");
    world.guest("one", 4, "virbr8");
    world.address("one", "192.168.78.40", "192.168.78.1");
    let at = Ipv4Addr::new(192, 168, 78, 40);
    world.until_at("one", at, AddressSource::Neighbour);
    world.machine("two", 2, &plug(4, "network='back'"), "");
    world.until_unusable("one", Unusable::AmbiguousMac);
    world.until_unusable("two", Unusable::AmbiguousMac);
    world.libvirtd.virsh(QEMU, "destroy two");
    world.until_at("one", at, AddressSource::Neighbour);
}

#[test]
fn of_several_interfaces_the_wished_one_counts_or_else_the_first_with_an_address() {
    let world = World::new(&[LEASES, STATIC]);
    let both = format!("{}{}", plug(5, "network='back'"), plug(6, "network='front'"));
    world.machine("first", 1, &both, "");
    let wished = format!("{}{}", plug(7, "network='back'"), plug(8, "network='front'"));
    world.machine("wished", 2, &wished, "network='front'");
    world.machine("stated", 3, &plug(9, "network='back'"), "address='192.168.78.200'");
    let stated = Ipv4Addr::new(192, 168, 78, 200);
    world.until_at("stated", stated, AddressSource::Metadata);
    for (name, back, front) in [("first", 5, 6), ("wished", 7, 8)] {
        world.guest(&format!("{name}-back"), back, "virbr8");
        world.guest(&format!("{name}-front"), front, "virbr7");
        let leased = world.lease(&format!("{name}-front"), "");
        world.until_at(name, leased, AddressSource::Lease);
        let address = format!("192.168.78.{}", 50 + back);
        let speak = || world.address(&format!("{name}-back"), &address, "192.168.78.1");
        match name {
            "first" => {
                speak();
                let one = world.until_at(name, address.parse().unwrap(), AddressSource::Neighbour);
                assert_eq!(one.vpc_id.as_deref(), Some("back"));
            }
            _ => {
                speak();
                let other: Option<Ipv4Addr> = address.parse().ok();
                let heard = world.followed.until_one(name, AT_ONCE * 3, |one| {
                    one.interfaces.iter().any(|one| one.private_ip == other)
                });
                assert_eq!(heard.private_ip, Some(leased), "the one that was wished for");
            }
        }
    }
}

#[test]
fn a_bridge_of_ones_own_works_where_this_host_is_its_router_and_says_why_not_elsewhere() {
    let world = World::new(&[]);
    world.libvirtd.machine.sh("ip link add br-lan type bridge && ip link set br-lan up &&
         ip link add br-bare type bridge && ip link set br-bare up &&
         ip addr add 10.77.0.1/24 dev br-lan");
    world.machine("lan", 1, &plug(10, "bridge='br-lan'"), "");
    world.machine("bare", 2, &plug(11, "bridge='br-bare'"), "");
    world.until_unusable("lan", Unusable::NoAddress);
    world.until_unusable("bare", Unusable::NotRouted);
    let networks = |wanted: &[LocalNetwork]| {
        let wanted = wanted.to_vec();
        world
            .followed
            .until("the networks", AT_ONCE * 3, move |all| (all.networks == wanted).then_some(()));
    };
    let subnet = "10.77.0.0/24".parse().unwrap();
    networks(&[LocalNetwork::new("br-lan", subnet).known_as(Backend::Libvirt, "br-lan")]);
    world.guest("lan", 10, "br-lan");
    world.address("lan", "10.77.0.9", "10.77.0.1");
    world.until_at("lan", Ipv4Addr::new(10, 77, 0, 9), AddressSource::Neighbour);
    // Once it is this host's own way out, the guest's way out does not lead through this host.
    world.libvirtd.machine.sh("ip route add default via 10.77.0.254");
    networks(&[]);
    world.until_unusable("lan", Unusable::NotRouted);
}

#[test]
fn networks_and_interfaces_that_come_and_go_are_followed() {
    let world = World::new(&[LEASES]);
    let count = |wanted: usize| {
        world
            .followed
            .until("so many networks", AT_ONCE, |all| (all.networks.len() == wanted).then_some(()));
    };
    count(1);
    let back = world.libvirtd.file("back.xml", STATIC);
    world.libvirtd.virsh(QEMU, &format!("net-create {back}"));
    count(2);
    world.libvirtd.virsh(QEMU, "net-destroy back");
    count(1);
    world.machine("web", 1, "", "");
    world.until_unusable("web", Unusable::NoInterface);
    let mac = hardware(12);
    let attach = format!("attach-interface web network front --mac {mac} --model virtio --live");
    world.libvirtd.virsh(QEMU, &attach);
    world.until_unusable("web", Unusable::NoAddress);
    world.guest("web", 12, "virbr7");
    let leased = world.lease("web", "");
    world.until_at("web", leased, AddressSource::Lease);
}

//! libvirt's driver for tests, through a real libvirtd: the protocol in its breadth.

use std::time::Instant;

use eip_model::{AddressSource, InstanceState, Unusable};

use crate::follow::{A_MOMENT, AT_ONCE, Followed, SOON, named};
use crate::libvirtd::Libvirtd;

const TEST: &str = "test:///default";

fn domain(name: &str, number: u32, more: &str, devices: &str) -> String {
    format!(
        "<domain type='test'><name>{name}</name>
           <uuid>00000000-0000-4000-8000-{number:012}</uuid><memory>1024</memory>
           <os><type>hvm</type></os>{more}<devices>{devices}</devices></domain>"
    )
}

fn interface(number: u32) -> String {
    let (high, low) = (number / 256, number % 256);
    format!(
        "<interface type='network'><mac address='52:54:00:00:{high:02x}:{low:02x}'/>
           <source network='default'/></interface>"
    )
}

#[test]
fn every_step_of_a_domains_life_is_followed_within_a_second() {
    let libvirtd = Libvirtd::start();
    let followed = Followed::start(&libvirtd.uri(TEST));
    let test = followed.until_one("test", SOON, |one| one.private_ip.is_some());
    assert_eq!(test.id.to_string(), "6695eb01-f6a4-8304-79aa-97f2502e193f");
    assert_eq!((test.state, test.vpc_id.as_deref()), (InstanceState::Running, Some("default")));
    assert_eq!(test.address_source, Some(AddressSource::Lease));

    let web = libvirtd.file("web.xml", &domain("web", 1, "", &interface(1)));
    libvirtd.virsh(TEST, &format!("define {web}"));
    followed.until_state("web", InstanceState::Stopped);
    libvirtd.virsh(TEST, "start web");
    let web = followed.until_one("web", AT_ONCE, |one| one.private_ip.is_some());
    assert_eq!((web.state, web.unusable), (InstanceState::Running, None));
    libvirtd.virsh(TEST, "suspend web");
    let paused = followed.until_one("web", AT_ONCE, |one| one.state == InstanceState::Paused);
    assert_eq!((paused.private_ip, paused.target()), (web.private_ip, None));
    libvirtd.virsh(TEST, "resume web");
    followed.until_state("web", InstanceState::Running);
    libvirtd.virsh(TEST, "reboot web");
    libvirtd.virsh(TEST, "destroy web");
    let dead = followed.until_one("web", AT_ONCE, |one| one.state == InstanceState::Stopped);
    assert_eq!(dead.private_ip, None);
    libvirtd.virsh(TEST, "undefine web");
    followed.until("web to be gone", AT_ONCE, |all| named(all, "web").is_none().then_some(()));

    // A transient one is gone with its end.
    let brief = libvirtd.file("brief.xml", &domain("brief", 2, "", &interface(2)));
    libvirtd.virsh(TEST, &format!("create {brief}"));
    followed.until_state("brief", InstanceState::Running);
    libvirtd.virsh(TEST, "destroy brief");
    followed.until("brief to be gone", AT_ONCE, |all| named(all, "brief").is_none().then_some(()));
}

#[test]
fn metadata_gives_a_project_a_network_and_an_address() {
    let libvirtd = Libvirtd::start();
    let followed = Followed::start(&libvirtd.uri(TEST));
    followed.until_one("test", SOON, |_| true);
    let set = "metadata test --uri urn:eip:instance --key eip --set";
    libvirtd.virsh(TEST, &format!("{set} \"<instance project='team-a'/>\""));
    let of_a_team = |one: &eip_model::InstanceReport| {
        one.project.as_ref().is_some_and(|name| name.as_str() == "team-a")
    };
    followed.until_one("test", AT_ONCE, of_a_team);
    libvirtd.virsh(TEST, &format!("{set} \"<instance project='Team A'/>\""));
    followed.until_one("test", AT_ONCE, |one| one.unusable == Some(Unusable::BadProject));
    libvirtd.virsh(TEST, &format!("{set} \"<instance network='elsewhere'/>\""));
    followed.until_one("test", AT_ONCE, |one| one.unusable == Some(Unusable::BadMetadata));
    libvirtd.virsh(TEST, "metadata test --uri urn:eip:instance --remove");
    followed.until_one("test", AT_ONCE, |one| one.unusable.is_none() && one.project.is_none());
}

#[test]
fn an_address_by_metadata_counts_where_it_can_be_the_domains_own() {
    let libvirtd = Libvirtd::start();
    let stated = |address: &str| {
        format!(
            "<metadata><eip:instance xmlns:eip='urn:eip:instance' address='{address}'/></metadata>"
        )
    };
    // The driver makes up a lease for every interface, but none that fits this bridge.
    let namespace = libvirtd.namespace();
    libvirtd.machine.sh("ip link add br9 type bridge && ip addr add 10.9.0.1/24 dev br9");
    let bridged = |number: u32| {
        interface(number)
            .replace("type='network'", "type='bridge'")
            .replace("network='default'", "bridge='br9'")
    };
    let domains = [
        domain("good", 1, &stated("10.9.0.7"), &bridged(1)),
        domain("loopback", 2, &stated("127.0.0.1"), &bridged(2)),
        domain("broadcast", 3, &stated("255.255.255.255"), &bridged(3)),
        domain("elsewhere", 4, &stated("8.8.8.8"), &bridged(4)),
        domain("host", 5, &stated("10.9.0.1"), &bridged(5)),
        domain("twin-1", 6, &stated("10.9.0.9"), &bridged(6)),
        domain("twin-2", 7, &stated("10.9.0.9"), &bridged(7)),
        domain("leased", 8, &stated("10.9.0.8"), &interface(8)),
    ];
    let file = libvirtd.file("node.xml", &node(&domains));
    let uri = libvirtd.uri(&format!("test://{file}"));
    let followed = Followed::start_in(&uri, Some(&namespace));
    let listing = followed.until("all of them", SOON, |all| {
        (all.instances.len() == domains.len()).then(|| all.clone())
    });
    let one = |name: &str| named(&listing, name).unwrap_or_else(|| panic!("{name}: {listing:#?}"));
    assert_eq!(one("good").target(), Some([10, 9, 0, 7].into()), "{listing:#?}");
    assert_eq!(one("good").address_source, Some(AddressSource::Metadata));
    for bad in ["loopback", "broadcast", "elsewhere", "host", "twin-1", "twin-2"] {
        let told = (one(bad).private_ip, one(bad).unusable);
        assert_eq!(told, (None, Some(Unusable::BadMetadata)), "{bad}");
    }
    assert_eq!(one("leased").address_source, Some(AddressSource::Lease));
}

/// A file of domains as the test driver reads them.
fn node(domains: &[String]) -> String {
    let states = "<network><name>default</name><forward/><bridge name='virbr0'/>
        <ip address='192.168.122.1' netmask='255.255.255.0'>
          <dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip></network>";
    format!("<node>{states}{}</node>", domains.concat())
}

#[test]
fn odd_names_and_odd_networks_are_listed_each_with_its_reason() {
    let libvirtd = Libvirtd::start();
    let odd = "\u{fc}&quot;&apos;&lt;&amp;$(reboot)`; \u{1f600}";
    let wished = |wish: &str| {
        format!("<metadata><eip:instance xmlns:eip='urn:eip:instance' {wish}/></metadata>")
    };
    let user = "<interface type='user'><mac address='52:54:00:00:01:01'/></interface>";
    let direct = "<interface type='direct'><source dev='eth0' mode='bridge'/></interface>";
    let bridge = "<interface type='bridge'><source bridge='no-such-bridge'/></interface>";
    let domains = [
        domain(odd, 1, "", &interface(1)),
        domain(&"long".repeat(100), 2, "", &interface(2)),
        domain("bare", 3, "", ""),
        domain("user", 4, "", user),
        domain("direct", 5, "", direct),
        domain("bridge", 6, "", bridge),
        domain("twin-1", 7, "", &interface(7)),
        domain("twin-2", 8, "", &interface(7)),
        domain("typo", 9, &wished("adress='10.0.0.7'"), &interface(9)),
        domain("two&#10;lines", 11, "", &interface(11)),
        domain("behind", 10, "", &format!("{user}{}", interface(10))),
    ];
    let file = libvirtd.file("node.xml", &node(&domains));
    let followed = Followed::start(&libvirtd.uri(&format!("test://{file}")));
    let listing = followed.until("all of them", SOON, |all| {
        (all.instances.len() == domains.len()).then(|| all.clone())
    });
    let one = |name: &str| named(&listing, name).unwrap_or_else(|| panic!("{name}: {listing:#?}"));
    let odd = one("\u{fc}\"'<&$(reboot)`; \u{1f600}");
    assert!(odd.target().is_some(), "{odd:?}");
    assert!(one("two\u{fffd}lines").target().is_some());
    assert!(listing.instances.values().all(|one| one.name.chars().count() <= 255));
    let why = |name: &str| one(name).unusable;
    assert_eq!(why("bare"), Some(Unusable::NoInterface));
    assert_eq!(why("user"), Some(Unusable::UserNetwork));
    assert_eq!(why("direct"), Some(Unusable::NotRouted));
    assert_eq!(why("bridge"), Some(Unusable::NotRouted));
    assert_eq!(why("typo"), Some(Unusable::BadMetadata));
    for twin in ["twin-1", "twin-2"] {
        assert_eq!((why(twin), one(twin).target()), (Some(Unusable::AmbiguousMac), None));
    }
    assert!(one("behind").target().is_some(), "the first interface with an address counts");
}

#[test]
fn a_thousand_domains_are_listed_in_a_moment() {
    let libvirtd = Libvirtd::start();
    let all: Vec<_> =
        (1..=1000).map(|n| domain(&format!("vm-{n}"), n, "", &interface(n))).collect();
    let file = libvirtd.file("node.xml", &node(&all));
    let start = Instant::now();
    let followed = Followed::start(&libvirtd.uri(&format!("test://{file}")));
    followed.until("all of them", SOON, |all| (all.instances.len() == 1000).then_some(()));
    let took = start.elapsed();
    assert!(took.as_secs() < 5, "{took:?}");
    // And they stay so: nothing is found to be different when it is looked at again.
    followed.is_unmoved_by(A_MOMENT * 3, || {});
}

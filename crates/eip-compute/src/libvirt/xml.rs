//! From libvirt's XML of domains and networks to what concerns an elastic IP.
//!
//! The XML is written by whoever may define a domain. So no DTD is allowed, and with that no
//! entities that grow; and the number of nodes has a limit.

use std::net::Ipv4Addr;

use eip_model::ProjectName;
use ipnet::Ipv4Net;
use roxmltree::{Document, Node, ParsingOptions};

use super::mac::Mac;
use super::rpc::messages::printable;

/// The namespace of our element among a domain's metadata.
pub const METADATA_NAMESPACE: &str = "urn:eip:instance";
/// Real ones have some hundreds.
const MOST_NODES: u32 = 100_000;
/// As much of a name as is kept.
const NAME: usize = 255;

/// What a domain's XML says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    pub(super) name: String,
    /// Another one each time it starts; none while it does not run.
    pub(super) id: Option<i32>,
    pub(super) interfaces: Vec<Interface>,
    pub(super) agent_connected: bool,
    pub(super) wishes: Result<Wishes, BadWish>,
}

/// One interface of a domain, in the order of the XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) mac: Option<Mac>,
    pub(super) plug: Plug,
}

/// What an interface is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plug {
    /// A network of libvirt's, by name.
    Network(String),
    /// A bridge of this host that libvirt does not manage.
    Bridge(String),
    /// A tap device of this host, of which others take care.
    Tap(String),
    /// A network inside the emulator (`user`, passt): nothing can come in from this host.
    User,
    /// Something that leads past this host's own network: macvtap, a passed-through device.
    Past,
}

/// What an operator wishes for a domain, by its metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) project: Option<ProjectName>,
    pub(super) network: Option<String>,
    pub(super) address: Option<Ipv4Addr>,
}

/// A wish that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadWish {
    Project,
    /// An address that is none, or a word that is not known.
    Other,
}

/// What a network's XML says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) name: String,
    pub(super) kind: NetworkKind,
    pub(super) has_dhcp: bool,
}

/// What a network is to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NetworkKind {
    /// A bridge of libvirt's with this host on it: NAT, routed, or open. Of the latter two others may
    /// know the private addresses.
    Managed { bridge: String, own: Vec<Ipv4Addr>, subnets: Vec<Ipv4Net>, routed: bool },
    /// A bridge of libvirt's that nothing leaves: its guests have no router, and libvirt rejects
    /// even their answers.
    Isolated,
    /// A bridge that was there before.
    Bridge(String),
    /// None of this host's own.
    Past,
}

fn parse(text: &str) -> Result<Document<'_>, roxmltree::Error> {
    let options =
        ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..Default::default() };
    Document::parse_with_options(text, options)
}

/// Reads the XML of a domain.
pub(super) fn domain(text: &str) -> Result<About, roxmltree::Error> {
    let document = parse(text)?;
    let root = document.root_element();
    let devices = child(root, "devices");
    let devices = devices.iter().flat_map(Node::children);
    let mut interfaces = Vec::new();
    let mut agent_connected = false;
    for device in devices {
        match device.tag_name().name() {
            "interface" => interfaces.push(interface(device)),
            "channel" => agent_connected |= is_connected_agent(device),
            _ => {}
        }
    }
    Ok(About {
        name: name_of(root),
        id: root.attribute("id").and_then(|id| id.parse().ok()),
        interfaces,
        agent_connected,
        wishes: wishes(root),
    })
}

fn name_of(root: Node<'_, '_>) -> String {
    let name = child(root, "name").and_then(|name| name.text()).unwrap_or_default();
    printable(name.as_bytes(), NAME)
}

fn child<'a, 'i>(parent: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    parent.children().find(|node| node.is_element() && node.tag_name().name() == name)
}

/// An attribute of a child: `<mac address='...'/>`.
fn of_child<'a>(parent: Node<'a, '_>, name: &str, attribute: &str) -> Option<&'a str> {
    child(parent, name)?.attribute(attribute)
}

fn interface(device: Node<'_, '_>) -> Interface {
    let mac = of_child(device, "mac", "address").and_then(|text| Mac::parse(text.as_bytes()));
    let source = |what: &str| of_child(device, "source", what).map(str::to_owned);
    let by_passt = of_child(device, "backend", "type") == Some("passt");
    let plug = match device.attribute("type").unwrap_or_default() {
        "network" => source("network").map(Plug::Network),
        "bridge" => source("bridge").map(Plug::Bridge),
        "ethernet" => of_child(device, "target", "dev").map(|name| Plug::Tap(name.to_owned())),
        "user" => Some(Plug::User),
        "vhostuser" if by_passt => Some(Plug::User),
        _ => None,
    };
    Interface { mac, plug: plug.unwrap_or(Plug::Past) }
}

fn is_connected_agent(channel: Node<'_, '_>) -> bool {
    let is_agent = |name: &str| name.starts_with("org.qemu.guest_agent.");
    of_child(channel, "target", "name").is_some_and(is_agent)
        && of_child(channel, "target", "state") == Some("connected")
}

fn wishes(root: Node<'_, '_>) -> Result<Wishes, BadWish> {
    let metadata = child(root, "metadata");
    let ours = metadata
        .iter()
        .flat_map(Node::children)
        .find(|node| node.is_element() && node.tag_name().namespace() == Some(METADATA_NAMESPACE));
    let mut wishes = Wishes::default();
    let Some(ours) = ours else { return Ok(wishes) };
    if ours.tag_name().name() != "instance" {
        return Err(BadWish::Other);
    }
    for attribute in ours.attributes() {
        let value = attribute.value();
        match attribute.name() {
            "project" => wishes.project = Some(value.parse().map_err(|_| BadWish::Project)?),
            "network" => wishes.network = Some(value.to_owned()),
            "address" => wishes.address = Some(value.parse().map_err(|_| BadWish::Other)?),
            _ => return Err(BadWish::Other),
        }
    }
    Ok(wishes)
}

/// Reads the XML of a network.
pub(super) fn network(text: &str) -> Result<Network, roxmltree::Error> {
    let document = parse(text)?;
    let root = document.root_element();
    let bridge = of_child(root, "bridge", "name").map(str::to_owned);
    let forward = child(root, "forward").map(|node| node.attribute("mode").unwrap_or("nat"));
    let ips = root.children().filter(|node| node.tag_name().name() == "ip");
    let ips: Vec<_> = ips.filter_map(|ip| Some((ip, subnet(ip)?))).collect();
    let kind = match (forward, bridge) {
        (None, _) => NetworkKind::Isolated,
        (Some(mode @ ("nat" | "route" | "open")), Some(bridge)) => NetworkKind::Managed {
            bridge,
            routed: mode != "nat",
            own: ips.iter().map(|(_, subnet)| subnet.addr()).collect(),
            subnets: ips.iter().map(|(_, subnet)| subnet.trunc()).collect(),
        },
        (Some("bridge"), Some(bridge)) => NetworkKind::Bridge(bridge),
        _ => NetworkKind::Past,
    };
    let has_dhcp = ips.iter().any(|(ip, _)| child(*ip, "dhcp").is_some());
    Ok(Network { name: name_of(root), kind, has_dhcp })
}

/// The IPv4 address of this host on a network, and how much of it is the network's.
fn subnet(ip: Node<'_, '_>) -> Option<Ipv4Net> {
    let address: Ipv4Addr = ip.attribute("address")?.parse().ok()?;
    match (ip.attribute("prefix"), ip.attribute("netmask")) {
        (Some(prefix), _) => Ipv4Net::new(address, prefix.parse().ok()?).ok(),
        (None, Some(mask)) => Ipv4Net::with_netmask(address, mask.parse().ok()?).ok(),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A domain of qemu's while it runs, as libvirtd shows it, without what is of no concern.
    const RUNNING: &str = "<domain type='qemu' id='3'>
      <name>web &amp; &quot;mail&quot; ü</name>
      <uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>
      <metadata>
        <other:thing xmlns:other='http://example.com/other' project='no'/>
        <eip:instance xmlns:eip='urn:eip:instance' project='team-a' network='front'
          address='10.0.0.7'/>
      </metadata>
      <devices>
        <interface type='network'>
          <mac address='52:54:00:00:00:01'/>
          <source network='default' portid='x' bridge='virbr0'/>
          <target dev='vnet0'/>
        </interface>
        <interface type='bridge'>
          <mac address='52:54:00:00:00:02'/><source bridge='br0'/><target dev='vnet1'/>
        </interface>
        <interface type='ethernet'><target dev='tap7' managed='no'/></interface>
        <interface type='user'><mac address='52:54:00:00:00:04'/></interface>
        <interface type='vhostuser'><backend type='passt'/></interface>
        <interface type='direct'><source dev='eth0' mode='bridge'/></interface>
        <channel type='unix'>
          <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
        </channel>
      </devices>
    </domain>";

    #[test]
    fn a_domain_is_read() {
        let about = domain(RUNNING).unwrap();
        assert_eq!((about.name.as_str(), about.id), ("web & \"mail\" ü", Some(3)));
        assert!(about.agent_connected);
        let plugs: Vec<_> = about.interfaces.iter().map(|one| one.plug.clone()).collect();
        assert_eq!(
            plugs,
            [
                Plug::Network("default".into()),
                Plug::Bridge("br0".into()),
                Plug::Tap("tap7".into()),
                Plug::User,
                Plug::User,
                Plug::Past,
            ]
        );
        assert_eq!(about.interfaces[0].mac, Mac::parse(b"52:54:00:00:00:01"));
        let wishes = about.wishes.unwrap();
        assert_eq!(wishes.project.unwrap().as_str(), "team-a");
        assert_eq!(wishes.network.as_deref(), Some("front"));
        assert_eq!(wishes.address, Some(Ipv4Addr::new(10, 0, 0, 7)));
    }

    #[test]
    fn wishes_that_cannot_be_understood_are_no_wishes() {
        let with = |element: &str| {
            let text = format!(
                "<domain><name>x</name><metadata xmlns:eip='urn:eip:instance'>{element}</metadata>\
                 </domain>"
            );
            domain(&text).unwrap().wishes
        };
        assert_eq!(with("<eip:instance/>"), Ok(Wishes::default()));
        assert_eq!(with("<instance project='Not One'/>"), Ok(Wishes::default()));
        assert_eq!(with("<eip:instance project='Not One'/>"), Err(BadWish::Project));
        assert_eq!(with("<eip:instance address='10.0.0'/>"), Err(BadWish::Other));
        assert_eq!(with("<eip:instance adress='10.0.0.7'/>"), Err(BadWish::Other));
        assert_eq!(with("<eip:instanz/>"), Err(BadWish::Other));
    }

    #[test]
    fn a_domain_with_nothing_in_it_is_read() {
        let about = domain("<domain/>").unwrap();
        assert_eq!((about.name.as_str(), about.id, about.interfaces.len()), ("", None, 0));
        let about = domain("<domain><name>a\nb\u{1f600}</name><devices/></domain>").unwrap();
        assert_eq!(about.name, "a\u{fffd}b\u{1f600}");
        let long = format!("<domain><name>{}</name></domain>", "ü".repeat(1000));
        assert_eq!(domain(&long).unwrap().name.chars().count(), NAME);
    }

    #[test]
    fn entities_and_endless_xml_are_refused() {
        let laughs = "<!DOCTYPE d [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]><domain>&b;</domain>";
        assert!(domain(laughs).is_err());
        let file = "<!DOCTYPE d [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><domain>&a;</domain>";
        assert!(domain(file).is_err());
        assert!(domain(&format!("<domain>{}</domain>", "<a/>".repeat(200_000))).is_err());
        let deep = format!("{}{}", "<a>".repeat(50_000), "</a>".repeat(50_000));
        let _either = domain(&deep);
        assert!(domain("no xml").is_err() && domain("").is_err());
    }

    #[test]
    fn a_network_is_known_by_how_it_leads_out() {
        let read =
            |inside: &str| network(&format!("<network><name>n</name>{inside}</network>")).unwrap();
        let ip = "<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp/></ip>\
                  <ip family='ipv6' address='fd00::1' prefix='64'/>";
        let nat = read(&format!("<forward mode='nat'/><bridge name='virbr0'/>{ip}"));
        let NetworkKind::Managed { bridge, own, subnets, routed } = nat.kind else { panic!() };
        assert!(!routed);
        assert_eq!((bridge.as_str(), nat.has_dhcp), ("virbr0", true));
        assert_eq!(own, [Ipv4Addr::new(192, 168, 122, 1)]);
        assert_eq!(subnets, ["192.168.122.0/24".parse().unwrap()]);
        let isolated = read("<bridge name='virbr1'/><ip address='10.9.0.1' prefix='24'/>");
        assert!(isolated.kind == NetworkKind::Isolated && !isolated.has_dhcp);
        for mode in ["route", "open"] {
            let read = read(&format!("<forward mode='{mode}'/><bridge name='virbr2'/>{ip}"));
            assert!(matches!(read.kind, NetworkKind::Managed { routed: true, .. }));
        }
        let bridged = read("<forward mode='bridge'/><bridge name='br0'/>");
        assert_eq!(bridged.kind, NetworkKind::Bridge("br0".into()));
        for past in ["private", "vepa", "passthrough", "hostdev", "bridge"] {
            assert_eq!(read(&format!("<forward mode='{past}'/>")).kind, NetworkKind::Past);
        }
    }
}

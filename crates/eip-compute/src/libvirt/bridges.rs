//! Bridges of this host that libvirt does not manage: what this host is on them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use ipnet::Ipv4Net;

/// An address that nobody has (RFC 5737), to ask the kernel for the way to the world.
const ANYWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(203, 0, 113, 1), 9);

/// One bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bridge {
    /// This host's own addresses on it, each with the length of its subnet.
    pub(super) subnets: Vec<Ipv4Net>,
    /// Whether this host itself reaches the world by it.
    pub(super) leads_out: bool,
}

pub(super) type Bridges = BTreeMap<String, Bridge>;

/// Looks at bridges by name. One that is not there has no address.
pub(super) fn look_at(names: &BTreeSet<String>) -> Bridges {
    let mut found: Bridges = names.iter().map(|name| (name.clone(), Bridge::default())).collect();
    if found.is_empty() {
        return found;
    }
    let own = own_source();
    for one in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(bridge) = found.get_mut(&one.interface_name) else { continue };
        let ip = |address: Option<nix::sys::socket::SockaddrStorage>| {
            address.and_then(|one| one.as_sockaddr_in().map(|one| one.ip()))
        };
        let Some(address) = ip(one.address) else { continue };
        bridge.leads_out |= own == Some(address);
        if let Some(mask) = ip(one.netmask) {
            bridge.subnets.extend(Ipv4Net::with_netmask(address, mask));
        }
    }
    for bridge in found.values_mut() {
        bridge.subnets.sort();
    }
    found
}

/// The address from which this host would speak to the world. Nothing is sent to find it.
fn own_source() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ANYWHERE).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

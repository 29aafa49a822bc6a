//! The interfaces of the host and its own addresses, as rtnetlink lists them.
//!
//! Source: `linux/rtnetlink.h`, `linux/if_addr.h`, `linux/if_link.h`.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use crate::socket::Netlink;
use crate::wire::{NLM_F_DUMP, Received, address, find, message, name};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const FAMILY_IPV4: u8 = 2;
const TYPE_ETHERNET: u16 = 1;
const FLAG_UP: u32 = 0x1;
const FLAG_NO_ARP: u32 = 0x80;
const SCOPE_GLOBAL: u8 = 0;

/// An interface that can be heard on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: i32,
    pub(crate) name: String,
    /// Its hardware address, where neighbours on it ask by ARP.
    pub(crate) mac: Option<[u8; 6]>,
    /// Its IPv4 addresses that are good beyond the host, in order of age.
    pub(crate) addresses: Vec<Ipv4Addr>,
}

/// Everything that is up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    pub(crate) all: Vec<Interface>,
    /// Every IPv4 address of the host, on whatever interface.
    pub(crate) own: Vec<Ipv4Addr>,
}

impl Interfaces {
    pub(crate) fn list(socket: &mut Netlink) -> io::Result<Self> {
        let mut links = BTreeMap::new();
        dump(socket, GET_LINK, 0, |one| links.extend(link(&one)))?;
        let mut own = Vec::new();
        dump(socket, GET_ADDRESS, FAMILY_IPV4, |one| own.extend(assigned(&one)))?;
        for (index, scope, address) in &own {
            if let Some(interface) = links.get_mut(index)
                && *scope == SCOPE_GLOBAL
            {
                let interface: &mut Interface = interface;
                interface.addresses.push(*address);
            }
        }
        let own = own.into_iter().map(|(_, _, address)| address).collect();
        Ok(Self { all: links.into_values().collect(), own })
    }

    /// Returns the interfaces with an address that do not lead to instances.
    pub(crate) fn outside<'a>(
        &'a self,
        inside: &'a [String],
    ) -> impl Iterator<Item = &'a Interface> {
        let leads_out = |one: &&Interface| {
            !one.addresses.is_empty() && !inside.contains(&one.name) && one.name != "lo"
        };
        self.all.iter().filter(leads_out)
    }
}

fn dump(
    socket: &mut Netlink,
    kind: u16,
    family: u8,
    each: impl FnMut(Received<'_>),
) -> io::Result<()> {
    let mut request = Vec::new();
    message(&mut request, kind, NLM_F_DUMP, 1, |b| {
        b.push(family);
        b.resize(b.len() + 15, 0);
    });
    socket.dump(&request, each)
}

fn link(one: &Received<'_>) -> Option<(i32, Interface)> {
    const NAME: u16 = 3;
    const HARDWARE_ADDRESS: u16 = 1;
    let (head, attributes) = one.body.split_at_checked(16)?;
    let kind = u16::from_ne_bytes([head[2], head[3]]);
    let index = i32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
    let flags = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
    if one.kind != NEW_LINK || flags & FLAG_UP == 0 {
        return None;
    }
    let asked_by_arp = kind == TYPE_ETHERNET && flags & FLAG_NO_ARP == 0;
    let mac = find(attributes, HARDWARE_ADDRESS).and_then(|value| value.try_into().ok());
    let name = name(find(attributes, NAME)?).to_owned();
    let mac = mac.filter(|_| asked_by_arp);
    Some((index, Interface { index, name, mac, addresses: Vec::new() }))
}

fn assigned(one: &Received<'_>) -> Option<(i32, u8, Ipv4Addr)> {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let (head, attributes) = one.body.split_at_checked(8)?;
    let index = i32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
    // On a point-to-point link `ADDRESS` is the other end's.
    let value = find(attributes, LOCAL).or_else(|| find(attributes, ADDRESS))?;
    (one.kind == NEW_ADDRESS).then_some((index, head[3], address(value)?))
}

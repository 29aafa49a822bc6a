//! What the host's own network looks like: its interfaces, its addresses, and its primary address.
//!
//! Sources: `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h`.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use eip_model::LocalNetwork;
use nix::sys::socket::SockProtocol;

use crate::socket::Netlink;
use crate::wire::{self, NLM_F_DUMP, attr};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
/// `RTMGRP_LINK` and `RTMGRP_IPV4_IFADDR`.
const GROUPS: u32 = 0x1 | 0x10;
const AF_INET: u8 = 2;
const IFF_UP: u32 = 0x1;
const IFF_NOARP: u32 = 0x80;
const ARPHRD_ETHER: u16 = 1;
/// Any address far away: TEST-NET-1 (RFC 5737). It is looked up, never sent to.
const FAR_AWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// An interface of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: i32,
    pub(crate) name: String,
    pub(crate) mac: Option<[u8; 6]>,
    up: bool,
    speaks_arp: bool,
    addresses: Vec<Ipv4Addr>,
}

/// The host's network as it was last looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    interfaces: BTreeMap<i32, Interface>,
    /// The source address that the host uses for what is far away.
    far_source: Option<Ipv4Addr>,
}

impl Host {
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.interfaces.values().flat_map(|one| one.addresses.iter().copied())
    }

    /// Returns the address that the host itself speaks with: that of its default route, else the
    /// first of an interface that is up, outside before inside.
    pub(crate) fn primary(&self, networks: &[LocalNetwork]) -> Option<Ipv4Addr> {
        let first = |inside: bool| {
            self.interfaces
                .values()
                .filter(|one| one.up && is_inside(one, networks) == inside)
                .flat_map(|one| one.addresses.iter().copied())
                .find(|address| !address.is_loopback())
        };
        self.far_source.or_else(|| first(false)).or_else(|| first(true))
    }

    /// Returns the interfaces on which neighbours may have an elastic IP in their ARP tables.
    pub(crate) fn announce_on(&self, networks: &[LocalNetwork]) -> Vec<Interface> {
        let hears = |one: &&Interface| {
            one.up && one.speaks_arp && one.mac.is_some() && !one.addresses.is_empty()
        };
        let outside = |one: &&Interface| !is_inside(one, networks);
        self.interfaces.values().filter(hears).filter(outside).cloned().collect()
    }
}

fn is_inside(interface: &Interface, networks: &[LocalNetwork]) -> bool {
    networks.iter().any(|network| network.interface == interface.name)
}

/// Looks at the host's network, but only when the kernel said that something changed.
#[derive(Debug)]
pub(crate) struct Lookout {
    questions: Netlink,
    news: Netlink,
    seen: Option<Host>,
}

impl Lookout {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            questions: Netlink::open(SockProtocol::NetlinkRoute, 0)?,
            news: Netlink::open(SockProtocol::NetlinkRoute, GROUPS)?,
            seen: None,
        })
    }

    /// Returns the host as it is, and whether it differs from the last look.
    pub(crate) fn look(&mut self) -> io::Result<(Host, bool)> {
        let mut news = false;
        if let Err(error) = self.news.drain(|_| news = true) {
            if error.raw_os_error() != Some(libc::ENOBUFS) {
                return Err(error);
            }
            news = true;
        }
        if let Some(host) = &self.seen
            && !news
        {
            return Ok((host.clone(), false));
        }
        // Forgotten first: a look that fails must not pass for one that found nothing new.
        let before = self.seen.take();
        let host = self.read()?;
        let differs = before.as_ref() != Some(&host);
        self.seen = Some(host.clone());
        Ok((host, differs))
    }

    fn read(&mut self) -> io::Result<Host> {
        let mut interfaces = BTreeMap::new();
        self.questions.dump(&question(RTM_GETLINK, 16), |one| {
            if let Some(found) = (one.kind == RTM_NEWLINK).then(|| interface(one.body)).flatten() {
                interfaces.insert(found.index, found);
            }
        })?;
        self.questions.dump(&question(RTM_GETADDR, 8), |one| {
            if one.kind != RTM_NEWADDR || one.body.first() != Some(&AF_INET) {
                return;
            }
            let index = one.body.get(4..).and_then(number).unwrap_or_default();
            let attrs = one.body.get(8..).unwrap_or_default();
            let found = wire::find(attrs, 2).or_else(|| wire::find(attrs, 1));
            let address = found.and_then(wire::address);
            if let (Some(interface), Some(address)) = (interfaces.get_mut(&index), address)
                && !interface.addresses.contains(&address)
            {
                interface.addresses.push(address);
            }
        })?;
        Ok(Host { interfaces, far_source: self.far_source()? })
    }

    fn far_source(&mut self) -> io::Result<Option<Ipv4Addr>> {
        let mut request = Vec::new();
        wire::message(&mut request, RTM_GETROUTE, 0, 1, |m| {
            m.extend_from_slice(&[AF_INET, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            attr(m, 1, &FAR_AWAY.octets());
        });
        let mut source = None;
        self.questions.exchange(&request, |one| {
            if one.kind == RTM_NEWROUTE {
                let attrs = one.body.get(12..).unwrap_or_default();
                source = wire::find(attrs, 7).and_then(wire::address);
            }
        })?;
        Ok(source)
    }
}

fn question(kind: u16, header: usize) -> Vec<u8> {
    let mut request = Vec::new();
    wire::message(&mut request, kind, NLM_F_DUMP, 1, |m| {
        let family = if kind == RTM_GETADDR { AF_INET } else { 0 };
        m.push(family);
        m.resize(wire::HEADER + header, 0);
    });
    request
}

fn number(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk::<4>().map(|four| i32::from_ne_bytes(*four))
}

fn interface(body: &[u8]) -> Option<Interface> {
    let kind = u16::from_ne_bytes(*body.get(2..)?.first_chunk::<2>()?);
    let flags = u32::from_ne_bytes(*body.get(8..)?.first_chunk::<4>()?);
    let attrs = body.get(16..)?;
    Some(Interface {
        index: number(body.get(4..)?)?,
        name: wire::name(wire::find(attrs, 3)?).to_owned(),
        mac: wire::find(attrs, 1).and_then(|mac| mac.try_into().ok()),
        up: flags & IFF_UP != 0,
        speaks_arp: kind == ARPHRD_ETHER && flags & IFF_NOARP == 0,
        addresses: Vec::new(),
    })
}

//! The way to an elastic IP that is on its instance's own interface: a /32 route through the
//! instance's private address, and a proxy neighbour entry on every interface that leads outside.
//!
//! The route is no `local` one, so the host does not hold the address and needs an entry of its own
//! to answer ARP for it. Routes are told from everyone else's by their protocol and by a metric that
//! nobody else gives, so that one which an administrator made wins and stays; entries by their
//! protocol.
//! Sources: `linux/rtnetlink.h`, `linux/neighbour.h`; `net/ipv4/arp.c` answers for a proxy entry when
//! the route to the address leaves by another interface.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use eip_model::{AliasTarget, OrdMap};
use nix::sys::socket::SockProtocol;

use crate::error::ApplyError;
use crate::host::Interface;
use crate::requests::Request;
use crate::routes::ROUTE_PROTOCOL;
use crate::socket::Netlink;
use crate::sysctl;
use crate::wire::{self, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, attr};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const AF_INET: u8 = 2;
const TABLE_MAIN: u8 = 254;
const TYPE_UNICAST: u8 = 1;
const SCOPE_UNIVERSE: u8 = 0;
const NTF_PROXY: u8 = 0x08;
const METRIC: u32 = ROUTE_PROTOCOL as u32;

/// An elastic IP, the private address that it is reached by, and the route's preferred source.
type Route = (Ipv4Addr, Ipv4Addr, Option<Ipv4Addr>);
/// An interface by its index, and an elastic IP that is answered for there.
type Proxy = (i32, Ipv4Addr);

/// What is in the kernel, of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    routes: BTreeSet<Route>,
    proxies: BTreeSet<Proxy>,
}

/// What decides about the ways.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MadeFor {
    aliases: OrdMap<Ipv4Addr, AliasTarget>,
    outside: Vec<Interface>,
    source: Option<Ipv4Addr>,
}

#[derive(Debug)]
pub(crate) struct Paths {
    socket: Netlink,
    /// What there is, once that is known.
    there: Option<Ways>,
    /// What `there` was made for.
    made_for: Option<MadeFor>,
    /// The interfaces that answer at once.
    prompt: BTreeSet<i32>,
}

/// What a change of the ways has come to.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) added: usize,
    /// The elastic IPs that have no way any more.
    pub(crate) gone: Vec<Ipv4Addr>,
    /// The elastic IPs that had no way before.
    pub(crate) fresh: Vec<Ipv4Addr>,
    /// The elastic IPs that the kernel refuses a route to, and why. They are tried again next time.
    pub(crate) refused: BTreeMap<Ipv4Addr, io::Error>,
}

impl Paths {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Netlink::open(SockProtocol::NetlinkRoute, 0)?;
        Ok(Self { socket, there: None, made_for: None, prompt: BTreeSet::new() })
    }

    /// Makes the next change begin with a look at what there is.
    pub(crate) fn distrust(&mut self) {
        self.there = None;
        self.prompt.clear();
    }

    /// What there is, as far as that is known.
    pub(crate) fn known(&self) -> Option<&Ways> {
        self.there.as_ref()
    }

    /// Makes these and no others the ways of ours. `source` is the address that the host speaks with.
    pub(crate) fn change(
        &mut self,
        aliases: &OrdMap<Ipv4Addr, AliasTarget>,
        outside: &[Interface],
        source: Option<Ipv4Addr>,
    ) -> Result<Changed, ApplyError> {
        let made_for = MadeFor { aliases: aliases.clone(), outside: outside.to_vec(), source };
        if self.there.is_some() && self.made_for.as_ref() == Some(&made_for) {
            return Ok(Changed::default());
        }
        self.made_for = None;
        let mut wanted = Ways {
            routes: aliases.iter().map(|(to, at)| (*to, at.private_ip, source)).collect(),
            proxies: outside
                .iter()
                .flat_map(|one| aliases.keys().map(|address| (one.index, *address)))
                .collect(),
        };
        let there = match self.there.take() {
            Some(there) => there,
            None => {
                self.list().map_err(|source| ApplyError::Look { what: "the routes", source })?
            }
        };
        if there == wanted {
            self.there = Some(there);
            self.made_for = Some(made_for);
            return Ok(Changed::default());
        }
        if !aliases.is_empty() {
            self.answer_promptly(outside)?;
        }
        let before: BTreeSet<Ipv4Addr> = there.routes.iter().map(|route| route.0).collect();
        let kept: BTreeSet<Ipv4Addr> = wanted.routes.iter().map(|route| route.0).collect();
        let gone = |route: &&Route| !kept.contains(&route.0);
        let mut gone: Vec<Route> = there.routes.iter().filter(gone).copied().collect();
        let new: Vec<Route> = wanted.routes.difference(&there.routes).copied().collect();
        // All are tried: one that cannot go must not keep others from coming.
        let hushed: Vec<Proxy> = there.proxies.difference(&wanted.proxies).copied().collect();
        let hushed = self.socket.request_each(&removal(RTM_DELNEIGH, proxy), &hushed).all();
        let removed = self.socket.request_each(&removal(RTM_DELROUTE, route), &gone).all();
        let refused = self.socket.request_each(&addition(RTM_NEWROUTE, route), &new).refusals()?;
        let refused: BTreeMap<Ipv4Addr, io::Error> =
            refused.into_iter().map(|(which, error)| (new[which].0, error)).collect();
        if !refused.is_empty() {
            gone.extend(self.give_up(&refused, &there, &mut wanted)?);
        }
        let proxies: Vec<Proxy> = wanted.proxies.difference(&there.proxies).copied().collect();
        self.socket.request_each(&addition(RTM_NEWNEIGH, proxy), &proxies).all()?;
        removed?;
        hushed?;
        let changed = Changed {
            added: wanted.routes.difference(&there.routes).count(),
            gone: gone.iter().map(|route| route.0).collect(),
            fresh: wanted
                .routes
                .iter()
                .map(|one| one.0)
                .filter(|to| !before.contains(to))
                .collect(),
            refused,
        };
        // What was refused is tried again.
        self.made_for = changed.refused.is_empty().then_some(made_for);
        self.there = Some(wanted);
        Ok(changed)
    }

    /// Takes away what there is of those that were refused, which leads to where they have been: without
    /// a route of their own, nobody is told that they are here. Returns the routes.
    fn give_up(
        &mut self,
        refused: &BTreeMap<Ipv4Addr, io::Error>,
        there: &Ways,
        wanted: &mut Ways,
    ) -> Result<Vec<Route>, ApplyError> {
        wanted.routes.retain(|route| !refused.contains_key(&route.0));
        wanted.proxies.retain(|(_, address)| !refused.contains_key(address));
        let is_one = |address| refused.contains_key(address);
        let routes = there.routes.iter().filter(|route| is_one(&route.0)).copied();
        let proxies = there.proxies.iter().filter(|(_, address)| is_one(address)).copied();
        let (routes, proxies): (Vec<Route>, Vec<Proxy>) = (routes.collect(), proxies.collect());
        let hushed = self.socket.request_each(&removal(RTM_DELNEIGH, proxy), &proxies).all();
        self.socket.request_each(&removal(RTM_DELROUTE, route), &routes).all()?;
        hushed.map(|()| routes)
    }

    /// By default Linux lets a random time of up to 0.8 seconds pass before it answers for another.
    fn answer_promptly(&mut self, outside: &[Interface]) -> Result<(), ApplyError> {
        for interface in outside {
            if !self.prompt.contains(&interface.index) {
                sysctl::no_proxy_delay(&interface.name)?;
                self.prompt.insert(interface.index);
            }
        }
        Ok(())
    }

    /// Lists what is of ours.
    pub(crate) fn list(&mut self) -> io::Result<Ways> {
        let mut ways = Ways::default();
        let mut request = Vec::new();
        wire::message(&mut request, RTM_GETROUTE, NLM_F_DUMP, 1, |m| {
            m.extend_from_slice(&[AF_INET, 0, 0, 0, TABLE_MAIN, 0, 0, 0, 0, 0, 0, 0]);
        });
        self.socket.dump(&request, |one| {
            let ours = one.kind == RTM_NEWROUTE
                && one.body.get(1) == Some(&32)
                && one.body.get(4..6) == Some(&[TABLE_MAIN, ROUTE_PROTOCOL]);
            let attrs = one.body.get(12..).filter(|_| ours).unwrap_or_default();
            let address = |kind| wire::find(attrs, kind).and_then(wire::address);
            if let (Some(to), Some(via)) = (address(1), address(5)) {
                ways.routes.insert((to, via, address(7)));
            }
        })?;
        let mut request = Vec::new();
        wire::message(&mut request, RTM_GETNEIGH, NLM_F_DUMP, 1, |m| {
            m.extend_from_slice(&[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, NTF_PROXY, 0]);
        });
        self.socket.dump(&request, |one| {
            let attrs = one.body.get(12..).unwrap_or_default();
            let ours = one.kind == RTM_NEWNEIGH
                && one.body.get(10).is_some_and(|flags| flags & NTF_PROXY != 0)
                && wire::find(attrs, 12) == Some(&[ROUTE_PROTOCOL]);
            let index = one.body.get(4..8).and_then(|bytes| bytes.first_chunk::<4>());
            let address = wire::find(attrs, 1).and_then(wire::address);
            if let (true, Some(index), Some(address)) = (ours, index, address) {
                ways.proxies.insert((i32::from_ne_bytes(*index), address));
            }
        })?;
        Ok(ways)
    }
}

fn addition<E>(kind: u16, encode: E) -> Request<E> {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Request { tried: "add the ways to elastic IPs", kind, flags, forgiven: |_| false, encode }
}

fn removal<E>(kind: u16, encode: E) -> Request<E> {
    // Of an interface that is gone its entries are, too.
    let forgiven = |code| [libc::ESRCH, libc::ENOENT, libc::ENODEV].contains(&code);
    Request { tried: "remove the ways to elastic IPs", kind, flags: 0, forgiven, encode }
}

fn route(m: &mut Vec<u8>, (to, via, preferred_source): &Route) {
    m.extend_from_slice(&[AF_INET, 32, 0, 0, TABLE_MAIN, ROUTE_PROTOCOL, SCOPE_UNIVERSE]);
    m.extend_from_slice(&[TYPE_UNICAST, 0, 0, 0, 0]);
    attr(m, 1, &to.octets());
    attr(m, 5, &via.octets());
    attr(m, 6, &METRIC.to_ne_bytes());
    if let Some(source) = preferred_source {
        attr(m, 7, &source.octets());
    }
}

fn proxy(m: &mut Vec<u8>, (index, address): &Proxy) {
    m.extend_from_slice(&[AF_INET, 0, 0, 0]);
    m.extend_from_slice(&index.to_ne_bytes());
    m.extend_from_slice(&[0, 0, NTF_PROXY, 0]);
    attr(m, 1, &address.octets());
    attr(m, 12, &[ROUTE_PROTOCOL]);
}

//! A `local` /32 route for each attached elastic IP: the host holds it, and answers ARP for it.
//!
//! Held by a route and not by an address of an interface, an elastic IP costs no entry in
//! `ip addr`, never becomes a source that the host picks by itself (the route names the host's
//! own address as preferred source), and is told from everyone else's by its protocol number.
//! Sources: `linux/rtnetlink.h`; `net/ipv4/arp.c` answers for what is of type `local`.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;

use nix::sys::socket::SockProtocol;

use crate::error::ApplyError;
use crate::requests::Request;
use crate::socket::Netlink;
use crate::wire::{self, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, attr};

/// Marks our routes (`proto 225` in `ip route show table local`). Not among those that
/// `linux/rtnetlink.h` or iproute2's `rt_protos` give to anyone.
pub const ROUTE_PROTOCOL: u8 = 0xE1;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const AF_INET: u8 = 2;
const TABLE_LOCAL: u8 = 255;
const TYPE_LOCAL: u8 = 2;
const SCOPE_HOST: u8 = 254;
/// The loopback interface is the first of every namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: i32 = 1;

/// The destination of a route of ours, and its preferred source.
pub(crate) type Held = (Ipv4Addr, Option<Ipv4Addr>);

#[derive(Debug)]
pub(crate) struct Routes {
    socket: Netlink,
}

impl Routes {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: Netlink::open(SockProtocol::NetlinkRoute, 0)? })
    }

    /// Lists the routes of our protocol.
    pub(crate) fn list(&mut self) -> Result<BTreeSet<Held>, ApplyError> {
        let mut request = Vec::new();
        wire::message(&mut request, RTM_GETROUTE, NLM_F_DUMP, 1, |m| {
            m.extend_from_slice(&[AF_INET, 0, 0, 0, TABLE_LOCAL, 0, 0, 0, 0, 0, 0, 0]);
        });
        let mut found = BTreeSet::new();
        let listed = self.socket.dump(&request, |one| {
            let ours = one.kind == RTM_NEWROUTE
                && one.body.get(1) == Some(&32)
                && one.body.get(4..6) == Some(&[TABLE_LOCAL, ROUTE_PROTOCOL]);
            let attrs = one.body.get(12..).filter(|_| ours).unwrap_or_default();
            if let Some(to) = wire::find(attrs, 1).and_then(wire::address) {
                found.insert((to, wire::find(attrs, 7).and_then(wire::address)));
            }
        });
        listed.map_err(|source| ApplyError::Look { what: "the routes", source })?;
        Ok(found)
    }

    /// Adds routes, or gives those that are there another preferred source.
    pub(crate) fn add(&mut self, routes: &[Held]) -> Result<(), ApplyError> {
        let add = Request {
            tried: "add routes to elastic IPs",
            kind: RTM_NEWROUTE,
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            forgiven: |_| false,
            encode,
        };
        self.socket.request_each(&add, routes).all()
    }

    /// Removes routes; one that is gone already is what was wanted.
    pub(crate) fn remove(&mut self, routes: &[Held]) -> Result<(), ApplyError> {
        let remove = Request {
            tried: "remove routes to elastic IPs",
            kind: RTM_DELROUTE,
            flags: 0,
            forgiven: |code| code == libc::ESRCH,
            encode,
        };
        self.socket.request_each(&remove, routes).all()
    }
}

fn encode(m: &mut Vec<u8>, (to, preferred_source): &Held) {
    m.extend_from_slice(&[AF_INET, 32, 0, 0, TABLE_LOCAL, ROUTE_PROTOCOL, SCOPE_HOST, TYPE_LOCAL]);
    m.extend_from_slice(&[0; 4]);
    attr(m, 1, &to.octets());
    attr(m, 4, &LOOPBACK.to_ne_bytes());
    if let Some(source) = preferred_source {
        attr(m, 7, &source.octets());
    }
}

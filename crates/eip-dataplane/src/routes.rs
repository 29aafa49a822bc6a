//! A local route for each attached elastic IP: what makes the host take its packets, answer for it
//! by ARP on the link, and reach it itself.
//!
//! All carry a protocol number of our own, so that what a crash left behind is told from what
//! others made. Source: `linux/rtnetlink.h`.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;

use crate::socket::Netlink;
use crate::wire::{
    NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLMSG_ERROR, address, attr, find, message,
};

/// `ip route` shows it as `proto 225`. Numbers above 192 belong to whoever takes them.
pub(crate) const PROTOCOL: u8 = 225;

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const FAMILY_IPV4: u8 = 2;
const TABLE_LOCAL: u8 = 255;
const SCOPE_HOST: u8 = 254;
const TYPE_LOCAL: u8 = 2;
const DESTINATION: u16 = 1;
const OUT_INTERFACE: u16 = 4;
const PREFERRED_SOURCE: u16 = 7;
/// In every network namespace.
const LOOPBACK: i32 = 1;
/// So many routes are sent at a time: well below what a socket takes.
const AT_A_TIME: usize = 1000;

/// Lists the addresses that we have a route for.
pub(crate) fn list(socket: &mut Netlink) -> io::Result<BTreeSet<Ipv4Addr>> {
    let mut request = Vec::new();
    message(&mut request, GET_ROUTE, NLM_F_DUMP, 1, |b| head(b, 0));
    let mut found = BTreeSet::new();
    socket.dump(&request, |one| {
        let Some((head, attributes)) = one.body.split_at_checked(12) else { return };
        let ours = one.kind == NEW_ROUTE && head[5] == PROTOCOL && head[7] == TYPE_LOCAL;
        if ours && head[1] == 32 {
            found.extend(find(attributes, DESTINATION).and_then(address));
        }
    })?;
    Ok(found)
}

/// Adds routes. The host itself speaks to the addresses as `source`, not as the address itself.
pub(crate) fn add(
    socket: &mut Netlink,
    addresses: impl Iterator<Item = Ipv4Addr>,
    source: Option<Ipv4Addr>,
) -> io::Result<()> {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    send(socket, NEW_ROUTE, flags, addresses, source, |_| false)
}

/// Removes routes; one that is gone already is no error.
pub(crate) fn remove(
    socket: &mut Netlink,
    addresses: impl Iterator<Item = Ipv4Addr>,
) -> io::Result<()> {
    send(socket, DELETE_ROUTE, 0, addresses, None, |code| code == libc::ESRCH)
}

fn send(
    socket: &mut Netlink,
    kind: u16,
    flags: u16,
    addresses: impl Iterator<Item = Ipv4Addr>,
    source: Option<Ipv4Addr>,
    fine: fn(i32) -> bool,
) -> io::Result<()> {
    let mut addresses = addresses.peekable();
    while addresses.peek().is_some() {
        let mut bytes = Vec::new();
        for (address, sequence) in addresses.by_ref().take(AT_A_TIME).zip(1..) {
            message(&mut bytes, kind, flags, sequence, |b| {
                head(b, 32);
                attr(b, DESTINATION, &address.octets());
                attr(b, OUT_INTERFACE, &LOOPBACK.to_ne_bytes());
                if let Some(source) = source {
                    attr(b, PREFERRED_SOURCE, &source.octets());
                }
            });
        }
        let mut refusal = None;
        socket.exchange(&bytes, |answer| {
            if let (NLMSG_ERROR, Some(code @ 1..)) = (answer.kind, answer.errno())
                && !fine(code)
            {
                refusal.get_or_insert(code);
            }
        })?;
        if let Some(code) = refusal {
            return Err(io::Error::from_raw_os_error(code));
        }
    }
    Ok(())
}

fn head(b: &mut Vec<u8>, prefix: u8) {
    b.extend([FAMILY_IPV4, prefix, 0, 0, TABLE_LOCAL, PROTOCOL, SCOPE_HOST, TYPE_LOCAL]);
    b.extend([0; 4]);
}

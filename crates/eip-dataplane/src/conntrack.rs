//! Forgetting the flows of an attachment that has ended.
//!
//! By the time of the sweep nothing is carried for them any more: conntrack zones hide most of them
//! from the packets of the next attachment, and the `pairs` rule drops the rest. The sweep lets
//! those that go on speaking begin anew, instead of being dropped for as long as they speak. It
//! costs a walk through the whole conntrack table (about 0.45 us an entry), so it comes after the
//! change has been told, never before: a flow forgotten earlier would come back as it was.
//!
//! Source: `linux/netfilter/nfnetlink_conntrack.h`.

use std::io;
use std::net::Ipv4Addr;

use crate::socket::Netlink;
use crate::wire::{NLM_F_ACK, NLMSG_ERROR, attr, message, nest};

const SUBSYSTEM: u16 = 1;
const DELETE: u16 = 2;
const FAMILY_IPV4: u8 = 2;
/// Says that the filter is meant, and that a deletion without one is not everything.
const VERSION: u8 = 1;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const IPV4_DESTINATION: u16 = 2;
const FILTER_ORIGINAL_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
const BY_IP_DESTINATION: u32 = 1 << 1;

/// Forgets the flows that were sent to the address, and those that were sent by it.
pub(crate) fn forget(socket: &mut Netlink, address: Ipv4Addr) -> io::Result<()> {
    // What an instance sent by the address is known by its replies, which come to the address.
    for (tuple, flags) in
        [(TUPLE_ORIGINAL, FILTER_ORIGINAL_FLAGS), (TUPLE_REPLY, FILTER_REPLY_FLAGS)]
    {
        let mut bytes = Vec::new();
        message(&mut bytes, SUBSYSTEM << 8 | DELETE, NLM_F_ACK, 1, |b| {
            b.extend([FAMILY_IPV4, VERSION, 0, 0]);
            nest(b, tuple, |b| {
                nest(b, TUPLE_IP, |b| attr(b, IPV4_DESTINATION, &address.octets()));
            });
            // In the order of the host, unlike most of netfilter.
            nest(b, FILTER, |b| attr(b, flags, &BY_IP_DESTINATION.to_ne_bytes()));
        });
        let mut refusal = None;
        socket.exchange(&bytes, |answer| {
            if let (NLMSG_ERROR, Some(code @ 1..)) = (answer.kind, answer.errno())
                && code != libc::ENOENT
            {
                refusal = Some(code);
            }
        })?;
        if let Some(code) = refusal {
            return Err(io::Error::from_raw_os_error(code));
        }
    }
    Ok(())
}

//! The elements of the sets: what they look like on the wire, and how they are cut into messages.

use std::net::Ipv4Addr;

use eip_model::{AliasTarget, Ipv4Range, LocalNetwork, OrdMap};

use crate::table::{ALIASES, DN, SN, SPEAKERS, TABLE, ZD};
use crate::wire::{attr, attr_be32, attr_str, nest};

/// A nested list is at most 64 KiB long (its length is 16 bits); an element takes up to 48 bytes.
const LIST_LIMIT: usize = 60_000;
const INTERVAL_END: u32 = 1;

/// A key, what it maps to, and whether it is the end of an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    key: Bytes,
    value: Option<Bytes>,
    ends: bool,
}

/// Up to 28 bytes: an address, two, a zone, the name of an interface or a speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bytes {
    bytes: [u8; 28],
    length: usize,
}

impl Bytes {
    fn new(from: &[u8]) -> Self {
        let mut bytes = [0; 28];
        bytes[..from.len()].copy_from_slice(from);
        Self { bytes, length: from.len() }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Element {
    fn key(key: &[u8]) -> Self {
        Self { key: Bytes::new(key), value: None, ends: false }
    }

    fn map(key: &[u8], value: &[u8]) -> Self {
        Self { key: Bytes::new(key), value: Some(Bytes::new(value)), ends: false }
    }

    fn encode(&self, buf: &mut Vec<u8>) {
        nest(buf, 1, |b| {
            if self.ends {
                attr_be32(b, 3, INTERVAL_END);
            }
            nest(b, 1, |b| attr(b, 1, self.key.get()));
            if let Some(value) = &self.value {
                nest(b, 2, |b| attr(b, 1, value.get()));
            }
        });
    }
}

/// Writes the body of a message that adds or deletes elements of a set: as many as go into one.
pub(crate) fn encode_elements(
    buf: &mut Vec<u8>,
    set: &str,
    elements: &mut impl Iterator<Item = Element>,
) {
    encode_set_name(buf, set);
    nest(buf, 3, |b| {
        let start = b.len();
        while b.len() - start <= LIST_LIMIT
            && let Some(element) = elements.next()
        {
            element.encode(b);
        }
    });
}

/// The body that, in a deletion, stands for every element of the set.
pub(crate) fn encode_set_name(buf: &mut Vec<u8>, set: &str) {
    attr_str(buf, 1, TABLE);
    attr_str(buf, 2, set);
}

pub(crate) type Pair = (Ipv4Addr, Ipv4Addr);

type MakeElement = fn(Pair) -> Element;

/// The maps that hold an attachment, and the element in each.
pub(crate) const ATTACHMENT_SETS: [(&str, MakeElement); 3] = [
    (DN, |(public, private)| Element::map(&public.octets(), &private.octets())),
    (SN, |(public, private)| Element::map(&private.octets(), &public.octets())),
    (ZD, |pair| Element::map(&pair.0.octets(), &zone(pair).to_ne_bytes())),
];

/// The set of attachments that are gone.
pub(crate) fn stale_elements(pairs: impl Iterator<Item = Pair>) -> impl Iterator<Item = Element> {
    pairs.map(|(public, private)| Element::key(&[public.octets(), private.octets()].concat()))
}

pub(crate) fn address_elements(
    addresses: impl Iterator<Item = Ipv4Addr>,
) -> impl Iterator<Item = Element> {
    addresses.map(|address| Element::key(&address.octets()))
}

/// The sets that hold an elastic IP that is on its instance's own interface, and its elements there.
pub(crate) fn alias_elements(
    public: Ipv4Addr,
    alias: &AliasTarget,
) -> impl Iterator<Item = (&'static str, Element)> {
    let public = public.octets();
    let speakers = alias.speakers.iter().map(move |one| {
        let mut key = [0; 28];
        key[..16].copy_from_slice(&interface_key(&one.interface));
        key[16..20].copy_from_slice(&public);
        key[20..26].copy_from_slice(&one.mac.octets());
        (SPEAKERS, Element::key(&key))
    });
    std::iter::once((ALIASES, Element::key(&public))).chain(speakers)
}

/// Returns the conntrack zone of an attachment: 1 to 65535, the same for the same pair for ever.
///
/// It is computed, not counted, so that a new process, a replaced table and a reboot all find
/// the flows of an attachment where they were, with no state kept and no map read back. An elastic
/// IP that comes back to an instance finds its old flows again; that is harmless, since such
/// a flow is rewritten to exactly the pair that is in force. Two attachments share a zone by
/// chance once in 65,535; flows of such a move are held back as stale and deleted by the
/// sweep instead of moving at once. Changing this function cuts every running flow once.
pub(crate) fn zone((public, private): Pair) -> u16 {
    // The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output.
    let mut z = u64::from(public.to_bits()) << 32 | u64::from(private.to_bits());
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    u16::try_from(z % 65_535 + 1).expect("1 to 65535")
}

/// Inclusive, ordered, neither overlapping nor adjacent.
pub(crate) type Intervals = Vec<(u32, u32)>;

/// Joins what overlaps or touches: the kernel refuses overlapping intervals.
pub(crate) fn merge(mut intervals: Intervals) -> Intervals {
    intervals.sort_unstable();
    let mut merged: Intervals = Vec::new();
    for (first, last) in intervals {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn subtract(from: &[(u32, u32)], holes: &[(u32, u32)]) -> Intervals {
    let mut left = Vec::new();
    for &(first, last) in from {
        let mut at = Some(first);
        for &(hole_first, hole_last) in holes.iter().filter(|h| h.1 >= first && h.0 <= last) {
            if let Some(start) = at
                && start < hole_first
            {
                left.push((start, hole_first - 1));
            }
            at = at.and_then(|_| hole_last.checked_add(1)).filter(|next| *next <= last);
        }
        left.extend(at.map(|start| (start, last)));
    }
    left
}

/// Returns what the guards are for: the ranges, less what is the host's and the instances' own.
///
/// The default pool is the shared address space of RFC 6598, in which a host may well have an
/// address of its own (an access network, an overlay): guarding that would cut it off.
pub(crate) fn pool_intervals(
    ranges: &[Ipv4Range],
    networks: &[LocalNetwork],
    own: impl Iterator<Item = Ipv4Addr>,
) -> Intervals {
    let all = merge(ranges.iter().map(|r| (r.first().to_bits(), r.last().to_bits())).collect());
    let mut holes = private_intervals(networks.iter());
    holes.extend(own.map(|address| (address.to_bits(), address.to_bits())));
    subtract(&all, &merge(holes))
}

pub(crate) fn private_intervals<'a>(networks: impl Iterator<Item = &'a LocalNetwork>) -> Intervals {
    let ends =
        |net: &LocalNetwork| (net.subnet.network().to_bits(), net.subnet.broadcast().to_bits());
    merge(networks.map(ends).collect())
}

/// Returns what is no further away than the host: the subnets of the instances, the host's own
/// addresses, and what leaves no network: loopback, multicast, broadcast.
pub(crate) fn near_intervals(
    networks: &[LocalNetwork],
    own: impl Iterator<Item = Ipv4Addr>,
) -> Intervals {
    const LOOPBACK: (u32, u32) = (0x7f00_0000, 0x7fff_ffff);
    const MULTICAST_AND_BROADCAST: (u32, u32) = (0xe000_0000, u32::MAX);
    let mut near = private_intervals(networks.iter());
    near.extend(own.map(|address| (address.to_bits(), address.to_bits())));
    near.extend([LOOPBACK, MULTICAST_AND_BROADCAST]);
    merge(near)
}

/// Returns an interval set's elements: each start, and each first address behind an end.
pub(crate) fn interval_elements(intervals: &[(u32, u32)]) -> Vec<Element> {
    intervals
        .iter()
        .flat_map(|&(first, last)| {
            let end = last
                .checked_add(1)
                .map(|next| Element { ends: true, ..Element::key(&next.to_be_bytes()) });
            std::iter::once(Element::key(&first.to_be_bytes())).chain(end)
        })
        .collect()
}

/// Returns the elements of a set of interface names, padded with zeros to `IFNAMSIZ`.
pub(crate) fn interface_elements<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Element> {
    names.map(|name| Element::key(&interface_key(name))).collect()
}

fn interface_key(name: &str) -> [u8; 16] {
    let mut key = [0; 16];
    let length = name.len().min(15);
    key[..length].copy_from_slice(&name.as_bytes()[..length]);
    key
}

/// Finds two elastic IPs that share a private address, which no set of maps can hold.
pub(crate) fn shared_target(targets: &OrdMap<Ipv4Addr, Ipv4Addr>) -> Option<(Pair, Ipv4Addr)> {
    let turned = targets.iter().map(|(public, private)| (*private, *public));
    let mut by_private: Vec<(Ipv4Addr, Ipv4Addr)> = turned.collect();
    by_private.sort_unstable();
    let shared = by_private.windows(2).find(|two| two[0].0 == two[1].0)?;
    Some(((shared[1].1, shared[1].0), shared[0].1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn a_zone_belongs_to_the_pair_and_never_changes() {
        assert_eq!(zone((ip("100.64.0.1"), ip("10.0.0.11"))), 40_144);
        let other = zone((ip("100.64.0.1"), ip("10.0.0.12")));
        assert_ne!(other, 40_144);
        let all: std::collections::BTreeSet<_> =
            (0..1000_u32).map(|n| zone((Ipv4Addr::from_bits(n), ip("10.0.0.1")))).collect();
        assert!(all.len() > 980 && !all.contains(&0));
    }

    #[test]
    fn the_hosts_own_addresses_and_the_instances_subnets_are_not_guarded() {
        let ranges = ["100.64.0.0/30".parse().unwrap(), "100.64.0.4/30".parse().unwrap()];
        let networks = [LocalNetwork::new("br0", "100.64.0.6/31".parse().unwrap())];
        let own = [ip("100.64.0.2"), ip("192.0.2.1")];
        let found = pool_intervals(&ranges, &networks, own.into_iter());
        let at = |last: u32| ip("100.64.0.0").to_bits() + last;
        assert_eq!(found, [(at(0), at(1)), (at(3), at(5))]);
    }

    #[test]
    fn an_interval_may_end_with_the_last_address_there_is() {
        assert_eq!(interval_elements(&[(u32::MAX - 1, u32::MAX)]).len(), 1);
        assert_eq!(
            subtract(&[(0, u32::MAX)], &[(0, 4), (u32::MAX, u32::MAX)]),
            [(5, u32::MAX - 1)]
        );
    }

    #[test]
    fn a_private_address_with_two_elastic_ips_is_found() {
        let mut targets = OrdMap::unit(ip("100.64.0.1"), ip("10.0.0.1"));
        assert_eq!(shared_target(&targets), None);
        targets.insert(ip("100.64.0.2"), ip("10.0.0.1"));
        assert_eq!(
            shared_target(&targets),
            Some(((ip("100.64.0.2"), ip("10.0.0.1")), ip("100.64.0.1")))
        );
    }
}

//! The small sets of the table: what the host and its networks look like, attachments aside.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use eip_model::{Ipv4Range, LocalNetwork};

use crate::elements::{
    Element, Intervals, address_elements, interface_elements, interval_elements, near_intervals,
    pool_intervals, private_intervals,
};
use crate::table::{BLOCKS, HIDDEN, INSIDE, POOL, PRIVNETS};

/// What is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    inside: BTreeSet<String>,
    pub(crate) pool: Intervals,
    private: Intervals,
    hidden: Intervals,
    /// Not in the table: what the sweep leaves alone.
    pub(crate) near: Intervals,
}

impl Sets {
    /// `own` are the addresses of the host itself.
    pub(crate) fn new(
        ranges: &[Ipv4Range],
        networks: &[LocalNetwork],
        own: impl Iterator<Item = Ipv4Addr>,
    ) -> Self {
        let own: Vec<Ipv4Addr> = own.collect();
        Self {
            inside: networks.iter().map(|network| network.interface.clone()).collect(),
            pool: pool_intervals(ranges, networks, own.iter().copied()),
            private: private_intervals(networks.iter()),
            hidden: private_intervals(networks.iter().filter(|network| !network.routed)),
            near: near_intervals(networks, own.into_iter()),
        }
    }

    /// Whether the table is the same with the other.
    pub(crate) fn looks_like(&self, other: &Self) -> bool {
        let with_near = |sets: &Self| Self { near: self.near.clone(), ..sets.clone() };
        *self == with_near(other)
    }

    /// Returns each set's name and elements.
    pub(crate) fn elements(&self) -> [(&'static str, Vec<Element>); 5] {
        [
            (INSIDE, interface_elements(self.inside.iter().map(String::as_str))),
            (POOL, interval_elements(&self.pool)),
            (BLOCKS, address_elements(blocks(&self.pool).into_iter()).collect()),
            (PRIVNETS, interval_elements(&self.private)),
            (HIDDEN, interval_elements(&self.hidden)),
        ]
    }
}

/// The first addresses of the blocks of 65,536 in which intervals have a part.
fn blocks(intervals: &Intervals) -> BTreeSet<Ipv4Addr> {
    let of = |&(first, last): &(u32, u32)| first >> 16..=last >> 16;
    intervals.iter().flat_map(of).map(|block| Ipv4Addr::from_bits(block << 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_with_a_part_of_an_interval_is_there_once() {
        let found = blocks(&vec![
            (0x6440_fffe, 0x6442_0000),
            (0x6442_0002, 0x6442_0003),
            (u32::MAX, u32::MAX),
        ]);
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["100.64.0.0", "100.65.0.0", "100.66.0.0", "255.255.0.0"]);
    }
}

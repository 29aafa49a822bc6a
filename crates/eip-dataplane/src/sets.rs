//! The small sets of the table: what the host and its networks look like, attachments aside.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use eip_model::{Ipv4Range, LocalNetwork};

use crate::elements::{
    Element, Intervals, interface_elements, interval_elements, near_intervals, pool_intervals,
    private_intervals,
};
use crate::table::{HIDDEN, INSIDE, POOL, PRIVNETS};

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
    pub(crate) fn elements(&self) -> [(&'static str, Vec<Element>); 4] {
        [
            (INSIDE, interface_elements(self.inside.iter().map(String::as_str))),
            (POOL, interval_elements(&self.pool)),
            (PRIVNETS, interval_elements(&self.private)),
            (HIDDEN, interval_elements(&self.hidden)),
        ]
    }
}

//! Pools of addresses.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::address::Ipv4Range;
use crate::mode::Mode;
use crate::names::PoolName;

/// A pool as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    pub name: PoolName,
    /// Do not overlap, in the order in which they are used up.
    pub ranges: Vec<Ipv4Range>,
    /// How long a released address sleeps, in seconds.
    pub quarantine_seconds: u32,
    /// How its elastic IPs reach instances, unless a caller says otherwise.
    pub mode: Mode,
}

impl PoolConfig {
    /// Returns the range that `address` lies in.
    #[must_use]
    pub fn range_of(&self, address: Ipv4Addr) -> Option<Ipv4Range> {
        self.ranges.iter().copied().find(|range| range.contains(address))
    }
}

/// The addresses of a range that nobody gets: the first and the last of one with more than two, as
/// they are the network's and the broadcast address where the range is a prefix on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved;

impl Reserved {
    /// Returns the offsets of `range` that are never handed out.
    pub fn offsets(range: Ipv4Range) -> impl Iterator<Item = u32> {
        let size = range.size();
        let ends = if size > 2 { vec![0, size - 1] } else { Vec::new() };
        ends.into_iter()
    }

    #[must_use]
    pub fn holds(range: Ipv4Range, address: Ipv4Addr) -> bool {
        range.offset_of(address).is_some_and(|at| Self::offsets(range).any(|one| one == at))
    }
}

/// A pool as callers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pool {
    #[schema(value_type = String)]
    pub name: PoolName,
    #[schema(value_type = Vec<String>)]
    pub ranges: Vec<Ipv4Range>,
    /// Addresses that can be handed out at all.
    pub size: u64,
    /// Held by a project, associated or not.
    pub allocated: u64,
    pub associated: u64,
    /// Released, and asleep.
    pub quarantined: u64,
    pub free: u64,
    pub quarantine_seconds: u32,
    /// How its elastic IPs reach instances, unless a caller says otherwise.
    pub mode: Mode,
}

/// All pools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolList {
    pub items: Vec<Pool>,
    pub next_cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_a_range_are_kept_back_unless_nothing_would_be_left() {
        let range: Ipv4Range = "203.0.113.0/28".parse().unwrap();
        assert!(Reserved::holds(range, Ipv4Addr::new(203, 0, 113, 0)));
        assert!(Reserved::holds(range, Ipv4Addr::new(203, 0, 113, 15)));
        assert!(!Reserved::holds(range, Ipv4Addr::new(203, 0, 113, 1)));
        let single: Ipv4Range = "203.0.113.7/32".parse().unwrap();
        assert!(!Reserved::holds(single, Ipv4Addr::new(203, 0, 113, 7)));
    }
}

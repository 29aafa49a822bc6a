//! Pools of addresses.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::address::Ipv4Range;
use crate::given::given;
use crate::mode::Mode;
use crate::names::{PoolName, ProjectName};

/// A pool as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolConfig {
    pub name: PoolName,
    /// Do not overlap, in the order in which they are used up.
    pub ranges: Vec<Ipv4Range>,
    /// How long a released address sleeps, in seconds.
    pub quarantine_seconds: u32,
    /// How its elastic IPs reach instances, unless a caller says otherwise.
    pub mode: Mode,
    /// Addresses that nobody gets, beside the ends of the ranges ([`Reserved`]).
    pub reserved: Vec<Ipv4Addr>,
    /// The projects that may use it; `None` for all.
    pub projects: Option<Vec<ProjectName>>,
    /// Whether it hands out nothing any more.
    pub draining: bool,
}

impl PoolConfig {
    /// A pool that everyone may use.
    #[must_use]
    pub const fn of(name: PoolName, ranges: Vec<Ipv4Range>) -> Self {
        Self {
            name,
            ranges,
            quarantine_seconds: 600,
            mode: Mode::Nat,
            reserved: Vec::new(),
            projects: None,
            draining: false,
        }
    }

    /// How many addresses can be handed out at all.
    #[must_use]
    pub fn size(&self) -> u64 {
        let usable =
            |range: &Ipv4Range| u64::from(range.size()) - Reserved::offsets(*range).count() as u64;
        let ranges: u64 = self.ranges.iter().map(usable).sum();
        let more = self.reserved.iter().filter(|address| {
            self.range_of(**address).is_some_and(|range| !Reserved::holds(range, **address))
        });
        ranges - more.count() as u64
    }

    /// Whether nobody gets the address.
    #[must_use]
    pub fn reserves(&self, address: Ipv4Addr) -> bool {
        self.reserved.contains(&address)
            || self.range_of(address).is_some_and(|range| Reserved::holds(range, address))
    }

    /// Whether elastic IPs of the project may come from it.
    #[must_use]
    pub fn admits(&self, project: &ProjectName) -> bool {
        self.projects.as_ref().is_none_or(|all| all.contains(project))
    }

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
    /// Addresses that nobody gets, beside the first and the last of each range.
    #[schema(value_type = Vec<String>)]
    #[serde(default)]
    pub reserved: Vec<Ipv4Addr>,
    /// The projects that may use it; `null` for all.
    #[serde(default)]
    pub projects: Option<Vec<ProjectName>>,
    /// Whether it hands out nothing any more.
    #[serde(default)]
    pub draining: bool,
}

/// `POST /pools`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePoolRequest {
    pub name: PoolName,
    /// Prefixes (`203.0.113.0/24`) or first and last address (`203.0.113.4-203.0.113.9`), 1 to 256.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 256, example = json!(["203.0.113.0/24"]))]
    pub ranges: Vec<Ipv4Range>,
    /// How long a released address sleeps, in seconds; by default 600.
    #[schema(value_type = Option<u64>, maximum = 4294967295_u32)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine_seconds: Option<u32>,
    #[serde(default)]
    pub mode: Mode,
    /// Addresses that nobody gets, beside the first and the last of each range.
    #[schema(value_type = Vec<String>, max_items = 4096)]
    #[serde(default)]
    pub reserved: Vec<Ipv4Addr>,
    /// The projects that may use it; without, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projects: Option<Vec<ProjectName>>,
}

/// `PATCH /pools/{name}`: what is given is changed, what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdatePoolRequest {
    /// Ranges that it has besides from now on.
    #[schema(value_type = Vec<String>, max_items = 256)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_ranges: Vec<Ipv4Range>,
    #[schema(value_type = Option<u64>, maximum = 4294967295_u32)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// All of them: those that are left out can be handed out.
    #[schema(value_type = Option<Vec<String>>, max_items = 4096)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Vec<Ipv4Addr>>,
    /// The projects that may use it; `null` for all.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<ProjectName>>)]
    pub projects: Option<Option<Vec<ProjectName>>>,
    /// Whether it hands out nothing any more. What is held stays held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining: Option<bool>,
}

/// `GET /pools/{name}/map`: how full a pool is, block by block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolMap {
    pub pool: PoolName,
    /// When it was drawn.
    #[schema(value_type = String, format = "date-time")]
    pub as_of: Timestamp,
    /// How many addresses a cell stands for; the last of a range may stand for fewer.
    pub addresses_per_cell: u32,
    /// In the order of the addresses, at most 4,096.
    pub cells: Vec<PoolCell>,
}

/// Some addresses that follow one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolCell {
    #[schema(value_type = String, format = "ipv4")]
    pub first: Ipv4Addr,
    pub size: u32,
    pub allocated: u32,
    pub associated: u32,
    pub quarantined: u32,
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

//! How much an elastic IP carries.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::ElasticIpId;

/// Packets, and the bytes of their IP packets, to an elastic IP and from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
}

impl Volume {
    /// Returns what came since `before`, of counters that begin anew when the kernel lost them.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        let went_on = self.packets_in >= before.packets_in
            && self.bytes_in >= before.bytes_in
            && self.packets_out >= before.packets_out
            && self.bytes_out >= before.bytes_out;
        if !went_on {
            return self;
        }
        Self {
            packets_in: self.packets_in - before.packets_in,
            bytes_in: self.bytes_in - before.bytes_in,
            packets_out: self.packets_out - before.packets_out,
            bytes_out: self.bytes_out - before.bytes_out,
        }
    }

    /// Returns both together; at the end of what can be counted it stays there.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            packets_in: self.packets_in.saturating_add(more.packets_in),
            bytes_in: self.bytes_in.saturating_add(more.bytes_in),
            packets_out: self.packets_out.saturating_add(more.packets_out),
            bytes_out: self.bytes_out.saturating_add(more.bytes_out),
        }
    }
}

/// What an elastic IP has carried since it was first counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    #[serde(flatten)]
    pub volume: Volume,
    /// When its host first told of it; nothing is known of the time before.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub since: Option<Timestamp>,
    /// When its host last told that there was more.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub at: Option<Timestamp>,
}

/// What the kernel of a host has counted, of those elastic IPs that carried something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficReport {
    pub counted: Vec<Counted>,
    /// Of all elastic IPs that were ever here, since the agent began.
    pub total: Volume,
}

/// The counters of one elastic IP as they stand: not what came since the last report, so that a
/// report that arrives twice changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub public_ip: Ipv4Addr,
    pub elastic_ip_id: ElasticIpId,
    pub volume: Volume,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_begin_anew_are_taken_from_there() {
        let at = |packets_in, bytes_out| Volume { packets_in, bytes_out, ..Volume::default() };
        assert_eq!(at(7, 90).since(at(5, 90)), at(2, 0));
        assert_eq!(at(7, 90).since(at(7, 90)), Volume::default());
        assert_eq!(at(3, 200).since(at(5, 90)), at(3, 200));
    }
}

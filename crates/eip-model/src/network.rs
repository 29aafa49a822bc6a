//! The networks of a host that its instances live in.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// A network of one host with instances behind it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LocalNetwork {
    /// The interface of the host that leads to the instances: a bridge, as a rule.
    pub interface: String,
    pub subnet: Ipv4Net,
    /// Whether others know the way to its private addresses, so that they may leave the host as
    /// they are.
    #[serde(default)]
    pub routed: bool,
}

impl LocalNetwork {
    /// A network whose private addresses nobody outside knows.
    #[must_use]
    pub fn new(interface: &str, subnet: Ipv4Net) -> Self {
        Self { interface: interface.to_owned(), subnet, routed: false }
    }
}

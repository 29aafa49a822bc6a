//! The networks of a host that its instances live in.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// A network of one host with instances behind it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LocalNetwork {
    /// The interface of the host that leads to the instances: a bridge, as a rule.
    pub interface: String,
    pub subnet: Ipv4Net,
}

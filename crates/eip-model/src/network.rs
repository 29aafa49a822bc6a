//! The networks of a host that its instances live in.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::instance::Backend;

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
    /// Whose network it is, and its name there, as the interfaces of instances give it. Two networks
    /// may have overlapping subnets, but not one name.
    #[serde(default)]
    pub known_as: Option<(Backend, String)>,
}

impl LocalNetwork {
    /// A network whose private addresses nobody outside knows.
    #[must_use]
    pub fn new(interface: &str, subnet: Ipv4Net) -> Self {
        Self { interface: interface.to_owned(), subnet, routed: false, known_as: None }
    }

    /// The same, by the name that a backend gives it.
    #[must_use]
    pub fn known_as(self, backend: Backend, name: &str) -> Self {
        Self { known_as: Some((backend, name.to_owned())), ..self }
    }
}

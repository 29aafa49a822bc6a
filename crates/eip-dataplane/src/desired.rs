//! What the data plane is told.

use std::net::Ipv4Addr;

use eip_model::{AliasTarget, Ipv4Range, LocalNetwork, OrdMap};

/// Everything that should be in force on this host. A state that was made of another by a few changes is
/// told from it at the cost of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredState {
    /// Every range of every pool: what is kept from the host's own services, associated or not.
    pub ranges: Vec<Ipv4Range>,
    /// The networks with instances in them. Every other interface counts as outside.
    pub networks: Vec<LocalNetwork>,
    /// The private address of each elastic IP that is associated here in mode `nat`; no two share
    /// one.
    pub targets: OrdMap<Ipv4Addr, Ipv4Addr>,
    /// Where each elastic IP is that is associated here in mode `alias`. None of them is in `targets`.
    pub aliases: OrdMap<Ipv4Addr, AliasTarget>,
}

impl DesiredState {
    /// Whether an elastic IP is associated here, in whatever mode.
    pub(crate) fn has(&self, address: Ipv4Addr) -> bool {
        self.targets.contains_key(&address) || self.aliases.contains_key(&address)
    }
}

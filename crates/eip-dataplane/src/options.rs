//! What an operator chooses for the data plane of a host.

/// How the network around this host learns where an elastic IP is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Announce {
    /// By gratuitous ARP on every outside interface.
    #[default]
    Arp,
    /// Not from us: the upstream routes the pool to this host.
    None,
}

/// Whether the packets and bytes of each elastic IP are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Counters {
    #[default]
    On,
    Off,
}

/// The choices, fixed while the data plane is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    pub announce: Announce,
    pub counters: Counters,
}

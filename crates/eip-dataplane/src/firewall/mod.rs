//! Others' firewalls: the few accepts without which they drop what is sent to elastic IPs.
//!
//! An accept in our own table cannot overrule a drop in another, so the accept must be where the
//! drop is. Rules of ours carry the comment `eip`; nothing else of anyone is touched, and none is for
//! one address. The `iptables` of the system is asked, since it knows in which of the two kernel
//! interfaces the chains are; each question starts a process, so all this is apart from
//! [`crate::DataPlane::apply`].

mod docker;
mod docker_nft;
mod iptables;
mod libvirt;

use eip_model::Ipv4Range;

pub use docker::ensure_docker_accept;
pub use docker_nft::closed_by_docker;
pub use iptables::FirewallError;
pub use libvirt::{Doubts, ensure_libvirt_accept};

/// What the firewalls of others are to let through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Through {
    /// Flows whose destination was an elastic IP and is rewritten.
    #[default]
    Rewritten,
    /// As well what is sent to elastic IPs as they are, and what is sent from them.
    AliasesToo,
}

/// What became of our rules in somebody's firewall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// It is not there (or no `iptables` is), or rejects nothing that is ours: nothing to do.
    NotNeeded,
    AlreadyThere,
    /// So many rules were missing, or where they have no effect, and have been put in.
    Inserted(usize),
}

impl Accept {
    const fn after(inserted: usize) -> Self {
        if inserted == 0 { Self::AlreadyThere } else { Self::Inserted(inserted) }
    }
}

/// In every rule about flows that are rewritten.
const REWRITTEN: &str = "--ctorigdst";

/// Returns the match of flows that were sent to elastic IPs, for each prefix of the ranges.
fn to_pool(ranges: &[Ipv4Range]) -> impl Iterator<Item = String> {
    let prefixes = ranges.iter().flat_map(Ipv4Range::prefixes);
    prefixes.map(|prefix| format!("-m conntrack --ctstate DNAT {REWRITTEN} {prefix}"))
}

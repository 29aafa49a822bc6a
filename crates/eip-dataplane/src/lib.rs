//! The kernel side of one host: what makes packets reach the instance that an elastic IP points at.
//!
//! One nftables table of our own with constant rules, whose maps hold the attachments; a local
//! route for each attached address, so that the host answers for it on the link; gratuitous ARP
//! when it newly does; and the few switches that forwarding needs. The kernel is spoken to over
//! netlink; the only process that is ever started is `iptables`, for the one rule that Docker's
//! own firewall needs (see [`firewall`]).

mod arp;
mod conntrack;
mod elements;
mod expr;
pub mod firewall;
mod interfaces;
mod nftables;
mod plane;
mod routes;
mod socket;
mod sysctl;
mod table;
mod wire;

pub use plane::{ApplyError, DataPlane, DesiredState, OpenError};
pub use table::ACCEPT_MARK;

//! The kernel side of one host: nftables, routes, neighbours, conntrack, announcements.
//!
//! [`DataPlane::apply`] takes everything that should be in force and makes it so. What is in
//! force lives in the kernel alone: traffic flows on while nobody is there to call, and a new process
//! over an old table interrupts nothing.
//!
//! The calls block. All netlink is spoken by ourselves, to the network namespace of the thread that
//! called [`DataPlane::open`]; `apply` must be called in that namespace.
//!
//! # The instance that calls itself
//! An instance reaches its own elastic IP through the bridge it sits on. Where bridged frames are
//! filtered as IP (`net.bridge.bridge-nf-call-iptables=1`, which Docker sets), its port has to be in
//! hairpin mode for that; it is put in it while it has an elastic IP.
//!
//! # Limits
//! - What instances send to the outside with a private source that nobody has masqueraded goes out
//!   as the host, unless their network is said to be routed.
//! - An instance may still send with the *private* address of a neighbour on its bridge: whose frames
//!   carry which address is for the bridge to say, and there is no table of ours on it.
//! - Packets to an address of the pool that arrive on an interface and would leave by the same one
//!   are dropped: this host is no one-armed router for elastic IPs of others.
//! - IPv4 only.

mod aliases;
mod announce;
mod applied;
mod arp;
mod audit;
mod conntrack;
mod desired;
mod elements;
mod error;
mod expr;
#[cfg(feature = "faults")]
pub mod faults;
pub mod firewall;
mod hairpin;
mod host;
mod in_force;
mod nft;
mod options;
mod paths;
mod plane;
mod requests;
mod routes;
mod sets;
mod socket;
mod suspects;
mod sysctl;
mod table;
mod traffic;
mod wanted;
mod wire;

pub use applied::{Applied, Warning};
pub use audit::Audit;
pub use desired::DesiredState;
pub use error::{ApplyError, OpenError};
pub use options::{Announce, Counters, Options};
pub use plane::DataPlane;
pub use routes::ROUTE_PROTOCOL;
pub use table::ACCEPT_MARK;
pub use traffic::TrafficReader;

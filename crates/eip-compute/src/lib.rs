//! Compute backends: which instances run on this host, and what happens to them.
//!
//! A backend looks. It tells whoever watches it the whole truth as it knows it, at the start and again
//! after every change. The one thing that it changes, when it is asked to, is whether an elastic IP
//! is on an instance's own interface; all else of the network is the data plane's.

pub mod docker;
mod guest;
pub mod libvirt;
pub mod sandbox;
mod sight;

pub use guest::{Alias, GuestError, GuestTask};
pub use sight::{ComputeBackend, Listing, Sight};

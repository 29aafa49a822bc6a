//! Compute backends: which instances run on this host, and what happens to them.
//!
//! A backend only looks. It tells whoever watches it the whole truth as it knows it, at the start
//! and again after every change; it never changes an instance's network, which is the data plane's.

pub mod docker;
pub mod libvirt;
pub mod sandbox;
mod sight;

pub use sight::{ComputeBackend, Listing, Sight};

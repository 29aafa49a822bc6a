//! The kernel side as the agent needs it, so that tests can put one there that fails on demand.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use eip_model::{Ipv4Range, LocalNetwork};

/// Everything that must be in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub ranges: Vec<Ipv4Range>,
    /// Sorted, each once.
    pub networks: Vec<LocalNetwork>,
    /// Each elastic IP's private address.
    pub targets: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

/// What was tried, and the chain of what went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KernelError(pub String);

/// The data plane of one host. Calls block, for well under a millisecond as a rule.
pub trait Kernel: std::fmt::Debug + Send + 'static {
    /// Makes exactly this be in force, whatever was before. When it fails, nothing has changed that
    /// the next call does not put right.
    ///
    /// # Errors
    /// When the kernel refused.
    fn apply(&mut self, wanted: &Wanted) -> Result<(), KernelError>;

    /// Puts right what others have changed since `wanted` was applied. Returns what was, where
    /// anything was.
    ///
    /// # Errors
    /// When the kernel refused.
    fn mend(&mut self, wanted: &Wanted) -> Result<Option<&'static str>, KernelError>;
}

/// TEMPORARY
pub fn open_kernel(_: &std::path::Path) -> Result<Box<dyn Kernel>, String> {
    Err("none yet".into())
}

//! The kernel side as the agent needs it, so that tests can put one there that fails on demand.

use eip_dataplane::{DesiredState, TrafficReader};
use eip_model::AttachmentProblem;

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
    fn apply(&mut self, wanted: &DesiredState) -> Result<(), KernelError>;

    /// Puts right what others have changed since `wanted` was applied. Returns what was, each thing
    /// once, and what was put right by the way since the last call.
    ///
    /// # Errors
    /// When the kernel refused.
    fn mend(&mut self, wanted: &DesiredState) -> Result<Vec<&'static str>, KernelError>;

    /// What the last call could not put in force of what was wanted, though all else is.
    fn problems(&self) -> Vec<AttachmentProblem> {
        Vec::new()
    }

    /// What will not work for want of rights, though all else does, for people.
    fn caveat(&self) -> Option<String> {
        None
    }

    /// Where to read what elastic IPs have carried, if that is counted.
    fn traffic(&self) -> Option<TrafficReader> {
        None
    }
}

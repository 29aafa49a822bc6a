//! What a compute backend tells.

use async_trait::async_trait;
use eip_model::{Backend, InstanceReport, LocalNetwork};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// All instances of a backend and the networks that they live in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Sorted by id; no two have the same.
    pub instances: Vec<InstanceReport>,
    /// Sorted by interface.
    pub networks: Vec<LocalNetwork>,
}

/// What a backend was last seen to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// Nobody has answered yet.
    Unseen,
    Listed(Listing),
    /// It does not answer, and why. What was listed before is what is known, unless it tells more
    /// by itself.
    Unreachable {
        reason: String,
        known: Option<Listing>,
    },
}

/// One source of instances.
#[async_trait]
pub trait ComputeBackend: std::fmt::Debug + Send + Sync + 'static {
    fn backend(&self) -> Backend;

    /// Where it is looked for, for people: a socket, a folder.
    fn place(&self) -> String;

    /// Tells every change through `sight` until told to stop. Never gives up: a backend that does
    /// not answer is told as such and tried again.
    async fn watch(&self, sight: watch::Sender<Sight>, stop: CancellationToken);
}

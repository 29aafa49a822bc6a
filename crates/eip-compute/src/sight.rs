//! What a compute backend tells.

use async_trait::async_trait;
use eip_model::{Backend, InstanceId, Instances, LocalNetwork, OrdMap};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::guest::{GuestError, GuestTask};

/// All instances of a backend and the networks that they live in. One that was made of another by a few
/// changes is copied for nothing, and told from it at the cost of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    pub instances: Instances,
    /// Sorted by interface.
    pub networks: Vec<LocalNetwork>,
    /// Another number for each life of an instance: what was put on its interfaces before is gone.
    pub lives: OrdMap<InstanceId, u64>,
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

impl Sight {
    /// Tells this to who watches, unless it is what was told last. Returns whether it was news.
    pub(crate) fn tell(self, watching: &watch::Sender<Self>) -> bool {
        watching.send_if_modified(|told| {
            let news = *told != self;
            *told = self;
            news
        })
    }
}

/// Tells that a backend was lost, and why; the same reason is told and logged once.
pub(crate) fn lost(backend: Backend, sight: &watch::Sender<Sight>, reason: &str) {
    if (Sight::Unreachable { reason: reason.to_owned(), known: None }).tell(sight) {
        warn!(%backend, reason, "The compute backend does not answer; will retry");
    }
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

    /// Makes the elastic IPs on an instance's interfaces what they should be. Repeating it is a look.
    ///
    /// May take long, where a guest is asked. Whoever calls waits for the end, however late: what was
    /// begun may still change something, and what contradicts it must not be begun meanwhile.
    async fn settle(&self, task: &GuestTask) -> Result<(), GuestError>;

    /// Whether a look at an instance's interfaces costs nothing to speak of, and the instance nothing
    /// at all: then it is looked at also where nothing is known to have been put there.
    fn looks_freely(&self) -> bool;
}

//! Virtual machines and containers of libvirt, over its own RPC (libvirt 9.0; see the ADR on it).
//!
//! The whole list is read at the start and whenever the connection was lost; between that, each
//! event leads to one look at the domain that it names. An event that says that a domain stopped is
//! believed at once, before anything is asked: another one may inherit its address. A list every
//! few seconds finds what no event told.

mod agents;
mod bridges;
mod dial;
mod domain;
mod engine;
mod guest;
mod looks;
mod mac;
mod neighbours;
mod rpc;
mod uri;
mod xml;

use std::time::Duration;

use async_trait::async_trait;
use eip_model::Backend;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::guest::{GuestError, GuestTask};
use crate::sight::{self, ComputeBackend, Sight};
use engine::{Engine, Memory};
use neighbours::Neighbours;
pub use uri::{LibvirtUri, LibvirtUriError, UserPlaces};
pub use xml::METADATA_NAMESPACE;

/// How long to wait before a lost daemon is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The domains of one libvirt daemon.
#[derive(Debug)]
pub struct LibvirtBackend {
    uri: LibvirtUri,
}

impl LibvirtBackend {
    #[must_use]
    pub const fn new(uri: LibvirtUri) -> Self {
        Self { uri }
    }
}

#[async_trait]
impl ComputeBackend for LibvirtBackend {
    fn backend(&self) -> Backend {
        Backend::Libvirt
    }

    fn place(&self) -> String {
        self.uri.to_string()
    }

    async fn watch(&self, sight: watch::Sender<Sight>, stop: CancellationToken) {
        let (tell, seen) = watch::channel(Neighbours::default());
        // Somebody else's neighbours are no sign of where a domain of a daemon elsewhere is.
        let _following = self.uri.is_here().then(|| {
            let stop = stop.child_token();
            tokio::spawn(neighbours::follow(tell, stop.clone()));
            stop.drop_guard()
        });
        // What was known before a loss is still the best guess after it.
        let mut memory = Memory::default();
        loop {
            let following = Engine::follow(&self.uri, &mut memory, seen.clone(), &sight, &stop);
            let Some(reason) = following.await else { return };
            sight::lost(self.backend(), &sight, &reason);
            if stop.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                return;
            }
        }
    }

    async fn settle(&self, task: &GuestTask) -> Result<(), GuestError> {
        guest::settle(&self.uri, task).await
    }

    /// Every look has a command run in the guest.
    fn looks_freely(&self) -> bool {
        false
    }
}

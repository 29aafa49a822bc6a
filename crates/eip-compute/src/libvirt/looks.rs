//! The longer questions, each made of a few short ones.

use std::sync::Arc;
use std::time::Duration;

use eip_model::InstanceState;
use tokio::sync::Semaphore;
use tracing::warn;

use super::domain::state_of;
use super::rpc::calls::{AddressBook, RawLeases};
use super::rpc::link::{CallError, Link};
use super::rpc::messages::{Addressed, DomainRef, NetworkRef, code, printable};
use super::xml::{self, About, BadWish, Network};

/// So many short questions are open at once. A daemon stops listening to a caller that has five
/// open (`max_client_requests`), pings included, and agents have the rest.
const OPEN: usize = 2;

/// Asks a daemon, a few questions at a time.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    link: Arc<Link>,
    places: Arc<Semaphore>,
}

/// What a look at a domain found.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) state: InstanceState,
    pub(super) about: About,
    /// What was heard of its leases, where that has to be asked for each domain.
    pub(super) leases: Option<Vec<Addressed>>,
}

impl Asker {
    pub(super) fn new(link: Link) -> Self {
        Self { link: Arc::new(link), places: Arc::new(Semaphore::new(OPEN)) }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) async fn domains(&self) -> Result<Vec<DomainRef>, CallError> {
        let _place = self.places.acquire().await;
        self.link.domains().await
    }

    /// Looks at a domain; nothing when there is none any more.
    pub(super) async fn look(
        &self,
        named: &DomainRef,
        ask_leases: bool,
    ) -> Result<Option<Looked>, CallError> {
        let _place = self.places.acquire().await;
        let state = match self.link.state(named).await {
            Err(error) if error.is(code::NO_DOMAIN) => return Ok(None),
            other => state_of(other?),
        };
        let text = match self.link.domain_xml(named).await {
            Err(error) if error.is(code::NO_DOMAIN) => return Ok(None),
            other => other?,
        };
        let about = xml::domain(&text).unwrap_or_else(|error| unreadable(named, &error));
        let running = state == InstanceState::Running;
        let leases = match ask_leases && running {
            true => self.link.addresses(named, AddressBook::Leases).await,
            false => Ok(Vec::new()),
        };
        let leases = match leases {
            Err(error) if error.is_loss() => return Err(error),
            other => other.ok().filter(|_| ask_leases && running),
        };
        Ok(Some(Looked { state, about, leases }))
    }

    /// Asks the agent of a domain. This has a place of its own.
    pub(super) async fn agent(&self, named: &DomainRef) -> Result<Vec<Addressed>, CallError> {
        self.link.addresses(named, AddressBook::Agent).await
    }

    /// Lists the networks that are up; nothing when they are those that are known.
    pub(super) async fn networks(
        &self,
        known: &[NetworkRef],
    ) -> Result<Option<Vec<(NetworkRef, Network)>>, CallError> {
        let _place = self.places.acquire().await;
        let mut named = self.link.networks().await?;
        named.sort();
        if named == known {
            return Ok(None);
        }
        let mut found = Vec::new();
        for one in named {
            let text = match self.link.network_xml(&one).await {
                // It has gone meanwhile.
                Err(error) if !error.is_loss() => continue,
                other => other?,
            };
            match xml::network(&text) {
                Ok(network) => found.push((one, network)),
                Err(error) => {
                    let network = printable(&one.name, 100);
                    warn!(network, %error, "The XML of a network cannot be read");
                }
            }
        }
        Ok(Some(found))
    }

    /// Asks for the leases of each network.
    pub(super) async fn leases(
        &self,
        networks: &[NetworkRef],
    ) -> Vec<(NetworkRef, Result<RawLeases, CallError>)> {
        let mut found = Vec::new();
        for one in networks {
            let _place = self.places.acquire().await;
            found.push((one.clone(), self.link.leases(one).await));
        }
        found
    }

    /// Takes leave, without waiting for long.
    pub(super) async fn close(&self) {
        let leave = tokio::time::timeout(Duration::from_millis(300), self.link.close());
        leave.await.ok();
    }
}

/// A domain whose XML cannot be read is listed, and takes no elastic IP.
fn unreadable(named: &DomainRef, error: &roxmltree::Error) -> About {
    let name = printable(&named.name, 255);
    warn!(name, %error, "The XML of a domain cannot be read");
    About {
        name,
        id: Some(named.id).filter(|id| *id >= 0),
        interfaces: Vec::new(),
        agent_connected: false,
        wishes: Err(BadWish::Other),
    }
}

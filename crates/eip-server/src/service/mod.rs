//! The use cases: one function each, which authorises, asks the model, makes one transaction and
//! wakes the hosts concerned.

mod admin_error;
mod agents;
mod allocation;
mod allocator;
mod caller;
mod elastic_ips;
mod error;
mod events;
mod health;
mod history;
mod inventory;
pub(crate) mod keys;
mod many;
mod pool_map;
mod pools;
mod projects;
mod signals;
mod terms;
mod unmarked;
mod vicinity;
mod webhooks;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use eip_model::{HostName, PoolConfig, PoolName, ProjectName, Role, chain};
use eip_store::{NewApiKey, News, Repository};
use eip_webhook::Sender;
use jiff::Timestamp;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub(crate) use agents::Holds;
use allocator::Allocator;
pub(crate) use caller::Caller;
pub(crate) use elastic_ips::ListQuery;
pub(crate) use error::Error;
pub(crate) use events::Follower;
use health::Health;
pub(crate) use health::Measured;
use keys::{ApiKey, KeyRing};
use signals::Signals;
pub(crate) use terms::{Asked, Done};
use unmarked::Unmarked;
use vicinity::Vicinity;

/// How often addresses whose quarantine has ended are looked for.
const QUARANTINE_TURN: Duration = Duration::from_secs(1);

/// After how many such turns old answers are forgotten.
const FORGETTING: u64 = 60;

/// For how long a request may be repeated under its `Idempotency-Key`.
const KEEP_ANSWERS: Duration = Duration::from_secs(24 * 60 * 60);

/// What the service is told at start.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// The pool that is made at the first start, and used when a request names none.
    pub default_pool: PoolConfig,
    /// The project that is made at the first start; owns instances that name none.
    pub default_project: ProjectName,
    /// What sends events to webhooks.
    pub sender: Sender,
}

/// The Elastic IP service.
#[derive(Debug)]
pub struct Service {
    repository: Arc<dyn Repository>,
    allocator: Allocator,
    vicinity: Vicinity,
    /// How often the hint has been read anew, and the turn of doing so.
    readings: AtomicU64,
    reading: tokio::sync::Mutex<()>,
    keys: KeyRing,
    signals: Signals,
    unmarked: Unmarked,
    health: Health,
    sender: Sender,
    gallery: pool_map::Gallery,
    default_pool: PoolName,
    default_project: ProjectName,
}

impl Service {
    /// Makes the default project and pool where they are missing, and learns which addresses are in
    /// use.
    ///
    /// # Errors
    /// When the record cannot be used.
    pub async fn start(
        repository: Arc<dyn Repository>,
        config: ServiceConfig,
    ) -> Result<Arc<Self>, eip_store::StoreError> {
        let now = Timestamp::now();
        repository.ensure_project(&config.default_project, None, now).await?;
        repository.ensure_pool(&config.default_pool, now).await?;
        let allocator = Allocator::new(repository.pools().await?);
        let service = Arc::new(Self {
            keys: KeyRing::new(),
            signals: Signals::default(),
            unmarked: Unmarked::default(),
            health: Health::default(),
            sender: config.sender,
            gallery: pool_map::Gallery::default(),
            default_pool: config.default_pool.name,
            default_project: config.default_project,
            readings: AtomicU64::new(0),
            reading: tokio::sync::Mutex::new(()),
            repository,
            allocator,
            vicinity: Vicinity::default(),
        });
        service.end_quarantines().await?;
        service.allocator.learn(&service.repository.addresses_in_use().await?);
        Ok(service)
    }

    /// Makes the key known to the record; a key of the same id is replaced.
    ///
    /// # Errors
    /// When the record cannot be used.
    pub async fn admit_admin(&self, key: &ApiKey) -> Result<(), eip_store::StoreError> {
        let role = Role::Admin { project: self.default_project.clone() };
        self.admit(key, role).await
    }

    /// Makes the key of a host's agent known to the record.
    ///
    /// # Errors
    /// When the record cannot be used.
    pub async fn admit_agent(
        &self,
        key: &ApiKey,
        host: HostName,
    ) -> Result<(), eip_store::StoreError> {
        self.admit(key, Role::Agent { host }).await
    }

    async fn admit(&self, key: &ApiKey, role: Role) -> Result<(), eip_store::StoreError> {
        let now = Timestamp::now();
        self.repository
            .put_api_key(&NewApiKey {
                id: key.id(),
                digest: key.digest(),
                role,
                name: None,
                expires_at: None,
                now,
            })
            .await
    }

    /// Follows what is committed, and does what time alone brings about, until told to stop.
    pub async fn tend(self: Arc<Self>, stop: CancellationToken) {
        let marking = self.unmarked.mark(&*self.repository, &stop);
        tokio::join!(self.follow(&stop), self.keep_time(&stop), marking, self.deliver(&stop));
    }

    /// Wakes those who wait for what other servers on the same database have committed.
    async fn follow(&self, stop: &CancellationToken) {
        let mut news = self.repository.news();
        while let Some(heard) = stop.run_until_cancelled(news.recv()).await {
            match heard {
                Ok(heard) => self.signals.heard(&heard),
                Err(RecvError::Lagged(_)) => self.signals.heard(&News::Anything),
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn keep_time(&self, stop: &CancellationToken) {
        let mut turn = tokio::time::interval(QUARANTINE_TURN);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut turns = 0_u64;
        while stop.run_until_cancelled(turn.tick()).await.is_some() {
            if let Err(error) = self.end_quarantines().await {
                error!(error = %chain(&error), "Could not end quarantines; will retry");
            }
            if turns.is_multiple_of(FORGETTING)
                && let Err(error) = self.forget_answers().await
            {
                error!(error = %chain(&error), "Could not forget old answers; will retry");
            }
            if let Err(error) = self.follow_pools().await {
                error!(error = %chain(&error), "Could not look at the pools; will retry");
            }
            if turns.is_multiple_of(projects::NOTE_USE.as_secs()) {
                self.note_key_use().await;
            }
            turns += 1;
        }
    }

    async fn forget_answers(&self) -> Result<(), eip_store::StoreError> {
        let before = Timestamp::now() - KEEP_ANSWERS;
        while self.repository.forget_answers(before).await? > 0 {}
        Ok(())
    }

    async fn end_quarantines(&self) -> Result<(), eip_store::StoreError> {
        loop {
            let freed = self.repository.end_quarantines(Timestamp::now()).await?;
            if freed.is_empty() {
                return Ok(());
            }
            info!(count = freed.len(), "Quarantine ended");
            for address in freed {
                self.allocator.give_back(address);
            }
        }
    }

    pub(crate) fn repository(&self) -> &dyn Repository {
        &*self.repository
    }
}

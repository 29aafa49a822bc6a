//! Docker, through the API on its socket (engine 20.10, API 1.41, and newer).
//!
//! The whole list is read at the start and whenever the event stream was lost; between that, each
//! event leads to one look at the container that it names. An event that says that a container has
//! died is believed at once, before anything is asked: another container may inherit its address.

mod list;
mod read;
mod roster;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, ListNetworksOptions,
};
use eip_model::{Backend, InstanceId, LocalNetwork, chain};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::list::ListError;
use self::roster::{Containers, Roster};
use crate::guest::{GuestError, GuestTask, Memory, may_enter, settle_namespace};
use crate::sight::{self, ComputeBackend, Listing, Sight};

/// Where Docker listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// How long one question may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the list of all containers may take: there may be very many.
const WHOLE_ANSWER: Duration = Duration::from_secs(60);
/// How often a silent engine is asked whether it still lives.
const PULSE: Duration = Duration::from_secs(2);
/// An engine tells that a container came to a network, or left one, a moment before its list says so:
/// the container is looked at again after this.
const SETTLED: Duration = Duration::from_millis(250);
/// How long to wait before a lost engine is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The Docker engine behind one socket.
#[derive(Debug)]
pub struct DockerBackend {
    socket: PathBuf,
    /// Which container each instance is.
    containers: Containers,
    /// How often the engine was begun to be followed.
    follows: AtomicU32,
    memory: Memory,
}

impl DockerBackend {
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            containers: Containers::default(),
            follows: AtomicU32::new(0),
            memory: Memory::default(),
        }
    }
}

#[async_trait]
impl ComputeBackend for DockerBackend {
    fn backend(&self) -> Backend {
        Backend::Docker
    }

    fn place(&self) -> String {
        self.socket.display().to_string()
    }

    async fn watch(&self, sight: watch::Sender<Sight>, stop: CancellationToken) {
        loop {
            let Some(lost) = stop.run_until_cancelled(self.follow(&sight)).await else { return };
            sight::lost(self.backend(), &sight, &lost.to_string());
            if stop.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                return;
            }
        }
    }

    async fn settle(&self, task: &GuestTask) -> Result<(), GuestError> {
        let docker = self.connect().map_err(|error| GuestError::failed(&error))?;
        let id = self.container(task.instance_id).ok_or(GuestError::Gone)?;
        let namespace = namespace(&docker, &id).await?;
        settle_namespace(namespace, task.clone(), &self.memory).await
    }

    fn looks_freely(&self) -> bool {
        true
    }
}

/// Opens the network namespace of a container.
async fn namespace(docker: &Docker, id: &str) -> Result<File, GuestError> {
    let first = process_of(docker, id).await?;
    let opened = File::open(format!("/proc/{first}/ns/net"));
    // Asked again: between the two the number may have become another process's.
    if process_of(docker, id).await? != first {
        return Err(GuestError::Gone);
    }
    let why = |error| GuestError::Failed(format!("cannot open its network namespace: {error}"));
    opened.map_err(why)
}

async fn process_of(docker: &Docker, id: &str) -> Result<i64, GuestError> {
    let inspected = docker.inspect_container(id, None::<InspectContainerOptions>);
    let inspected = answer("look into a container", inspected).await;
    let state = inspected.map_err(|error| GuestError::failed(&error))?.state;
    state.and_then(|state| state.pid).filter(|pid| *pid > 0).ok_or(GuestError::Gone)
}

impl DockerBackend {
    fn container(&self, of: InstanceId) -> Option<Arc<str>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).get(&of).cloned()
    }

    fn connect(&self) -> Result<Docker, Lost> {
        let path = self.socket.to_string_lossy();
        Docker::connect_with_unix(&path, 120, bollard::API_DEFAULT_VERSION)
            .map_err(|source| Lost::Asking { what: "open its socket", source })
    }

    /// Reads the whole list.
    async fn read_roster(&self, life: u64) -> Result<Roster, Lost> {
        const WHAT: &str = "list its containers";
        let known = answer_within(WHOLE_ANSWER, WHAT, list::all(&self.socket)).await?;
        let (may_enter, containers) = (may_enter(), Arc::clone(&self.containers));
        // Of very many containers it takes long: nobody else should wait for it.
        let roster = move || Roster::new(may_enter, life, containers, known);
        let roster = tokio::task::spawn_blocking(roster).await;
        roster.map_err(|error| (WHAT, ListError::NoThread(error)).into())
    }

    /// Lists and follows until the engine is lost, and says how.
    async fn follow(&self, sight: &watch::Sender<Sight>) -> Lost {
        match self.try_follow(sight).await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    async fn try_follow(
        &self,
        sight: &watch::Sender<Sight>,
    ) -> Result<std::convert::Infallible, Lost> {
        let docker = self.connect()?;
        // Asking for events since before the list leaves no gap between the two.
        let since = jiff::Timestamp::now().as_second() - 1;
        // What happened while nobody followed may have been a life's end.
        let life = u64::from(self.follows.fetch_add(1, Ordering::Relaxed)) << 32;
        let roster = self.read_roster(life).await?;
        let mut engine = Engine {
            docker,
            socket: self.socket.clone(),
            roster,
            networks: Vec::new(),
            unsettled: BTreeSet::new(),
            look_again_at: None,
        };
        engine.networks = engine.read_networks().await?;
        let listing = engine.listing();
        info!(backend = "docker", instances = listing.instances.len(), "Listed");
        sight.send_replace(Sight::Listed(listing));

        let options = EventsOptionsBuilder::new().since(&since.to_string()).build();
        let docker = engine.docker.clone();
        let events = docker.events(Some(options));
        tokio::pin!(events);
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.next() => {
                    let mut batch = vec![event.ok_or(Lost::Ended)?];
                    // A death must not wait behind a look at something else.
                    while let Some(Some(next)) = events.next().now_or_never() {
                        batch.push(next);
                    }
                    let follow = |source| Lost::Asking { what: "follow its events", source };
                    let batch = batch.into_iter().collect::<Result<Vec<_>, _>>().map_err(follow)?;
                    let died = batch.iter().filter(|event| engine.believe(event)).count();
                    if died > 0 {
                        sight.send_replace(Sight::Listed(engine.listing()));
                    }
                    for event in &batch {
                        engine.look_again(event).await?;
                    }
                }
                () = until(engine.look_again_at) => engine.look_at_unsettled().await?,
                _ = pulse.tick() => {
                    answer("ask whether it lives", engine.docker.ping()).await?;
                }
            }
            Sight::Listed(engine.listing()).tell(sight);
        }
    }
}

/// Why an engine is not followed any more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("could not {what}: {source}")]
    Asking { what: &'static str, source: bollard::errors::Error },
    #[error("could not {what}: {}", chain(source))]
    Listing { what: &'static str, source: ListError },
    #[error("no answer within {} s when asked to {what}", limit.as_secs())]
    Silent { what: &'static str, limit: Duration },
    #[error("it closed its event stream")]
    Ended,
}

impl From<(&'static str, bollard::errors::Error)> for Lost {
    fn from((what, source): (&'static str, bollard::errors::Error)) -> Self {
        Self::Asking { what, source }
    }
}

impl From<(&'static str, ListError)> for Lost {
    fn from((what, source): (&'static str, ListError)) -> Self {
        Self::Listing { what, source }
    }
}

/// Asks one question, with a deadline.
async fn answer<T, E>(
    what: &'static str,
    question: impl Future<Output = Result<T, E>>,
) -> Result<T, Lost>
where
    (&'static str, E): Into<Lost>,
{
    answer_within(ANSWER, what, question).await
}

async fn answer_within<T, E>(
    limit: Duration,
    what: &'static str,
    question: impl Future<Output = Result<T, E>>,
) -> Result<T, Lost>
where
    (&'static str, E): Into<Lost>,
{
    match tokio::time::timeout(limit, question).await {
        Ok(answer) => answer.map_err(|source| (what, source).into()),
        Err(_) => Err(Lost::Silent { what, limit }),
    }
}

/// One engine and what is known of it.
#[derive(Debug)]
struct Engine {
    docker: Docker,
    socket: PathBuf,
    roster: Roster,
    networks: Vec<LocalNetwork>,
    /// Containers whose networks have just changed, and when they are looked at again.
    unsettled: BTreeSet<String>,
    look_again_at: Option<Instant>,
}

impl Engine {
    async fn read_networks(&self) -> Result<Vec<LocalNetwork>, Lost> {
        let networks = self.docker.list_networks(None::<ListNetworksOptions>);
        Ok(read::networks(answer("list its networks", networks).await?))
    }

    /// Takes in what the event itself proves. Returns whether that changed anything.
    fn believe(&mut self, event: &EventMessage) -> bool {
        let died = event.typ == Some(EventMessageTypeEnum::CONTAINER)
            && matches!(event.action.as_deref(), Some("die" | "destroy"));
        died && actor(event).is_some_and(|id| self.roster.ended(id))
    }

    /// Looks at what the event is about.
    async fn look_again(&mut self, event: &EventMessage) -> Result<(), Lost> {
        match event.typ {
            Some(EventMessageTypeEnum::CONTAINER) => {
                match (actor(event), event.action.as_deref()) {
                    // Health checks and `docker exec` change nothing here, and are frequent.
                    (Some(_), Some(action)) if action.starts_with("exec_") => Ok(()),
                    (Some(id), _) => self.look_at(id).await,
                    (None, _) => Ok(()),
                }
            }
            Some(EventMessageTypeEnum::NETWORK) => {
                self.networks = self.read_networks().await?;
                let attributes = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
                match attributes.and_then(|map| map.get("container")) {
                    Some(id) => {
                        self.unsettled.insert(id.clone());
                        self.look_again_at = Some(Instant::now() + SETTLED);
                        self.look_at(id).await
                    }
                    None => Ok(()),
                }
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn look_at_unsettled(&mut self) -> Result<(), Lost> {
        self.look_again_at = None;
        for id in std::mem::take(&mut self.unsettled) {
            self.look_at(&id).await?;
        }
        Ok(())
    }

    async fn look_at(&mut self, id: &str) -> Result<(), Lost> {
        let found = answer("look at a container", list::one(&self.socket, id)).await?;
        if found.is_empty() {
            self.roster.remove(id);
        }
        for (id, container) in found {
            self.roster.put(&id, container);
        }
        Ok(())
    }

    fn listing(&self) -> Listing {
        let (instances, lives) = self.roster.told();
        Listing { instances, networks: self.networks.clone(), lives }
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn actor(event: &EventMessage) -> Option<&str> {
    event.actor.as_ref().and_then(|actor| actor.id.as_deref())
}

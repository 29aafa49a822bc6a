//! Following one daemon, from the moment it lets us in until it is lost.
//!
//! One loop that never waits for an answer: questions are under way while news are heard, so that
//! a domain's end is known at once, whatever is being asked.

mod asking;
mod hearing;
mod taking;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use super::agents::Agents;
use super::dial::{self, DialError, Dialled};
use super::domain::{Domain, Surroundings};
use super::looks::{Asker, Looked};
use super::neighbours::Neighbours;
use super::rpc::calls::{DOMAIN_NEWS, RawLeases};
use super::rpc::link::{CallError, NEWS};
use super::rpc::messages::{Addressed, DomainRef, NetworkRef, News, event};
use super::uri::LibvirtUri;
use super::xml::Network;
use crate::sight::Sight;

/// How often the list is compared, which also shows whether the daemon still lives.
const PULSE: Duration = Duration::from_secs(2);
/// How often leases are asked for; libvirt has no event for them. With a thousand leases a question
/// takes 3 ms of libvirtd's time, so this is 0.4 % of a processor.
const LEASES: Duration = Duration::from_millis(700);
/// A change in the neighbour table has them asked for at once, but not more often than this.
const LEASES_IN_A_ROW: Duration = Duration::from_millis(100);
/// How long the first list waits for guest agents.
const SETTLE: Duration = Duration::from_secs(2);
/// At every pulse one in so many domains is looked at although nothing was told of it.
const LOOK_ANYWAY: usize = 100;
/// A daemon that has left questions unanswered for so long is told as one that does not answer.
const ANSWER: Duration = Duration::from_secs(5);
/// So many domains may wait to be looked at. A list has no more, so news of more are no news.
const WAITING: usize = 20_000;
/// So many looks are under way at once.
const LOOKS: usize = 2;

/// What is known, whether the daemon answers or not.
#[derive(Debug, Default)]
pub(super) struct Memory {
    domains: BTreeMap<Uuid, Domain>,
    around: Surroundings,
    networks: Vec<NetworkRef>,
    leases: BTreeMap<NetworkRef, RawLeases>,
}

/// What a question that was under way has brought.
enum Done {
    Listed(Result<Vec<DomainRef>, CallError>),
    Looked(DomainRef, Result<Option<Looked>, CallError>),
    Agent(DomainRef, Result<Vec<Addressed>, CallError>),
    Networks(Result<Option<Vec<(NetworkRef, Network)>>, CallError>),
    /// The daemon that has the networks, where it is not the same.
    NetworkDaemon(Result<Dialled, DialError>),
    Leases(Vec<(NetworkRef, Result<RawLeases, CallError>)>),
}

/// How far the first list has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Networks,
    Leases,
    Domains,
    /// All that is left are agents, until then.
    Agents(Instant),
    Settled,
}

/// One daemon that is followed.
pub(super) struct Engine<'a> {
    uri: &'a LibvirtUri,
    memory: &'a mut Memory,
    sight: &'a watch::Sender<Sight>,
    neighbours: watch::Receiver<Neighbours>,
    asker: Asker,
    /// Who is asked for networks, when it is not the same.
    network_asker: Option<Asker>,
    network_news: Option<mpsc::Receiver<News>>,
    /// That nobody tells about networks was said.
    networks_missed: bool,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// How many questions are open, agents aside, and since when none was answered.
    open: usize,
    open_since: Instant,
    unresponsive: bool,
    /// Who is to be looked at, and who is being looked at.
    queue: BTreeMap<Uuid, DomainRef>,
    looking: BTreeSet<Uuid>,
    /// Who could not be looked at, and is tried again at the next pulse.
    again: BTreeMap<Uuid, DomainRef>,
    listing: bool,
    /// Who was heard of or looked at since the list was asked for, which may be older than that.
    newer: BTreeSet<Uuid>,
    networks_busy: bool,
    networks_due: bool,
    /// Read them all, not only those that are new.
    networks_anew: bool,
    leases_busy: bool,
    leases_due: Option<Instant>,
    leases_asked: Option<Instant>,
    /// This daemon cannot list the leases of a network.
    no_lease_lists: bool,
    agents: Agents,
    agents_busy: usize,
    last_anyway: Uuid,
    stage: Stage,
    dirty: bool,
}

impl<'a> Engine<'a> {
    /// Lists and follows until the daemon is lost, and says how; nothing when told to stop.
    pub(super) async fn follow(
        uri: &'a LibvirtUri,
        memory: &'a mut Memory,
        neighbours: watch::Receiver<Neighbours>,
        sight: &'a watch::Sender<Sight>,
        stop: &CancellationToken,
    ) -> Option<String> {
        let dialled = match stop.run_until_cancelled(dial::dial(uri)).await? {
            Ok(dialled) => dialled,
            Err(error) => return Some(error.to_string()),
        };
        let Dialled { link, news } = dialled;
        let asker = Asker::new(link);
        let mut engine = Self::new(uri, memory, sight, neighbours, asker.clone());
        let lost = stop.run_until_cancelled(engine.run(news)).await;
        if lost.is_none() {
            asker.close().await;
        }
        lost.map(|lost| lost.to_string())
    }

    fn new(
        uri: &'a LibvirtUri,
        memory: &'a mut Memory,
        sight: &'a watch::Sender<Sight>,
        neighbours: watch::Receiver<Neighbours>,
        asker: Asker,
    ) -> Self {
        memory.around.elsewhere = !uri.is_here();
        Self {
            uri,
            memory,
            sight,
            neighbours,
            asker,
            network_asker: None,
            network_news: None,
            networks_missed: false,
            running: FuturesUnordered::new(),
            open: 0,
            open_since: Instant::now(),
            unresponsive: false,
            queue: BTreeMap::new(),
            looking: BTreeSet::new(),
            again: BTreeMap::new(),
            listing: false,
            newer: BTreeSet::new(),
            networks_busy: false,
            networks_due: true,
            networks_anew: true,
            leases_busy: false,
            leases_due: None,
            leases_asked: None,
            no_lease_lists: false,
            agents: Agents::default(),
            agents_busy: 0,
            last_anyway: Uuid::nil(),
            stage: Stage::Networks,
            dirty: false,
        }
    }

    /// Returns only when the daemon is lost.
    async fn run(&mut self, news: mpsc::Receiver<News>) -> CallError {
        match self.try_run(news).await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    async fn try_run(
        &mut self,
        mut news: mpsc::Receiver<News>,
    ) -> Result<std::convert::Infallible, CallError> {
        subscribe(self.asker.clone()).await?;
        let mut pulse = ticking(PULSE);
        let mut leases = ticking(LEASES);
        // A sender that is gone means that neighbours are not followed.
        let mut follows_neighbours = self.uri.is_here();
        let asker = self.asker.clone();
        loop {
            self.start_what_is_due();
            self.advance();
            self.notice_silence()?;
            if self.dirty && self.stage == Stage::Settled {
                self.tell();
            }
            let wake = self.next_wake();
            tokio::select! {
                one = news.recv() => {
                    let Some(one) = one else {
                        return Err(CallError::Lost(asker.link().lost().await));
                    };
                    self.hear(one);
                    // A death must not wait behind a look at something else; nor must the rest
                    // wait for ever, should news never end.
                    for _ in 0..NEWS {
                        let Ok(next) = news.try_recv() else { break };
                        self.hear(next);
                    }
                    if self.queue.len().max(self.newer.len()) > WAITING {
                        let why = "it tells of more domains than there can be";
                        return Err(CallError::Lost(why.to_owned()));
                    }
                }
                Some(one) = next_of(&mut self.network_news) => self.hear(one),
                Some(done) = self.running.next() => self.take_in(done)?,
                why = asker.link().lost() => return Err(CallError::Lost(why)),
                _ = pulse.tick() => self.pulse(),
                _ = leases.tick() => self.leases_due = Some(Instant::now()),
                changed = self.neighbours.changed(), if follows_neighbours => {
                    follows_neighbours = changed.is_ok();
                    self.look_around();
                }
                () = until(wake) => {}
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let settled = match self.stage {
            Stage::Agents(until) => Some(until),
            Stage::Networks | Stage::Leases | Stage::Domains | Stage::Settled => None,
        };
        let leases = self.leases_due.filter(|_| !self.leases_busy && self.stage == Stage::Settled);
        let agents = self.agents.next_due(self.agents_busy);
        let silence = (self.open > 0 && !self.unresponsive).then(|| self.open_since + ANSWER);
        [settled, leases, agents, silence].into_iter().flatten().min()
    }
}

async fn subscribe(asker: Asker) -> Result<(), CallError> {
    for (kind, procedure) in DOMAIN_NEWS {
        match asker.link().subscribe(kind).await {
            Err(error) if error.is_loss() => return Err(error),
            Err(error) if procedure == event::LIFE => {
                warn!(%error, "This daemon tells nothing by itself; changes are seen late");
            }
            Err(error) => debug!(%error, kind, "Not told by this daemon"),
            Ok(()) => {}
        }
    }
    match asker.link().subscribe_to_networks().await {
        Err(error) if error.is_loss() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The next news, if there is anybody to tell any.
async fn next_of(news: &mut Option<mpsc::Receiver<News>>) -> Option<News> {
    match news {
        Some(news) => news.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn ticking(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

//! What is to be on the instances' own interfaces, and how far that has come.
//!
//! Beside the turn, because a guest may be slow: a turn says what is wanted, whoever is not as wanted
//! is seen to in a task of its own, and what comes of it wakes the next turn. The host's own side is
//! in force before: what an instance sends with an elastic IP is let through, or not any more, whatever
//! the instance knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use eip_compute::{Alias, ComputeBackend, GuestError, GuestTask};
use eip_model::{
    AliasTarget, Attachment, AttachmentProblem, Backend, InstanceId, InstanceReport, InstanceState,
    Ipv4Range, Mode, ProblemKind,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How long one guest may take.
const LIMIT: Duration = Duration::from_secs(10);
/// So many guests of one backend are seen to at once.
const AT_ONCE: usize = 8;
/// How often a guest is looked at without any news: where that costs nothing, and where it does.
const LOOK: Duration = Duration::from_secs(5);
const COSTLY_LOOK: Duration = Duration::from_secs(60);
/// How long to wait before a guest that failed is tried again: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What is known of the instances, for [`Guests::want`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'w> {
    pub(crate) instances: &'w BTreeMap<InstanceId, InstanceReport>,
    pub(crate) lives: &'w BTreeMap<InstanceId, u64>,
    pub(crate) ranges: &'w [Ipv4Range],
}

/// The guests that are seen to.
#[derive(Debug)]
pub(crate) struct Guests {
    backends: BTreeMap<Backend, Place>,
    all: BTreeMap<InstanceId, Guest>,
    /// When those that nobody sees to now are to be seen to.
    due: BTreeSet<(Instant, InstanceId)>,
    /// Backends whose instances have been looked at for what an earlier run left there.
    swept: BTreeSet<Backend>,
    ranges: Vec<Ipv4Range>,
    tell: mpsc::UnboundedSender<Done>,
    told: mpsc::UnboundedReceiver<Done>,
}

#[derive(Debug)]
struct Place {
    backend: Arc<dyn ComputeBackend>,
    room: Arc<Semaphore>,
}

/// What an instance is to have, in the life that it has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wish {
    backend: Backend,
    life: u64,
    alias: Option<Alias>,
}

#[derive(Debug)]
struct Guest {
    wish: Wish,
    standing: Standing,
    busy: bool,
    /// Something can be done to it now.
    within_reach: bool,
    /// Nothing is known to be on its interfaces: it is looked at to be sure.
    by_chance: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    New,
    Settled { look_at: Instant },
    Failed { reason: String, retry_at: Instant, pause: Duration },
}

#[derive(Debug)]
struct Done {
    id: InstanceId,
    wish: Wish,
    outcome: Result<(), GuestError>,
}

impl Guests {
    pub(crate) fn new(backends: &[Arc<dyn ComputeBackend>]) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let place = |backend: &Arc<dyn ComputeBackend>| {
            let room = Arc::new(Semaphore::new(AT_ONCE));
            (backend.backend(), Place { backend: Arc::clone(backend), room })
        };
        Self {
            backends: backends.iter().map(place).collect(),
            all: BTreeMap::new(),
            due: BTreeSet::new(),
            swept: BTreeSet::new(),
            ranges: Vec::new(),
            tell,
            told,
        }
    }

    /// Has the instances get the elastic IPs that are to be on their interfaces, and lose those that
    /// are not. One that does not run has nothing on them.
    pub(crate) fn want(&mut self, aliases: &BTreeMap<Ipv4Addr, AliasTarget>, known: Known<'_>) {
        self.ranges = known.ranges.to_vec();
        // What stops has nothing on its interfaces any more.
        let is_up = |id: &InstanceId| {
            known.instances.get(id).filter(|one| one.state != InstanceState::Stopped)
        };
        self.all.retain(|id, guest| guest.busy || is_up(id).is_some());
        self.look_for_leftovers(known);
        let wanted: BTreeMap<InstanceId, Alias> = aliases
            .iter()
            .map(|(public_ip, target)| {
                let (public_ip, private_ip) = (*public_ip, target.private_ip);
                (target.instance_id, Alias { public_ip, private_ip })
            })
            .collect();
        let concerned: BTreeSet<InstanceId> =
            self.all.keys().chain(wanted.keys()).copied().collect();
        for id in concerned {
            let Some(report) = is_up(&id) else { continue };
            let life = known.lives.get(&id).copied().unwrap_or_default();
            let wish = Wish { backend: report.backend, life, alias: wanted.get(&id).copied() };
            let within_reach = is_within_reach(report);
            let guest = self.all.entry(id).or_insert_with(|| Guest::new(wish));
            guest.within_reach = within_reach;
            if guest.wish != wish {
                guest.by_chance &= wish.alias.is_none();
                guest.wish = wish;
                guest.standing = Standing::New;
            }
        }
        let now = Instant::now();
        let due = |(id, guest): (&InstanceId, &Guest)| Some((guest.due(now)?, *id));
        self.due = self.all.iter().filter_map(due).collect();
        self.start_what_is_due();
    }

    /// Has every instance looked at once, where a look costs nothing: an earlier run may have been
    /// ended before it could take off what it had put there.
    fn look_for_leftovers(&mut self, known: Known<'_>) {
        let free = |place: &&Place| place.backend.looks_freely();
        let free = self.backends.values().filter(free).map(|place| place.backend.backend());
        let due: BTreeSet<Backend> = free.filter(|one| !self.swept.contains(one)).collect();
        for report in known.instances.values().filter(|one| due.contains(&one.backend)) {
            if !is_within_reach(report) {
                continue;
            }
            // Without a life it is known from an earlier run alone.
            let Some(life) = known.lives.get(&report.id).copied() else { continue };
            let wish = Wish { backend: report.backend, life, alias: None };
            self.all.entry(report.id).or_insert(Guest { by_chance: true, ..Guest::new(wish) });
            self.swept.insert(report.backend);
        }
    }

    /// Waits until there is something else to be said of a guest. Sees to guests meanwhile.
    pub(crate) async fn changed(&mut self) {
        loop {
            let due = self.due.first().copied();
            let due = async {
                match due {
                    Some((due, _)) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let mut news = false;
            tokio::select! {
                Some(done) = self.told.recv() => {
                    news |= self.take_in(done);
                    while let Ok(done) = self.told.try_recv() {
                        news |= self.take_in(done);
                    }
                }
                () = due => {}
            }
            self.start_what_is_due();
            if news {
                return;
            }
        }
    }

    /// Says what is in the way of attachments, by address: an elastic IP that is not yet on its
    /// instance's interface, or another one that is still there.
    pub(crate) fn problems(&self, attachments: &[Attachment]) -> Vec<AttachmentProblem> {
        if self.all.is_empty() {
            return Vec::new();
        }
        let problem = |one: &Attachment| {
            let guest = self.all.get(&one.instance_id)?;
            let (kind, reason) = guest.problem()?;
            Some(AttachmentProblem { public_ip: one.public_ip, kind, reason })
        };
        attachments.iter().filter_map(problem).collect()
    }

    /// Takes in what has come of a guest. Returns whether something else is to be said of it.
    fn take_in(&mut self, done: Done) -> bool {
        let id = done.id;
        let news = self.judge(done);
        if let Some(due) = self.all.get(&id).and_then(|guest| guest.due(Instant::now())) {
            self.due.insert((due, id));
        }
        news
    }

    fn judge(&mut self, Done { id, wish, outcome }: Done) -> bool {
        let Some(guest) = self.all.get_mut(&id) else { return false };
        guest.busy = false;
        if guest.wish != wish {
            return false;
        }
        let before = guest.problem();
        match outcome {
            // Nothing is left to be done, or nothing is there any more.
            Ok(()) | Err(GuestError::Gone) if wish.alias.is_none() => {
                self.all.remove(&id);
                return before.is_some();
            }
            // What may be there after all is silenced by the host.
            Err(error) if guest.by_chance => {
                debug!(instance = %id, %error, "Could not look at an instance's interfaces");
                self.all.remove(&id);
                return before.is_some();
            }
            Ok(()) => {
                if matches!(guest.standing, Standing::Failed { .. }) {
                    info!(instance = %id, "The elastic IP is on the instance's interface after all");
                }
                let place = self.backends.get(&wish.backend);
                let free = place.is_some_and(|place| place.backend.looks_freely());
                let look_at = Instant::now() + if free { LOOK } else { COSTLY_LOOK };
                guest.standing = Standing::Settled { look_at };
            }
            Err(error) => guest.fail(id, &error),
        }
        guest.problem() != before
    }

    fn start_what_is_due(&mut self) {
        let now = Instant::now();
        while let Some((_, id)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.pop_first();
            let Some(guest) = self.all.get_mut(&id) else { continue };
            let Some(place) = self.backends.get(&guest.wish.backend) else { continue };
            if guest.due(now).is_none_or(|due| due > now) {
                continue;
            }
            guest.busy = true;
            let (wish, tell) = (guest.wish, self.tell.clone());
            let (backend, room) = (Arc::clone(&place.backend), Arc::clone(&place.room));
            let ranges = self.ranges.clone();
            let task = GuestTask { instance_id: id, alias: wish.alias, ranges };
            tokio::spawn(async move {
                let _place = room.acquire().await;
                debug!(instance = %id, alias = ?wish.alias, "Sees to an instance's interfaces");
                let settled = tokio::time::timeout(LIMIT, backend.settle(&task)).await;
                let slow = |_| {
                    Err(GuestError::Failed(format!("it takes more than {} s", LIMIT.as_secs())))
                };
                // Nobody waits any more when the agent stops.
                tell.send(Done { id, wish, outcome: settled.unwrap_or_else(slow) }).ok();
            });
        }
    }
}

fn is_within_reach(report: &InstanceReport) -> bool {
    report.target().is_some() && report.modes.contains(&Mode::Alias)
}

impl Guest {
    const fn new(wish: Wish) -> Self {
        Self { wish, standing: Standing::New, busy: false, within_reach: true, by_chance: false }
    }

    fn fail(&mut self, id: InstanceId, error: &GuestError) {
        let reason = error.to_string();
        let before = match &self.standing {
            Standing::Failed { reason, pause, .. } => Some((reason, *pause)),
            Standing::New | Standing::Settled { .. } => None,
        };
        if before.is_none_or(|(said, _)| *said != reason) {
            warn!(instance = %id, reason, "Could not change an instance's interface; will retry");
        }
        let pause = before.map_or(FIRST_RETRY, |(_, pause)| (pause * 2).min(LAST_RETRY));
        let retry_at = Instant::now() + pause;
        self.standing = Standing::Failed { reason, retry_at, pause };
    }

    /// When it is to be seen to, if nobody does so now.
    fn due(&self, now: Instant) -> Option<Instant> {
        let due = match &self.standing {
            Standing::New => now,
            Standing::Settled { look_at } => *look_at,
            Standing::Failed { retry_at, .. } => *retry_at,
        };
        (self.within_reach && !self.busy).then_some(due)
    }

    fn problem(&self) -> Option<(ProblemKind, String)> {
        let doing = match self.wish.alias {
            Some(_) => "it is not on the instance's interface",
            None => "the instance's former elastic IP is still on its interface",
        };
        match &self.standing {
            Standing::Settled { .. } => None,
            Standing::New | Standing::Failed { .. } if self.by_chance => None,
            Standing::New | Standing::Failed { .. } if !self.within_reach => {
                Some((ProblemKind::Failing, format!("{doing}, and it is out of reach")))
            }
            Standing::New => Some((ProblemKind::Pending, format!("{doing} yet"))),
            Standing::Failed { reason, .. } => {
                Some((ProblemKind::Failing, format!("{doing}: {reason}")))
            }
        }
    }
}

//! What is to be on the instances' own interfaces, and how far that has come.
//!
//! Beside the turn, because a guest may be slow: a turn says what is wanted, whoever is not as wanted
//! is seen to in a task of its own, and what comes of it wakes the next turn. The host's own side is
//! in force before: what an instance sends with an elastic IP is let through, or not any more, whatever
//! the instance knows of it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use eip_compute::{Alias, ComputeBackend, GuestError, GuestTask};
use eip_model::{
    AliasTarget, AttachmentProblem, Backend, Desired, DiffItem, InstanceId, InstanceReport,
    InstanceState, Instances, Ipv4Range, Mode, OrdMap, ProblemKind,
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
/// So many are looked at at once for what an earlier run left there, and the others one by one, each so
/// much later.
const AT_FIRST: usize = 256;
const LATER: Duration = Duration::from_millis(10);
/// How long to wait before a guest that failed is tried again: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What is known of the instances, for [`Guests::want`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'w> {
    pub(crate) instances: &'w Instances,
    pub(crate) lives: &'w OrdMap<InstanceId, u64>,
    pub(crate) ranges: &'w [Ipv4Range],
}

/// The guests that are seen to.
#[derive(Debug)]
pub(crate) struct Guests {
    backends: BTreeMap<Backend, Place>,
    all: BTreeMap<InstanceId, Guest>,
    /// Those of them that have, or had, an elastic IP on an interface: nothing is to be said of the others,
    /// and of them there may be very many.
    in_earnest: BTreeSet<InstanceId>,
    /// What was wanted last, and of which instances.
    aliases: OrdMap<Ipv4Addr, AliasTarget>,
    instances: Instances,
    lives: OrdMap<InstanceId, u64>,
    /// `aliases` by instance.
    wanted: BTreeMap<InstanceId, Alias>,
    /// Those that were seen to when their instance stopped.
    stopped: BTreeSet<InstanceId>,
    /// When those that nobody sees to now are to be seen to. May have one too early, which is found then.
    due: BTreeSet<(Instant, InstanceId)>,
    /// The instances that have been looked at for what an earlier run left there, or will be.
    swept: BTreeSet<InstanceId>,
    /// Those that will be, one by one, and when the next is. There may be very many.
    to_sweep: VecDeque<InstanceId>,
    sweep_at: Instant,
    ranges: Vec<Ipv4Range>,
    tell: mpsc::UnboundedSender<News>,
    told: mpsc::UnboundedReceiver<News>,
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
    /// Whoever sees to it takes longer than it should.
    late: bool,
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

/// What is told of a guest that is seen to.
#[derive(Debug)]
struct News {
    id: InstanceId,
    wish: Wish,
    what: What,
}

#[derive(Debug)]
enum What {
    /// It takes longer than it should. What was begun may still change something, so nothing else is
    /// begun before that has ended.
    Late,
    Ended(Result<(), GuestError>),
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
            in_earnest: BTreeSet::new(),
            aliases: OrdMap::new(),
            instances: Instances::new(),
            lives: OrdMap::new(),
            wanted: BTreeMap::new(),
            stopped: BTreeSet::new(),
            due: BTreeSet::new(),
            swept: BTreeSet::new(),
            to_sweep: VecDeque::new(),
            sweep_at: Instant::now(),
            ranges: Vec::new(),
            tell,
            told,
        }
    }

    /// Has the instances get the elastic IPs that are to be on their interfaces, and lose those that
    /// are not. One that does not run has nothing on them. Costs what has changed since the last call.
    pub(crate) fn want(&mut self, aliases: &OrdMap<Ipv4Addr, AliasTarget>, known: Known<'_>) {
        if self.ranges != known.ranges {
            self.ranges = known.ranges.to_vec();
        }
        let mut concerned = self.take_aliases(aliases);
        let changed = self.take_instances(known);
        self.look_for_leftovers(&changed, known);
        concerned.extend(changed);
        concerned.append(&mut self.stopped);
        for id in concerned {
            let up = known.instances.get(&id).filter(|one| one.state != InstanceState::Stopped);
            match up {
                Some(report) => self.wish(id, report, known),
                // What stops has nothing on its interfaces any more.
                None if self.all.get(&id).is_some_and(|guest| guest.busy) => {
                    self.stopped.insert(id);
                }
                None => self.forget(id),
            }
        }
        self.start_what_is_due();
    }

    /// Notes what is wanted of one that runs, if it is seen to or has to be.
    fn wish(&mut self, id: InstanceId, report: &InstanceReport, known: Known<'_>) {
        let alias = self.wanted.get(&id).copied();
        if alias.is_none() && !self.all.contains_key(&id) {
            return;
        }
        let life = known.lives.get(&id).copied().unwrap_or_default();
        let wish = Wish { backend: report.backend, life, alias };
        let guest = self.all.entry(id).or_insert_with(|| Guest::new(wish));
        guest.within_reach = is_within_reach(report);
        if guest.wish != wish {
            guest.by_chance &= wish.alias.is_none();
            guest.wish = wish;
            guest.standing = Standing::New;
        }
        if !guest.by_chance {
            self.in_earnest.insert(id);
        }
        self.due.extend(guest.due(Instant::now()).map(|due| (due, id)));
    }

    /// Returns the instances that are to have another elastic IP on an interface than before.
    fn take_aliases(&mut self, aliases: &OrdMap<Ipv4Addr, AliasTarget>) -> BTreeSet<InstanceId> {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for item in self.aliases.diff(aliases) {
            let (before, after) = match item {
                DiffItem::Add(public_ip, target) => (None, Some((public_ip, target))),
                DiffItem::Update { old, new } => (Some(old), Some(new)),
                DiffItem::Remove(public_ip, target) => (Some((public_ip, target)), None),
            };
            gone.extend(before.map(|(_, target)| target.instance_id));
            come.extend(after.map(|(public_ip, target)| {
                let (public_ip, private_ip) = (*public_ip, target.private_ip);
                (target.instance_id, Alias { public_ip, private_ip })
            }));
        }
        let concerned = gone.iter().chain(come.iter().map(|(id, _)| id)).copied().collect();
        for id in &gone {
            self.wanted.remove(id);
        }
        self.wanted.extend(come);
        self.aliases = aliases.clone();
        concerned
    }

    /// Returns the instances of which something else is known than before.
    fn take_instances(&mut self, known: Known<'_>) -> BTreeSet<InstanceId> {
        let mut changed = BTreeSet::new();
        for item in self.instances.diff(known.instances) {
            changed.insert(match item {
                DiffItem::Add(id, _) | DiffItem::Remove(id, _) => *id,
                DiffItem::Update { new: (id, _), .. } => *id,
            });
        }
        for item in self.lives.diff(known.lives) {
            changed.insert(match item {
                DiffItem::Add(id, _) | DiffItem::Remove(id, _) => *id,
                DiffItem::Update { new: (id, _), .. } => *id,
            });
        }
        (self.instances, self.lives) = (known.instances.clone(), known.lives.clone());
        changed
    }

    /// Has every instance looked at once, where a look costs nothing and as soon as it is within reach: an
    /// earlier run may have been ended before it could take off what it had put there. The first at once,
    /// and a great many one by one: the host silences what is there.
    fn look_for_leftovers(&mut self, changed: &BTreeSet<InstanceId>, known: Known<'_>) {
        let idle = self.to_sweep.is_empty();
        let mut at_once = AT_FIRST;
        for id in changed {
            let Some(report) = known.instances.get(id) else {
                self.swept.remove(id);
                continue;
            };
            let place = self.backends.get(&report.backend);
            let is_free = place.is_some_and(|place| place.backend.looks_freely());
            // Without a life it is known from an earlier run alone.
            let lives = known.lives.contains_key(id);
            if !(is_free && lives && is_within_reach(report) && self.swept.insert(*id)) {
                continue;
            }
            match at_once.checked_sub(1) {
                Some(left) => {
                    at_once = left;
                    self.look_for_leftovers_on(*id);
                }
                None => self.to_sweep.push_back(*id),
            }
        }
        if idle {
            self.sweep_at = Instant::now() + LATER;
        }
    }

    /// Has an instance looked at that is not seen to anyway.
    fn look_for_leftovers_on(&mut self, id: InstanceId) {
        let (Some(report), Some(life)) = (self.instances.get(&id), self.lives.get(&id)) else {
            return;
        };
        if !is_within_reach(report) {
            self.swept.remove(&id);
            return;
        }
        let wish = Wish { backend: report.backend, life: *life, alias: None };
        if let Entry::Vacant(place) = self.all.entry(id) {
            let look_at = Instant::now();
            let standing = Standing::Settled { look_at };
            place.insert(Guest { by_chance: true, standing, ..Guest::new(wish) });
            self.due.insert((look_at, id));
        }
    }

    /// When there is something to do next.
    fn next_due(&self) -> Option<Instant> {
        let due = self.due.first().map(|(due, _)| *due);
        let sweep = (!self.to_sweep.is_empty()).then_some(self.sweep_at);
        due.into_iter().chain(sweep).min()
    }

    /// Waits until there is something else to be said of a guest. Sees to guests meanwhile.
    pub(crate) async fn changed(&mut self) {
        loop {
            let due = self.next_due();
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let mut news = false;
            tokio::select! {
                Some(one) = self.told.recv() => {
                    news |= self.take_in(one);
                    while let Ok(more) = self.told.try_recv() {
                        news |= self.take_in(more);
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

    /// Says what is in the way of attachments: an elastic IP that is not yet on its instance's interface, or
    /// another one that is still there.
    pub(crate) fn problems(&self, desired: &Desired) -> Vec<AttachmentProblem> {
        let problem = |id: &InstanceId| {
            let (kind, reason) = self.all.get(id)?.problem()?;
            Some(AttachmentProblem { public_ip: desired.address_of(*id)?, kind, reason })
        };
        self.in_earnest.iter().filter_map(problem).collect()
    }

    /// Sees to it no more.
    fn forget(&mut self, id: InstanceId) {
        self.all.remove(&id);
        self.in_earnest.remove(&id);
    }

    /// Takes in what has come of a guest. Returns whether something else is to be said of it.
    fn take_in(&mut self, one: News) -> bool {
        let id = one.id;
        let news = self.judge(one);
        if let Some(due) = self.all.get(&id).and_then(|guest| guest.due(Instant::now())) {
            self.due.insert((due, id));
        }
        news
    }

    fn judge(&mut self, News { id, wish, what }: News) -> bool {
        let Some(guest) = self.all.get_mut(&id) else { return false };
        let before = guest.problem();
        let outcome = match what {
            What::Ended(outcome) => {
                (guest.busy, guest.late) = (false, false);
                outcome
            }
            What::Late => {
                warn!(instance = %id, seconds = LIMIT.as_secs(), "An instance's interface is slow to change");
                guest.late = true;
                return guest.problem() != before;
            }
        };
        if guest.wish != wish {
            return guest.problem() != before;
        }
        match outcome {
            // Nothing is left to be done, or nothing is there any more.
            Ok(()) | Err(GuestError::Gone) if wish.alias.is_none() => {
                self.forget(id);
                return before.is_some();
            }
            // What may be there after all is silenced by the host.
            Err(error) if guest.by_chance => {
                debug!(instance = %id, %error, "Could not look at an instance's interfaces");
                self.forget(id);
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
        while self.sweep_at <= now
            && let Some(id) = self.to_sweep.pop_front()
        {
            self.sweep_at += LATER;
            self.look_for_leftovers_on(id);
        }
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
                let place = room.acquire().await;
                debug!(instance = %id, alias = ?wish.alias, "Sees to an instance's interfaces");
                let mut settled = std::pin::pin!(backend.settle(&task));
                // Nobody waits any more when the agent stops.
                let say = |what| tell.send(News { id, wish, what }).ok();
                let outcome = match tokio::time::timeout(LIMIT, &mut settled).await {
                    Ok(outcome) => outcome,
                    Err(_) => {
                        say(What::Late);
                        // Others need not wait for a guest that hangs.
                        drop(place);
                        settled.await
                    }
                };
                say(What::Ended(outcome));
            });
        }
    }
}

fn is_within_reach(report: &InstanceReport) -> bool {
    report.target().is_some() && report.modes.contains(&Mode::Alias)
}

impl Guest {
    const fn new(wish: Wish) -> Self {
        let standing = Standing::New;
        Self { wish, standing, busy: false, late: false, within_reach: true, by_chance: false }
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
            Standing::New | Standing::Failed { .. } if self.late => {
                let seconds = LIMIT.as_secs();
                let why = format!("{doing}: a change of it takes more than {seconds} s");
                Some((ProblemKind::Failing, why))
            }
            Standing::New => Some((ProblemKind::Pending, format!("{doing} yet"))),
            Standing::Failed { reason, .. } => {
                Some((ProblemKind::Failing, format!("{doing}: {reason}")))
            }
        }
    }
}

#[cfg(test)]
mod tests;

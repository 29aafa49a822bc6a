//! What is to be on the instances' own interfaces, and how far that has come.
//!
//! Beside the turn, because a guest may be slow: a turn says what is wanted, whoever is not as wanted
//! is seen to in a task of its own, and what comes of it wakes the next turn. The host's own side is
//! in force before: what an instance sends with an elastic IP is let through, or not any more, whatever
//! the instance knows of it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
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
    /// The instances that have been looked at for what an earlier run left there.
    swept: BTreeSet<InstanceId>,
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
            aliases: OrdMap::new(),
            instances: Instances::new(),
            lives: OrdMap::new(),
            wanted: BTreeMap::new(),
            stopped: BTreeSet::new(),
            due: BTreeSet::new(),
            swept: BTreeSet::new(),
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
                None => drop(self.all.remove(&id)),
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
        let mut look_at = Instant::now();
        let mut looks = 0;
        for id in changed {
            let Some(report) = known.instances.get(id) else {
                self.swept.remove(id);
                continue;
            };
            let place = self.backends.get(&report.backend);
            let is_free = place.is_some_and(|place| place.backend.looks_freely());
            // Without a life it is known from an earlier run alone.
            let life = known.lives.get(id).copied();
            let Some(life) = life.filter(|_| is_free && is_within_reach(report)) else { continue };
            if !self.swept.insert(*id) {
                continue;
            }
            let wish = Wish { backend: report.backend, life, alias: None };
            if let Entry::Vacant(place) = self.all.entry(*id) {
                looks += 1;
                if looks > AT_FIRST {
                    look_at += LATER;
                }
                let standing = Standing::Settled { look_at };
                place.insert(Guest { by_chance: true, standing, ..Guest::new(wish) });
                self.due.insert((look_at, *id));
            }
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
        let problem = |(id, guest): (&InstanceId, &Guest)| {
            let (kind, reason) = guest.problem()?;
            Some(AttachmentProblem { public_ip: desired.address_of(*id)?, kind, reason })
        };
        self.all.iter().filter_map(problem).collect()
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
mod tests {
    use std::sync::{Mutex, PoisonError};

    use async_trait::async_trait;
    use eip_compute::Sight;
    use eip_model::{Attachment, ClusterId, DesiredSet, ElasticIpId, Generation};
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::*;

    const PUBLIC: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);

    /// A backend whose guests end what they have begun when they may.
    #[derive(Debug, Default)]
    struct Slow {
        begun: Mutex<Vec<(u128, Option<Ipv4Addr>)>>,
        may_end: watch::Sender<usize>,
    }

    impl Slow {
        fn begun(&self) -> Vec<(u128, Option<Ipv4Addr>)> {
            self.begun.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    #[async_trait]
    impl ComputeBackend for Slow {
        fn backend(&self) -> Backend {
            Backend::Docker
        }

        fn place(&self) -> String {
            "the test".to_owned()
        }

        async fn watch(&self, _: watch::Sender<Sight>, _: CancellationToken) {}

        async fn settle(&self, task: &GuestTask) -> Result<(), GuestError> {
            let number = {
                let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
                let public_ip = task.alias.map(|alias| alias.public_ip);
                begun.push((task.instance_id.uuid().as_u128(), public_ip));
                begun.len()
            };
            self.may_end.subscribe().wait_for(|may| *may >= number).await.unwrap();
            Ok(())
        }

        fn looks_freely(&self) -> bool {
            true
        }
    }

    fn id(n: u8) -> InstanceId {
        InstanceId::new(Uuid::from_u128(u128::from(n)))
    }

    fn private(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 17, 0, n)
    }

    /// Running containers, and whether each can be reached in mode `alias`.
    fn running(all: &[(u8, bool)]) -> Instances {
        let report = |(n, within_reach): &(u8, bool)| InstanceReport {
            id: id(*n),
            backend: Backend::Docker,
            name: format!("web-{n}"),
            project: None,
            state: InstanceState::Running,
            private_ip: Some(private(*n)),
            vpc_id: None,
            address_source: None,
            unusable: None,
            modes: if *within_reach { Mode::ALL.to_vec() } else { Mode::nat_alone() },
            interfaces: Vec::new(),
        };
        all.iter().map(|one| (id(one.0), Arc::new(report(one)))).collect()
    }

    fn want(guests: &mut Guests, instances: &Instances, alias: Option<u8>) {
        let lives = instances.keys().map(|id| (*id, 1_u64)).collect();
        let target = |n| {
            let (instance_id, private_ip) = (id(n), private(n));
            (PUBLIC, AliasTarget { instance_id, private_ip, speakers: BTreeSet::new() })
        };
        let aliases = alias.map(target).into_iter().collect();
        guests.want(&aliases, Known { instances, lives: &lives, ranges: &[] });
    }

    /// What is said of the elastic IP while it points at this instance.
    fn said(guests: &Guests, n: u8) -> Option<(ProblemKind, String)> {
        let attachment = Attachment {
            public_ip: PUBLIC,
            elastic_ip_id: ElasticIpId::new(Uuid::nil()),
            instance_id: id(n),
            mode: Mode::Alias,
            network: None,
        };
        let desired = Desired::new(DesiredSet {
            cluster_id: ClusterId::new(Uuid::nil()),
            host: "hv1".parse().unwrap(),
            generation: Generation::default(),
            replaces: None,
            ranges: vec!["100.64.0.0/10".parse().unwrap()],
            attachments: vec![attachment],
        });
        guests.problems(&desired.unwrap()).pop().map(|one| (one.kind, one.reason))
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_begun_on_a_guest_before_what_took_too_long_has_ended() {
        let slow = Arc::new(Slow::default());
        let backend: Arc<dyn ComputeBackend> = Arc::<Slow>::clone(&slow);
        let mut guests = Guests::new(&[backend]);
        let instances = running(&[(2, true)]);
        guests.swept.insert(id(2));
        want(&mut guests, &instances, Some(2));
        guests.changed().await;
        let (kind, why) = said(&guests, 2).unwrap();
        assert_eq!(kind, ProblemKind::Failing);
        assert!(why.ends_with("a change of it takes more than 10 s"), "{why}");

        want(&mut guests, &instances, None);
        assert!(said(&guests, 2).is_some(), "it may yet get there");
        tokio::time::sleep(LAST_RETRY * 4).await;
        assert_eq!(slow.begun(), [(2, Some(PUBLIC))], "the take-off waits");
        slow.may_end.send_replace(1);
        guests.changed().await;
        // The next one is begun by the task that was started.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(slow.begun(), [(2, Some(PUBLIC)), (2, None)]);
        slow.may_end.send_replace(2);
        guests.changed().await;
        assert_eq!(said(&guests, 2), None);
    }

    #[tokio::test(start_paused = true)]
    async fn each_instance_is_looked_at_for_leftovers_once_it_is_within_reach() {
        let slow = Arc::new(Slow::default());
        slow.may_end.send_replace(usize::MAX);
        let backend: Arc<dyn ComputeBackend> = Arc::<Slow>::clone(&slow);
        let mut guests = Guests::new(&[backend]);
        for (all, looked_at) in [
            (&[(2, true), (3, false)][..], &[(2, None)][..]),
            (&[(2, true), (3, true)], &[(2, None), (3, None)]),
            (&[(2, true), (3, true), (4, true)], &[(2, None), (3, None), (4, None)]),
        ] {
            want(&mut guests, &running(all), None);
            let news = tokio::time::timeout(LIMIT, guests.changed()).await;
            assert!(news.is_err(), "nothing is said of what was looked at by chance");
            assert_eq!(slow.begun(), looked_at);
        }
    }
}

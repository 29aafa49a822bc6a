//! The turn of the loop: read both sides, resolve, apply, report. It takes no input: whatever woke
//! it, it does the same.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eip_dataplane::DesiredState;
use eip_model::{
    AppliedReport, AttachmentProblem, DataPlaneHealth, Desired, Generation, OrdMap, Resolver,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::guests::{Guests, Known};
use crate::keep::ToKeep;
use crate::kernel::{Kernel, KernelError};
use crate::mends::Mends;
use crate::tell::sendable;
use crate::world::{Inventory, View, World};

/// How often it is looked whether others have changed something: it is mended within a second.
const MEND_INTERVAL: Duration = Duration::from_millis(400);
/// How long to wait at the start for the backends before their last lists of an earlier run serve.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// What a turn reads, and where it reports.
#[derive(Debug)]
pub(crate) struct Turns {
    pub(crate) world: World,
    pub(crate) guests: Guests,
    pub(crate) desired: watch::Receiver<Option<Desired>>,
    /// Why the newest desired set was turned down, if it was.
    pub(crate) refused: watch::Receiver<Option<String>>,
    pub(crate) inventory: watch::Sender<Option<Inventory>>,
    pub(crate) applied: watch::Sender<Option<AppliedReport>>,
    /// What is to be on disk.
    pub(crate) kept: watch::Sender<Option<ToKeep>>,
    /// What was put right, for the server to hear.
    pub(crate) mends: Arc<Mends>,
    /// What comes of both sides, by what has changed in either.
    pub(crate) resolver: Resolver,
    /// What came of them as they were last.
    pub(crate) resolved: Option<Resolved>,
    pub(crate) begun: Instant,
    /// There is news of what runs here that was not told yet.
    pub(crate) untold: bool,
}

/// A desired set, and what it comes to on this host as it is.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    desired: Desired,
    wanted: Arc<DesiredState>,
    problems: OrdMap<Ipv4Addr, AttachmentProblem>,
}

/// The data plane and what it was last told.
#[derive(Debug)]
struct Plane {
    kernel: Result<Arc<Mutex<Box<dyn Kernel>>>, String>,
    in_force: Option<Arc<DesiredState>>,
    failure: Option<KernelError>,
    /// The newest desired set that was applied as a whole.
    generation: Generation,
}

impl Turns {
    pub(crate) async fn run(
        mut self,
        kernel: Result<Box<dyn Kernel>, String>,
        stop: CancellationToken,
    ) {
        let mut plane = Plane {
            kernel: kernel.map(|kernel| Arc::new(Mutex::new(kernel))),
            in_force: None,
            failure: None,
            generation: Generation::default(),
        };
        // Rules of an earlier run are in place; nothing is hurried, and nothing is unmapped because
        // its backend has not been asked yet.
        let first = tokio::time::timeout(FIRST_LOOK, self.first_look());
        if stop.run_until_cancelled(first).await.is_none() {
            return;
        }
        let mut mend = tokio::time::interval(MEND_INTERVAL);
        mend.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Backends end with the agent: what that looks like is not to be told.
            if stop.is_cancelled() {
                return;
            }
            self.turn(&mut plane).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.world.changed() => {}
                () = self.guests.changed() => {}
                changed = self.desired.changed() => if changed.is_err() { return },
                changed = self.refused.changed() => if changed.is_err() { return },
                _ = mend.tick() => plane.mend(&self.mends).await,
            }
        }
    }

    async fn first_look(&mut self) {
        while !self.world.seen() {
            self.world.changed().await;
        }
    }

    async fn turn(&mut self, plane: &mut Plane) {
        let news = self.world.look();
        let view = self.world.view();
        if let Some(resolved) = self.resolve(news, &view) {
            plane.apply(&resolved.wanted).await;
            let Resolved { desired, wanted, problems } = &resolved;
            if plane.failure.is_none() {
                plane.generation = desired.generation;
            }
            if plane.carries() {
                let (instances, lives) = (&view.host.known, &view.lives);
                let known = Known { instances, lives, ranges: &desired.ranges };
                self.guests.want(&wanted.aliases, known);
            }
            let of_guests = self.guests.problems(desired);
            let report = AppliedReport {
                cluster_id: desired.cluster_id,
                generation: plane.generation,
                data_plane: plane.health(self.refused.borrow_and_update().as_deref()),
                problems: merged(problems, [plane.problems(), of_guests].concat()),
            };
            publish(&self.applied, sendable(report));
        }
        self.untold |= news;
        if self.untold && self.may_tell() {
            publish(&self.inventory, view.inventory.clone());
            self.untold = false;
        }
        // After the change is in force and told: a crash in between costs one question.
        self.keep(view);
    }

    /// What runs here is told behind the first desired set, for which both sides have enough to do; but it is
    /// told, whatever becomes of that.
    fn may_tell(&self) -> bool {
        let answered = self.resolved.is_some() || self.refused.borrow().is_some();
        answered || self.begun.elapsed() > FIRST_LOOK
    }

    /// Resolves what is desired against what runs here, by what has changed in either: a generation
    /// stands for one set and no other.
    fn resolve(&mut self, news: bool, view: &View) -> Option<Resolved> {
        let desired = self.desired.borrow_and_update();
        let desired = desired.as_ref()?;
        let of = |set: &Desired| (set.cluster_id, set.generation);
        let same = |last: &&Resolved| !news && of(&last.desired) == of(desired);
        if let Some(last) = self.resolved.as_ref().filter(same) {
            return Some(last.clone());
        }
        self.resolver.update(desired, &view.host);
        let found = self.resolver.found();
        let wanted = DesiredState {
            ranges: desired.ranges.clone(),
            networks: view.host.networks.clone(),
            targets: found.targets.clone(),
            aliases: found.aliases.clone(),
        };
        let problems = found.problems.clone();
        let resolved = Resolved { desired: desired.clone(), wanted: Arc::new(wanted), problems };
        self.resolved = Some(resolved.clone());
        Some(resolved)
    }

    fn keep(&self, view: View) {
        let Some(Resolved { desired, .. }) = self.resolved.clone() else { return };
        let now = Some(ToKeep { desired, listings: view.listings });
        self.kept.send_if_modified(|kept| {
            let news = *kept != now;
            *kept = now;
            news
        });
    }
}

/// Returns the problems by address; of two with one elastic IP the first counts.
fn merged(
    first: &OrdMap<Ipv4Addr, AttachmentProblem>,
    then: Vec<AttachmentProblem>,
) -> Vec<AttachmentProblem> {
    let mut all: BTreeMap<Ipv4Addr, AttachmentProblem> =
        then.into_iter().map(|problem| (problem.public_ip, problem)).collect();
    if all.is_empty() {
        return first.values().cloned().collect();
    }
    all.extend(first.iter().map(|(address, problem)| (*address, problem.clone())));
    all.into_values().collect()
}

/// Tells what is new; what is not new is told again by whoever sends it, in its own time.
fn publish<T: PartialEq>(to: &watch::Sender<Option<T>>, report: T) {
    to.send_if_modified(|last| {
        let changed = last.as_ref() != Some(&report);
        *last = Some(report);
        changed
    });
}

impl Plane {
    async fn apply(&mut self, wanted: &Arc<DesiredState>) {
        let same = |now: &Arc<DesiredState>| Arc::ptr_eq(now, wanted) || now == wanted;
        if self.in_force.as_ref().is_some_and(same) && self.failure.is_none() {
            return;
        }
        let count = wanted.targets.len() + wanted.aliases.len();
        let told = Arc::clone(wanted);
        match self.with_kernel(move |kernel| kernel.apply(&told)).await {
            Some(Ok(())) => {
                if self.failure.take().is_some() {
                    info!("The data plane works again");
                }
                debug!(attachments = count, "Applied");
                self.in_force = Some(Arc::clone(wanted));
            }
            Some(Err(error)) => {
                if self.failure.as_ref() != Some(&error) {
                    error!(%error, "Could not apply the desired set; will retry");
                }
                self.in_force = None;
                self.failure = Some(error);
            }
            None => {}
        }
    }

    /// Puts right what others changed, and lets a failed turn be tried again.
    async fn mend(&mut self, mends: &Mends) {
        let Some(wanted) = self.in_force.clone() else { return };
        match self.with_kernel(move |kernel| kernel.mend(&wanted)).await {
            Some(Ok(mended)) => {
                for what in mended {
                    warn!(what, "Mended what another program had changed");
                    mends.add(what);
                }
            }
            Some(Err(error)) => {
                error!(%error, "Could not mend the data plane; will apply it anew");
                self.in_force = None;
            }
            None => {}
        }
    }

    async fn with_kernel<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut dyn Kernel) -> Result<T, KernelError> + Send + 'static,
    ) -> Option<Result<T, KernelError>> {
        let kernel = self.kernel.as_ref().ok()?.clone();
        let done = tokio::task::spawn_blocking(move || {
            call(&mut **kernel.lock().unwrap_or_else(PoisonError::into_inner))
        });
        let panicked = || KernelError("the data plane gave up on this".to_owned());
        Some(done.await.unwrap_or_else(|_| Err(panicked())))
    }

    /// What the kernel would not have of what is in force.
    fn problems(&self) -> Vec<AttachmentProblem> {
        let kernel = self.kernel.as_ref().map(|kernel| kernel.lock());
        kernel
            .map_or_else(|_| Vec::new(), |it| it.unwrap_or_else(PoisonError::into_inner).problems())
    }

    /// Whether what is desired is in force here.
    fn carries(&self) -> bool {
        self.kernel.is_ok() && self.failure.is_none()
    }

    fn health(&self, refused: Option<&str>) -> DataPlaneHealth {
        match (&self.kernel, &self.failure, refused) {
            (Err(reason), ..) => DataPlaneHealth::Absent { reason: reason.clone() },
            (Ok(_), Some(error), _) => DataPlaneHealth::Failing { reason: error.to_string() },
            (Ok(_), None, Some(why)) => DataPlaneHealth::Failing { reason: why.to_owned() },
            (Ok(_), None, None) => DataPlaneHealth::Ready,
        }
    }
}

//! A backend that is followed, on a thread that may be in another network namespace.

use std::fs::File;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use eip_compute::libvirt::{LibvirtBackend, LibvirtUri, UserPlaces};
use eip_compute::{ComputeBackend, Listing, Sight};
use eip_model::{InstanceReport, InstanceState};
use eip_testkit::eventually;
use nix::sched::{CloneFlags, setns};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// More than what an event takes, also on a slow machine, and less than the next look at all.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(5);
/// How long nothing happens where nothing should.
pub(crate) const A_MOMENT: Duration = Duration::from_secs(1);
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Followed {
    seen: watch::Receiver<Sight>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Followed {
    pub(crate) fn start(uri: &str) -> Self {
        Self::start_in(uri, None)
    }

    /// Follows from inside a network namespace, whose neighbours are then looked at.
    pub(crate) fn start_in(uri: &str, namespace: Option<&Path>) -> Self {
        Self::start_for(uri, &UserPlaces::default(), namespace)
    }

    pub(crate) fn start_for(uri: &str, user: &UserPlaces, namespace: Option<&Path>) -> Self {
        let uri = LibvirtUri::parse(uri, user).unwrap();
        let backend = LibvirtBackend::new(uri);
        let (tell, seen) = watch::channel(Sight::Unseen);
        let stop = CancellationToken::new();
        let (until, namespace) = (stop.clone(), namespace.map(|path| File::open(path).unwrap()));
        let thread = std::thread::spawn(move || {
            if let Some(namespace) = namespace {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(backend.watch(tell, until));
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// What it says now.
    pub(crate) fn now(&self) -> Sight {
        self.seen.borrow().clone()
    }

    /// Says that nothing new is told from before `act` to some time after it.
    #[track_caller]
    pub(crate) fn is_unmoved_by(&self, time: Duration, act: impl FnOnce()) {
        let mut seen = self.seen.clone();
        let before = seen.borrow_and_update().clone();
        act();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let waiting = async { tokio::time::timeout(time, seen.changed()).await.is_ok() };
        let moved = runtime.unwrap().block_on(waiting);
        assert!(!moved, "from {before:#?} to {:#?}", self.now());
    }

    /// Waits until a listing is as it should be.
    #[track_caller]
    pub(crate) fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Listing) -> Option<T>,
    ) -> T {
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, limit, || match self.now() {
                Sight::Listed(listing) => wanted(&listing),
                Sight::Unseen | Sight::Unreachable { .. } => None,
            })
        }));
        found.unwrap_or_else(|_| panic!("waited in vain for {what}: {:#?}", self.now()))
    }

    /// Waits until the instance of that name is as it should be.
    #[track_caller]
    pub(crate) fn until_one(
        &self,
        name: &str,
        limit: Duration,
        wanted: impl Fn(&InstanceReport) -> bool,
    ) -> InstanceReport {
        self.until(name, limit, |listing| named(listing, name).filter(|one| wanted(one)).cloned())
    }

    #[track_caller]
    pub(crate) fn until_state(&self, name: &str, state: InstanceState) {
        self.until_one(name, AT_ONCE, |one| one.state == state);
    }

    /// Waits until it says that nobody answers, and returns why.
    #[track_caller]
    pub(crate) fn until_unreachable(&self, limit: Duration) -> String {
        eventually("it to be told as unreachable", limit, || match self.now() {
            Sight::Unreachable { reason, .. } => Some(reason),
            Sight::Unseen | Sight::Listed(_) => None,
        })
    }
}

pub(crate) fn named<'a>(listing: &'a Listing, name: &str) -> Option<&'a InstanceReport> {
    listing.instances.values().map(|one| &**one).find(|one| one.name == name)
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

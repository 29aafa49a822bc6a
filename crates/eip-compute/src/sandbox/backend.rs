//! Telling which sandboxes there are.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use eip_model::{Backend, Instances, LocalNetwork, chain};
use futures_util::future::select_all;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::record::{SandboxRecord, read_all};
use super::{BRIDGE, SUBNET};
use crate::guest::{GuestError, GuestTask, Memory, may_enter, settle_namespace};
use crate::sight::{ComputeBackend, Listing, Sight};

/// How often the folder is looked at without any news.
const SLOW_POLL: Duration = Duration::from_secs(2);

/// The sandboxes that are remembered in one folder.
#[derive(Debug)]
pub struct SandboxBackend {
    dir: PathBuf,
    memory: Memory,
}

impl SandboxBackend {
    /// The sandboxes of the service whose data lies in `data_dir`.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("sandbox"), memory: Memory::default() }
    }
}

#[async_trait]
impl ComputeBackend for SandboxBackend {
    fn backend(&self) -> Backend {
        Backend::Sandbox
    }

    fn place(&self) -> String {
        self.dir.display().to_string()
    }

    async fn watch(&self, sight: watch::Sender<Sight>, stop: CancellationToken) {
        // Only a folder that is there can be watched. Where it cannot be made, the slow poll serves.
        std::fs::create_dir_all(&self.dir).ok();
        loop {
            // Before the look: what happens between the two is news.
            let news = watch_folder(&self.dir);
            let seen = read_all(&self.dir);
            let told = match &seen {
                Ok(records) => Sight::Listed(listing(records)),
                Err(error) => Sight::Unreachable { reason: chain(error), known: None },
            };
            told.tell(&sight);
            let records = seen.unwrap_or_default();
            if stop.run_until_cancelled(change(news, &records)).await.is_none() {
                return;
            }
        }
    }

    async fn settle(&self, task: &GuestTask) -> Result<(), GuestError> {
        let records = read_all(&self.dir).map_err(|error| GuestError::failed(&error))?;
        let named = records.iter().find(|one| one.id == task.instance_id);
        let namespace = named.and_then(SandboxRecord::namespace).ok_or(GuestError::Gone)?;
        settle_namespace(namespace, task.clone(), &self.memory).await
    }

    fn looks_freely(&self) -> bool {
        true
    }
}

fn listing(records: &[SandboxRecord]) -> Listing {
    let may_enter = may_enter();
    // One that is just being made is not there yet; "stopped" would say that it had been.
    let is_there = |one: &&SandboxRecord| one.ready || one.returning || !one.is_process();
    let there = records.iter().filter(is_there);
    let instance = |one: &SandboxRecord| (one.id, Arc::new(one.report(may_enter)));
    let instances: Instances = there.clone().map(instance).collect();
    let networks = match instances.is_empty() {
        true => Vec::new(),
        false => vec![LocalNetwork::new(BRIDGE, SUBNET).known_as(Backend::Sandbox, BRIDGE)],
    };
    let lives = there.map(|one| (one.id, one.started)).collect();
    Listing { instances, networks, lives }
}

/// Waits for a file to change, a process to end, or the time to look anyway.
async fn change(news: Option<AsyncFd<OwnedFd>>, records: &[SandboxRecord]) {
    let handles = records.iter().filter_map(SandboxRecord::process);
    let mut ends: Vec<AsyncFd<OwnedFd>> = handles.filter_map(watchable).collect();
    ends.extend(news);
    let sleep = tokio::time::sleep(SLOW_POLL);
    if ends.is_empty() {
        return sleep.await;
    }
    let ready = ends.iter().map(|end| Box::pin(end.readable()));
    tokio::select! {
        _ = select_all(ready) => {}
        () = sleep => {}
    }
}

/// Returns what becomes readable when a file of the folder changes, if the folder is there.
fn watch_folder(dir: &Path) -> Option<AsyncFd<OwnedFd>> {
    let queue =
        inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok()?;
    let flags = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE;
    inotify::add_watch(&queue, dir, flags).ok()?;
    watchable(queue)
}

#[expect(unsafe_code, reason = "registering a descriptor is unsafe for types that may close it")]
fn watchable(descriptor: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one open descriptor and keeps it open until it is dropped, which
    // the returned value does after it has deregistered it.
    unsafe { AsyncFd::register(descriptor) }.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::record::{claim, write};
    use eip_model::InstanceState;

    #[tokio::test]
    async fn a_sandbox_is_told_when_it_comes_and_when_its_process_ends() {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().join("sandbox");
        let (tell, mut seen) = watch::channel(Sight::Unseen);
        let stop = CancellationToken::new();
        let backend = SandboxBackend::of(data.path());
        let watching = tokio::spawn({
            let stop = stop.clone();
            async move { backend.watch(tell, stop).await }
        });
        let none = |sight: &Sight| matches!(sight, Sight::Listed(all) if all.instances.is_empty());
        seen.wait_for(none).await.unwrap();

        let mut process = tokio::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut record = claim(&dir, &"web".parse().unwrap(), None).unwrap();
        record.pid = process.id().unwrap();
        record.started = eip_testkit::eventually("the process to be there", SLOW_POLL, || {
            crate::sandbox::record::started_of(record.pid)
        });
        record.ready = true;
        write(&dir, &record).unwrap();
        let one_in = |state: InstanceState| {
            move |sight: &Sight| {
                matches!(sight, Sight::Listed(all)
                    if all.instances.values().map(|one| one.state).eq([state]))
            }
        };
        seen.wait_for(one_in(InstanceState::Running)).await.unwrap();
        process.kill().await.unwrap();
        seen.wait_for(one_in(InstanceState::Stopped)).await.unwrap();
        stop.cancel();
        watching.await.unwrap();
    }
}

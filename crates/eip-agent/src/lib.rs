//! One host's loop: inventory up, desired set down, apply, report.
//!
//! The agent decides nothing. It follows what runs here, asks the server what is wished, makes the
//! kernel agree, and says what is true. It keeps the last wish and the last inventory on disk, so
//! that a host comes back from a crash or a reboot without the server; when it stops, it leaves
//! everything in place.

mod keep;
mod kernel;
mod netfilter;
mod server;
mod turn;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use eip_compute::ComputeBackend;
use eip_model::{DesiredSet, HostName, chain};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

pub use eip_dataplane::{Announce, Options as KernelOptions};
use keep::{Keep, keep_up};
pub use kernel::{Kernel, KernelError};
pub use netfilter::open_kernel;
use server::{Fetched, LinkError};
pub use server::{ServerLink, ServerUrlError};
use turn::Turns;
use world::World;

/// How long a question for a new desired set stays open, in seconds.
const LONG_POLL_SECONDS: u64 = 25;
/// How often reports are sent even when nothing changed: what keeps the host from counting as silent.
const REPORT_INTERVAL: Duration =
    Duration::from_secs(eip_model::REPORT_INTERVAL_SECONDS.unsigned_abs());
/// How long to wait before a server that did not answer is asked again: doubled up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(3);

/// What an agent is told at start.
#[derive(Debug)]
pub struct AgentConfig {
    pub host: HostName,
    /// Where the agent keeps its file.
    pub data_dir: PathBuf,
    pub backends: Vec<Arc<dyn ComputeBackend>>,
    /// The data plane, or why there is none.
    pub kernel: Result<Box<dyn Kernel>, String>,
}

/// Runs the loop until told to stop. Leaves the data plane as it is.
pub async fn run(config: AgentConfig, server: ServerLink, stop: CancellationToken) {
    let AgentConfig { host, data_dir, backends, kernel } = config;
    let tasks = TaskTracker::new();
    let keep = Keep::open(&data_dir);
    let sights = backends.into_iter().map(|backend| {
        let (tell, sight) = watch::channel(eip_compute::Sight::Unseen);
        let kind = backend.backend();
        let stop = stop.clone();
        tasks.spawn(async move { backend.watch(tell, stop).await });
        (kind, sight)
    });
    let world = World::new(sights.collect(), keep.listings());
    let (desired_tx, desired_rx) = watch::channel(keep.desired());
    let (inventory_tx, inventory_rx) = watch::channel(None);
    let (applied_tx, applied_rx) = watch::channel(None);

    tasks.spawn(pull(server.clone(), host, desired_tx, stop.clone()));
    tasks.spawn(tell(server.clone(), "inventory", inventory_rx, stop.clone()));
    tasks.spawn(tell(server, "applied", applied_rx, stop.clone()));
    let (kept_tx, kept_rx) = watch::channel(None);
    tasks.spawn(keep_up(keep, kept_rx));
    let turns = Turns {
        world,
        desired: desired_rx,
        inventory: inventory_tx,
        applied: applied_tx,
        kept: kept_tx,
    };
    tasks.spawn(turns.run(kernel, stop));
    tasks.close();
    tasks.wait().await;
}

/// Asks for the desired set again and again, and passes on what may be trusted.
async fn pull(
    server: ServerLink,
    host: HostName,
    desired: watch::Sender<Option<DesiredSet>>,
    stop: CancellationToken,
) {
    let mut retry = FIRST_RETRY;
    let mut silent = false;
    let mut turned_down = None;
    loop {
        let known = desired.borrow().as_ref().map(|set| set.generation);
        let asked = server.desired(known, LONG_POLL_SECONDS);
        let Some(answer) = stop.run_until_cancelled(asked).await else { return };
        let pause = match answer {
            Ok(fetched) => {
                if silent {
                    info!("The server answers again");
                }
                silent = false;
                retry = FIRST_RETRY;
                match fetched {
                    Fetched::Unchanged => None,
                    Fetched::Set(set) => {
                        let before = turned_down;
                        turned_down = take(&host, &desired, set);
                        if let Some(reason) = turned_down.filter(|_| turned_down != before) {
                            error!(
                                reason,
                                "Turned down a desired set; remove agent.json and restart the \
                                 agent to accept it"
                            );
                        }
                        turned_down.map(|_| LONGEST_RETRY)
                    }
                }
            }
            Err(error) => {
                if !silent {
                    warn!(error = %chain(&error), "The server does not answer; rules stay as they are");
                }
                silent = true;
                retry = (retry * 2).min(LONGEST_RETRY);
                Some(retry)
            }
        };
        if let Some(pause) = pause
            && stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none()
        {
            return;
        }
    }
}

/// Passes a desired set on, unless it cannot be the successor of the one that is known. Returns
/// why it was turned down, if it was.
///
/// A server that lost its record, or another one at the same address, must not clear a host.
fn take(
    host: &HostName,
    desired: &watch::Sender<Option<DesiredSet>>,
    set: DesiredSet,
) -> Option<&'static str> {
    let why_not = match &*desired.borrow() {
        _ if set.host != *host => Some("it is another host's"),
        Some(known) if known.cluster_id != set.cluster_id => Some("it is of another record"),
        Some(known) if known.generation > set.generation => {
            Some("it is older than the one in force")
        }
        Some(_) | None => None,
    };
    if why_not.is_none() {
        desired.send_replace(Some(set));
    }
    why_not
}

/// Sends the newest report to one of the agent's paths, when there is news and again in its time: a
/// server that has not heard of this host, or whose record was replaced, learns it anew.
async fn tell<T: Serialize + Clone>(
    server: ServerLink,
    path: &'static str,
    mut news: watch::Receiver<Option<T>>,
    stop: CancellationToken,
) {
    loop {
        let report = news.borrow_and_update().clone();
        let sent = async {
            match &report {
                Some(report) => server.put(path, report).await,
                None => Ok(()),
            }
        };
        let Some(outcome) = stop.run_until_cancelled(sent).await else { return };
        if !pause(outcome, &mut news, &stop).await {
            return;
        }
    }
}

/// Waits for news or for the time to report anyway, less when the last report did not arrive.
/// Returns whether to go on.
async fn pause<T>(
    outcome: Result<(), LinkError>,
    news: &mut watch::Receiver<Option<T>>,
    stop: &CancellationToken,
) -> bool {
    let wait = match outcome {
        Ok(()) => REPORT_INTERVAL,
        Err(error) => {
            tracing::debug!(error = %chain(&error), "A report did not arrive; will retry");
            FIRST_RETRY * 5
        }
    };
    match stop.run_until_cancelled(tokio::time::timeout(wait, news.changed())).await {
        Some(Ok(Err(_))) | None => false,
        Some(Ok(Ok(())) | Err(_)) => true,
    }
}

//! One host's loop: inventory up, desired set down, apply, report.
//!
//! The agent decides nothing. It follows what runs here, asks the server what is wished, makes the
//! kernel agree, and says what is true. It keeps the last wish and the last inventory on disk, so
//! that a host comes back from a crash or a reboot without the server; when it stops, it leaves
//! everything in place.

mod dial;
mod guests;
#[cfg(test)]
mod instance;
mod inventory;
mod keep;
mod kernel;
mod mends;
mod netfilter;
mod pull;
mod server;
mod tell;
mod traffic;
mod turn;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use eip_compute::ComputeBackend;
use eip_model::{HostName, Resolver};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use dial::{AddressError, ServerAddress, Unreached};
pub use eip_dataplane::{Announce, Counters, Options as KernelOptions};
use guests::Guests;
use inventory::tell_inventory;
use keep::{Keep, keep_up};
pub use kernel::{Kernel, KernelError};
use mends::{Mends, tell_mends};
pub use netfilter::open_kernel;
use pull::pull;
pub use server::{ServerLink, ServerLinkError};
use tell::tell_applied;
use traffic::tell_traffic;
use turn::Turns;
use world::World;

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
    server.resume_from(keep.acknowledged());
    let guests = Guests::new(&backends);
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

    if let Some(reader) = kernel.as_ref().ok().and_then(|kernel| kernel.traffic()) {
        tasks.spawn(tell_traffic(reader, desired_rx.clone(), server.clone(), stop.clone()));
    }
    let (refused_tx, refused_rx) = watch::channel(None);
    tasks.spawn(pull(server.clone(), host, desired_tx, refused_tx, stop.clone()));
    tasks.spawn(tell_inventory(server.clone(), inventory_rx, stop.clone()));
    tasks.spawn(tell_applied(server.clone(), applied_rx, stop.clone()));
    let mends = Arc::new(Mends::default());
    tasks.spawn(tell_mends(Arc::clone(&mends), server.clone(), stop.clone()));
    let (kept_tx, kept_rx) = watch::channel(None);
    tasks.spawn(keep_up(keep, kept_rx, server));
    let turns = Turns {
        world,
        guests,
        desired: desired_rx,
        refused: refused_rx,
        inventory: inventory_tx,
        applied: applied_tx,
        kept: kept_tx,
        mends,
        resolver: Resolver::default(),
        resolved: None,
        begun: std::time::Instant::now(),
        untold: false,
    };
    tasks.spawn(turns.run(kernel, stop));
    tasks.close();
    tasks.wait().await;
}

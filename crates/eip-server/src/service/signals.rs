//! Waking those who wait for a host: its agent for a new desired set, callers for its report.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use eip_model::HostName;
use tokio::sync::watch;

/// A counter for each host that whoever waits can watch. Missing a wake-up costs at most one turn of
/// the slow poll that every waiter has besides.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    desired: Board,
    observed: Board,
    inventory: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Board(Mutex<HashMap<HostName, watch::Sender<u64>>>);

impl Board {
    fn lock(&self) -> MutexGuard<'_, HashMap<HostName, watch::Sender<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raise(&self, host: &HostName) {
        if let Some(counter) = self.lock().get(host) {
            counter.send_modify(|count| *count += 1);
        }
    }

    fn watch(&self, host: &HostName) -> watch::Receiver<u64> {
        self.lock().entry(host.clone()).or_default().subscribe()
    }
}

impl Signals {
    pub(crate) fn desired_changed(&self, host: &HostName) {
        self.desired.raise(host);
    }

    pub(crate) fn observed_changed(&self, host: &HostName) {
        self.observed.raise(host);
    }

    pub(crate) fn inventory_changed(&self) {
        self.inventory.send_modify(|count| *count += 1);
    }

    /// Watches the inventories of all hosts.
    pub(crate) fn watch_inventory(&self) -> watch::Receiver<u64> {
        self.inventory.subscribe()
    }

    pub(crate) fn watch_desired(&self, host: &HostName) -> watch::Receiver<u64> {
        self.desired.watch(host)
    }

    pub(crate) fn watch_observed(&self, host: &HostName) -> watch::Receiver<u64> {
        self.observed.watch(host)
    }
}

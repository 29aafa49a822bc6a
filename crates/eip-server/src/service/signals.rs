//! Waking those who wait: an agent for a new desired set, callers for a host's report, followers for
//! events.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eip_model::HostName;
use eip_store::News;
use tokio::sync::watch;
use tokio::time::Instant;

/// A counter for each host that whoever waits can watch. Missing a wake-up costs at most one turn of
/// the slow poll that every waiter has besides.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    desired: Board,
    observed: Board,
    inventory: watch::Sender<u64>,
    events: watch::Sender<u64>,
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

    fn raise_all(&self) {
        self.lock().values().for_each(|counter| counter.send_modify(|count| *count += 1));
    }

    fn watch(&self, host: &HostName) -> watch::Receiver<u64> {
        self.lock().entry(host.clone()).or_default().subscribe()
    }
}

/// Somebody who looks at the record again and again, until a deadline.
#[derive(Debug)]
pub(crate) struct Waiting {
    signal: watch::Receiver<u64>,
    /// How long a look may be put off without a signal: another server may have changed something.
    at_most: Duration,
    deadline: Instant,
}

impl Waiting {
    /// What is signalled from now on leads to another look.
    pub(crate) const fn until(
        deadline: Instant,
        signal: watch::Receiver<u64>,
        at_most: Duration,
    ) -> Self {
        Self { signal, at_most, deadline }
    }

    /// Waits until it is worth looking again. Returns whether there was time for that.
    pub(crate) async fn again(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        // Either outcome leads to another look.
        tokio::time::timeout(left.min(self.at_most), self.signal.changed()).await.ok();
        true
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

    /// Wakes whom a commit of this or another server concerns.
    pub(crate) fn heard(&self, news: &News) {
        match news {
            News::Of(hosts) => {
                for host in hosts {
                    self.desired.raise(host);
                    self.observed.raise(host);
                }
            }
            News::Anything => {
                self.desired.raise_all();
                self.observed.raise_all();
            }
        }
        self.events.send_modify(|count| *count += 1);
    }

    pub(crate) fn watch_events(&self) -> watch::Receiver<u64> {
        self.events.subscribe()
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

//! Hosts that have reported so much at once that when is noted later: nobody has to wait for that, since
//! that it is in force is told without.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use eip_model::{HostName, chain};
use eip_store::Repository;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

#[derive(Debug, Default)]
pub(crate) struct Unmarked {
    /// When they reported.
    hosts: Mutex<BTreeMap<HostName, Timestamp>>,
    news: Notify,
}

impl Unmarked {
    pub(crate) fn add(&self, host: &HostName, reported: Timestamp) {
        self.hosts().entry(host.clone()).or_insert(reported);
        self.news.notify_one();
    }

    /// Notes what there is to note until told to stop. What fails is noted after a later report.
    pub(crate) async fn mark(&self, repository: &dyn Repository, stop: &CancellationToken) {
        while stop.run_until_cancelled(self.news.notified()).await.is_some() {
            while let Some((host, reported)) = self.next() {
                let mut more = true;
                while more && !stop.is_cancelled() {
                    more = repository.mark_applied(&host, reported).await.unwrap_or_else(|error| {
                        let error = chain(&error);
                        warn!(%host, error, "Could not note since when associations are in force");
                        false
                    });
                }
                self.hosts().remove(&host);
            }
        }
    }

    fn next(&self) -> Option<(HostName, Timestamp)> {
        self.hosts().first_key_value().map(|(host, reported)| (host.clone(), *reported))
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<HostName, Timestamp>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

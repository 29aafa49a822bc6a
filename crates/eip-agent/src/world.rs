//! What runs on this host, as far as its backends tell.

use std::collections::BTreeMap;

use eip_compute::{Listing, Sight};
use eip_model::{
    Backend, BackendInventory, BackendListing, InstanceId, InstanceReport, LocalNetwork,
};
use futures_util::future::select_all;
use tokio::sync::watch;

/// Every backend's last word, and the last list of each.
#[derive(Debug)]
pub(crate) struct World {
    sights: Vec<(Backend, watch::Receiver<Sight>)>,
    listings: BTreeMap<Backend, Listing>,
}

impl World {
    /// `kept` are the lists of an earlier run: good until a backend gives a new one. Those of a
    /// backend that is not followed any more are dropped: nobody would tell when they go wrong.
    pub(crate) fn new(
        sights: Vec<(Backend, watch::Receiver<Sight>)>,
        kept: BTreeMap<Backend, Listing>,
    ) -> Self {
        let followed = |backend: &Backend| sights.iter().any(|(one, _)| one == backend);
        let listings = kept.into_iter().filter(|(backend, _)| followed(backend)).collect();
        Self { sights, listings }
    }

    /// Takes in what the backends have told since.
    pub(crate) fn look(&mut self) {
        for (backend, sight) in &mut self.sights {
            let sight = sight.borrow_and_update();
            if let Sight::Listed(listing) | Sight::Unreachable { known: Some(listing), .. } =
                &*sight
            {
                self.listings.insert(*backend, listing.clone());
            }
        }
    }

    /// Waits until a backend has told something new.
    pub(crate) async fn changed(&mut self) {
        let changes = self.sights.iter_mut().map(|(_, sight)| Box::pin(sight.changed()));
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            return std::future::pending().await;
        }
        if select_all(changes).await.0.is_err() {
            // The backend was told to stop, and so will be whoever waits here.
            std::future::pending::<()>().await;
        }
    }

    /// Whether every backend has answered, or been found not to.
    pub(crate) fn seen(&self) -> bool {
        self.sights.iter().all(|(_, sight)| !matches!(*sight.borrow(), Sight::Unseen))
    }

    pub(crate) fn listings(&self) -> &BTreeMap<Backend, Listing> {
        &self.listings
    }

    /// Returns the instances by id. Where two backends have one id, the first by name has it.
    pub(crate) fn known(&self) -> BTreeMap<InstanceId, InstanceReport> {
        let all = self.listings.values().rev().flat_map(|listing| &listing.instances);
        all.map(|one| (one.id, one.clone())).collect()
    }

    /// Returns the numbers of the lives that instances have now.
    pub(crate) fn lives(&self) -> BTreeMap<InstanceId, u64> {
        let all = self.listings.values().rev().flat_map(|listing| &listing.lives);
        all.map(|(id, life)| (*id, *life)).collect()
    }

    pub(crate) fn networks(&self) -> Vec<LocalNetwork> {
        let all = self.listings.values().flat_map(|listing| &listing.networks).cloned();
        let mut networks: Vec<_> = all.collect();
        networks.sort();
        networks.dedup();
        networks
    }

    /// Returns what is told to the server: nothing of a backend that has not been seen.
    pub(crate) fn inventory(&self) -> Vec<BackendInventory> {
        let tell = |(backend, sight): &(Backend, watch::Receiver<Sight>)| {
            let listing = match &*sight.borrow() {
                Sight::Unseen => return None,
                Sight::Listed(listing) => {
                    BackendListing::Listed { instances: listing.instances.clone() }
                }
                Sight::Unreachable { reason, known: _ } => {
                    BackendListing::Unreachable { reason: reason.clone() }
                }
            };
            Some(BackendInventory { backend: *backend, listing })
        };
        self.sights.iter().filter_map(tell).collect()
    }
}

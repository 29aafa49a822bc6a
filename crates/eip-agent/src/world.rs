//! What runs on this host, as far as its backends tell.

use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// Whether a backend has told something that is not in `view`.
    news: bool,
    view: View,
}

/// What follows from what the backends have told: made anew when one has told something, and shared
/// with whoever works on it meanwhile. A host may have very many instances, and most turns are about one.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) listings: Arc<BTreeMap<Backend, Listing>>,
    /// The instances by id. Where two backends have one id, the first by name has it.
    pub(crate) known: Arc<BTreeMap<InstanceId, InstanceReport>>,
    /// The numbers of the lives that instances have now.
    pub(crate) lives: Arc<BTreeMap<InstanceId, u64>>,
    pub(crate) networks: Vec<LocalNetwork>,
    /// What is told to the server: nothing of a backend that has not been seen.
    pub(crate) inventory: Arc<Vec<BackendInventory>>,
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
        let view = View { listings: Arc::new(listings), ..View::default() };
        Self { sights, news: true, view }
    }

    /// Takes in what the backends have told since, and returns whether they have told anything.
    pub(crate) fn look(&mut self) -> bool {
        let news = |(_, sight): &(Backend, watch::Receiver<Sight>)| {
            sight.has_changed().is_ok_and(|changed| changed)
        };
        if !self.news && !self.sights.iter().any(news) {
            return false;
        }
        self.news = false;
        let mut listings = self.view.listings.as_ref().clone();
        for (backend, sight) in &mut self.sights {
            let sight = sight.borrow_and_update();
            if let Sight::Listed(listing) | Sight::Unreachable { known: Some(listing), .. } =
                &*sight
            {
                listings.insert(*backend, listing.clone());
            }
        }
        self.view = View {
            known: Arc::new(known(&listings)),
            lives: Arc::new(lives(&listings)),
            networks: networks(&listings),
            inventory: Arc::new(self.inventory()),
            listings: Arc::new(listings),
        };
        true
    }

    /// Returns what was taken in by the last look.
    pub(crate) fn view(&self) -> View {
        self.view.clone()
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
        self.news = true;
    }

    /// Whether every backend has answered, or been found not to.
    pub(crate) fn seen(&self) -> bool {
        self.sights.iter().all(|(_, sight)| !matches!(*sight.borrow(), Sight::Unseen))
    }

    fn inventory(&self) -> Vec<BackendInventory> {
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

fn known(listings: &BTreeMap<Backend, Listing>) -> BTreeMap<InstanceId, InstanceReport> {
    let all = listings.values().rev().flat_map(|listing| &listing.instances);
    all.map(|one| (one.id, one.clone())).collect()
}

fn lives(listings: &BTreeMap<Backend, Listing>) -> BTreeMap<InstanceId, u64> {
    let all = listings.values().rev().flat_map(|listing| &listing.lives);
    all.map(|(id, life)| (*id, *life)).collect()
}

fn networks(listings: &BTreeMap<Backend, Listing>) -> Vec<LocalNetwork> {
    let all = listings.values().flat_map(|listing| &listing.networks).cloned();
    let mut networks: Vec<_> = all.collect();
    networks.sort();
    networks.dedup();
    networks
}

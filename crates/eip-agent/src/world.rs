//! What runs on this host, as far as its backends tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use eip_compute::{Listing, Sight};
use eip_model::{
    Backend, DiffItem, InstanceId, InstanceReport, Instances, LocalNetwork, OrdMap, Surroundings,
};
use futures_util::future::select_all;
use tokio::sync::watch;

/// What is said of a backend whose follower has ended while the agent goes on.
const NOBODY_FOLLOWS: &str = "the agent's part that follows it has failed; restart the agent";

/// Every backend's last word, and the last list of each.
#[derive(Debug)]
pub(crate) struct World {
    sights: Vec<(Backend, watch::Receiver<Sight>)>,
    /// Those of which nothing more will come: whoever followed them has ended.
    ended: BTreeSet<Backend>,
    /// Whether a backend has told something that is not in `view`.
    news: bool,
    view: View,
}

/// What follows from what the backends have told. Copies share what they have in common: a host may have
/// very many instances, and most news are about one.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) listings: BTreeMap<Backend, Listing>,
    /// Where two backends have one id, the first by name has it.
    pub(crate) host: Surroundings,
    /// The numbers of the lives that instances have now.
    pub(crate) lives: OrdMap<InstanceId, u64>,
    pub(crate) inventory: Inventory,
}

/// What is told to the server: nothing of a backend that has not been seen.
pub(crate) type Inventory = BTreeMap<Backend, Told>;

/// A backend's instances, or why they are not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Listed(Instances),
    Unreachable(String),
}

impl World {
    /// `kept` are the lists of an earlier run: good until a backend gives a new one. Those of a
    /// backend that is not followed any more are dropped: nobody would tell when they go wrong.
    pub(crate) fn new(
        sights: Vec<(Backend, watch::Receiver<Sight>)>,
        kept: BTreeMap<Backend, Listing>,
    ) -> Self {
        let mut view = View::default();
        let followed = |backend: &Backend| sights.iter().any(|(one, _)| one == backend);
        for (backend, listing) in kept.into_iter().filter(|(backend, _)| followed(backend)) {
            view.take(backend, &listing);
        }
        Self { sights, ended: BTreeSet::new(), news: true, view }
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
        for (backend, sight) in &mut self.sights {
            let sight = sight.borrow_and_update().clone();
            let told = match &sight {
                _ if self.ended.contains(backend) => {
                    Some(Told::Unreachable(NOBODY_FOLLOWS.to_owned()))
                }
                Sight::Unseen => None,
                Sight::Listed(listing) => Some(Told::Listed(listing.instances.clone())),
                Sight::Unreachable { reason, .. } => Some(Told::Unreachable(reason.clone())),
            };
            match &told {
                Some(Told::Unreachable(why)) => {
                    self.view.host.silent.insert(*backend, why.clone());
                }
                Some(Told::Listed(_)) | None => drop(self.view.host.silent.remove(backend)),
            }
            self.view.inventory.extend(told.map(|told| (*backend, told)));
            if let Sight::Listed(listing) | Sight::Unreachable { known: Some(listing), .. } = sight
            {
                self.view.take(*backend, &listing);
            }
        }
        true
    }

    /// Returns what was taken in by the last look.
    pub(crate) fn view(&self) -> View {
        self.view.clone()
    }

    /// Waits until a backend has told something new, or will not any more.
    pub(crate) async fn changed(&mut self) {
        let ended = &self.ended;
        let followed = self.sights.iter_mut().filter(|(backend, _)| !ended.contains(backend));
        let changes = followed.map(|(backend, sight)| {
            let backend = *backend;
            Box::pin(async move { sight.changed().await.map_err(|_| backend) })
        });
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            return std::future::pending().await;
        }
        if let (Err(backend), ..) = select_all(changes).await {
            self.ended.insert(backend);
        }
        self.news = true;
    }

    /// Whether every backend has answered, or been found not to.
    pub(crate) fn seen(&self) -> bool {
        let seen = |(backend, sight): &(Backend, watch::Receiver<Sight>)| {
            self.ended.contains(backend) || !matches!(*sight.borrow(), Sight::Unseen)
        };
        self.sights.iter().all(seen)
    }
}

impl View {
    /// Takes a backend's list in the place of the one before. Costs what they differ in.
    fn take(&mut self, backend: Backend, listing: &Listing) {
        let before = self.listings.insert(backend, listing.clone()).unwrap_or_default();
        if before.networks != listing.networks {
            self.host.networks = networks(&self.listings);
        }
        if self.host.known.is_empty() {
            // No other has any: what is known is this list, and costs nothing beside it.
            (self.host.known, self.lives) = (listing.instances.clone(), listing.lives.clone());
            return;
        }
        let lives = differing(&before.lives, &listing.lives);
        for id in differing(&before.instances, &listing.instances).union(&lives) {
            match self.now(*id) {
                Some((report, life)) => {
                    self.host.known.insert(*id, report);
                    match life {
                        Some(life) => self.lives.insert(*id, life),
                        None => self.lives.remove(id),
                    };
                }
                None => {
                    self.host.known.remove(id);
                    self.lives.remove(id);
                }
            }
        }
    }

    fn now(&self, id: InstanceId) -> Option<(Arc<InstanceReport>, Option<u64>)> {
        self.listings.values().find_map(|listing| {
            let report = listing.instances.get(&id)?;
            Some((Arc::clone(report), listing.lives.get(&id).copied()))
        })
    }
}

fn differing<V: PartialEq>(
    one: &OrdMap<InstanceId, V>,
    other: &OrdMap<InstanceId, V>,
) -> BTreeSet<InstanceId> {
    let id = |item: DiffItem<'_, '_, InstanceId, V>| match item {
        DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. } => {
            *id
        }
    };
    one.diff(other).map(id).collect()
}

fn networks(listings: &BTreeMap<Backend, Listing>) -> Vec<LocalNetwork> {
    let all = listings.values().flat_map(|listing| &listing.networks).cloned();
    let mut networks: Vec<_> = all.collect();
    networks.sort();
    networks.dedup();
    networks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(backend: Backend, n: u8) -> (InstanceId, Arc<InstanceReport>) {
        let id: InstanceId = InstanceId::new(uuid::Uuid::from_u128(n.into()));
        let report = crate::instance::instance(id, backend, format!("{backend}-{n}"));
        (id, Arc::new(report))
    }

    fn listing(backend: Backend, numbers: &[u8]) -> Listing {
        let instances: Instances = numbers.iter().map(|n| instance(backend, *n)).collect();
        let lives = instances.keys().map(|id| (*id, 1_u64)).collect();
        Listing { instances, lives, ..Listing::default() }
    }

    fn names(world: &mut World) -> Vec<String> {
        world.look();
        world.view().host.known.values().map(|one| one.name.clone()).collect()
    }

    #[test]
    fn of_two_backends_with_one_id_the_first_has_it_while_it_has() {
        let (docker, seen_docker) = watch::channel(Sight::Unseen);
        let (libvirt, seen_libvirt) = watch::channel(Sight::Unseen);
        let sights = vec![(Backend::Docker, seen_docker), (Backend::Libvirt, seen_libvirt)];
        let mut world = World::new(sights, BTreeMap::new());
        libvirt.send_replace(Sight::Listed(listing(Backend::Libvirt, &[1, 2])));
        assert_eq!(names(&mut world), ["libvirt-1", "libvirt-2"]);
        docker.send_replace(Sight::Listed(listing(Backend::Docker, &[2, 3])));
        assert_eq!(names(&mut world), ["libvirt-1", "docker-2", "docker-3"]);
        docker.send_replace(Sight::Listed(listing(Backend::Docker, &[3])));
        assert_eq!(names(&mut world), ["libvirt-1", "libvirt-2", "docker-3"]);
        assert_eq!(world.view().lives.len(), 3);
        assert!(!world.look(), "nobody has told anything since");
    }

    #[tokio::test]
    async fn a_backend_that_nobody_follows_any_more_is_told_and_the_others_are_followed() {
        let (docker, docker_seen) = watch::channel(Sight::Unseen);
        let (sandbox, sandbox_seen) = watch::channel(Sight::Unseen);
        let sights = vec![(Backend::Docker, docker_seen), (Backend::Sandbox, sandbox_seen)];
        let mut world = World::new(sights, BTreeMap::new());
        drop(sandbox);
        world.changed().await;
        assert!(world.look());
        docker.send_replace(Sight::Listed(Listing::default()));
        world.changed().await;
        assert!(world.seen() && world.look());
        let nobody = Told::Unreachable(NOBODY_FOLLOWS.to_owned());
        let expected =
            [(Backend::Docker, Told::Listed(Instances::new())), (Backend::Sandbox, nobody)];
        assert_eq!(world.view().inventory, expected.into());
    }
}

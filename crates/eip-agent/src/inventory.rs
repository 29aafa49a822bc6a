//! Telling the server which instances there are: all of them in parts, what changes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use eip_model::{
    Backend, BackendInventory, BackendListing, DiffItem, InstanceId, Instances, InventoryPart,
    InventoryReport, InventoryScope, PartOrder,
};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::server::{LinkError, ServerLink};
use crate::tell::{Trouble, wait};
use crate::world::{Inventory, Told};

/// By how much a run is put forward first, in microseconds: an hour.
const AHEAD: u64 = 3_600_000_000;

/// So many instances go into one part: some megabytes.
const PART: usize = 10_000;

/// Sends the inventory until told to stop.
///
/// A server that has heard all of it hears of each change by the ids that it is about, and every few seconds
/// of the next part of the whole anyway. A server that was out of reach may have lost its record, or be
/// another one: it hears all of it anew.
pub(crate) async fn tell_inventory(
    server: ServerLink,
    mut news: watch::Receiver<Option<Inventory>>,
    stop: CancellationToken,
) {
    let now = Timestamp::now().as_microsecond();
    let mut told = Telling::begin(u64::try_from(now).unwrap_or_default());
    let mut trouble = Trouble::about("the inventory of this host");
    loop {
        let now = news.borrow_and_update().clone();
        if server.was_in_doubt() {
            told = Telling { order: told.order, ahead: told.ahead, ..Telling::begin(0) };
        }
        let sent = async {
            match &now {
                Some(now) => told.tell(&server, now).await,
                None => Ok(()),
            }
        };
        let Some(outcome) = stop.run_until_cancelled(sent).await else { return };
        let pause = trouble.judge(&outcome);
        if !wait(pause, &mut news, &stop).await {
            return;
        }
    }
}

/// What a server has heard.
#[derive(Debug)]
struct Telling {
    /// Where the last part that was sent stands among all.
    order: PartOrder,
    /// By how much the run is put forward, in microseconds, should a server have one of the future.
    ahead: u64,
    /// What it has heard last, once it has heard all.
    heard: Option<Inventory>,
    /// The last list of each backend that it has heard.
    lists: BTreeMap<Backend, Instances>,
    /// Where the next part of the whole begins: behind this one.
    behind: Option<InstanceId>,
    /// It is older, and takes the whole in one piece only.
    in_one: bool,
}

impl Telling {
    /// Nothing was heard of what this run has to tell, that began at `run`.
    fn begin(run: u64) -> Self {
        let order = PartOrder { run, number: 0 };
        let (heard, lists) = (None, BTreeMap::new());
        Self { order, ahead: AHEAD, heard, lists, behind: None, in_one: false }
    }

    /// Sends a part. A server that says it has heard a newer one has heard it of a run that began later: then
    /// the clock has been put back since.
    async fn send(&mut self, server: &ServerLink, part: InventoryPart) -> Result<(), LinkError> {
        self.order.number += 1;
        let part = InventoryPart { order: Some(self.order), ..part };
        let sent = server.put("inventory/part", &part).await;
        if sent.as_ref().is_err_and(LinkError::is_of_the_past) {
            self.order.run = self.order.run.saturating_add(self.ahead);
            self.ahead = self.ahead.saturating_mul(2);
        }
        sent
    }

    async fn tell(&mut self, server: &ServerLink, now: &Inventory) -> Result<(), LinkError> {
        if self.in_one {
            return server.put("inventory", &whole(now)).await;
        }
        match self.tell_parts(server, now).await {
            Err(error) if error.is_unknown_path() => {
                info!("The server takes inventories in one piece only: it is older");
                self.in_one = true;
                server.put("inventory", &whole(now)).await
            }
            outcome => outcome,
        }
    }

    async fn tell_parts(&mut self, server: &ServerLink, now: &Inventory) -> Result<(), LinkError> {
        let changed = self.changed(now);
        match &self.heard {
            Some(heard) if changed.len() <= PART => {
                let next = if heard == now { self.next(now) } else { these(now, &changed) };
                self.send(server, next).await?;
            }
            // All of it, as fast as it goes.
            Some(_) | None => {
                self.behind = None;
                loop {
                    let part = self.next(now);
                    self.send(server, part).await?;
                    if self.behind.is_none() {
                        break;
                    }
                }
            }
        }
        for (backend, told) in now {
            if let Told::Listed(instances) = told {
                self.lists.insert(*backend, instances.clone());
            }
        }
        self.heard = Some(now.clone());
        Ok(())
    }

    /// Returns the instances that differ from what was heard of them.
    fn changed(&self, now: &Inventory) -> BTreeSet<InstanceId> {
        let nothing = Instances::new();
        let mut changed = BTreeSet::new();
        for (backend, told) in now {
            let Told::Listed(instances) = told else { continue };
            let before = self.lists.get(backend).unwrap_or(&nothing);
            changed.extend(before.diff(instances).map(|item| match item {
                DiffItem::Add(id, _) | DiffItem::Remove(id, _) => *id,
                DiffItem::Update { new: (id, _), .. } => *id,
            }));
        }
        changed
    }

    /// Returns the next part of the whole, by id.
    fn next(&mut self, now: &Inventory) -> InventoryPart {
        let from = self.behind.map_or(Bound::Unbounded, Bound::Excluded);
        let lists = now.values().filter_map(|told| match told {
            Told::Listed(instances) => Some(instances),
            Told::Unreachable(_) => None,
        });
        let first_of_each = lists.flat_map(|list| {
            list.range((from, Bound::Unbounded)).map(|(id, _)| *id).take(PART + 1)
        });
        let ids: BTreeSet<InstanceId> = first_of_each.collect();
        let first = self.behind.map_or(InstanceId::FIRST, InstanceId::following);
        let is_last = ids.len() <= PART;
        let last = ids.iter().nth(PART - 1).copied().filter(|_| !is_last);
        self.behind = last;
        let last = last.unwrap_or(InstanceId::LAST);
        let listed = |instances: &Instances| {
            instances.range(first..=last).map(|(_, one)| (**one).clone()).collect()
        };
        let scope = InventoryScope::Range { first, last };
        InventoryPart { order: None, scope, backends: told(now, listed) }
    }
}

/// Returns the part that has these instances.
fn these(now: &Inventory, ids: &BTreeSet<InstanceId>) -> InventoryPart {
    let listed = |instances: &Instances| {
        ids.iter().filter_map(|id| instances.get(id)).map(|one| (**one).clone()).collect()
    };
    let scope = InventoryScope::These { ids: ids.iter().copied().collect() };
    InventoryPart { order: None, scope, backends: told(now, listed) }
}

/// Returns all of it as it is told in one piece.
fn whole(now: &Inventory) -> InventoryReport {
    let all = |instances: &Instances| instances.values().map(|one| (**one).clone()).collect();
    InventoryReport { backends: told(now, all) }
}

fn told(
    now: &Inventory,
    listed: impl Fn(&Instances) -> Vec<eip_model::InstanceReport>,
) -> Vec<BackendInventory> {
    let backend = |(backend, told): (&Backend, &Told)| {
        let listing = match told {
            Told::Listed(instances) => BackendListing::Listed { instances: listed(instances) },
            Told::Unreachable(reason) => BackendListing::Unreachable { reason: reason.clone() },
        };
        BackendInventory { backend: *backend, listing }
    };
    now.iter().map(backend).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn instances(backend: Backend, numbers: impl Iterator<Item = usize>) -> Instances {
        let report = |n: usize| {
            let id = InstanceId::new(uuid::Uuid::from_u128(u128::try_from(n).unwrap()));
            let report = crate::instance::instance(id, backend, format!("{backend}-{n}"));
            (id, Arc::new(report))
        };
        numbers.map(report).collect()
    }

    #[test]
    fn the_parts_of_the_whole_have_everything_once_and_no_gap() {
        for (docker, libvirt) in [(0, 0), (1, 0), (PART, 0), (PART + 1, 0), (2 * PART, PART / 2)] {
            let now = Inventory::from([
                (Backend::Docker, Told::Listed(instances(Backend::Docker, 0..docker))),
                (
                    Backend::Libvirt,
                    Told::Listed(instances(Backend::Libvirt, docker..docker + libvirt)),
                ),
                (Backend::Sandbox, Told::Unreachable("timed out".into())),
            ]);
            let mut telling = Telling::begin(1);
            let (mut names, mut begins) = (BTreeSet::new(), InstanceId::FIRST);
            loop {
                let part = telling.next(&now);
                assert_eq!(part.check(), Ok(()));
                let InventoryScope::Range { first, last } = part.scope else { panic!("a range") };
                assert_eq!(first, begins);
                begins = last.following();
                assert_eq!(part.backends.len(), 3);
                let mut length = 0;
                for backend in part.backends {
                    let BackendListing::Listed { instances } = backend.listing else { continue };
                    length += instances.len();
                    assert!(instances.into_iter().all(|one| names.insert(one.name)));
                }
                assert!(length <= PART);
                if telling.behind.is_none() {
                    assert_eq!(last, InstanceId::LAST);
                    break;
                }
            }
            assert_eq!(names.len(), docker + libvirt);
        }
    }

    #[test]
    fn what_has_changed_is_told_by_its_ids_whichever_backend_has_it_now() {
        let list = |backend, numbers: &[usize]| {
            (backend, Told::Listed(instances(backend, numbers.iter().copied())))
        };
        let before = Inventory::from([list(Backend::Docker, &[1, 2, 3])]);
        let mut telling = Telling { heard: Some(before.clone()), ..Telling::begin(1) };
        telling.lists = BTreeMap::from([(Backend::Docker, instances(Backend::Docker, 1..=3))]);
        assert!(telling.changed(&before).is_empty());
        let silent = Inventory::from([(Backend::Docker, Told::Unreachable("timed out".into()))]);
        assert!(telling.changed(&silent).is_empty(), "silence is not removal");
        let now = Inventory::from([list(Backend::Docker, &[1, 4]), list(Backend::Libvirt, &[3])]);
        let changed = telling.changed(&now);
        let ids: Vec<u128> = changed.iter().map(|id| id.uuid().as_u128()).collect();
        assert_eq!(ids, [2, 3, 4]);
        let part = these(&now, &changed);
        assert_eq!(part.check(), Ok(()));
        let listed = part.backends.iter().map(|one| match &one.listing {
            BackendListing::Listed { instances } => {
                instances.iter().map(|one| one.name.as_str()).collect()
            }
            BackendListing::Unreachable { .. } => Vec::new(),
        });
        assert_eq!(listed.collect::<Vec<Vec<&str>>>(), [vec!["docker-4"], vec!["libvirt-3"]]);
    }
}

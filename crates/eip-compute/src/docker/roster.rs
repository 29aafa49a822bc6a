//! The containers of an engine as instances, kept up as they change: an event costs what it changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use eip_model::{InstanceId, InstanceState, Instances, OrdMap};

use super::list::Listed;
use super::read::{self, Container, Told};

/// Which container each instance is.
pub(super) type Containers = Arc<Mutex<BTreeMap<InstanceId, Arc<str>>>>;

#[derive(Debug)]
pub(super) struct Roster {
    /// Whether the network namespaces of containers can be changed from here.
    may_enter: bool,
    /// By the container's id.
    known: BTreeMap<Arc<str>, Container>,
    /// Whether several claim one UUID: then who has which depends on all of them.
    contested: bool,
    /// The number of a life that began before it was followed, and those of later ones.
    first_life: u64,
    lives: BTreeMap<Arc<str>, u64>,
    instances: Instances,
    lives_told: OrdMap<InstanceId, u64>,
    containers: Containers,
}

impl Roster {
    pub(super) fn new(
        may_enter: bool,
        first_life: u64,
        containers: Containers,
        known: Listed,
    ) -> Self {
        let told = |(id, one): (Arc<str>, Container)| (id, one.told(may_enter));
        let mut roster = Self {
            may_enter,
            known: known.into_iter().map(told).collect(),
            contested: false,
            first_life,
            lives: BTreeMap::new(),
            instances: Instances::new(),
            lives_told: OrdMap::new(),
            containers,
        };
        roster.tell_all();
        roster
    }

    /// The instances, and the numbers of their lives.
    pub(super) fn told(&self) -> (Instances, OrdMap<InstanceId, u64>) {
        (self.instances.clone(), self.lives_told.clone())
    }

    /// Takes in what a container is like now.
    pub(super) fn put(&mut self, id: &Arc<str>, container: Container) {
        let container = container.told(self.may_enter);
        let before = self.known.get(id);
        if before == Some(&container) {
            return;
        }
        let (before, uuid) = (before.map(|one| one.report.id), container.report.id);
        // While none is contested, who has a UUID is who claims it.
        self.contested |= before != Some(uuid) && self.instances.contains_key(&uuid);
        self.known.insert(Arc::clone(id), container);
        if self.contested {
            return self.tell_all();
        }
        if let Some(other) = before.filter(|other| *other != uuid) {
            self.forget(other);
        }
        self.tell(id);
    }

    /// Takes in that a container is gone.
    pub(super) fn remove(&mut self, id: &str) {
        self.lives.remove(id);
        let Some(container) = self.known.remove(id) else { return };
        if self.contested { self.tell_all() } else { self.forget(container.report.id) }
    }

    /// Takes in that a container does not run any more. Returns whether that is news.
    pub(super) fn ended(&mut self, id: &str) -> bool {
        let Some((id, container)) = self.known.get_key_value(id) else { return false };
        if container.report.state == InstanceState::Stopped {
            return false;
        }
        let (id, mut container) = (Arc::clone(id), container.clone());
        let report = Arc::make_mut(&mut container.report);
        report.state = InstanceState::Stopped;
        report.private_ip = None;
        report.interfaces.iter_mut().for_each(|one| one.private_ip = None);
        *self.lives.entry(Arc::clone(&id)).or_insert(self.first_life) += 1;
        self.put(&id, container);
        true
    }

    /// Tells of a container whose UUID nobody else claims.
    fn tell(&mut self, id: &str) {
        let Some((id, container)) = self.known.get_key_value(id) else { return };
        let (id, report) = (Arc::clone(id), Arc::clone(&container.report));
        let uuid = report.id;
        self.lives_told.insert(uuid, self.life(&id));
        self.instances.insert(uuid, report);
        self.containers().insert(uuid, id);
    }

    fn forget(&mut self, uuid: InstanceId) {
        self.instances.remove(&uuid);
        self.lives_told.remove(&uuid);
        self.containers().remove(&uuid);
    }

    fn tell_all(&mut self) {
        let (found, contested) = read::instances(&self.known);
        let life = |one: &Told<'_>| (one.report.id, self.life(one.container));
        let lives = found.iter().map(life).collect();
        let container = |one: &Told<'_>| (one.report.id, Arc::clone(one.container));
        // From a sorted list the map is made at once.
        let containers = found.iter().map(container).collect();
        let report = |one: Told<'_>| (one.report.id, one.report);
        self.instances = found.into_iter().map(report).collect();
        self.lives_told = lives;
        self.contested = contested;
        *self.containers() = containers;
    }

    fn life(&self, id: &str) -> u64 {
        self.lives.get(id).copied().unwrap_or(self.first_life)
    }

    fn containers(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Arc<str>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Some claim a UUID by label, some the one that follows from the id of another.
    fn container(id: u8, claim: u8, created: i64, state: &str) -> (Arc<str>, Container) {
        let labels = match claim {
            0 => json!({}),
            1 => json!({"eip.instance-id": read::id_of("id-1").to_string()}),
            claim => json!({"eip.instance-id": format!("00000000-0000-4000-8000-{claim:012}")}),
        };
        let told = json!({
            "Id": format!("id-{id}"), "Names": [format!("/web-{id}")], "Created": created,
            "State": state, "Labels": labels, "HostConfig": {"NetworkMode": "default"},
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}},
        });
        read::container(serde_json::from_str(&told.to_string()).unwrap()).unwrap()
    }

    fn listed(roster: &Roster) -> Listed {
        roster.known.iter().map(|(id, one)| (Arc::clone(id), one.clone())).collect()
    }

    proptest! {
        #[test]
        fn what_is_kept_up_is_what_a_new_list_would_be(
            steps in prop::collection::vec((0..4_u8, 0..4_u8, 0..6_u8, 0..3_i64), 1..40)
        ) {
            let containers = Containers::default();
            let mut roster = Roster::new(true, 7, Arc::clone(&containers), Vec::new());
            for (what, id, claim, created) in steps {
                match what {
                    0 => roster.remove(&format!("id-{id}")),
                    1 => drop(roster.ended(&format!("id-{id}"))),
                    _ => {
                        let (id, container) = container(id, claim, created, "running");
                        roster.put(&id, container);
                    }
                }
                let mut anew = Roster::new(true, 7, Containers::default(), listed(&roster));
                anew.lives.clone_from(&roster.lives);
                anew.tell_all();
                prop_assert_eq!(roster.told(), anew.told());
                prop_assert_eq!(roster.contested, anew.contested);
                let kept = containers.lock().unwrap().clone();
                prop_assert_eq!(kept, anew.containers().clone());
            }
        }
    }

    #[test]
    fn a_container_that_ends_begins_another_life() {
        let (id, running) = container(1, 0, 1, "running");
        let known = vec![(Arc::clone(&id), running)];
        let mut roster = Roster::new(true, 7, Containers::default(), known);
        assert!(roster.ended(&id));
        assert!(!roster.ended(&id));
        let (instances, lives) = roster.told();
        assert!(instances.values().all(|one| one.target().is_none()));
        assert_eq!(lives.values().collect::<Vec<_>>(), [&8]);
    }
}

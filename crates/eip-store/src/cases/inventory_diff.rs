//! What a host's inventory changes in the record, decided without touching it.

use std::collections::{BTreeMap, BTreeSet};

use eip_model::{
    BackendInventory, BackendListing, BackendStatus, InstanceId, InstanceReport, ProjectName,
};

/// The changes that bring the record of one host in line with its inventory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// New or different, by id.
    pub(super) written: Vec<InstanceReport>,
    /// No longer there, by id.
    pub(super) removed: Vec<InstanceId>,
}

/// Compares what is recorded of a host with what it lists.
///
/// Only what a backend that answered no longer has is removed. An id that is listed twice counts
/// as the first says. Every instance that is written names its project.
pub(super) fn changes(
    known: &BTreeMap<InstanceId, InstanceReport>,
    backends: &[BackendInventory],
    default_project: &ProjectName,
) -> Changes {
    let mut listed = BTreeMap::new();
    let mut answered = BTreeSet::new();
    for one in backends {
        let BackendListing::Listed { instances } = &one.listing else {
            continue;
        };
        answered.insert(one.backend);
        for instance in instances {
            let mut instance = instance.clone();
            instance.backend = one.backend;
            instance.project.get_or_insert_with(|| default_project.clone());
            listed.entry(instance.id).or_insert(instance);
        }
    }
    let gone = |instance: &&InstanceReport| {
        answered.contains(&instance.backend) && !listed.contains_key(&instance.id)
    };
    let removed = known.values().filter(gone).map(|instance| instance.id).collect();
    let different = |instance: &InstanceReport| known.get(&instance.id) != Some(instance);
    let written = listed.into_values().filter(different).collect();
    Changes { written, removed }
}

/// Says of each backend whether it answered.
pub(super) fn statuses(backends: &[BackendInventory]) -> Vec<BackendStatus> {
    let status = |one: &BackendInventory| {
        let reason = match &one.listing {
            BackendListing::Listed { .. } => None,
            BackendListing::Unreachable { reason } => Some(reason.clone()),
        };
        BackendStatus { backend: one.backend, reachable: reason.is_none(), reason }
    };
    backends.iter().map(status).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;

    use eip_model::{Backend, InstanceState};
    use uuid::Uuid;

    fn instance(n: u128, backend: Backend) -> InstanceReport {
        InstanceReport {
            id: InstanceId::new(Uuid::from_u128(n)),
            backend,
            name: format!("web-{n}"),
            project: Some("default".parse().unwrap()),
            state: InstanceState::Running,
            private_ip: Some([10, 0, 0, 2].into()),
            vpc_id: None,
            address_source: None,
            unusable: None,
            modes: eip_model::Mode::nat_alone(),
            interfaces: Vec::new(),
        }
    }

    fn known(list: &[InstanceReport]) -> BTreeMap<InstanceId, InstanceReport> {
        list.iter().cloned().map(|one| (one.id, one)).collect()
    }

    fn listed(backend: Backend, instances: &[InstanceReport]) -> BackendInventory {
        let instances = instances.to_vec();
        BackendInventory { backend, listing: BackendListing::Listed { instances } }
    }

    fn compare(known: &BTreeMap<InstanceId, InstanceReport>, with: &[BackendInventory]) -> Changes {
        changes(known, with, &"default".parse().unwrap())
    }

    #[test]
    fn what_has_not_changed_is_not_written() {
        let one = instance(1, Backend::Docker);
        let same = compare(&known(from_ref(&one)), &[listed(Backend::Docker, &[one])]);
        assert_eq!(same, Changes::default());
    }

    #[test]
    fn an_instance_without_a_project_is_the_default_projects_and_stays_so() {
        let stored = instance(1, Backend::Docker);
        let nameless = InstanceReport { project: None, ..stored.clone() };
        let first = compare(&known(&[]), &[listed(Backend::Docker, from_ref(&nameless))]);
        assert_eq!(first.written, from_ref(&stored));
        let again = compare(&known(&[stored]), &[listed(Backend::Docker, &[nameless])]);
        assert_eq!(again, Changes::default());
    }

    #[test]
    fn silence_is_not_removal() {
        let world = known(&[instance(1, Backend::Docker), instance(2, Backend::Libvirt)]);
        let silent = BackendInventory {
            backend: Backend::Docker,
            listing: BackendListing::Unreachable { reason: "timed out".into() },
        };
        let told = compare(&world, &[silent, listed(Backend::Libvirt, &[])]);
        assert_eq!(told.removed, [InstanceId::new(Uuid::from_u128(2))]);
    }

    #[test]
    fn an_instance_that_changes_its_backend_is_not_removed() {
        let world = known(&[instance(1, Backend::Docker)]);
        let there = instance(1, Backend::Libvirt);
        let told = compare(
            &world,
            &[listed(Backend::Docker, &[]), listed(Backend::Libvirt, from_ref(&there))],
        );
        assert_eq!(told, Changes { written: vec![there], removed: vec![] });
    }
}

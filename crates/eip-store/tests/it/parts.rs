//! What is told of a host in parts, and what is noted in parts.

use eip_model::{
    BackendInventory, DataPlaneState, Generation, InstanceId, InventoryPart, InventoryScope,
    PartOrder, data_plane,
};
use eip_store::{InstanceFilter, InventoryOutcome, Page, Refusal, Reported, Scope};
use futures_util::future::join_all;
use rstest::rstest;

use crate::world::{Kind, World, at, docker, host, instance, instance_id, project, refusal, whole};

impl World {
    async fn tell(
        &self,
        scope: InventoryScope,
        backends: Vec<BackendInventory>,
    ) -> InventoryOutcome {
        let part = InventoryPart { order: None, scope, backends };
        assert_eq!(part.check(), Ok(()));
        let (host, owner) = (host("hv1"), project("default"));
        self.repo.record_inventory(&host, &owner, &part, at(5)).await.unwrap()
    }

    async fn known(&self) -> Vec<InstanceId> {
        let all = InstanceFilter { scope: Scope::Everything, named: None, page: Page::WHOLE };
        let mut ids: Vec<InstanceId> =
            self.repo.list_instances(&all).await.unwrap().iter().map(|one| one.id).collect();
        ids.sort();
        ids
    }
}

#[rstest]
#[tokio::test]
async fn a_part_that_comes_late_is_not_taken_after_a_newer_one(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let tell = async |order: Option<(u64, u64)>, numbers: &[u128]| {
        let instances = numbers.iter().map(|n| instance(*n)).collect();
        let order = order.map(|(run, number)| PartOrder { run, number });
        let part = InventoryPart { order, ..whole(&[docker(instances)]) };
        let (host, owner) = (host("hv1"), project("default"));
        world.repo.record_inventory(&host, &owner, &part, at(5)).await
    };
    let ids = |all: &[u128]| -> Vec<InstanceId> { all.iter().copied().map(instance_id).collect() };
    tell(Some((7, 1)), &[1]).await.unwrap();
    tell(Some((7, 3)), &[1, 2, 3]).await.unwrap();
    for late in [(7, 2), (7, 3), (6, 9)] {
        let refused = refusal(tell(Some(late), &[1]).await);
        assert_eq!(refused, Refusal::PreconditionFailed, "{late:?}");
        assert_eq!(world.known().await, ids(&[1, 2, 3]));
    }
    // The next run of the agent begins anew, and an older agent tells no order.
    tell(Some((8, 0)), &[2]).await.unwrap();
    tell(None, &[3]).await.unwrap();
    assert_eq!(world.known().await, ids(&[3]));
    assert!(tell(Some((8, 0)), &[]).await.is_err());
    tell(Some((8, 1)), &[]).await.unwrap();
    assert_eq!(world.known().await, ids(&[]));
    // Another host has an order of its own.
    let part = InventoryPart { order: Some(PartOrder { run: 1, number: 1 }), ..whole(&[]) };
    let owner = project("default");
    world.repo.record_inventory(&host("hv2"), &owner, &part, at(5)).await.unwrap();
}

#[rstest]
#[tokio::test]
async fn a_part_says_nothing_of_what_is_not_in_its_scope(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1, 2, 3, 4, 5]).await;
    let ids = |all: &[u128]| -> Vec<InstanceId> { all.iter().copied().map(instance_id).collect() };
    let eip = world.hold(1).await;
    world.point(&eip, 3).await;
    let range =
        |first, last| InventoryScope::Range { first: instance_id(first), last: instance_id(last) };
    let told = world.tell(range(1, 2), vec![docker(vec![instance(2)])]).await;
    assert_eq!(told, InventoryOutcome::default());
    assert_eq!(world.known().await, ids(&[2, 3, 4, 5]));
    let these = InventoryScope::These { ids: ids(&[3, 9]) };
    let told = world.tell(these, vec![docker(vec![instance(9)])]).await;
    assert_eq!(told.ended, [eip.address], "its instance is gone");
    assert_eq!(world.known().await, ids(&[2, 4, 5, 9]));
    let ends = InventoryScope::Range { first: InstanceId::FIRST, last: InstanceId::LAST };
    world.tell(ends, vec![docker(vec![instance(4)])]).await;
    assert_eq!(world.known().await, ids(&[4]));
    let nothing = InventoryScope::These { ids: Vec::new() };
    world.tell(nothing, vec![docker(Vec::new())]).await;
    assert_eq!(world.known().await, ids(&[4]));
    world.tell(InventoryScope::All, vec![docker(Vec::new())]).await;
    assert_eq!(world.known().await, ids(&[]));
}

#[test]
fn what_is_not_in_the_scope_of_a_part_is_found() {
    let backends = vec![docker(vec![instance(3)])];
    let part = |scope| InventoryPart { order: None, scope, backends: backends.clone() }.check();
    assert!(part(InventoryScope::These { ids: vec![instance_id(2)] }).is_err());
    let (first, last) = (instance_id(4), instance_id(9));
    assert!(part(InventoryScope::Range { first, last }).unwrap_err().contains("not in the scope"));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn very_many_are_in_force_when_they_are_reported_and_since_when_is_noted_in_parts(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    const MANY: u32 = 5_200;
    let world = World::with_quarantine(kind, 0).await;
    let instances: Vec<u128> = (1..=MANY + 1).map(u128::from).collect();
    world.report("hv1", &instances).await;
    let held = join_all((1..=MANY).map(|n| world.hold(n))).await;
    let pointed = held.iter().zip(&instances).map(|(eip, instance)| world.point(eip, *instance));
    let wishes = join_all(pointed).await;
    let newest = wishes.iter().map(|wish| wish.generation).max().unwrap();
    let views = async || {
        let of = async |eip| world.show(eip).await.association.unwrap().view;
        [of(&held[0]).await, of(&held[held.len() - 1]).await]
    };
    let report = |generation: Generation| {
        let report = eip_model::AppliedReport {
            cluster_id: world.repo.cluster_id(),
            generation,
            data_plane: eip_model::DataPlaneHealth::Ready,
            problems: Vec::new(),
        };
        let repo = &world.repo;
        async move { repo.record_applied(&host("hv1"), &report, at(15)).await.unwrap() }
    };
    assert_eq!(report(newest).await, Reported { freed: Vec::new(), more: true });
    for view in views().await {
        assert_eq!(data_plane(&view, at(16)).state, DataPlaneState::Active);
        assert_eq!(view.applied_at, None, "not yet");
    }
    let mark = async || world.repo.mark_applied(&host("hv1"), at(15)).await;
    assert!(mark().await.unwrap(), "there is more");
    assert!(!mark().await.unwrap(), "that was all");
    for view in views().await {
        assert_eq!(view.applied_at, Some(at(15)));
    }
    // From then on a report does it itself.
    let moved = world.shift(&held[0], u128::from(MANY) + 1).await;
    assert!(moved.generation > newest);
    assert_eq!(report(moved.generation).await, Reported::default());
}

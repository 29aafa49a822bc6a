//! Pointing elastic IPs at instances, one caller at a time.

use eip_model::{ElasticIpRef, InstanceReport, InstanceState, Unusable};
use eip_store::{AssociateCommand, Refusal};
use rstest::rstest;

use crate::world::{
    Kind, World, address, associate, at, docker, host, instance, instance_id, new_allocation,
    refusal, take,
};

#[rstest]
#[tokio::test]
async fn an_elastic_ip_lives_from_allocation_to_release(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(7).await;
    assert!(world.wanted("hv1").await.is_empty());

    let wish = world.point(&eip, 1).await;
    assert!(wish.changed);
    assert_eq!((&wish.host, &wish.previous_host), (&host("hv1"), &None));
    let desired = world.desired("hv1").await;
    assert_eq!(desired.generation, wish.generation);
    assert_eq!(desired.cluster_id, world.repo.cluster_id());
    assert_eq!(desired.ranges, [crate::world::range()]);
    assert_eq!(desired.attachments.len(), 1);
    assert_eq!(desired.attachments[0].public_ip, address(7));
    assert_eq!(desired.attachments[0].elastic_ip_id, eip.id);
    assert_eq!(desired.attachments[0].instance_id, instance_id(1));

    let shown = world.show(&eip).await;
    let association = shown.association.as_ref().unwrap();
    assert_eq!(association.instance_name, "web-1");
    assert_eq!(association.private_ip, instance(1).private_ip);
    assert_eq!(association.vpc_id.as_deref(), Some("bridge"));
    assert_eq!(association.view.generation, wish.generation);
    assert_eq!(association.view.associated_at, at(10));
    assert_eq!((shown.revision, shown.updated_at), (2, at(10)));

    let blocked = Refusal::StillAssociated { instance_name: "web-1".into() };
    assert_eq!(refusal(world.release(&eip).await), blocked);

    let parted = world.part(&eip).await.unwrap();
    assert!(parted.generation > wish.generation);
    assert!(world.wanted("hv1").await.is_empty());
    assert_eq!(refusal(world.part(&eip).await), Refusal::NotAssociated);

    world.release(&eip).await.unwrap();
    let kinds = ["allocated", "associated", "disassociated", "released"];
    assert_eq!(world.told(&eip).await, kinds);
}

#[rstest]
#[tokio::test]
async fn associating_where_it_already_is_changes_nothing(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    let first = world.point(&eip, 1).await;
    let before = world.show(&eip).await;
    for command in [
        associate(ElasticIpRef::Id(eip.id), 1),
        AssociateCommand { allow_reassociation: true, ..associate(eip.address_ref(), 1) },
    ] {
        let again = world.repo.associate(&command).await.unwrap();
        assert!(!again.changed);
        assert_eq!((&again.host, again.generation), (&first.host, first.generation));
    }
    assert_eq!(world.show(&eip).await, before);
    assert_eq!(world.generation("hv1").await, first.generation);
    assert_eq!(world.told(&eip).await, ["allocated", "associated"]);
}

#[rstest]
#[tokio::test]
async fn a_move_inside_one_host_is_one_step(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1, 2]).await;
    let eip = world.hold(1).await;
    let first = world.point(&eip, 1).await;
    let refused = world.repo.associate(&associate(eip.address_ref(), 2)).await;
    let taken = Refusal::AlreadyAssociated { instance_name: "web-1".into() };
    assert_eq!(refusal(refused), taken);
    let moved = world.shift(&eip, 2).await;
    assert!(moved.changed);
    assert_eq!(moved.generation.value(), first.generation.value() + 1);
    assert_eq!(moved.previous_host, None);
    let desired = world.desired("hv1").await;
    assert_eq!(desired.attachments.len(), 1);
    assert_eq!(desired.attachments[0].instance_id, instance_id(2));
    let association = world.show(&eip).await.association.unwrap();
    assert_eq!(association.view.fenced_by, None);
    assert_eq!(world.told(&eip).await, ["allocated", "associated", "moved"]);
}

#[rstest]
#[tokio::test]
async fn an_instance_has_one_elastic_ip_and_the_refusal_names_it(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1, 2]).await;
    let (first, second) = (world.hold(1).await, world.hold(2).await);
    world.point(&first, 1).await;
    let wish = world.point(&second, 2).await;
    let has = Refusal::InstanceHasElasticIp { public_ip: address(1) };
    let moving =
        AssociateCommand { allow_reassociation: true, ..associate(ElasticIpRef::Id(second.id), 1) };
    assert_eq!(refusal(world.repo.associate(&moving).await), has);
    // Nothing of the refused move stays.
    assert_eq!(world.wanted("hv1").await, [address(1), address(2)]);
    assert_eq!(world.generation("hv1").await, wish.generation);
    world.part(&first).await.unwrap();
    assert!(world.repo.associate(&moving).await.unwrap().changed);
}

#[rstest]
#[tokio::test]
async fn only_a_running_instance_with_a_network_of_the_same_project_is_taken(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let stopped = InstanceReport { state: InstanceState::Stopped, private_ip: None, ..instance(1) };
    let paused = InstanceReport { state: InstanceState::Paused, ..instance(2) };
    let bare = InstanceReport { private_ip: None, ..instance(3) };
    let shared = Some(Unusable::HostNetwork);
    let on_host = InstanceReport { unusable: shared, ..instance(4) };
    let foreign = InstanceReport { project: Some("other".parse().unwrap()), ..instance(5) };
    world.report_backends("hv1", &[docker(vec![stopped, paused, bare, on_host, foreign])]).await;
    let eip = world.hold(1).await;
    let ask = async |n| refusal(world.repo.associate(&associate(eip.address_ref(), n)).await);
    let not_running = |state| Refusal::InstanceNotRunning { state };
    assert_eq!(ask(1).await, not_running(InstanceState::Stopped));
    assert_eq!(ask(2).await, not_running(InstanceState::Paused));
    assert_eq!(ask(3).await, Refusal::InstanceHasNoNetwork { unusable: None });
    assert_eq!(ask(4).await, Refusal::InstanceHasNoNetwork { unusable: shared });
    assert_eq!(ask(5).await, Refusal::InstanceNotFound);
    assert_eq!(ask(6).await, Refusal::InstanceNotFound);
    assert_eq!(world.show(&eip).await, eip);
    assert_eq!(world.told(&eip).await, ["allocated"]);
    assert_eq!(world.generation("hv1").await.value(), 0);
}

#[rstest]
#[tokio::test]
async fn what_stands_against_it_is_told_in_a_fixed_order(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let stopped = InstanceReport { state: InstanceState::Stopped, ..instance(3) };
    let running = vec![instance(1), instance(2), stopped];
    world.report_backends("hv1", &[docker(running)]).await;
    let (first, second) = (world.hold(1).await, world.hold(2).await);
    world.point(&first, 1).await;
    world.point(&second, 2).await;
    let ask = async |target, n| refusal(world.repo.associate(&associate(target, n)).await);
    let nothing = ElasticIpRef::Address(address(99));
    assert_eq!(ask(nothing, 77).await, Refusal::ElasticIpNotFound);
    assert_eq!(ask(first.address_ref(), 77).await, Refusal::InstanceNotFound);
    let state = InstanceState::Stopped;
    assert_eq!(ask(first.address_ref(), 3).await, Refusal::InstanceNotRunning { state });
    let taken = Refusal::AlreadyAssociated { instance_name: "web-1".into() };
    assert_eq!(ask(first.address_ref(), 2).await, taken);
}

#[rstest]
#[tokio::test]
async fn an_association_outlives_the_instances_stop_and_can_be_asked_for_again(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    let wish = world.point(&eip, 1).await;
    let stopped = InstanceReport { state: InstanceState::Stopped, private_ip: None, ..instance(1) };
    world.report_backends("hv1", &[docker(vec![stopped])]).await;
    let again = world.repo.associate(&associate(eip.address_ref(), 1)).await.unwrap();
    assert_eq!((again.changed, again.generation), (false, wish.generation));
    assert_eq!(world.wanted("hv1").await, [address(1)]);
}

#[rstest]
#[tokio::test]
async fn an_elastic_ip_of_another_project_takes_an_instance_of_that_project(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let theirs = InstanceReport { project: Some("other".parse().unwrap()), ..instance(1) };
    world.report_backends("hv1", &[docker(vec![theirs])]).await;
    let eip = take(&world.repo, &new_allocation(1, "other")).await.unwrap();
    let command = AssociateCommand {
        scope: eip_store::Scope::Everything,
        ..associate(ElasticIpRef::Id(eip.id), 1)
    };
    assert!(world.repo.associate(&command).await.unwrap().changed);
}

trait AddressRef {
    fn address_ref(&self) -> ElasticIpRef;
}

impl AddressRef for eip_store::ElasticIpRecord {
    fn address_ref(&self) -> ElasticIpRef {
        ElasticIpRef::Address(self.address)
    }
}

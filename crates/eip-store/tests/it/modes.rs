//! How an elastic IP reaches its instance, and on which of the instance's networks.

use eip_model::{
    AttachmentProblem, ElasticIpRef, InstanceInterface, InstanceReport, Mode, PoolConfig,
    ProblemKind, Unusable,
};
use eip_store::{AssociateCommand, NetworkWish, Refusal};
use rstest::rstest;

use crate::world::{
    Kind, World, address, associate, at, docker, instance, new_allocation, refusal, take,
};

fn interface(network: &str, last: u8) -> InstanceInterface {
    InstanceInterface {
        network: network.into(),
        private_ip: (last > 0).then(|| [172, 18, 0, last].into()),
        mac: Some(eip_model::MacAddress::new([2, 0x42, 172, 18, 0, last])),
    }
}

/// A container on two networks with an address, and on one without.
fn manifold(n: u128) -> InstanceReport {
    let interfaces = vec![interface("front", 2), interface("back", 3), interface("bare", 0)];
    InstanceReport { interfaces, ..instance(n) }
}

fn in_mode(target: ElasticIpRef, n: u128, mode: Mode) -> AssociateCommand {
    AssociateCommand { mode: Some(mode), now: at(20), ..associate(target, n) }
}

#[rstest]
#[tokio::test]
async fn another_mode_is_a_change_in_place_that_the_host_and_the_history_are_told(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    let by_id = ElasticIpRef::Id(eip.id);
    let first = world.point(&eip, 1).await;
    let mode = async || world.show(&eip).await.association.unwrap().mode;
    assert_eq!(mode().await, Mode::Nat);
    assert_eq!(world.desired("hv1").await.attachments[0].mode, Mode::Nat);

    let same = world.repo.associate(&in_mode(by_id, 1, Mode::Nat)).await.unwrap();
    assert_eq!((same.changed, same.generation), (false, first.generation));

    let changed = world.repo.associate(&in_mode(by_id, 1, Mode::Alias)).await.unwrap();
    assert!(changed.changed && changed.generation > first.generation);
    assert_eq!(changed.previous_host, None);
    let desired = world.desired("hv1").await;
    assert_eq!((desired.generation, desired.attachments.len()), (changed.generation, 1));
    assert_eq!(desired.attachments[0].mode, Mode::Alias);
    let shown = world.show(&eip).await;
    assert_eq!(changed.record.as_ref(), Some(&shown), "what is answered is what is recorded");
    let association = shown.association.unwrap();
    assert_eq!((association.mode, association.view.associated_at), (Mode::Alias, at(10)));
    assert_eq!((shown.revision, shown.letting_go), (3, None));

    let kept = world.repo.associate(&associate(by_id, 1)).await.unwrap();
    assert_eq!((kept.changed, mode().await), (false, Mode::Alias), "as it is, unless one says so");
    assert_eq!(
        world.told_in_full(&eip).await,
        ["allocated", "associated", "reconfigured: mode alias"]
    );
}

#[rstest]
#[tokio::test]
async fn a_mode_that_the_instance_cannot_do_is_refused_and_changes_nothing(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let plain = InstanceReport { modes: vec![Mode::Nat], ..instance(1) };
    let on_host =
        InstanceReport { modes: vec![], unusable: Some(Unusable::HostNetwork), ..instance(2) };
    world.report_backends("hv1", &[docker(vec![plain, on_host])]).await;
    let eip = world.hold(1).await;
    let by_id = ElasticIpRef::Id(eip.id);
    let refused = Refusal::ModeNotSupported {
        mode: Mode::Alias,
        supported: vec![Mode::Nat],
        backend: eip_model::Backend::Docker,
    };
    let ask = async |n| refusal(world.repo.associate(&in_mode(by_id, n, Mode::Alias)).await);
    assert_eq!(ask(1).await, refused);
    let unusable = Some(Unusable::HostNetwork);
    assert_eq!(ask(2).await, Refusal::InstanceHasNoNetwork { unusable });
    world.point(&eip, 1).await;
    let before = world.show(&eip).await;
    assert_eq!(ask(1).await, refused);
    assert_eq!(world.show(&eip).await, before);
}

#[rstest]
#[tokio::test]
async fn the_network_that_is_named_is_kept_and_its_address_shown(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report_backends("hv1", &[docker(vec![manifold(1), manifold(2)])]).await;
    let eip = world.hold(1).await;
    let on = |n, network: &str| AssociateCommand {
        network: NetworkWish::Named(network.into()),
        allow_reassociation: true,
        ..associate(ElasticIpRef::Id(eip.id), n)
    };
    let known = ["front", "back", "bare"].map(str::to_owned).to_vec();
    let unknown = Refusal::InstanceNotOnNetwork { network: "side".into(), known };
    assert_eq!(refusal(world.repo.associate(&on(1, "side")).await), unknown);
    let none = Refusal::InstanceHasNoNetwork { unusable: None };
    assert_eq!(refusal(world.repo.associate(&on(1, "bare")).await), none);

    let wish = world.repo.associate(&on(1, "back")).await.unwrap();
    let shown = world.show(&eip).await;
    assert_eq!(wish.record.as_ref(), Some(&shown));
    let association = shown.association.unwrap();
    assert_eq!(association.private_ip, Some([172, 18, 0, 3].into()));
    let named = (association.vpc_id.as_deref(), association.network.as_deref());
    assert_eq!(named, (Some("back"), Some("back")));
    let attachment = world.desired("hv1").await.attachments[0].clone();
    assert_eq!(attachment.network.as_deref(), Some("back"));

    let again = world.repo.associate(&associate(ElasticIpRef::Id(eip.id), 1)).await.unwrap();
    assert!(!again.changed, "where it is, unless one says so");
    assert!(world.repo.associate(&on(1, "front")).await.unwrap().changed);
    let back = || AssociateCommand { network: NetworkWish::FirstChoice, ..on(1, "") };
    assert!(world.repo.associate(&back()).await.unwrap().changed);
    assert!(!world.repo.associate(&back()).await.unwrap().changed, "it is so already");
    assert_eq!(world.show(&eip).await.association.unwrap().network, None);
    assert!(world.repo.associate(&on(1, "front")).await.unwrap().changed);
    world.shift(&eip, 2).await;
    let association = world.show(&eip).await.association.unwrap();
    assert_eq!((association.network, association.private_ip), (None, instance(2).private_ip));
    let kinds = [
        "allocated",
        "associated: mode nat, network back",
        "reconfigured: mode nat, network front",
        "reconfigured: mode nat",
        "reconfigured: mode nat, network front",
        "moved",
    ];
    assert_eq!(world.told_in_full(&eip).await, kinds);
}

#[rstest]
#[tokio::test]
async fn a_pool_says_how_its_elastic_ips_reach_instances_unless_a_caller_does(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let pool = PoolConfig {
        name: "bare".parse().unwrap(),
        ranges: vec!["203.0.113.0/24".parse().unwrap()],
        quarantine_seconds: 0,
        mode: Mode::Alias,
        reserved: Vec::new(),
        projects: None,
        draining: false,
    };
    world.repo.ensure_pool(&pool, at(1)).await.unwrap();
    assert_eq!(world.repo.pools().await.unwrap()[0], pool);
    world.report("hv1", &[1, 2, 3]).await;
    let id = eip_model::craft_id(*uuid::Uuid::new_v4().as_bytes(), 9, 256).unwrap();
    let new = eip_store::NewAllocation {
        id: eip_model::ElasticIpId::new(id),
        address: [203, 0, 113, 9].into(),
        range: pool.ranges[0],
        pool: pool.name.clone(),
        ..new_allocation(9, "default")
    };
    let bare = take(&world.repo, &new).await.unwrap();
    let usual = world.hold(1).await;
    let point = async |eip: &eip_store::ElasticIpRecord, n, mode| {
        let command = AssociateCommand {
            mode,
            allow_reassociation: true,
            ..associate(ElasticIpRef::Id(eip.id), n)
        };
        world.repo.associate(&command).await.unwrap();
        world.show(eip).await.association.unwrap().mode
    };
    assert_eq!(point(&usual, 1, None).await, Mode::Nat);
    assert_eq!(point(&bare, 2, None).await, Mode::Alias);
    assert_eq!(point(&bare, 3, Some(Mode::Nat)).await, Mode::Nat);
    assert_eq!(point(&bare, 2, None).await, Mode::Alias);
    assert_eq!(world.wanted("hv1").await.first(), Some(&address(1)));
}

#[rstest]
#[tokio::test]
async fn what_is_under_way_on_a_host_is_told_as_pending(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    let wish = world.point(&eip, 1).await;
    let problem = AttachmentProblem {
        public_ip: eip.address,
        kind: ProblemKind::Pending,
        reason: "it is being put on the instance's interface".into(),
    };
    world.applied_with("hv1", wish.generation, &[problem]).await;
    let plane = world.show(&eip).await.at(at(16)).data_plane;
    assert_eq!(plane.state, eip_model::DataPlaneState::Pending);
    world.applied("hv1", wish.generation).await;
    let plane = world.show(&eip).await.at(at(16)).data_plane;
    assert_eq!(plane.state, eip_model::DataPlaneState::Active);
}

//! What hosts say of their data plane.

use eip_model::{
    AppliedReport, AttachmentProblem, DataPlaneHealth, DataPlaneState, Generation, PoolConfig,
    ProblemKind, data_plane,
};
use eip_store::Acceptance;
use rstest::rstest;

use crate::world::{Kind, World, address, at, by, host, range};

fn problem(offset: u32, reason: &str) -> AttachmentProblem {
    AttachmentProblem {
        public_ip: address(offset),
        kind: ProblemKind::Failing,
        reason: reason.into(),
    }
}

#[rstest]
#[tokio::test]
async fn an_association_is_pending_until_its_host_has_reported_it(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1, 2]).await;
    let eip = world.hold(1).await;
    let wish = world.point(&eip, 1).await;
    let state = async || {
        let view = world.show(&eip).await.association.unwrap().view;
        data_plane(&view, at(16))
    };
    assert_eq!(state().await.state, DataPlaneState::Pending);
    world.applied("hv1", Generation::default()).await;
    assert_eq!(state().await.state, DataPlaneState::Pending);
    world.applied("hv1", wish.generation).await;
    assert_eq!(state().await.state, DataPlaneState::Active);
    assert_eq!(state().await.since, at(15));
    let generations = world.repo.generations(&host("hv1")).await.unwrap();
    assert_eq!(generations, (wish.generation, wish.generation));
    world.shift(&eip, 2).await;
    assert_eq!(state().await.state, DataPlaneState::Pending);
}

#[rstest]
#[tokio::test]
async fn a_problem_is_kept_with_the_time_since_when_and_goes_with_the_next_report(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1, 2]).await;
    let (first, second) = (world.hold(1).await, world.hold(2).await);
    world.point(&first, 1).await;
    let wish = world.point(&second, 2).await;
    let report = async |problems: Vec<AttachmentProblem>, second| {
        let report = AppliedReport {
            cluster_id: world.repo.cluster_id(),
            generation: wish.generation,
            data_plane: DataPlaneHealth::Ready,
            problems,
        };
        world.repo.record_applied(&host("hv1"), &report, at(second)).await.unwrap();
    };
    let problem_of = async |eip| world.show(eip).await.association.unwrap().view.problem;
    let (one, two) = (problem(1, "is stopped"), problem(2, "no address"));
    report(vec![one.clone(), two.clone(), problem(3, "not here")], 50).await;
    assert_eq!(problem_of(&first).await, Some((one.clone(), at(50))));
    let changed = problem(2, "is paused");
    report(vec![one.clone(), changed.clone()], 51).await;
    assert_eq!(problem_of(&first).await, Some((one, at(50))));
    assert_eq!(problem_of(&second).await, Some((changed, at(51))));
    report(vec![], 52).await;
    assert_eq!(problem_of(&first).await, None);
    assert_eq!(problem_of(&second).await, None);
}

#[rstest]
#[tokio::test]
async fn a_problem_goes_with_its_association_and_no_other_host_can_make_one(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1, 2]).await;
    let eip = world.hold(1).await;
    let wish = world.point(&eip, 1).await;
    let stranger = world.generation("hv2").await;
    world.applied_with("hv2", stranger, &[problem(1, "none of your business")]).await;
    assert_eq!(world.show(&eip).await.association.unwrap().view.problem, None);
    world.applied_with("hv1", wish.generation, &[problem(1, "broken")]).await;
    world.shift(&eip, 2).await;
    assert_eq!(world.show(&eip).await.association.unwrap().view.problem, None);
}

#[rstest]
#[tokio::test]
async fn a_host_keeps_what_it_said_last(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let report = |data_plane| AppliedReport {
        cluster_id: world.repo.cluster_id(),
        generation: Generation::default(),
        data_plane,
        problems: vec![],
    };
    for health in [
        DataPlaneHealth::Absent { reason: "no rights".into() },
        DataPlaneHealth::Failing { reason: "nft is not there".into() },
        DataPlaneHealth::Ready,
    ] {
        // The first report makes the host known.
        let told = report(health.clone());
        world.repo.record_applied(&host("hv1"), &told, at(60)).await.unwrap();
        let hosts = world.repo.list_hosts().await.unwrap();
        assert_eq!((hosts.len(), &hosts[0].health), (1, &health));
        assert_eq!(hosts[0].last_seen_at, at(60));
    }
}

#[rstest]
#[tokio::test]
async fn a_host_that_nobody_knows_should_have_nothing_but_the_ranges(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let desired = world.desired("nowhere").await;
    assert_eq!(desired.generation, Generation::default());
    assert_eq!(desired.ranges, [range()]);
    assert!(desired.attachments.is_empty());
    assert!(world.repo.list_hosts().await.unwrap().is_empty());
}

#[rstest]
#[tokio::test]
async fn a_new_pool_is_told_to_every_host_and_one_that_is_there_stays(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[]).await;
    world.report("hv2", &[]).await;
    let pool = PoolConfig {
        name: "extra".parse().unwrap(),
        ranges: vec![
            "203.0.113.128/25".parse().unwrap(),
            "198.51.100.7-198.51.100.9".parse().unwrap(),
        ],
        quarantine_seconds: 5,
        mode: eip_model::Mode::Nat,
        reserved: Vec::new(),
        projects: None,
        draining: false,
    };
    world.repo.ensure_pool(&pool, at(1)).await.unwrap();
    let other = PoolConfig { ranges: vec![], quarantine_seconds: 9, ..pool.clone() };
    world.repo.ensure_pool(&other, at(2)).await.unwrap();
    let pools = world.repo.pools().await.unwrap();
    assert_eq!(pools.len(), 2);
    assert_eq!(pools[0], pool);
    assert_eq!(pools[1].ranges, [range()]);
    for name in ["hv1", "hv2"] {
        let desired = world.desired(name).await;
        assert_eq!(desired.generation.value(), 1);
        assert_eq!(desired.ranges, [pool.ranges[0], pool.ranges[1], range()]);
    }
}

#[rstest]
#[tokio::test]
async fn what_was_accepted_is_not_noted_again_by_who_found_it_before(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let (repo, hv1) = (&world.repo, host("hv1"));
    let other = Some(eip_model::ClusterId::new(uuid::Uuid::from_u128(7)));
    let found = [
        eip_store::Ahead { generation: Generation::default(), cluster: other },
        eip_store::Ahead { generation: Generation::new(40), cluster: None },
    ];
    for ahead in found {
        repo.mark_ahead(&hv1, ahead, "it is ahead", at(20)).await.unwrap();
        assert_eq!(repo.host_progress(&hv1).await.unwrap().ahead, Some(ahead));
        let terms = eip_store::Terms::default();
        assert_eq!(
            repo.accept_host(&terms, &hv1, &by(9)).await.unwrap().answer,
            Acceptance::Accepted
        );
        assert_eq!(
            repo.accept_host(&terms, &hv1, &by(9)).await.unwrap().answer,
            Acceptance::NotAhead
        );
        repo.mark_ahead(&hv1, ahead, "it is ahead", at(21)).await.unwrap();
        assert_eq!(repo.host_progress(&hv1).await.unwrap().ahead, None, "{ahead:?}");
    }
    let progress = repo.host_progress(&hv1).await.unwrap();
    assert!(progress.desired > Generation::new(40), "{progress:?}");
    let newer = eip_store::Ahead { generation: Generation::new(90), cluster: None };
    repo.mark_ahead(&hv1, newer, "it is ahead", at(22)).await.unwrap();
    assert_eq!(repo.host_progress(&hv1).await.unwrap().ahead, Some(newer));
}

//! Many callers at once.

use std::sync::Arc;

use eip_model::ElasticIpRef;
use eip_store::{NewAllocation, Refusal, StoreError};
use rstest::rstest;

use crate::world::{Kind, World, address, associate, at, new_allocation, project, refusal, take};

const CALLERS: u128 = 50;

/// Runs all of them at once and returns what came out, in any order.
pub(crate) async fn at_once<A: Send + 'static>(
    calls: impl Iterator<Item = impl Future<Output = A> + Send + 'static>,
) -> Vec<A> {
    let running: Vec<_> = calls.map(tokio::spawn).collect();
    let mut answers = Vec::new();
    for one in running {
        answers.push(one.await.unwrap());
    }
    answers
}

pub(crate) fn split<A: std::fmt::Debug>(
    answers: Vec<Result<A, StoreError>>,
) -> (Vec<A>, Vec<Refusal>) {
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    (won.into_iter().map(Result::unwrap).collect(), lost.into_iter().map(refusal).collect())
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_who_want_one_address_one_gets_it(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let repo = world.repo.clone();
    let calls = (0..CALLERS).map(|n| {
        let repo = repo.clone();
        let owner = if n % 2 == 0 { "default" } else { "other" };
        async move { take(&repo, &new_allocation(9, owner)).await }
    });
    let (won, lost) = split(at_once(calls).await);
    assert_eq!(won.len(), 1);
    assert!(lost.iter().all(|refusal| *refusal == Refusal::AddressInUse));
    assert_eq!(world.show(&won[0]).await, won[0]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_who_want_a_sleeping_address_one_gets_it(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::with_quarantine(kind, 0).await;
    let held = world.hold(9).await;
    world.release(&held).await.unwrap();
    let repo = world.repo.clone();
    let calls = (0..CALLERS).map(|_| {
        let repo = repo.clone();
        let new = NewAllocation { now: at(40), ..new_allocation(9, "other") };
        async move { take(&repo, &new).await }
    });
    let (won, lost) = split(at_once(calls).await);
    assert_eq!(won.len(), 1);
    assert!(lost.iter().all(|refusal| *refusal == Refusal::AddressInUse));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_elastic_ips_for_one_instance_one_gets_it(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    for offset in 1..=50 {
        world.hold(offset).await;
    }
    let repo = world.repo.clone();
    let calls = (1..=50).map(|offset| {
        let repo = repo.clone();
        let command = associate(ElasticIpRef::Address(address(offset)), 1);
        async move { repo.associate(&command).await }
    });
    let (won, lost) = split(at_once(calls).await);
    assert_eq!(won.len(), 1);
    let wanted = world.wanted("hv1").await;
    let has = Refusal::InstanceHasElasticIp { public_ip: wanted[0] };
    assert_eq!((wanted.len(), lost.len()), (1, 49));
    assert!(lost.iter().all(|refusal| *refusal == has), "{lost:?}");
    assert_eq!(world.generation("hv1").await, won[0].generation);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_instances_for_one_elastic_ip_one_gets_it(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    // Over two hosts, so that the hosts' own locks do not keep the callers apart.
    world.report("hv1", &(1..=25).collect::<Vec<_>>()).await;
    world.report("hv2", &(26..=CALLERS).collect::<Vec<_>>()).await;
    let eip = world.hold(1).await;
    let repo = world.repo.clone();
    let calls = (1..=CALLERS).map(|n| {
        let repo = repo.clone();
        let command = associate(ElasticIpRef::Id(eip.id), n);
        async move { repo.associate(&command).await }
    });
    let (won, lost) = split(at_once(calls).await);
    assert_eq!((won.len(), lost.len()), (1, 49));
    let instance_name = world.show(&eip).await.association.unwrap().instance_name;
    let taken = Refusal::AlreadyAssociated { instance_name };
    assert!(lost.iter().all(|refusal| *refusal == taken), "{lost:?}");
    assert_eq!(world.told(&eip).await, ["allocated", "associated"]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_release_and_an_associate_at_once_never_point_a_released_address(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = Arc::new(World::new(kind).await);
    world.report("hv1", &[1]).await;
    let (mut pointed, mut released) = (0, 0);
    for offset in 1..=40 {
        let eip = world.hold(offset).await;
        let command = associate(ElasticIpRef::Id(eip.id), 1);
        let (other, theirs) = (world.clone(), eip.clone());
        let releasing = tokio::spawn(async move { other.release(&theirs).await });
        let associating = world.repo.associate(&command).await;
        let releasing = releasing.await.unwrap();
        match (associating, releasing) {
            (Ok(_), Err(StoreError::Refused(Refusal::StillAssociated { .. }))) => {
                assert_eq!(world.wanted("hv1").await, [eip.address]);
                world.part(&eip).await.unwrap();
                pointed += 1;
            }
            (Err(StoreError::Refused(Refusal::ElasticIpNotFound)), Ok(_)) => {
                assert!(world.wanted("hv1").await.is_empty());
                released += 1;
            }
            both => panic!("{both:?}"),
        }
        let counts = world.repo.pool_counts(&"public".parse().unwrap()).await.unwrap();
        assert_eq!(counts.associated, 0);
    }
    assert_eq!(pointed + released, 40);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_instance_that_is_removed_while_it_is_associated_is_never_pointed_at(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = Arc::new(World::new(kind).await);
    let eip = world.hold(1).await;
    for _ in 0..30 {
        world.report("hv1", &[1]).await;
        let other = world.clone();
        let removing = tokio::spawn(async move { other.report("hv1", &[]).await });
        let associating = world.repo.associate(&associate(ElasticIpRef::Id(eip.id), 1)).await;
        let outcome = removing.await.unwrap();
        match associating {
            Ok(_) => assert_eq!(outcome.ended, [address(1)]),
            Err(StoreError::Refused(Refusal::InstanceNotFound)) => {
                assert!(outcome.ended.is_empty());
            }
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(world.show(&eip).await.association, None);
        assert!(world.wanted("hv1").await.is_empty());
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once_ends_without_an_error_that_nobody_asked_for(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = Arc::new(World::new(kind).await);
    world.report("hv1", &[1, 2, 3]).await;
    world.report("hv2", &[4, 5, 6]).await;
    for offset in 1..=6 {
        world.hold(offset).await;
    }
    let calls = (0..24_u32).map(|n| {
        let world = world.clone();
        async move {
            for round in 0..10_u32 {
                let offset = (n + round) % 6 + 1;
                let target = ElasticIpRef::Address(address(offset));
                let eip = world.repo.find_elastic_ip(target, &eip_store::Scope::Everything).await;
                let eip = eip.unwrap().unwrap();
                let answer = match n % 4 {
                    0 => {
                        let command = eip_store::AssociateCommand {
                            allow_reassociation: true,
                            ..associate(target, u128::from((n + round * 5) % 6 + 1))
                        };
                        world.repo.associate(&command).await.map(drop)
                    }
                    1 => world.part(&eip).await.map(drop),
                    2 => {
                        let name = if n % 8 == 2 { "hv1" } else { "hv2" };
                        let generation = world.generation(name).await;
                        world.applied(name, generation).await;
                        Ok(())
                    }
                    _ => {
                        let (name, all) =
                            if n % 8 == 3 { ("hv1", [1, 2, 3]) } else { ("hv2", [4, 5, 6]) };
                        let some = &all[..(round % 2 + 2) as usize];
                        world.report(name, some).await;
                        Ok(())
                    }
                };
                if let Err(error) = answer {
                    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
                }
            }
        }
    });
    at_once(calls).await;
    // Every elastic IP tells a story that could have happened one step after the other.
    for offset in 1..=6 {
        let target = ElasticIpRef::Address(address(offset));
        let eip = world.repo.find_elastic_ip(target, &eip_store::Scope::Everything).await;
        let eip = eip.unwrap().unwrap();
        let mut pointed = false;
        for kind in world.told(&eip).await {
            let was = std::mem::replace(&mut pointed, matches!(kind, "associated" | "moved"));
            let right = match kind {
                "moved" | "disassociated" | "instance_removed" => was,
                "allocated" | "associated" => !was,
                other => panic!("{other}"),
            };
            assert!(right, "{kind} at {offset}");
        }
        assert_eq!(pointed, eip.association.is_some());
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_host_may_report_twice_at_once(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = Arc::new(World::new(kind).await);
    let calls = (0..16_u32).map(|n| {
        let world = world.clone();
        async move {
            if n % 2 == 0 {
                world.report("hv1", &[1, 2]).await;
            } else {
                world.applied("hv1", eip_model::Generation::default()).await;
            }
            world.repo.ensure_project(&project("new"), None, at(0)).await.unwrap();
        }
    });
    at_once(calls).await;
    assert_eq!(world.repo.list_hosts().await.unwrap().len(), 1);
}

//! How many addresses a project may hold.

use eip_model::ElasticIpRef;
use eip_store::{NewAllocation, PoolLoad, Refusal};
use rstest::rstest;

use crate::races::{at_once, split};
use crate::world::{Kind, QUARANTINE, World, at, new_allocation, project, refusal, take};

async fn world_with_quota(kind: Kind, quota: u32) -> World {
    let world = World::new(kind).await;
    world.repo.ensure_project(&project("small"), Some(quota), at(0)).await.unwrap();
    world
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_at_once_a_quota_of_five_lets_five_through(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = world_with_quota(kind, 5).await;
    let calls = (0..50).map(|offset| {
        let repo = world.repo.clone();
        async move { take(&repo, &new_allocation(offset, "small")).await }
    });
    let (won, lost) = split(at_once(calls).await);
    assert_eq!(won.len(), 5);
    assert!(lost.iter().all(|refusal| *refusal == Refusal::QuotaExceeded { quota: 5 }), "{lost:?}");
    let load = world.repo.pool_load(&"public".parse().unwrap()).await.unwrap();
    assert_eq!(load, PoolLoad { held: 5, asleep: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quota_holds_across_servers() {
    let world = world_with_quota(Kind::Postgres, 5).await;
    let mut servers = vec![world.repo.clone()];
    for _ in 0..3 {
        servers.push(eip_store::open(&world.url).await.unwrap());
    }
    let calls = (0..60_u32).map(|offset| {
        let repo = servers[offset as usize % servers.len()].clone();
        async move { take(&repo, &new_allocation(offset, "small")).await }
    });
    let (won, lost) = split(at_once(calls).await);
    assert_eq!((won.len(), lost.len()), (5, 55));
    assert!(lost.iter().all(|refusal| *refusal == Refusal::QuotaExceeded { quota: 5 }), "{lost:?}");
}

#[rstest]
#[tokio::test]
async fn what_is_released_makes_room_and_what_is_woken_takes_it(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = world_with_quota(kind, 1).await;
    let pool = "public".parse().unwrap();
    let held = take(&world.repo, &new_allocation(1, "small")).await.unwrap();
    let full = Refusal::QuotaExceeded { quota: 1 };
    assert_eq!(refusal(take(&world.repo, &new_allocation(2, "small")).await), full);
    let released = eip_store::ReleaseCommand {
        target: ElasticIpRef::Id(held.id),
        scope: crate::world::scope("small"),
        actor: "key-1".into(),
        now: at(30),
    };
    world.repo.release(&released).await.unwrap();
    let load = world.repo.pool_load(&pool).await.unwrap();
    assert_eq!(load, PoolLoad { held: 0, asleep: 1 });
    let again = NewAllocation { asked_for: true, now: at(31), ..new_allocation(1, "small") };
    take(&world.repo, &again).await.unwrap();
    assert_eq!(refusal(take(&world.repo, &new_allocation(2, "small")).await), full);
    let load = world.repo.pool_load(&pool).await.unwrap();
    assert_eq!(load, PoolLoad { held: 1, asleep: 0 });
}

#[rstest]
#[tokio::test]
async fn a_refused_allocation_counts_for_nobody(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = world_with_quota(kind, 3).await;
    world.hold(7).await;
    for _ in 0..5 {
        let taken = take(&world.repo, &new_allocation(7, "small")).await;
        assert_eq!(refusal(taken), Refusal::AddressInUse);
    }
    for offset in 1..=3 {
        take(&world.repo, &new_allocation(offset, "small")).await.unwrap();
    }
}

#[rstest]
#[tokio::test]
async fn quarantines_that_end_are_counted_out(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let pool = "public".parse().unwrap();
    for offset in 1..=3 {
        let held = world.hold(offset).await;
        world.release(&held).await.unwrap();
    }
    assert_eq!(world.repo.pool_load(&pool).await.unwrap(), PoolLoad { held: 0, asleep: 3 });
    let freed = world.repo.end_quarantines(at(30 + QUARANTINE)).await.unwrap();
    assert_eq!(freed.len(), 3);
    assert_eq!(world.repo.pool_load(&pool).await.unwrap(), PoolLoad::default());
}

#[rstest]
#[tokio::test]
async fn without_a_quarantine_an_address_is_free_at_once(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::with_quarantine(kind, 0).await;
    let held = world.hold(1).await;
    let released = world.release(&held).await.unwrap();
    assert_eq!((released.address, released.free_at), (held.address, at(30)));
    assert!(world.repo.addresses_in_use().await.unwrap().is_empty());
    let new = take(&world.repo, &new_allocation(1, "other")).await.unwrap();
    assert_eq!(world.show(&new).await, new);
    assert_eq!(world.told(&held).await, ["allocated", "released"]);
    assert_eq!(world.told(&new).await, ["allocated"]);
}

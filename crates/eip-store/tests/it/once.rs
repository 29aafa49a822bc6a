//! Requests that are carried out once, however often they are repeated.

use eip_model::KeyId;
use eip_store::{Allocated, NewAllocation, OnceKey, Refusal};
use rstest::rstest;

use crate::races::at_once;
use crate::world::{Kind, World, at, new_allocation, refusal, take};

fn once(owner: &str, key: &str, fingerprint: u8) -> Option<OnceKey> {
    let fingerprint = [fingerprint; 32];
    Some(OnceKey { owner: KeyId::new(owner), key: key.to_owned(), fingerprint })
}

#[rstest]
#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_and_holds_nothing_more(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let first = NewAllocation { once: once("k1", "a", 1), ..new_allocation(1, "default") };
    let made = world.repo.allocate(&first).await.unwrap();
    assert!(!made.repeated);
    // The server has chosen another address this time.
    let second =
        NewAllocation { once: once("k1", "a", 1), now: at(60), ..new_allocation(2, "default") };
    let again = world.repo.allocate(&second).await.unwrap();
    assert_eq!(again, Allocated { record: made.record.clone(), repeated: true });
    assert_eq!(world.repo.addresses_in_use().await.unwrap(), [made.record.address]);
    assert_eq!(world.told(&made.record).await, ["allocated"]);
}

#[rstest]
#[tokio::test]
async fn a_key_is_good_for_one_request_of_one_caller(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let first = NewAllocation { once: once("k1", "a", 1), ..new_allocation(1, "default") };
    world.repo.allocate(&first).await.unwrap();
    let other = NewAllocation { once: once("k1", "a", 2), ..new_allocation(2, "default") };
    assert_eq!(refusal(world.repo.allocate(&other).await), Refusal::IdempotencyConflict);
    let somebody = NewAllocation { once: once("k2", "a", 2), ..new_allocation(3, "default") };
    assert!(!world.repo.allocate(&somebody).await.unwrap().repeated);
}

#[rstest]
#[tokio::test]
async fn a_refused_request_may_be_repeated_when_its_cause_is_gone(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::with_quarantine(kind, 0).await;
    let held = world.hold(1).await;
    let asking = NewAllocation { once: once("k1", "a", 1), ..new_allocation(1, "default") };
    assert_eq!(refusal(world.repo.allocate(&asking).await), Refusal::AddressInUse);
    world.release(&held).await.unwrap();
    let later = NewAllocation { now: at(40), ..asking };
    assert!(!world.repo.allocate(&later).await.unwrap().repeated);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_repetitions_at_once_one_is_carried_out(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let mut servers = vec![world.repo.clone()];
    if matches!(kind, Kind::Postgres) {
        servers.push(eip_store::open(&world.url).await.unwrap());
    }
    let calls = (0..50_u32).map(|n| {
        let repo = servers[n as usize % servers.len()].clone();
        let new = NewAllocation { once: once("k1", "a", 1), ..new_allocation(n, "default") };
        async move { repo.allocate(&new).await.unwrap() }
    });
    let answers = at_once(calls).await;
    assert_eq!(answers.iter().filter(|answer| !answer.repeated).count(), 1);
    assert!(answers.iter().all(|answer| answer.record == answers[0].record));
    assert_eq!(world.repo.addresses_in_use().await.unwrap(), [answers[0].record.address]);
}

#[rstest]
#[tokio::test]
async fn an_old_answer_is_forgotten(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let first = NewAllocation { once: once("k1", "a", 1), ..new_allocation(1, "default") };
    world.repo.allocate(&first).await.unwrap();
    assert_eq!(world.repo.forget_answers(at(0)).await.unwrap(), 0);
    assert_eq!(world.repo.forget_answers(at(1)).await.unwrap(), 1);
    let anew = NewAllocation { once: once("k1", "a", 2), ..new_allocation(2, "default") };
    assert!(!world.repo.allocate(&anew).await.unwrap().repeated);
    assert!(take(&world.repo, &new_allocation(3, "default")).await.is_ok());
}

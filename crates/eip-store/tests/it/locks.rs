//! What PostgreSQL's row locks are for: each test stops another transaction half-way.
//!
//! SQLite has one writer and needs none of this.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eip_model::ElasticIpRef;
use eip_store::{Refusal, StoreError};
use eip_testkit::eventually_async;
use rstest::rstest;
use tokio_postgres::{Client, NoTls};

use crate::world::{Kind, World, address, associate, refusal};

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Returns once somebody in this database waits for a lock.
async fn somebody_waits(client: &Client) {
    eventually_async("somebody waits for a lock", Duration::from_secs(2), async || {
        let waiting = "SELECT 1 FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'";
        client.query_opt(waiting, &[]).await.unwrap().map(drop)
    })
    .await;
}

#[tokio::test]
async fn an_instance_that_is_just_being_removed_is_not_associated() {
    let world = World::new(Kind::Postgres).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    let (other, looker) = (connect(&world.url).await, connect(&world.url).await);
    other.batch_execute("BEGIN; DELETE FROM instance").await.unwrap();
    let repo = world.repo.clone();
    let command = associate(ElasticIpRef::Id(eip.id), 1);
    let associating = tokio::spawn(async move { repo.associate(&command).await });
    somebody_waits(&looker).await;
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(refusal(associating.await.unwrap()), Refusal::InstanceNotFound);
}

#[tokio::test]
async fn an_associate_in_the_middle_of_a_report_waits_for_it() {
    let world = World::new(Kind::Postgres).await;
    world.report("hv1", &[1]).await;
    world.report("hv2", &[2]).await;
    let eip = world.hold(1).await;
    world.point(&eip, 1).await;
    world.part(&eip).await.unwrap();
    let (report, looker) = (connect(&world.url).await, connect(&world.url).await);
    report.batch_execute("BEGIN; DELETE FROM letting_go").await.unwrap();
    let repo = world.repo.clone();
    let command = associate(ElasticIpRef::Id(eip.id), 2);
    let associating = tokio::spawn(async move { repo.associate(&command).await });
    // Had it gone ahead, the desired set of hv2 would change at the commit without a bump.
    somebody_waits(&looker).await;
    report.batch_execute("COMMIT").await.unwrap();
    let wish = associating.await.unwrap().unwrap();
    let desired = world.desired("hv2").await;
    assert_eq!(desired.generation, wish.generation);
    assert_eq!(desired.attachments[0].public_ip, address(1));
}

#[tokio::test]
async fn an_elastic_ip_that_is_just_being_released_is_not_associated() {
    let world = World::new(Kind::Postgres).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    let (other, looker) = (connect(&world.url).await, connect(&world.url).await);
    let release = "BEGIN; UPDATE elastic_ip SET released_at = now(), quarantine_until = now()";
    other.batch_execute(release).await.unwrap();
    let repo = world.repo.clone();
    let command = associate(ElasticIpRef::Id(eip.id), 1);
    let associating = tokio::spawn(async move { repo.associate(&command).await });
    somebody_waits(&looker).await;
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(refusal(associating.await.unwrap()), Refusal::ElasticIpNotFound);
}

#[rstest]
#[tokio::test]
async fn a_lock_that_never_comes_is_an_answer_within_seconds(
    #[values(Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let eip = world.hold(1).await;
    let other = connect(world.url.trim_end_matches("&pgbouncer=true")).await;
    other.batch_execute("BEGIN; SELECT 1 FROM elastic_ip FOR UPDATE").await.unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(20), world.release(&eip)).await;
    let error = waited.unwrap().unwrap_err();
    assert!(error.retryable(), "{error:?}");
    let unknown = matches!(error, StoreError::Unavailable { outcome_unknown: true, .. });
    assert!(!unknown, "{error:?}");
    other.batch_execute("ROLLBACK").await.unwrap();
    world.release(&eip).await.unwrap();
}

/// Each of the many would wait its three seconds, one after the other: two minutes. What they hold up
/// is bounded for each batch, and they come in two or three.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_that_wait_for_one_row_hold_up_the_others_for_seconds_only() {
    const BOUND: Duration = Duration::from_secs(60);
    let world = Arc::new(World::new(Kind::Postgres).await);
    let mut all = Vec::new();
    for offset in 1..=40 {
        all.push(world.hold(offset).await);
    }
    let other = connect(&world.url).await;
    let lock = format!(
        "BEGIN; SELECT 1 FROM elastic_ip WHERE address = {} FOR UPDATE",
        address(1).to_bits()
    );
    other.batch_execute(&lock).await.unwrap();
    let begun = Instant::now();
    let releasing = |eip: &eip_store::ElasticIpRecord| {
        let (world, eip) = (world.clone(), eip.clone());
        tokio::spawn(async move { (world.release(&eip).await, begun.elapsed()) })
    };
    let (stuck, free): (Vec<_>, Vec<_>) =
        all[1..].iter().map(|eip| (releasing(&all[0]), releasing(eip))).unzip();
    for one in free {
        let (released, took) = one.await.unwrap();
        released.unwrap();
        assert!(took < BOUND, "{took:?}");
    }
    for one in stuck {
        let (released, took) = tokio::time::timeout(BOUND, one).await.unwrap().unwrap();
        let error = released.unwrap_err();
        let known = matches!(error, StoreError::Unavailable { outcome_unknown: false, .. });
        assert!(known, "{error:?}");
        assert!(took < BOUND, "{took:?}");
    }
}

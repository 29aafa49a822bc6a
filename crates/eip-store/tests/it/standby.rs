//! Commits that wait for a standby which does not answer.

use std::time::Duration;

use eip_store::{Refusal, StoreError};
use eip_testkit::eventually_async;
use eip_testkit::pgbouncer::TestBouncer;
use eip_testkit::postgres::TestCluster;
use rstest::rstest;
use tokio_postgres::NoTls;

use crate::world::{World, bouncer_url, new_allocation, refusal, take};

/// PostgreSQL answers a commit whose wait is cancelled as if nothing had happened, but for a warning.
#[rstest]
#[case::cancelled("pg_cancel_backend", false)]
#[case::ended("pg_terminate_backend", false)]
#[case::cancelled_behind_pgbouncer("pg_cancel_backend", true)]
#[case::ended_behind_pgbouncer("pg_terminate_backend", true)]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_that_no_standby_confirmed_is_not_known_to_be_one(
    #[case] how: &str,
    #[case] bouncer: bool,
) {
    let cluster = TestCluster::private("synchronous_commit = on");
    let url = cluster.fresh_database().await;
    let between = bouncer.then(|| TestBouncer::before(&cluster));
    let way = between.as_ref().map_or(url.clone(), |between| bouncer_url(between, &url));
    let world = World::on(way).await;
    let (operator, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    operator.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    operator.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let end = format!(
        "SELECT 1 FROM (SELECT {how}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep') done"
    );
    let repo = world.repo.clone();
    let allocating = tokio::spawn(async move {
        // The first ones may be through before all of PostgreSQL has read the new settings.
        for offset in 1.. {
            if let Err(error) = take(&repo, &new_allocation(offset, "default")).await {
                return (offset, error);
            }
        }
        unreachable!("the numbers end");
    });
    eventually_async("a commit waits", Duration::from_secs(4), async || {
        operator.query_opt(&end, &[]).await.unwrap()
    })
    .await;
    let (offset, error) = allocating.await.unwrap();
    assert!(matches!(error, StoreError::Unavailable { outcome_unknown: true, .. }), "{error:?}");
    operator.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    operator.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    // Here it was committed, and whoever looks sees it.
    eventually_async("commits do not wait", Duration::from_secs(4), async || {
        take(&world.repo, &new_allocation(0, "default")).await.ok()
    })
    .await;
    let again = take(&world.repo, &new_allocation(offset, "other")).await;
    assert_eq!(refusal(again), Refusal::AddressInUse);
}

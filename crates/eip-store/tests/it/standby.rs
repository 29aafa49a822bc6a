//! Commits that wait for a standby which does not answer.

use std::time::Duration;

use eip_store::{ImportError, Refusal, StoreError, import};
use eip_testkit::eventually_async;
use eip_testkit::pgbouncer::TestBouncer;
use eip_testkit::postgres::TestCluster;
use rstest::rstest;
use tokio_postgres::{Client, NoTls};

use crate::world::{Kind, World, bouncer_url, new_allocation, refusal, take};

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
    let operator = operator_without_standby(&url).await;
    let end = end_waits(how);
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

#[rstest]
#[case::cancelled("pg_cancel_backend", false)]
#[case::ended("pg_terminate_backend", false)]
#[case::cancelled_behind_pgbouncer("pg_cancel_backend", true)]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_import_that_no_standby_confirmed_is_not_known_to_be_one(
    #[case] how: &str,
    #[case] bouncer: bool,
) {
    let World { repo, url: from, folder: _folder } = World::new(Kind::Sqlite).await;
    drop(repo);
    let cluster = TestCluster::private("synchronous_commit = on");
    let url = cluster.fresh_database().await;
    let between = bouncer.then(|| TestBouncer::before(&cluster));
    let way = between.as_ref().map_or(url.clone(), |between| bouncer_url(between, &url));
    let operator = operator_without_standby(&url).await;
    let end = end_waits(how);
    let ended = eventually_async("the import waits", Duration::from_secs(10), async || {
        operator.query_opt(&end, &[]).await.unwrap()
    });
    let (imported, _) = tokio::join!(import(&from, &way), ended);
    let error = imported.unwrap_err();
    assert!(matches!(error, ImportError::Unconfirmed { .. }), "{error:?}");
    // When the connection was ended there may be no more to say than that.
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("standby") || how == "pg_terminate_backend", "{error}: {cause}");
    // Here it was committed, and whoever looks sees it.
    let pools = operator.query_one("SELECT count(*) FROM pool", &[]).await.unwrap();
    assert_eq!(pools.get::<_, i64>(0), 1);
}

/// Has commits wait for a standby that does not exist, and returns who may end their wait.
async fn operator_without_standby(url: &str) -> Client {
    let (operator, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    operator.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    operator.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    operator
}

/// Ends the commits that wait for a standby; a row says that there were some.
fn end_waits(how: &str) -> String {
    format!(
        "SELECT 1 FROM (SELECT {how}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep') done"
    )
}

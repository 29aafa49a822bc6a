//! What is asked of PostgreSQL by way of a pgbouncer that gives every transaction another connection.
//!
//! The story itself is told by way of it, too: see [`Kind::Bouncer`](crate::world::Kind).

use std::sync::Arc;
use std::time::{Duration, Instant};

use eip_store::StoreError;
use eip_testkit::eventually_async;
use eip_testkit::pgbouncer::TestBouncer;
use eip_testkit::postgres::{Stop, TestCluster};
use tokio::task::block_in_place;
use tokio_postgres::NoTls;

use crate::world::{Kind, World, bouncer_url, list_all, new_allocation, take};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_left_on_a_connection_that_is_somebody_elses_next() {
    let world = Arc::new(World::new(Kind::Bouncer).await);
    world.report("hv1", &[1]).await;
    let calls: Vec<_> = (0..32)
        .map(|n| {
            let world = world.clone();
            tokio::spawn(async move {
                let eip = world.hold(n).await;
                world.show(&eip).await;
                world.repo.list_elastic_ips(&list_all()).await.unwrap();
                world.repo.addresses_in_use().await.unwrap();
                world.release(&eip).await.unwrap();
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let url = world.url.trim_end_matches("&pgbouncer=true");
    // Each of them holds another of the connections while it looks.
    for _ in 0..4 {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("BEGIN").await.unwrap();
        let left =
            "SELECT current_setting('statement_timeout') || current_setting('enable_seqscan'),
                           (SELECT count(*) FROM pg_prepared_statements),
                           (SELECT count(*) FROM pg_listening_channels()),
                           (SELECT count(*) FROM pg_locks
                             WHERE locktype = 'advisory' AND pid = pg_backend_pid())";
        let left = client.query_typed_one(left, &[]).await.unwrap();
        let settings: String = left.get(0);
        let rest: [i64; 3] = [left.get(1), left.get(2), left.get(3)];
        assert_eq!((settings.as_str(), rest), ("0on", [0; 3]));
        std::mem::forget(client);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_is_gone_behind_pgbouncer_is_unavailable_until_it_is_back() {
    let cluster = TestCluster::private("synchronous_commit = on");
    let bouncer = TestBouncer::before(&cluster);
    let world = World::on(bouncer_url(&bouncer, &cluster.fresh_database().await)).await;
    let eip = world.hold(1).await;
    block_in_place(|| cluster.stop(Stop::Immediate));
    for n in 2..4 {
        // pgbouncer has its clients wait two minutes.
        let began = Instant::now();
        let error = take(&world.repo, &new_allocation(n, "default")).await.unwrap_err();
        let known = matches!(error, StoreError::Unavailable { outcome_unknown: false, .. });
        assert!(known, "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    }
    block_in_place(|| cluster.start());
    eventually_async("it is found again", Duration::from_secs(10), async || {
        take(&world.repo, &new_allocation(4, "default")).await.ok()
    })
    .await;
    assert_eq!(world.show(&eip).await, eip);
}

//! A PostgreSQL server that takes connections and says nothing on them, or nothing any more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eip_store::{OpenError, StoreError, open};
use eip_testkit::eventually_async;
use eip_testkit::postgres::TestCluster;
use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::block_in_place;

use crate::world::{World, list_all, new_allocation, take};

const SOON: Duration = Duration::from_secs(10);

/// Takes connections, and keeps them.
async fn say_nothing_on(listener: TcpListener) {
    let mut kept = Vec::new();
    while let Ok((one, _)) = listener.accept().await {
        kept.push(one);
    }
}

#[rstest]
#[case::in_clear("sslmode=disable")]
#[case::encrypted("sslmode=require")]
#[tokio::test]
async fn a_server_that_never_speaks_is_waited_for_as_long_as_was_asked(#[case] mode: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = tokio::spawn(say_nothing_on(listener));
    let began = Instant::now();
    let url = format!("postgres://eip:hunter2@127.0.0.1:{port}/eip?connect_timeout=1&{mode}");
    let error = open(&url).await.unwrap_err();
    let took = began.elapsed();
    assert!((1.0..4.0).contains(&took.as_secs_f64()), "{took:?}");
    assert!(matches!(error, OpenError::Database { .. }), "{error:?}");
    assert!(error.to_string().contains("connect to PostgreSQL"), "{error}");
    silent.abort();
}

/// Passes on all that clients say, and of what the server says so many bytes on each connection.
async fn relay(listener: UnixListener, server: PathBuf, bytes: u64) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        let Ok(behind) = UnixStream::connect(&server).await else { return };
        tokio::spawn(async move {
            let (mut hears, mut says) = client.into_split();
            let (listens, mut told) = behind.into_split();
            let there = async {
                tokio::io::copy(&mut hears, &mut told).await.ok();
                told.shutdown().await.ok();
            };
            let back = async {
                let mut listens = listens.take(bytes);
                tokio::io::copy(&mut listens, &mut says).await.ok();
                // Neither closed nor read any more.
                std::future::pending::<()>().await;
            };
            tokio::select! { () = there => {}, () = back => {} }
        });
    }
}

/// Opens a record by way of a relay, and says how that ended. Its schema is up to date: how long a
/// migration takes is not known to anybody.
async fn open_through(cluster: &TestCluster, folder: &Path, bytes: u64) -> Result<(), OpenError> {
    let url = cluster.fresh_database().await;
    drop(open(&url).await.unwrap());
    let place = folder.join(bytes.to_string());
    std::fs::create_dir(&place).unwrap();
    let name = format!(".s.PGSQL.{}", cluster.port());
    let listener = UnixListener::bind(place.join(&name)).unwrap();
    let relaying = tokio::spawn(relay(listener, cluster.folder().join(&name), bytes));
    let way = url.replace(&cluster.folder().display().to_string(), &place.display().to_string());
    let opened = open(&way).await;
    relaying.abort();
    opened.map(drop)
}

/// Wherever it is that the server stops to speak.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_falls_silent_while_a_record_is_opened_is_not_waited_for() {
    let cluster = TestCluster::shared();
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let steps: Vec<u64> = (0..1_000).step_by(90).chain([100_000]).collect();
    let opening = steps.iter().map(|bytes| open_through(cluster, folder.path(), *bytes));
    let opened = futures_util::future::join_all(opening).await;
    // Five seconds of patience, and one for the connection to end.
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    for (bytes, outcome) in steps.iter().zip(&opened) {
        match outcome {
            Ok(()) => assert!(*bytes > 500, "{bytes}"),
            Err(OpenError::Database { .. }) => assert!(*bytes < 100_000, "{bytes}"),
            Err(other) => panic!("{bytes}: {other:?}"),
        }
    }
    // Some were silent from the beginning, some in the middle, one not at all.
    let said: Vec<String> =
        opened.iter().filter_map(|one| one.as_ref().err().map(ToString::to_string)).collect();
    assert!(said.iter().any(|said| said.contains("connect")), "{said:?}");
    assert!(said.iter().any(|said| !said.contains("connect")), "{said:?}");
}

/// Sixteen connections that nobody uses cost no more than one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_stands_still_is_found_out_once_and_not_for_each_connection() {
    let cluster = TestCluster::private("");
    let world = World::on(cluster.fresh_database().await).await;
    let eip = world.hold(1).await;
    let reads = (0..64).map(|_| {
        let repo = world.repo.clone();
        tokio::spawn(async move { repo.list_elastic_ips(&list_all()).await.unwrap() })
    });
    for read in reads.collect::<Vec<_>>() {
        read.await.unwrap();
    }
    let idle = "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database()
                   AND application_name = 'eip' AND state = 'idle'
                   AND state_change < clock_timestamp() - interval '1.2 s'";
    let many = eventually_async("nobody uses them", SOON, async || {
        let idle: usize = crate::raw::ask(&world.url, idle).await[0][0].parse().unwrap();
        (idle > 8).then_some(idle)
    })
    .await;
    block_in_place(|| cluster.freeze());
    let began = Instant::now();
    let asked = Arc::clone(&world.repo);
    let error = take(&asked, &new_allocation(2, "default")).await.unwrap_err();
    let known = matches!(error, StoreError::Unavailable { outcome_unknown: false, .. });
    assert!(known, "{error:?}");
    // A second for the first of them, five for a new one.
    assert!(began.elapsed() < SOON, "{many} connections: {:?}", began.elapsed());
    block_in_place(|| cluster.thaw());
    assert_eq!(world.show(&eip).await, eip);
    world.hold(2).await;
}

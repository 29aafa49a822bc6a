//! A PostgreSQL server that goes away, ends connections, or takes none.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eip_model::ElasticIpRef;
use eip_store::{ElasticIpRecord, ListPlace, Repository, Scope, StoreError};
use eip_testkit::eventually_async;
use eip_testkit::postgres::{Stop, TestCluster};
use tokio::task::block_in_place;
use tokio_postgres::{Client, NoTls};

use crate::world::{Kind, World, list_all, new_allocation, take};

const SOON: Duration = Duration::from_secs(10);

/// What an answer takes at most while connections are refused. It takes milliseconds.
const FAST: Duration = Duration::from_secs(4);

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Ends all other connections to this database, and returns how many there were once they ended.
async fn end_the_others(client: &Client) -> usize {
    let end = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let ended = client.query(end, &[]).await.unwrap();
    let ended: Vec<i32> = ended.iter().map(|row| row.get(0)).collect();
    eventually_async("they end", SOON, async || {
        let left = "SELECT 1 FROM pg_stat_activity WHERE pid = ANY ($1) LIMIT 1";
        client.query_opt(left, &[&ended]).await.unwrap().is_none().then_some(())
    })
    .await;
    ended.len()
}

/// Those who allocate one address after the other, each its own, for as long as they are left to.
struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU32>,
    running: Vec<tokio::task::JoinHandle<Vec<ElasticIpRecord>>>,
}

impl Writers {
    fn start(repo: &Arc<dyn Repository>, count: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU32::new(0));
        let write = |n: u32| {
            let (repo, stop, counted) = (repo.clone(), stop.clone(), acknowledged.clone());
            async move {
                let mut held = Vec::new();
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let new = new_allocation(n * 100_000 + round, "default");
                    match take(&repo, &new).await {
                        Ok(eip) => {
                            counted.fetch_add(1, Ordering::Relaxed);
                            held.push(eip);
                        }
                        Err(StoreError::Unavailable { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
                held
            }
        };
        let running = (0..count).map(|n| tokio::spawn(write(n))).collect();
        Self { stop, acknowledged, running }
    }

    /// Returns when `count` more have been allocated.
    async fn get_on(&self, count: u32) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        eventually_async("they allocate", SOON, async || {
            (self.acknowledged.load(Ordering::Relaxed) >= before + count).then_some(())
        })
        .await;
    }

    async fn end(self) -> Vec<ElasticIpRecord> {
        self.stop.store(true, Ordering::Relaxed);
        let mut held = Vec::new();
        for one in self.running {
            held.extend(one.await.unwrap());
        }
        held
    }
}

/// Everything that is in the record, page by page.
async fn everything(repo: &Arc<dyn Repository>) -> Vec<ElasticIpRecord> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|last: &ElasticIpRecord| ListPlace {
            allocated_at: last.allocated_at,
            address: last.address,
        });
        let filter = eip_store::ElasticIpFilter { after, ..list_all() };
        let page = repo.list_elastic_ips(&filter).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// What was acknowledged is there, and what is there is there once.
async fn all_is_there_once(world: &World, acknowledged: &[ElasticIpRecord]) {
    let there = everything(&world.repo).await;
    for eip in acknowledged {
        assert_eq!(there.iter().filter(|one| *one == eip).count(), 1, "{eip:?}");
    }
    let load = world.repo.pool_load(&"public".parse().unwrap()).await.unwrap();
    assert_eq!(load.held, u64::try_from(there.len()).unwrap());
    let client = connect(&world.url).await.unwrap();
    let told = "SELECT count(*), count(DISTINCT address) FROM event";
    let told = client.query_one(told, &[]).await.unwrap();
    let told: (i64, i64) = (told.get(0), told.get(1));
    let there = i64::try_from(there.len()).unwrap();
    assert_eq!(told, (there, there));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_acknowledged_outlives_a_server_that_crashes_in_the_middle() {
    let cluster = TestCluster::private("synchronous_commit = on");
    let world = World::on(cluster.fresh_database().await).await;
    let writers = Writers::start(&world.repo, 32);
    for _ in 0..2 {
        writers.get_on(200).await;
        block_in_place(|| {
            cluster.stop(Stop::Immediate);
            cluster.start();
        });
    }
    writers.get_on(200).await;
    let acknowledged = writers.end().await;
    all_is_there_once(&world, &acknowledged).await;
    // Whoever follows the commits hears of new ones.
    let news = Mutex::new(world.repo.news());
    let fresh = AtomicU32::new(3_500_000);
    eventually_async("commits are heard of", SOON, async || {
        world.hold(fresh.fetch_add(1, Ordering::Relaxed)).await;
        news.lock().unwrap().try_recv().ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_the_server_is_gone_every_answer_is_fast_and_afterwards_all_is_well() {
    let cluster = TestCluster::private("");
    let world = Arc::new(World::on(cluster.fresh_database().await).await);
    let eip = world.hold(1).await;
    block_in_place(|| cluster.stop(Stop::Fast));
    let began = Instant::now();
    let calls: Vec<_> = (0..200_u32)
        .map(|n| {
            let repo = world.repo.clone();
            let target = ElasticIpRef::Id(eip.id);
            tokio::spawn(async move {
                match n % 3 {
                    0 => take(&repo, &new_allocation(n + 10, "default")).await.map(drop),
                    1 => repo.find_elastic_ip(target, &Scope::Everything).await.map(drop),
                    _ => repo.list_elastic_ips(&list_all()).await.map(drop),
                }
            })
        })
        .collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        let known = matches!(error, StoreError::Unavailable { outcome_unknown: false, .. });
        assert!(known, "{error:?}");
    }
    world.repo.ping().await.unwrap_err();
    assert!(began.elapsed() < FAST, "{:?}", began.elapsed());
    block_in_place(|| cluster.start());
    // At the first try: nothing is remembered of the time when it was gone.
    world.repo.ping().await.unwrap();
    assert_eq!(world.show(&eip).await, eip);
    world.hold(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_ended_while_nobody_used_them_cost_nobody_anything() {
    let world = Arc::new(World::new(Kind::Postgres).await);
    let eip = world.hold(1).await;
    let killer = connect(&world.url).await.unwrap();
    for round in 0..20 {
        let calls: Vec<_> = (0..8)
            .map(|n| {
                let (world, eip) = (world.clone(), eip.clone());
                let offset = 10 + round * 8 + n;
                tokio::spawn(async move {
                    assert_eq!(world.show(&eip).await, eip);
                    world.hold(offset).await;
                    assert!(world.repo.addresses_in_use().await.unwrap().len() > 1);
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        assert!(end_the_others(&killer).await > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_end_under_load_lose_nothing_that_was_acknowledged() {
    let world = World::new(Kind::Postgres).await;
    let killer = connect(&world.url).await.unwrap();
    let writers = Writers::start(&world.repo, 16);
    for _ in 0..30 {
        writers.get_on(5).await;
        end_the_others(&killer).await;
    }
    let acknowledged = writers.end().await;
    all_is_there_once(&world, &acknowledged).await;
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_not_used() {
    let world = World::new(Kind::Postgres).await;
    let operator = connect(&world.url).await.unwrap();
    let name: String = operator.query_one("SELECT current_database()", &[]).await.unwrap().get(0);
    let set = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    operator.batch_execute(&set).await.unwrap();
    end_the_others(&operator).await;
    let began = Instant::now();
    let error = take(&world.repo, &new_allocation(1, "default")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { outcome_unknown: false, .. }), "{error:?}");
    world.repo.ping().await.unwrap_err();
    assert!(began.elapsed() < FAST, "{:?}", began.elapsed());
    let reset = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
    operator.batch_execute(&reset).await.unwrap();
    world.hold(1).await;
}

#[tokio::test]
async fn a_server_with_no_connection_left_is_unavailable_until_there_is_one() {
    let cluster = TestCluster::private("max_connections = 10");
    let world = World::on(cluster.fresh_database().await).await;
    let first = connect(&world.url).await.unwrap();
    end_the_others(&first).await;
    let mut others = vec![first];
    while let Ok(one) = connect(&world.url).await {
        others.push(one);
    }
    let began = Instant::now();
    let error = take(&world.repo, &new_allocation(1, "default")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { outcome_unknown: false, .. }), "{error:?}");
    assert!(began.elapsed() < FAST, "{:?}", began.elapsed());
    drop(others);
    eventually_async("there is a connection", SOON, async || {
        take(&world.repo, &new_allocation(1, "default")).await.ok()
    })
    .await;
}

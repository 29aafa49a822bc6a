//! A server whose PostgreSQL goes away and comes back.

use std::time::{Duration, Instant};

use eip_testkit::postgres::{Stop, TestCluster};
use reqwest::{Method, StatusCode};
use tokio::task::block_in_place;

use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_its_database_a_server_says_so_at_once_and_works_again_when_it_is_back() {
    let cluster = TestCluster::private("synchronous_commit = on");
    let world = World::on(&cluster.fresh_database().await).await;
    let id = world.allocate().await;
    block_in_place(|| cluster.stop(Stop::Immediate));
    let began = Instant::now();
    for (method, path) in [
        (Method::GET, "/readyz".to_owned()),
        (Method::POST, "/elastic-ips".to_owned()),
        (Method::GET, "/elastic-ips".to_owned()),
        (Method::GET, format!("/elastic-ips/{id}")),
        (Method::DELETE, format!("/elastic-ips/{id}")),
    ] {
        let answer = world.request(method.clone(), &path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{method} {path}");
        assert!(answer.headers().contains_key("retry-after"), "{method} {path}");
        let problem: serde_json::Value =
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(problem["code"], "unavailable", "{method} {path}");
    }
    // It lives, and is not to be restarted.
    assert_eq!(world.get("/healthz").await.0, StatusCode::OK);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let metrics = world.request(Method::GET, "/metrics").send().await.unwrap();
    assert_eq!(metrics.status(), StatusCode::OK);
    assert!(metrics.text().await.unwrap().contains("\neip_store_up 0\n"));
    block_in_place(|| cluster.start());
    assert_eq!(world.get("/readyz").await.0, StatusCode::OK);
    assert_eq!(world.get(&format!("/elastic-ips/{id}")).await.0, StatusCode::OK);
    world.allocate().await;
}

/// How long answers take while nothing is said: a statement is waited for longest.
const LONGEST: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_its_database_says_nothing_a_server_says_so_and_works_again_when_it_speaks() {
    let cluster = TestCluster::private("");
    let world = World::on(&cluster.fresh_database().await).await;
    let id = world.allocate().await;
    block_in_place(|| cluster.freeze());
    let began = Instant::now();
    let calls = [
        (Method::GET, "/readyz".to_owned()),
        (Method::POST, "/elastic-ips".to_owned()),
        (Method::GET, "/elastic-ips".to_owned()),
        (Method::GET, format!("/elastic-ips/{id}")),
        (Method::DELETE, format!("/elastic-ips/{id}")),
    ];
    let ask = async |(method, path): &(Method, String)| {
        let answer = world.request(method.clone(), path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{method} {path}");
        assert!(answer.headers().contains_key("retry-after"), "{method} {path}");
        assert!(began.elapsed() < LONGEST, "{method} {path}: {:?}", began.elapsed());
    };
    let alive = async {
        assert_eq!(world.get("/healthz").await.0, StatusCode::OK);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    };
    tokio::join!(futures_util::future::join_all(calls.iter().map(ask)), alive);
    block_in_place(|| cluster.thaw());
    // At the first try: nothing is remembered of the time when it said nothing.
    assert_eq!(world.get("/readyz").await.0, StatusCode::OK);
    let (status, list) = world.get("/elastic-ips").await;
    assert_eq!(status, StatusCode::OK);
    // Whether what was asked for was done is not known, but it was done whole or not at all.
    assert!(list["items"].as_array().unwrap().len() <= 2, "{list}");
    world.allocate().await;
}

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
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    block_in_place(|| cluster.start());
    assert_eq!(world.get("/readyz").await.0, StatusCode::OK);
    assert_eq!(world.get(&format!("/elastic-ips/{id}")).await.0, StatusCode::OK);
    world.allocate().await;
}

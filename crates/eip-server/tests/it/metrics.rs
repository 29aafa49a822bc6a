//! What `/metrics` says is what the API says.

use std::collections::BTreeMap;
use std::time::Duration;

use eip_testkit::eventually_async;
use reqwest::StatusCode;
use rstest::rstest;
use serde_json::Value;

use crate::world::{Store, World, container};

const SOON: Duration = Duration::from_secs(30);

impl World {
    /// The numbers by their name and labels.
    async fn metrics(&self) -> BTreeMap<String, f64> {
        let answer = self.request(reqwest::Method::GET, "/metrics").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let text = answer.text().await.unwrap();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(name, number)| (name.to_owned(), number.parse().unwrap()))
            .collect()
    }
}

/// The gauges that the lists of the API come to.
fn expected(pools: &Value, hosts: &Value) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::from([("eip_store_up".to_owned(), 1.0)]);
    for pool in pools["items"].as_array().unwrap() {
        let name = pool["name"].as_str().unwrap();
        let number = |member: &str| pool[member].as_f64().unwrap();
        all.insert(format!("eip_pool_size{{pool=\"{name}\"}}"), number("size"));
        for state in ["allocated", "associated", "quarantined", "free"] {
            let labels = format!("pool=\"{name}\",state=\"{state}\"");
            all.insert(format!("eip_pool_addresses{{{labels}}}"), number(state));
        }
    }
    for host in hosts["items"].as_array().unwrap() {
        let name = host["name"].as_str().unwrap();
        let number = |member: &str| host[member].as_f64().unwrap();
        let flag = |value: &Value| f64::from(u8::from(value.as_bool().unwrap()));
        let behind = number("desired_generation") - number("observed_generation");
        all.insert(format!("eip_host_up{{host=\"{name}\"}}"), flag(&host["online"]));
        all.insert(format!("eip_host_generations_behind{{host=\"{name}\"}}"), behind);
        let state = host["data_plane"].as_str().unwrap();
        all.insert(format!("eip_host_data_plane{{host=\"{name}\",state=\"{state}\"}}"), 1.0);
        for one in host["backends"].as_array().unwrap() {
            let labels = format!("host=\"{name}\",backend={}", one["backend"]);
            all.insert(format!("eip_host_backend_up{{{labels}}}"), flag(&one["reachable"]));
        }
    }
    all
}

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test]
async fn pools_and_hosts_are_measured_as_the_api_lists_them(#[case] store: Store) {
    let world = World::new(store).await;
    let host = world.host("hv1").await;
    host.has((2..5).map(container).collect()).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.allocate().await);
    }
    world.associate(&ids[0], "web-2").await;
    world.associate(&ids[1], "web-3").await;
    assert_eq!(world.delete(&format!("/elastic-ips/{}", ids[4])).await.0, StatusCode::NO_CONTENT);
    let wanted = expected(&world.get("/pools").await.1, &world.get("/hosts").await.1);
    let pool =
        |state: &str| wanted[&format!("eip_pool_addresses{{pool=\"public\",state=\"{state}\"}}")];
    let counts = [pool("allocated"), pool("associated"), pool("quarantined")];
    assert_eq!(counts, [4.0, 2.0, 1.0], "{wanted:?}");
    assert!(wanted["eip_host_generations_behind{host=\"hv1\"}"] > 0.0, "{wanted:?}");
    eventually_async("the metrics to say the same", SOON, async || {
        let measured = world.metrics().await;
        let states = ["eip_store", "eip_pool", "eip_host"];
        let is_state = |name: &String| states.iter().any(|prefix| name.starts_with(prefix));
        let told: BTreeMap<_, _> =
            measured.into_iter().filter(|(name, _)| is_state(name)).collect();
        (told == wanted).then_some(())
    })
    .await;
    host.applied(&host.desired(None).await.unwrap()).await;
    eventually_async("the host to have caught up", SOON, async || {
        let behind = world.metrics().await["eip_host_generations_behind{host=\"hv1\"}"];
        (behind == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn answers_are_counted_by_route_and_status_and_how_long_they_took() {
    let world = World::new(Store::Sqlite).await;
    // All servers of this process count together, and no other asks for this path.
    let count = async |status: u16| {
        let labels = format!("method=\"GET\",route=\"/hosts\",status=\"{status}\"");
        let name = format!("eip_http_requests_total{{{labels}}}");
        world.metrics().await.get(&name).copied().unwrap_or_default()
    };
    let took = async || {
        let name = "eip_http_request_duration_seconds_count{method=\"GET\",route=\"/hosts\"}";
        world.metrics().await.get(name).copied().unwrap_or_default()
    };
    let (fine, refused, timed) = (count(200).await, count(401).await, took().await);
    for _ in 0..3 {
        assert_eq!(world.get("/hosts").await.0, StatusCode::OK);
    }
    assert_eq!(
        world.with_key("wrong-key-of-nobody").get("/hosts").await.0,
        StatusCode::UNAUTHORIZED
    );
    assert!(count(200).await >= fine + 3.0);
    assert!(count(401).await >= refused + 1.0);
    assert!(took().await >= timed + 4.0);
    let measured = world.metrics().await;
    let last =
        "eip_http_request_duration_seconds_bucket{method=\"GET\",route=\"/hosts\",le=\"+Inf\"}";
    assert!(measured[last] >= 4.0, "{measured:?}");
    // Whoever asks for the metrics is not counted among those at work.
    assert!(measured.contains_key("eip_http_requests_at_work"));
}

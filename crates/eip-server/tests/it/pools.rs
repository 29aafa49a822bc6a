//! Pools that are changed by other servers, or whose database goes away.

use eip_testkit::postgres::{TestCluster, execute};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::world::{Answer, Store, World, read};

async fn patch(world: &World, path: &str, body: serde_json::Value) -> Answer {
    read(world.request(Method::PATCH, path).json(&body)).await
}

#[tokio::test]
async fn a_pool_that_another_server_has_grown_is_not_called_exhausted() {
    let url = TestCluster::shared().fresh_database().await;
    let (one, other) = (World::on(&url).await, World::on(&url).await);
    let body = r#"{"name": "edge", "ranges": ["203.0.113.0/30"]}"#;
    assert_eq!(one.post("/pools", body).await.0, StatusCode::CREATED);
    let allocate = async || other.post("/elastic-ips", r#"{"pool": "edge"}"#).await;
    for _ in 0..2 {
        assert_eq!(allocate().await.0, StatusCode::CREATED);
    }
    let (status, full) = allocate().await;
    assert_eq!((status, &full["size"]), (StatusCode::CONFLICT, &json!(2)), "{full}");
    // Nobody tells the other one, which follows nothing by itself here.
    let more = json!({"add_ranges": ["198.51.100.0/30"]});
    assert_eq!(patch(&one, "/pools/edge", more).await.0, StatusCode::OK);
    let (status, made) = allocate().await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert!(made["public_ip"].as_str().unwrap().starts_with("198.51.100."), "{made}");
    assert_eq!(allocate().await.0, StatusCode::CREATED);
    let (status, full) = allocate().await;
    assert_eq!((status, &full["size"]), (StatusCode::CONFLICT, &json!(4)), "{full}");
    assert_eq!(patch(&one, "/pools/edge", json!({"draining": true})).await.0, StatusCode::OK);
    assert_eq!(allocate().await.1["code"], "pool_draining");
}

/// Has the commit of the next change of a pool take a table with it that every look at pools needs: as when
/// the database goes away right then.
const GO_AWAY: &str = "
    CREATE FUNCTION go_away() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN ALTER TABLE IF EXISTS association RENAME TO gone; RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER go_away AFTER INSERT OR UPDATE ON pool
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION go_away();";
const COME_BACK: &str = "
    DROP TRIGGER go_away ON pool; DROP FUNCTION go_away(); ALTER TABLE gone RENAME TO association;";

#[tokio::test]
async fn what_is_committed_is_told_as_done_though_the_database_goes_right_then() {
    let url = TestCluster::shared().fresh_database().await;
    let world = World::on(&url).await;
    let held = world.post("/elastic-ips", "").await;
    assert_eq!(held.0, StatusCode::CREATED);
    execute(&url, GO_AWAY).await;
    let body = r#"{"name": "edge", "ranges": ["203.0.113.0/28"]}"#;
    let (status, made) = world.post("/pools", body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!((&made["free"], &made["allocated"]), (&json!(14), &json!(0)), "{made}");
    let (status, _) = world.get("/pools/public").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "it has gone");
    execute(&url, COME_BACK).await;
    execute(&url, GO_AWAY).await;
    let (status, changed) = patch(&world, "/pools/public", json!({"draining": true})).await;
    assert_eq!((status, &changed["draining"]), (StatusCode::OK, &json!(true)), "{changed}");
    assert_eq!(changed["allocated"], 1, "{changed}");
    execute(&url, COME_BACK).await;
    assert_eq!(world.get("/pools/public").await.1, changed);
}

#[tokio::test]
async fn a_pool_without_a_range_is_refused_with_what_to_do() {
    let world = World::new(Store::Sqlite).await;
    let (status, problem) = world.post("/pools", r#"{"name": "edge", "ranges": []}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(problem["hint"].as_str().unwrap().starts_with("name one at least"), "{problem}");
}

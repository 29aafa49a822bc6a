//! Who had an address, and when: also after it was released.

use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use crate::world::{Store, World, container};

async fn held(world: &World, address: &str) -> String {
    let (status, made) = world.post("/elastic-ips", json!({"address": address}).to_string()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made["id"].as_str().unwrap().to_owned()
}

fn names(period: &Value) -> Vec<&str> {
    let all = period["associations"].as_array().unwrap().iter();
    all.map(|one| one["instance_name"].as_str().unwrap()).collect()
}

#[rstest]
#[tokio::test]
async fn an_address_tells_of_all_its_holders_and_what_they_pointed_it_at(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let pool = json!({"name": "brief", "ranges": ["203.0.113.0/24"], "quarantine_seconds": 0});
    assert_eq!(world.post("/pools", pool.to_string()).await.0, StatusCode::CREATED);
    let host = world.host("hv1").await;
    host.has(vec![container(2), container(3)]).await;
    let address = "203.0.113.9";
    let path = format!("/addresses/{address}/history");
    assert_eq!(world.get(&path).await.1["items"], json!([]));

    let first = held(&world, address).await;
    assert_eq!(world.associate(&first, "web-2").await.0, StatusCode::OK);
    let between = jiff::Timestamp::now();
    let body = json!({"instance_id": "web-3", "allow_reassociation": true, "wait_seconds": 0});
    let moved = world.post(&format!("/elastic-ips/{first}/associate"), body.to_string()).await;
    assert_eq!(moved.0, StatusCode::OK, "{}", moved.1);
    world.post(&format!("/elastic-ips/{first}/disassociate"), r#"{"wait_seconds": 0}"#).await;
    assert_eq!(world.delete(&format!("/elastic-ips/{first}")).await.0, StatusCode::NO_CONTENT);
    let (_, key) = world.post("/api-keys", r#"{"role": "member", "project": "acme"}"#).await;
    let acme = world.with_key(key["key"].as_str().unwrap());
    let second = held(&acme, address).await;

    let (status, told) = world.get(&path).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let [newer, older] = told["items"].as_array().unwrap().as_slice() else { panic!("{told}") };
    assert_eq!((&newer["elastic_ip_id"], &newer["project"]), (&second.into(), &"acme".into()));
    assert_eq!((&newer["to"], names(newer).len()), (&Value::Null, 0));
    assert!(newer["actor"].as_str().unwrap().starts_with("key:"), "{newer}");
    assert_eq!((&older["elastic_ip_id"], &older["project"]), (&first.into(), &"default".into()));
    assert!(older["to"].as_str().unwrap() <= newer["from"].as_str().unwrap());
    assert_eq!(names(older), ["web-3", "web-2"]);
    let [last, before] = older["associations"].as_array().unwrap().as_slice() else { panic!() };
    assert_eq!((&before["to"], &before["host"]), (&last["from"], &"hv1".into()));
    assert!(last["to"].is_string());

    // Who held it then, and which instance it reached then.
    let (_, then) = world.get(&format!("{path}?at={between}")).await;
    let [only] = then["items"].as_array().unwrap().as_slice() else { panic!("{then}") };
    assert_eq!((&only["project"], names(only)), (&"default".into(), vec!["web-2"]));
    let (_, never) = world.get(&format!("{path}?at=2020-01-01T00:00:00Z")).await;
    assert_eq!(never["items"], json!([]));
    // Others see their own.
    let (_, own) = acme.get(&path).await;
    assert_eq!(own["items"], json!([newer]));

    let (_, page) = world.get(&format!("{path}?limit=1")).await;
    assert_eq!(page["items"], json!([newer]));
    let cursor = page["next_cursor"].as_str().unwrap();
    let (_, next) = world.get(&format!("{path}?limit=1&cursor={cursor}")).await;
    assert_eq!((&next["items"], &next["next_cursor"]), (&json!([older]), &Value::Null));
    let (status, _) = world.get(&format!("{path}?limit=1&cursor=x{cursor}")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(world.get("/addresses/nowhere/history").await.0, StatusCode::BAD_REQUEST);
}

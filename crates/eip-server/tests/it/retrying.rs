//! Requests that are safe to repeat, and the quota that repeating does not use up.

use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::Value;

use crate::world::{Store, World};

async fn allocate_once(world: &World, key: &str, body: &'static str) -> (StatusCode, bool, Value) {
    let request = world.request(Method::POST, "/elastic-ips").header("Idempotency-Key", key);
    let answer = request.body(body).send().await.unwrap();
    let status = answer.status();
    let replayed = answer.headers().get("Idempotent-Replayed").is_some_and(|it| it == "true");
    (status, replayed, answer.json().await.unwrap())
}

#[rstest]
#[tokio::test]
async fn the_same_key_and_body_give_the_first_answer_again(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let first = allocate_once(&world, "one", r#"{"name": "web"}"#).await;
    assert_eq!((first.0, first.1), (StatusCode::CREATED, false));
    let again = allocate_once(&world, "one", r#"{ "name": "web" }"#).await;
    assert_eq!(again, (StatusCode::CREATED, true, first.2));
    let (status, _, body) = allocate_once(&world, "one", "{}").await;
    let conflict = (StatusCode::CONFLICT, &Value::from("idempotency_conflict"));
    assert_eq!((status, &body["code"]), conflict);
    let (_, list) = world.get("/elastic-ips").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[rstest]
#[case::empty("")]
#[case::spaces("two words")]
#[tokio::test]
async fn a_key_that_cannot_be_one_is_refused(#[case] key: &str) {
    let world = World::new(Store::Sqlite).await;
    let (status, _, body) = allocate_once(&world, key, "{}").await;
    assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &"invalid_request".into()));
}

#[rstest]
#[tokio::test]
async fn a_project_holds_twenty_addresses_unless_told_otherwise(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let (_, key) = world.post("/api-keys", r#"{"role": "member", "project": "other"}"#).await;
    let others = world.with_key(key["key"].as_str().unwrap());
    let asking = (0..50).map(|_| others.post("/elastic-ips", ""));
    let answers = futures_util::future::join_all(asking).await;
    let made = answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count();
    assert_eq!(made, 20);
    let refused = answers.iter().find(|(status, _)| *status == StatusCode::CONFLICT).unwrap();
    assert_eq!((&refused.1["code"], &refused.1["quota"]), (&"quota_exceeded".into(), &20.into()));
    assert_eq!(answers.len() - made, 30);
    // Another project is not concerned.
    world.allocate().await;
}

#[rstest]
#[tokio::test]
async fn a_pool_is_exhausted_only_when_the_record_says_so(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::with_pool(store, "203.0.113.0/27").await;
    let asking = (0..64).map(|_| world.post("/elastic-ips", ""));
    let answers = futures_util::future::join_all(asking).await;
    let made = answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count();
    let exhausted = answers.iter().filter(|(_, body)| body["code"] == "pool_exhausted").count();
    assert_eq!((made, exhausted), (30, 34));
    let (_, pools) = world.get("/pools").await;
    assert_eq!(
        (&pools["items"][0]["allocated"], &pools["items"][0]["free"]),
        (&30.into(), &0.into())
    );
}

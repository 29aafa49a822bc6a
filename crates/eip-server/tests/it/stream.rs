//! Following every change over HTTP.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::world::{Store, World};

/// A stream of Server-Sent Events, read event by event.
struct Following {
    answer: Response,
    text: String,
    events: VecDeque<(String, Value)>,
}

impl Following {
    async fn from(world: &World, last: Option<&str>) -> Self {
        let mut request = world.request(Method::GET, "/events/stream");
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, text: String::new(), events: VecDeque::new() }
    }

    /// Returns the next event and its id, or nothing when the stream has ended.
    async fn next(&mut self) -> Option<(String, Value)> {
        while self.events.is_empty() {
            let chunk = tokio::time::timeout(Duration::from_secs(5), self.answer.chunk());
            self.text.push_str(std::str::from_utf8(&chunk.await.unwrap().unwrap()?).unwrap());
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| {
                    block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
                };
                if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                    self.events.push_back((id, serde_json::from_str(&data).unwrap()));
                }
            }
        }
        self.events.pop_front()
    }
}

#[rstest]
#[tokio::test]
async fn every_change_comes_once_and_in_order_also_after_a_break(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let _tending = world.tend();
    let before = world.allocate().await;
    let mut following = Following::from(&world, None).await;
    let first = world.allocate().await;
    let (id, event) = following.next().await.unwrap();
    assert_eq!(
        (&event["elastic_ip_id"], &event["kind"]),
        (&first.clone().into(), &"allocated".into())
    );
    assert_eq!(event["id"], id);
    drop(following);
    let second = world.allocate().await;
    world.delete(&format!("/elastic-ips/{first}")).await;
    let mut following = Following::from(&world, Some(&id)).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (_, event) = following.next().await.unwrap();
        seen.push((event["kind"].clone(), event["elastic_ip_id"].clone()));
    }
    assert_eq!(seen, [("allocated".into(), second.into()), ("released".into(), first.into())]);
    let (_, all) = world.get("/events?limit=2").await;
    assert_eq!(all["items"][0]["elastic_ip_id"], before);
    let next = all["next_cursor"].as_str().unwrap();
    let (_, rest) = world.get(&format!("/events?after={next}")).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 2);
    assert_eq!(rest["next_cursor"], Value::Null);
}

#[tokio::test]
async fn a_project_sees_its_own_events_only() {
    let world = World::new(Store::Sqlite).await;
    let _tending = world.tend();
    let (_, key) = world.post("/api-keys", r#"{"role": "member", "project": "other"}"#).await;
    let others = world.with_key(key["key"].as_str().unwrap());
    let mut following = Following::from(&others, None).await;
    world.allocate().await;
    let own = others.allocate().await;
    let (_, event) = following.next().await.unwrap();
    assert_eq!((&event["elastic_ip_id"], &event["project"]), (&own.into(), &"other".into()));
    let (_, list) = others.get("/events").await;
    let kinds: Vec<_> = list["items"].as_array().unwrap().iter().map(|one| &one["kind"]).collect();
    assert_eq!(kinds, ["project_created", "api_key_created", "allocated"]);
}

#[rstest]
#[tokio::test]
async fn what_a_host_has_mended_is_told_to_whoever_sees_everything_and_to_nobody_else(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let _tending = world.tend();
    let mut keys = Vec::new();
    for role in ["member", "reader"] {
        keys.push(world.post("/api-keys", format!(r#"{{"role": "{role}"}}"#)).await.1);
    }
    let mut others = Vec::new();
    for key in keys {
        let other = world.with_key(key["key"].as_str().unwrap());
        let following = Following::from(&other, None).await;
        others.push((other, following));
    }
    let mut following = Following::from(&world, None).await;
    let host = world.host("hv1").await;
    let mend = json!({"at": "2026-01-02T03:04:05.678901Z", "what": "the table", "times": 2});
    for _ in 0..2 {
        let (status, body) = host.mended(&json!({"mends": [mend]})).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    }
    let own = world.allocate().await;
    let (_, event) = following.next().await.unwrap();
    let expected = json!({
        "id": event["id"], "at": "2026-01-02T03:04:05.678901Z", "kind": "data_plane_mended",
        "project": null, "elastic_ip_id": null, "public_ip": null, "instance_id": null,
        "instance_name": null, "host": "hv1", "actor": "agent:hv1", "subject": null,
        "detail": "the table (2 times)",
    });
    assert_eq!(event, expected);
    assert_eq!(following.next().await.unwrap().1["elastic_ip_id"], own, "it is told once");
    let (_, list) = world.get("/events").await;
    assert!(list["items"].as_array().unwrap().contains(&expected), "{list}");
    for (other, mut following) in others {
        // Theirs comes behind it.
        assert_eq!(following.next().await.unwrap().1["elastic_ip_id"], own);
        let (_, list) = other.get("/events").await;
        let kinds: Vec<_> = list["items"].as_array().unwrap().iter().map(|e| &e["kind"]).collect();
        assert_eq!(kinds, ["api_key_created", "api_key_created", "allocated"]);
    }
}

#[rstest]
#[case::nothing_said(json!({"at": "2026-01-02T03:04:05Z", "what": "", "times": 1}))]
#[case::never(json!({"at": "2026-01-02T03:04:05Z", "what": "the table", "times": 0}))]
#[case::nul(json!({"at": "2026-01-02T03:04:05Z", "what": "a\u{0}b", "times": 1}))]
#[case::long(json!({"at": "2026-01-02T03:04:05Z", "what": "a".repeat(201), "times": 1}))]
#[case::no_time(json!({"at": "yesterday", "what": "the table", "times": 1}))]
#[tokio::test]
async fn what_no_agent_says_of_a_mend_is_refused(#[case] mend: Value) {
    let world = World::new(Store::Postgres).await;
    let host = world.host("hv1").await;
    let (status, body) = host.mended(&json!({"mends": [mend]})).await;
    assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &"invalid_request".into()));
    let (_, list) = world.get("/events").await;
    assert_eq!(list["items"], json!([]));
}

#[rstest]
#[tokio::test]
async fn a_mend_by_a_clock_that_is_far_off_is_taken_and_too_many_at_once_are_not(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let host = world.host("hv1").await;
    let mend = |at: &str| json!({"at": at, "what": "the table", "times": 1});
    for at in ["-009999-01-02T01:59:59Z", "1969-12-31T23:59:59Z", "9999-12-30T22:00:00Z"] {
        let (status, body) = host.mended(&json!({"mends": [mend(at)]})).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{at}: {body}");
    }
    let (_, list) = world.get("/events").await;
    let times: Vec<_> = list["items"].as_array().unwrap().iter().map(|e| &e["at"]).collect();
    assert_eq!(times, ["1970-01-01T00:00:00Z", "9999-12-30T22:00:00Z"]);
    let many = vec![mend("2026-01-02T03:04:05Z"); 101];
    assert_eq!(host.mended(&json!({"mends": many})).await.0, StatusCode::BAD_REQUEST);
    let as_admin = world.request(Method::PUT, "/agent/v1/mends").json(&json!({"mends": []}));
    assert_eq!(crate::world::read(as_admin).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_stream_ends_with_the_service() {
    let world = World::new(Store::Sqlite).await;
    let mut following = Following::from(&world, None).await;
    world.stop.cancel();
    assert_eq!(following.next().await, None);
    world.ended().await;
}

#[rstest]
#[case::no_number("x")]
#[case::empty("")]
#[case::signed("+1")]
#[case::too_long("99999999999999999999999")]
#[case::yet_to_come("0000000000000000999")]
#[tokio::test]
async fn what_is_no_event_is_refused(#[case] id: &str) {
    let world = World::new(Store::Sqlite).await;
    world.allocate().await;
    let asked = world.request(Method::GET, "/events/stream").header("Last-Event-ID", id);
    let (status, body) = crate::world::read(asked).await;
    assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &"invalid_request".into()));
}

#[rstest]
#[tokio::test]
async fn a_stream_ends_when_its_key_is_revoked(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let _tending = world.tend();
    let (_, key) = world.post("/api-keys", r#"{"role": "reader"}"#).await;
    let reader = world.with_key(key["key"].as_str().unwrap());
    let mut following = Following::from(&reader, None).await;
    world.allocate().await;
    assert_eq!(following.next().await.unwrap().1["kind"], "allocated");
    world.delete(&format!("/api-keys/{}", key["id"].as_str().unwrap())).await;
    // What happened in the second until it is seen may still come.
    let mut told = 0;
    while following.next().await.is_some() {
        told += 1;
    }
    assert!(told <= 1, "{told}");
}

/// The events of others are passed over, however many there are, and the pages lead on.
#[tokio::test]
async fn the_events_of_an_elastic_ip_and_of_a_project_come_in_pages() {
    let world = World::new(Store::Sqlite).await;
    let (_, key) = world.post("/api-keys", r#"{"role": "member", "project": "other"}"#).await;
    let other = world.with_key(key["key"].as_str().unwrap());
    let own = other.allocate().await;
    for n in 0..7 {
        world.allocate().await;
        let change = json!({"name": format!("n{n}")});
        let path = format!("/elastic-ips/{own}");
        other.request(Method::PATCH, &path).json(&change).send().await.unwrap();
    }
    for (path, expected) in [(format!("/elastic-ips/{own}/events"), 8), ("/events".to_owned(), 10)]
    {
        let (mut seen, mut after) = (Vec::new(), String::from("0"));
        loop {
            let (status, page) = other.get(&format!("{path}?limit=3&after={after}")).await;
            assert_eq!(status, StatusCode::OK, "{page}");
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 3);
            seen.extend(items.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next_cursor"].as_str() else { break };
            after = next.to_owned();
        }
        assert_eq!(seen.len(), expected, "{path}: {seen:?}");
        assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
    }
}

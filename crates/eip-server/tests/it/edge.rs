//! What the edge takes on and what it turns away: slow clients, too many of them, and keys that ask
//! too often.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use eip_server::Limits;
use eip_testkit::eventually_async;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{Store, World, container, plain_client, read};

const SOON: Duration = Duration::from_secs(30);

impl World {
    async fn limited(limits: Limits) -> Self {
        Self::with_limits(Store::Sqlite, limits).await
    }

    async fn key_of(&self, role: &str) -> Self {
        let body = json!({ "role": role, "project": "team-a" }).to_string();
        let (status, made) = self.post("/api-keys", body).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        self.with_key(made["key"].as_str().unwrap())
    }
}

#[tokio::test]
async fn a_key_that_asks_too_often_is_told_when_to_come_again() {
    let rate = NonZeroU32::new(3);
    let world = World::limited(Limits { rate, ..Limits::default() }).await;
    let member = world.key_of("member").await;
    let refused = eventually_async("a request too many", SOON, async || {
        let answer = member.request(Method::GET, "/elastic-ips").send().await.unwrap();
        assert_eq!(answer.headers()["ratelimit-policy"], "\"key\";q=3;w=1");
        let left = answer.headers()["ratelimit"].to_str().unwrap().to_owned();
        assert!(left.starts_with("\"key\";r="), "{left}");
        (answer.status() != StatusCode::OK).then_some(answer)
    })
    .await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["ratelimit"], "\"key\";r=0;t=1");
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let problem: Value = refused.json().await.unwrap();
    assert_eq!((&problem["code"], &problem["quota"]), (&json!("rate_limited"), &json!(3)));
    // Each key for itself, and those that keep the service going not at all.
    let other = world.key_of("reader").await;
    assert_eq!(other.get("/elastic-ips").await.0, StatusCode::OK);
    let host = world.host("hv1").await;
    for _ in 0..10 {
        let answer = world.request(Method::GET, "/elastic-ips").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(!answer.headers().contains_key("ratelimit"));
        host.has(vec![container(2)]).await;
    }
    eventually_async("the key to be served again", SOON, async || {
        (member.get("/elastic-ips").await.0 == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_head_that_drips_in_is_cut_off_while_others_are_served() {
    let head = Duration::from_secs(1);
    let world = World::limited(Limits { head, ..Limits::default() }).await;
    let mut slow = TcpStream::connect(world.address()).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: eip\r\nX-Slow: ").await.unwrap();
    let began = Instant::now();
    let cut = eventually_async("the slow client to be cut off", SOON, async || {
        assert_eq!(world.get("/healthz").await.0, StatusCode::OK);
        // Each byte is progress, and not enough.
        let sent = slow.write_all(b"a").await;
        let mut answer = [0; 512];
        let got = tokio::time::timeout(Duration::from_millis(100), slow.read(&mut answer)).await;
        match (sent, got) {
            (Err(_), _) | (_, Ok(Ok(0) | Err(_))) => Some("closed".to_owned()),
            (_, Ok(Ok(n))) => Some(String::from_utf8_lossy(&answer[..n]).into_owned()),
            (_, Err(_)) => None,
        }
    })
    .await;
    assert!(began.elapsed() >= head, "{cut}");
    assert!(cut == "closed" || cut.starts_with("HTTP/1.1 408"), "{cut}");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_answered() {
    let body = Duration::from_millis(300);
    let world = World::limited(Limits { body, ..Limits::default() }).await;
    let mut slow = TcpStream::connect(world.address()).await.unwrap();
    let head = format!(
        "POST /elastic-ips HTTP/1.1\r\nHost: eip\r\nX-API-Key: {}\r\nContent-Length: 20\r\n\r\n{{",
        world.key
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let n = tokio::time::timeout(SOON, slow.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"request_timeout\""), "{answer}");
    let (_, listed) = world.get("/elastic-ips").await;
    assert_eq!(listed["items"], json!([]), "half a request does nothing");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_to_come_again_and_slow_ones_make_room() {
    let limits = Limits { connections: 4, head: Duration::from_secs(2), ..Limits::default() };
    let world = World::limited(limits).await;
    let mut slow = Vec::new();
    // Beside these there may be the idle one of whoever made the world.
    let refused = eventually_async("a connection too many", SOON, async || {
        let mut one = TcpStream::connect(world.address()).await.unwrap();
        one.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let got = tokio::time::timeout(Duration::from_millis(300), one.read(&mut answer)).await;
        let text = match got {
            Ok(Ok(n)) => String::from_utf8_lossy(&answer[..n]).into_owned(),
            Ok(Err(_)) => String::new(),
            Err(_) => {
                slow.push(one);
                return None;
            }
        };
        (!text.is_empty()).then_some(text)
    })
    .await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.to_ascii_lowercase().contains("retry-after: 1"), "{refused}");
    assert!(refused.contains("application/problem+json"), "{refused}");
    eventually_async("the slow ones to be cut off", SOON, async || {
        let bare = plain_client();
        let answer = bare.get(format!("{}/healthz", world.base)).send().await.ok()?;
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn requests_beyond_what_can_be_worked_on_are_told_to_come_again() {
    let world = World::limited(Limits { in_flight: 2, ..Limits::default() }).await;
    let host = world.host("hv1").await;
    host.has((2..5).map(container).collect()).await;
    // A host that says nothing: whoever waits for it is at work until it speaks.
    let mut waiting = tokio::task::JoinSet::new();
    for instance in ["web-2", "web-3"] {
        let id = world.allocate().await;
        let body = json!({ "instance_id": instance, "wait_seconds": 60 }).to_string();
        let request = world.request(Method::POST, &format!("/elastic-ips/{id}/associate"));
        let request = request.body(body);
        // The probe below may be in its way.
        waiting.spawn(async move {
            loop {
                let answer = read(request.try_clone().unwrap()).await;
                if answer.0 != StatusCode::SERVICE_UNAVAILABLE {
                    return answer;
                }
            }
        });
    }
    let refused = eventually_async("a request too many", SOON, async || {
        let answer = world.request(Method::GET, "/elastic-ips").send().await.unwrap();
        (answer.status() != StatusCode::OK).then_some(answer)
    })
    .await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert!(refused.headers().contains_key("x-request-id"));
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "unavailable");
    // Whoever looks after the service, and the agents that it waits for, are not kept out.
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(world.get(path).await.0, StatusCode::OK, "{path}");
    }
    let set = host.desired(None).await.unwrap();
    host.applied(&set).await;
    while let Some(answered) = waiting.join_next().await {
        let (status, body) = answered.unwrap();
        assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("associated")), "{body}");
    }
    assert_eq!(world.get("/elastic-ips").await.0, StatusCode::OK);
}

#[tokio::test]
async fn every_answer_carries_the_id_of_its_request() {
    let world = World::new(Store::Sqlite).await;
    for path in ["/elastic-ips", "/nope", "/healthz", "/docs", "/events/stream", "/elastic-ips/x"] {
        let request = world.request(Method::GET, path).header("X-Request-Id", "deploy-42");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["x-request-id"], "deploy-42", "{path}");
        let own = world.request(Method::GET, path).send().await.unwrap();
        let id = own.headers()["x-request-id"].to_str().unwrap();
        assert!(uuid::Uuid::parse_str(id).is_ok(), "{path}: {id}");
    }
}

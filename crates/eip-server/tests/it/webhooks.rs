//! Webhooks against a receiver that listens: what is sent, in which order, and what is sent again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode as Status};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use eip_testkit::eventually_async;
use eip_testkit::postgres::TestCluster;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::world::{Answer, Store, World, read};

const SOON: Duration = Duration::from_secs(60);

/// Longer than a server takes to see what it has to send.
const A_WHILE: Duration = Duration::from_millis(2_500);

/// A message as it arrived.
#[derive(Debug, Clone)]
struct Arrival {
    id: String,
    timestamp: String,
    signatures: String,
    body: String,
    answered: u16,
}

impl Arrival {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    /// How many of its signatures are by this secret.
    fn signed_by(&self, secret: &str) -> usize {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let signed = format!("{}.{}.{}", self.id, self.timestamp, self.body);
        let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(signed);
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        self.signatures.split(' ').filter(|one| *one == expected).count()
    }
}

#[derive(Debug, Default)]
struct Seen {
    arrivals: Vec<Arrival>,
    /// What the next ones are answered with; 204 behind that.
    answers: VecDeque<u16>,
}

/// Somebody who is sent to.
struct Receiver {
    seen: Arc<Mutex<Seen>>,
    address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

async fn take(
    State(seen): State<Arc<Mutex<Seen>>>,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let mut seen = seen.lock().unwrap();
    let answered = seen.answers.pop_front().unwrap_or(204);
    seen.arrivals.push(Arrival {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signatures: header("webhook-signature"),
        body: String::from_utf8(body.to_vec()).unwrap(),
        answered,
    });
    let elsewhere = [("location", "http://127.0.0.1:9/")];
    (Status::from_u16(answered).unwrap(), elsewhere)
}

impl Receiver {
    async fn new(answers: &[u16]) -> Self {
        let seen = Arc::new(Mutex::new(Seen {
            answers: answers.iter().copied().collect(),
            ..Seen::default()
        }));
        let app = axum::Router::new().fallback(take).with_state(Arc::clone(&seen));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listeners = vec![eip_server::Listener::plain(listener)];
        let stop = tokio_util::sync::CancellationToken::new();
        let serving = eip_server::serve(listeners, app, eip_server::Limits::default(), stop);
        Self { seen, address, _serving: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?token=secret-token", self.address)
    }

    fn arrivals(&self) -> Vec<Arrival> {
        self.seen.lock().unwrap().arrivals.clone()
    }

    /// The kinds of what was accepted, in their order.
    fn kinds(&self) -> Vec<String> {
        let accepted = |one: &Arrival| (200..300).contains(&one.answered);
        self.arrivals().iter().filter(|one| accepted(one)).map(Arrival::kind).collect()
    }

    async fn has(&self, kinds: &[&str]) {
        let seen = async || (self.kinds().len() >= kinds.len()).then_some(());
        eventually_async("the messages to arrive", SOON, seen).await;
        assert_eq!(self.kinds(), kinds);
    }
}

async fn make(world: &World, body: &Value) -> Value {
    let (status, made) = world.post("/webhooks", body.to_string()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made
}

fn path(webhook: &Value) -> String {
    format!("/webhooks/{}", webhook["id"].as_str().unwrap())
}

async fn patch(world: &World, path: &str, body: Value) -> Answer {
    read(world.request(Method::PATCH, path).json(&body)).await
}

async fn key(world: &World, role: &str, project: &str) -> World {
    let body = json!({"role": role, "project": project}).to_string();
    let (_, key) = world.post("/api-keys", body).await;
    world.with_key(key["key"].as_str().unwrap())
}

#[rstest]
#[tokio::test]
async fn what_happens_is_sent_in_its_order_signed_and_once(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let _tending = world.tend();
    world.allocate().await;
    let receiver = Receiver::new(&[]).await;
    let made = make(&world, &json!({"url": receiver.url(), "name": "audit"})).await;
    let secret = made["secret"].as_str().unwrap();
    let id = world.allocate().await;
    world.delete(&format!("/elastic-ips/{id}")).await;
    receiver.has(&["webhook_created", "allocated", "released"]).await;
    let arrivals = receiver.arrivals();
    for one in &arrivals {
        assert_eq!(one.signed_by(secret), 1, "{one:?}");
        assert_eq!(one.signatures.split(' ').count(), 1, "{one:?}");
    }
    let message = arrivals[1].json();
    assert_eq!(message["data"]["elastic_ip_id"], id);
    assert_eq!(message["timestamp"], message["data"]["at"]);
    let event = message["data"]["id"].as_str().unwrap();
    assert!(arrivals[1].id.contains(event), "{arrivals:?}");
    let (_, listed) = world.get("/events?limit=500").await;
    assert!(listed["items"].as_array().unwrap().contains(&message["data"]), "{listed}");

    // No other answer has the secret, and no event has the path.
    let (_, shown) = world.get(&path(&made)).await;
    assert_eq!((&shown["state"], &shown["name"]), (&"active".into(), &"audit".into()));
    assert_eq!(shown.get("secret"), None);
    let (_, list) = world.get("/webhooks").await;
    assert!(!format!("{list}").contains(secret));
    assert!(!format!("{listed}").contains("secret-token"));
    // It is noted how far it is.
    eventually_async("the last event to be noted", SOON, async || {
        let (_, shown) = world.get(&path(&made)).await;
        let last = arrivals[2].json()["data"]["id"].clone();
        (shown["last_event"] == last && shown["delivered_at"].is_string()).then_some(())
    })
    .await;
    world.allocate().await;
    receiver.has(&["webhook_created", "allocated", "released", "allocated"]).await;
    let ids: std::collections::BTreeSet<_> =
        receiver.arrivals().iter().map(|one| one.id.clone()).collect();
    assert_eq!(ids.len(), 4, "one was sent twice");
}

#[rstest]
#[tokio::test]
async fn what_is_not_accepted_is_sent_again_and_nothing_overtakes_it(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
    // A redirect is not followed, not even to a place that may be sent to.
    #[values(500, 302)] refusal: u16,
) {
    let world = World::new(store).await;
    let _tending = world.tend();
    let receiver = Receiver::new(&[refusal, refusal]).await;
    let made = make(&world, &json!({"url": receiver.url()})).await;
    eventually_async("an attempt to fail", SOON, async || {
        let (_, shown) = world.get(&path(&made)).await;
        let why = shown["last_error"].as_str().unwrap_or_default().to_owned();
        (shown["state"] == "failing" && why.contains(&refusal.to_string())).then_some(())
    })
    .await;
    world.allocate().await;
    receiver.has(&["webhook_created", "allocated"]).await;
    let arrivals = receiver.arrivals();
    let ids: Vec<_> = arrivals.iter().map(|one| one.id.as_str()).collect();
    assert_eq!((ids[0], ids[1]), (ids[2], ids[2]), "the same one is sent again under its id");
    assert_ne!(arrivals[0].timestamp, arrivals[2].timestamp, "each attempt is of its own time");
    assert_eq!(
        arrivals.iter().map(|one| one.answered).collect::<Vec<_>>(),
        [refusal, refusal, 204, 204]
    );
    eventually_async("it to be active again", SOON, async || {
        let (_, shown) = world.get(&path(&made)).await;
        (shown["state"] == "active" && shown["failures"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_is_gone_is_sent_nothing_until_somebody_says_so_and_then_everything() {
    let world = World::new(Store::Sqlite).await;
    let _tending = world.tend();
    let receiver = Receiver::new(&[204, 410]).await;
    let made = make(&world, &json!({"url": receiver.url()})).await;
    receiver.has(&["webhook_created"]).await;
    world.allocate().await;
    eventually_async("it to be disabled", SOON, async || {
        let (_, shown) = world.get(&path(&made)).await;
        (shown["state"] == "disabled").then_some(())
    })
    .await;
    world.allocate().await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(receiver.arrivals().len(), 2);
    let (status, body) = patch(&world, &path(&made), json!({"enabled": true})).await;
    assert_eq!((status, &body["state"]), (StatusCode::OK, &"active".into()), "{body}");
    let all = ["webhook_created", "allocated", "webhook_updated", "allocated", "webhook_updated"];
    receiver.has(&all).await;
    let by = |n: usize| receiver.arrivals()[n].json()["data"]["actor"].as_str().unwrap().to_owned();
    assert_eq!(by(3), "server", "{:?}", receiver.arrivals());
    assert!(by(5).starts_with("key:"));
}

#[tokio::test]
async fn a_webhook_gets_the_kinds_and_the_project_that_it_is_for() {
    let world = World::new(Store::Sqlite).await;
    let _tending = world.tend();
    let (own, other) = (key(&world, "member", "own").await, key(&world, "member", "other").await);
    let (all, some) = (Receiver::new(&[]).await, Receiver::new(&[]).await);
    make(&own, &json!({"url": all.url()})).await;
    make(&world, &json!({"url": some.url(), "project": "own", "kinds": ["released"]})).await;
    other.allocate().await;
    let id = own.allocate().await;
    own.delete(&format!("/elastic-ips/{id}")).await;
    some.has(&["webhook_created", "released"]).await;
    all.has(&["webhook_created", "webhook_created", "allocated", "released"]).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!((some.arrivals().len(), all.arrivals().len()), (2, 4));
    for one in all.arrivals() {
        assert_eq!(one.json()["data"]["project"], "own");
    }
}

#[tokio::test]
async fn for_a_day_after_it_was_replaced_the_old_secret_signs_too() {
    let world = World::new(Store::Sqlite).await;
    let _tending = world.tend();
    let receiver = Receiver::new(&[]).await;
    let made = make(&world, &json!({"url": receiver.url()})).await;
    receiver.has(&["webhook_created"]).await;
    let rotate = format!("{}/rotate", path(&made));
    let once = async || {
        let request = world.request(Method::POST, &rotate).header("Idempotency-Key", "once");
        read(request).await
    };
    let (status, rotated) = once().await;
    assert_eq!(status, StatusCode::OK, "{rotated}");
    assert_eq!(once().await.1, rotated, "whoever asks again gets the same secret");
    let (old, new) = (made["secret"].as_str().unwrap(), rotated["secret"].as_str().unwrap());
    assert_ne!(old, new);
    receiver.has(&["webhook_created", "webhook_updated"]).await;
    let last = receiver.arrivals().pop().unwrap();
    assert_eq!((last.signed_by(old), last.signed_by(new)), (1, 1), "{last:?}");
}

#[tokio::test]
async fn two_servers_on_one_record_send_everything_once_and_one_takes_over_from_the_other() {
    let url = TestCluster::shared().fresh_database().await;
    let (one, other) = (World::on(&url).await, World::on(&url).await);
    let (tending, _other_tending) = (one.tend(), other.tend());
    let receiver = Receiver::new(&[]).await;
    make(&one, &json!({"url": receiver.url()})).await;
    let mut expected = vec!["webhook_created"];
    for round in 0..20 {
        let world = if round % 2 == 0 { &one } else { &other };
        world.allocate().await;
        expected.push("allocated");
    }
    receiver.has(&expected).await;
    assert_eq!(receiver.arrivals().len(), expected.len(), "one was sent twice");
    one.stop.cancel();
    tending.await.unwrap();
    for _ in 0..20 {
        other.allocate().await;
        expected.push("allocated");
    }
    receiver.has(&expected).await;
    assert_eq!(receiver.arrivals().len(), expected.len(), "one was sent twice");
}

#[rstest]
#[tokio::test]
async fn a_server_that_stops_leaves_nothing_unsent_for_the_next_one(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let receiver = Receiver::new(&[]).await;
    make(&world, &json!({"url": receiver.url()})).await;
    for _ in 0..30 {
        world.allocate().await;
    }
    // Nobody sends yet. Stopped in the middle, again and again, they go on where the last one was.
    let numbers = || -> Vec<String> {
        let arrivals = receiver.arrivals();
        let number = |one: &Arrival| one.json()["data"]["id"].as_str().unwrap().to_owned();
        arrivals.iter().map(number).collect()
    };
    let distinct = || numbers().into_iter().collect::<std::collections::BTreeSet<_>>().len();
    while distinct() < 31 {
        let stop = tokio_util::sync::CancellationToken::new();
        let tending = world.tend_until(stop.clone());
        let before = receiver.arrivals().len();
        eventually_async("something to arrive", SOON, async || {
            (receiver.arrivals().len() > before).then_some(())
        })
        .await;
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), tending).await.unwrap().unwrap();
    }
    // What was cut off when it was stopped may be sent again, right then; nothing is left out.
    assert!(numbers().is_sorted(), "{:?}", numbers());
    assert_eq!(distinct(), 31);
}

#[rstest]
#[tokio::test]
async fn a_webhook_is_asked_for_like_everything_else(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let member = key(&world, "member", "own").await;
    let reader = key(&world, "reader", "own").await;
    let body = json!({"url": "https://hooks.example.com/eip", "kinds": ["moved"]});
    // Once under its key, secret included; nothing of a rehearsal stays.
    let once = async |body: &Value| {
        let request = member.request(Method::POST, "/webhooks").header("Idempotency-Key", "k");
        read(request.json(body)).await
    };
    let first = once(&body).await;
    assert_eq!(first.0, StatusCode::CREATED, "{}", first.1);
    assert_eq!(once(&body).await, first);
    assert_eq!(
        once(&json!({"url": "https://x.example.com/"})).await.1["code"],
        "idempotency_conflict"
    );
    let (status, would) = member.post("/webhooks?dry_run=true", body.to_string()).await;
    assert_eq!((status, &would["project"]), (StatusCode::OK, &"own".into()), "{would}");
    let (_, list) = member.get("/webhooks").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");

    let at = path(&first.1);
    let (status, _) =
        patch(&member, &format!("{at}?dry_run=true"), json!({"enabled": false})).await;
    assert_eq!((status, &member.get(&at).await.1["enabled"]), (StatusCode::OK, &true.into()));
    let (_, changed) =
        patch(&member, &at, json!({"kinds": null, "name": "x", "enabled": false})).await;
    assert_eq!(
        (&changed["kinds"], &changed["state"]),
        (&Value::Null, &"disabled".into()),
        "{changed}"
    );

    assert_eq!(reader.get("/webhooks").await.0, StatusCode::FORBIDDEN);
    assert_eq!(reader.get(&at).await.0, StatusCode::FORBIDDEN);
    let foreign = json!({"url": "https://x.example.com/", "project": "default"}).to_string();
    assert_eq!(member.post("/webhooks", foreign).await.1["code"], "project_not_found");
    let nowhere = json!({"url": "https://x.example.com/", "project": "nowhere"}).to_string();
    assert_eq!(world.post("/webhooks", nowhere).await.1["code"], "project_not_found");
    for (body, says) in [
        (json!({}), "url"),
        (json!({"url": "ftp://x.example.com/"}), "https://"),
        (json!({"url": "https://me:pw@x.example.com/"}), "password"),
        (json!({"url": "http://169.254.169.254/latest"}), "link"),
        (json!({"url": "http://[::ffff:169.254.169.254]/"}), "link"),
        (json!({"url": "http://[::1]:8080/"}), "this machine"),
        (json!({"url": "https://x.example.com/", "kinds": []}), "kinds are 1"),
        (json!({"url": "https://x.example.com/", "kinds": ["molested"]}), "molested"),
        (json!({"url": "https://x.example.com/", "secret": "x"}), "secret"),
    ] {
        let (status, problem) = member.post("/webhooks", body.to_string()).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::BAD_REQUEST, &"invalid_request".into()),
            "{body}"
        );
        let told = problem.to_string();
        assert!(told.contains(says), "{body}: {told}");
    }
    let to_itself = patch(&member, &at, json!({"url": "http://[::1]/"})).await;
    assert_eq!(to_itself.0, StatusCode::BAD_REQUEST);
    for wrong in ["/webhooks/x", "/webhooks/f47ac10b-58cc-4372-a567-0e02c7d2e3f4"] {
        assert_eq!(member.get(wrong).await.1["code"], "webhook_not_found");
        assert_eq!(member.delete(wrong).await.0, StatusCode::NOT_FOUND);
    }
    for n in 1..16 {
        make(&member, &json!({"url": format!("https://x{n}.example.com/")})).await;
    }
    let (status, problem) = member.post("/webhooks", body.to_string()).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &"quota_exceeded".into()));
    assert!(problem["detail"].as_str().unwrap().contains("webhooks of own"), "{problem}");
    assert_eq!(member.delete(&at).await.0, StatusCode::NO_CONTENT);
    make(&member, &body).await;
}

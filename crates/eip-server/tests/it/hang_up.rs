//! Clients that hang up in the middle of a change: it is made whole, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use eip_model::Generation;
use eip_testkit::eventually_async;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::openapi::{document, operations};
use crate::standstill::Standstill;
use crate::world::{Host, Store, World, container};

const SOON: Duration = Duration::from_secs(30);
/// How long a change that goes on by itself may take until it is seen.
const AT_ONCE: Duration = Duration::from_secs(2);

/// When the client goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Before the request is whole.
    Early,
    /// As soon as it is.
    Whole,
    /// While the record is at it.
    Amid,
}

/// A world, and how many changes were prepared in it.
struct Stage {
    world: World,
    host: Host,
    number: u8,
}

/// A request that changes something.
struct Change {
    method: Method,
    path: String,
    body: Value,
}

/// What there is, in numbers, and what has happened. All that a change does is a difference between two.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    numbers: BTreeMap<&'static str, i64>,
    events: Vec<String>,
}

impl State {
    fn since(&self, before: &Self) -> Self {
        let less = |(name, number): (&&'static str, &i64)| (*name, number - before.numbers[name]);
        let numbers = self.numbers.iter().map(less).filter(|(_, number)| *number != 0).collect();
        Self { numbers, events: self.events[before.events.len()..].to_vec() }
    }

    fn is_nothing(&self) -> bool {
        self.numbers.is_empty() && self.events.is_empty()
    }
}

impl Stage {
    async fn new(store: Store) -> Self {
        let world = World::new(store).await;
        let host = world.host("hv1").await;
        host.has((1..=250).map(container).collect()).await;
        Self { world, host, number: 0 }
    }

    async fn list(&self, path: &str) -> Vec<Value> {
        let (mut all, mut next) = (Vec::new(), format!("{path}?limit=500"));
        loop {
            let (status, page) = self.world.get(&next).await;
            assert_eq!(status, StatusCode::OK, "{next}: {page}");
            all.extend(page["items"].as_array().unwrap().iter().cloned());
            let Some(cursor) = page["next_cursor"].as_str() else { return all };
            let word = if path == "/events" { "after" } else { "cursor" };
            next = format!("{path}?limit=500&{word}={cursor}");
        }
    }

    async fn look(&self) -> State {
        let ips = self.list("/elastic-ips").await;
        let (pools, projects) = (self.list("/pools").await, self.list("/projects").await);
        let (keys, hosts) = (self.list("/api-keys").await, self.list("/hosts").await);
        let webhooks = self.list("/webhooks").await;
        let sum = |items: &[Value], of: fn(&Value) -> i64| items.iter().map(of).sum::<i64>();
        let numbers = BTreeMap::from([
            ("elastic IPs", sum(&ips, |_| 1)),
            ("named", sum(&ips, |one| one["name"].is_string().into())),
            ("associated", sum(&ips, |one| one["instance_id"].is_string().into())),
            ("pools", sum(&pools, |_| 1)),
            ("ranges", sum(&pools, |one| one["ranges"].as_array().unwrap().len() as i64)),
            ("draining", sum(&pools, |one| (one["draining"] == true).into())),
            ("held of pools", sum(&pools, |one| one["allocated"].as_i64().unwrap())),
            ("asleep", sum(&pools, |one| one["quarantined"].as_i64().unwrap())),
            ("projects", sum(&projects, |_| 1)),
            ("quotas", sum(&projects, |one| one["quota"].as_i64().unwrap_or(0))),
            ("held of projects", sum(&projects, |one| one["allocated"].as_i64().unwrap())),
            ("keys", sum(&keys, |_| 1)),
            ("webhooks", sum(&webhooks, |_| 1)),
            ("enabled", sum(&webhooks, |one| (one["enabled"] == true).into())),
            ("revoked", sum(&keys, |one| one["revoked_at"].is_string().into())),
            (
                "accepted",
                sum(&hosts, |one| (one["desired_generation"].as_i64() > Some(1_000)).into()),
            ),
            (
                "generation",
                sum(&hosts, |one| match one["name"] == "hv1" {
                    true => one["desired_generation"].as_i64().unwrap(),
                    false => 0,
                }),
            ),
        ]);
        let events = self.list("/events").await;
        let kinds = events.iter().map(|one| one["kind"].as_str().unwrap().to_owned());
        State { numbers, events: kinds.collect() }
    }

    /// Looks until two looks are alike: one is many requests.
    async fn look_calmly(&self) -> State {
        eventually_async("two looks that are alike", SOON, async || {
            let first = self.look().await;
            (self.look().await == first).then_some(first)
        })
        .await
    }

    async fn made(&self, path: &str, body: Value) -> Value {
        let (status, made) = self.world.post(path, body.to_string()).await;
        assert!(status.is_success(), "{path}: {made}");
        made
    }

    /// Prepares what an operation is to change, anew each time.
    async fn prepare(&mut self, operation: &str) -> Change {
        self.number += 1;
        let (path, body) = match operation {
            one if one.contains("elastic_ip") => self.prepare_elastic_ip(one).await,
            one if one.contains("webhook") => self.prepare_webhook(one).await,
            one => self.prepare_administration(one).await,
        };
        let method = match operation.split('_').next().unwrap() {
            "update" => Method::PATCH,
            "release" | "delete" | "revoke" => Method::DELETE,
            _ => Method::POST,
        };
        Change { method, path, body }
    }

    async fn prepare_elastic_ip(&self, operation: &str) -> (String, Value) {
        let n = self.number;
        if operation == "allocate_elastic_ip" {
            return ("/elastic-ips".into(), json!({"name": format!("n-{n}")}));
        }
        let id = self.world.allocate().await;
        let own = format!("/elastic-ips/{id}");
        let instance = json!({"instance_id": format!("web-{n}"), "wait_seconds": 0});
        match operation {
            "update_elastic_ip" => (own, json!({"name": format!("n-{n}"), "protected": true})),
            "release_elastic_ip" => (own, Value::Null),
            "associate_elastic_ip" => (own + "/associate", instance),
            "disassociate_elastic_ip" => {
                self.made(&format!("{own}/associate"), instance).await;
                (own + "/disassociate", json!({"wait_seconds": 0}))
            }
            "associate_elastic_ips" => {
                let one = json!({"elastic_ip": id, "instance_id": format!("web-{n}")});
                let all = json!({"associations": [one], "wait_seconds": 0});
                ("/elastic-ips/associate".into(), all)
            }
            other => panic!("say here what {other} is to change"),
        }
    }

    async fn prepare_webhook(&self, operation: &str) -> (String, Value) {
        let n = self.number;
        let webhook = json!({"url": format!("http://127.0.0.1:9/{n}")});
        if operation == "create_webhook" {
            return ("/webhooks".into(), webhook);
        }
        let made = self.made("/webhooks", webhook).await;
        let own = format!("/webhooks/{}", made["id"].as_str().unwrap());
        match operation {
            "update_webhook" => (own, json!({"name": format!("n-{n}"), "enabled": false})),
            "rotate_webhook" => (own + "/rotate", Value::Null),
            "delete_webhook" => (own, Value::Null),
            other => panic!("say here what {other} is to change"),
        }
    }

    async fn prepare_administration(&self, operation: &str) -> (String, Value) {
        let n = self.number;
        let pool = json!({"name": format!("pool-{n}"), "ranges": [format!("203.0.{n}.0/28")]});
        let project = json!({"name": format!("team-{n}")});
        match operation {
            "update_pool" | "delete_pool" => drop(self.made("/pools", pool.clone()).await),
            "update_project" | "delete_project" => {
                drop(self.made("/projects", project.clone()).await);
            }
            _ => {}
        }
        match operation {
            "accept_host" => (self.host_ahead(n).await, Value::Null),
            "create_pool" => ("/pools".into(), pool),
            "update_pool" => {
                let more = json!({"add_ranges": [format!("198.51.{n}.0/28")], "draining": true});
                (format!("/pools/pool-{n}"), more)
            }
            "delete_pool" => (format!("/pools/pool-{n}"), Value::Null),
            "create_project" => ("/projects".into(), project),
            "update_project" => (format!("/projects/team-{n}"), json!({"quota": 50})),
            "delete_project" => (format!("/projects/team-{n}"), Value::Null),
            // It makes the project, too.
            "create_api_key" => {
                ("/api-keys".into(), json!({"role": "member", "project": format!("team-{n}")}))
            }
            "revoke_api_key" => {
                let made = self.made("/api-keys", json!({"role": "reader"})).await;
                (format!("/api-keys/{}", made["id"].as_str().unwrap()), Value::Null)
            }
            other => panic!("say here what {other} is to change"),
        }
    }

    /// Makes a host known that holds what this record never gave it.
    async fn host_ahead(&self, n: u8) -> String {
        let host = self.world.host(&format!("ahead-{n}")).await;
        host.has(Vec::new()).await;
        let cluster = self.host.desired(None).await.unwrap().cluster_id;
        let (status, _) = host.report(cluster, Generation::new(1_000)).await;
        assert_eq!(status, StatusCode::CONFLICT);
        format!("/hosts/ahead-{n}/accept")
    }

    /// How many requests the server works on.
    async fn is_at_work(&self) -> bool {
        let answer = self.world.request(Method::GET, "/metrics").send().await.unwrap();
        !answer.text().await.unwrap().contains("\neip_http_requests_at_work 0\n")
    }

    /// Sends a request and hangs up. Returns what was answered before that was noticed.
    async fn hang_up(&self, change: &Change, key: Option<&str>, moment: Moment) -> String {
        let request = self.written(change, key);
        let mut stream = TcpStream::connect(self.world.address()).await.unwrap();
        let held = match moment {
            Moment::Amid => Some(Standstill::of(&self.world.url).await),
            Moment::Early | Moment::Whole => None,
        };
        let part = if moment == Moment::Early { request.len() - 1 } else { request.len() };
        stream.write_all(&request.as_bytes()[..part]).await.unwrap();
        if let Some(held) = &held {
            eventually_async("the change to be under way", SOON, async || {
                let is_amid = match held.holds_somebody_up().await {
                    Some(held_up) => held_up,
                    None => self.is_at_work().await,
                };
                is_amid.then_some(())
            })
            .await;
        }
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // The server ends the connection when it has noticed.
        let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the server does not notice: {} {}", change.method, change.path);
        if let Some(held) = held {
            held.let_go().await;
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn written(&self, Change { method, path, body }: &Change, key: Option<&str>) -> String {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: eip\r\n");
        head += &format!("X-API-Key: {}\r\n", self.world.key);
        if let Some(key) = key {
            head += &format!("Idempotency-Key: {key}\r\n");
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        format!("{head}\r\n{body}")
    }

    /// Makes the change, as whoever is patient does. Returns whether it was made before.
    async fn make(&self, change: &Change, key: Option<&str>) -> bool {
        let mut request = self.world.request(change.method.clone(), &change.path);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if !change.body.is_null() {
            request = request.body(change.body.to_string());
        }
        let answer = request.send().await.unwrap();
        let replayed = answer.headers().contains_key("idempotent-replayed");
        let status = answer.status();
        let body = answer.text().await.unwrap();
        assert!(status.is_success(), "{} {}: {body}", change.method, change.path);
        replayed
    }

    /// Hangs up in one way, and sees that what is left is all or nothing.
    async fn try_one(&mut self, operation: &str, moment: Moment, keyed: bool, whole: &State) {
        let what = format!("{operation}, {moment:?}, with a key: {keyed}");
        let change = self.prepare(operation).await;
        let key = keyed.then(|| format!("key-{}", self.number));
        let before = self.look_calmly().await;
        let answer = self.hang_up(&change, key.as_deref(), moment).await;
        let until = tokio::time::Instant::now() + AT_ONCE;
        let mut done = self.look_calmly().await.since(&before);
        let may_be_made = moment != Moment::Early;
        while may_be_made && done != *whole && tokio::time::Instant::now() < until {
            done = self.look_calmly().await.since(&before);
        }
        assert!(done == *whole || done.is_nothing(), "{what}: {done:?} of {whole:?}");
        let answered = answer.starts_with("HTTP/1.1 2");
        // SQLite does not tell whether it had begun.
        let had_begun = moment == Moment::Amid && self.world.url.starts_with("postgres");
        if answered || had_begun {
            assert_eq!(done, *whole, "{what}: {answer}");
        }
        if moment == Moment::Early {
            assert!(done.is_nothing() && !answered, "{what}: {done:?}: {answer}");
        }
        if keyed {
            let replayed = self.make(&change, key.as_deref()).await;
            assert_eq!(replayed, !done.is_nothing(), "{what}");
            let after = self.look_calmly().await.since(&before);
            assert_eq!(after, *whole, "{what}, repeated");
        }
    }
}

/// The operations that change something.
fn changing() -> BTreeSet<(String, bool)> {
    let all = operations(&document()).into_iter().filter(|(method, ..)| *method != Method::GET);
    all.map(|(_, _, one)| {
        let takes = |of: &Value| of["name"] == "Idempotency-Key";
        let keyed = one["parameters"].as_array().is_some_and(|all| all.iter().any(takes));
        (one["operationId"].as_str().unwrap().to_owned(), keyed)
    })
    .collect()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_whose_client_hangs_up_is_made_whole_or_not_at_all(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
    #[values(Moment::Early, Moment::Whole, Moment::Amid)] moment: Moment,
) {
    let mut stage = Stage::new(store).await;
    for (operation, takes_key) in changing() {
        let change = stage.prepare(&operation).await;
        let before = stage.look_calmly().await;
        assert!(!stage.make(&change, None).await);
        let whole = stage.look_calmly().await.since(&before);
        assert!(!whole.is_nothing(), "{operation} is not seen to change anything");
        stage.try_one(&operation, moment, false, &whole).await;
        if takes_key {
            stage.try_one(&operation, moment, true, &whole).await;
        }
    }
}

//! Projects, keys and pools, as administrators make and unmake them.

use std::collections::BTreeSet;
use std::time::Duration;

use eip_testkit::eventually_async;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::world::{Answer, Host, Store, World, container, read};

const SOON: Duration = Duration::from_secs(30);

async fn patch(world: &World, path: &str, body: Value) -> Answer {
    read(world.request(Method::PATCH, path).json(&body)).await
}

async fn made(world: &World, path: &str, body: Value) -> Value {
    let (status, answer) = world.post(path, body.to_string()).await;
    assert_eq!(status, StatusCode::CREATED, "{path}: {answer}");
    answer
}

/// A key of this role in a project.
async fn key(world: &World, role: &str, project: &str) -> (String, World) {
    let key = made(world, "/api-keys", json!({"role": role, "project": project})).await;
    let id = key["id"].as_str().unwrap().to_owned();
    (id, world.with_key(key["key"].as_str().unwrap()))
}

fn is(answer: &Answer, status: StatusCode, code: &str) {
    assert_eq!((answer.0, &answer.1["code"]), (status, &Value::from(code)), "{}", answer.1);
}

#[rstest]
#[tokio::test]
async fn a_key_is_listed_without_itself_and_is_good_for_nothing_once_revoked(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let request = json!({"role": "member", "project": "acme", "name": "ci"});
    let whole = made(&world, "/api-keys", request).await;
    let id = whole["id"].as_str().unwrap();
    let member = world.with_key(whole["key"].as_str().unwrap());
    assert_eq!(member.get("/elastic-ips").await.0, StatusCode::OK);

    let (_, shown) = world.get(&format!("/api-keys/{id}")).await;
    assert_eq!((&shown["name"], &shown["role"]), (&"ci".into(), &"member".into()));
    assert!(shown["last_used_at"].is_string(), "{shown}");
    assert_eq!(shown.get("key"), None);
    let (_, list) = world.get("/api-keys").await;
    assert!(!list.to_string().contains(whole["key"].as_str().unwrap()));
    is(&member.get("/api-keys").await, StatusCode::FORBIDDEN, "forbidden");

    assert_eq!(world.delete(&format!("/api-keys/{id}")).await.0, StatusCode::NO_CONTENT);
    let refused = member.get("/elastic-ips").await;
    is(&refused, StatusCode::UNAUTHORIZED, "unauthenticated");
    assert!(refused.1["detail"].as_str().unwrap().contains("revoked"), "{}", refused.1);
    // Again is no error, and the time stays.
    let (_, first) = world.get(&format!("/api-keys/{id}")).await;
    assert_eq!(world.delete(&format!("/api-keys/{id}")).await.0, StatusCode::NO_CONTENT);
    let (_, second) = world.get(&format!("/api-keys/{id}")).await;
    assert_eq!(first["revoked_at"], second["revoked_at"]);
    is(&world.delete("/api-keys/00000000").await, StatusCode::NOT_FOUND, "api_key_not_found");
    // Somebody must be left who can make keys.
    let keys = list["items"].as_array().unwrap().iter();
    let own = keys.clone().find(|key| key["role"] == "admin").unwrap();
    let own = format!("/api-keys/{}", own["id"].as_str().unwrap());
    is(&world.delete(&own).await, StatusCode::CONFLICT, "last_admin_key");
    let (_, second) = key(&world, "admin", "default").await;
    assert_eq!(second.delete(&own).await.0, StatusCode::NO_CONTENT);
    is(&world.get("/api-keys").await, StatusCode::UNAUTHORIZED, "unauthenticated");
}

/// Another server on the same database trusts a key for a second at most.
#[tokio::test]
async fn a_revocation_is_in_force_on_every_server_within_a_second() {
    let url = eip_testkit::postgres::TestCluster::shared().fresh_database().await;
    let (one, other) = (World::on(&url).await, World::on(&url).await);
    let (id, member) = key(&one, "member", "acme").await;
    let there = other.with_key(&member.key);
    assert_eq!(there.get("/elastic-ips").await.0, StatusCode::OK);
    assert_eq!(one.delete(&format!("/api-keys/{id}")).await.0, StatusCode::NO_CONTENT);
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    is(&there.get("/elastic-ips").await, StatusCode::UNAUTHORIZED, "unauthenticated");
}

#[tokio::test]
async fn a_key_ends_when_it_was_said_to() {
    let world = World::new(Store::Sqlite).await;
    let past = json!({"role": "member", "expires_at": "2020-01-01T00:00:00Z"});
    let refused = world.post("/api-keys", past.to_string()).await;
    is(&refused, StatusCode::BAD_REQUEST, "invalid_request");
    let end = jiff::Timestamp::now() + Duration::from_millis(1_500);
    let soon = json!({"role": "member", "expires_at": end});
    let short = made(&world, "/api-keys", soon).await;
    let member = world.with_key(short["key"].as_str().unwrap());
    assert_eq!(member.get("/elastic-ips").await.0, StatusCode::OK);
    tokio::time::sleep(Duration::from_millis(2_600)).await;
    let refused = member.get("/elastic-ips").await;
    is(&refused, StatusCode::UNAUTHORIZED, "unauthenticated");
    assert!(refused.1["detail"].as_str().unwrap().contains("expired"), "{}", refused.1);
}

#[rstest]
#[tokio::test]
async fn who_repeats_the_making_of_a_key_gets_the_same_one(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let make = async |once: &str, body: &'static str| {
        let request = world.request(Method::POST, "/api-keys").header("Idempotency-Key", once);
        let answer = request.body(body).send().await.unwrap();
        let replayed = answer.headers().contains_key("Idempotent-Replayed");
        (answer.status(), replayed, answer.json::<Value>().await.unwrap())
    };
    let first = make("k", r#"{"role": "reader"}"#).await;
    assert_eq!((first.0, first.1), (StatusCode::CREATED, false));
    assert_eq!(
        make("k", r#"{"role": "reader"}"#).await,
        (StatusCode::CREATED, true, first.2.clone())
    );
    assert_eq!(make("k", r#"{"role": "member"}"#).await.0, StatusCode::CONFLICT);
    let other = make("l", r#"{"role": "reader"}"#).await;
    assert_ne!((&other.2["id"], &other.2["key"]), (&first.2["id"], &first.2["key"]));
    let reader = world.with_key(first.2["key"].as_str().unwrap());
    assert_eq!(reader.get("/elastic-ips").await.0, StatusCode::OK);
}

#[rstest]
#[tokio::test]
async fn a_project_is_made_changed_and_deleted_once_nothing_is_left_of_it(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let project = made(&world, "/projects", json!({"name": "acme", "quota": 1})).await;
    assert_eq!((&project["quota"], &project["allocated"]), (&1.into(), &0.into()));
    let again = world.post("/projects", r#"{"name": "acme"}"#).await;
    is(&again, StatusCode::CONFLICT, "name_in_use");
    let free = made(&world, "/projects", json!({"name": "free", "quota": null})).await;
    assert_eq!(free["quota"], Value::Null);
    let usual = made(&world, "/projects", json!({"name": "usual"})).await;
    assert_eq!(usual["quota"], 20);

    let (id, member) = key(&world, "member", "acme").await;
    let held = member.allocate().await;
    is(&member.post("/elastic-ips", "").await, StatusCode::CONFLICT, "quota_exceeded");
    let (status, raised) = patch(&world, "/projects/acme", json!({"quota": 2})).await;
    assert_eq!(
        (status, &raised["quota"], &raised["allocated"]),
        (StatusCode::OK, &2.into(), &1.into())
    );
    let more = member.allocate().await;
    assert_eq!(
        patch(&world, "/projects/acme", json!({"quota": null})).await.1["quota"],
        Value::Null
    );
    assert_eq!(patch(&world, "/projects/acme", json!({})).await.1["quota"], Value::Null);

    let in_use = world.delete("/projects/acme").await;
    is(&in_use, StatusCode::CONFLICT, "project_in_use");
    for one in [held, more] {
        assert_eq!(member.delete(&format!("/elastic-ips/{one}")).await.0, StatusCode::NO_CONTENT);
    }
    let keyed = world.delete("/projects/acme").await;
    is(&keyed, StatusCode::CONFLICT, "project_in_use");
    assert!(keyed.1["detail"].as_str().unwrap().contains(&id), "{}", keyed.1);
    world.delete(&format!("/api-keys/{id}")).await;
    assert_eq!(world.delete("/projects/acme").await.0, StatusCode::NO_CONTENT);
    is(&world.get("/projects/acme").await, StatusCode::NOT_FOUND, "project_not_found");
    is(&world.delete("/projects/acme").await, StatusCode::NOT_FOUND, "project_not_found");
    is(&world.delete("/projects/default").await, StatusCode::CONFLICT, "project_in_use");
}

#[rstest]
#[tokio::test]
async fn a_pool_is_for_whom_it_was_made_and_hands_nothing_out_while_it_drains(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let request = json!({
        "name": "edge", "ranges": ["203.0.113.0/28"], "reserved": ["203.0.113.1"],
        "projects": ["acme"], "quarantine_seconds": 0,
    });
    let pool = made(&world, "/pools", request.clone()).await;
    // Sixteen, less the two ends and the reserved one.
    assert_eq!((&pool["size"], &pool["free"]), (&13.into(), &13.into()));
    is(&world.post("/pools", request.to_string()).await, StatusCode::CONFLICT, "name_in_use");
    let overlap = json!({"name": "more", "ranges": ["203.0.113.8/30"]});
    let refused = world.post("/pools", overlap.to_string()).await;
    is(&refused, StatusCode::CONFLICT, "pool_overlaps");
    assert_eq!(refused.1["overlaps"], "203.0.113.0/28");

    let (_, acme) = key(&world, "member", "acme").await;
    let (_, other) = key(&world, "member", "other").await;
    let from_edge = json!({"pool": "edge"}).to_string();
    is(
        &other.post("/elastic-ips", from_edge.clone()).await,
        StatusCode::NOT_FOUND,
        "pool_not_found",
    );
    is(&other.get("/pools/edge").await, StatusCode::NOT_FOUND, "pool_not_found");
    let this = |address| json!({"address": address}).to_string();
    let hidden = other.post("/elastic-ips", this("203.0.113.5")).await;
    is(&hidden, StatusCode::BAD_REQUEST, "invalid_request");
    is(
        &acme.post("/elastic-ips", this("203.0.113.1")).await,
        StatusCode::CONFLICT,
        "address_in_use",
    );

    let mut held = Vec::new();
    for _ in 0..13 {
        let one = made(&acme, "/elastic-ips", json!({"pool": "edge"})).await;
        held.push(one["id"].as_str().unwrap().to_owned());
    }
    let full = acme.post("/elastic-ips", from_edge.clone()).await;
    is(&full, StatusCode::CONFLICT, "pool_exhausted");
    let (_, grown) =
        patch(&world, "/pools/edge", json!({"add_ranges": ["198.51.100.4-198.51.100.5"]})).await;
    assert_eq!((&grown["size"], &grown["free"]), (&15.into(), &2.into()));
    let grown = made(&acme, "/elastic-ips", json!({"pool": "edge"})).await;
    assert!(grown["public_ip"].as_str().unwrap().starts_with("198.51.100."), "{grown}");
    held.push(grown["id"].as_str().unwrap().to_owned());
    let taken = json!({"reserved": [grown["public_ip"]]});
    is(&patch(&world, "/pools/edge", taken).await, StatusCode::CONFLICT, "address_in_use");

    let (_, drained) = patch(&world, "/pools/edge", json!({"draining": true})).await;
    assert_eq!(drained["draining"], true);
    is(&acme.post("/elastic-ips", from_edge.clone()).await, StatusCode::CONFLICT, "pool_draining");
    let one_left = acme.post("/elastic-ips", this("198.51.100.4")).await;
    let other_left = acme.post("/elastic-ips", this("198.51.100.5")).await;
    is(&one_left, StatusCode::CONFLICT, "pool_draining");
    is(&other_left, StatusCode::CONFLICT, "pool_draining");
    is(&world.delete("/pools/edge").await, StatusCode::CONFLICT, "pool_in_use");
    for one in held {
        assert_eq!(acme.delete(&format!("/elastic-ips/{one}")).await.0, StatusCode::NO_CONTENT);
    }
    assert_eq!(world.delete("/pools/edge").await.0, StatusCode::NO_CONTENT);
    is(&world.get("/pools/edge").await, StatusCode::NOT_FOUND, "pool_not_found");
    is(&acme.post("/elastic-ips", from_edge).await, StatusCode::NOT_FOUND, "pool_not_found");
}

/// However allocations and the deletion fall together, no elastic IP is of a pool that is gone.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pool_that_is_deleted_takes_no_elastic_ip_with_it(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    for _ in 0..8 {
        let request = json!({
            "name": "brief", "ranges": ["203.0.113.0/24"], "quarantine_seconds": 0,
        });
        made(&world, "/pools", request).await;
        let asking = (0..24).map(|_| world.post("/elastic-ips", r#"{"pool": "brief"}"#));
        let asking = futures_util::future::join_all(asking);
        let (answers, gone) = tokio::join!(asking, world.delete("/pools/brief"));
        let held: Vec<&Answer> =
            answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).collect();
        for (status, body) in &answers {
            let known =
                [StatusCode::CREATED, StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE];
            assert!(known.contains(status), "{status}: {body}");
        }
        if gone.0 == StatusCode::NO_CONTENT {
            assert!(held.is_empty(), "{held:?}");
            continue;
        }
        is(&gone, StatusCode::CONFLICT, "pool_in_use");
        let (_, pool) = world.get("/pools/brief").await;
        assert_eq!(pool["allocated"], held.len());
        for (_, one) in held {
            let path = format!("/elastic-ips/{}", one["id"].as_str().unwrap());
            assert_eq!(world.delete(&path).await.0, StatusCode::NO_CONTENT);
        }
        assert_eq!(world.delete("/pools/brief").await.0, StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn another_server_hands_out_of_a_new_pool_at_once() {
    let url = eip_testkit::postgres::TestCluster::shared().fresh_database().await;
    let (one, other) = (World::on(&url).await, World::on(&url).await);
    made(&one, "/pools", json!({"name": "edge", "ranges": ["203.0.113.0/28"]})).await;
    let there = other.post("/elastic-ips", r#"{"pool": "edge"}"#).await;
    assert_eq!(there.0, StatusCode::CREATED, "{}", there.1);
    let asked = other.post("/elastic-ips", r#"{"address": "203.0.113.3"}"#).await;
    assert!([StatusCode::CREATED, StatusCode::CONFLICT].contains(&asked.0), "{}", asked.1);
}

#[rstest]
#[tokio::test]
async fn a_map_counts_what_the_pool_counts_in_at_most_4096_cells(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let host: Host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let ids = [world.allocate().await, world.allocate().await, world.allocate().await];
    assert_eq!(world.associate(&ids[0], "web-2").await.0, StatusCode::OK);
    assert_eq!(world.delete(&format!("/elastic-ips/{}", ids[1])).await.0, StatusCode::NO_CONTENT);
    let (_, map) = world.get("/pools/public/map").await;
    let cells = map["cells"].as_array().unwrap();
    assert_eq!((cells.len(), &map["addresses_per_cell"]), (4096, &1024.into()));
    let sum = |what: &str| cells.iter().map(|cell| cell[what].as_u64().unwrap()).sum::<u64>();
    assert_eq!([sum("allocated"), sum("associated"), sum("quarantined")], [2, 1, 1]);
    assert_eq!(sum("size"), 1 << 22);
    assert_eq!(
        cells.iter().map(|cell| cell["first"].as_str()).collect::<BTreeSet<_>>().len(),
        4096
    );
    let (_, pool) = world.get("/pools/public").await;
    assert_eq!([&pool["allocated"], &pool["associated"], &pool["quarantined"]], [2, 1, 1]);
    world.allocate().await;
    // One that cost much is shown for a while, and says so.
    let newer = async || {
        let (_, now) = world.get("/pools/public/map").await;
        let held = now["cells"].as_array().unwrap().iter().map(|one| one["allocated"].as_u64());
        (now["as_of"] != map["as_of"] && held.map(Option::unwrap).sum::<u64>() == 3).then_some(())
    };
    eventually_async("a newer map", SOON, newer).await;
    // No cell is of one address: that would say who holds what.
    made(&world, "/pools", json!({"name": "tiny", "ranges": ["203.0.113.0/29"]})).await;
    let (_, map) = world.get("/pools/tiny/map").await;
    assert_eq!(
        (map["cells"].as_array().unwrap().len(), &map["addresses_per_cell"]),
        (2, &4.into())
    );
}

/// History goes by names: a project of the same name would inherit it.
#[rstest]
#[tokio::test]
async fn the_name_of_a_deleted_project_is_not_used_again(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    made(&world, "/projects", json!({"name": "acme"})).await;
    assert_eq!(world.delete("/projects/acme").await.0, StatusCode::NO_CONTENT);
    let again = world.post("/projects", json!({"name": "acme"}).to_string()).await;
    is(&again, StatusCode::CONFLICT, "name_in_use");
    assert!(again.1["detail"].as_str().unwrap().contains("was deleted"), "{}", again.1);
    let key = json!({"role": "member", "project": "acme"}).to_string();
    is(&world.post("/api-keys", key).await, StatusCode::CONFLICT, "name_in_use");
}

/// Two servers, so that nothing but the record keeps them apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_key_is_good_for_a_project_that_is_gone() {
    let url = eip_testkit::postgres::TestCluster::shared().fresh_database().await;
    let (one, other) = (World::on(&url).await, World::on(&url).await);
    let mut deleted = 0;
    for round in 0..25 {
        let name = format!("p{round}");
        made(&one, "/projects", json!({"name": name})).await;
        let key = json!({"role": "member", "project": name}).to_string();
        let path = format!("/projects/{name}");
        let (made, gone) = tokio::join!(one.post("/api-keys", key), other.delete(&path));
        let there = one.get(&path).await.0 == StatusCode::OK;
        deleted += u32::from(gone.0 == StatusCode::NO_CONTENT);
        assert_eq!(there, gone.0 != StatusCode::NO_CONTENT, "{gone:?}");
        assert!(there || made.0 != StatusCode::CREATED, "{made:?}");
    }
    assert!((1..25).contains(&deleted), "one side always won: {deleted}");
}

#[tokio::test]
async fn a_pool_has_no_addresses_by_which_nothing_is_reached() {
    let world = World::new(Store::Sqlite).await;
    for range in ["0.0.0.0/8", "127.0.0.0/24", "169.254.1.0/24", "224.0.0.0/24", "255.255.255.0/24"]
    {
        let pool = json!({"name": "odd", "ranges": [range]}).to_string();
        is(&world.post("/pools", pool).await, StatusCode::BAD_REQUEST, "invalid_request");
        let grown = patch(&world, "/pools/public", json!({"add_ranges": [range]})).await;
        is(&grown, StatusCode::BAD_REQUEST, "invalid_request");
    }
}

#[tokio::test]
async fn an_address_that_another_server_has_reserved_is_not_handed_out_by_name() {
    let url = eip_testkit::postgres::TestCluster::shared().fresh_database().await;
    let (one, other) = (World::on(&url).await, World::on(&url).await);
    let reserve = json!({"reserved": ["100.64.7.7"]});
    assert_eq!(patch(&one, "/pools/public", reserve).await.0, StatusCode::OK);
    let asked = other.post("/elastic-ips", r#"{"address": "100.64.7.7"}"#).await;
    is(&asked, StatusCode::CONFLICT, "address_in_use");
}

//! Changes that are made once, only if nothing has changed meanwhile, or not at all.

use reqwest::{Method, RequestBuilder, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::world::{Store, World, container};

/// What an answer says: status, whether it is one given before, whether nothing was done, body.
type Said = (StatusCode, bool, bool, Value);

async fn said(request: RequestBuilder) -> Said {
    let answer = request.send().await.unwrap();
    let has = |name| answer.headers().get(name).is_some_and(|value| value == "true");
    let (status, replayed, dry) = (answer.status(), has("idempotent-replayed"), has("dry-run"));
    let body = answer.text().await.unwrap();
    (status, replayed, dry, serde_json::from_str(&body).unwrap_or_default())
}

async fn etag(world: &World, id: &str) -> String {
    let answer = world.request(Method::GET, &format!("/elastic-ips/{id}")).send().await.unwrap();
    answer.headers()["etag"].to_str().unwrap().to_owned()
}

async fn events(world: &World, id: &str) -> Vec<String> {
    let (_, list) = world.get(&format!("/elastic-ips/{id}/events")).await;
    let kinds = list["items"].as_array().unwrap().iter();
    kinds.map(|one| one["kind"].as_str().unwrap().to_owned()).collect()
}

#[rstest]
#[tokio::test]
async fn an_association_that_is_repeated_gives_the_first_answer_and_is_made_once(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2), container(3)]).await;
    let _obeying = host.obey();
    let id = world.allocate().await;
    let path = format!("/elastic-ips/{id}/associate");
    let post = |key: &str, instance: &str| {
        let body = json!({"instance_id": instance, "allow_reassociation": true});
        world.request(Method::POST, &path).header("Idempotency-Key", key).json(&body)
    };
    let first = said(post("a", "web-2")).await;
    assert_eq!((first.0, first.1), (StatusCode::OK, false), "{}", first.3);
    assert_eq!(first.3["data_plane"]["state"], "active");
    assert_eq!(said(post("b", "web-3")).await.0, StatusCode::OK);
    // It does not move back.
    let again = said(post("a", "web-2")).await;
    assert_eq!((again.0, again.1, &again.3), (StatusCode::OK, true, &first.3));
    assert_eq!(world.get(&format!("/elastic-ips/{id}")).await.1["instance_name"], "web-3");
    let other = said(post("a", "web-3")).await;
    assert_eq!((other.0, &other.3["code"]), (StatusCode::CONFLICT, &"idempotency_conflict".into()));

    let part = format!("/elastic-ips/{id}/disassociate");
    let part = || world.request(Method::POST, &part).header("Idempotency-Key", "c");
    let first = said(part()).await;
    assert_eq!((first.0, first.1), (StatusCode::OK, false), "{}", first.3);
    assert_eq!(said(part()).await, (StatusCode::OK, true, false, first.3));
    assert_eq!(events(&world, &id).await, ["allocated", "associated", "moved", "disassociated"]);
}

/// Of many that come at once under one key, one is carried out; the others are told what it came to.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_under_one_key_at_once_are_one(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    world.host("hv1").await.has(vec![container(2)]).await;
    let id = world.allocate().await;
    let path = format!("/elastic-ips/{id}/associate");
    let body = json!({"instance_id": "web-2", "wait_seconds": 0});
    let post =
        || said(world.request(Method::POST, &path).header("Idempotency-Key", "k").json(&body));
    let answers = futures_util::future::join_all((0..16).map(|_| post())).await;
    assert!(answers.iter().all(|one| one.0 == StatusCode::OK), "{answers:?}");
    assert_eq!(answers.iter().filter(|one| !one.1).count(), 1);
    assert_eq!(events(&world, &id).await, ["allocated", "associated"]);
}

/// A key is one key, whatever it is sent with.
#[rstest]
#[tokio::test]
async fn a_key_of_one_operation_is_no_key_of_another(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let post = |path: &str, body: Value| {
        said(world.request(Method::POST, path).header("Idempotency-Key", "k").json(&body))
    };
    assert_eq!(post("/projects", json!({"name": "acme"})).await.0, StatusCode::CREATED);
    let pool = json!({"name": "edge", "ranges": ["203.0.113.0/28"]});
    for (path, body) in [("/elastic-ips", json!({})), ("/pools", pool)] {
        let (status, .., problem) = post(path, body).await;
        let conflict = (StatusCode::CONFLICT, &Value::from("idempotency_conflict"));
        assert_eq!((status, &problem["code"]), conflict, "{path}");
    }
}

#[rstest]
#[tokio::test]
async fn what_was_refused_may_be_tried_again_under_its_key(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let host = world.host("hv1").await;
    let id = world.allocate().await;
    let path = format!("/elastic-ips/{id}/associate");
    let body = json!({"instance_id": "web-2", "wait_seconds": 0});
    let post =
        || said(world.request(Method::POST, &path).header("Idempotency-Key", "k").json(&body));
    assert_eq!(post().await.0, StatusCode::NOT_FOUND);
    host.has(vec![container(2)]).await;
    let (status, replayed, ..) = post().await;
    assert_eq!((status, replayed), (StatusCode::OK, false));
}

#[rstest]
#[tokio::test]
async fn a_change_of_what_has_changed_since_is_refused(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    world.host("hv1").await.has(vec![container(2)]).await;
    let id = world.allocate().await;
    let own = format!("/elastic-ips/{id}");
    let old = etag(&world, &id).await;
    let rename = |tag: &str, name: &str| {
        let request = world.request(Method::PATCH, &own).header("If-Match", tag);
        request.json(&json!({"name": name}))
    };
    assert_eq!(said(rename(&old, "web")).await.0, StatusCode::OK);
    let new = etag(&world, &id).await;
    assert_ne!(old, new);
    let changes = [
        rename(&old, "api"),
        world.request(Method::DELETE, &own).header("If-Match", &old),
        world
            .request(Method::POST, &format!("{own}/associate"))
            .header("If-Match", &old)
            .json(&json!({"instance_id": "web-2"})),
        world.request(Method::POST, &format!("{own}/disassociate")).header("If-Match", &old),
    ];
    for change in changes {
        let answer = said(change).await;
        let stale = (StatusCode::PRECONDITION_FAILED, &Value::from("precondition_failed"));
        assert_eq!((answer.0, &answer.3["code"]), stale, "{}", answer.3);
    }
    for malformed in ["", "x", "\"x", "*, \"x\" y"] {
        let answer = said(rename(malformed, "api")).await;
        assert_eq!(answer.0, StatusCode::BAD_REQUEST, "{malformed}: {}", answer.3);
    }
    for foreign in ["\"x\"", &format!("W/{new}")] {
        assert_eq!(said(rename(foreign, "api")).await.0, StatusCode::PRECONDITION_FAILED);
    }
    assert_eq!(world.get(&own).await.1["name"], "web");
    assert_eq!(said(rename(&format!("\"x\", {new}"), "api")).await.0, StatusCode::OK);
    assert_eq!(said(rename("*", "last")).await.0, StatusCode::OK);
    // Who had the address before has another one, whatever its revision.
    let address = world.get(&own).await.1["public_ip"].as_str().unwrap().to_owned();
    let last = etag(&world, &id).await;
    assert_eq!(world.delete(&own).await.0, StatusCode::NO_CONTENT);
    let (_, heir) = world.post("/elastic-ips", json!({"address": address}).to_string()).await;
    for revision in 1..6 {
        let tag = format!("{}.{revision}\"", last.split('.').next().unwrap());
        let path = format!("/elastic-ips/{address}");
        let answer = said(world.request(Method::DELETE, &path).header("If-Match", tag)).await;
        assert_eq!(answer.0, StatusCode::PRECONDITION_FAILED);
    }
    assert_eq!(world.get(&format!("/elastic-ips/{address}")).await.1["id"], heir["id"]);
}

/// Of two who have read the same, one changes it.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_saw_the_same_one_changes_it(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let id = world.allocate().await;
    let tag = etag(&world, &id).await;
    let path = format!("/elastic-ips/{id}");
    let rename = |n: usize| {
        let request = world.request(Method::PATCH, &path).header("If-Match", &tag);
        said(request.json(&json!({"name": format!("n{n}")})))
    };
    let answers = futures_util::future::join_all((0..32).map(rename)).await;
    let done = answers.iter().filter(|one| one.0 == StatusCode::OK).count();
    let stale = answers.iter().filter(|one| one.0 == StatusCode::PRECONDITION_FAILED).count();
    assert_eq!((done, stale), (1, 31));
}

#[rstest]
#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_does_nothing(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    world.host("hv1").await.has(vec![container(2)]).await;
    let id = world.allocate().await;
    let before = whole(&world).await;
    let own = format!("/elastic-ips/{id}");
    let dry = |method, path: &str, body: Value| {
        said(world.request(method, &format!("{path}?dry_run=true")).json(&body))
    };
    let would = dry(Method::POST, "/elastic-ips", json!({"name": "next"})).await;
    assert_eq!((would.0, would.2, &would.3["name"]), (StatusCode::OK, true, &"next".into()));
    let would =
        dry(Method::POST, &format!("{own}/associate"), json!({"instance_id": "web-2"})).await;
    assert_eq!(
        (would.0, would.2, &would.3["instance_name"]),
        (StatusCode::OK, true, &"web-2".into())
    );
    let would = dry(Method::POST, &format!("{own}/disassociate"), json!({})).await;
    assert_eq!((would.0, &would.3["code"]), (StatusCode::CONFLICT, &"not_associated".into()));
    let would = dry(Method::PATCH, &own, json!({"name": "other", "protected": true})).await;
    assert_eq!((would.0, would.2, &would.3["name"]), (StatusCode::OK, true, &"other".into()));
    assert_eq!(dry(Method::DELETE, &own, json!({})).await.0, StatusCode::NO_CONTENT);
    let many = json!({"associations": [{"elastic_ip": id, "instance_id": "web-2"}]});
    let would = dry(Method::POST, "/elastic-ips/associate", many).await;
    assert_eq!(would.3["items"][0]["elastic_ip"]["instance_name"], "web-2", "{}", would.3);
    let would = dry(Method::POST, "/projects", json!({"name": "acme"})).await;
    assert_eq!((would.0, would.2), (StatusCode::OK, true));
    let pool = json!({"name": "edge", "ranges": ["203.0.113.0/28"]});
    assert_eq!(dry(Method::POST, "/pools", pool).await.0, StatusCode::OK);
    assert_eq!(
        dry(Method::PATCH, "/pools/public", json!({"draining": true})).await.0,
        StatusCode::OK
    );
    let would = dry(Method::POST, "/api-keys", json!({"role": "member", "project": "acme"})).await;
    assert_eq!(would.0, StatusCode::OK, "{}", would.3);
    assert_eq!(whole(&world).await, before);
    let wrong = said(world.request(Method::POST, "/elastic-ips?dry_run=perhaps")).await;
    assert_eq!(wrong.0, StatusCode::BAD_REQUEST);
    assert_eq!(
        said(world.request(Method::POST, "/elastic-ips?dryrun=true")).await.0,
        StatusCode::BAD_REQUEST
    );
}

/// Everything that the record tells, but for times at which keys were used.
async fn whole(world: &World) -> Vec<Value> {
    let mut all = Vec::new();
    for path in
        ["/elastic-ips", "/events", "/projects", "/pools", "/hosts", "/instances", "/api-keys"]
    {
        let mut answer = world.get(path).await.1;
        for item in answer["items"].as_array_mut().unwrap() {
            item.as_object_mut().unwrap().retain(|name, _| !name.starts_with("last_"));
        }
        all.push(answer);
    }
    all
}

#[rstest]
#[tokio::test]
async fn what_is_protected_is_not_released(#[values(Store::Sqlite, Store::Postgres)] store: Store) {
    let world = World::new(store).await;
    let (_, made) = world.post("/elastic-ips", r#"{"protected": true}"#).await;
    assert_eq!(made["protected"], true);
    let own = format!("/elastic-ips/{}", made["id"].as_str().unwrap());
    let (status, body) = world.delete(&own).await;
    assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &"elastic_ip_protected".into()));
    let open = world.request(Method::PATCH, &own).json(&json!({"protected": false}));
    assert_eq!(said(open).await.3["protected"], false);
    assert_eq!(world.delete(&own).await.0, StatusCode::NO_CONTENT);
}

#[rstest]
#[tokio::test]
async fn a_pool_that_is_exhausted_says_when_an_address_wakes(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::with_pool(store, "203.0.113.4/31").await;
    let (one, _) = (world.allocate().await, world.allocate().await);
    let (_, full) = world.post("/elastic-ips", "").await;
    assert_eq!((&full["code"], &full["size"]), (&"pool_exhausted".into(), &2.into()));
    assert_eq!(full["next_quarantine_ends_at"], Value::Null);
    world.delete(&format!("/elastic-ips/{one}")).await;
    let (_, full) = world.post("/elastic-ips", "").await;
    let wakes: jiff::Timestamp = full["next_quarantine_ends_at"].as_str().unwrap().parse().unwrap();
    assert!(wakes > jiff::Timestamp::now());
}

/// An `Idempotency-Key` is for POST: what is changed or deleted is so each time, whatever comes with it.
#[rstest]
#[tokio::test]
async fn a_change_by_patch_or_delete_is_made_whatever_key_it_names(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let ask = async |method: Method, path: &str, body: Value| {
        said(world.request(method, path).header("Idempotency-Key", "k").json(&body)).await
    };
    for name in ["pa", "pb"] {
        world.post("/projects", json!({"name": name}).to_string()).await;
        let range = if name == "pa" { "203.0.113.0/28" } else { "203.0.113.16/28" };
        let pool = json!({"name": name, "ranges": [range]});
        assert_eq!(world.post("/pools", pool.to_string()).await.0, StatusCode::CREATED);
    }
    for (name, quota) in [("pa", 5), ("pa", 10), ("pb", 7)] {
        let path = format!("/projects/{name}");
        let (status, _, _, body) = ask(Method::PATCH, &path, json!({"quota": quota})).await;
        assert_eq!(
            (status, &body["name"], &body["quota"]),
            (StatusCode::OK, &name.into(), &quota.into())
        );
        let path = format!("/pools/{name}");
        let change = json!({"quarantine_seconds": quota});
        let (status, _, _, body) = ask(Method::PATCH, &path, change).await;
        let told = (&body["name"], &body["quarantine_seconds"]);
        assert_eq!((status, told), (StatusCode::OK, (&name.into(), &quota.into())));
    }
    for path in ["/projects/pa", "/projects/pb", "/pools/pa", "/pools/pb"] {
        assert_eq!(ask(Method::DELETE, path, json!({})).await.0, StatusCode::NO_CONTENT, "{path}");
        assert_eq!(world.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn an_if_match_where_there_is_no_etag_is_refused() {
    let world = World::new(Store::Sqlite).await;
    let hook = json!({"url": "https://hooks.example.com/"});
    for (method, path, body) in [
        (Method::POST, "/elastic-ips", json!({})),
        (Method::POST, "/projects", json!({"name": "acme"})),
        (Method::PATCH, "/projects/default", json!({"quota": 1})),
        (Method::PATCH, "/pools/public", json!({"draining": true})),
        (Method::POST, "/webhooks", hook),
    ] {
        let request = world.request(method, path).header("If-Match", "\"x\"").json(&body);
        let (status, _, _, problem) = said(request).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::BAD_REQUEST, &"invalid_request".into()),
            "{path}"
        );
    }
}

/// What stands against a request now did not when it was made.
#[rstest]
#[tokio::test]
async fn a_repeated_allocation_is_answered_also_when_nothing_is_left_of_its_pool(
    #[values(Store::Sqlite, Store::Postgres)] store: Store,
) {
    let world = World::new(store).await;
    let pool = json!({"name": "one", "ranges": ["198.51.100.0/30"], "reserved": ["198.51.100.2"]});
    assert_eq!(world.post("/pools", pool.to_string()).await.0, StatusCode::CREATED);
    let post = |key: &str, body: Value| {
        let request = world.request(Method::POST, "/elastic-ips");
        said(request.header("Idempotency-Key", key).json(&body))
    };
    let body = json!({"pool": "one"});
    let first = post("k", body.clone()).await;
    assert_eq!((first.0, first.1), (StatusCode::CREATED, false));
    let again = post("k", body.clone()).await;
    assert_eq!((again.0, again.1, &again.3["id"]), (StatusCode::CREATED, true, &first.3["id"]));
    assert_eq!(post("other", body.clone()).await.3["code"], "pool_exhausted");
    let drain = json!({"draining": true});
    world.request(Method::PATCH, "/pools/one").json(&drain).send().await.unwrap();
    assert_eq!(post("k", body.clone()).await.3["id"], first.3["id"]);
    assert_eq!(
        post("k", json!({"pool": "one", "name": "x"})).await.3["code"],
        "idempotency_conflict"
    );
    assert_eq!(post("other", body).await.3["code"], "pool_draining");
}

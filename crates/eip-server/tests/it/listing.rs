//! Pages and filters.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use rstest::rstest;
use serde_json::Value;

use crate::world::{Store, World, container};

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test]
async fn page_after_page_gives_everything_once(#[case] store: Store) {
    let world = World::new(store).await;
    let mut held = BTreeSet::new();
    for _ in 0..7 {
        held.insert(world.allocate().await);
    }
    let mut seen = Vec::new();
    let mut path = "/elastic-ips?limit=3".to_owned();
    loop {
        let (status, page) = world.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        assert_eq!(items.len(), 3);
        // What is allocated meanwhile moves no page.
        path = format!("/elastic-ips?limit=3&cursor={cursor}");
    }
    assert_eq!(seen.len(), 7);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), held);
}

#[tokio::test]
async fn a_cursor_that_was_tampered_with_or_is_of_another_list_is_refused() {
    let world = World::new(Store::Sqlite).await;
    for _ in 0..3 {
        world.allocate().await;
    }
    let (_, page) = world.get("/elastic-ips?limit=1").await;
    let cursor = page["next_cursor"].as_str().unwrap();
    let good = format!("/elastic-ips?limit=2&cursor={cursor}");
    assert_eq!(world.get(&good).await.0, StatusCode::OK);
    for wrong in [
        format!("/elastic-ips?status=allocated&cursor={cursor}"),
        format!("/elastic-ips?cursor={cursor}A"),
        "/elastic-ips?cursor=AAAA".to_owned(),
        "/elastic-ips?cursor=".to_owned(),
    ] {
        assert_eq!(world.get(&wrong).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test]
async fn every_filter_filters(#[case] store: Store) {
    let world = World::new(store).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let body = r#"{"name": "web", "tags": {"env": "prod"}, "address": "100.64.9.9"}"#;
    let (status, named) = world.post("/elastic-ips", body).await;
    assert_eq!(status, StatusCode::CREATED, "{named}");
    world.allocate().await;
    let web = named["id"].as_str().unwrap();
    assert_eq!(world.associate(web, "web-2").await.0, StatusCode::OK);
    let count = async |query: &str| {
        let (status, page) = world.get(&format!("/elastic-ips?{query}")).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        page["items"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 2);
    assert_eq!(count("status=associated").await, 1);
    assert_eq!(count("status=allocated").await, 1);
    assert_eq!(count("name=web").await, 1);
    assert_eq!(count("name=mail").await, 0);
    assert_eq!(count("tag=env:prod").await, 1);
    assert_eq!(count("tag=env:test").await, 0);
    assert_eq!(count("public_ip=100.64.9.9").await, 1);
    assert_eq!(count("pool=public").await, 2);
    assert_eq!(count(&format!("instance_id={}", container(2).id)).await, 1);
    for wrong in ["limit=0", "limit=501", "limit=x", "status=lost", "tag=env", "colour=red"] {
        let (status, _) = world.get(&format!("/elastic-ips?{wrong}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

/// Reads a list to its end, and has `between` happen after each page.
async fn leaf(
    world: &World,
    path: &str,
    limit: usize,
    mut between: impl AsyncFnMut(),
) -> Vec<Value> {
    let mut all = Vec::new();
    let mut next = format!("{path}?limit={limit}");
    loop {
        let (status, page) = world.get(&next).await;
        assert_eq!(status, StatusCode::OK, "{next}: {page}");
        let items = page["items"].as_array().unwrap();
        all.extend(items.iter().cloned());
        let Some(cursor) = page["next_cursor"].as_str() else { return all };
        assert_eq!(items.len(), limit, "{next}");
        next = format!("{path}?limit={limit}&cursor={cursor}");
        between().await;
    }
}

fn column(items: &[Value], name: &str) -> Vec<String> {
    items.iter().map(|one| one[name].as_str().unwrap().to_owned()).collect()
}

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test]
async fn every_list_is_read_page_by_page_while_rows_come_and_go(#[case] store: Store) {
    let world = World::new(store).await;
    let host = world.host("hv1").await;
    host.has((2..9).map(container).collect()).await;
    for n in 0..5 {
        let other = world.host(&format!("other-{n}")).await;
        other.has(vec![container(20 + n)]).await;
        let body = format!(r#"{{"name": "team-{n}"}}"#);
        assert_eq!(world.post("/projects", body).await.0, StatusCode::CREATED);
        let body = format!(r#"{{"name": "pool-{n}", "ranges": ["203.0.{n}.0/28"]}}"#);
        assert_eq!(world.post("/pools", body).await.0, StatusCode::CREATED);
        let body = format!(r#"{{"role": "member", "project": "team-{n}"}}"#);
        assert_eq!(world.post("/api-keys", body).await.0, StatusCode::CREATED);
    }
    let here = ["team-0", "team-1", "team-2", "team-3", "team-4"];

    // One comes behind every page and one before it: the first is seen once, the second never.
    let mut n = 0;
    let seen = leaf(&world, "/projects", 2, async || {
        n += 1;
        for name in [format!("a-{n}"), format!("z-{n}")] {
            let body = format!(r#"{{"name": "{name}"}}"#);
            assert_eq!(world.post("/projects", body).await.0, StatusCode::CREATED);
        }
        world.delete("/projects/default").await;
    });
    let seen = column(&seen.await, "name");
    assert_eq!(seen[0], "default");
    assert_eq!(seen[1..6], here);
    assert!(seen[6..].iter().all(|name| name.starts_with("z-")) && seen.len() > 6, "{seen:?}");

    let keys = leaf(&world, "/api-keys", 3, async || {}).await;
    let times = column(&keys, "created_at");
    assert!(times.is_sorted() && column(&keys, "id").iter().collect::<BTreeSet<_>>().len() == 12);
    let pools = column(&leaf(&world, "/pools", 2, async || {}).await, "name");
    assert_eq!(pools, ["pool-0", "pool-1", "pool-2", "pool-3", "pool-4", "public"]);
    let mut gone = false;
    let instances = leaf(&world, "/instances", 3, async || {
        if !std::mem::replace(&mut gone, true) {
            host.has((4..9).chain(30..32).map(container).collect()).await;
        }
    });
    let instances = column(&instances.await, "name");
    let mut distinct = instances.clone();
    distinct.dedup();
    assert_eq!(instances, distinct);
    for stayed in (4..9).chain(20..25).map(|n| format!("web-{n}")) {
        assert!(instances.contains(&stayed), "{stayed}: {instances:?}");
    }
    let hosts = column(&leaf(&world, "/hosts", 4, async || {}).await, "name");
    assert_eq!(hosts, ["hv1", "other-0", "other-1", "other-2", "other-3", "other-4"]);
}

#[tokio::test]
async fn a_cursor_of_one_list_is_none_of_another() {
    let world = World::new(Store::Sqlite).await;
    for name in ["a", "b"] {
        world.post("/projects", format!(r#"{{"name": "{name}"}}"#)).await;
        world.post("/api-keys", r#"{"role": "reader"}"#).await;
        world.host(name).await.has(vec![container(name.as_bytes()[0])]).await;
    }
    world.post("/pools", r#"{"name": "edge", "ranges": ["203.0.113.0/28"]}"#).await;
    let lists = ["/projects", "/api-keys", "/pools", "/hosts", "/instances"];
    for list in lists {
        let (_, page) = world.get(&format!("{list}?limit=1")).await;
        let cursor = page["next_cursor"].as_str().unwrap_or_else(|| panic!("{list}: {page}"));
        for other in lists {
            let (status, _) = world.get(&format!("{other}?cursor={cursor}")).await;
            let wanted = if list == other { StatusCode::OK } else { StatusCode::BAD_REQUEST };
            assert_eq!(status, wanted, "a cursor of {list} in {other}");
        }
        for wrong in ["limit=0", "limit=501", "limit=x", "cursor=", "cursor=AAAA", "colour=red"] {
            let (status, _) = world.get(&format!("{list}?{wrong}")).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{list}?{wrong}");
        }
        let tampered = format!("{}A", &cursor[..cursor.len() - 1]);
        let (status, _) = world.get(&format!("{list}?cursor={tampered}B")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{list}");
    }
}

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test]
async fn a_text_that_no_database_can_hold_is_refused_as_any_other(#[case] store: Store) {
    let world = World::new(store).await;
    let id = world.allocate().await;
    for path in
        ["instances/%00", "api-keys/%00", "projects/%00", "pools/a%00", "elastic-ips?tag=a:%00"]
    {
        let (status, body) = world.get(&format!("/{path}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {body}");
    }
    let (status, body) = world.delete("/api-keys/%00").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let path = format!("/elastic-ips/{id}/associate");
    for body in [r#"{"instance_id": "\u0000"}"#, r#"{"instance_id": "a", "network": "\u0000"}"#] {
        let (status, body) = world.post(&path, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    }
}

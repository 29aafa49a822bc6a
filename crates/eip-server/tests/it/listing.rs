//! Pages and filters.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use rstest::rstest;

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

//! Many at once: exactly as many win as may.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::StatusCode;
use rstest::rstest;

use crate::world::{Store, World, container};

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_elastic_ips_for_one_instance_one_wins(#[case] store: Store) {
    let world = World::new(store).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let ids = join_all((0..50).map(|_| world.allocate())).await;
    let answers = join_all(ids.iter().map(|id| world.associate(id, "web-2"))).await;
    let won = answers.iter().filter(|(status, _)| *status == StatusCode::OK).count();
    assert_eq!(won, 1);
    for (status, body) in answers.iter().filter(|(status, _)| *status != StatusCode::OK) {
        assert_eq!(*status, StatusCode::CONFLICT, "{body}");
        assert_eq!(body["code"], "instance_has_elastic_ip");
    }
    let (_, listed) = world.get("/elastic-ips?status=associated").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
}

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_handed_out_to_its_last_address_and_then_is_exhausted(#[case] store: Store) {
    let world = World::with_pool(store, "203.0.113.0/26").await;
    let answers = join_all((0..70).map(|_| world.post("/elastic-ips", ""))).await;
    let (made, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(status, _)| *status == StatusCode::CREATED);
    let addresses: BTreeSet<_> =
        made.iter().map(|(_, body)| body["public_ip"].as_str().unwrap().to_owned()).collect();
    assert_eq!((made.len(), addresses.len()), (62, 62));
    for (status, body) in refused {
        assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &"pool_exhausted".into()));
        assert_eq!(body["size"], 62);
    }
}

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_who_ask_for_one_address_one_gets_it(#[case] store: Store) {
    let world = World::new(store).await;
    let body = r#"{"address": "100.64.3.3"}"#;
    let answers = join_all((0..20).map(|_| world.post("/elastic-ips", body))).await;
    let won = answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count();
    assert_eq!(won, 1);
    let codes: BTreeSet<_> = answers.iter().filter_map(|(_, body)| body["code"].as_str()).collect();
    assert_eq!(codes, BTreeSet::from(["address_in_use"]));
}

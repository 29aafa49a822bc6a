//! What agents ask and tell.

use eip_model::{ClusterId, Generation};
use reqwest::{Method, StatusCode};
use rstest::rstest;
use uuid::Uuid;

use crate::world::{Store, World, container};

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test]
async fn an_agent_that_waits_is_woken_by_a_change(#[case] store: Store) {
    let world = World::new(store).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let first = host.desired(None).await.unwrap();
    assert!(first.attachments.is_empty());
    let id = world.allocate().await;
    let waiting = host.desired(Some(first.generation));
    let (second, _) = tokio::join!(waiting, world.associate(&id, "web-2"));
    let second = second.expect("a change came");
    assert!(second.generation > first.generation);
    assert_eq!(second.attachments.len(), 1);
    assert_eq!(second.attachments[0].instance_id, container(2).id);
    assert_eq!(second.ranges, ["100.64.0.0/10".parse().unwrap()]);
}

#[tokio::test]
async fn a_host_that_nobody_has_heard_of_desires_nothing_and_may_report() {
    let world = World::new(Store::Sqlite).await;
    let host = world.host("new").await;
    let set = host.desired(None).await.unwrap();
    assert!(set.attachments.is_empty());
    host.applied(&set).await;
}

#[tokio::test]
async fn a_report_of_another_record_is_turned_down() {
    let world = World::new(Store::Sqlite).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let other = ClusterId::new(Uuid::new_v4());
    let (status, problem) = host.report(other, Generation::new(1)).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &"host_ahead".into()));
}

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test]
async fn a_host_that_is_ahead_of_the_record_is_given_nothing_until_it_is_accepted(
    #[case] store: Store,
) {
    let world = World::new(store).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let id = world.allocate().await;
    world.associate(&id, "web-2").await;
    let set = host.desired(None).await.unwrap();
    host.applied(&set).await;
    let newer = Generation::new(set.generation.value() + 5);
    let (status, problem) = host.report(set.cluster_id, newer).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &"host_ahead".into()));
    let (_, hosts) = world.get("/hosts").await;
    let host_of = &hosts["items"][0];
    assert_eq!(host_of["data_plane"], "failing", "{hosts}");
    assert!(host_of["data_plane_reason"].as_str().unwrap().contains("eip host accept hv1"));
    // Not by a report that would fit, either: the record is what is doubted. It is noted once.
    for generation in [set.generation, newer] {
        let (status, _) = host.report(set.cluster_id, generation).await;
        assert_eq!(status, StatusCode::CONFLICT);
    }
    assert_eq!(world.get("/hosts").await.1["items"][0]["last_seen_at"], host_of["last_seen_at"]);
    let (status, problem) = world.post("/hosts/nobody/accept", "").await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &"host_not_found".into()));
    let (status, accepted) = world.post("/hosts/hv1/accept", "").await;
    assert_eq!(status, StatusCode::OK, "{accepted}");
    let next = host.desired(Some(newer)).await.expect("a set that is newer than what it holds");
    assert!(next.generation > newer);
    assert_eq!(next.attachments, set.attachments);
    host.applied(&next).await;
    let (_, after) = world.get(&format!("/elastic-ips/{id}")).await;
    assert_eq!(after["data_plane"]["state"], "active", "{after}");
    let (status, again) = world.post("/hosts/hv1/accept", "").await;
    assert_eq!(
        (status, &again["desired_generation"]),
        (StatusCode::OK, &next.generation.value().into())
    );
}

#[tokio::test]
async fn a_move_between_hosts_waits_until_the_old_one_has_let_go() {
    let world = World::new(Store::Sqlite).await;
    let (old, new) = (world.host("hv1").await, world.host("hv2").await);
    old.has(vec![container(2)]).await;
    new.has(vec![container(3)]).await;
    let id = world.allocate().await;
    world.associate(&id, "web-2").await;
    old.applied(&old.desired(None).await.unwrap()).await;
    let body = r#"{"instance_id": "web-3", "allow_reassociation": true, "wait_seconds": 0}"#;
    let (status, after) = world.post(&format!("/elastic-ips/{id}/associate"), body).await;
    assert_eq!((status, &after["host"]), (StatusCode::OK, &"hv2".into()));
    assert_eq!(after["data_plane"]["state"], "pending");
    assert!(after["data_plane"]["reason"].as_str().unwrap().contains("hv1"), "{after}");
    let set = new.desired(None).await.unwrap();
    assert!(set.attachments.is_empty(), "the new host must wait");
    old.applied(&old.desired(None).await.unwrap()).await;
    let set = new.desired(Some(set.generation)).await.expect("the fence was lifted");
    assert_eq!(set.attachments.len(), 1);
    new.applied(&set).await;
    let (_, after) = world.get(&format!("/elastic-ips/{id}")).await;
    assert_eq!(after["data_plane"]["state"], "active", "{after}");
}

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test]
async fn what_a_host_counts_is_told_of_the_elastic_ip_and_of_the_host(#[case] store: Store) {
    let world = World::new(store).await;
    let name = format!("hv-{store:?}").to_lowercase();
    let host = world.host(&name).await;
    host.has(vec![container(2)]).await;
    let id = world.allocate().await;
    let traffic = format!("/elastic-ips/{id}/traffic");
    let (status, none) = world.get(&traffic).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&none["packets_in"], &none["since"]), (&0.into(), &serde_json::Value::Null));
    let (_, associated) = world.associate(&id, "web-2").await;
    let counted = |packets_in: u64| {
        let volume = serde_json::json!({"packets_in": packets_in, "bytes_in": 90 * packets_in,
            "packets_out": 1, "bytes_out": 100});
        serde_json::json!({"total": volume, "counted": [{"public_ip": associated["public_ip"],
            "elastic_ip_id": id, "volume": volume}]})
    };
    for (said, told) in [(5, 5), (5, 5), (12, 12), (2, 14)] {
        assert_eq!(host.counted(&counted(said)).await, StatusCode::NO_CONTENT);
        let (_, shown) = world.get(&traffic).await;
        assert_eq!(shown["packets_in"], told, "{shown}");
        assert_eq!(shown["bytes_in"], told * 90, "{shown}");
        assert!(shown["since"].is_string() && shown["at"].is_string(), "{shown}");
    }
    let shown = world.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    let line = format!("eip_traffic_packets_total{{host=\"{name}\",direction=\"in\"}} 14");
    assert!(shown.contains(&line), "{shown}");
    let (status, _) = world.get("/elastic-ips/100.64.255.255/traffic").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

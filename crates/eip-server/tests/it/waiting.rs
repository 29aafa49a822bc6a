//! A change waits for its host, and says what is true when it answers.

use std::time::Duration;

use reqwest::{Method, StatusCode};

use crate::world::{Store, World, container, read};

#[tokio::test]
async fn a_host_that_does_not_apply_it_leaves_the_association_pending() {
    let world = World::new(Store::Sqlite).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let id = world.allocate().await;
    let body = r#"{"instance_id": "web-2", "wait_seconds": 1}"#;
    let (status, after) = world.post(&format!("/elastic-ips/{id}/associate"), body).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(after["data_plane"]["state"], "pending", "{after}");
    host.applied(&host.desired(None).await.unwrap()).await;
    let (_, later) = world.get(&format!("/elastic-ips/{id}")).await;
    assert_eq!(later["data_plane"]["state"], "active");
}

#[tokio::test]
async fn a_disassociation_is_pending_until_the_host_has_let_go() {
    let world = World::new(Store::Sqlite).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let id = world.allocate().await;
    world.associate(&id, "web-2").await;
    host.applied(&host.desired(None).await.unwrap()).await;
    let path = format!("/elastic-ips/{id}/disassociate");
    let (status, after) = world.post(&path, r#"{"wait_seconds": 0}"#).await;
    assert_eq!((status, &after["status"]), (StatusCode::OK, &"allocated".into()));
    assert_eq!(after["data_plane"]["state"], "pending", "{after}");
    host.applied(&host.desired(None).await.unwrap()).await;
    let (_, later) = world.get(&format!("/elastic-ips/{id}")).await;
    assert_eq!(later["data_plane"]["state"], "none");
}

#[tokio::test]
async fn what_the_host_reports_as_a_problem_is_told_with_its_reason() {
    let world = World::new(Store::Sqlite).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let id = world.allocate().await;
    let (_, made) = world.associate(&id, "web-2").await;
    let set = host.desired(None).await.unwrap();
    let report = serde_json::json!({
        "cluster_id": set.cluster_id, "generation": set.generation, "data_plane": {"state": "ready"},
        "problems": [{
            "public_ip": made["public_ip"], "kind": "unknown", "reason": "docker does not answer",
        }],
    });
    let (status, _) = read(host.request(Method::PUT, "applied").json(&report)).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (_, told) = world.get(&format!("/elastic-ips/{id}")).await;
    assert_eq!(told["data_plane"]["state"], "unknown");
    assert_eq!(told["data_plane"]["reason"], "docker does not answer");
}

#[tokio::test]
async fn a_change_is_finished_even_when_the_client_hangs_up() {
    let world = World::new(Store::Sqlite).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let id = world.allocate().await;
    let body = r#"{"instance_id": "web-2", "wait_seconds": 30}"#;
    let request = world.request(Method::POST, &format!("/elastic-ips/{id}/associate"));
    let hung_up = request.body(body).timeout(Duration::from_millis(200)).send().await;
    assert!(hung_up.unwrap_err().is_timeout());
    let (_, after) = world.get(&format!("/elastic-ips/{id}")).await;
    assert_eq!(after["status"], "associated");
}

#[tokio::test]
async fn the_history_of_an_elastic_ip_names_who_did_what() {
    let world = World::new(Store::Sqlite).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let id = world.allocate().await;
    world.associate(&id, "web-2").await;
    host.has(Vec::new()).await;
    world.delete(&format!("/elastic-ips/{id}")).await;
    let (status, events) = world.get(&format!("/elastic-ips/{id}/events")).await;
    assert_eq!(status, StatusCode::OK, "{events}");
    let items = events["items"].as_array().unwrap();
    let kinds: Vec<_> = items.iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["allocated", "associated", "instance_removed", "released"]);
    assert_eq!(items[2]["actor"], "agent:hv1");
    assert!(items[3]["actor"].as_str().unwrap().starts_with("key:"));
}

#[tokio::test]
async fn an_instance_that_was_started_a_moment_ago_is_waited_for() {
    let world = World::new(Store::Sqlite).await;
    let host = world.host("hv1").await;
    host.has(Vec::new()).await;
    let id = world.allocate().await;
    let (answer, ()) = tokio::join!(world.associate(&id, "web-2"), host.has(vec![container(2)]));
    assert_eq!(answer.0, StatusCode::OK, "{}", answer.1);
}

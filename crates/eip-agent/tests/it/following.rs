//! What is wished and what runs is followed.

use std::net::Ipv4Addr;

use eip_model::InstanceState;

use crate::{Scene, container};

#[tokio::test]
async fn an_association_is_answered_when_the_kernel_has_it() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2)]);
    let answer = scene.associate(1, 2).await;
    assert_eq!(answer["data_plane"]["state"], "active", "{answer}");
    scene.in_force(&[(1, 2)]).await;
    let answer = scene.post("/elastic-ips/100.64.0.1/disassociate", "").await;
    assert_eq!(answer["data_plane"]["state"], "none", "{answer}");
    assert!(scene.kernel.targets().is_empty(), "the answer came when the host had let go");
}

#[tokio::test]
async fn an_instance_that_dies_is_unmapped_though_the_server_is_gone() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2), container(3)]);
    scene.associate(1, 2).await;
    scene.associate(3, 3).await;
    scene.stop_server().await;
    let mut dead = container(2);
    dead.state = InstanceState::Stopped;
    dead.private_ip = None;
    scene.runs(vec![dead, container(3)]);
    scene.in_force(&[(3, 3)]).await;
}

#[tokio::test]
async fn an_instance_that_comes_back_elsewhere_is_followed() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2)]);
    scene.associate(1, 2).await;
    let mut moved = container(2);
    moved.private_ip = Some(Ipv4Addr::new(172, 17, 0, 77));
    scene.runs(vec![moved]);
    scene.in_force(&[(1, 77)]).await;
    let told =
        || async { (scene.show("100.64.0.1").await["private_ip"] == "172.17.0.77").then_some(()) };
    let limit = std::time::Duration::from_secs(10);
    eip_testkit::eventually_async("the API to tell the new address", limit, told).await;
}

#[tokio::test]
async fn a_stopped_instance_keeps_its_association_and_a_removed_one_loses_it() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2)]);
    scene.associate(1, 2).await;
    let mut stopped = container(2);
    stopped.state = InstanceState::Stopped;
    stopped.private_ip = None;
    scene.runs(vec![stopped]);
    assert_eq!(scene.told("100.64.0.1", "failing").await, "docker:web-2 is stopped");
    assert_eq!(scene.show("100.64.0.1").await["status"], "associated");
    scene.runs(Vec::new());
    scene.told("100.64.0.1", "none").await;
    assert_eq!(scene.show("100.64.0.1").await["status"], "allocated");
}

#[tokio::test]
async fn a_backend_that_falls_silent_leaves_its_rules_and_is_told() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2)]);
    scene.associate(1, 2).await;
    scene.falls_silent();
    let reason = scene.told("100.64.0.1", "unknown").await;
    assert!(reason.contains("docker does not answer (timed out)"), "{reason}");
    scene.in_force(&[(1, 2)]).await;
    scene.runs(vec![container(2)]);
    scene.told("100.64.0.1", "active").await;
}

#[tokio::test]
async fn an_instance_that_dies_is_unmapped_though_its_backend_answers_no_question() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2), container(3)]);
    scene.associate(1, 2).await;
    scene.associate(3, 3).await;
    let mut dead = container(2);
    dead.state = InstanceState::Stopped;
    dead.private_ip = None;
    scene.tells_only(vec![dead, container(3)]);
    scene.in_force(&[(3, 3)]).await;
    scene.told("100.64.0.3", "unknown").await;
}

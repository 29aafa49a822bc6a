//! Failures, restarts, and servers that are not to be trusted.

use crate::{Scene, container};

#[tokio::test]
async fn a_kernel_that_refuses_once_or_twice_is_asked_again() {
    for failures in [1, 2] {
        let mut scene = Scene::new().await;
        scene.start_agent();
        scene.runs(vec![container(2)]);
        scene.associate(1, 2).await;
        scene.kernel.fail(failures);
        scene.runs(vec![container(2), container(3)]);
        let body = r#"{"instance_id": "web-3", "allow_reassociation": true, "wait_seconds": 0}"#;
        let path = "/elastic-ips/100.64.0.1/associate";
        let limit = std::time::Duration::from_secs(10);
        let moved =
            || async { (scene.post(path, body).await["instance_name"] == "web-3").then_some(()) };
        eip_testkit::eventually_async("the move", limit, moved).await;
        scene.in_force(&[(1, 3)]).await;
        scene.told("100.64.0.1", "active").await;
    }
}

#[tokio::test]
async fn a_kernel_that_goes_on_refusing_is_told_with_its_reason() {
    let mut scene = Scene::new().await;
    scene.kernel.fail(usize::MAX);
    scene.start_agent();
    scene.runs(vec![container(2)]);
    let answer = scene.associate(1, 2).await;
    assert_eq!(answer["data_plane"]["state"], "failing", "{answer}");
    assert_eq!(answer["data_plane"]["reason"], "cannot load the table: no buffer space");
}

#[tokio::test]
async fn a_host_without_a_data_plane_records_and_says_none() {
    let mut scene = Scene::new().await;
    scene.start_agent_with(Err("not permitted".to_owned()));
    scene.runs(vec![container(2)]);
    let answer = scene.associate(1, 2).await;
    assert_eq!(answer["status"], "associated");
    assert_eq!(answer["data_plane"]["state"], "none", "{answer}");
    assert_eq!(answer["data_plane"]["reason"], "not permitted");
}

#[tokio::test]
async fn what_others_disturb_is_mended() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2)]);
    scene.associate(1, 2).await;
    scene.kernel.disturb();
    scene.in_force(&[(1, 2)]).await;
    let told = scene.mended(1).await;
    assert_eq!(told.len(), 1, "{told:?}");
    let event = &told[0];
    assert_eq!((&event["host"], &event["actor"]), (&"hv1".into(), &"agent:hv1".into()));
    assert_eq!(
        (&event["detail"], event["public_ip"].as_str()),
        (&"the table was gone".into(), None)
    );
}

#[tokio::test]
async fn what_was_mended_while_no_server_answered_is_told_later_with_its_own_time() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2)]);
    scene.associate(1, 2).await;
    scene.stop_server().await;
    for _ in 0..3 {
        scene.kernel.disturb();
        scene.in_force(&[(1, 2)]).await;
    }
    let before_it_started = jiff::Timestamp::now();
    scene.start_server("eip.db").await;
    // One when it was first mended, the others together.
    let told = scene.mended(2).await;
    let said: Vec<_> = told.iter().map(|event| event["detail"].as_str().unwrap()).collect();
    assert_eq!(said, ["the table was gone", "the table was gone (2 times)"]);
    for event in &told {
        let at: jiff::Timestamp = event["at"].as_str().unwrap().parse().unwrap();
        assert!(at < before_it_started, "{event}");
    }
}

#[tokio::test]
async fn a_host_comes_back_without_the_server_and_without_its_backend() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2)]);
    scene.associate(1, 2).await;
    scene.stop_agent().await;
    scene.stop_server().await;
    scene.in_force(&[(1, 2)]).await;
    scene.kernel.disturb();
    scene.falls_silent();
    scene.start_agent();
    scene.in_force(&[(1, 2)]).await;
}

#[tokio::test]
async fn a_server_that_lost_its_record_does_not_clear_the_host() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2)]);
    scene.associate(1, 2).await;
    let applied = scene.kernel.applied();
    scene.stop_server().await;
    scene.start_server("another.db").await;
    // The new server has heard from the agent, so the agent has heard from it.
    let answer = scene.associate(9, 2).await;
    assert_ne!(answer["data_plane"]["state"], "active", "{answer}");
    let reason = scene.told("100.64.0.9", "failing").await;
    assert!(reason.contains("another record"), "{reason}");
    scene.in_force(&[(1, 2)]).await;
    assert_eq!(scene.kernel.applied(), applied);
    assert!(scene.data_dir().join("agent.json").exists());
    let accepted = scene.post("/hosts/hv1/accept", "").await;
    assert_eq!(accepted["name"], "hv1", "{accepted}");
    scene.in_force(&[(9, 2)]).await;
    scene.told("100.64.0.9", "active").await;
}

#[tokio::test]
async fn an_old_copy_of_the_record_is_not_applied_however_far_it_catches_up() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2), container(3), container(4)]);
    scene.associate(1, 2).await;
    scene.stop_server().await;
    let copy = |from: &str, to: &str| {
        let folder = scene.data_dir();
        std::fs::copy(folder.join(from), folder.join(to)).unwrap();
    };
    copy("eip.db", "old.db");
    scene.start_server("eip.db").await;
    scene.associate(3, 3).await;
    scene.told("100.64.0.3", "active").await;
    // Nobody restarts the agent, and it may be that nobody hears it for a while.
    scene.stop_agent().await;
    scene.stop_server().await;
    scene.start_server("old.db").await;
    for last in [5, 6, 7] {
        let path = "/elastic-ips/100.64.0.1";
        scene.post(&format!("{path}/disassociate"), r#"{"wait_seconds": 0}"#).await;
        let id = if last % 2 == 0 { 3 } else { 2 };
        let body = format!(r#"{{"instance_id": "web-{id}", "wait_seconds": 0}}"#);
        scene.post(&format!("{path}/associate"), &body).await;
    }
    let applied = scene.kernel.applied();
    scene.start_agent();
    let reason = scene.told("100.64.0.1", "failing").await;
    assert!(reason.contains("may be an old copy"), "{reason}");
    assert!(reason.contains("eip host accept hv1"), "{reason}");
    // The same set as before, from its file: nothing of what the old copy wishes.
    scene.in_force(&[(1, 2), (3, 3)]).await;
    assert!(scene.kernel.applied() <= applied + 1);
    let accepted = scene.post("/hosts/hv1/accept", "").await;
    assert!(accepted["desired_generation"].as_u64() > Some(3), "{accepted}");
    scene.in_force(&[(1, 2)]).await;
    scene.told("100.64.0.1", "active").await;
    // It is one history again: the next change needs nobody.
    scene.associate(4, 4).await;
    scene.in_force(&[(1, 2), (4, 4)]).await;
}

#[tokio::test]
async fn what_a_backend_said_that_is_not_followed_any_more_is_not_believed() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2)]);
    scene.associate(1, 2).await;
    scene.stop_agent().await;
    scene.start_agent_without_backends();
    scene.in_force(&[]).await;
    let reason = scene.told("100.64.0.1", "failing").await;
    assert!(reason.starts_with("no instance"), "{reason}");
}

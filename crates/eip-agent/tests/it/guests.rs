//! Elastic IPs that are to be on the instances' own interfaces.

use std::net::Ipv4Addr;

use eip_compute::Alias;
use eip_model::{AttachmentProblem, Mode, ProblemKind};
use eip_testkit::eventually_async;
use serde_json::Value;

use crate::{Scene, container};

const SOON: std::time::Duration = std::time::Duration::from_secs(10);

fn pair(public: u8, private: u8) -> (Ipv4Addr, Ipv4Addr) {
    ([100, 64, 0, public].into(), [172, 17, 0, private].into())
}

impl Scene {
    /// Holds 100.64.0.`last`, and has it be on the interface of the container of this number.
    async fn alias(&self, last: u8, container: u8, wait_seconds: u8) -> Value {
        let body = format!(r#"{{"address": "100.64.0.{last}"}}"#);
        self.post("/elastic-ips", &body).await;
        let path = format!("/elastic-ips/100.64.0.{last}/associate");
        let body = format!(
            r#"{{"instance_id": "web-{container}", "mode": "alias", "allow_reassociation": true,
                 "wait_seconds": {wait_seconds}}}"#
        );
        let tried = || async {
            let answer = self.post(&path, &body).await;
            (answer["code"] != "instance_not_found").then_some(answer)
        };
        eventually_async("the server to know the container", SOON, tried).await
    }

    /// Waits until exactly these are on interfaces.
    async fn on_interfaces(&self, pairs: &[(u8, u8)]) {
        let wanted: Vec<_> =
            pairs.iter().map(|(public, private)| pair(*public, *private)).collect();
        let reached = || async { (self.guests.on() == wanted).then_some(()) };
        eventually_async(&format!("{pairs:?} to be on interfaces"), SOON, reached).await;
    }
}

#[tokio::test]
async fn an_alias_is_active_when_the_instance_has_it_and_gone_when_it_ends() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2)]);
    let answer = scene.alias(1, 2, 5).await;
    assert_eq!(answer["data_plane"]["state"], "active", "{answer}");
    assert_eq!(scene.guests.on(), [pair(1, 2)], "the answer came when the instance had it");
    let (public, private) = pair(1, 2);
    assert_eq!(scene.kernel.aliases()[&public].private_ip, private);
    assert!(scene.kernel.targets().is_empty());
    scene.post("/elastic-ips/100.64.0.1/disassociate", "").await;
    assert!(scene.kernel.aliases().is_empty(), "at once");
    scene.on_interfaces(&[]).await;
}

#[tokio::test]
async fn what_the_kernel_refuses_of_one_elastic_ip_is_told_of_that_one() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2), container(3)]);
    let reason = "the kernel refuses a route to it: Network is unreachable".to_owned();
    let (public_ip, kind) = (pair(1, 2).0, ProblemKind::Failing);
    scene.kernel.refuse(vec![AttachmentProblem { public_ip, kind, reason: reason.clone() }]);
    let answer = scene.alias(1, 2, 5).await;
    assert_eq!(answer["data_plane"]["state"], "failing", "{answer}");
    assert_eq!(answer["data_plane"]["reason"], reason);
    let other = scene.alias(2, 3, 5).await;
    assert_eq!(other["data_plane"]["state"], "active", "{other}");
    scene.kernel.refuse(Vec::new());
    scene.told("100.64.0.1", "active").await;
}

#[tokio::test]
async fn a_guest_that_takes_its_time_holds_up_nobody_else() {
    let mut scene = Scene::new().await;
    scene.guests.may_go_on.send_replace(false);
    scene.start_agent();
    scene.runs(vec![container(2), container(3)]);
    let answer = scene.alias(1, 2, 0).await;
    assert_eq!(answer["data_plane"]["state"], "pending", "{answer}");
    let other = scene.associate(3, 3).await;
    assert_eq!(other["data_plane"]["state"], "active", "{other}");
    let why = scene.told("100.64.0.1", "pending").await;
    assert_eq!(why, "it is not on the instance's interface yet");
    scene.guests.may_go_on.send_replace(true);
    scene.told("100.64.0.1", "active").await;
}

#[tokio::test]
async fn a_guest_that_fails_says_why_and_is_tried_again() {
    let mut scene = Scene::new().await;
    scene.guests.fail(Some("guest-exec is disabled"));
    scene.start_agent();
    scene.runs(vec![container(2)]);
    let answer = scene.alias(1, 2, 5).await;
    let plane = &answer["data_plane"];
    assert_eq!(plane["state"], "failing", "{answer}");
    let why = "it is not on the instance's interface: guest-exec is disabled";
    assert_eq!(plane["reason"], why);
    scene.guests.fail(None);
    scene.told("100.64.0.1", "active").await;

    // The host alone silences what cannot be taken off.
    scene.guests.fail(Some("it hangs"));
    let answer = scene.post("/elastic-ips/100.64.0.1/disassociate", "").await;
    assert_eq!(answer["data_plane"]["state"], "none", "{answer}");
    assert!(scene.kernel.aliases().is_empty());
    let other = scene.associate(7, 2).await;
    assert_eq!(other["data_plane"]["state"], "failing", "{other}");
    let why = "the instance's former elastic IP is still on its interface: it hangs";
    assert_eq!(other["data_plane"]["reason"], why);
    scene.guests.fail(None);
    scene.on_interfaces(&[]).await;
    scene.told("100.64.0.7", "active").await;
}

#[tokio::test]
async fn an_alias_follows_its_instance_through_its_lives_and_to_the_next() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2), container(3)]);
    scene.alias(1, 2, 5).await;
    scene.guests.put(2, None);
    scene.runs_anew(vec![container(2), container(3)]);
    scene.on_interfaces(&[(1, 2)]).await;

    scene.alias(1, 3, 5).await;
    scene.on_interfaces(&[(1, 3)]).await;
    assert_eq!(scene.kernel.aliases()[&pair(1, 3).0].private_ip, pair(1, 3).1);

    // Back to being rewritten, in place.
    let body = r#"{"instance_id": "web-3", "mode": "nat"}"#;
    let answer = scene.post("/elastic-ips/100.64.0.1/associate", body).await;
    assert_eq!(answer["data_plane"]["state"], "active", "{answer}");
    assert_eq!(answer["mode"], "nat");
    scene.on_interfaces(&[]).await;
    scene.in_force(&[(1, 3)]).await;
}

#[tokio::test]
async fn what_an_earlier_run_left_on_an_interface_is_taken_off() {
    let mut scene = Scene::new().await;
    let (public_ip, private_ip) = pair(9, 2);
    scene.guests.put(2, Some(Alias { public_ip, private_ip }));
    scene.guests.put(3, Some(Alias { public_ip: pair(8, 3).0, private_ip: pair(8, 3).1 }));
    scene.start_agent();
    scene.runs(vec![container(2), container(3)]);
    scene.alias(1, 3, 5).await;
    scene.on_interfaces(&[(1, 3)]).await;
}

#[tokio::test]
async fn an_instance_out_of_reach_for_the_mode_is_told_and_what_is_in_force_stays() {
    let mut scene = Scene::new().await;
    scene.start_agent();
    scene.runs(vec![container(2)]);
    scene.alias(1, 2, 5).await;
    let mut lost = container(2);
    lost.modes = vec![Mode::Nat];
    scene.runs(vec![lost]);
    let why = scene.told("100.64.0.1", "failing").await;
    assert!(why.contains("CAP_SYS_ADMIN"), "{why}");
    assert_eq!(scene.kernel.aliases().len(), 1);
    scene.runs(vec![container(2)]);
    scene.told("100.64.0.1", "active").await;

    // What cannot be taken off now is when it is within reach again.
    let mut lost = container(2);
    lost.modes = vec![Mode::Nat];
    scene.runs(vec![lost]);
    scene.told("100.64.0.1", "failing").await;
    scene.post("/elastic-ips/100.64.0.1/disassociate", "").await;
    let other = scene.associate(7, 2).await;
    let why = other["data_plane"]["reason"].as_str().unwrap_or_default();
    assert!(why.ends_with("out of reach"), "{other}");
    assert_eq!(scene.guests.on(), [pair(1, 2)]);
    scene.runs(vec![container(2)]);
    scene.on_interfaces(&[]).await;
    scene.told("100.64.0.7", "active").await;
}

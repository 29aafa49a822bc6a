//! Ends that nobody asked for: traffic that did not change is not interrupted.

use std::process::Stdio;

use eip_testkit::eventually;

use crate::scene::{SOON, Scene};

#[test]
fn a_killed_service_costs_no_packet_and_comes_back_to_the_same_rules() {
    let scene = Scene::new();
    let serving = scene.serve(&["--compute", "sandbox"]);
    scene.sandbox("web-1");
    scene.sandbox("web-2");
    let address = scene.eip_json("up web-1")["public_ip"].as_str().unwrap().to_owned();
    assert!(scene.page(&address).is_some());
    let before = scene.host.sh("nft -j list table ip eip");

    let mut ping = scene.world.command("ping");
    ping.args(["-i", "0.01", "-c", "600", "-q", &address]).stdout(Stdio::piped());
    let ping = ping.spawn().unwrap();
    serving.kill();
    assert!(scene.page(&address).is_some(), "it flows while nobody serves");
    let serving = scene.serve(&["--compute", "sandbox"]);
    eventually("the data plane to be told as active", SOON, || {
        let told = scene.eip_json(&format!("show {address}"));
        (told["data_plane"]["state"] == "active").then_some(())
    });
    serving.kill();
    let _serving = scene.serve(&["--compute", "sandbox"]);
    scene.eip("move web-1 web-2");
    scene.eip("move web-1 web-1");
    let said = ping.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("600 packets transmitted, 600 received, 0% packet loss"), "{said}");
    let after = scene.host.sh("nft -j list table ip eip");
    let maps = |text: &str| text.matches(address.as_str()).count();
    assert_eq!(maps(&after), maps(&before));
    assert!(scene.page(&address).unwrap().starts_with("web-1\n"));
}

#[test]
fn a_change_made_while_the_agent_was_away_is_made_up_for() {
    let scene = Scene::new();
    let serving = scene.serve(&["--compute", "sandbox"]);
    scene.sandbox("web-1");
    scene.sandbox("web-2");
    let address = scene.eip_json("up web-1")["public_ip"].as_str().unwrap().to_owned();
    serving.kill();
    let serving = scene.serve(&["--no-agent"]);
    let (code, out, _) = scene.try_eip("-o json move web-1 sandbox:web-2 --wait 0");
    assert_eq!(code, 0, "{out}");
    assert!(scene.page(&address).unwrap().starts_with("web-1\n"), "nobody has told the kernel yet");
    serving.kill();
    let _serving = scene.serve(&["--compute", "sandbox"]);
    eventually("the move to be made up for", SOON, || {
        scene.page(&address).filter(|page| page.starts_with("web-2\n"))
    });
}

#[test]
fn a_flushed_ruleset_is_mended() {
    let scene = Scene::new();
    let _serving = scene.serve(&["--compute", "sandbox"]);
    scene.sandbox("web-1");
    let address = scene.eip_json("up web-1")["public_ip"].as_str().unwrap().to_owned();
    scene.host.sh("nft flush ruleset");
    eventually("the rules to be back", SOON, || scene.page(&address));
}

#[test]
fn a_service_that_is_asked_to_stop_leaves_the_rules_in_place() {
    let scene = Scene::new();
    let serving = scene.serve(&["--compute", "sandbox"]);
    scene.sandbox("web-1");
    let address = scene.eip_json("up web-1")["public_ip"].as_str().unwrap().to_owned();
    serving.stop();
    assert!(scene.page(&address).is_some());
}

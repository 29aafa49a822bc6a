//! The whole story with a Docker engine of the test's own, on the host machine.

use eip_testkit::eventually;

use crate::engine::Engine;
use crate::scene::{SOON, Scene, WHO};

#[test]
fn an_address_is_pointed_at_a_container_reached_moved_and_given_back() {
    let scene = Scene::new();
    let engine = Engine::start(&scene);
    let foreign = scene.host.sh("iptables-save | grep -v '^#' | sed 's/\\[.*\\]//'");
    let _serving = scene.serve(&["--compute", &engine.compute()]);
    let container_id = engine.web("web-1", "");
    engine.web("web-2", "");
    let labelled = "f47ac10b-58cc-4372-a567-0e02c7d2e3f4";
    let note = r#"--label 'note=a "quoted" \ [{ü},'"#;
    engine.web("labelled", &format!("--label eip.instance-id={labelled} {note}"));
    engine.docker("run -d --name on-host --network host eip-test httpd -f -p 8099");
    engine.docker("run -d --name alone --network none eip-test httpd -f");
    scene.known("on-host");
    scene.known("alone");

    let web_1 = scene.eip_json("instance show web-1");
    let expected = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, container_id.as_bytes());
    assert_eq!(web_1["id"], expected.to_string());
    assert_eq!(scene.eip_json("instance show labelled")["id"], labelled);
    let why = |name: &str| scene.eip_json(&format!("instance show {name}"))["reason"].clone();
    assert!(why("on-host").as_str().unwrap().contains("network of its host"), "{}", why("on-host"));
    assert!(why("alone").as_str().unwrap().contains("IPv4"), "{}", why("alone"));

    let made = scene.eip_json("allocate");
    let (id, address) = (made["id"].as_str().unwrap(), made["public_ip"].as_str().unwrap());
    let (status, after) = scene.curl(&format!(
        r#"-X POST http://localhost:8080/elastic-ips/{id}/associate -H "X-API-Key: $API_KEY" \
           -d '{{"instance_id": "{expected}"}}'"#
    ));
    assert_eq!((status, &after["data_plane"]["state"]), (200, &"active".into()), "{after}");
    let first = eventually("the page of the first container", SOON, || scene.page(address));
    assert_eq!(first, "web-1\n");
    assert_eq!(engine.docker(&format!("exec web-1 wget -q -O - {WHO}")), address);

    // A container reaches itself by its own elastic IP, with bridged frames filtered as Docker has it.
    scene.host.sh("echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables");
    let itself = eventually("the container to reach itself", SOON, || {
        let asked = scene
            .host
            .try_sh(&engine.line(&format!("exec web-1 timeout 2 wget -q -O - http://{address}")));
        asked.status.success().then(|| String::from_utf8_lossy(&asked.stdout).into_owned())
    });
    assert_eq!(itself, "web-1\n");

    scene.eip(&format!("move {address} docker:web-2"));
    assert_eq!(scene.page(address).unwrap(), "web-2\n");
    assert_eq!(engine.docker(&format!("exec web-2 wget -q -O - {WHO}")), address);
    assert_eq!(engine.docker(&format!("exec web-1 wget -q -O - {WHO}")), "192.0.2.1");
    let code = scene.try_eip(&format!("move {address} docker:on-host")).0;
    assert_eq!(code, 5);

    scene.eip(&format!("disassociate {address}"));
    assert_eq!(scene.page(address), None);
    scene.eip(&format!("release {address}"));

    let now = scene.host.sh("iptables-save | grep -v '^#' | sed 's/\\[.*\\]//'");
    let ours: Vec<_> = now.lines().filter(|line| !foreign.contains(line)).collect();
    assert!(ours.iter().all(|line| line.contains("DOCKER-USER")), "{ours:#?}");
    assert!(foreign.lines().all(|line| now.contains(line)), "Docker's own rules stay");
}

#[test]
fn a_restarted_container_is_followed_to_its_new_address() {
    let scene = Scene::new();
    let engine = Engine::start(&scene);
    let _serving = scene.serve(&["--compute", &engine.compute()]);
    engine.web("web-1", "");
    let address = scene.eip_json("up docker:web-1")["public_ip"].as_str().unwrap().to_owned();
    eventually("its page", SOON, || scene.page(&address));
    engine.docker("stop -t 0 web-1");
    engine.web("heir", "");
    assert_eq!(scene.page(&address), None, "the heir of the private address is not reached");
    engine.docker("start web-1");
    let page = eventually("its page", SOON, || scene.page(&address));
    assert_eq!(page, "web-1\n");
    engine.docker("rm -f web-1");
    eventually("the association to end", SOON, || {
        (scene.eip_json(&format!("show {address}"))["status"] == "allocated").then_some(())
    });
}

#[test]
fn an_engine_that_hangs_or_vanishes_is_told_and_traffic_goes_on() {
    let scene = Scene::new();
    let engine = Engine::start(&scene);
    let _serving = scene.serve(&["--compute", &engine.compute()]);
    engine.web("web-1", "");
    let address = scene.eip_json("up docker:web-1")["public_ip"].as_str().unwrap().to_owned();
    eventually("its page", SOON, || scene.page(&address));
    let told = |state: &str| {
        let plane = scene.eip_json(&format!("show {address}"))["data_plane"].clone();
        (plane["state"] == state).then(|| plane["reason"].as_str().unwrap_or_default().to_owned())
    };
    engine.daemon.signal("STOP");
    let reason = eventually("the hanging engine to be told", SOON, || told("unknown"));
    assert!(reason.contains("docker does not answer"), "{reason}");
    assert!(scene.page(&address).is_some());
    scene.eip("allocate");
    engine.daemon.signal("CONT");
    eventually("the engine to be back", SOON, || told("active"));
    let Engine { daemon, .. } = engine;
    daemon.kill();
    eventually("the lost engine to be told", SOON, || told("unknown"));
    assert!(scene.page(&address).is_some());
}

const FLUSHED: &str = "iptables -F DOCKER-USER";

/// What a reload of another's firewall does: its own view of the rules comes back.
const RELOADED: &str =
    "iptables-save -t filter | grep -v 'comment eip' | iptables-restore -T filter";

/// The same by somebody who knows no table but their own.
const RULESET_FLUSHED: &str = "nft flush ruleset; iptables -P FORWARD DROP; \
     iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER; \
     iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";

#[test]
fn dockers_firewall_is_looked_after_when_rules_are_lost_or_the_engine_is_started_anew() {
    let scene = Scene::new();
    is_looked_after(&scene, &[FLUSHED, RELOADED, RULESET_FLUSHED]);
}

#[test]
fn so_it_is_where_iptables_is_the_legacy_one() {
    let scene = Scene::new();
    scene.host.sh("mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi");
    assert!(scene.host.sh("iptables --version").contains("legacy"));
    is_looked_after(&scene, &[FLUSHED, RELOADED]);
    assert!(!scene.host.sh("nft list tables").contains("filter"), "it was the legacy one");
}

fn is_looked_after(scene: &Scene, deeds: &[&str]) {
    let engine = Engine::start(scene);
    let _serving = scene.serve(&["--compute", &engine.compute()]);
    engine.web("web-1", "");
    let address = scene.eip_json("up docker:web-1")["public_ip"].as_str().unwrap().to_owned();
    eventually("its page", SOON, || scene.page(&address));
    for deed in deeds {
        scene.host.sh(deed);
        let again = eventually("its page, again", SOON, || scene.page(&address));
        assert_eq!(again, "web-1\n", "{deed}");
        let rules = || scene.host.sh("iptables -S DOCKER-USER").contains("comment eip");
        eventually("the accept to be back", SOON, || rules().then_some(()));
    }
    eventually("an event that says so", SOON, || {
        let accepts = |what: &String| what.starts_with("the accepts in Docker's firewall");
        scene.mended().iter().any(accepts).then_some(())
    });
    engine.docker("kill web-1");
    let Engine { daemon, .. } = engine;
    daemon.stop();
    let engine = Engine::start(scene);
    engine.docker("start web-1");
    let again = eventually("its page, with the new engine", SOON, || scene.page(&address));
    assert_eq!(again, "web-1\n");
    eventually("it to be said", SOON, || scene.log().contains("Mended").then_some(()));
}

//! Ends that nobody asked for: traffic that did not change is not interrupted.

use std::fs::File;
use std::process::{Command, Stdio};

use eip_testkit::eventually;
use eip_testkit::postgres::TestCluster;

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
    assert_eq!(scene.mended(), Vec::<String>::new(), "nobody has touched anything");
    scene.host.sh("nft flush ruleset");
    eventually("the rules to be back", SOON, || scene.page(&address));
    eventually("an event that says so", SOON, || {
        let table = |what: &String| what.starts_with("the nftables table of elastic IPs");
        scene.mended().iter().any(table).then_some(())
    });
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

/// What a client asks that may have to ask again.
fn allocate_once(scene: &Scene, key: &str) -> Command {
    let admin = std::fs::read_to_string(scene.data_dir().join("admin.key")).unwrap();
    let mut curl = scene.host.command("curl");
    curl.args(["-s", "-i", "-X", "POST", "http://localhost:8080/elastic-ips"]);
    curl.args(["-H", &format!("X-API-Key: {}", admin.trim())]);
    curl.args(["-H", &format!("Idempotency-Key: {key}")]).stdout(Stdio::piped());
    curl
}

fn answer_to(mut curl: Command) -> String {
    let said = curl.output().unwrap().stdout;
    String::from_utf8_lossy(&said).into_owned()
}

/// Asks the cluster as its operator.
fn operate(scene: &Scene, cluster: &TestCluster, statements: &[&str]) -> String {
    let mut psql = scene.host.command("psql");
    psql.args(["-qtAX", &cluster.url("postgres")]);
    for statement in statements {
        psql.args(["-c", statement]);
    }
    let done = psql.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// PostgreSQL has committed and waits for a standby, so the service cannot have answered yet.
#[test]
fn a_service_killed_between_commit_and_answer_gives_the_answer_to_whoever_asks_again() {
    let scene = Scene::new();
    let cluster = TestCluster::private("synchronous_commit = on");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = runtime.block_on(cluster.fresh_database());
    let options = ["--no-agent", "--database", &url];
    let serving = scene.serve(&options);
    let first = answer_to(allocate_once(&scene, "before"));
    assert!(first.starts_with("HTTP/1.1 201"), "{first}");
    operate(
        &scene,
        &cluster,
        &["ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"],
    );
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    // The first ones may be through before all of PostgreSQL has read the new settings.
    let mut asked = 0;
    let mut asking = eventually("a commit waits", SOON, || {
        asked += 1;
        let mut curl = allocate_once(&scene, &format!("key-{asked}")).spawn().unwrap();
        eventually("it is answered or waits", SOON, || {
            let waiting = operate(&scene, &cluster, &[waits]) == "1";
            (waiting || curl.try_wait().unwrap().is_some()).then_some(waiting)
        })
        .then_some(curl)
    });
    serving.kill();
    let cut_off = asking.wait().unwrap();
    assert!(!cut_off.success(), "it was answered");
    operate(
        &scene,
        &cluster,
        &["ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"],
    );

    let serving = scene.serve(&options);
    let again = answer_to(allocate_once(&scene, &format!("key-{asked}")));
    assert!(again.starts_with("HTTP/1.1 201"), "{again}");
    assert!(again.to_lowercase().contains("idempotent-replayed: true"), "{again}");
    let list = scene.eip_json("list");
    assert_eq!(list["items"].as_array().unwrap().len(), asked + 1, "each is held once: {list}");
    serving.stop();
}

/// On SQLite there is no such place to stop at, so it is killed at many.
#[test]
fn whoever_asks_again_after_a_kill_holds_one_address_for_each_key() {
    let scene = Scene::new();
    let mut keys = 0;
    for round in 0..3 {
        let serving = scene.serve(&["--no-agent"]);
        let admin = std::fs::read_to_string(scene.data_dir().join("admin.key")).unwrap();
        let count = 2_000;
        let asks: Vec<String> = (0..count)
            .map(|n| {
                format!(
                    "url = http://localhost:8080/elastic-ips\nrequest = POST\nsilent\noutput = /dev/null\n\
                     header = \"X-API-Key: {}\"\nheader = \"Idempotency-Key: {round}-{n}\"\n\
                     write-out = \"%{{http_code}}\\n\"\n",
                    admin.trim()
                )
            })
            .collect();
        let config = scene.folder.path().join("asks");
        std::fs::write(&config, asks.join("next\n")).unwrap();
        let said = scene.folder.path().join(format!("said-{round}"));
        let ask = || {
            let mut curl = scene.host.command("curl");
            curl.args(["-Z", "--parallel-max", "16", "-K"]).arg(&config);
            curl.stdout(File::create(&said).unwrap()).stderr(Stdio::null());
            curl
        };
        let answered = || std::fs::read_to_string(&said).unwrap().matches("201\n").count();
        let mut asking = ask().spawn().unwrap();
        eventually("some are answered", SOON, || (answered() > 50).then_some(()));
        serving.kill();
        asking.wait().unwrap();
        let before = answered();
        assert!(before < count, "it was killed too late");

        let serving = scene.serve(&["--no-agent"]);
        ask().status().unwrap();
        assert_eq!(answered(), count, "{before} were answered before");
        keys += count;
        let (_, pools) = scene.curl("http://localhost:8080/pools -H \"X-API-Key: $API_KEY\"");
        assert_eq!(pools["items"][0]["allocated"], keys, "{pools}");
        serving.stop();
    }
}

#[test]
fn a_host_that_was_started_anew_carries_what_it_carried_while_the_server_is_down() {
    let scene = Scene::new();
    let serving = scene.serve(&["--compute", "sandbox"]);
    scene.sandbox("web-1");
    let address = scene.eip_json("up web-1")["public_ip"].as_str().unwrap().to_owned();
    assert!(scene.page(&address).is_some());
    let kept = scene.data_dir().join("agent.json");
    eventually("the desired set to be on disk", SOON, || {
        // In one of the two: it may be what has changed since the first was written.
        let text = [&kept, &kept.with_extension("log")].map(std::fs::read_to_string);
        text.into_iter().flatten().find(|text| text.contains(&address))
    });
    serving.kill();
    // What a boot takes away, and the sign of one.
    scene.host.sh("nft flush ruleset; ip route flush table local proto 225; \
         echo 0 > /proc/sys/net/ipv4/ip_forward; echo another > /run/boot_id; \
         mount --bind /run/boot_id /proc/sys/kernel/random/boot_id");
    assert!(scene.page(&address).is_none());
    let _agent = scene.agent(&["--compute", "sandbox"]);
    let page = eventually("its page, with no server", SOON, || scene.page(&address));
    assert!(page.starts_with("web-1\n"), "{page}");
    eventually("the boot to be noted", SOON, || {
        std::fs::read_to_string(&kept).ok().filter(|text| text.contains("another"))
    });
}

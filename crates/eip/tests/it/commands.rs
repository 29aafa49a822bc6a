//! The command line: what it prints, and its exit codes.

use crate::scene::Scene;

#[test]
fn every_command_says_what_it_did_and_how_it_ended() {
    let scene = Scene::new();
    let _serving = scene.serve(&["--compute", "sandbox"]);
    scene.sandbox("web-1");
    scene.sandbox("web-2");

    let made = scene.eip_json("allocate --name web --tag env=prod");
    assert_eq!((&made["name"], &made["tags"]["env"]), (&"web".into(), &"prod".into()));
    let address = made["public_ip"].as_str().unwrap();
    let id = made["id"].as_str().unwrap();
    for word in ["web", address, id, &id[..8]] {
        assert_eq!(scene.eip_json(&format!("show {word}"))["id"], id, "by {word}");
    }
    assert_eq!(scene.eip("list -q").trim(), address);
    assert_eq!(scene.eip("list --tag env=test"), "");
    let columns: Vec<_> =
        scene.eip("associate web web-1").trim().split('\t').map(str::to_owned).collect();
    assert_eq!(columns[..5], [address, "web", "associated", "web-1", "h1"]);

    let (code, out, err) = scene.try_eip("associate web web-2");
    assert_eq!((code, out.as_str()), (5, ""));
    assert!(err.starts_with("error[already_associated]: ") && err.contains("fix: "), "{err}");
    let (code, out, err) = scene.try_eip("-o json release web");
    assert_eq!((code, err.as_str()), (5, ""));
    let problem: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(problem["code"], "still_associated");

    for (args, expected) in [
        ("show 100.64.0.77", 3),
        ("show nothing-of-the-sort", 3),
        ("associate web nobody", 3),
        ("allocate --name web", 5),
        ("asociate web web-1", 2),
        ("list --status lost", 2),
        ("--api-key-file /nowhere list", 4),
        ("--url http://127.0.0.1:1 list", 8),
        ("sandbox add web-1", 5),
        ("sandbox stop nobody", 3),
        ("sandbox add A_b", 2),
    ] {
        let (code, out, err) = scene.try_eip(args);
        assert_eq!(code, expected, "eip {args}: {out}{err}");
    }
    let (code, out, err) = scene.try_eip("-o json asociate web web-1");
    assert_eq!((code, err.as_str()), (2, ""));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["code"], "usage");
    let (code, _, err) = scene.try_eip("--api-key-file /etc/hostname list");
    assert_eq!(code, 4, "{err}");

    assert_eq!(scene.eip_json("up web-1")["id"], id, "up is safe to repeat");
    assert_eq!(scene.eip_json("host list")["items"][0]["data_plane"], "ready");
    assert_eq!(scene.eip_json("pool list")["items"][0]["associated"], 1);
    let moved = scene.eip_json("move web web-2");
    assert_eq!(moved["instance_name"], "web-2");
    scene.eip("disassociate web");
    assert_eq!(scene.eip("release web").trim(), format!("{address} released"));
    assert_eq!(scene.eip_json("list")["items"].as_array().unwrap().len(), 0);
}

#[test]
fn administrators_make_and_unmake_projects_keys_and_pools() {
    let scene = Scene::new();
    let _serving = scene.serve(&["--no-agent"]);
    let cells = |args: &str| -> Vec<String> {
        scene.eip(args).trim().split('\t').map(str::to_owned).collect()
    };
    assert_eq!(cells("project create acme --quota 3")[..3], ["acme", "0", "3"]);
    assert_eq!(cells("project set acme --no-quota")[..3], ["acme", "0", "-"]);
    let key = scene.eip_json("key create --role member --project acme --name ci");
    let id = key["id"].as_str().unwrap();
    assert_eq!(scene.eip_json("key list")["items"].as_array().unwrap().len(), 2);
    assert_eq!(scene.eip(&format!("key revoke {id}")).trim(), format!("{id} revoked"));
    let listed = scene.eip("key list");
    let line = listed.lines().find(|line| line.starts_with(id)).unwrap();
    assert_eq!(line.split('\t').collect::<Vec<_>>()[1..5], ["ci", "member", "acme", "revoked"]);
    assert_eq!(scene.eip("project delete acme").trim(), "acme deleted");

    let pool = cells("pool create edge 203.0.113.0/28 --reserve 203.0.113.5 --quarantine 0");
    assert_eq!(pool[..3], ["edge", "203.0.113.0/28", "13"]);
    assert_eq!(cells("pool grow edge 198.51.100.0/30")[2], "15");
    scene.eip("allocate --pool edge --address 203.0.113.9 --name web --protected");
    assert_eq!(scene.try_eip("release web").0, 5);
    scene.eip("unprotect web");
    scene.eip("release web");
    let history = cells("history 203.0.113.9");
    assert_eq!(history[2..5], ["default", "web", "(held)"]);
    assert_eq!(cells("pool drain edge")[7], "draining");
    let (code, _, err) = scene.try_eip("allocate --pool edge");
    assert!(code == 5 && err.starts_with("error[pool_draining]"), "{code}: {err}");
    assert_eq!(scene.eip("pool delete edge").trim(), "edge deleted");
    assert_eq!(scene.try_eip("pool show edge").0, 3);
}

#[test]
fn a_first_start_says_what_there_is_and_what_to_type_next() {
    let scene = Scene::new();
    let _serving = scene.serve(&[]);
    let told = || Some(scene.log()).filter(|log| log.contains("next, in another terminal"));
    let log = eip_testkit::eventually("the first words", crate::scene::SOON, told);
    let key = scene.data_dir().join("admin.key");
    for part in [
        "http://127.0.0.1:8080",
        key.to_str().unwrap(),
        "sandbox",
        "data plane ready",
        "eip allocate",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let (status, _) = scene.curl("http://localhost:8080/elastic-ips -H 'X-API-Key: wrong'");
    assert_eq!(status, 401);
}

#[test]
fn without_the_rights_it_says_so_and_runs_on() {
    let scene = Scene::new();
    let data = scene.data_dir();
    std::fs::create_dir_all(&data).unwrap();
    std::os::unix::fs::chown(&data, Some(65534), Some(65534)).unwrap();
    std::os::unix::fs::chown(scene.folder.path(), Some(65534), Some(65534)).unwrap();
    let eip = env!("CARGO_BIN_EXE_eip");
    let copy = scene.folder.path().join("eip");
    std::fs::copy(eip, &copy).unwrap();
    let mut command = scene.host.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
    command.arg(&copy).args(["serve", "--compute", "sandbox", "--data-dir"]).arg(&data);
    command.env("HOME", scene.folder.path());
    let log = std::fs::File::create(scene.folder.path().join("serve.log")).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log);
    let _serving = scene.host.daemon(command);
    let ready = || {
        let asked = scene.host.try_sh("curl -sf http://localhost:8080/readyz");
        asked.status.success().then_some(())
    };
    eip_testkit::eventually("the service to be ready", crate::scene::SOON, ready);
    scene.sandbox("web-1");
    let after = scene.eip_json("up web-1");
    assert_eq!(after["data_plane"]["state"], "none", "{after}");
    assert!(after["data_plane"]["reason"].as_str().unwrap().contains("CAP_NET_ADMIN"), "{after}");
    assert!(scene.log().contains("none: "), "{}", scene.log());
}

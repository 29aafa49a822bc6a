//! Looking after the record: copies of it, and another database for it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use eip_testkit::postgres::TestCluster;
use serde_json::Value;

use crate::scene::Scene;

/// Starts the service on another record, asks for what is held there, and ends it.
fn held(scene: &Scene, database: &str) -> Value {
    let serving = scene.serve(&["--no-agent", "--database", database]);
    let mut list = scene.eip_json("list");
    serving.stop();
    list["items"].take()
}

#[test]
fn a_backup_is_made_while_the_service_runs_and_is_served_in_its_place() {
    let scene = Scene::new();
    let serving = scene.serve(&["--no-agent"]);
    let id = scene.eip_json("allocate --name web")["id"].take();
    let file = scene.folder.path().join("copy.db");
    let made = scene.eip_json(&format!("backup {}", file.display()));
    assert_eq!((&made["elastic_ips"], &made["last_event"]), (&1.into(), &1.into()), "{made}");
    assert_eq!(made["bytes"], file.metadata().unwrap().len());
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    scene.eip("allocate --name later");
    let other = scene.folder.path().join("other.db");
    let said = scene.eip(&format!("backup {}", other.display()));
    assert!(said.contains("2 elastic IPs"), "{said}");
    serving.stop();

    let items = held(&scene, &format!("sqlite:{}", file.display()));
    assert_eq!(items.as_array().unwrap().len(), 1);
    assert_eq!(items[0]["id"], id);
}

#[test]
fn a_backup_that_cannot_be_made_says_why_and_what_to_do() {
    let scene = Scene::new();
    let serving = scene.serve(&["--no-agent"]);
    scene.eip("allocate --name web");
    let folder = scene.folder.path().display().to_string();
    let full = "/run/small";
    scene.host.sh(&format!("mkdir {full} && mount -t tmpfs -o size=64k tmpfs {full}"));
    for (args, expected, code, hint) in [
        (format!("backup {folder}/serve.log"), 5, "file_exists", "not there"),
        (
            format!("backup {folder}/a --database sqlite:{folder}/none"),
            3,
            "record_not_found",
            "--data-dir",
        ),
        (format!("backup {folder}/a --database postgres://eip@db/eip"), 2, "usage", "pg_dump"),
        (format!("backup {folder}/a --database eip.db"), 2, "usage", "sqlite:PATH"),
        (
            format!("backup {folder}/a --database sqlite:{folder}/serve.log"),
            1,
            "record_damaged",
            "put a backup",
        ),
        (format!("backup {folder}/no/a"), 1, "other", "folder"),
        (format!("backup {full}/a"), 1, "no_space", "another disk"),
    ] {
        let (exit, out, err) = scene.try_eip(&args);
        assert_eq!((exit, out.as_str()), (expected, ""), "eip {args}: {err}");
        assert!(err.starts_with(&format!("error[{code}]")) && err.contains(hint), "{args}: {err}");
    }
    assert!(!Path::new(&format!("{folder}/a")).exists());
    assert_eq!(scene.host.sh(&format!("ls {full}")), "", "nothing is left of it");
    scene.eip("allocate --name next");
    serving.stop();
}

fn fresh_database() -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(TestCluster::shared().fresh_database())
}

#[test]
fn a_record_is_imported_into_postgresql_and_served_from_there() {
    let scene = Scene::new();
    let serving = scene.serve(&["--compute", "sandbox"]);
    scene.sandbox("web-1");
    let web = scene.eip_json("up web-1");
    scene.eip("allocate --name gone");
    scene.eip("release gone");
    let from = format!("sqlite:{}", scene.data_dir().join("eip.db").display());
    let to = fresh_database();
    let import = format!("import --from {from} --to '{to}'");
    let (code, out, err) = scene.try_eip(&import);
    assert_eq!((code, out.as_str()), (5, ""), "{err}");
    assert!(err.starts_with("error[record_in_use]") && err.contains("stop the service"), "{err}");
    serving.stop();

    let imported = scene.eip_json(&import);
    assert_eq!(imported["last_event"], 4, "{imported}");
    let rows = &imported["rows"];
    assert_eq!((&rows["past_allocation"], &rows["event"]), (&1.into(), &4.into()));
    assert!(imported["next"].as_str().unwrap().contains("--database"), "{imported}");
    let serving = scene.serve(&["--compute", "sandbox", "--database", &to]);
    let shown = scene.eip_json("show web-1");
    for part in ["id", "public_ip", "instance_id", "allocated_at", "associated_at"] {
        assert_eq!(shown[part], web[part], "{part}");
    }
    let address = web["public_ip"].as_str().unwrap();
    assert!(scene.page(address).unwrap().starts_with("web-1\n"), "the rules stay in force");
    assert_eq!(scene.eip_json("disassociate web-1")["status"], "allocated");
    serving.stop();

    let (code, out, err) = scene.try_eip(&import);
    assert_eq!((code, out.as_str()), (5, ""), "{err}");
    assert!(err.starts_with("error[database_not_empty]") && err.contains("createdb"), "{err}");
    let said = scene.eip(&format!("import --from {from} --to '{}'", fresh_database()));
    assert!(said.contains("event\t4\n") && said.contains("next: start eip serve"), "{said}");
    let dead = "postgres://eip@127.0.0.1:1/eip";
    for (args, expected, words) in [
        (format!("import --from '{to}' --to {from}"), 2, "no other way"),
        (format!("import --from {from}x --to '{to}'"), 3, "no record at"),
        (format!("import --from nonsense --to '{to}'"), 2, "write --from sqlite:PATH"),
        (format!("import --from {from} --to mysql://db"), 2, "write --to postgres://"),
        (format!("import --from {from} --to {dead}"), 1, "--to: cannot open the database to"),
        (format!("import --from {from} --to {dead}"), 1, "nothing was imported"),
    ] {
        let (code, out, err) = scene.try_eip(&args);
        assert_eq!(code, expected, "eip {args}: {out}{err}");
        assert!(err.contains(words), "eip {args}: {out}{err}");
    }
}

//! Disks that are full, read-only or have lost something.

use std::collections::BTreeSet;
use std::time::Duration;

use eip_testkit::eventually;

use crate::scene::{SOON, Scene};

/// A disk of four megabytes on the machine.
const DISK: &str = "/run/disk";
const RECORD: &str = "sqlite:/run/disk/eip.db";

fn with_disk() -> Scene {
    let scene = Scene::new();
    scene.host.sh(&format!("mkdir {DISK} && mount -t tmpfs -o size=4m tmpfs {DISK}"));
    scene
}

/// Runs `eip serve` to its end, which is soon; returns the exit code and what it printed about it.
fn try_serve(scene: &Scene, database: &str) -> (i32, String) {
    let (code, _, err) = scene.try_eip(&format!("serve --no-agent --database {database}"));
    (code, err)
}

fn held(scene: &Scene) -> BTreeSet<String> {
    let list = scene.eip_json("list");
    let ids = list["items"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap());
    ids.map(str::to_owned).collect()
}

#[test]
fn a_full_disk_stops_changes_only_and_only_while_it_is_full() {
    let scene = with_disk();
    let options = ["--no-agent", "--database", RECORD];
    let serving = scene.serve(&options);
    let allocate = || {
        let (status, body) =
            scene.curl("-X POST http://localhost:8080/elastic-ips -H \"X-API-Key: $API_KEY\"");
        (status, body["id"].as_str().map(str::to_owned))
    };
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    acknowledged.extend(allocate().1);
    for _ in 0..2 {
        // All that is left.
        scene.host.try_sh(&format!("cat /dev/zero > {DISK}/filler"));
        eventually("the disk to be full", SOON, || match allocate() {
            (201, id) => {
                acknowledged.extend(id);
                None
            }
            (503, _) => Some(()),
            other => panic!("{other:?}"),
        });
        let key = std::fs::read_to_string(scene.data_dir().join("admin.key")).unwrap();
        let headers = scene.host.sh(&format!(
            "curl -s -o /dev/null -D - -X POST http://localhost:8080/elastic-ips -H 'X-API-Key: {}'",
            key.trim()
        ));
        assert!(headers.to_lowercase().contains("\nretry-after: "), "{headers}");
        assert!(held(&scene).is_superset(&acknowledged), "reads go on");
        let (code, _, err) = scene.try_eip("allocate");
        assert_eq!(code, 8, "{err}");

        scene.host.sh(&format!("rm {DISK}/filler"));
        let after = allocate();
        assert_eq!(after.0, 201, "it writes again: {}", scene.log());
        acknowledged.extend(after.1);
    }
    let before = held(&scene);
    assert!(before.is_superset(&acknowledged));
    serving.kill();
    let serving = scene.serve(&options);
    assert_eq!(held(&scene), before);
    serving.stop();

    scene.host.try_sh(&format!("rm {DISK}/eip.db*; cat /dev/zero > {DISK}/filler"));
    let (code, err) = try_serve(&scene, RECORD);
    assert!(code == 1 && err.starts_with("error[record]") && err.contains("has space"), "{err}");
}

#[test]
fn a_record_that_must_not_be_written_is_refused_with_a_word_about_it() {
    let scene = with_disk();
    let serving = scene.serve(&["--no-agent", "--database", RECORD]);
    scene.eip("allocate --name web");
    serving.stop();
    scene.host.sh(&format!("mount -o remount,ro {DISK}"));
    let (code, err) = try_serve(&scene, RECORD);
    assert_eq!(code, 1, "{err}");
    assert!(err.starts_with("error[record]: ") && err.contains("Read-only file system"), "{err}");
    assert!(err.contains(DISK) && err.contains("may be written"), "{err}");
    scene.host.sh(&format!("mount -o remount,rw {DISK}"));
    let serving = scene.serve(&["--no-agent", "--database", RECORD]);
    assert_eq!(scene.eip_json("show web")["name"], "web");
    serving.stop();
}

#[test]
fn a_damaged_record_is_refused_by_name_and_its_backup_takes_its_place() {
    let scene = with_disk();
    let serving = scene.serve(&["--no-agent", "--database", RECORD]);
    scene.eip("allocate --name web");
    scene.eip(&format!("backup {DISK}/copy.db --database {RECORD}"));
    serving.stop();
    let sum = || scene.host.sh(&format!("sha256sum < {DISK}/eip.db"));
    for damage in [
        format!("truncate -s 40000 {DISK}/eip.db"),
        format!("truncate -s 8192 {DISK}/eip.db"),
        format!("head -c 100000 /dev/urandom > {DISK}/eip.db"),
    ] {
        scene.host.sh(&damage);
        let before = sum();
        let (code, err) = try_serve(&scene, RECORD);
        assert_eq!(code, 1, "{damage}: {err}");
        assert!(err.starts_with("error[record_damaged]: "), "{damage}: {err}");
        assert!(err.contains(&format!("{DISK}/eip.db")) && err.contains("backup"), "{err}");
        assert!(!err.contains("panicked"), "{err}");
        assert_eq!(sum(), before, "it was changed");
    }
    scene.host.sh(&format!("rm {DISK}/eip.db*; mv {DISK}/copy.db {DISK}/eip.db"));
    let serving = scene.serve(&["--no-agent", "--database", RECORD]);
    assert_eq!(scene.eip_json("show web")["name"], "web");
    serving.stop();
}

/// PostgreSQL on the machine, with its tables on one small disk and its log on another.
const MAKE_CLUSTER: &str = "
    mkdir -p /run/tables /run/log /run/socket
    mount -t tmpfs -o size=80m tmpfs /run/tables && mount -t tmpfs -o size=40m tmpfs /run/log
    chown postgres: /run/tables /run/log /run/socket
    cd / && runuser -u postgres -- $bin/initdb -D /run/tables/data -X /run/log/wal -U postgres \
        -A trust -E UTF8 --locale=C --no-sync --wal-segsize=1
    printf '%s\\n' \"listen_addresses = ''\" \"unix_socket_directories = '/run/socket'\" \
        'fsync = off' 'autovacuum = off' 'min_wal_size = 2MB' 'max_wal_size = 30MB' \
        >>/run/tables/data/postgresql.conf";
const START_CLUSTER: &str =
    "cd / && runuser -u postgres -- $bin/pg_ctl -w -D /run/tables/data -l /run/socket/log start";
const ON_CLUSTER: &str = "postgres:///postgres?host=/run/socket&user=postgres";

/// Runs a line of shell that knows where the programs of PostgreSQL are; whether it succeeded.
fn with_programs(scene: &Scene, line: &str) -> bool {
    let newest = "bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)";
    let quiet = "exec </dev/null >/run/said 2>&1";
    scene.host.try_sh(&format!("{newest}; {quiet}; {line}")).status.success()
}

/// Asks for many addresses on one connection; returns those that were given, and the other statuses.
fn allocate_many(scene: &Scene) -> (BTreeSet<String>, BTreeSet<String>) {
    let key = std::fs::read_to_string(scene.data_dir().join("admin.key")).unwrap();
    let said = scene.host.try_sh(&format!(
        "curl -s -X POST -H 'X-API-Key: {}' -w '\\n%{{http_code}}\\n' \
         'http://localhost:8080/elastic-ips#[1-200]'",
        key.trim()
    ));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let (mut ids, mut others) = (BTreeSet::new(), BTreeSet::new());
    let lines: Vec<&str> = said.lines().collect();
    for answer in lines.chunks(2) {
        match answer {
            [body, "201"] => {
                let body: serde_json::Value = serde_json::from_str(body).unwrap();
                ids.insert(body["id"].as_str().unwrap().to_owned());
            }
            [_, other] => {
                others.insert((*other).to_owned());
            }
            other => panic!("half an answer: {other:?}"),
        }
    }
    (ids, others)
}

/// Every elastic IP that the database has.
fn in_database(scene: &Scene) -> BTreeSet<String> {
    let list = scene.host.sh("psql -h /run/socket -U postgres -qtAXc 'SELECT id FROM elastic_ip'");
    list.lines().map(str::to_owned).collect()
}

/// A machine with much else to do takes its time to fill what PostgreSQL has set aside for its log.
const SOME_DAY: Duration = Duration::from_secs(300);

#[test]
fn a_full_disk_of_postgresql_stops_changes_only_while_it_is_full() {
    let scene = Scene::new();
    let said = || scene.host.sh("cat /run/said /run/socket/log");
    assert!(
        with_programs(&scene, MAKE_CLUSTER) && with_programs(&scene, START_CLUSTER),
        "{}",
        said()
    );
    let serving = scene.serve(&["--no-agent", "--database", ON_CLUSTER]);
    let mut acknowledged = BTreeSet::new();
    // Without room for its log PostgreSQL ends, and does not come up again until there is some.
    for (disk, ends) in [("/run/tables", false), ("/run/log", true), ("/run/tables", false)] {
        scene.host.try_sh(&format!("cat /dev/zero > {disk}/filler"));
        eventually(&format!("{disk} to be full"), SOME_DAY, || {
            if ends {
                // It has up to 30 segments of its log in stock, and goes on until they are used up.
                with_programs(
                    &scene,
                    "psql -h /run/socket -U postgres -qc 'SELECT pg_switch_wal()'",
                );
            }
            let (ids, others) = allocate_many(&scene);
            acknowledged.extend(ids);
            assert!(others.iter().all(|status| status == "503"), "{disk}: {others:?}");
            (!others.is_empty()).then_some(())
        });
        let (status, _) = scene.curl("http://localhost:8080/healthz");
        assert_eq!(status, 200);
        if !ends {
            assert!(in_database(&scene).is_superset(&acknowledged), "reads go on");
        }
        scene.host.sh(&format!("rm {disk}/filler"));
        eventually("it goes on", SOME_DAY, || {
            // As an init system does; while it runs this does nothing.
            with_programs(&scene, START_CLUSTER);
            let (ids, others) = allocate_many(&scene);
            acknowledged.extend(ids);
            assert!(others.iter().all(|status| status == "503"), "{disk}: {others:?}");
            others.is_empty().then_some(())
        });
        assert!(in_database(&scene).is_superset(&acknowledged), "nothing acknowledged is lost");
        if ends {
            assert!(said().contains("PANIC"), "the disk of the log was full: {}", said());
        }
    }
    serving.stop();
}

//! Copies of a record that is in use.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use eip_model::{EventKind, Mend};
use eip_store::{BackupError, OpenError, backup, open};
use eip_testkit::postgres::TestCluster;

use crate::raw::execute;
use crate::whole::Whole;
use crate::world::{Kind, World, at, host, new_allocation, take};

fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_copy_answers_as_the_record_did_and_can_be_written_to() {
    let world = World::new(Kind::Sqlite).await;
    world.report("hv1", &[1, 2]).await;
    let (eip, other) = (world.hold(1).await, world.hold(2).await);
    world.point(&eip, 1).await;
    world.release(&other).await.unwrap();
    let mend = Mend { at: at(40), what: "the table".into(), times: 1 };
    world.repo.record_mends(&host("hv1"), &[mend]).await.unwrap();
    let copies = world.folder.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    let to = copies.join("eip.db");
    let made = backup(&world.url, &to).await.unwrap();
    assert_eq!((made.held, made.last_event), (1, 5));
    assert_eq!(made.bytes, to.metadata().unwrap().len());
    assert_eq!(to.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(files(&copies), BTreeSet::from([to.clone()]));
    // Later than the copy.
    world.hold(3).await;

    let copy = open(&url(&to)).await.unwrap();
    let whole = Whole::of(&copy).await;
    take(&copy, &new_allocation(4, "default")).await.unwrap();
    drop(copy);
    let mut before = Whole::of(&world.repo).await;
    before.forget_events_after(5);
    before.held.pop();
    before.in_use.pop();
    before.pools[0].1.held -= 1;
    before.pools[0].2.allocated -= 1;
    assert_eq!(whole, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_that_is_made_under_load_has_all_that_was_acknowledged_before() {
    let world = World::new(Kind::Sqlite).await;
    let (next, acknowledged) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let enough = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (repo, next) = (Arc::clone(&world.repo), Arc::clone(&next));
            let (acknowledged, enough) = (Arc::clone(&acknowledged), Arc::clone(&enough));
            tokio::spawn(async move {
                while !enough.load(Ordering::Relaxed) {
                    let offset = next.fetch_add(1, Ordering::Relaxed);
                    take(&repo, &new_allocation(offset, "default")).await.unwrap();
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for n in 0..5 {
        let behind = acknowledged.load(Ordering::SeqCst) + 50;
        eip_testkit::eventually_async(
            "more to be acknowledged",
            std::time::Duration::from_secs(20),
            async || (acknowledged.load(Ordering::SeqCst) >= behind).then_some(()),
        )
        .await;
        let before = acknowledged.load(Ordering::SeqCst);
        let to = world.folder.path().join(format!("copy-{n}.db"));
        let made = backup(&world.url, &to).await.unwrap();
        assert!(made.held >= u64::from(before), "{made:?}, and {before} before");
        let copy = open(&url(&to)).await.unwrap();
        let load = copy.pool_load(&"public".parse().unwrap()).await.unwrap();
        let events = copy.events_after(0, u32::MAX).await.unwrap();
        let allocated = events.iter().filter(|event| event.kind == EventKind::Allocated).count();
        let in_use = copy.addresses_in_use().await.unwrap().len();
        assert_eq!((load.held, allocated, in_use), (made.held, in_use, allocated));
        assert_eq!(made.last_event, made.held);
    }
    enough.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_record_that_nobody_serves_is_copied_too() {
    let World { repo, url: from, folder, .. } = World::new(Kind::Sqlite).await;
    take(&repo, &new_allocation(1, "default")).await.unwrap();
    drop(repo);
    let to = folder.path().join("copy.db");
    assert_eq!(backup(&from, &to).await.unwrap().held, 1);
}

#[tokio::test]
async fn what_cannot_be_copied_is_refused_and_leaves_no_file() {
    let world = World::new(Kind::Sqlite).await;
    let folder = world.folder.path();
    let to = folder.join("copy.db");
    let refused = async |from: &str, to: &Path| {
        let before = files(folder);
        let error = backup(from, to).await.unwrap_err();
        assert_eq!(files(folder), before, "{error:?}");
        error
    };
    let postgres = TestCluster::shared().url("nobody");
    assert!(matches!(refused(&postgres, &to).await, BackupError::NotSqlite));
    assert!(matches!(refused("eip.db", &to).await, BackupError::Open(_)));
    let nowhere = folder.join("nowhere.db");
    let error = refused(&url(&nowhere), &to).await;
    assert!(matches!(&error, BackupError::NoRecord { path } if *path == nowhere), "{error:?}");
    let error = refused(&world.url, &folder.join("no/such/copy.db")).await;
    assert!(matches!(error, BackupError::File { .. }), "{error:?}");

    let other = folder.join("other.db");
    execute(&url(&other), "CREATE TABLE something (more TEXT)").await;
    let error = refused(&url(&other), &to).await;
    assert!(matches!(error, BackupError::NoRecord { .. }), "{error:?}");
    let text = folder.join("text");
    std::fs::write(&text, "this is a text, and a long one, and not a database ".repeat(99))
        .unwrap();
    let error = refused(&url(&text), &to).await;
    assert!(matches!(error, BackupError::Open(OpenError::Damaged { .. })), "{error:?}");

    std::fs::write(&to, "precious").unwrap();
    let error = refused(&world.url, &to).await;
    assert!(matches!(&error, BackupError::Exists { path } if *path == to), "{error:?}");
    assert_eq!(std::fs::read_to_string(&to).unwrap(), "precious");
}

//! Opening a record: new, again, twice, too new, elsewhere.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use eip_store::{OpenError, open};
use eip_testkit::postgres::TestCluster;
use rstest::rstest;

use crate::raw::execute;
use crate::world::{Kind, World, new_allocation, take};

#[rstest]
#[tokio::test]
async fn a_record_that_is_opened_again_is_all_there(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let mut world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    world.point(&eip, 1).await;
    let before = (world.repo.cluster_id(), world.show(&eip).await, world.desired("hv1").await);
    // The one and only holder of the file goes first.
    world.repo =
        open(&format!("sqlite:{}", world.folder.path().join("spare.db").display())).await.unwrap();
    world.repo = open(&world.url).await.unwrap();
    let after = (world.repo.cluster_id(), world.show(&eip).await, world.desired("hv1").await);
    assert_eq!(after, before);
    world.repo.ping().await.unwrap();
}

#[rstest]
#[tokio::test]
async fn a_record_of_a_newer_program_is_refused_and_left_as_it_is(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let url = world.url.clone();
    let newer = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
                 VALUES (99, 'from_the_future', '2030-01-01T00:00:00Z', '1')";
    let folder = match kind {
        Kind::Sqlite => {
            let World { repo, folder, .. } = world;
            drop(repo);
            execute(&url, newer).await;
            let path = url.strip_prefix("sqlite:").unwrap();
            Some((folder, std::fs::read(path).unwrap(), path.to_owned()))
        }
        Kind::Postgres | Kind::Bouncer => {
            execute(url.trim_end_matches("&pgbouncer=true"), newer).await;
            None
        }
    };
    let error = open(&url).await.unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, known: 11 }), "{error:?}");
    if let Some((_folder, before, path)) = folder {
        assert_eq!(std::fs::read(path).unwrap(), before);
    }
}

#[rstest]
#[case::direct(Kind::Postgres)]
#[case::by_way_of_pgbouncer(Kind::Bouncer)]
#[tokio::test]
async fn a_schema_that_is_not_what_it_says_is_not_gone_on_with(#[case] kind: Kind) {
    let world = World::new(kind).await;
    let other = "UPDATE refinery_schema_history SET checksum = '1' WHERE version = 1";
    execute(world.url.trim_end_matches("&pgbouncer=true"), other).await;
    let error = open(&world.url).await.unwrap_err();
    assert!(error.to_string().contains("another program"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_servers_may_open_a_new_postgresql_database_at_once() {
    let url = TestCluster::shared().fresh_database().await;
    let opening: Vec<_> = (0..8)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { open(&url).await.unwrap().cluster_id() })
        })
        .collect();
    let mut ids = Vec::new();
    for one in opening {
        ids.push(one.await.unwrap());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn a_sqlite_file_has_one_owner_and_the_refusal_says_so() {
    let world = World::new(Kind::Sqlite).await;
    let error = open(&world.url).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("another process is using"));
    // Also by another name of the same file.
    let path = Path::new(world.url.strip_prefix("sqlite:").unwrap());
    let link = path.with_file_name("link.db");
    std::os::unix::fs::symlink(path, &link).unwrap();
    let error = open(&format!("sqlite:{}", link.display())).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    world.hold(1).await;
}

#[tokio::test]
async fn a_sqlite_file_and_its_folder_are_for_their_user_only() {
    let world = World::new(Kind::Sqlite).await;
    let path = Path::new(world.url.strip_prefix("sqlite:").unwrap());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(path), 0o600);
    for suffix in ["-wal", "-shm", ".lock"] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        assert_eq!(mode(Path::new(&beside)), 0o600, "{suffix}");
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_told_without_secrets() {
    let told = async |url: &str| {
        let error = open(url).await.unwrap_err();
        let text = format!("{error}: {error:?}");
        assert!(!text.contains("hunter2"), "{text}");
        error
    };
    let unknown = |error: &OpenError| matches!(error, OpenError::UnknownScheme { .. });
    for url in ["mysql://root:hunter2@db/x", "eip.db", "", "sqlite:", "sqlite::memory:"] {
        let error = told(url).await;
        assert!(unknown(&error), "{url}: {error:?}");
    }
    let tls = told("postgres://eip:hunter2@db/eip?sslmode=verify-full").await;
    assert!(matches!(tls, OpenError::Contradiction { .. }), "{tls:?}");
    let nobody = told("postgres://eip:hunter2@127.0.0.1:1/eip").await;
    assert!(matches!(nobody, OpenError::Database { .. }), "{nobody:?}");
}

#[rstest]
#[tokio::test]
async fn the_description_says_where_the_record_is(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let said = world.repo.describe();
    match kind {
        Kind::Sqlite => assert!(said.starts_with("SQLite at /"), "{said}"),
        Kind::Postgres | Kind::Bouncer => assert!(said.starts_with("PostgreSQL at /"), "{said}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_the_answer_to_a_change_can_close_the_record_and_open_it_at_once() {
    let World { mut repo, url, folder } = World::new(Kind::Sqlite).await;
    for offset in 1..=100 {
        take(&repo, &new_allocation(offset, "default")).await.unwrap();
        drop(repo);
        repo = open(&url).await.unwrap();
    }
    drop((repo, folder));
}

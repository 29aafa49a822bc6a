//! A record that moves from SQLite to PostgreSQL, whole or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use eip_model::{
    AttachmentProblem, Backend, BackendInventory, BackendListing, Counted, ElasticIpRef, EventKind,
    KeyId, Mend, PoolConfig, ProblemKind, Role, Volume,
};
use eip_store::{
    ImportError, NewAllocation, NewApiKey, OnceKey, OpenError, Repository, UpdateCommand, import,
    open,
};
use eip_testkit::pgbouncer::TestBouncer;
use eip_testkit::postgres::TestCluster;

use crate::raw::{ask, dump, execute};
use crate::whole::Whole;
use crate::world::{
    Kind, World, address, associate, at, bouncer_url, host, instance_id, new_allocation, project,
    scope, take,
};

/// What is hard to write down.
const HARD: &str = "a \"quote\", a\ttab, a\nline\r, \\N and \\. and ü and 🦀";

fn once(owner: &str, key: &str) -> Option<OnceKey> {
    Some(OnceKey { owner: KeyId::new(owner), key: key.into(), fingerprint: [7; 32] })
}

/// A second pool, a project that may hold two addresses, and keys.
async fn set_up(repo: &Arc<dyn Repository>) {
    repo.ensure_project(&project("tight"), Some(2), at(1)).await.unwrap();
    let spare = PoolConfig {
        name: "spare".parse().unwrap(),
        ranges: vec![
            "203.0.113.0/29".parse().unwrap(),
            "198.51.100.4-198.51.100.9".parse().unwrap(),
        ],
        quarantine_seconds: 0,
        mode: eip_model::Mode::Nat,
        reserved: Vec::new(),
        projects: None,
        draining: false,
    };
    repo.ensure_pool(&spare, at(1)).await.unwrap();
    let roles = [Role::Admin { project: project("default") }, Role::Agent { host: host("hv1") }];
    for (n, role) in (1..).zip(roles) {
        let id = KeyId::new(format!("k{n}"));
        repo.put_api_key(&NewApiKey {
            id,
            digest: [n; 32],
            role,
            name: None,
            expires_at: None,
            now: at(2),
        })
        .await
        .unwrap();
    }
}

/// A record in which everything has happened that can.
async fn eventful() -> World {
    let world = World::with_quarantine(Kind::Sqlite, 600).await;
    let repo = &world.repo;
    set_up(repo).await;
    world.report("hv1", &[1, 2, 3]).await;
    world.report("hv2", &[11, 12]).await;
    let down = BackendInventory {
        backend: Backend::Sandbox,
        listing: BackendListing::Unreachable { reason: HARD.into() },
    };
    world.report_backends("hv3", &[down]).await;

    let mut held = Vec::new();
    for offset in 1..=9 {
        let mut new = new_allocation(offset, if offset < 8 { "default" } else { "tight" });
        new.now = at(i64::from(offset)) + jiff::SignedDuration::from_micros(1);
        new.once = once("k1", &format!("key-{offset}")).filter(|_| offset % 2 == 0);
        held.push(take(repo, &new).await.unwrap());
    }
    for (at, instance) in [(0, 1), (1, 2), (2, 11), (3, 12)] {
        world.point(&held[at], instance).await;
    }
    let problem = AttachmentProblem {
        public_ip: address(1),
        kind: ProblemKind::Failing,
        reason: HARD.into(),
    };
    world.applied_with("hv1", world.generation("hv1").await, &[problem]).await;
    world.applied("hv2", world.generation("hv2").await).await;
    let volume = Volume { packets_in: 1 << 40, bytes_in: 1 << 50, packets_out: 0, bytes_out: 7 };
    let counted = Counted { public_ip: held[0].address, elastic_ip_id: held[0].id, volume };
    repo.record_traffic(&host("hv1"), &[counted], at(11)).await.unwrap();
    let mend = Mend { at: at(12), what: HARD.into(), times: 2 };
    repo.record_mends(&host("hv1"), &[mend]).await.unwrap();
    let (terms, brief) = (eip_store::Terms::default(), project("brief"));
    repo.make_project(&terms, &brief, None, &crate::world::by(12)).await.unwrap();
    repo.delete_project(&terms, &brief, &crate::world::by(12)).await.unwrap();
    let webhook = crate::webhooks::webhook(1, Some("default"));
    repo.make_webhook(&eip_store::Terms::default(), &webhook, &crate::world::by(13)).await.unwrap();
    // Moved while the host that had it is silent: it waits.
    world.part(&held[3]).await.unwrap();
    world.shift(&held[1], 12).await;
    // Its instance goes away.
    world.report("hv1", &[1, 3]).await;
    let update = UpdateCommand {
        target: ElasticIpRef::Id(held[4].id),
        scope: scope("default"),
        name: Some(Some("db".parse().unwrap())),
        tags: Some(
            BTreeMap::from([("team".to_owned(), "ü\\ \"x\"".to_owned())]).try_into().unwrap(),
        ),
        protected: Some(true),
        actor: HARD.into(),
        now: at(21),
    };
    repo.update(&update).await.unwrap();
    // One ends and is held again, one sleeps.
    world.release(&held[5]).await.unwrap();
    repo.end_quarantines(at(700)).await.unwrap();
    take(repo, &NewAllocation { now: at(701), ..new_allocation(6, "other") }).await.unwrap();
    world.release_at(&held[6], at(800)).await.unwrap();
    world
}

/// Every row of every table as text that does not depend on the database.
async fn rows(url: &str) -> BTreeMap<String, Vec<String>> {
    let sqlite = url.starts_with("sqlite:");
    let columns = if sqlite {
        "SELECT m.name, c.name, '' FROM sqlite_schema m, pragma_table_info(m.name) c
          WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' ORDER BY 1, 2"
    } else {
        "SELECT table_name, column_name, data_type FROM information_schema.columns
          WHERE table_schema = 'public' ORDER BY 1, 2"
    };
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for column in ask(url, columns).await {
        let name = format!("\"{}\"", column[1]);
        let value = match column[2].as_str() {
            "timestamp with time zone" => format!("(extract(epoch FROM {name}) * 1000000)::bigint"),
            "uuid" => format!("replace({name}::text, '-', '')"),
            "bytea" => format!("encode({name}, 'hex')"),
            "boolean" => format!("{name}::int"),
            _ => name,
        };
        tables.entry(column[0].clone()).or_default().push(value);
    }
    tables.remove("refinery_schema_history");
    let mut all = BTreeMap::new();
    for (table, columns) in tables {
        let found = ask(url, &format!("SELECT {} FROM {table}", columns.join(", "))).await;
        let same = |cell: &String| match serde_json::from_str::<serde_json::Value>(cell) {
            Ok(json @ (serde_json::Value::Object(_) | serde_json::Value::Array(_))) => {
                json.to_string()
            }
            _ => cell.clone(),
        };
        let mut lines: Vec<_> =
            found.iter().map(|row| row.iter().map(same).collect::<Vec<_>>().join("|")).collect();
        lines.sort();
        all.insert(table, lines);
    }
    all
}

#[tokio::test]
async fn every_row_is_there_after_the_import_and_every_question_has_the_same_answer() {
    let World { repo, url: from, folder: _folder } = eventful().await;
    let whole = Whole::of(&repo).await;
    drop(repo);
    let before = rows(&from).await;
    for (table, rows) in &before {
        assert!(!rows.is_empty(), "the story leaves {table} out");
    }
    let to = TestCluster::shared().fresh_database().await;
    let imported = import(&from, &to).await.unwrap();
    assert_eq!(rows(&to).await, before);
    assert_eq!(rows(&from).await, before, "the old record is as it was");
    assert_eq!(imported.last_event, whole.last_event);
    let counts: BTreeMap<_, _> = imported.rows.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect();
    let lengths = before.iter().map(|(table, rows)| (table.clone(), rows.len() as u64));
    assert_eq!(counts, lengths.collect());
    assert!(imported.place.ends_with(to.split(['/', '?']).nth(3).unwrap()), "{imported:?}");

    let repo = open(&to).await.unwrap();
    assert_eq!(Whole::of(&repo).await, whole);
}

#[tokio::test]
async fn the_story_goes_on_in_the_new_database() {
    let World { repo, url: from, folder } = eventful().await;
    let whole = Whole::of(&repo).await;
    drop(repo);
    let to = TestCluster::shared().fresh_database().await;
    import(&from, &to).await.unwrap();
    let world = World { repo: open(&to).await.unwrap(), url: to, folder };
    let repo = &world.repo;

    let again = NewAllocation { once: once("k1", "key-2"), ..new_allocation(40, "default") };
    let answer = repo.allocate(&again).await.unwrap();
    assert!(answer.repeated);
    assert_eq!(answer.record.address, address(2));
    let full = take(repo, &new_allocation(41, "tight")).await;
    assert_eq!(crate::world::refusal(full), eip_store::Refusal::QuotaExceeded { quota: 2 });

    let eip = take(repo, &new_allocation(42, "default")).await.unwrap();
    repo.associate(&associate(ElasticIpRef::Id(eip.id), 3)).await.unwrap();
    let news = repo.events_after(whole.last_event, 10).await.unwrap();
    let told: Vec<_> = news.iter().map(|e| (e.id.parse::<u64>().unwrap(), e.kind)).collect();
    let next = whole.last_event + 1;
    assert_eq!(told, [(next, EventKind::Allocated), (next + 1, EventKind::Associated)]);
    assert_eq!(news[1].instance_id, Some(instance_id(3)));
    // The host that was silent lets go, and the other one gets the address.
    assert!(!world.wanted("hv2").await.contains(&address(2)));
    let lifted = world.applied("hv1", world.generation("hv1").await).await;
    assert_eq!(lifted, [host("hv2")]);
    assert!(world.wanted("hv2").await.contains(&address(2)));
}

#[tokio::test]
async fn a_database_that_is_not_empty_is_refused_and_left_as_it_is() {
    let World { repo, url: from, folder: _folder } = eventful().await;
    drop(repo);
    let used = World::new(Kind::Postgres).await;
    let before = dump(&used.url).await;
    let error = import(&from, &used.url).await.unwrap_err();
    assert!(matches!(error, ImportError::NotEmpty { table: "project", .. }), "{error:?}");
    assert_eq!(dump(&used.url).await, before);

    let newer = TestCluster::shared().fresh_database().await;
    drop(open(&newer).await.unwrap());
    execute(&newer, "UPDATE refinery_schema_history SET version = 99 WHERE version = 3").await;
    let before = dump(&newer).await;
    let error = import(&from, &newer).await.unwrap_err();
    assert!(matches!(error, ImportError::Target(OpenError::Newer { .. })), "{error:?}");
    assert_eq!(dump(&newer).await, before);
}

#[tokio::test]
async fn a_record_that_cannot_be_imported_is_refused_before_the_database_is_touched() {
    let world = World::new(Kind::Sqlite).await;
    let to = TestCluster::shared().fresh_database().await;
    let refused = async |from: &str, to: &str| import(from, to).await.unwrap_err();
    let error = refused(&world.url, &to).await;
    assert!(matches!(error, ImportError::Source(OpenError::InUse { .. })), "{error:?}");
    let nowhere = world.folder.path().join("nowhere.db");
    let error = refused(&format!("sqlite:{}", nowhere.display()), &to).await;
    assert!(matches!(error, ImportError::NoRecord { .. }), "{error:?}");
    assert!(!nowhere.exists(), "asking makes no file");
    for (from, to) in [(&to, &world.url), (&to, &to), (&world.url, &world.url)] {
        assert!(matches!(refused(from, to).await, ImportError::Direction));
    }
    let World { repo, url: from, folder: _folder } = world;
    drop(repo);
    execute(&from, "DELETE FROM refinery_schema_history WHERE version > 2").await;
    let error = refused(&from, &to).await;
    assert!(matches!(error, ImportError::Older { found: 2, known: 11 }), "{error:?}");
    assert!(dump(&to).await.is_empty());
}

#[tokio::test]
async fn an_import_that_fails_leaves_nothing_and_can_be_tried_again() {
    let World { repo, url: from, folder: _folder } = eventful().await;
    let whole = Whole::of(&repo).await;
    drop(repo);
    let to = TestCluster::shared().fresh_database().await;
    // A cell that is nothing, in the last table but one.
    execute(&from, "UPDATE event SET elastic_ip_id = substr(elastic_ip_id, 2) WHERE seq = 3").await;
    let error = import(&from, &to).await.unwrap_err();
    assert!(matches!(error, ImportError::Cell { table: "event", .. }), "{error:?}");
    assert!(dump(&to).await.is_empty());
    execute(
        &from,
        "UPDATE event SET elastic_ip_id = (SELECT id FROM elastic_ip e
                                            WHERE e.address = event.address) WHERE seq = 3",
    )
    .await;
    // Something that swallows rows. The tables and the id are those of a record that nobody used.
    drop(open(&to).await.unwrap());
    execute(
        &to,
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER swallow BEFORE INSERT ON event FOR EACH ROW WHEN (new.kind = 'moved')
         EXECUTE FUNCTION swallow()",
    )
    .await;
    let before = dump(&to).await;
    let error = import(&from, &to).await.unwrap_err();
    let ImportError::Differs { table: "event", read, written } = error else {
        panic!("{error:?}");
    };
    assert_eq!(read, written + 1);
    assert_eq!(dump(&to).await, before);
    execute(&to, "DROP TRIGGER swallow ON event").await;
    import(&from, &to).await.unwrap();
    assert_eq!(Whole::of(&open(&to).await.unwrap()).await, whole);
}

#[tokio::test]
async fn an_import_by_way_of_pgbouncer_leaves_no_lock_on_its_connection() {
    let World { repo, url: from, folder: _folder } = eventful().await;
    let whole = Whole::of(&repo).await;
    drop(repo);
    let database = TestCluster::shared().fresh_database().await;
    let to = bouncer_url(TestBouncer::shared(), &database);
    import(&from, &to).await.unwrap();
    let error = import(&from, &to).await.unwrap_err();
    assert!(matches!(error, ImportError::NotEmpty { .. }), "{error:?}");
    let left = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                 WHERE l.locktype = 'advisory' AND d.datname = current_database()";
    assert_eq!(ask(&database, left).await, [["0"]]);
    assert_eq!(Whole::of(&open(&to).await.unwrap()).await, whole);
}

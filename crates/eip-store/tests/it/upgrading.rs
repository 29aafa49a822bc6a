//! Databases that earlier programs made: each is brought up to date with all that is in it, or
//! left as it was.

use std::net::Ipv4Addr;

use eip_model::{ElasticIpId, Mend, Mode, Role};
use eip_store::{OpenError, open};
use eip_testkit::postgres::TestCluster;
use refinery::{Migration, Runner, Target};
use rstest::rstest;
use tempfile::TempDir;
use uuid::Uuid;

use crate::raw::{ask, dump, execute};
use crate::whole::Whole;
use crate::world::{Kind, at, host, new_allocation, project, take};

const ROWS: &str = include_str!("earlier/schema_1.sql");

/// A database that the first program made and used.
struct Earlier {
    url: String,
    _folder: TempDir,
}

impl Earlier {
    async fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = match kind {
            Kind::Sqlite => format!("sqlite:{}", folder.path().join("eip.db").display()),
            Kind::Postgres | Kind::Bouncer => TestCluster::shared().fresh_database().await,
        };
        migrate(&url, 1).await;
        execute(&url, &told_to(kind, &format!("{ROWS}{}", many()))).await;
        Self { url, _folder: folder }
    }
}

/// The project `many` holds more than the quota that projects are given.
fn many() -> String {
    let row = |n: u32| {
        format!(
            "INSERT INTO elastic_ip (address, id, range_first, range_size, pool, project, name,
                                     tags, allocated_at, updated_at, revision)
             VALUES ({}, <e:{n}>, 1681915904, 256, 'public', 'many', NULL, '{{}}', <t:{n}>, <t:{n}>,
                     1);",
            1_681_915_904 + n
        )
    };
    (100..122).map(row).collect()
}

macro_rules! migration {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../migrations/sqlite/", $name, ".sql")),
            include_str!(concat!("../../migrations/postgres/", $name, ".sql")),
        )
    };
}

/// The schemas that were: name, SQLite, PostgreSQL.
const SCHEMAS: [(&str, &str, &str); 9] = [
    migration!("V1__the_record"),
    migration!("V2__batches"),
    migration!("V3__address_source"),
    migration!("V4__modes"),
    migration!("V6__trust_and_traffic"),
    migration!("V7__mends"),
    migration!("V8__rows_in_order"),
    migration!("V9__tenants"),
    migration!("V10__admin_events_and_webhooks"),
];

/// Brings a database to one of the schemas that were.
async fn migrate(url: &str, schema: i32) {
    let sqlite = url.starts_with("sqlite:");
    let migrations = SCHEMAS.map(|(name, lite, postgres)| {
        Migration::unapplied(name, if sqlite { lite } else { postgres }).unwrap()
    });
    let runner = Runner::new(&migrations).set_target(Target::Version(schema));
    if let Some(path) = url.strip_prefix("sqlite:") {
        let mut connection = rusqlite::Connection::open(path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.pragma_update(None, "foreign_keys", false).unwrap();
        runner.run(&mut connection).unwrap();
    } else {
        let (mut client, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        let driving = tokio::spawn(connection);
        runner.run_async(&mut client).await.unwrap();
        drop(client);
        driving.await.unwrap().unwrap();
    }
}

fn id(offset: u128) -> ElasticIpId {
    ElasticIpId::new(Uuid::from_u128((0xe << 96) + (offset << 8)))
}

/// Writes the marks of the rows as a database writes such values.
fn told_to(kind: Kind, rows: &str) -> String {
    let rows: Vec<_> = rows.lines().filter(|line| !line.starts_with("--")).collect();
    let rows = rows.join("\n");
    let mut pieces = rows.split('<');
    let mut text = pieces.next().unwrap().to_owned();
    for piece in pieces {
        let Some((mark, rest)) = piece.split_once('>').filter(|(mark, _)| mark.contains(':'))
        else {
            text.push('<');
            text.push_str(piece);
            continue;
        };
        let (what, number) = mark.split_once(':').unwrap();
        let number: u32 = number.parse().unwrap();
        let uuid = match what {
            "e" => Some(id(number.into()).uuid()),
            "u" => Some(Uuid::from_u128(number.into())),
            _ => None,
        };
        let time = at(number.into());
        let bytes = format!("{number:02x}").repeat(32);
        text.push_str(&match (uuid, what, kind) {
            (Some(uuid), _, Kind::Sqlite) => format!("X'{}'", uuid.simple()),
            (Some(uuid), _, Kind::Postgres | Kind::Bouncer) => format!("'{uuid}'"),
            (None, "t", Kind::Sqlite) => time.as_microsecond().to_string(),
            (None, "t", Kind::Postgres | Kind::Bouncer) => format!("'{time}'"),
            (None, "b", Kind::Sqlite) => format!("X'{bytes}'"),
            (None, "b", Kind::Postgres | Kind::Bouncer) => format!("'\\x{bytes}'"),
            (None, other, _) => panic!("no mark is called {other}"),
        });
        text.push_str(rest);
    }
    text
}

#[rstest]
#[tokio::test]
async fn a_record_of_the_first_program_is_all_there_in_this_one(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
    // By way of each of the programs since.
    #[values(1, 2, 3, 4, 6, 7, 8, 9, 10)] schema: i32,
) {
    let earlier = Earlier::new(kind).await;
    migrate(&earlier.url, schema).await;
    let repo = open(&earlier.url).await.unwrap();
    let whole = Whole::of(&repo).await;

    assert_eq!(whole.cluster_id.to_string(), Uuid::from_u128(9_000).to_string());
    let address = |offset: u8| Ipv4Addr::new(100, 64, 0, offset);
    let offsets = || [1, 2, 4, 5].into_iter().chain(100..122);
    let held: Vec<_> = whole.held.iter().map(|one| (one.address, one.id)).collect();
    let expected: Vec<_> = offsets().map(|n| (address(n), id(n.into()))).collect();
    assert_eq!(held, expected);
    assert_eq!(whole.in_use, {
        let mut all: Vec<_> = offsets().chain([3]).map(address).collect();
        all.sort();
        all
    });
    let [web, first, api, failing, ..] = &whole.held[..] else { panic!("{whole:?}") };
    assert_eq!(web.name.as_ref().unwrap().as_str(), "web");
    assert_eq!(web.tags.as_map()["env"], "prod");
    assert_eq!((web.allocated_at, web.updated_at, web.revision), (at(10), at(11), 2));
    let association = first.association.as_ref().unwrap();
    assert_eq!((association.instance_name.as_str(), &association.host), ("web-1", &host("hv1")));
    assert_eq!(association.view.associated_at, at(13));
    // There was one mode.
    assert_eq!((association.mode, &association.network), (Mode::Nat, &None));
    assert!(whole.pools.iter().all(|(pool, ..)| pool.mode == Mode::Nat));
    assert!(whole.instances.iter().all(|one| one.modes == [Mode::Nat]));
    assert_eq!(api.letting_go.as_ref().unwrap().host, host("hv2"));
    let plane = failing.clone().at(at(21)).data_plane;
    assert_eq!(plane.reason.as_deref(), Some("the port is taken"), "{plane:?}");

    let pools = whole.pools.iter().map(|(pool, load, counts)| {
        (pool.name.as_str(), pool.ranges.len(), load.held, load.asleep, counts.associated)
    });
    assert_eq!(pools.collect::<Vec<_>>(), [("public", 2, 26, 1, 2), ("spare", 1, 0, 0, 0)]);

    // The order is that of the numbers, which grow as the story goes.
    assert_eq!(whole.last_event, 11);
    assert!(whole.events.is_sorted_by(|one, next| one.id < next.id && one.at < next.at));
    assert_eq!(whole.told(ElasticIpId::new(Uuid::from_u128(600))), ["allocated", "released"]);
    assert_eq!(whole.told(id(2)), ["allocated", "associated"]);
    assert_eq!(whole.told(id(3)), ["allocated", "released"]);
    assert_eq!(whole.told(id(4)), ["allocated", "disassociated"]);

    let hosts = whole.hosts.iter().map(|one| {
        (one.name.as_str(), one.desired.value(), one.observed.value(), one.last_seen_at)
    });
    assert_eq!(hosts.collect::<Vec<_>>(), [("hv1", 7, 6, at(80)), ("hv2", 4, 2, at(81))]);
    let wanted: Vec<_> = whole.desired[0].1.attachments.iter().map(|one| one.public_ip).collect();
    assert_eq!(wanted, [address(2), address(5)]);
    let names: Vec<_> = whole.instances.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["web-1", "db-1", "off-1"]);
    let keys = whole
        .keys
        .iter()
        .map(|one| (one.id.as_str(), one.role.clone(), one.expires_at, one.revoked_at));
    assert_eq!(
        keys.collect::<Vec<_>>(),
        [
            ("k-admin", Role::Admin { project: project("default") }, None, None),
            ("k-agent", Role::Agent { host: host("hv1") }, Some(at(90)), None),
            ("k-gone", Role::Reader { project: project("acme") }, None, Some(at(50))),
        ]
    );
}

#[rstest]
#[tokio::test]
async fn what_an_earlier_record_did_not_count_is_counted(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let earlier = Earlier::new(kind).await;
    let _repo = open(&earlier.url).await.unwrap();
    let projects = ask(&earlier.url, "SELECT name, held, quota FROM project ORDER BY name").await;
    let row = |row: [&str; 3]| row.map(str::to_owned).to_vec();
    let expected =
        [["acme", "1", "20"], ["default", "3", "NULL"], ["idle", "0", "20"], ["many", "22", "22"]];
    assert_eq!(projects, expected.map(row));
    let pools = ask(&earlier.url, "SELECT name, held, asleep FROM pool ORDER BY name").await;
    assert_eq!(pools, [["public", "26", "1"], ["spare", "0", "0"]].map(row));
}

#[rstest]
#[tokio::test]
async fn an_earlier_record_is_written_to_like_a_new_one(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let earlier = Earlier::new(kind).await;
    let repo = open(&earlier.url).await.unwrap();
    let pool = &repo.pools().await.unwrap()[0];
    let range = pool.ranges[0];
    let crafted = eip_model::craft_id(*Uuid::new_v4().as_bytes(), 50, range.size()).unwrap();
    let new = eip_store::NewAllocation {
        id: ElasticIpId::new(crafted),
        address: range.at(50).unwrap(),
        range,
        ..new_allocation(50, "acme")
    };
    take(&repo, &new).await.unwrap();
    assert_eq!(repo.last_event().await.unwrap(), 12);
    assert_eq!(repo.pool_load(&pool.name).await.unwrap().held, 27);
    let held = ask(&earlier.url, "SELECT held FROM project WHERE name = 'acme'").await;
    assert_eq!(held, [["2"]]);
}

/// The table that associations refer to is made anew: they refer to the new one.
#[tokio::test]
async fn the_rows_of_an_upgraded_sqlite_record_lie_in_the_order_of_the_allocations() {
    let earlier = Earlier::new(Kind::Sqlite).await;
    let first = "UPDATE elastic_ip SET allocated_at = 1 WHERE address = 1681915908";
    execute(&earlier.url, first).await;
    drop(open(&earlier.url).await.unwrap());
    let order = |by| format!("SELECT address FROM elastic_ip ORDER BY {by}");
    let lie = ask(&earlier.url, &order("rowid")).await;
    assert_eq!(lie.len(), 27);
    assert_eq!(lie, ask(&earlier.url, &order("allocated_at, address")).await);
    assert_ne!(lie, ask(&earlier.url, &order("address")).await);
    let broken = ask(&earlier.url, "SELECT count(*) FROM pragma_foreign_key_check").await;
    assert_eq!(broken, [["0"]]);
    let refers = "SELECT count(*) FROM pragma_foreign_key_list('association')
                   WHERE \"table\" = 'elastic_ip' AND \"to\" = 'address'";
    assert_eq!(ask(&earlier.url, refers).await, [["1"]]);
}

/// Numbers are not given twice: who follows the events goes by them.
#[rstest]
#[tokio::test]
async fn an_upgrade_goes_on_from_the_highest_number_that_an_event_ever_had(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
    #[values("DELETE FROM event WHERE seq = 11", "DELETE FROM event")] lost: &str,
) {
    let earlier = Earlier::new(kind).await;
    execute(&earlier.url, lost).await;
    let repo = open(&earlier.url).await.unwrap();
    let mend = Mend { at: at(100), what: "the table".to_owned(), times: 1 };
    repo.record_mends(&host("hv1"), &[mend]).await.unwrap();
    assert_eq!(repo.last_event().await.unwrap(), 12);
}

/// What stands in the way of the second migration: at its end, and at the note that it is done.
const IN_ITS_WAY: [(&str, &str); 2] = [
    ("CREATE TABLE answer (surprise text)", "DROP TABLE answer"),
    ("CREATE UNIQUE INDEX one_only ON refinery_schema_history ((1))", "DROP INDEX one_only"),
];

#[rstest]
#[tokio::test]
async fn a_migration_that_fails_changes_nothing_and_the_next_start_makes_up_for_it(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    for (obstacle, removal) in IN_ITS_WAY {
        let earlier = Earlier::new(kind).await;
        execute(&earlier.url, obstacle).await;
        let before = dump(&earlier.url).await;
        let error = open(&earlier.url).await.unwrap_err();
        assert!(matches!(error, OpenError::Upgrade { to: 11, .. }), "{error:?}");
        assert_eq!(dump(&earlier.url).await, before, "{obstacle}");
        execute(&earlier.url, removal).await;
        let repo = open(&earlier.url).await.unwrap();
        assert_eq!(Whole::of(&repo).await.held.len(), 26);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_servers_may_bring_an_earlier_postgresql_database_up_to_date_at_once() {
    let earlier = Earlier::new(Kind::Postgres).await;
    let opening: Vec<_> = (0..4)
        .map(|_| {
            let url = earlier.url.clone();
            tokio::spawn(async move { Whole::of(&open(&url).await.unwrap()).await })
        })
        .collect();
    for one in opening {
        assert_eq!(one.await.unwrap().held.len(), 26);
    }
}

//! Bringing the schema up to date.
//!
//! In one transaction, from the lock under which servers take turns to the id of the record, so that
//! nothing depends on which connection it is: pgbouncer may give each transaction another one. The
//! history is kept in refinery's table and by its checksums, as in SQLite.

use std::time::Duration;

use eip_model::ClusterId;
use jiff::Timestamp;
use refinery::Migration;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, IsolationLevel, Transaction};
use uuid::Uuid;

use super::config::PATIENCE;
use super::link::{self, Link};
use crate::open::{OpenError, SCHEMA};

const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__the_record", include_str!("../../migrations/postgres/V1__the_record.sql")),
    ("V2__batches", include_str!("../../migrations/postgres/V2__batches.sql")),
    ("V3__address_source", include_str!("../../migrations/postgres/V3__address_source.sql")),
    ("V4__modes", include_str!("../../migrations/postgres/V4__modes.sql")),
    ("V6__trust_and_traffic", include_str!("../../migrations/postgres/V6__trust_and_traffic.sql")),
    ("V7__mends", include_str!("../../migrations/postgres/V7__mends.sql")),
    ("V8__rows_in_order", include_str!("../../migrations/postgres/V8__rows_in_order.sql")),
    ("V9__tenants", include_str!("../../migrations/postgres/V9__tenants.sql")),
    (
        "V10__admin_events_and_webhooks",
        include_str!("../../migrations/postgres/V10__admin_events_and_webhooks.sql"),
    ),
    (
        "V11__order_of_inventories",
        include_str!("../../migrations/postgres/V11__order_of_inventories.sql"),
    ),
];

/// The lock that servers which start at once take in turn: "eip" in ASCII.
const LOCK: i64 = 0x0065_6970;

/// How long to wait before asking again whether it is our turn.
const TURN: Duration = Duration::from_millis(50);

/// Brings the schema up to date and returns the id of the record.
pub(super) async fn migrate(link: &Link) -> Result<ClusterId, OpenError> {
    let (mut client, driving) = link.reach().await?;
    let migrated = locked(&mut client).await;
    link::end(client, driving).await;
    migrated
}

fn failed(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> OpenError {
    OpenError::database(doing)
}

async fn locked(client: &mut Client) -> Result<ClusterId, OpenError> {
    let tx = migrated(client).await?;
    let id = in_time("read the id of the database", cluster_id(&tx)).await?;
    match timeout(PATIENCE, tx.commit()).await {
        Ok(committed) => committed.map_err(OpenError::upgrade)?,
        // As at any commit: it may be waiting for a standby, and is not cancelled.
        Err(elapsed) => {
            return Err(OpenError::database("learn whether the database is up to date")(elapsed));
        }
    }
    Ok(id)
}

/// Waits for an answer, but not for ever: the server may be gone without a word.
async fn in_time<A>(
    doing: &'static str,
    asked: impl Future<Output = Result<A, tokio_postgres::Error>>,
) -> Result<A, OpenError> {
    match timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(failed(doing)),
        Err(elapsed) => Err(OpenError::database(doing)(elapsed)),
    }
}

/// Begins a transaction in which the schema is up to date, and during which no server starts.
pub(super) async fn migrated(client: &mut Client) -> Result<Transaction<'_>, OpenError> {
    let waiting = "wait for other servers to bring the database up to date";
    // What the others did while we waited is to be seen.
    let tx = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
    let tx = in_time(waiting, tx.start()).await?;
    // A long migration may take its time.
    let patient = "SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0;
                   SET LOCAL idle_in_transaction_session_timeout = 0";
    in_time(waiting, tx.batch_execute(patient)).await?;
    // Asked again and again, so that a server which is waiting for others is told from one that
    // says nothing.
    while !in_time(waiting, is_our_turn(&tx)).await? {
        tokio::time::sleep(TURN).await;
    }
    let applied = in_time("read the schema of the database", applied(&tx)).await?;
    let found = applied.iter().map(|one| one.version).max().unwrap_or(0);
    if found > SCHEMA {
        return Err(OpenError::Newer { found, known: SCHEMA });
    }
    for (name, sql) in MIGRATIONS {
        let migration = Migration::unapplied(name, sql);
        let migration = migration.map_err(OpenError::database("read the migrations"))?;
        bring(&tx, &migration, &applied).await?;
    }
    Ok(tx)
}

async fn is_our_turn(tx: &Transaction<'_>) -> Result<bool, tokio_postgres::Error> {
    let take = "SELECT pg_try_advisory_xact_lock($1)";
    tx.query_typed_one(take, &[(&LOCK, Type::INT8)]).await?.try_get(0)
}

/// A migration that the database has had.
#[derive(Debug)]
struct Applied {
    version: i32,
    name: String,
    checksum: String,
}

async fn applied(tx: &Transaction<'_>) -> Result<Vec<Applied>, tokio_postgres::Error> {
    tx.batch_execute(
        "CREATE TABLE IF NOT EXISTS refinery_schema_history (
             version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255),
             checksum varchar(255))",
    )
    .await?;
    let all = "SELECT version, name, checksum FROM refinery_schema_history";
    let rows = tx.query_typed(all, &[]).await?;
    let read = |row: &tokio_postgres::Row| {
        let (version, name, checksum) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(Applied { version, name, checksum })
    };
    rows.iter().map(read).collect()
}

/// Applies a migration that the database has not had.
async fn bring(
    tx: &Transaction<'_>,
    migration: &Migration,
    applied: &[Applied],
) -> Result<(), OpenError> {
    let version = migration.version();
    let (name, checksum) = (migration.name(), migration.checksum().to_string());
    if let Some(had) = applied.iter().find(|one| one.version == version) {
        if had.name == name && had.checksum == checksum {
            return Ok(());
        }
        let source = std::io::Error::other(format!(
            "its schema {version} is \"{}\" with checksum {}, and not \"{name}\" with {checksum}",
            had.name, had.checksum
        ));
        return Err(OpenError::database("go on with what another program made of the database")(
            source,
        ));
    }
    tx.batch_execute(migration.sql().unwrap_or_default()).await.map_err(OpenError::upgrade)?;
    let note = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
                VALUES ($1, $2, $3, $4)";
    let at = Timestamp::now().to_string();
    tx.query_typed(
        note,
        &[(&version, Type::INT4), (&name, Type::TEXT), (&at, Type::TEXT), (&checksum, Type::TEXT)],
    )
    .await
    .map_err(OpenError::upgrade)?;
    Ok(())
}

async fn cluster_id(tx: &Transaction<'_>) -> Result<ClusterId, tokio_postgres::Error> {
    let make = "INSERT INTO cluster (id) VALUES ($1) ON CONFLICT DO NOTHING";
    tx.query_typed(make, &[(&Uuid::new_v4(), Type::UUID)]).await?;
    let row = tx.query_typed_one("SELECT id FROM cluster", &[]).await?;
    row.try_get(0).map(ClusterId::new)
}

//! Bringing the schema up to date.

use eip_model::ClusterId;
use refinery::{Migration, Runner};
use tokio_postgres::Client;
use uuid::Uuid;

use super::link::Link;
use crate::open::{OpenError, SCHEMA};

const MIGRATIONS: [(&str, &str); SCHEMA as usize] = [
    ("V1__the_record", include_str!("../../migrations/postgres/V1__the_record.sql")),
    ("V2__batches", include_str!("../../migrations/postgres/V2__batches.sql")),
];

/// The lock that servers which start at once take in turn: "eip" in ASCII.
const LOCK: i64 = 0x0065_6970;

/// Brings the schema up to date and returns the id of the record.
///
/// On a connection of its own, so that the lock ends with it whatever happens.
pub(super) async fn migrate(link: &Link) -> Result<ClusterId, OpenError> {
    let failed = OpenError::database::<tokio_postgres::Error>;
    let (mut client, driving) = link.open().await.map_err(failed("connect to PostgreSQL"))?;
    // Another server may take its time with a long migration.
    client
        .batch_execute("SET lock_timeout = 0; SET statement_timeout = 0;")
        .await
        .map_err(failed("set up the connection to PostgreSQL"))?;
    let migrated = locked(&mut client).await;
    drop(client);
    // Its error, if there is one, was told by what was asked of it.
    drop(driving.await);
    migrated
}

async fn locked(client: &mut Client) -> Result<ClusterId, OpenError> {
    let failed = OpenError::database::<tokio_postgres::Error>;
    client
        .execute("SELECT pg_advisory_lock($1)", &[&LOCK])
        .await
        .map_err(failed("wait for other servers to bring the database up to date"))?;
    let found = schema(client).await.map_err(failed("read the schema of the database"))?;
    if found > SCHEMA {
        return Err(OpenError::Newer { found, known: SCHEMA });
    }
    let migrations = MIGRATIONS.iter().map(|(name, sql)| Migration::unapplied(name, sql));
    let migrations = migrations.collect::<Result<Vec<_>, _>>();
    let migrations = migrations.map_err(OpenError::database("read the migrations"))?;
    Runner::new(&migrations)
        .run_async(client)
        .await
        .map_err(OpenError::database("bring the database up to date"))?;
    cluster_id(client).await.map_err(failed("read the id of the database"))
}

/// Returns the newest migration that was applied; 0 for a new database.
async fn schema(client: &Client) -> Result<i32, tokio_postgres::Error> {
    let migrated = client
        .query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[])
        .await?
        .try_get::<_, bool>(0)?;
    if !migrated {
        return Ok(0);
    }
    let version = "SELECT coalesce(max(version), 0) FROM refinery_schema_history";
    client.query_one(version, &[]).await?.try_get(0)
}

async fn cluster_id(client: &Client) -> Result<ClusterId, tokio_postgres::Error> {
    client
        .execute("INSERT INTO cluster (id) VALUES ($1) ON CONFLICT DO NOTHING", &[&Uuid::new_v4()])
        .await?;
    let row = client.query_one("SELECT id FROM cluster", &[]).await?;
    row.try_get(0).map(ClusterId::new)
}

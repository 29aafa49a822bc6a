//! Bringing the schema up to date.

use eip_model::ClusterId;
use refinery::{Migration, Runner};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

use crate::open::{OpenError, SCHEMA};

const MIGRATIONS: [(&str, &str); SCHEMA as usize] = [
    ("V1__the_record", include_str!("../../migrations/postgres/V1__the_record.sql")),
    ("V2__batches", include_str!("../../migrations/postgres/V2__batches.sql")),
];

/// The lock that servers which start at once take in turn: "eip" in ASCII.
const LOCK: i64 = 0x0065_6970;

/// Brings the schema up to date and returns the id of the record.
pub(super) async fn migrate(config: &Config) -> Result<ClusterId, OpenError> {
    let mut session = Session::start(config).await?;
    let migrated = identified(&mut session.client).await;
    session.end().await;
    migrated
}

async fn identified(client: &mut Client) -> Result<ClusterId, OpenError> {
    bring_up_to_date(client).await?;
    cluster_id(client).await.map_err(OpenError::database("read the id of the database"))
}

/// A connection of its own, during which no server starts: the lock ends with it whatever happens.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    driving: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Session {
    pub(super) async fn start(config: &Config) -> Result<Self, OpenError> {
        let failed = OpenError::database::<tokio_postgres::Error>;
        let (client, connection) =
            config.connect(NoTls).await.map_err(failed("connect to PostgreSQL"))?;
        let driving = tokio::spawn(connection);
        // Another server may take its time with a long migration.
        client
            .batch_execute("SET lock_timeout = 0; SET statement_timeout = 0;")
            .await
            .map_err(failed("set up the connection to PostgreSQL"))?;
        client
            .execute("SELECT pg_advisory_lock($1)", &[&LOCK])
            .await
            .map_err(failed("wait for other servers to bring the database up to date"))?;
        Ok(Self { client, driving })
    }

    pub(super) async fn end(self) {
        drop(self.client);
        // Its error, if there is one, was told by what was asked of it.
        drop(self.driving.await);
    }
}

pub(super) async fn bring_up_to_date(client: &mut Client) -> Result<(), OpenError> {
    let found = schema(client).await;
    let found = found.map_err(OpenError::database("read the schema of the database"))?;
    if found > SCHEMA {
        return Err(OpenError::Newer { found, known: SCHEMA });
    }
    let migrations = MIGRATIONS.iter().map(|(name, sql)| Migration::unapplied(name, sql));
    let migrations = migrations.collect::<Result<Vec<_>, _>>();
    let migrations = migrations.map_err(OpenError::database("read the migrations"))?;
    // All of them or none: the program that made the database can still use it after a failure.
    let run = Runner::new(&migrations).set_grouped(true).run_async(client).await;
    run.map(drop).map_err(OpenError::upgrade)
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

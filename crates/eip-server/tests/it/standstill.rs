//! A record in which nobody can change anything for a moment.

use rusqlite::Connection;
use tokio_postgres::{Client, NoTls};

/// Holds what every change needs, until it is dropped or let go.
pub(crate) enum Standstill {
    Sqlite(Connection),
    Postgres(Client),
}

const HOLD: &str = "
    BEGIN;
    LOCK TABLE elastic_ip, association, project, pool, pool_range, api_key, host, event
      IN EXCLUSIVE MODE;";

const WAITING: &str = "
    SELECT count(*) > 0 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
     WHERE NOT l.granted AND d.datname = current_database()";

impl Standstill {
    pub(crate) async fn of(url: &str) -> Self {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let connection = Connection::open(path).unwrap();
            connection.execute_batch("PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE").unwrap();
            return Self::Sqlite(connection);
        }
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(HOLD).await.unwrap();
        Self::Postgres(client)
    }

    /// Whether somebody waits in the middle of a change. SQLite does not tell.
    pub(crate) async fn holds_somebody_up(&self) -> Option<bool> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(client) => Some(client.query_one(WAITING, &[]).await.unwrap().get(0)),
        }
    }

    pub(crate) async fn let_go(self) {
        match self {
            Self::Sqlite(connection) => connection.execute_batch("ROLLBACK").unwrap(),
            Self::Postgres(client) => client.batch_execute("ROLLBACK").await.unwrap(),
        }
    }
}

//! A connection that is lent out, and asking on it.

use deadpool_postgres::Client;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::config::CHECK;
use super::link::Doubts;

/// A connection of the pool. It goes back there when it is dropped.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    doubts: Doubts,
}

impl Session {
    pub(super) fn new(client: Client, doubts: Doubts) -> Self {
        Self { client, doubts }
    }

    pub(super) fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    /// Begins a transaction. What is asked next may be sent right behind it.
    pub(super) async fn begin(&self, begin: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(begin).await
    }

    pub(super) async fn commit(&self) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute("COMMIT").await
    }

    /// Ends the transaction without its changes. Whether that was confirmed in time.
    pub(super) async fn roll_back(&self) -> bool {
        let rolled_back = timeout(CHECK, self.client.batch_execute("ROLLBACK")).await;
        rolled_back.is_ok_and(|answer| answer.is_ok())
    }

    /// Makes a statement ready to be asked without waiting for anything else.
    pub(super) async fn ready(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        self.client.prepare_cached(sql).await
    }

    pub(super) async fn query(
        &self,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.client.query(statement, values).await
    }

    /// Ends the connection instead of giving it to somebody else.
    pub(super) fn close(self) {
        drop(Client::take(self.client));
    }
}

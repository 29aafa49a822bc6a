//! A connection that is lent out, and asking on it.
//!
//! Through pgbouncer a connection is somebody else's after each transaction. Nothing is left on it
//! then: no statement has a name, what is set is set with each transaction, and what is one
//! statement otherwise is a transaction with a beginning and an end.

use deadpool_postgres::Client;
use tokio::sync::broadcast;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row, Statement};

use super::config::{self, CHECK};
use super::link::Doubts;
use crate::news::News;

/// What goes into a statement, and what PostgreSQL is to take it for.
pub(super) type Bound<'v> = (&'v (dyn ToSql + Sync), Type);

/// How connections are used.
#[derive(Debug, Clone)]
pub(super) enum Manner {
    Direct,
    /// Nobody can listen here, so our own commits at least are told by ourselves.
    Bouncer {
        heard: broadcast::Sender<News>,
    },
}

/// A connection of the pool. It goes back there when it is dropped.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    doubts: Doubts,
    manner: Manner,
}

/// A statement that can be asked without waiting for anything else.
#[derive(Debug)]
pub(super) enum Ready {
    Named(Statement),
    Unnamed(String),
}

impl Session {
    pub(super) fn new(client: Client, doubts: Doubts, manner: Manner) -> Self {
        Self { client, doubts, manner }
    }

    pub(super) fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    pub(super) fn is_direct(&self) -> bool {
        matches!(self.manner, Manner::Direct)
    }

    /// Begins a transaction. What is asked next may be sent right behind it.
    pub(super) async fn begin(&self, begin: &str) -> Result<(), Error> {
        match &self.manner {
            Manner::Direct => self.client.batch_execute(begin).await,
            Manner::Bouncer { .. } => {
                let begin = format!("{begin}{}", config::in_transaction());
                self.client.batch_execute(&begin).await
            }
        }
    }

    pub(super) async fn commit(&self) -> Result<(), Error> {
        self.client.batch_execute("COMMIT").await
    }

    /// Ends the transaction without its changes. Whether that was confirmed in time.
    pub(super) async fn roll_back(&self) -> bool {
        let rolled_back = timeout(CHECK, self.client.batch_execute("ROLLBACK")).await;
        rolled_back.is_ok_and(|answer| answer.is_ok())
    }

    pub(super) async fn ready(&self, sql: &str) -> Result<Ready, Error> {
        match &self.manner {
            Manner::Direct => self.client.prepare_cached(sql).await.map(Ready::Named),
            Manner::Bouncer { .. } => Ok(Ready::Unnamed(sql.to_owned())),
        }
    }

    pub(super) async fn query(
        &self,
        statement: &Ready,
        values: &[Bound<'_>],
    ) -> Result<Vec<Row>, Error> {
        match statement {
            Ready::Named(statement) => {
                let values: Vec<_> = values.iter().map(|(value, _)| *value).collect();
                self.client.query(statement, &values).await
            }
            Ready::Unnamed(sql) => self.client.query_typed(sql, values).await,
        }
    }

    /// Notes what was committed, if nobody else tells of it.
    pub(super) fn committed(&self, news: impl FnOnce() -> News) {
        match &self.manner {
            Manner::Direct => {}
            // Nobody may be following.
            Manner::Bouncer { heard } => drop(heard.send(news())),
        }
    }

    /// Ends the connection instead of giving it to somebody else.
    pub(super) fn close(self) {
        drop(Client::take(self.client));
    }
}

//! Running the statements of a use case on a connection.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql};
use uuid::Uuid;

use super::attempt::unreachable;
use crate::rows::{Cells, Wrong};
use crate::rules;
use crate::transaction::{Dialect, Failure, Tx};
use crate::value::Value;

/// A connection, or a transaction on one.
pub(super) struct PostgresTx<'c, C> {
    pub(super) client: &'c C,
    pub(super) doing: &'static str,
}

impl<C: GenericClient> Tx for PostgresTx<'_, C> {
    type Row = Row;

    const DIALECT: Dialect = Dialect {
        // An array, as the planner takes a table of one pool for one of a thousand, and would
        // rather read all elastic IPs than look up as many.
        stands_for: " = ANY (ARRAY(SELECT first + ? % size FROM pool_range))",
        has_tag: " AND e.tags @> jsonb_build_object(CAST(? AS text), CAST(? AS text))",
        event_xid: "CAST(xid AS text)",
    };

    async fn rows(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Failure> {
        let asked = async {
            let statement = self.client.prepare_cached(sql).await?;
            let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(bound).collect();
            self.client.query(&statement, &values).await
        };
        asked.await.map_err(|e| meaning(self.doing, e))
    }

    async fn alone(&mut self, name: &str) -> Result<(), Failure> {
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
        self.run(lock, &[Value::from(name)]).await
    }
}

pub(super) fn bound<'v>(value: &'v Value<'_>) -> &'v (dyn ToSql + Sync) {
    match value {
        Value::Int(int) => int,
        Value::Bool(truth) => truth,
        Value::Text(text) => text,
        Value::Uuid(id) => id,
        Value::Bytes(bytes) => bytes,
        Value::Time(time) => time,
        Value::Json(json) => json,
    }
}

/// Says what an error of PostgreSQL before the commit means. Nothing was changed.
pub(super) fn meaning(doing: &'static str, error: tokio_postgres::Error) -> Failure {
    let again = [&SqlState::T_R_SERIALIZATION_FAILURE, &SqlState::T_R_DEADLOCK_DETECTED];
    if error.code().is_some_and(|state| again.contains(&state)) {
        return Failure::Again(Box::new(error));
    }
    let constraint = error.as_db_error().and_then(|told| told.constraint()).map(str::to_owned);
    match constraint {
        Some(name) => rules::met_by_name(&name, error),
        None => unreachable(doing, false, error).into(),
    }
}

fn cell<'r, V: FromSql<'r>>(row: &'r Row, column: &str) -> Result<Option<V>, Wrong> {
    row.try_get(column).map_err(|e| Wrong(format!("{column}: {e}")))
}

impl Cells for Row {
    fn int(&self, column: &str) -> Result<Option<i64>, Wrong> {
        cell(self, column)
    }

    fn text(&self, column: &str) -> Result<Option<String>, Wrong> {
        cell(self, column)
    }

    fn uuid(&self, column: &str) -> Result<Option<Uuid>, Wrong> {
        cell(self, column)
    }

    fn time(&self, column: &str) -> Result<Option<Timestamp>, Wrong> {
        cell(self, column)
    }

    fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>, Wrong> {
        cell(self, column)
    }
}

//! Running the statements of a use case on a connection.

use deadpool_postgres::Client;
use eip_model::HostName;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql};
use uuid::Uuid;

use super::attempt::unreachable;
use crate::given::{Given, List, MARK};
use crate::news::{NewEvent, Telling};
use crate::rows::{Cells, Wrong};
use crate::rules;
use crate::transaction::{Dialect, Failure, Tx};
use crate::value::Value;

/// A connection, or a transaction on one, and what it leaves to its end.
pub(super) struct PostgresTx<'c> {
    pub(super) client: &'c Client,
    pub(super) doing: &'static str,
    /// What begins the transaction, until the first statement has been sent with it.
    pub(super) begin: Option<&'static str>,
    pub(super) later: Vec<(&'static str, Given)>,
    pub(super) telling: Telling,
}

impl<'c> PostgresTx<'c> {
    /// Statements that are each a transaction of their own.
    pub(super) fn on(client: &'c Client, doing: &'static str) -> Self {
        Self { client, doing, begin: None, later: Vec::new(), telling: Telling::default() }
    }

    pub(super) fn begin(client: &'c Client, doing: &'static str, begin: &'static str) -> Self {
        Self { begin: Some(begin), ..Self::on(client, doing) }
    }

    async fn ask(
        &mut self,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let asked = query(self.client, sql, values);
        let asked = match self.begin.take() {
            None => asked.await,
            Some(begin) => {
                // Sent together, in this order.
                let (begun, asked) = tokio::join!(self.client.batch_execute(begin), asked);
                // Nothing has been asked of the database yet, so a connection that turns out to be
                // dead is no reason to trouble the caller.
                begun.map_err(|e| Failure::Again(Box::new(e)))?;
                asked
            }
        };
        asked.map_err(|e| meaning(self.doing, e))
    }
}

impl Tx for PostgresTx<'_> {
    type Row = Row;

    const DIALECT: Dialect = Dialect {
        // An array, as the planner takes a table of one pool for one of a thousand, and would
        // rather read all elastic IPs than look up as many.
        stands_for: " = ANY (ARRAY(SELECT first + ? % size FROM pool_range))",
        has_tag: " AND e.tags @> jsonb_build_object(CAST(? AS text), CAST(? AS text))",
    };

    async fn rows(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Failure> {
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(bound).collect();
        self.ask(sql, &values).await
    }

    async fn each(
        &mut self,
        sql: &str,
        given: impl Into<Given> + Send,
    ) -> Result<Vec<Row>, Failure> {
        let given = given.into();
        if given.is_empty() {
            return Ok(Vec::new());
        }
        let sql = sql.replace(MARK, &unnested(&given));
        self.ask(&sql, &lists(&given)).await
    }

    /// Sent together with the commit, so that it costs no round trip.
    async fn later(
        &mut self,
        sql: &'static str,
        given: impl Into<Given> + Send,
    ) -> Result<(), Failure> {
        let given = given.into();
        if !given.is_empty() {
            self.later.push((sql, given));
        }
        Ok(())
    }

    fn tell(&mut self, event: NewEvent) {
        self.telling.events.push(event);
    }

    fn wake(&mut self, host: &HostName) {
        self.telling.hosts.insert(host.clone());
    }

    async fn alone(&mut self, name: &str) -> Result<(), Failure> {
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
        self.run(lock, &[Value::from(name)]).await
    }
}

pub(super) async fn query(
    client: &Client,
    sql: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let statement = client.prepare_cached(sql).await?;
    client.query(&statement, values).await
}

/// Says to PostgreSQL what the rows are: arrays, laid side by side.
pub(super) fn unnested(given: &Given) -> String {
    let mut arrays = String::from("unnest(");
    let mut names = String::new();
    for (at, (name, list)) in given.columns().iter().enumerate() {
        let kind = match list {
            List::Int(_) => "bigint",
            List::Bool(_) => "boolean",
            List::Text(_) => "text",
            List::Uuid(_) => "uuid",
            List::Bytes(_) => "bytea",
            List::Time(_) => "timestamptz",
            List::Json(_) => "jsonb",
        };
        let comma = if at == 0 { "" } else { ", " };
        arrays.push_str(&format!("{comma}CAST(${} AS {kind}[])", at + 1));
        names.push_str(comma);
        names.push_str(name);
    }
    format!("{arrays}) AS given({names})")
}

pub(super) fn lists(given: &Given) -> Vec<&(dyn ToSql + Sync)> {
    given.columns().iter().map(|(_, list)| array(list)).collect()
}

fn array(list: &List) -> &(dyn ToSql + Sync) {
    match list {
        List::Int(list) => list,
        List::Bool(list) => list,
        List::Text(list) => list,
        List::Uuid(list) => list,
        List::Bytes(list) => list,
        List::Time(list) => list,
        List::Json(list) => list,
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
    if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return Failure::Blocked(unreachable(doing, false, error));
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

//! Running the statements of a use case on a connection.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use eip_model::HostName;
use jiff::Timestamp;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use super::attempt::unreachable;
use super::config::{ANSWER, PATIENCE};
use super::session::{Bound, Session};
use crate::given::{Given, List, MARK};
use crate::news::{NewEvent, Telling};
use crate::rows::{Cells, Wrong};
use crate::rules;
use crate::transaction::{Dialect, Failure, Tx};
use crate::value::Value;

/// A connection, or a transaction on one, and what it leaves to its end.
pub(super) struct PostgresTx<'c> {
    pub(super) session: &'c Session,
    pub(super) doing: &'static str,
    /// What begins the transaction, until the first statement has been sent with it.
    pub(super) begin: Option<&'static str>,
    pub(super) later: Vec<(&'static str, Given)>,
    pub(super) telling: Telling,
}

impl<'c> PostgresTx<'c> {
    /// Statements that are each a transaction of their own.
    pub(super) fn on(session: &'c Session, doing: &'static str) -> Self {
        Self { session, doing, begin: None, later: Vec::new(), telling: Telling::default() }
    }

    pub(super) fn begin(session: &'c Session, doing: &'static str, begin: &'static str) -> Self {
        Self { begin: Some(begin), ..Self::on(session, doing) }
    }

    async fn ask(&mut self, sql: &str, values: &[Bound<'_>]) -> Result<Vec<Row>, Failure> {
        let doing = self.doing;
        let asked = in_time(doing, ANSWER, query(self.session, sql, values));
        let Some(begin) = self.begin.take() else { return asked.await };
        let begun = in_time(doing, PATIENCE, self.session.begin(begin));
        // Sent together, in this order.
        let ((), rows) = tokio::try_join!(begun, asked)?;
        Ok(rows)
    }
}

impl Tx for PostgresTx<'_> {
    type Row = Row;

    const DIALECT: Dialect = Dialect {
        // An array, as the planner takes a table of one pool for one of a thousand, and would
        // rather read all elastic IPs than look up as many.
        stands_for: " = ANY (ARRAY(SELECT first + ? % size FROM pool_range))",
        has_tag: " AND e.tags @> jsonb_build_object(CAST(? AS text), CAST(? AS text))",
        shut: "LOCK TABLE elastic_ip IN SHARE ROW EXCLUSIVE MODE",
    };

    async fn rows(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Failure> {
        let values: Vec<Bound<'_>> = values.iter().map(bound).collect();
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

/// Waits for an answer, but not for ever: the server may be gone without a word.
pub(super) async fn in_time<A>(
    doing: &'static str,
    limit: Duration,
    asked: impl Future<Output = Result<A, tokio_postgres::Error>>,
) -> Result<A, Failure> {
    match timeout(limit, asked).await {
        Ok(answer) => answer.map_err(|e| meaning(doing, e)),
        Err(elapsed) => Err(unreachable(doing, false, elapsed).into()),
    }
}

pub(super) async fn query(
    session: &Session,
    sql: &str,
    values: &[Bound<'_>],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let statement = session.ready(sql).await?;
    session.query(&statement, values).await
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

pub(super) fn lists(given: &Given) -> Vec<Bound<'_>> {
    given.columns().iter().map(|(_, list)| array(list)).collect()
}

fn array(list: &List) -> Bound<'_> {
    match list {
        List::Int(list) => (list, Type::INT8_ARRAY),
        List::Bool(list) => (list, Type::BOOL_ARRAY),
        List::Text(list) => (list, Type::TEXT_ARRAY),
        List::Uuid(list) => (list, Type::UUID_ARRAY),
        List::Bytes(list) => (list, Type::BYTEA_ARRAY),
        List::Time(list) => (list, Type::TIMESTAMPTZ_ARRAY),
        List::Json(list) => (list, Type::JSONB_ARRAY),
    }
}

fn bound<'v>(value: &'v Value<'_>) -> Bound<'v> {
    match value {
        Value::Int(int) => (int, Type::INT8),
        Value::Bool(truth) => (truth, Type::BOOL),
        Value::Text(text) => (text, Type::TEXT),
        Value::Uuid(id) => (id, Type::UUID),
        Value::Bytes(bytes) => (bytes, Type::BYTEA),
        Value::Time(time) => (time, Type::TIMESTAMPTZ),
        Value::Json(json) => (json, Type::JSONB),
    }
}

/// Says what an error of PostgreSQL before the commit means. Nothing was changed.
pub(super) fn meaning(doing: &'static str, error: tokio_postgres::Error) -> Failure {
    let again = [&SqlState::T_R_SERIALIZATION_FAILURE, &SqlState::T_R_DEADLOCK_DETECTED];
    // Nothing was committed, so whether the connection is lost is of no concern to the caller. If the
    // server is, the next attempt finds out.
    if is_lost(&error) || error.code().is_some_and(|state| again.contains(&state)) {
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

/// Whether the connection ended, with or without a word.
pub(super) fn is_lost(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        // The server or its operator ended it, or who stands in between (08).
        Some(state) => {
            matches!(state.code(), "57P01" | "57P02" | "57P03" | "57P05" | "25P03")
                || state.code().starts_with("08")
        }
        None => error.is_closed() || error.source().is_some_and(|source| source.is::<io::Error>()),
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

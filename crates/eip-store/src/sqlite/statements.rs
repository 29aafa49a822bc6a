//! Running the statements of a use case on a connection.

use std::future::{Future, ready};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use eip_model::HostName;
use jiff::Timestamp;
use rusqlite::types::{Null, Value as Cell};
use rusqlite::{Connection, ErrorCode};
use uuid::Uuid;

use crate::error::StoreError;
use crate::given::{Given, MARK};
use crate::news::{NewEvent, Telling};
use crate::rows::{Cells, Wrong};
use crate::rules;
use crate::transaction::{Batch, Dialect, Failure, Outcome, Tx, UseCase};
use crate::value::Value;

/// Runs a use case to its end on this thread.
pub(super) fn run_now<U: UseCase>(
    connection: &mut Connection,
    case: &U,
) -> Result<(U::Answer, Telling), StoreError> {
    let mut tx = SqliteTx { connection, doing: U::DOING, telling: Telling::default() };
    let answer = finish(case.run(&mut tx), U::DOING)?;
    Ok((answer, tx.write_events()?))
}

/// What came out of each command of a batch, and what there is to say of them all.
type Settled<B> = (Vec<Outcome<<B as Batch>::Answer>>, Telling);

/// Runs a batch to its end on this thread.
pub(super) fn settle_now<B: Batch>(
    connection: &mut Connection,
    commands: &[B],
) -> Result<Settled<B>, StoreError> {
    let mut tx = SqliteTx { connection, doing: B::DOING, telling: Telling::default() };
    let outcomes = finish(B::settle(&mut tx, commands), B::DOING)?;
    Ok((outcomes, tx.write_events()?))
}

/// Takes what came out of it. Statements are answered as they are asked, so it never waits.
fn finish<A>(
    running: impl Future<Output = Result<A, Failure>>,
    doing: &'static str,
) -> Result<A, StoreError> {
    match pin!(running).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(answer)) => Ok(answer),
        Poll::Ready(Err(Failure::Store(error) | Failure::Blocked(error))) => Err(error),
        Poll::Ready(Err(Failure::Again(source))) => {
            Err(StoreError::Unavailable { doing, outcome_unknown: false, source })
        }
        Poll::Pending => Err(unavailable(doing, std::io::Error::other("it waited"))),
    }
}

/// Says that the database did not do it, and that nothing was changed.
pub(super) fn unavailable(
    doing: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Unavailable { doing, outcome_unknown: false, source: Box::new(source) }
}

struct SqliteTx<'c> {
    connection: &'c mut Connection,
    doing: &'static str,
    telling: Telling,
}

const WRITE_EVENT: &str = "
    INSERT INTO event (at, kind, project, elastic_ip_id, address, instance_id, instance_name, host,
                       actor, subject, detail)
    SELECT given.at, given.kind, given.project, given.elastic_ip_id, given.address,
           given.instance_id, given.instance_name, given.host, given.actor, given.subject,
           given.detail
      FROM {given}";

impl SqliteTx<'_> {
    /// Writes the events, and returns what there is to say of the change once it is committed.
    fn write_events(self) -> Result<Telling, StoreError> {
        let Self { connection, doing, telling } = self;
        let written = query_each(connection, WRITE_EVENT, &telling.rows());
        written.map_err(|e| unavailable(doing, e))?;
        Ok(telling)
    }
}

impl Tx for SqliteTx<'_> {
    type Row = SqliteRow;

    const DIALECT: Dialect = Dialect {
        stands_for: " IN (SELECT first + ? % size FROM pool_range)",
        has_tag: " AND EXISTS (SELECT 1 FROM json_each(e.tags) t
                                WHERE t.key = ? AND t.value = ?)",
        // There is one writer.
        shut: "SELECT 1",
    };

    fn rows(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<SqliteRow>, Failure>> + Send {
        ready(query(self.connection, sql, values).map_err(|e| failure(self.doing, e)))
    }

    fn each(
        &mut self,
        sql: &str,
        given: impl Into<Given> + Send,
    ) -> impl Future<Output = Result<Vec<SqliteRow>, Failure>> + Send {
        let found = query_each(self.connection, sql, &given.into());
        ready(found.map_err(|e| failure(self.doing, e)))
    }

    /// Nothing is won by waiting.
    fn later(
        &mut self,
        sql: &'static str,
        given: impl Into<Given> + Send,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        let found = query_each(self.connection, sql, &given.into());
        ready(found.map(drop).map_err(|e| failure(self.doing, e)))
    }

    fn tell(&mut self, event: NewEvent) {
        self.telling.events.push(event);
    }

    fn wake(&mut self, host: &HostName) {
        self.telling.hosts.insert(host.clone());
    }

    /// There is one writer.
    fn alone(&mut self, _name: &str) -> impl Future<Output = Result<(), Failure>> + Send {
        ready(Ok(()))
    }
}

/// Leaves out the locks at the end of a statement.
fn unlocked(sql: &str) -> &str {
    let locks = [" FOR UPDATE", " FOR SHARE"].iter().find_map(|lock| sql.rfind(lock));
    locks.map_or(sql, |at| &sql[..at])
}

fn query(
    connection: &Connection,
    sql: &str,
    values: &[Value<'_>],
) -> rusqlite::Result<Vec<SqliteRow>> {
    let mut statement = connection.prepare_cached(unlocked(sql))?;
    let columns = columns(&statement);
    for (place, value) in places(&statement, values.len())?.into_iter().zip(values) {
        if let Some(at) = place {
            bind(&mut statement, at, value)?;
        }
    }
    let mut found = Vec::new();
    fetch(&mut statement, &columns, &mut found)?;
    Ok(found)
}

/// Runs the statement for one row after the other.
fn query_each(
    connection: &Connection,
    sql: &str,
    given: &Given,
) -> rusqlite::Result<Vec<SqliteRow>> {
    let mut found = Vec::new();
    if given.is_empty() {
        return Ok(found);
    }
    let mut statement = connection.prepare_cached(&unlocked(sql).replace(MARK, &one_row(given)))?;
    let columns = columns(&statement);
    let places = places(&statement, given.columns().len())?;
    for row in 0..given.rows() {
        for (place, (_, list)) in places.iter().zip(given.columns()) {
            if let Some(at) = place {
                bind(&mut statement, *at, &list.at(row))?;
            }
        }
        fetch(&mut statement, &columns, &mut found)?;
    }
    Ok(found)
}

/// The row that a statement is run for, as a table.
fn one_row(given: &Given) -> String {
    let names = given.columns().iter().map(|(name, _)| name);
    let cells: Vec<String> = (1..).zip(names).map(|(n, name)| format!("${n} AS {name}")).collect();
    format!("(SELECT {}) AS given", cells.join(", "))
}

/// Where the parameters go: by name, as SQLite numbers `$2` by where it first stands and not by what
/// it says.
fn places(
    statement: &rusqlite::Statement<'_>,
    count: usize,
) -> rusqlite::Result<Vec<Option<usize>>> {
    (1..=count).map(|number| statement.parameter_index(&format!("${number}"))).collect()
}

fn columns(statement: &rusqlite::Statement<'_>) -> Arc<[String]> {
    statement.column_names().map(str::to_owned).collect()
}

fn fetch(
    statement: &mut rusqlite::Statement<'_>,
    columns: &Arc<[String]>,
    found: &mut Vec<SqliteRow>,
) -> rusqlite::Result<()> {
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let cells = (0..columns.len()).map(|at| row.get(at)).collect::<Result<_, _>>()?;
        found.push(SqliteRow { columns: Arc::clone(columns), cells });
    }
    Ok(())
}

fn bind(
    statement: &mut rusqlite::Statement<'_>,
    at: usize,
    value: &Value<'_>,
) -> rusqlite::Result<()> {
    match value {
        Value::Int(int) => statement.raw_bind_parameter(at, *int),
        Value::Bool(truth) => statement.raw_bind_parameter(at, i64::from(*truth)),
        Value::Text(text) => statement.raw_bind_parameter(at, *text),
        Value::Uuid(Some(id)) => statement.raw_bind_parameter(at, id.as_bytes().as_slice()),
        Value::Uuid(None) => statement.raw_bind_parameter(at, Null),
        Value::Bytes(bytes) => statement.raw_bind_parameter(at, *bytes),
        Value::Time(time) => statement.raw_bind_parameter(at, time.map(|t| t.as_microsecond())),
        Value::Json(json) => {
            statement.raw_bind_parameter(at, json.as_ref().map(ToString::to_string))
        }
    }
}

/// Says what an error of SQLite means.
pub(super) fn failure(doing: &'static str, error: rusqlite::Error) -> Failure {
    if let rusqlite::Error::SqliteFailure(told, Some(message)) = &error
        && told.code == ErrorCode::ConstraintViolation
    {
        let message = message.clone();
        return rules::met_by_message(&message, error);
    }
    unavailable(doing, error).into()
}

/// A row that is off the statement.
#[derive(Debug)]
pub(super) struct SqliteRow {
    columns: Arc<[String]>,
    cells: Vec<Cell>,
}

impl SqliteRow {
    fn cell(&self, column: &str) -> Result<&Cell, Wrong> {
        let at = self.columns.iter().position(|name| name == column);
        at.and_then(|at| self.cells.get(at)).ok_or_else(|| Wrong(format!("{column}: is missing")))
    }
}

fn mistyped(column: &str, cell: &Cell) -> Wrong {
    Wrong(format!("{column}: is of type {}", cell.data_type()))
}

impl Cells for SqliteRow {
    fn int(&self, column: &str) -> Result<Option<i64>, Wrong> {
        match self.cell(column)? {
            Cell::Null => Ok(None),
            Cell::Integer(int) => Ok(Some(*int)),
            other @ (Cell::Real(_) | Cell::Text(_) | Cell::Blob(_)) => Err(mistyped(column, other)),
        }
    }

    fn text(&self, column: &str) -> Result<Option<String>, Wrong> {
        match self.cell(column)? {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text.clone())),
            other @ (Cell::Real(_) | Cell::Integer(_) | Cell::Blob(_)) => {
                Err(mistyped(column, other))
            }
        }
    }

    fn uuid(&self, column: &str) -> Result<Option<Uuid>, Wrong> {
        let Some(bytes) = self.bytes(column)? else {
            return Ok(None);
        };
        Uuid::from_slice(&bytes).map(Some).map_err(|e| Wrong(format!("{column}: {e}")))
    }

    fn time(&self, column: &str) -> Result<Option<Timestamp>, Wrong> {
        let Some(micros) = self.int(column)? else {
            return Ok(None);
        };
        let time = Timestamp::from_microsecond(micros);
        time.map(Some).map_err(|e| Wrong(format!("{column}: {e}")))
    }

    fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>, Wrong> {
        match self.cell(column)? {
            Cell::Null => Ok(None),
            Cell::Blob(bytes) => Ok(Some(bytes.clone())),
            other @ (Cell::Real(_) | Cell::Integer(_) | Cell::Text(_)) => {
                Err(mistyped(column, other))
            }
        }
    }
}

//! Running the statements of a use case on a connection.

use std::future::{Future, ready};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use jiff::Timestamp;
use rusqlite::types::{Null, Value as Cell};
use rusqlite::{Connection, ErrorCode};
use uuid::Uuid;

use crate::error::StoreError;
use crate::rows::{Cells, Wrong};
use crate::rules;
use crate::transaction::{Dialect, Failure, Tx, UseCase};
use crate::value::Value;

/// Runs a use case to its end on this thread.
///
/// Its statements are answered as they are asked, so it never waits.
pub(super) fn run_now<U: UseCase>(
    connection: &mut Connection,
    case: &U,
) -> Result<U::Answer, StoreError> {
    let mut tx = SqliteTx { connection, doing: U::DOING };
    let running = pin!(case.run(&mut tx));
    match running.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(answer)) => Ok(answer),
        Poll::Ready(Err(Failure::Store(error))) => Err(error),
        Poll::Ready(Err(Failure::Again(source))) => {
            Err(StoreError::Unavailable { doing: U::DOING, outcome_unknown: false, source })
        }
        Poll::Pending => Err(unavailable(U::DOING, std::io::Error::other("it waited"))),
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
}

impl Tx for SqliteTx<'_> {
    type Row = SqliteRow;

    const DIALECT: Dialect = Dialect {
        stands_for: " IN (SELECT first + ? % size FROM pool_range)",
        has_tag: " AND EXISTS (SELECT 1 FROM json_each(e.tags) t
                                WHERE t.key = ? AND t.value = ?)",
        event_xid: "'0'",
    };

    fn rows(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<SqliteRow>, Failure>> + Send {
        ready(query(self.connection, sql, values).map_err(|e| failure(self.doing, e)))
    }

    /// There is one writer.
    fn alone(&mut self, _name: &str) -> impl Future<Output = Result<(), Failure>> + Send {
        ready(Ok(()))
    }
}

fn query(
    connection: &Connection,
    sql: &str,
    values: &[Value<'_>],
) -> rusqlite::Result<Vec<SqliteRow>> {
    let sql =
        [" FOR UPDATE", " FOR SHARE"].iter().find_map(|lock| sql.strip_suffix(lock)).unwrap_or(sql);
    let mut statement = connection.prepare_cached(sql)?;
    for (number, value) in (1..).zip(values) {
        // Named, as SQLite numbers `$2` by where it first stands and not by what it says.
        if let Some(at) = statement.parameter_index(&format!("${number}"))? {
            bind(&mut statement, at, value)?;
        }
    }
    let columns: Arc<[String]> = statement.column_names().map(str::to_owned).collect();
    let mut found = Vec::new();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let cells = (0..columns.len()).map(|at| row.get(at)).collect::<Result<_, _>>()?;
        found.push(SqliteRow { columns: columns.clone(), cells });
    }
    Ok(found)
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
        Value::Json(json) => statement.raw_bind_parameter(at, json.to_string()),
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

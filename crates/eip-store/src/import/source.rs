//! The record that is read: a SQLite file that no server has open.

use std::fs::File;
use std::path::PathBuf;

use jiff::Timestamp;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{ImportError, TABLES, is_current};
use crate::open::OpenError;
use crate::sqlite::file::{connect_to_read, prepare, schema};

/// How many bytes go at a time.
const PIECE: usize = 256 * 1024;

/// What a column holds, in words of both databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int,
    Text,
    Uuid,
    Bytes,
    Time,
    Json,
}

#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// What a table is read as: lines as `COPY` takes them, and at last how many there were.
#[derive(Debug)]
pub(crate) enum Piece {
    Lines(Vec<u8>),
    End { rows: u64 },
}

/// The file, for as long as nobody else may have it.
#[derive(Debug)]
pub(crate) struct Source {
    // Closed before the lock is given back.
    connection: Connection,
    _lock: File,
}

impl Source {
    pub(super) fn open(path: PathBuf) -> Result<Self, ImportError> {
        if !path.exists() {
            return Err(ImportError::NoRecord { path });
        }
        let lock = prepare(&path).map_err(ImportError::Source)?;
        let connection = connect_to_read(&path).map_err(ImportError::Source)?;
        let found = schema(&connection).map_err(OpenError::sqlite("read", &path));
        let found = found.map_err(ImportError::Source)?;
        if found == 0 {
            return Err(ImportError::NoRecord { path });
        }
        is_current(found)?;
        // As of one moment, also when somebody is at it with another program.
        connection.execute_batch("BEGIN").map_err(ImportError::database("read the record"))?;
        Ok(Self { connection, _lock: lock })
    }

    /// Returns the columns of a table in the order of their names.
    pub(crate) fn columns(&self, table: &str) -> Result<Vec<String>, ImportError> {
        let sql = "SELECT name FROM pragma_table_info(?1) ORDER BY name";
        let read = || -> rusqlite::Result<_> {
            let mut statement = self.connection.prepare(sql)?;
            statement.query_map([table], |row| row.get(0))?.collect()
        };
        read().map_err(ImportError::database("read the tables of the record"))
    }

    /// Returns the highest number that an event ever had; 0 when there was none.
    pub(crate) fn last_event(&self) -> Result<i64, ImportError> {
        let sql = "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0),
                              coalesce((SELECT max(seq) FROM event), 0))";
        let read = self.connection.query_one(sql, [], |row| row.get(0));
        read.map_err(ImportError::database("read the number of the newest event"))
    }

    /// Reads every table, one after the other, and returns the file when that is done. Stops early
    /// when nobody takes the pieces.
    pub(crate) fn read(
        self,
        columns: &[Vec<Column>],
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<Self, ImportError> {
        for (table, columns) in TABLES.into_iter().zip(columns) {
            self.read_table(table, columns, pieces)?;
        }
        Ok(self)
    }

    fn read_table(
        &self,
        table: &'static str,
        columns: &[Column],
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<(), ImportError> {
        let doing = "read the rows of the record";
        let names: Vec<_> = columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
        let sql = format!("SELECT {} FROM \"{table}\"", names.join(", "));
        let mut statement = self.connection.prepare(&sql).map_err(ImportError::database(doing))?;
        let mut found = statement.query([]).map_err(ImportError::database(doing))?;
        let mut lines = Vec::with_capacity(PIECE + 4_096);
        let mut rows = 0;
        while let Some(row) = found.next().map_err(ImportError::database(doing))? {
            for (at, column) in columns.iter().enumerate() {
                let cell = row.get_ref(at).map_err(ImportError::database(doing))?;
                write(&mut lines, column.kind, cell).map_err(|what| ImportError::Cell {
                    table,
                    column: column.name.clone(),
                    what,
                })?;
                lines.push(if at + 1 == columns.len() { b'\n' } else { b'\t' });
            }
            rows += 1;
            if lines.len() >= PIECE {
                let full = std::mem::replace(&mut lines, Vec::with_capacity(PIECE + 4_096));
                if pieces.blocking_send(Piece::Lines(full)).is_err() {
                    return Ok(());
                }
            }
        }
        // Whoever does not take them has met an error that will be told.
        drop(pieces.blocking_send(Piece::Lines(lines)));
        drop(pieces.blocking_send(Piece::End { rows }));
        Ok(())
    }
}

/// Writes a cell as the text format of `COPY` has it.
fn write(out: &mut Vec<u8>, kind: Kind, cell: ValueRef<'_>) -> Result<(), String> {
    match (kind, cell) {
        (_, ValueRef::Null) => out.extend_from_slice(b"\\N"),
        (Kind::Bool, ValueRef::Integer(truth @ (0 | 1))) => {
            out.push(if truth == 1 { b't' } else { b'f' });
        }
        (Kind::Int, ValueRef::Integer(int)) => out.extend_from_slice(int.to_string().as_bytes()),
        (Kind::Time, ValueRef::Integer(micros)) => {
            let time = Timestamp::from_microsecond(micros).map_err(|error| error.to_string())?;
            out.extend_from_slice(time.to_string().as_bytes());
        }
        (Kind::Text | Kind::Json, ValueRef::Text(text)) => escape(out, text),
        (Kind::Uuid, ValueRef::Blob(bytes)) => {
            let id = Uuid::from_slice(bytes).map_err(|error| error.to_string())?;
            out.extend_from_slice(id.hyphenated().to_string().as_bytes());
        }
        (Kind::Bytes, ValueRef::Blob(bytes)) => {
            out.extend_from_slice(b"\\\\x");
            for byte in bytes {
                out.extend_from_slice(&hex(*byte));
            }
        }
        (kind, cell) => return Err(format!("{} is no {kind:?}", cell.data_type())),
    }
    Ok(())
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => out.push(*other),
        }
    }
}

fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

//! Moving a record to another database, whole.

mod source;

use std::path::PathBuf;

use crate::open::{OpenError, Place, SCHEMA};
use crate::postgres::import::Target;
pub(crate) use source::{Column, Kind, Piece, Source};

/// The tables of the record, each behind those that it refers to.
pub(crate) const TABLES: [&str; 17] = [
    "cluster",
    "project",
    "pool",
    "pool_range",
    "api_key",
    "host",
    "instance",
    "elastic_ip",
    "past_allocation",
    "association",
    "letting_go",
    "attachment_problem",
    "event",
    "answer",
    "traffic",
    "webhook",
    "deleted_project",
];

/// A record that was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Where it is now, without secrets.
    pub place: String,
    /// How many rows each table has, in both databases.
    pub rows: Vec<(&'static str, u64)>,
    /// The number of the newest event; 0 when there is none.
    pub last_event: u64,
}

/// The record cannot be imported. The database that it was to go to is as it was, but for
/// [`ImportError::Unconfirmed`].
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("a record is imported from SQLite into PostgreSQL, and no other way")]
    Direction,
    #[error("there is no record at {path}")]
    NoRecord { path: PathBuf },
    #[error("cannot open the record that is to be imported")]
    Source(#[source] OpenError),
    #[error(
        "the record that is to be imported has schema {found}, and this program imports {known}"
    )]
    Older { found: i32, known: i32 },
    #[error("cannot open the database to import into")]
    Target(#[source] OpenError),
    #[error("the database to import into ({place}) is not empty: there are rows in {table}")]
    NotEmpty { place: String, table: &'static str },
    #[error("the two databases do not agree on the columns of {table}")]
    Columns { table: &'static str },
    #[error("{table}.{column} holds what cannot be imported: {what}")]
    Cell { table: &'static str, column: String, what: String },
    #[error("{read} rows of {table} were read and {written} written")]
    Differs { table: &'static str, read: u64, written: u64 },
    /// It may be there whole or not at all, and is lost again if a standby takes over that lacks it.
    #[error("it is not known whether the record is in {place} and will stay there")]
    Unconfirmed {
        place: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot {doing}")]
    Database {
        doing: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ImportError {
    pub(crate) fn database<E>(doing: &'static str) -> impl FnOnce(E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        move |source| Self::Database { doing, source: Box::new(source) }
    }
}

/// Copies the SQLite record at `from` into the empty PostgreSQL database at `to`: every row of every
/// table as it is, ids, times and numbers included.
///
/// No server may have the record open, and none can start on either side meanwhile. Tables and rows
/// are one transaction, in which the rows of both sides are counted; the record at `from` is only
/// read.
///
/// # Errors
/// [`ImportError`] says what stands in the way. The database at `to` is then as it was, unless its
/// commit is what went wrong.
pub async fn import(from: &str, to: &str) -> Result<Imported, ImportError> {
    let path = match Place::of(from).map_err(ImportError::Source)? {
        Place::Sqlite(path) => path,
        Place::Postgres(_) => return Err(ImportError::Direction),
    };
    let url = match Place::of(to).map_err(ImportError::Target)? {
        Place::Postgres(url) => url,
        Place::Sqlite(_) => return Err(ImportError::Direction),
    };
    let opened = tokio::task::spawn_blocking(move || Source::open(path)).await;
    let source = opened.map_err(ImportError::database("open the record"))??;
    let mut target = Target::open(url).await?;
    let imported = target.fill(source).await;
    target.close().await;
    imported
}

/// Whether this is the schema of this program.
fn is_current(found: i32) -> Result<(), ImportError> {
    if found > SCHEMA {
        return Err(ImportError::Source(OpenError::Newer { found, known: SCHEMA }));
    }
    if found < SCHEMA {
        return Err(ImportError::Older { found, known: SCHEMA });
    }
    Ok(())
}

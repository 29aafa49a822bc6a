//! From a database URL to the record that is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cases::Record;
use crate::home::Home;
use crate::postgres::Postgres;
use crate::repository::Repository;
use crate::sqlite::Sqlite;

/// The newest schema that this program knows; both databases count alike.
pub(crate) const SCHEMA: i32 = 11;

/// The record cannot be opened. No message holds a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the database is given as sqlite:PATH or postgres://USER@HOST/NAME, not like \"{scheme}\""
    )]
    UnknownScheme { scheme: String },
    #[error("the address of the PostgreSQL database is not valid")]
    InvalidUrl(#[source] tokio_postgres::Error),
    #[error("{name}={value} in the address of the database is not understood; write {accepted}")]
    InvalidParameter { name: &'static str, value: String, accepted: &'static str },
    /// Parameters that do not go together; it says what would.
    #[error("the address of the database: {what}")]
    Contradiction { what: &'static str },
    #[error("cannot use {parameter}={path}, named in the address of the database")]
    TlsFile {
        parameter: &'static str,
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the PostgreSQL server has no TLS, and sslmode={mode} was asked for")]
    ServerWithoutTls { mode: &'static str },
    #[error("the certificate of the PostgreSQL server is not to be trusted")]
    Untrusted {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the certificate of the PostgreSQL server is for another host")]
    WrongHost {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot {doing} {path}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {doing} the SQLite database {path}")]
    Sqlite {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    /// Left as it is.
    #[error("{path} is damaged, or is no SQLite database")]
    Damaged {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// SQLite has one writer, and it is in the other process.
    #[error("another process is using {path}; stop it, or use PostgreSQL for several servers")]
    InUse { path: PathBuf },
    /// Left untouched.
    #[error(
        "the database has schema {found} and this program knows schema {known} at most; use the newer program that wrote it"
    )]
    Newer { found: i32, known: i32 },
    /// All of the steps are one transaction.
    #[error("cannot bring the database up to schema {to}; it was left as it was")]
    Upgrade {
        to: i32,
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

impl OpenError {
    pub(crate) fn database<E>(doing: &'static str) -> impl FnOnce(E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        move |source| Self::Database { doing, source: Box::new(source) }
    }

    /// Says what SQLite met in this file.
    pub(crate) fn sqlite(doing: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> Self {
        let path = path.to_owned();
        let damage = [rusqlite::ErrorCode::DatabaseCorrupt, rusqlite::ErrorCode::NotADatabase];
        move |source| match source.sqlite_error_code() {
            Some(code) if damage.contains(&code) => {
                Self::Damaged { path, source: Box::new(source) }
            }
            Some(_) | None => Self::Sqlite { doing, path, source },
        }
    }

    pub(crate) fn upgrade(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Upgrade { to: SCHEMA, source: Box::new(source) }
    }
}

/// Opens the record at `url`, making it where there is none and bringing its schema up to date.
///
/// `sqlite:PATH` is a file on this machine, used by one process; `postgres://...` or
/// `postgresql://...` is a database that several servers may share.
///
/// # Errors
/// [`OpenError`] says what stands in the way.
pub async fn open(url: &str) -> Result<Arc<dyn Repository>, OpenError> {
    let place = Place::of(url)?;
    let home = Home::start()?;
    match place {
        Place::Sqlite(path) => Ok(Arc::new(Record::of(Sqlite::open(path).await?, &home))),
        Place::Postgres(url) => {
            let database = Postgres::open(url, &home).await?;
            Ok(Arc::new(Record::of(database, &home)))
        }
    }
}

/// Where a record is, by its URL.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    Sqlite(PathBuf),
    Postgres(&'a str),
}

impl<'a> Place<'a> {
    pub(crate) fn of(url: &'a str) -> Result<Self, OpenError> {
        let scheme = url.split_once(':').map_or(url, |(scheme, _)| scheme);
        match scheme {
            "sqlite" => {
                let path = url.trim_start_matches("sqlite:");
                let path = path.strip_prefix("//").unwrap_or(path);
                if path.is_empty() || path.starts_with(":memory:") {
                    return Err(OpenError::UnknownScheme { scheme: url.to_owned() });
                }
                Ok(Self::Sqlite(path.into()))
            }
            "postgres" | "postgresql" => Ok(Self::Postgres(url)),
            other => Err(OpenError::UnknownScheme { scheme: other.to_owned() }),
        }
    }
}

//! A copy of the record while a server writes to it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::open::{OpenError, Place};
use crate::sqlite::file::{connect_to_read, schema};

/// A copy that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    pub path: PathBuf,
    pub bytes: u64,
    /// How many addresses are held in it.
    pub held: u64,
    /// The number of the newest event in it; 0 when there is none.
    pub last_event: u64,
}

/// The record cannot be copied. There is no file then.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Open(OpenError),
    #[error("the record is in PostgreSQL, which is copied by its own tools")]
    NotSqlite,
    #[error("there is no record at {path}")]
    NoRecord { path: PathBuf },
    #[error("{path} is there already")]
    Exists { path: PathBuf },
    #[error("there is no space for {path}")]
    NoSpace {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The record may be, too.
    #[error("the copy is damaged: {what}")]
    Unsound { what: String },
    #[error("cannot {doing} {path}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {doing}")]
    Database {
        doing: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Copies the SQLite record at `url` into a new file, while its server goes on.
///
/// The copy is the record as of one moment after the call: everything that was acknowledged before
/// is in it. It is written beside `to`, checked, brought to the disk and only then given its name,
/// so that a file of this name is a whole copy. Writers do not wait, but their log grows meanwhile.
///
/// # Errors
/// [`BackupError`] says what stands in the way.
pub async fn backup(url: &str, to: &Path) -> Result<Backup, BackupError> {
    let from = match Place::of(url).map_err(BackupError::Open)? {
        Place::Sqlite(path) => path,
        Place::Postgres(_) => return Err(BackupError::NotSqlite),
    };
    let to = std::path::absolute(to).map_err(failed("find", to))?;
    let copied = tokio::task::spawn_blocking(move || copy(&from, &to)).await;
    copied.map_err(|error| BackupError::Database {
        doing: "copy the record",
        source: Box::new(error),
    })?
}

fn copy(from: &Path, to: &Path) -> Result<Backup, BackupError> {
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists { path: to.to_owned() });
    }
    let no_record = || BackupError::NoRecord { path: from.to_owned() };
    if !from.try_exists().map_err(failed("look for", from))? {
        return Err(no_record());
    }
    let source = connect_to_read(from).map_err(BackupError::Open)?;
    let failed_at = |doing| {
        let meaning = OpenError::sqlite(doing, from);
        move |error| BackupError::Open(meaning(error))
    };
    if schema(&source).map_err(failed_at("read"))? == 0 {
        return Err(no_record());
    }
    let draft = Draft::beside(to)?;
    let path = ToSqlOutput::Borrowed(ValueRef::Text(draft.0.as_os_str().as_bytes()));
    // One read transaction from its beginning to its end; in WAL mode no writer waits for it.
    source.execute("VACUUM INTO ?1", [path]).map_err(|error| {
        if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            BackupError::NoSpace { path: to.to_owned(), source: Box::new(error) }
        } else {
            failed_at("copy")(error)
        }
    })?;
    drop(source);
    let backup = checked(&draft.0, to)?;
    draft.becomes(to)?;
    Ok(backup)
}

/// Reads the copy as a whole, as nobody may ever do again before it is needed.
fn checked(draft: &Path, to: &Path) -> Result<Backup, BackupError> {
    let doing = "read the copy";
    let look = || -> rusqlite::Result<_> {
        let copy = Connection::open_with_flags(draft, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let sound: String = copy.query_one("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        let held = "SELECT count(*) FROM elastic_ip WHERE released_at IS NULL";
        let held: i64 = copy.query_one(held, [], |row| row.get(0))?;
        let last = "SELECT coalesce(max(seq), 0) FROM event";
        let last_event: i64 = copy.query_one(last, [], |row| row.get(0))?;
        Ok((sound, held, last_event))
    };
    let (sound, held, last_event) =
        look().map_err(|error| BackupError::Database { doing, source: Box::new(error) })?;
    if sound != "ok" {
        return Err(BackupError::Unsound { what: sound });
    }
    let bytes = draft.metadata().map_err(failed("look at", draft))?.len();
    let count = |number: i64| u64::try_from(number).unwrap_or_default();
    let (held, last_event) = (count(held), count(last_event));
    Ok(Backup { path: to.to_owned(), bytes, held, last_event })
}

/// A file that is not yet what it is to be; without its name it goes away.
struct Draft(PathBuf);

impl Draft {
    fn beside(to: &Path) -> Result<Self, BackupError> {
        let mut name = to.as_os_str().to_owned();
        name.push(format!(".partial-{}", std::process::id()));
        let path = PathBuf::from(name);
        // SQLite takes a file that is empty. Only its user may read the keys in it.
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.map_err(failed("make", &path))?;
        Ok(Self(path))
    }

    /// Brings it to the disk and gives it its name, unless another file has got that meanwhile.
    fn becomes(self, to: &Path) -> Result<(), BackupError> {
        let synced = File::open(&self.0).and_then(|file| file.sync_all());
        synced.map_err(failed("write", to))?;
        match renameat_with(CWD, &self.0, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                return Err(BackupError::Exists { path: to.to_owned() });
            }
            // Some file systems cannot tell; that it is not there was asked before.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                std::fs::rename(&self.0, to).map_err(failed("write", to))?;
            }
            Err(error) => return Err(failed("write", to)(error.into())),
        }
        let folder = to.parent().unwrap_or(Path::new("/"));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed("write", folder))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let mut journal: OsString = self.0.clone().into_os_string();
        journal.push("-journal");
        for path in [self.0.as_path(), Path::new(&journal)] {
            // There is none when it has its name.
            drop(std::fs::remove_file(path));
        }
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| {
        if source.kind() == io::ErrorKind::StorageFull {
            BackupError::NoSpace { path, source: Box::new(source) }
        } else {
            BackupError::File { doing, path, source }
        }
    }
}

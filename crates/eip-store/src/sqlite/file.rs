//! The file of the record: who may open it, and what must hold before it is written to.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use refinery::{Migration, Runner};
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::open::{OpenError, SCHEMA};

const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__the_record", include_str!("../../migrations/sqlite/V1__the_record.sql")),
    ("V2__batches", include_str!("../../migrations/sqlite/V2__batches.sql")),
    ("V3__address_source", include_str!("../../migrations/sqlite/V3__address_source.sql")),
    ("V4__modes", include_str!("../../migrations/sqlite/V4__modes.sql")),
    ("V6__trust_and_traffic", include_str!("../../migrations/sqlite/V6__trust_and_traffic.sql")),
    ("V7__mends", include_str!("../../migrations/sqlite/V7__mends.sql")),
    ("V8__rows_in_order", include_str!("../../migrations/sqlite/V8__rows_in_order.sql")),
    ("V9__tenants", include_str!("../../migrations/sqlite/V9__tenants.sql")),
    (
        "V10__admin_events_and_webhooks",
        include_str!("../../migrations/sqlite/V10__admin_events_and_webhooks.sql"),
    ),
    (
        "V11__order_of_inventories",
        include_str!("../../migrations/sqlite/V11__order_of_inventories.sql"),
    ),
];

/// Makes the folder and the file for this user only, and takes the lock that keeps others out.
///
/// The lock is on a file of its own: SQLite's own locks are gone as soon as anything in this
/// process closes the database file.
pub(crate) fn prepare(path: &Path) -> Result<File, OpenError> {
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::File { doing, path, source }
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed("make the folder", folder))?;
    }
    let open = |path: &Path| {
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
    };
    let lock_path = lock_path(path);
    let lock = open(&lock_path).map_err(failed("open", &lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(failed("lock", &lock_path)(source)),
    }
    open(path).map_err(failed("open", path))?;
    Ok(lock)
}

fn lock_path(path: &Path) -> PathBuf {
    beside(path, ".lock")
}

/// Returns the path of a file that belongs to the one at `path`, by whatever name that is known.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut name = real.into_os_string();
    name.push(suffix);
    name.into()
}

/// Opens the connection that writes, and brings the schema up to date.
pub(super) fn connect(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    ends_with_a_page(path)?;
    let failed = |doing| OpenError::sqlite(doing, path);
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed("open"))?;
    let found = schema(&connection).map_err(failed("read"))?;
    if found > SCHEMA {
        return Err(OpenError::Newer { found, known: SCHEMA });
    }
    set_up(&connection).map_err(failed("set up"))?;
    let migrations = MIGRATIONS.iter().map(|(name, sql)| Migration::unapplied(name, sql));
    let migrations = migrations.collect::<Result<Vec<_>, _>>();
    let migrations = migrations.map_err(OpenError::database("read the migrations"))?;
    // All of them and the note that they are done, or nothing: one that was carried out and is not
    // noted would be in its own way at every start.
    Runner::new(&migrations).set_grouped(true).run(&mut connection).map_err(OpenError::upgrade)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(failed("set up"))?;
    Ok(connection)
}

/// Refuses a file that was cut off within a page: SQLite would take a part of its last page for all of
/// it, and a single byte for a new file. What is in the log makes up for what the file lacks.
fn ends_with_a_page(path: &Path) -> Result<(), OpenError> {
    let logged = std::fs::metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0);
    let read = || -> std::io::Result<_> {
        let mut file = File::open(path)?;
        let mut header = [0; 18];
        let length = file.metadata()?.len();
        if length >= 512 {
            file.read_exact(&mut header)?;
        }
        Ok((length, u16::from_be_bytes([header[16], header[17]])))
    };
    let (length, page) = read().map_err(|source| OpenError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    })?;
    // The largest size of a page does not fit its field.
    let page = if page == 1 { 65_536 } else { u64::from(page).max(512) };
    if logged || length.is_multiple_of(page) {
        return Ok(());
    }
    let source = Box::new(std::io::Error::other("it ends within a page"));
    Err(OpenError::Damaged { path: path.to_owned(), source })
}

/// Returns the newest migration that was applied; 0 for a new file.
pub(crate) fn schema(connection: &Connection) -> rusqlite::Result<i32> {
    let migrated = connection
        .query_one(
            "SELECT 1 FROM sqlite_schema WHERE name = 'refinery_schema_history'",
            [],
            |row| row.get::<_, i32>(0),
        )
        .optional()?;
    if migrated.is_none() {
        return Ok(0);
    }
    let version = "SELECT coalesce(max(version), 0) FROM refinery_schema_history";
    connection.query_one(version, [], |row| row.get(0))
}

/// A commit is on the disk when it is answered (FULL): with many changes in one commit this costs
/// a third more than losing the last ones in a power cut. The log is folded in every 4,000 pages
/// (16 MB), so that it is written over instead of growing: growing costs a second flush each time.
/// Folding less often gains nothing in a file that has grown with its addresses, and whoever waits for
/// the fold waits longer.
///
/// A larger cache is a slower one. Where SQLite puts the pages of a node in order it borrows the number
/// of a page at 1 GiB (`balance_nonroot`), and the commit after it goes through the whole cache for
/// pages behind the end of the file (`pcache1TruncateUnsafe`). 16 MB hold the inner nodes of a full
/// pool; leaves come from the page cache of the kernel.
fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // A migration makes a table anew that others refer to; the rule is asked after it.
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "busy_timeout", 5_000)?;
    connection.pragma_update(None, "wal_autocheckpoint", 4_000)?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(())
}

/// Opens a connection that cannot write.
pub(crate) fn connect_to_read(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = || OpenError::sqlite("open", path);
    let connection = Connection::open_with_flags(path, flags).map_err(failed())?;
    connection.pragma_update(None, "busy_timeout", 5_000).map_err(failed())?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

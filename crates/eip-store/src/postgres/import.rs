//! The PostgreSQL database that a record is imported into.

use std::io::Cursor;
use std::pin::pin;

use futures_util::SinkExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient, Transaction};

use super::attempt::{no_standby, was_refused};
use super::config::{self, Asked};
use super::link::{self, Doubts, Link};
use super::migrate::migrated;
use crate::home::Home;
use crate::import::{Column, ImportError, Imported, Kind, Piece, Source, TABLES};

/// How many pieces wait to be written.
const WAITING: usize = 4;

type Failed = tokio_postgres::Error;

/// A database that had no row of a record when it was looked at.
#[derive(Debug)]
pub(crate) struct Target {
    place: String,
    client: Client,
    driving: JoinHandle<()>,
    doubts: Doubts,
    /// Drives the connection.
    _home: Home,
}

impl Target {
    pub(crate) async fn open(url: &str) -> Result<Self, ImportError> {
        let Asked { config, tls, .. } = config::read(url).map_err(ImportError::Target)?;
        let place = config::place(&config);
        let home = Home::start().map_err(ImportError::Target)?;
        let link = Link::new(config, tls, home.clone());
        let (client, driving) = link.reach().await.map_err(ImportError::Target)?;
        let doubts = link.doubts().clone();
        let target = Self { place, client, driving, doubts, _home: home };
        // Before anything is made of it: what a server is using is not even locked for a moment.
        match is_empty(&target.client, &target.place).await {
            Ok(()) => Ok(target),
            Err(error) => {
                target.close().await;
                Err(error)
            }
        }
    }

    pub(crate) async fn close(self) {
        link::end(self.client, self.driving).await;
    }

    /// Makes the tables and takes in the whole record, in one transaction.
    ///
    /// The lock, the settings and the statements are the transaction's, too: pgbouncer may give the
    /// connection to somebody else after it.
    pub(crate) async fn fill(&mut self, source: Source) -> Result<Imported, ImportError> {
        let failed = || ImportError::database::<Failed>("import the record");
        let place = self.place.clone();
        let transaction = migrated(&mut self.client).await.map_err(ImportError::Target)?;
        let set = "SET LOCAL enable_seqscan = on";
        transaction.batch_execute(set).await.map_err(failed())?;
        is_empty(&transaction, &place).await?;
        // The id of a record that nobody has used.
        transaction.batch_execute("DELETE FROM cluster").await.map_err(failed())?;
        let columns = columns(&transaction, &source).await?;
        let last_event = source.last_event()?;
        let (pieces, mut waiting) = mpsc::channel(WAITING);
        let plan = columns.clone();
        let reading = tokio::task::spawn_blocking(move || source.read(&plan, &pieces));
        let mut rows = Vec::new();
        for (table, columns) in TABLES.into_iter().zip(&columns) {
            match fill_table(&transaction, table, columns, &mut waiting).await? {
                Some(count) => rows.push((table, count)),
                // The file could not be read to its end.
                None => break,
            }
        }
        drop(waiting);
        let source = reading.await.map_err(ImportError::database("read the record"))??;
        if rows.len() != TABLES.len() {
            let early = std::io::Error::other("it ended before its last table");
            return Err(ImportError::database("read the record")(early));
        }
        let next = "SELECT setval(pg_get_serial_sequence('event', 'seq'),
                                  greatest($1::bigint, 1), $1::bigint > 0)";
        transaction.query_typed(next, &[(&last_event, Type::INT8)]).await.map_err(failed())?;
        commit(transaction, &self.doubts, &place).await?;
        // Until here nobody could open the file and change it.
        drop(source);
        let last_event = u64::try_from(last_event).unwrap_or_default();
        Ok(Imported { place, rows, last_event })
    }
}

/// Commits, and tells what is known to be committed from what may be.
async fn commit(
    transaction: Transaction<'_>,
    doubts: &Doubts,
    place: &str,
) -> Result<(), ImportError> {
    let heard = doubts.heard();
    let unconfirmed = |source| ImportError::Unconfirmed { place: place.to_owned(), source };
    match transaction.commit().await {
        Ok(()) if doubts.heard() == heard => Ok(()),
        Ok(()) => Err(unconfirmed(no_standby().into())),
        Err(error) if was_refused(&error) => Err(ImportError::database("import the record")(error)),
        Err(error) => Err(unconfirmed(error.into())),
    }
}

/// A database without tables is, and one whose tables have no row. An id alone is no record.
async fn is_empty(client: &impl GenericClient, place: &str) -> Result<(), ImportError> {
    let failed = || ImportError::database::<Failed>("look into the database to import into");
    for table in TABLES.into_iter().filter(|table| *table != "cluster") {
        let there = "SELECT to_regclass($1) IS NOT NULL";
        let there = client.query_typed_one(there, &[(&table, Type::TEXT)]).await;
        if !there.and_then(|row| row.try_get::<_, bool>(0)).map_err(failed())? {
            continue;
        }
        let sql = format!("SELECT EXISTS (SELECT FROM {table})");
        let rows = client.query_typed_one(&sql, &[]).await;
        if rows.and_then(|row| row.try_get::<_, bool>(0)).map_err(failed())? {
            return Err(ImportError::NotEmpty { place: place.to_owned(), table });
        }
    }
    Ok(())
}

/// Returns what both databases know of the columns of each table.
async fn columns(
    transaction: &Transaction<'_>,
    source: &Source,
) -> Result<Vec<Vec<Column>>, ImportError> {
    let failed = || ImportError::database::<Failed>("read the columns to fill");
    let mut all = Vec::new();
    for table in TABLES {
        let sql = "SELECT attname::text, atttypid FROM pg_attribute
                    WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
        let rows = transaction.query_typed(sql, &[(&table, Type::TEXT)]).await.map_err(failed())?;
        let mut columns = Vec::new();
        for row in rows {
            let name = row.try_get(0).map_err(failed())?;
            let oid = row.try_get(1).map_err(failed())?;
            let kind = kind(oid).ok_or(ImportError::Columns { table })?;
            columns.push(Column { name, kind });
        }
        columns.sort_by(|one, other| one.name.cmp(&other.name));
        if !columns.iter().map(|column| &column.name).eq(&source.columns(table)?) {
            return Err(ImportError::Columns { table });
        }
        all.push(columns);
    }
    Ok(all)
}

fn kind(oid: u32) -> Option<Kind> {
    let kinds = [
        (Type::BOOL, Kind::Bool),
        (Type::INT8, Kind::Int),
        (Type::TEXT, Kind::Text),
        (Type::UUID, Kind::Uuid),
        (Type::BYTEA, Kind::Bytes),
        (Type::TIMESTAMPTZ, Kind::Time),
        (Type::JSONB, Kind::Json),
    ];
    kinds.into_iter().find_map(|(is, means)| (is.oid() == oid).then_some(means))
}

/// Writes the pieces of one table and counts its rows on both sides.
async fn fill_table(
    transaction: &Transaction<'_>,
    table: &'static str,
    columns: &[Column],
    waiting: &mut mpsc::Receiver<Piece>,
) -> Result<Option<u64>, ImportError> {
    let failed = || ImportError::database::<Failed>("write the rows of the record");
    let names: Vec<_> = columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
    let sql = format!("COPY {table} ({}) FROM STDIN", names.join(", "));
    let mut sink = pin!(transaction.copy_in::<_, Cursor<Vec<u8>>>(&sql).await.map_err(failed())?);
    let read = loop {
        match waiting.recv().await {
            Some(Piece::Lines(lines)) => {
                sink.send(Cursor::new(lines)).await.map_err(failed())?;
            }
            Some(Piece::End { rows }) => break rows,
            None => return Ok(None),
        }
    };
    sink.finish().await.map_err(failed())?;
    let counted = transaction.query_typed_one(&format!("SELECT count(*) FROM {table}"), &[]).await;
    let counted: i64 = counted.and_then(|row| row.try_get(0)).map_err(failed())?;
    let written = u64::try_from(counted).unwrap_or_default();
    if read != written {
        return Err(ImportError::Differs { table, read, written });
    }
    Ok(Some(written))
}

//! The PostgreSQL database that a record is imported into.

use std::io::Cursor;
use std::pin::pin;

use futures_util::SinkExt as _;
use tokio::sync::mpsc;
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use super::config::{self, Asked};
use super::link::Link;
use super::migrate::{Session, bring_up_to_date};
use crate::import::{Column, ImportError, Imported, Kind, Piece, Source, TABLES};
use crate::open::OpenError;

/// How many pieces wait to be written.
const WAITING: usize = 4;

type Failed = tokio_postgres::Error;

/// A database that is empty, and on which no server starts meanwhile.
#[derive(Debug)]
pub(crate) struct Target {
    place: String,
    session: Session,
}

impl Target {
    /// Makes the tables, unless the database holds a record.
    pub(crate) async fn open(url: &str) -> Result<Self, ImportError> {
        let Asked { config, bouncer, tls } = config::read(url).map_err(ImportError::Target)?;
        if bouncer {
            // The lock that keeps servers away is that of a connection.
            let what = "an import needs a connection of its own: not pgbouncer=true, nor the host of a pgbouncer";
            return Err(ImportError::Target(OpenError::Contradiction { what }));
        }
        let place = config::place(&config);
        let session = Session::start(&Link::new(config, tls)).await.map_err(ImportError::Target)?;
        let mut target = Self { place, session };
        match target.prepare().await {
            Ok(()) => Ok(target),
            Err(error) => {
                target.close().await;
                Err(error)
            }
        }
    }

    pub(crate) async fn close(self) {
        self.session.end().await;
    }

    async fn prepare(&mut self) -> Result<(), ImportError> {
        // Nobody but us holds anything here, and a large file takes its time between two statements.
        let set = "SET idle_in_transaction_session_timeout = 0; SET enable_seqscan = on";
        let failed = ImportError::database::<Failed>("set up the connection to PostgreSQL");
        self.session.client.batch_execute(set).await.map_err(failed)?;
        self.is_empty().await?;
        bring_up_to_date(&mut self.session.client).await.map_err(ImportError::Target)
    }

    /// A database without tables is, and one whose tables have no row. An id alone is no record.
    async fn is_empty(&self) -> Result<(), ImportError> {
        let failed = || ImportError::database::<Failed>("look into the database to import into");
        let client = &self.session.client;
        for table in TABLES.into_iter().filter(|table| *table != "cluster") {
            let there = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await;
            if !there.and_then(|row| row.try_get::<_, bool>(0)).map_err(failed())? {
                continue;
            }
            let sql = format!("SELECT EXISTS (SELECT FROM {table})");
            let rows = client.query_one(&sql, &[]).await;
            if rows.and_then(|row| row.try_get::<_, bool>(0)).map_err(failed())? {
                return Err(ImportError::NotEmpty { place: self.place.clone(), table });
            }
        }
        Ok(())
    }

    /// Takes in the whole record, in one transaction.
    pub(crate) async fn fill(&mut self, source: Source) -> Result<Imported, ImportError> {
        let failed = || ImportError::database::<Failed>("import the record");
        let transaction = self.session.client.transaction().await.map_err(failed())?;
        // The id of a record that nobody has used.
        transaction.execute("DELETE FROM cluster", &[]).await.map_err(failed())?;
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
        transaction.execute(next, &[&last_event]).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        // Until here nobody could open the file and change it.
        drop(source);
        let last_event = u64::try_from(last_event).unwrap_or_default();
        Ok(Imported { place: self.place.clone(), rows, last_event })
    }
}

/// Returns what both databases know of the columns of each table.
async fn columns(
    transaction: &Transaction<'_>,
    source: &Source,
) -> Result<Vec<Vec<Column>>, ImportError> {
    let mut all = Vec::new();
    for table in TABLES {
        let statement = transaction.prepare(&format!("SELECT * FROM {table}")).await;
        let statement = statement.map_err(ImportError::database("read the columns to fill"))?;
        let mut columns = Vec::new();
        for column in statement.columns() {
            let kind = kind(column.type_()).ok_or(ImportError::Columns { table })?;
            columns.push(Column { name: column.name().to_owned(), kind });
        }
        columns.sort_by(|one, other| one.name.cmp(&other.name));
        if !columns.iter().map(|column| &column.name).eq(&source.columns(table)?) {
            return Err(ImportError::Columns { table });
        }
        all.push(columns);
    }
    Ok(all)
}

fn kind(kind: &Type) -> Option<Kind> {
    let kinds = [
        (Type::BOOL, Kind::Bool),
        (Type::INT8, Kind::Int),
        (Type::TEXT, Kind::Text),
        (Type::UUID, Kind::Uuid),
        (Type::BYTEA, Kind::Bytes),
        (Type::TIMESTAMPTZ, Kind::Time),
        (Type::JSONB, Kind::Json),
    ];
    kinds.into_iter().find_map(|(is, means)| (is == *kind).then_some(means))
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
    let counted = transaction.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await;
    let counted: i64 = counted.and_then(|row| row.try_get(0)).map_err(failed())?;
    let written = u64::try_from(counted).unwrap_or_default();
    if read != written {
        return Err(ImportError::Differs { table, read, written });
    }
    Ok(Some(written))
}

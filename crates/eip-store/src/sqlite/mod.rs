//! The record in a SQLite file of this machine.
//!
//! One thread writes, and settles in one commit whatever was waiting for it; a few connections
//! read. The file is held by one process at a time.

pub(crate) mod file;
mod readers;
mod statements;
mod writer;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use eip_model::ClusterId;
use rusqlite::Connection;
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::error::StoreError;
use crate::news::{self, News, Telling};
use crate::open::OpenError;
use crate::transaction::{Batch, Database, Outcome, Setback, UseCase};
use readers::Readers;
use statements::{run_now, settle_now, unavailable};
use writer::Writer;

/// The record in a SQLite file.
#[derive(Debug)]
pub(crate) struct Sqlite {
    path: PathBuf,
    cluster_id: ClusterId,
    readers: Readers,
    writer: Writer,
    committed: broadcast::Sender<News>,
}

impl Sqlite {
    /// Opens the file, making it and its folder where there are none.
    ///
    /// # Errors
    /// [`OpenError`] when another process has it, a newer program wrote it, or it cannot be used.
    pub(crate) async fn open(path: PathBuf) -> Result<Self, OpenError> {
        let opened = tokio::task::spawn_blocking(move || Self::open_now(path)).await;
        opened.map_err(OpenError::database("open the SQLite database"))?
    }

    fn open_now(path: PathBuf) -> Result<Self, OpenError> {
        let lock = file::prepare(&path)?;
        let connection = file::connect(&path)?;
        let cluster_id =
            cluster_id(&connection).map_err(OpenError::sqlite("read the id of", &path))?;
        let readers = Readers::open(&path)?;
        let writer = Writer::start(connection, lock)
            .map_err(OpenError::database("start the thread that writes"))?;
        Ok(Self { path, cluster_id, readers, writer, committed: news::channel() })
    }
}

fn cluster_id(connection: &Connection) -> rusqlite::Result<ClusterId> {
    connection.execute(
        "INSERT INTO cluster (id) VALUES (?1) ON CONFLICT DO NOTHING",
        [Uuid::new_v4().as_bytes().as_slice()],
    )?;
    let bytes: [u8; 16] = connection.query_one("SELECT id FROM cluster", [], |row| row.get(0))?;
    Ok(ClusterId::new(Uuid::from_bytes(bytes)))
}

impl Sqlite {
    /// Says that something was committed, if there is anything to say.
    fn told<A>(&self, (answer, telling): (A, Telling)) -> Result<A, StoreError> {
        if !telling.is_empty() {
            // Nobody may be following.
            self.committed.send(News::Of(telling.hosts)).ok();
        }
        Ok(answer)
    }
}

impl Database for Sqlite {
    fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    fn describe(&self) -> String {
        format!("SQLite at {}", self.path.display())
    }

    async fn change<U: UseCase>(&self, case: U) -> Result<U::Answer, StoreError> {
        let done = self.writer.write(U::DOING, move |connection| run_now(connection, &case));
        self.told(done.await?)
    }

    async fn settle<B: Batch>(
        &self,
        commands: Arc<Vec<B>>,
    ) -> Result<Vec<Outcome<B::Answer>>, Setback> {
        let settle = move |connection: &mut Connection| settle_now(connection, &commands);
        let done = if B::LOOKS {
            self.readers.read(B::DOING, settle).await
        } else {
            self.writer.write(B::DOING, settle).await
        };
        done.and_then(|done| self.told(done)).map_err(|error| match error {
            StoreError::Unavailable { .. } => Setback::All(error),
            StoreError::Refused(_) | StoreError::Corrupt { .. } => Setback::Apart(error),
        })
    }

    async fn look<U: UseCase>(&self, case: U) -> Result<U::Answer, StoreError> {
        let done = self.readers.read(U::DOING, move |connection| run_now(connection, &case));
        self.told(done.await?)
    }

    async fn read<U: UseCase>(&self, case: U) -> Result<U::Answer, StoreError> {
        let doing = U::DOING;
        let whole = move |connection: &mut Connection| {
            connection.execute_batch("BEGIN").map_err(|e| unavailable(doing, e))?;
            // The reader ends it.
            run_now(connection, &case)
        };
        self.told(self.readers.read(doing, whole).await?)
    }

    fn news(&self) -> broadcast::Receiver<News> {
        self.committed.subscribe()
    }

    async fn addresses(&self) -> Result<Vec<Ipv4Addr>, StoreError> {
        let doing = "read the addresses in use";
        let read = |connection: &mut Connection| -> rusqlite::Result<_> {
            let mut statement = connection.prepare_cached("SELECT address FROM elastic_ip")?;
            let mut rows = statement.query([])?;
            let mut addresses = Vec::new();
            while let Some(row) = rows.next()? {
                addresses.push(Ipv4Addr::from_bits(row.get(0)?));
            }
            Ok(addresses)
        };
        self.readers.read(doing, move |c| read(c).map_err(|e| unavailable(doing, e))).await
    }
}

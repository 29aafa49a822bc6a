//! The connections that read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::file::connect_to_read;
use super::statements::unavailable;
use crate::error::StoreError;
use crate::open::OpenError;

const CONNECTIONS: usize = 4;

/// A few connections; whoever needs one waits until one is free.
#[derive(Debug, Clone)]
pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let connections =
            (0..CONNECTIONS).map(|_| connect_to_read(path)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            idle: Arc::new(Mutex::new(connections)),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
        })
    }

    /// Runs `work` on one of the connections, off the threads of the runtime.
    ///
    /// Its connection is there for the next reader also when `work` panics: nothing was written,
    /// and the statements that it was in are gone.
    pub(super) async fn read<A: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&mut Connection) -> Result<A, StoreError> + Send + 'static,
    ) -> Result<A, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|e| unavailable(doing, e))?;
        let idle = Arc::clone(&self.idle);
        let answer = tokio::task::spawn_blocking(move || {
            let taken = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection =
                taken.ok_or_else(|| unavailable(doing, std::io::Error::other("no connection")))?;
            let answer = catch_unwind(AssertUnwindSafe(|| work(&mut connection)));
            if !connection.is_autocommit()
                && let Err(error) = connection.execute_batch("ROLLBACK")
            {
                tracing::error!(%error, "Could not end a read");
            }
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            answer.unwrap_or_else(|_| Err(unavailable(doing, std::io::Error::other("it panicked"))))
        });
        answer.await.map_err(|e| unavailable(doing, e))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_panics_takes_no_connection_with_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let readers = Readers::open(file.path()).unwrap();
        for _ in 0..3 * CONNECTIONS {
            let panicked = readers.read("test", |connection| -> Result<(), _> {
                connection.execute_batch("BEGIN").map_err(|e| unavailable("test", e))?;
                panic!("on purpose")
            });
            assert!(panicked.await.is_err());
        }
        let answer = readers.read("test", |connection| Ok(connection.is_autocommit())).await;
        assert!(answer.unwrap());
    }
}

//! The connections that read.

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
    /// A connection on which `work` panicked is not used again: what state it is in is not known.
    /// Its permit goes with it, so that there is never a permit without a connection.
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
            let answer = work(&mut connection);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            answer
        });
        answer.await.map_err(|e| unavailable(doing, e))?
    }
}

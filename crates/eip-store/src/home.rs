//! A thread of the record's own: commands are gathered on it, and connections are driven by it.
//!
//! A batch passes through several tasks on its way to the database and back. On the threads that
//! serve requests each of these would stand behind all the requests that the last batch has just
//! answered, while the database has nothing to do.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::open::OpenError;

/// The thread. It ends with the last of its clones.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    handle: Handle,
    _held: Arc<oneshot::Sender<()>>,
}

impl Home {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`OpenError::Database`] when the system has no room for it.
    pub(crate) fn start() -> Result<Self, OpenError> {
        Self::try_start().map_err(OpenError::database("start the thread of the record"))
    }

    fn try_start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (held, let_go) = oneshot::channel();
        // What it is told is that nobody holds it any more.
        let stay = move || drop(runtime.block_on(let_go));
        std::thread::Builder::new().name("eip-record".to_owned()).spawn(stay)?;
        Ok(Self { handle, _held: Arc::new(held) })
    }

    /// Runs a task on the thread, to its end unless it is aborted.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(task).abort_handle()
    }

    /// Runs this where it is awaited, but what it begins (tasks, connections) belongs to the thread.
    pub(crate) async fn within<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = Box::pin(work);
        poll_fn(|cx| {
            let _entered = self.handle.enter();
            work.as_mut().poll(cx)
        })
        .await
    }
}

//! The thread that writes.
//!
//! It takes whatever is waiting, runs each change in a savepoint of its own inside one
//! transaction, commits once, and only then answers each. While one commit is on its way to the
//! disk the next batch gathers, so there is no timer.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::statements::unavailable;
use crate::error::StoreError;

/// How many changes wait before callers do.
const QUEUE: usize = 1_024;

/// How many changes one commit settles at most.
const BATCH: usize = 256;

/// The way to the thread that writes. Dropping it waits until what was taken in is done and the
/// file is free. Whoever drops the record last drops it: a lane has let go of the record before it
/// answers, so nobody who has all answers meets a file that is still in use.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. It keeps `lock` for as long as it has the connection.
    pub(super) fn start(connection: Connection, lock: File) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || write_all(connection, jobs, lock))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Has `work` run, and returns its answer once the change is on the disk.
    pub(super) async fn write<A: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&mut Connection) -> Result<A, StoreError> + Send + 'static,
    ) -> Result<A, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Change { doing, work: Some(work), outcome: None, reply };
        let stopped = || unavailable(doing, std::io::Error::other("the writer has stopped"));
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send(Box::new(job)).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| {
            let source = Box::new(std::io::Error::other("the writer has stopped"));
            Err(StoreError::Unavailable { doing, outcome_unknown: true, source })
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was told to whoever waited.
            drop(thread.join());
        }
    }
}

/// A change that somebody waits for.
trait Job: Send {
    /// Runs it. `Err` when its savepoint is to be undone.
    fn run(&mut self, connection: &mut Connection) -> Result<(), ()>;

    /// Takes the place of whatever came out of it.
    fn fail(&mut self, error: &Arc<rusqlite::Error>, outcome_unknown: bool);

    fn answer(self: Box<Self>);
}

struct Change<W, A> {
    doing: &'static str,
    work: Option<W>,
    outcome: Option<Result<A, StoreError>>,
    reply: oneshot::Sender<Result<A, StoreError>>,
}

impl<W, A> Job for Change<W, A>
where
    W: FnOnce(&mut Connection) -> Result<A, StoreError> + Send,
    A: Send,
{
    fn run(&mut self, connection: &mut Connection) -> Result<(), ()> {
        let Some(work) = self.work.take() else {
            return Err(());
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(connection)));
        let panicked = |_| Err(unavailable(self.doing, std::io::Error::other("it panicked")));
        let outcome = outcome.unwrap_or_else(panicked);
        let kept = outcome.as_ref().map(drop).map_err(drop);
        self.outcome = Some(outcome);
        kept
    }

    fn fail(&mut self, error: &Arc<rusqlite::Error>, outcome_unknown: bool) {
        let source = Box::new(Arc::clone(error));
        let doing = self.doing;
        self.outcome = Some(Err(StoreError::Unavailable { doing, outcome_unknown, source }));
    }

    fn answer(self: Box<Self>) {
        let Self { doing, outcome, reply, .. } = *self;
        let silent = || Err(unavailable(doing, std::io::Error::other("it was not run")));
        // Whoever asked may have gone away; the change stands all the same.
        drop(reply.send(outcome.unwrap_or_else(silent)));
    }
}

fn write_all(mut connection: Connection, mut jobs: mpsc::Receiver<Box<dyn Job>>, lock: File) {
    let mut batch = Vec::with_capacity(BATCH);
    while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
        settle(&mut connection, &mut batch);
        for job in batch.drain(..) {
            job.answer();
        }
    }
    // The file is closed before anyone else may open it.
    drop(connection);
    drop(lock);
}

/// Runs a batch in one transaction and commits it. Afterwards every job has its outcome.
fn settle(connection: &mut Connection, batch: &mut [Box<dyn Job>]) {
    let ran = run_batch(connection, batch);
    // Sent is what may be on the disk even though SQLite could not say so.
    let (error, sent) = match ran {
        Err(error) => (error, false),
        Ok(Ran::Undone) => return,
        Ok(Ran::ToCommit) => match connection.execute_batch("COMMIT") {
            Ok(()) => return,
            Err(error) => (error, true),
        },
    };
    let error = Arc::new(error);
    tracing::warn!(%error, changes = batch.len(), "Could not commit; the callers are told");
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "Could not roll back");
    }
    for job in batch {
        job.fail(&error, sent);
    }
}

/// How far a batch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ran {
    ToCommit,
    /// There is no transaction any more, and nothing has changed.
    Undone,
}

/// Fails as a whole when the transaction is gone: SQLite itself undoes all of it when, for one,
/// the disk is full.
///
/// A savepoint keeps a copy of every page that is written after it. One change alone needs none:
/// the transaction is what is undone.
fn run_batch(
    connection: &mut Connection,
    batch: &mut [Box<dyn Job>],
) -> Result<Ran, rusqlite::Error> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    if let [job] = batch {
        if job.run(connection).is_err() && !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
            return Ok(Ran::Undone);
        }
        return Ok(Ran::ToCommit);
    }
    for job in batch {
        connection.prepare_cached("SAVEPOINT one_change")?.execute([])?;
        if job.run(connection).is_err() {
            connection.prepare_cached("ROLLBACK TO one_change")?.execute([])?;
        }
        connection.prepare_cached("RELEASE one_change")?.execute([])?;
    }
    Ok(Ran::ToCommit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Refusal;

    /// A table whose rule is only asked at the commit.
    fn connection() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "PRAGMA foreign_keys = ON;
                 CREATE TABLE parent (id INTEGER PRIMARY KEY) STRICT;
                 CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER
                     REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED) STRICT;",
            )
            .unwrap();
        connection
    }

    fn writer() -> Writer {
        Writer::start(connection(), tempfile::tempfile().unwrap()).unwrap()
    }

    fn run(sql: &'static str) -> impl FnOnce(&mut Connection) -> Result<(), StoreError> + Send {
        move |connection| connection.execute_batch(sql).map_err(|e| unavailable("test", e))
    }

    fn children(connection: &mut Connection) -> Result<i64, StoreError> {
        let count = connection.query_one("SELECT count(*) FROM child", [], |row| row.get(0));
        count.map_err(|e| unavailable("count", e))
    }

    fn job<A: Send + 'static>(
        work: impl FnOnce(&mut Connection) -> Result<A, StoreError> + Send + 'static,
    ) -> (Box<dyn Job>, oneshot::Receiver<Result<A, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        (Box::new(Change { doing: "test", work: Some(work), outcome: None, reply }), answer)
    }

    #[test]
    fn a_commit_that_fails_fails_everyone_in_the_batch_and_nothing_stays() {
        let mut connection = connection();
        let (good, mut good_answer) = job(run("INSERT INTO child VALUES (1, NULL)"));
        let (bad, mut bad_answer) = job(run("INSERT INTO child VALUES (2, 99)"));
        let mut batch = vec![good, bad];
        settle(&mut connection, &mut batch);
        batch.drain(..).for_each(|job| job.answer());
        for answer in [&mut good_answer, &mut bad_answer] {
            let error = answer.try_recv().unwrap().unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { outcome_unknown: true, .. }));
        }
        assert_eq!(children(&mut connection).unwrap(), 0);
    }

    #[test]
    fn a_change_that_fails_undoes_itself_and_no_other() {
        let mut connection = connection();
        let (first, mut first_answer) = job(run("INSERT INTO child VALUES (1, NULL)"));
        let (second, mut second_answer) = job(|connection| {
            run("INSERT INTO child VALUES (2, NULL)")(connection)?;
            Err::<(), _>(Refusal::AddressInUse.into())
        });
        let (third, mut third_answer) = job(children);
        let mut batch = vec![first, second, third];
        settle(&mut connection, &mut batch);
        batch.drain(..).for_each(|job| job.answer());
        assert!(first_answer.try_recv().unwrap().is_ok());
        assert!(second_answer.try_recv().unwrap().is_err());
        assert_eq!(third_answer.try_recv().unwrap().unwrap(), 1);
        assert_eq!(children(&mut connection).unwrap(), 1);
    }

    #[test]
    fn a_change_alone_that_fails_leaves_nothing_and_keeps_its_own_error() {
        let mut connection = connection();
        let (only, mut answer) = job(|connection| {
            run("INSERT INTO child VALUES (1, NULL)")(connection)?;
            Err::<(), _>(Refusal::AddressInUse.into())
        });
        let mut batch = vec![only];
        settle(&mut connection, &mut batch);
        batch.drain(..).for_each(|job| job.answer());
        let error = answer.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Refused(Refusal::AddressInUse)), "{error:?}");
        assert!(connection.is_autocommit());
        assert_eq!(children(&mut connection).unwrap(), 0);
    }

    #[test]
    fn a_transaction_that_sqlite_gave_up_fails_everyone() {
        let mut connection = connection();
        let (first, mut first_answer) = job(run("INSERT INTO child VALUES (1, NULL)"));
        let (second, mut second_answer) = job(run("ROLLBACK"));
        let mut batch = vec![first, second];
        settle(&mut connection, &mut batch);
        batch.drain(..).for_each(|job| job.answer());
        assert!(first_answer.try_recv().unwrap().is_err());
        assert!(second_answer.try_recv().unwrap().is_err());
        assert!(connection.is_autocommit());
        assert_eq!(children(&mut connection).unwrap(), 0);
    }

    #[tokio::test]
    async fn a_change_that_panics_does_not_stop_the_writer() {
        let writer = writer();
        let panicked = writer.write("test", |_| -> Result<(), _> { panic!("on purpose") }).await;
        assert!(matches!(panicked, Err(StoreError::Unavailable { outcome_unknown: false, .. })));
        writer.write("test", run("INSERT INTO child VALUES (1, NULL)")).await.unwrap();
        assert_eq!(writer.write("count", children).await.unwrap(), 1);
    }
}

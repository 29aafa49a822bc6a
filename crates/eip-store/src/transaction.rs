//! What a use case needs of a database: a transaction that runs statements.
//!
//! The use cases are written once, in the SQL that PostgreSQL and SQLite have in common, so that
//! both tell the same story by construction. The two databases differ in how they keep writers
//! apart (row locks here, one writer there), in how they retry and in how they commit: that is what
//! `postgres` and `sqlite` are for.

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::error::{Refusal, StoreError};
use crate::given::Given;
use crate::news::{NewEvent, News};
use crate::rows::Cells;
use crate::value::Value;

/// One transaction of one database.
pub(crate) trait Tx: Send {
    type Row: Cells + Send + Sync;

    const DIALECT: Dialect;

    /// Runs one statement and returns the rows that it gives. Parameters are `$1`, `$2`...
    ///
    /// `FOR UPDATE` and `FOR SHARE` at the end of a statement are left out by a database that has
    /// one writer at a time.
    fn rows(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<Self::Row>, Failure>> + Send;

    /// Runs one statement for all the rows that are given, and returns the rows that it gives, in
    /// any order. Without any row it does nothing.
    fn each(
        &mut self,
        sql: &str,
        given: impl Into<Given> + Send,
    ) -> impl Future<Output = Result<Vec<Self::Row>, Failure>> + Send;

    /// Has a statement run for what it changes, at the latest right before the commit. What follows
    /// in this transaction may or may not see it.
    fn later(
        &mut self,
        sql: &'static str,
        given: impl Into<Given> + Send,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Has the event written right before the commit.
    fn tell(&mut self, event: NewEvent);

    /// Notes that others who wait for this host should look again after the commit.
    fn wake(&mut self, host: &eip_model::HostName);

    /// Waits until no other transaction has gone into the part that has this name.
    fn alone(&mut self, name: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Runs one statement and returns its first row, if it gives any.
    fn row(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Option<Self::Row>, Failure>> + Send {
        async { Ok(self.rows(sql, values).await?.into_iter().next()) }
    }

    /// Runs one statement for what it changes.
    fn run(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { self.rows(sql, values).await.map(drop) }
    }
}

/// The few pieces of SQL that the databases write differently.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialect {
    /// Whether the address before it is one that the number of an id can stand for.
    pub(crate) stands_for: &'static str,
    /// Whether `e.tags` has the pair of two parameters.
    pub(crate) has_tag: &'static str,
    /// Waits for all who write elastic IPs, and has those who begin wait.
    pub(crate) shut: &'static str,
}

/// Why a transaction did not come to its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The caller has to know.
    Store(StoreError),
    /// It lost a race in a way that a new attempt settles.
    Again(Box<dyn std::error::Error + Send + Sync>),
    /// It waited too long for a row that somebody else holds. Those who do not need the row can go on.
    Blocked(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Store(StoreError::Refused(refusal))
    }
}

/// One use case: what happens in one transaction.
///
/// It may run more than once before it is committed, so it keeps nothing from one run to the next.
pub(crate) trait UseCase: Send + Sync + 'static {
    type Answer: Send + 'static;

    /// What it is for, as in "the database cannot be used to ...".
    const DOING: &'static str;

    fn run<T: Tx>(&self, tx: &mut T) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;
}

/// A use case of which many are settled in one transaction.
///
/// Every command has an outcome of its own. One that is refused changes nothing and stands in the
/// way of none.
pub(crate) trait Batch: Clone + std::fmt::Debug + Send + Sync + 'static {
    type Answer: std::fmt::Debug + Send + 'static;

    const DOING: &'static str;
    /// Whether it only reads, and with one statement.
    const LOOKS: bool = false;
    /// How many commands one transaction settles at most.
    const MOST: usize = 256;
    /// One statement for PostgreSQL that does what is usual, a transaction of its own: a statement
    /// costs more than a row there. It gives a row, with the place `n`, for every command that it has
    /// carried out; those that it leaves alone are settled as everywhere.
    const SWIFT: Option<&'static str> = None;

    /// The rows that [`Self::SWIFT`] is run for.
    fn swift_rows(commands: &[Self]) -> Given {
        Given::of(commands).into()
    }

    /// Reads what [`Self::SWIFT`] has made of this command.
    fn swift_answer(&self, _row: &impl Cells) -> Result<Self::Answer, StoreError> {
        Err(StoreError::Corrupt { table: "given", what: "nothing was asked".to_owned() })
    }

    /// Says what it is about, if there is more than one thing to be about: when one command waits
    /// too long for a lock, others about the same most likely do, too.
    fn about(&self) -> Option<String> {
        None
    }

    /// Settles all of them, and returns their outcomes in their order.
    fn settle<T: Tx>(
        tx: &mut T,
        commands: &[Self],
    ) -> impl Future<Output = Result<Vec<Outcome<Self::Answer>>, Failure>> + Send;
}

/// What became of one command of a batch.
#[derive(Debug)]
pub(crate) enum Outcome<A> {
    Done(A),
    Refused(Refusal),
    Failed(StoreError),
    /// Another command of the batch, or of somebody else, was in its way; the next batch settles it.
    Again,
}

/// Why a batch was not settled. Nothing was changed, or nobody knows.
#[derive(Debug)]
pub(crate) enum Setback {
    /// It would be the same for each of them.
    All(StoreError),
    /// It may be due to one of them: each should be tried apart.
    Apart(StoreError),
}

/// A database that keeps the record.
pub(crate) trait Database: std::fmt::Debug + Send + Sync + 'static {
    fn cluster_id(&self) -> eip_model::ClusterId;

    fn describe(&self) -> String;

    /// Runs a use case that changes something. `Ok` means that it is durable.
    fn change<U: UseCase>(
        &self,
        case: U,
    ) -> impl Future<Output = Result<U::Answer, StoreError>> + Send;

    /// Runs many of one use case in one transaction.
    fn settle<B: Batch>(
        &self,
        commands: Arc<Vec<B>>,
    ) -> impl Future<Output = Result<Vec<Outcome<B::Answer>>, Setback>> + Send;

    /// Runs a use case that reads with one statement.
    fn look<U: UseCase>(
        &self,
        case: U,
    ) -> impl Future<Output = Result<U::Answer, StoreError>> + Send;

    /// Runs a use case that reads with several statements, all as of one moment.
    fn read<U: UseCase>(
        &self,
        case: U,
    ) -> impl Future<Output = Result<U::Answer, StoreError>> + Send;

    /// Returns every address in the table of elastic IPs. There may be millions.
    fn addresses(&self) -> impl Future<Output = Result<Vec<Ipv4Addr>, StoreError>> + Send;

    /// Follows the changes that are committed, whoever makes them.
    fn news(&self) -> broadcast::Receiver<News>;
}

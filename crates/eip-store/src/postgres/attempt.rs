//! One transaction, and trying it again.

use std::time::Duration;

use futures_util::future::join_all;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::config::PATIENCE;
use super::session::{Bound, Ready, Session};
use super::statements::{PostgresTx, lists, meaning, unnested};
use super::wake;
use crate::error::StoreError;
use crate::given::{Given, MARK};
use crate::transaction::{Failure, Setback};

/// Says that the database did not answer.
pub(super) fn unreachable(
    doing: &'static str,
    outcome_unknown: bool,
    source: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Unavailable { doing, outcome_unknown, source: Box::new(source) }
}

/// How many times a transaction that lost a race is tried.
const ATTEMPTS: u32 = 5;

/// The attempts at one transaction.
#[derive(Debug)]
pub(super) struct Attempts {
    doing: &'static str,
    made: u32,
}

impl Attempts {
    pub(super) fn at(doing: &'static str) -> Self {
        Self { doing, made: 0 }
    }

    /// Returns when it is time for the next attempt, or with what the caller has to know.
    pub(super) async fn after(&mut self, failure: Failure) -> Result<(), Setback> {
        self.made += 1;
        match failure {
            // A rule of the schema was met by one of them; nothing else is told of the others.
            Failure::Store(error @ (StoreError::Refused(_) | StoreError::Corrupt { .. }))
            | Failure::Blocked(error) => Err(Setback::Apart(error)),
            Failure::Store(error @ StoreError::Unavailable { .. }) => Err(Setback::All(error)),
            Failure::Again(source) if self.made >= ATTEMPTS => {
                let doing = self.doing;
                let error = StoreError::Unavailable { doing, outcome_unknown: false, source };
                Err(Setback::Apart(error))
            }
            Failure::Again(source) => {
                let (doing, made) = (self.doing, self.made);
                tracing::debug!(doing, error = %source, made, "Lost a race; trying again");
                tokio::time::sleep(pause(made)).await;
                Ok(())
            }
        }
    }
}

impl From<Setback> for StoreError {
    fn from(setback: Setback) -> Self {
        match setback {
            Setback::All(error) | Setback::Apart(error) => error,
        }
    }
}

/// Up to 4, 8, 16... milliseconds.
fn pause(number: u32) -> Duration {
    let random = u64::from(Uuid::new_v4().as_bytes()[0]);
    Duration::from_micros((random * 16) << number.min(8))
}

/// The lock under which events get their numbers: "eipe" in ASCII.
///
/// It is taken by the last statement of a transaction and held until the transaction is committed
/// and seen by all, so numbers are in the order of the commits. Nothing is gained by taking it
/// later: PostgreSQL itself lets only one transaction that notifies commit at a time.
pub(super) const ORDER: i64 = 0x6569_7065;

/// Writes events, with numbers in their order.
fn write_events() -> String {
    format!(
        "WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock({ORDER}))
         INSERT INTO event (at, kind, project, elastic_ip_id, address, instance_id, instance_name,
                            host, actor, subject, detail)
         SELECT given.at, given.kind, given.project, given.elastic_ip_id, given.address,
                given.instance_id, given.instance_name, given.host, given.actor,
                given.subject, given.detail
           FROM turn CROSS JOIN {MARK}"
    )
}

/// Runs `work` in a transaction of its own and commits it.
pub(super) async fn attempt<A, W>(
    session: Session,
    doing: &'static str,
    begin: &'static str,
    work: W,
) -> Result<A, Failure>
where
    W: AsyncFnOnce(&mut PostgresTx<'_>) -> Result<A, Failure>,
{
    let mut lent = Lent(Some(session));
    let Some(session) = &lent.0 else {
        return Err(Failure::Again("there is no connection".into()));
    };
    let mut tx = PostgresTx::begin(session, doing, begin);
    let done = match work(&mut tx).await {
        Ok(answer) => {
            let finished = tokio::time::timeout(PATIENCE, finish(tx)).await;
            // A standby that must confirm may never do so. The commit is not cancelled: PostgreSQL
            // would then call it done without the standby. The connection is given up instead.
            let finished = finished.map_err(|elapsed| unreachable(doing, true, elapsed))?;
            finished.map(|()| answer)
        }
        Err(failure) => Err(failure),
    };
    if let Err(failure) = done {
        // Before the connection goes back: whoever gets it next must not wait for this.
        if session.roll_back().await {
            lent.give_back();
        }
        return Err(failure);
    }
    lent.give_back();
    done
}

/// Runs `work`, which is one statement that reads, in a transaction of its own.
pub(super) async fn looked<A, W>(
    session: Session,
    doing: &'static str,
    work: W,
) -> Result<A, Failure>
where
    W: AsyncFnOnce(&mut PostgresTx<'_>) -> Result<A, Failure>,
{
    if !session.is_direct() {
        return attempt(session, doing, "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY", work)
            .await;
    }
    let seen = work(&mut PostgresTx::on(&session, doing)).await;
    if let Err(Failure::Store(StoreError::Unavailable { .. })) = &seen {
        // It may be the connection that does not answer.
        session.close();
    }
    seen
}

/// A connection that does not go back to the others unless its transaction has come to an end.
pub(super) struct Lent(pub(super) Option<Session>);

impl Lent {
    pub(super) fn give_back(&mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.close();
        }
    }
}

/// Sends what was left to the end, the events and the commit, all in one go.
async fn finish(tx: PostgresTx<'_>) -> Result<(), Failure> {
    let PostgresTx { session, doing, begin, later, telling } = tx;
    if begin.is_some() {
        // Nothing was asked, so nothing was begun.
        return Ok(());
    }
    let mut statements: Vec<(String, Given)> = later
        .into_iter()
        .map(|(sql, given)| (sql.replace(MARK, &unnested(&given)), given))
        .collect();
    if !telling.events.is_empty() {
        let given = telling.rows();
        statements.push((write_events().replace(MARK, &unnested(&given)), given));
    }
    let told = wake::payload(&telling);
    let values: [Bound<'_>; 2] = [(&wake::CHANNEL, Type::TEXT), (&told, Type::TEXT)];
    let prepared = prepared(session, &statements, !telling.is_empty()).await;
    let (writes, notify) = prepared.map_err(|e| meaning(doing, e))?;
    let writes = statements.iter().zip(&writes).map(|((_, given), statement)| {
        let values = lists(given);
        async move { session.query(statement, &values).await.map(drop) }
    });
    let notified = async {
        match &notify {
            Some(notify) => session.query(notify, &values).await.map(drop),
            None => Ok(()),
        }
    };
    // They are polled in their order, so they are sent in it, and before any of them is answered.
    // When one fails, the commit that was sent behind it is none.
    let doubts = session.doubts().heard();
    let (written, notified, committed) = tokio::join!(join_all(writes), notified, session.commit());
    let failed = written.into_iter().chain([notified, committed]).find_map(Result::err);
    match failed {
        // PostgreSQL calls it a success when the wait for a standby is cancelled. The change is made
        // here, and gone if the standby takes over.
        None if session.doubts().heard() != doubts => Err(unconfirmed(doing).into()),
        None => {
            if notify.is_some() {
                session.committed(|| wake::read(&told));
            }
            Ok(())
        }
        Some(error) if was_refused(&error) => Err(meaning(doing, error)),
        Some(error) => Err(unreachable(doing, true, error).into()),
    }
}

pub(super) fn unconfirmed(doing: &'static str) -> StoreError {
    unreachable(doing, true, no_standby())
}

/// Why a commit that PostgreSQL calls a success is in doubt.
pub(super) fn no_standby() -> std::io::Error {
    std::io::Error::other("the wait for a standby to confirm it was cancelled")
}

async fn prepared(
    session: &Session,
    statements: &[(String, Given)],
    notifies: bool,
) -> Result<(Vec<Ready>, Option<Ready>), tokio_postgres::Error> {
    let mut prepared = Vec::with_capacity(statements.len());
    for (sql, _) in statements {
        prepared.push(session.ready(sql).await?);
    }
    let notify = match notifies {
        true => Some(session.ready("SELECT pg_notify($1, $2)").await?),
        false => None,
    };
    Ok((prepared, notify))
}

/// Whether PostgreSQL itself said that it did not commit. An error that comes with the end of the
/// connection, or of the server, says nothing about the commit, but for one: an operator's order to
/// end the connection is put off while PostgreSQL commits, and when it ends the wait for a standby
/// there is a warning and no error.
pub(super) fn was_refused(error: &tokio_postgres::Error) -> bool {
    let class = error.code().and_then(|state| state.code().get(..2));
    // Constraints, lost races, limits of the server, and what it takes to wait too long for a lock.
    let ended = error.code() == Some(&SqlState::ADMIN_SHUTDOWN);
    ended
        || matches!(class, Some("22" | "23" | "25" | "40" | "42" | "53" | "54" | "55"))
        || error.code() == Some(&SqlState::QUERY_CANCELED)
}

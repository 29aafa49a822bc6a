//! One transaction, and trying it again.

use std::time::Duration;

use deadpool_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::config::PATIENCE;
use super::statements::{PostgresTx, meaning};
use crate::error::StoreError;
use crate::transaction::{Failure, UseCase};

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
    pub(super) async fn after(&mut self, failure: Failure) -> Result<(), StoreError> {
        self.made += 1;
        match failure {
            Failure::Store(error) => Err(error),
            Failure::Again(source) if self.made >= ATTEMPTS => {
                Err(StoreError::Unavailable { doing: self.doing, outcome_unknown: false, source })
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

/// Up to 4, 8, 16... milliseconds.
fn pause(number: u32) -> Duration {
    let random = u64::from(Uuid::new_v4().as_bytes()[0]);
    Duration::from_micros((random * 16) << number.min(8))
}

/// Runs a use case in a transaction of its own and commits it.
pub(super) async fn attempt<U: UseCase>(
    mut client: Client,
    case: &U,
) -> Result<U::Answer, Failure> {
    let doing = U::DOING;
    let committed = {
        // Nothing has been asked of the database yet, so a connection that turns out to be dead
        // is no reason to trouble the caller.
        let tx = client.transaction().await.map_err(|e| Failure::Again(Box::new(e)))?;
        let answer = case.run(&mut PostgresTx { client: &tx, doing }).await;
        match answer {
            Ok(answer) => {
                tokio::time::timeout(PATIENCE, tx.commit()).await.map(|done| done.map(|()| answer))
            }
            Err(failure) => {
                // Before the connection goes back: whoever gets it next must not wait for this.
                if let Err(error) = tx.rollback().await {
                    tracing::debug!(%error, "Could not roll back; the connection is gone");
                }
                return Err(failure);
            }
        }
    };
    match committed {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if was_refused(&error) => Err(meaning(doing, error)),
        Ok(Err(error)) => Err(unreachable(doing, true, error).into()),
        // A standby that must confirm may never do so. The commit is not cancelled: PostgreSQL
        // would then call it done without the standby.
        Err(elapsed) => {
            drop(Client::take(client));
            Err(unreachable(doing, true, elapsed).into())
        }
    }
}

/// Whether PostgreSQL itself said that it did not commit. An error that comes with the end of the
/// connection, or of the server, says nothing about the commit.
pub(super) fn was_refused(error: &tokio_postgres::Error) -> bool {
    let class = error.code().and_then(|state| state.code().get(..2));
    // Constraints, lost races, limits of the server, and what it takes to wait too long for a lock.
    matches!(class, Some("22" | "23" | "25" | "40" | "42" | "53" | "54" | "55"))
        || error.code() == Some(&SqlState::QUERY_CANCELED)
}

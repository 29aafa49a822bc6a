//! Whether a host and this record have one history, and what to do when they have not.

use eip_model::{ClusterId, EventKind, HostName};
use jiff::Timestamp;

use super::hosts::ensure;
use crate::news::NewEvent;
use crate::records::{Acceptance, Ahead, By, HostProgress};
use crate::rows::{Cells, Wrong};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

#[derive(Debug)]
pub(super) struct ReadProgress {
    pub(super) host: HostName,
}

impl UseCase for ReadProgress {
    type Answer = HostProgress;
    const DOING: &'static str = "read how far a host has come";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<HostProgress, Failure> {
        let row = tx
            .row(
                "SELECT generation, reported_generation, ahead_generation, ahead_cluster,
                        accepted_cluster
                   FROM host WHERE name = $1",
                values![&self.host],
            )
            .await?;
        let Some(row) = row else { return Ok(HostProgress::default()) };
        let read = || -> Result<_, Wrong> {
            let ahead = match row.int("ahead_generation")? {
                Some(_) => Some(Ahead {
                    generation: row.generation("ahead_generation")?,
                    cluster: row.uuid("ahead_cluster")?.map(ClusterId::new),
                }),
                None => None,
            };
            Ok(HostProgress {
                desired: row.generation("generation")?,
                reported: row.generation("reported_generation")?,
                ahead,
                accepted: row.uuid("accepted_cluster")?.map(ClusterId::new),
            })
        };
        Ok(read().map_err(|e| e.within("host"))?)
    }
}

#[derive(Debug)]
pub(super) struct MarkAhead {
    pub(super) host: HostName,
    pub(super) ahead: Ahead,
    pub(super) reason: String,
    pub(super) now: Timestamp,
}

impl UseCase for MarkAhead {
    type Answer = ();
    const DOING: &'static str = "note that a host is ahead of this record";

    /// What was noted first stays, but for a generation that is newer still. What has been accepted
    /// since it was found is not noted again.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        ensure(tx, &[&self.host], self.now).await?;
        tx.run(
            "UPDATE host
                SET ahead_generation = CASE WHEN ahead_generation > $2 THEN ahead_generation
                                            ELSE $2 END,
                    ahead_cluster = CASE WHEN ahead_generation IS NULL THEN $3
                                         ELSE ahead_cluster END,
                    health = 'failing', health_reason = $4, last_seen_at = $5
              WHERE name = $1
                AND (ahead_generation IS NOT NULL
                     OR (NOT $6 AND $2 > reported_generation)
                     OR ($6 AND (accepted_cluster IS NULL OR accepted_cluster <> $3)))",
            values![
                &self.host,
                self.ahead.generation,
                self.ahead.cluster.map(ClusterId::uuid),
                self.reason.as_str(),
                self.now,
                self.ahead.cluster.is_some(),
            ],
        )
        .await?;
        tx.wake(&self.host);
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct AcceptHost {
    pub(super) host: HostName,
    pub(super) by: By,
}

impl UseCase for AcceptHost {
    type Answer = Acceptance;
    const DOING: &'static str = "have a host take this record's desired set";

    /// The set gets a generation beyond the one that the host holds, and what the host holds counts as
    /// reported over: no changes of this record lead on from it. A host that is not ahead stays
    /// as it is.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Acceptance, Failure> {
        let accepted = tx
            .row(
                "UPDATE host
                SET generation = CASE WHEN ahead_cluster IS NULL AND ahead_generation > generation
                                      THEN ahead_generation ELSE generation END + 1,
                    reported_generation =
                        CASE WHEN ahead_cluster IS NULL AND ahead_generation > generation
                             THEN ahead_generation ELSE generation END + 1,
                    accepted_cluster = CASE WHEN ahead_cluster IS NULL THEN accepted_cluster
                                            ELSE ahead_cluster END,
                    ahead_generation = NULL, ahead_cluster = NULL
              WHERE name = $1 AND ahead_generation IS NOT NULL
             RETURNING name",
                values![&self.host],
            )
            .await?;
        if accepted.is_some() {
            tx.wake(&self.host);
            let detail = "it takes this record's desired set from now on".to_owned();
            let event = NewEvent::about(EventKind::HostAccepted, &self.by, detail);
            tx.tell(NewEvent { host: Some(self.host.clone()), ..event });
            return Ok(Acceptance::Accepted);
        }
        let found = tx.row("SELECT name FROM host WHERE name = $1", values![&self.host]).await?;
        Ok(found.map_or(Acceptance::NoSuchHost, |_| Acceptance::NotAhead))
    }
}

//! Taking in what a host has in force.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use eip_model::{AppliedReport, AttachmentProblem, DataPlaneHealth, Generation, HostName};
use jiff::Timestamp;

use super::hosts::{bump, ensure};
use crate::rows::{self, Cells, Wrong};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

#[derive(Debug)]
pub(super) struct RecordApplied {
    pub(super) host: HostName,
    pub(super) report: AppliedReport,
    pub(super) now: Timestamp,
}

impl UseCase for RecordApplied {
    /// The other hosts whose desired set changed.
    type Answer = Vec<HostName>;
    const DOING: &'static str = "take in what a host has in force";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<HostName>, Failure> {
        ensure(tx, &self.host, self.now).await?;
        let observed = self.observed(tx).await?;
        let lifted = self.let_go(tx, observed).await?;
        let generations = self.note(tx, observed, &lifted).await?;
        for (address, host) in &lifted {
            if let Some(generation) = generations.get(host) {
                tx.run(
                    "UPDATE association SET generation = $2, applied_at = NULL WHERE address = $1",
                    values![*address, *generation],
                )
                .await?;
            }
        }
        tx.run(
            "UPDATE association SET applied_at = $3
              WHERE host = $1 AND generation <= $2 AND applied_at IS NULL
                AND NOT EXISTS (SELECT 1 FROM letting_go l
                                 WHERE l.address = association.address
                                   AND l.host <> association.host)",
            values![&self.host, observed, self.now],
        )
        .await?;
        self.replace_problems(tx).await?;
        Ok(generations.into_keys().collect())
    }
}

impl RecordApplied {
    /// Returns how far the host has come.
    ///
    /// A generation that this record never reached was counted by another (a backup has been
    /// restored since); it says nothing about this one.
    async fn observed<T: Tx>(&self, tx: &mut T) -> Result<Generation, Failure> {
        let row =
            tx.row("SELECT generation FROM host WHERE name = $1", values![&self.host]).await?;
        let desired = row.map(|row| row.generation("generation")).transpose();
        let desired = desired.map_err(|e| e.within("host"))?.unwrap_or_default();
        let reported = self.report.generation;
        Ok(if reported <= desired { reported } else { Generation::default() })
    }

    /// Forgets what the host was letting go of and has, and returns the associations on other
    /// hosts that waited for nothing else.
    async fn let_go<T: Tx>(
        &self,
        tx: &mut T,
        observed: Generation,
    ) -> Result<Vec<(Ipv4Addr, HostName)>, Failure> {
        let gone = tx
            .rows(
                "DELETE FROM letting_go WHERE host = $1 AND generation <= $2 RETURNING address",
                values![&self.host, observed],
            )
            .await?;
        let mut lifted = Vec::new();
        for row in &gone {
            let address = rows::address(row, "letting_go")?;
            let waiting = tx
                .row(
                    "SELECT a.host FROM association a
                      WHERE a.address = $1 AND a.host <> $2
                        AND NOT EXISTS (SELECT 1 FROM letting_go l
                                         WHERE l.address = a.address AND l.host <> a.host)",
                    values![address, &self.host],
                )
                .await?;
            if let Some(waiting) = waiting {
                lifted.push((address, rows::host_name(&waiting, "association")?));
            }
        }
        Ok(lifted)
    }

    /// Writes what the host says of itself and bumps the hosts that waited for it, all in the order
    /// of their names.
    async fn note<T: Tx>(
        &self,
        tx: &mut T,
        observed: Generation,
        lifted: &[(Ipv4Addr, HostName)],
    ) -> Result<BTreeMap<HostName, Generation>, Failure> {
        let mut concerned: BTreeSet<&HostName> = lifted.iter().map(|(_, host)| host).collect();
        concerned.insert(&self.host);
        let mut generations = BTreeMap::new();
        for host in concerned {
            if *host != self.host {
                generations.insert(host.clone(), bump(tx, host).await?);
                continue;
            }
            let (health, reason) = match &self.report.data_plane {
                DataPlaneHealth::Ready => ("ready", None),
                DataPlaneHealth::Absent { reason } => ("absent", Some(reason.as_str())),
                DataPlaneHealth::Failing { reason } => ("failing", Some(reason.as_str())),
            };
            tx.run(
                "UPDATE host
                    SET observed_generation = $2, health = $3, health_reason = $4,
                        last_seen_at = $5
                  WHERE name = $1",
                values![host, observed, health, reason, self.now],
            )
            .await?;
        }
        Ok(generations)
    }

    /// Makes the problems of this host's associations those of the report. A problem that has not
    /// changed keeps the time since when it has been there.
    async fn replace_problems<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        let mut old = self.known_problems(tx).await?;
        let here = if self.report.problems.is_empty() {
            BTreeSet::new()
        } else {
            self.associated_here(tx).await?
        };
        let problems = self.report.problems.iter().filter(|one| here.contains(&one.public_ip));
        for problem in problems {
            if old.remove(&problem.public_ip).is_some_and(|known| known == *problem) {
                continue;
            }
            tx.run(
                "INSERT INTO attachment_problem (address, host, kind, reason, since)
                 VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (address) DO UPDATE
                    SET host = excluded.host, kind = excluded.kind, reason = excluded.reason,
                        since = excluded.since",
                values![
                    problem.public_ip,
                    &self.host,
                    problem.kind.as_str(),
                    problem.reason.as_str(),
                    self.now,
                ],
            )
            .await?;
        }
        for address in old.into_keys() {
            tx.run("DELETE FROM attachment_problem WHERE address = $1", values![address]).await?;
        }
        Ok(())
    }

    async fn known_problems<T: Tx>(
        &self,
        tx: &mut T,
    ) -> Result<BTreeMap<Ipv4Addr, AttachmentProblem>, Failure> {
        let known = tx
            .rows(
                "SELECT address, kind, reason FROM attachment_problem WHERE host = $1",
                values![&self.host],
            )
            .await?;
        let read = |row: &T::Row| -> Result<_, Wrong> {
            let public_ip = row.address("address")?;
            let (kind, reason) = (row.parsed("kind")?, row.words("reason")?);
            Ok((public_ip, AttachmentProblem { public_ip, kind, reason }))
        };
        let known = known.iter().map(read).collect::<Result<_, _>>();
        Ok(known.map_err(|e| e.within("attachment_problem"))?)
    }

    async fn associated_here<T: Tx>(&self, tx: &mut T) -> Result<BTreeSet<Ipv4Addr>, Failure> {
        let found =
            tx.rows("SELECT address FROM association WHERE host = $1", values![&self.host]).await?;
        let addresses = found.iter().map(|row| rows::address(row, "association"));
        Ok(addresses.collect::<Result<_, _>>()?)
    }
}

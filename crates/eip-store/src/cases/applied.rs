//! Taking in what hosts have in force.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use eip_model::{AppliedReport, AttachmentProblem, DataPlaneHealth, Generation, HostName};
use jiff::Timestamp;

use super::hosts::{Bumped, bump, ensure};
use super::mark_applied;
use crate::given::Given;
use crate::records::Reported;
use crate::rows::{self, Cells, Wrong};
use crate::transaction::{Batch, Failure, Outcome, Tx};

#[derive(Debug, Clone)]
pub(crate) struct RecordApplied {
    pub(super) host: HostName,
    pub(super) report: AppliedReport,
    pub(super) now: Timestamp,
}

/// What is known of a host when it reports.
#[derive(Debug)]
struct Known {
    desired: Generation,
    observed: Generation,
    health: DataPlaneHealth,
    /// More associations of it are not marked as applied than a report should mark.
    many: bool,
}

/// A report, and how far its host has come.
///
/// A generation that this record never reached was counted by another (a backup has been restored
/// since); it says nothing about this one.
#[derive(Debug)]
struct Progress<'r> {
    said: &'r RecordApplied,
    observed: Generation,
    /// Whether it says anything that was not known.
    new: bool,
    /// See [`Known::many`].
    many: bool,
}

impl Batch for RecordApplied {
    type Answer = Reported;
    const DOING: &'static str = "take in what a host has in force";

    fn about(&self) -> Option<String> {
        Some(self.host.to_string())
    }

    /// Of several reports of one host the first is taken in; the next batch takes in the next.
    async fn settle<T: Tx>(
        tx: &mut T,
        commands: &[Self],
    ) -> Result<Vec<Outcome<Reported>>, Failure> {
        let mut hosts = BTreeSet::new();
        let first: Vec<bool> = commands.iter().map(|one| hosts.insert(&one.host)).collect();
        let reports = commands.iter().zip(&first).filter(|(_, first)| **first);
        let mut reports: Vec<&Self> = reports.map(|(one, _)| one).collect();
        reports.sort_by(|one, other| one.host.cmp(&other.host));
        let progress = progress(tx, &reports).await?;
        let lifted = let_go(tx, &progress).await?;
        let waiting: BTreeSet<HostName> = lifted.iter().map(|one| one.waiting.clone()).collect();
        let bumped = note(tx, &progress, &waiting).await?;
        move_on(tx, &lifted, &bumped).await?;
        mark_applied(tx, &progress).await?;
        replace_problems(tx, &progress).await?;
        let freed = |one: &Self| {
            let of_this = lifted.iter().filter(|lifted| lifted.by == one.host);
            let freed: BTreeSet<&HostName> = of_this.map(|lifted| &lifted.waiting).collect();
            freed.into_iter().cloned().collect()
        };
        let outcome = |(one, first): (&Self, &bool)| {
            if !*first {
                return Outcome::Again;
            }
            let of_this = |progress: &&Progress<'_>| progress.said.host == one.host;
            let more = progress.iter().find(of_this).is_some_and(|progress| progress.many);
            Outcome::Done(Reported { freed: freed(one), more })
        };
        Ok(commands.iter().zip(&first).map(outcome).collect())
    }
}

async fn progress<'r, T: Tx>(
    tx: &mut T,
    reports: &[&'r RecordApplied],
) -> Result<Vec<Progress<'r>>, Failure> {
    let mut known = known(tx, reports).await?;
    let new: Vec<&&RecordApplied> =
        reports.iter().filter(|one| !known.contains_key(&one.host)).collect();
    if let Some(first) = new.first() {
        let now = first.now;
        let hosts: Vec<&HostName> = new.iter().map(|one| &one.host).collect();
        ensure(tx, &hosts, now).await?;
        known.extend(self::known(tx, reports).await?);
    }
    let progress = |said: &&'r RecordApplied| {
        let before = known.get(&said.host);
        let desired = before.map(|host| host.desired).unwrap_or_default();
        let reported = said.report.generation;
        let observed = if reported <= desired { reported } else { Generation::default() };
        let same = before
            .is_some_and(|host| host.observed == observed && host.health == said.report.data_plane);
        let many = before.is_some_and(|host| host.many);
        Progress { said, observed, new: !same || !said.report.problems.is_empty(), many }
    };
    Ok(reports.iter().map(progress).collect())
}

async fn known<T: Tx>(
    tx: &mut T,
    reports: &[&RecordApplied],
) -> Result<BTreeMap<HostName, Known>, Failure> {
    let found = tx
        .each(
            "SELECT h.name, h.generation, h.observed_generation, h.health, h.health_reason,
                    (SELECT count(*) FROM (SELECT 1 FROM association a
                                            WHERE a.host = h.name AND a.applied_at IS NULL
                                            LIMIT 201) few) AS unmarked
               FROM {given} JOIN host h ON h.name = given.name",
            Given::of(reports).with("name", |one| &one.host),
        )
        .await?;
    let read = |row: &T::Row| -> Result<_, Wrong> {
        let known = Known {
            desired: row.generation("generation")?,
            observed: row.generation("observed_generation")?,
            health: rows::health(row)?,
            many: row.int("unmarked")?.is_some_and(|unmarked| unmarked > mark_applied::AT_REPORT),
        };
        Ok((row.parsed("name")?, known))
    };
    let known = found.iter().map(read).collect::<Result<_, _>>();
    Ok(known.map_err(|e| e.within("host"))?)
}

/// A fence that is lifted: `by` has let go of the address, and `waiting` waits for nothing else.
#[derive(Debug)]
struct Lifted {
    address: Ipv4Addr,
    by: HostName,
    waiting: HostName,
}

/// Forgets what hosts were letting go of and have, and returns the associations on other hosts that
/// waited for nothing else.
async fn let_go<T: Tx>(tx: &mut T, progress: &[Progress<'_>]) -> Result<Vec<Lifted>, Failure> {
    // Before they are deleted, in the order in which everyone locks them.
    tx.each(
        "SELECT l.address FROM {given}
           JOIN letting_go l ON l.host = given.host AND l.generation <= given.observed
          ORDER BY l.address, l.host FOR UPDATE OF l",
        hosts(progress),
    )
    .await?;
    let gone = tx
        .each(
            "DELETE FROM letting_go
              WHERE (address, host) IN
                    (SELECT l.address, l.host FROM {given}
                       JOIN letting_go l ON l.host = given.host AND l.generation <= given.observed)
             RETURNING address, host",
            hosts(progress),
        )
        .await?;
    let read = |row: &T::Row| -> Result<_, Failure> {
        Ok((rows::address(row, "letting_go")?, rows::host_name(row, "letting_go")?))
    };
    let gone = gone.iter().map(read).collect::<Result<Vec<_>, Failure>>()?;
    let waiting = tx
        .each(
            "SELECT a.address, a.host, given.by FROM {given}
               JOIN association a ON a.address = given.address AND a.host <> given.by
              WHERE NOT EXISTS (SELECT 1 FROM letting_go l
                                 WHERE l.address = a.address AND l.host <> a.host)",
            Given::of(&gone).with("address", |(address, _)| *address).with("by", |(_, by)| by),
        )
        .await?;
    let read = |row: &T::Row| -> Result<_, Wrong> {
        let (by, waiting) = (row.parsed("by")?, row.parsed("host")?);
        Ok(Lifted { address: row.address("address")?, by, waiting })
    };
    let lifted = waiting.iter().map(read).collect::<Result<_, _>>();
    Ok(lifted.map_err(|e| e.within("association"))?)
}

fn hosts(progress: &[Progress<'_>]) -> Given {
    Given::of(progress)
        .with("host", |one| &one.said.host)
        .with("observed", |one| one.observed)
        .into()
}

/// Writes what hosts say of themselves and bumps the hosts that waited for them.
async fn note<T: Tx>(
    tx: &mut T,
    progress: &[Progress<'_>],
    waiting: &BTreeSet<HostName>,
) -> Result<BTreeMap<HostName, Bumped>, Failure> {
    // All of them in the order of their names, as everyone locks them.
    let all: BTreeSet<&HostName> =
        progress.iter().map(|one| &one.said.host).chain(waiting).collect();
    let all: Vec<&HostName> = all.into_iter().collect();
    tx.each(
        "SELECT h.name FROM {given} JOIN host h ON h.name = given.name
          ORDER BY h.name FOR UPDATE OF h",
        Given::of(&all).with("name", |name| *name),
    )
    .await?;
    let health = |one: &Progress<'_>| match &one.said.report.data_plane {
        DataPlaneHealth::Ready => "ready",
        DataPlaneHealth::Absent { .. } => "absent",
        DataPlaneHealth::Failing { .. } => "failing",
    };
    fn reason<'r>(one: &'r Progress<'_>) -> Option<&'r str> {
        match &one.said.report.data_plane {
            DataPlaneHealth::Ready => None,
            DataPlaneHealth::Absent { reason } | DataPlaneHealth::Failing { reason } => {
                Some(reason)
            }
        }
    }
    tx.later(
        "UPDATE host
            SET observed_generation = given.observed,
                reported_generation = CASE WHEN given.observed > host.reported_generation
                                           THEN given.observed
                                           ELSE host.reported_generation END,
                health = given.health,
                health_reason = given.reason, last_seen_at = given.now
           FROM {given} WHERE host.name = given.host",
        Given::of(progress)
            .with("host", |one| &one.said.host)
            .with("observed", |one| one.observed)
            .with("health", health)
            .with("reason", reason)
            .with("now", |one| one.said.now),
    )
    .await?;
    progress.iter().filter(|one| one.new).for_each(|one| tx.wake(&one.said.host));
    bump(tx, waiting).await
}

/// Gives the associations that waited the generation in which their host gets them.
async fn move_on<T: Tx>(
    tx: &mut T,
    lifted: &[Lifted],
    bumped: &BTreeMap<HostName, Bumped>,
) -> Result<(), Failure> {
    let generation = |one: &Lifted| bumped.get(&one.waiting).map(|host| host.generation);
    tx.each(
        "UPDATE association SET generation = given.generation, applied_at = NULL
           FROM {given} WHERE association.address = given.address",
        Given::of(lifted)
            .with("address", |one| one.address)
            .with("generation", move |one| generation(one).unwrap_or_default()),
    )
    .await
    .map(drop)
}

async fn mark_applied<T: Tx>(tx: &mut T, progress: &[Progress<'_>]) -> Result<(), Failure> {
    let few: Vec<&Progress<'_>> = progress.iter().filter(|one| !one.many).collect();
    tx.each(
        "UPDATE association SET applied_at = given.now
           FROM {given}
          WHERE association.host = given.host AND association.generation <= given.observed
            AND association.applied_at IS NULL
            AND NOT EXISTS (SELECT 1 FROM letting_go l
                             WHERE l.address = association.address
                               AND l.host <> association.host)",
        Given::of(&few)
            .with("host", |one| &one.said.host)
            .with("observed", |one| one.observed)
            .with("now", |one| one.said.now),
    )
    .await
    .map(drop)
}

/// A problem of an attachment, and the host that has it.
type Told<'r> = (&'r HostName, &'r AttachmentProblem, Timestamp);

/// Makes the problems of the hosts' associations those of the reports. A problem that has not
/// changed keeps the time since when it has been there.
async fn replace_problems<T: Tx>(tx: &mut T, progress: &[Progress<'_>]) -> Result<(), Failure> {
    let mut old = known_problems(tx, progress).await?;
    let told = progress.iter().flat_map(|one| {
        let said = one.said;
        said.report.problems.iter().map(|problem| (&said.host, problem, said.now))
    });
    let told = associated(tx, told.collect()).await?;
    let new: Vec<Told<'_>> = told
        .into_iter()
        .filter(|(_, problem, _)| {
            old.remove(&problem.public_ip).is_none_or(|known| known != **problem)
        })
        .collect();
    tx.each(
        "INSERT INTO attachment_problem (address, host, kind, reason, since)
         SELECT given.address, given.host, given.kind, given.reason, given.now
           FROM {given} WHERE true
         ON CONFLICT (address) DO UPDATE
            SET host = excluded.host, kind = excluded.kind, reason = excluded.reason,
                since = excluded.since",
        Given::of(&new)
            .with("address", |(_, problem, _)| problem.public_ip)
            .with("host", |(host, ..)| *host)
            .with("kind", |(_, problem, _)| problem.kind.as_str())
            .with("reason", |(_, problem, _)| problem.reason.as_str())
            .with("now", |(.., now)| *now),
    )
    .await?;
    let over: Vec<Ipv4Addr> = old.into_keys().collect();
    tx.later(
        "DELETE FROM attachment_problem WHERE address IN (SELECT given.address FROM {given})",
        Given::of(&over).with("address", |address| *address),
    )
    .await
}

async fn known_problems<T: Tx>(
    tx: &mut T,
    progress: &[Progress<'_>],
) -> Result<BTreeMap<Ipv4Addr, AttachmentProblem>, Failure> {
    let known = tx
        .each(
            "SELECT p.address, p.kind, p.reason
               FROM {given} JOIN attachment_problem p ON p.host = given.host",
            Given::of(progress).with("host", |one| &one.said.host),
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

/// Leaves out what is not, or no longer, associated on the host that tells of it.
async fn associated<'r, T: Tx>(tx: &mut T, told: Vec<Told<'r>>) -> Result<Vec<Told<'r>>, Failure> {
    let found = tx
        .each(
            "SELECT a.address, a.host FROM {given}
               JOIN association a ON a.address = given.address AND a.host = given.host",
            Given::of(&told)
                .with("address", |(_, problem, _)| problem.public_ip)
                .with("host", |(host, ..)| *host),
        )
        .await?;
    let here = found.iter().map(|row| rows::address(row, "association"));
    let here = here.collect::<Result<BTreeSet<Ipv4Addr>, _>>()?;
    let is_here = |(_, problem, _): &Told<'_>| here.contains(&problem.public_ip);
    let mut seen = BTreeSet::new();
    Ok(told.into_iter().filter(|one| is_here(one) && seen.insert(one.1.public_ip)).collect())
}

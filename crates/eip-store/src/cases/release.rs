//! Ending holds, and ending the quarantines that follow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use eip_model::{ElasticIpRef, EventKind, PoolName};
use jiff::{Timestamp, ToSpan};

use super::counts::{Counts, Limit};
use super::held::{Aims, Held, Party, gone, lock_all, pointed};
use crate::error::{Refusal, StoreError};
use crate::given::Given;
use crate::records::{ReleaseCommand, Released, Scope};
use crate::rows::{self, Cells};
use crate::transaction::{Batch, Failure, Outcome, Tx, UseCase};
use crate::value::values;

impl Aims for ReleaseCommand {
    fn target(&self) -> ElasticIpRef {
        self.target
    }

    fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// A hold that ends, and until when its address sleeps.
#[derive(Debug)]
struct Ending<'c> {
    held: Held,
    command: &'c ReleaseCommand,
    until: Timestamp,
}

impl Batch for ReleaseCommand {
    type Answer = Released;
    const DOING: &'static str = "release an elastic IP";

    fn about(&self) -> Option<String> {
        Some(format!("{:?}", self.target))
    }

    async fn settle<T: Tx>(
        tx: &mut T,
        commands: &[Self],
    ) -> Result<Vec<Outcome<Released>>, Failure> {
        let held = lock_all(tx, commands).await?;
        let addresses: Vec<Ipv4Addr> = held.iter().flatten().map(|one| one.address).collect();
        // An association is made only by who holds these locks, and the statement sees every one
        // that was made before: nobody can point a released elastic IP at anything.
        let pointed = pointed(tx, &addresses).await?;
        let pools = quarantines(tx).await?;
        let mut ending: Vec<Ending<'_>> = Vec::new();
        let mut outcomes = Vec::new();
        let mut ended = BTreeSet::new();
        for (command, held) in commands.iter().zip(held) {
            // Once it is released there is none for whoever comes second.
            let Some(held) = held.filter(|held| !ended.contains(&held.address)) else {
                outcomes.push(Outcome::Refused(Refusal::ElasticIpNotFound));
                continue;
            };
            if held.protected {
                outcomes.push(Outcome::Refused(Refusal::Protected));
                continue;
            }
            if let Some(pointed) = pointed.get(&held.address) {
                let instance_name = pointed.instance_name.clone();
                outcomes.push(Outcome::Refused(Refusal::StillAssociated { instance_name }));
                continue;
            }
            let until = sleeps_until(&pools, &held.pool, command.now)?;
            ended.insert(held.address);
            outcomes.push(Outcome::Done(Released { address: held.address, free_at: until }));
            ending.push(Ending { held, command, until });
        }
        end(tx, &ending).await?;
        Ok(outcomes)
    }
}

async fn end<T: Tx>(tx: &mut T, ending: &[Ending<'_>]) -> Result<(), Failure> {
    let (asleep, gone): (Vec<&Ending<'_>>, Vec<_>) =
        ending.iter().partition(|one| one.until > one.command.now);
    tx.later(
        "UPDATE elastic_ip
            SET revision = elastic_ip.revision + 1, updated_at = given.now,
                released_at = given.now, quarantine_until = given.until
           FROM {given} WHERE elastic_ip.address = given.address",
        Given::of(&asleep)
            .with("address", |one| one.held.address)
            .with("now", |one| one.command.now)
            .with("until", |one| one.until),
    )
    .await?;
    tx.later(
        "DELETE FROM elastic_ip WHERE address IN (SELECT given.address FROM {given})",
        Given::of(&gone).with("address", |one| one.held.address),
    )
    .await?;
    tx.later(
        "INSERT INTO past_allocation
                (address, allocated_at, elastic_ip_id, project, pool, name, released_at)
         SELECT given.address, given.allocated_at, given.id, given.project, given.pool, given.name,
                given.now
           FROM {given} WHERE true",
        Given::of(ending)
            .with("address", |one| one.held.address)
            .with("allocated_at", |one| one.held.allocated_at)
            .with("id", |one| one.held.id)
            .with("project", |one| &one.held.project)
            .with("pool", |one| &one.held.pool)
            .with("name", |one| one.held.name.as_ref())
            .with("now", |one| one.command.now),
    )
    .await?;
    let mut counts = Counts::default();
    for one in ending {
        counts.released(&one.held.project, &one.held.pool, one.until > one.command.now);
        let (actor, now) = (&one.command.actor, one.command.now);
        tx.tell(one.held.event(EventKind::Released, actor, now, Party::default()));
    }
    counts.enter(tx, Limit::None).await
}

async fn quarantines<T: Tx>(tx: &mut T) -> Result<BTreeMap<PoolName, u32>, Failure> {
    let found = tx.rows("SELECT name, quarantine_seconds FROM pool", values![]).await?;
    let read = |row: &T::Row| -> Result<_, rows::Wrong> {
        Ok((row.parsed("name")?, row.number("quarantine_seconds")?))
    };
    let pools = found.iter().map(read).collect::<Result<_, _>>();
    Ok(pools.map_err(|e| e.within("pool"))?)
}

fn sleeps_until(
    pools: &BTreeMap<PoolName, u32>,
    pool: &PoolName,
    now: Timestamp,
) -> Result<Timestamp, Failure> {
    let seconds = pools.get(pool).ok_or_else(|| gone("pool", pool))?;
    let until = now.checked_add(i64::from(*seconds).seconds());
    Ok(until.map_err(|e| StoreError::Corrupt { table: "pool", what: e.to_string() })?)
}

/// How many quarantines one transaction ends at most.
const AT_ONCE: i64 = 4_096;

#[derive(Debug)]
pub(super) struct EndQuarantines {
    pub(super) now: Timestamp,
}

impl UseCase for EndQuarantines {
    /// Some of the addresses whose quarantine has ended; none when there are no more.
    type Answer = Vec<Ipv4Addr>;
    const DOING: &'static str = "end quarantines";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<Ipv4Addr>, Failure> {
        let freed = tx
            .rows(
                "DELETE FROM elastic_ip
                  WHERE address IN (SELECT address FROM elastic_ip
                                     WHERE released_at IS NOT NULL AND quarantine_until <= $1
                                     ORDER BY quarantine_until LIMIT $2)
                    AND released_at IS NOT NULL AND quarantine_until <= $1
                 RETURNING address, pool",
                values![self.now, AT_ONCE],
            )
            .await?;
        let mut counts = Counts::default();
        for row in &freed {
            counts.woke(row.parsed("pool").map_err(|e| e.within("elastic_ip"))?);
        }
        counts.enter(tx, Limit::None).await?;
        let addresses = freed.iter().map(|row| rows::address(row, "elastic_ip"));
        let mut addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        addresses.sort_unstable();
        Ok(addresses)
    }
}

//! What administrators do with pools.

use eip_model::{EventKind, Ipv4Range, Mode, PoolConfig, PoolName, ProjectName};
use std::net::Ipv4Addr;

use super::setup::{Pools, add_ranges, list, new_pool};
use crate::error::Refusal;
use crate::news::NewEvent;
use crate::records::By;
use crate::rows::{self, Cells};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

/// What keeps two from giving the same addresses to two pools.
const TURN: &str = "pools";

async fn all<T: Tx>(tx: &mut T) -> Result<Vec<PoolConfig>, Failure> {
    Pools.run(tx).await
}

async fn find<T: Tx>(tx: &mut T, name: &PoolName) -> Result<PoolConfig, Failure> {
    let found = all(tx).await?.into_iter().find(|pool| pool.name == *name);
    found.ok_or_else(|| Refusal::PoolNotFound.into())
}

/// Makes sure that no pool has an address of the ranges, nor two of the ranges.
fn keep_apart(ranges: &[Ipv4Range], name: &PoolName, pools: &[PoolConfig]) -> Result<(), Refusal> {
    let theirs = pools.iter().flat_map(|pool| pool.ranges.iter().map(|range| (*range, &pool.name)));
    let theirs: Vec<(Ipv4Range, &PoolName)> = theirs.collect();
    for (at, range) in ranges.iter().enumerate() {
        let earlier = ranges[..at].iter().map(|other| (*other, name));
        let other = theirs.iter().copied().chain(earlier).find(|(other, _)| other.overlaps(range));
        if let Some((other, pool)) = other {
            return Err(Refusal::PoolOverlaps { range: *range, other, pool: pool.clone() });
        }
    }
    Ok(())
}

/// Has every agent look again: the ranges of all pools are in every desired set.
async fn wake_all<T: Tx>(tx: &mut T) -> Result<(), Failure> {
    // By name, as everyone who locks several.
    let hosts =
        tx.rows("SELECT name AS host FROM host ORDER BY name FOR UPDATE", values![]).await?;
    tx.run("UPDATE host SET generation = generation + 1", values![]).await?;
    for host in &hosts {
        tx.wake(&rows::host_name(host, "host")?);
    }
    Ok(())
}

#[derive(Debug)]
pub(super) struct CreatePool {
    pub(super) pool: PoolConfig,
    pub(super) by: By,
}

impl UseCase for CreatePool {
    type Answer = PoolConfig;
    const DOING: &'static str = "make a pool";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<PoolConfig, Failure> {
        tx.alone(TURN).await?;
        let pools = all(tx).await?;
        if pools.iter().any(|pool| pool.name == self.pool.name) {
            return Err(Refusal::Exists.into());
        }
        keep_apart(&self.pool.ranges, &self.pool.name, &pools)?;
        if !new_pool(tx, &self.pool, self.by.at).await? {
            return Err(Refusal::Exists.into());
        }
        wake_all(tx).await?;
        let detail = format!("of {}", listed(&self.pool.ranges));
        tx.tell(NewEvent::about(EventKind::PoolCreated, &self.by, detail).named(&self.pool.name));
        find(tx, &self.pool.name).await
    }
}

/// What is changed of a pool; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct PoolChange {
    pub add_ranges: Vec<Ipv4Range>,
    pub quarantine_seconds: Option<u32>,
    pub mode: Option<Mode>,
    pub reserved: Option<Vec<Ipv4Addr>>,
    pub projects: Option<Option<Vec<ProjectName>>>,
    pub draining: Option<bool>,
}

#[derive(Debug)]
pub(super) struct UpdatePool {
    pub(super) name: PoolName,
    pub(super) change: PoolChange,
    pub(super) by: By,
}

impl UseCase for UpdatePool {
    type Answer = PoolConfig;
    const DOING: &'static str = "change a pool";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<PoolConfig, Failure> {
        tx.alone(TURN).await?;
        let pools = all(tx).await?;
        let before = pools.iter().find(|pool| pool.name == self.name);
        let before = before.ok_or(Refusal::PoolNotFound)?;
        let change = &self.change;
        keep_apart(&change.add_ranges, &self.name, &pools)?;
        if let Some(reserved) = &change.reserved {
            self.nobody_has(tx, reserved, before).await?;
        }
        let quarantine = change.quarantine_seconds.unwrap_or(before.quarantine_seconds);
        let mode = change.mode.unwrap_or(before.mode);
        let projects = change.projects.as_ref().unwrap_or(&before.projects);
        let draining = change.draining.unwrap_or(before.draining);
        tx.run(
            "UPDATE pool
                SET quarantine_seconds = $2, mode = $3, reserved = $4, draining = $5, projects = $6
              WHERE name = $1",
            values![
                &self.name,
                quarantine,
                mode.as_str(),
                list(change.reserved.as_ref().unwrap_or(&before.reserved)),
                i64::from(draining),
                projects.as_deref().map(list),
            ],
        )
        .await?;
        if !change.add_ranges.is_empty() {
            add_ranges(tx, &self.name, before.ranges.len(), &change.add_ranges).await?;
            wake_all(tx).await?;
        }
        tx.run(
            "UPDATE pool_range SET open = $2 WHERE pool = $1",
            values![&self.name, i64::from(!draining)],
        )
        .await?;
        let after = find(tx, &self.name).await?;
        let changes = differences(before, &after);
        if !changes.is_empty() {
            let detail = changes.join("; ");
            tx.tell(NewEvent::about(EventKind::PoolUpdated, &self.by, detail).named(&self.name));
        }
        Ok(after)
    }
}

/// Says what has changed of a pool, for people.
fn differences(before: &PoolConfig, after: &PoolConfig) -> Vec<String> {
    let mut told = Vec::new();
    if let Some(more) = after.ranges.get(before.ranges.len()..).filter(|more| !more.is_empty()) {
        told.push(format!("grown by {}", listed(more)));
    }
    if before.quarantine_seconds != after.quarantine_seconds {
        told.push(format!("a quarantine of {} s", after.quarantine_seconds));
    }
    if before.mode != after.mode {
        told.push(format!("mode {}", after.mode));
    }
    if before.reserved != after.reserved {
        told.push(match &after.reserved[..] {
            [] => "nothing reserved".to_owned(),
            some => format!("reserved: {}", listed(some)),
        });
    }
    if before.projects != after.projects {
        let projects = after.projects.as_ref();
        told.push(projects.map_or_else(
            || "for all projects".to_owned(),
            |some| format!("for the projects {}", listed(some)),
        ));
    }
    if before.draining != after.draining {
        told.push(if after.draining { "draining" } else { "draining no more" }.to_owned());
    }
    told
}

/// Lists the first of them.
fn listed<V: std::fmt::Display>(values: &[V]) -> String {
    const SHOWN: usize = 16;
    let shown: Vec<String> = values.iter().take(SHOWN).map(V::to_string).collect();
    let more = values.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

impl UpdatePool {
    /// Nobody may lose an address by having it reserved.
    async fn nobody_has<T: Tx>(
        &self,
        tx: &mut T,
        reserved: &[Ipv4Addr],
        before: &PoolConfig,
    ) -> Result<(), Failure> {
        for address in reserved.iter().filter(|one| !before.reserved.contains(one)) {
            let sql = "SELECT address FROM elastic_ip WHERE address = $1 AND released_at IS NULL";
            if tx.row(sql, values![*address]).await?.is_some() {
                return Err(Refusal::AddressInUse.into());
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct DeletePool {
    pub(super) name: PoolName,
    pub(super) by: By,
}

impl UseCase for DeletePool {
    type Answer = ();
    const DOING: &'static str = "delete a pool";

    /// Every allocation that has begun is waited for, and those that begin wait: what is counted then
    /// is all that there is. Those find no range any more.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        tx.alone(TURN).await?;
        tx.run(T::DIALECT.shut, values![]).await?;
        let sql = "SELECT held, asleep FROM pool WHERE name = $1";
        let row = tx.row(sql, values![&self.name]).await?.ok_or(Refusal::PoolNotFound)?;
        let count = |column| row.number(column).map_err(|e| e.within("pool"));
        let (held, asleep) = (count("held")?, count("asleep")?);
        if held > 0 || asleep > 0 {
            return Err(Refusal::PoolInUse { held, asleep }.into());
        }
        tx.run("DELETE FROM pool_range WHERE pool = $1", values![&self.name]).await?;
        tx.run("DELETE FROM pool WHERE name = $1", values![&self.name]).await?;
        tx.run("ANALYZE pool_range", values![]).await?;
        let detail = "nothing of it was held".to_owned();
        tx.tell(NewEvent::about(EventKind::PoolDeleted, &self.by, detail).named(&self.name));
        wake_all(tx).await
    }
}

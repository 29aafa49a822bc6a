//! What is there from the first start: a project, a pool; and how full pools are.

use eip_model::{Ipv4Range, PoolConfig, PoolName, ProjectName};
use jiff::Timestamp;

use crate::records::{PoolCounts, PoolLoad};
use crate::rows::{self, Cells};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

#[derive(Debug)]
pub(super) struct Ping;

impl UseCase for Ping {
    type Answer = ();
    const DOING: &'static str = "see whether it answers";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        tx.run("SELECT id FROM cluster", values![]).await
    }
}

#[derive(Debug)]
pub(super) struct EnsureProject {
    pub(super) name: ProjectName,
    pub(super) quota: Option<u32>,
    pub(super) now: Timestamp,
}

impl UseCase for EnsureProject {
    type Answer = ();
    const DOING: &'static str = "make a project";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        tx.run(
            "INSERT INTO project (name, quota, created_at) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING",
            values![&self.name, self.quota, self.now],
        )
        .await
    }
}

#[derive(Debug)]
pub(super) struct EnsurePool {
    pub(super) pool: PoolConfig,
    pub(super) now: Timestamp,
}

impl UseCase for EnsurePool {
    type Answer = ();
    const DOING: &'static str = "make a pool";

    /// The ranges of all pools are part of every desired set, so a new pool bumps every host.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        if new_pool(tx, &self.pool, self.now).await? {
            tx.run("UPDATE host SET generation = generation + 1", values![]).await?;
        }
        Ok(())
    }
}

/// A list, as a row has it.
pub(super) fn list<V: serde::Serialize>(values: &[V]) -> serde_json::Value {
    serde_json::to_value(values).unwrap_or_default()
}

/// Makes a pool, unless there is one of its name.
pub(super) async fn new_pool<T: Tx>(
    tx: &mut T,
    pool: &PoolConfig,
    now: Timestamp,
) -> Result<bool, Failure> {
    let made = tx
        .row(
            "INSERT INTO pool (name, quarantine_seconds, mode, reserved, projects, created_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT DO NOTHING RETURNING name",
            values![
                &pool.name,
                pool.quarantine_seconds,
                pool.mode.as_str(),
                list(&pool.reserved),
                pool.projects.as_deref().map(list),
                now,
            ],
        )
        .await?;
    if made.is_none() {
        return Ok(false);
    }
    add_ranges(tx, &pool.name, 0, &pool.ranges).await?;
    Ok(true)
}

/// Gives a pool ranges, behind those that it has.
pub(super) async fn add_ranges<T: Tx>(
    tx: &mut T,
    pool: &PoolName,
    behind: usize,
    ranges: &[Ipv4Range],
) -> Result<(), Failure> {
    for (position, range) in (i64::try_from(behind).unwrap_or(0)..).zip(ranges) {
        tx.run(
            "INSERT INTO pool_range (first, size, pool, position) VALUES ($1, $2, $3, $4)",
            values![range.first(), range.size(), pool, position],
        )
        .await?;
    }
    // A planner that has not counted the ranges takes them for a thousand, and would rather read
    // all elastic IPs than look up one in each.
    tx.run("ANALYZE pool_range", values![]).await
}

#[derive(Debug)]
pub(super) struct Pools;

impl UseCase for Pools {
    type Answer = Vec<PoolConfig>;
    const DOING: &'static str = "list the pools";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<PoolConfig>, Failure> {
        let rows = tx
            .rows(
                "SELECT p.name, p.quarantine_seconds, p.mode, CAST(p.reserved AS text) AS reserved,
                        CAST(p.projects AS text) AS projects, p.draining, r.first, r.size
                   FROM pool p
                   LEFT JOIN pool_range r ON r.pool = p.name
                  ORDER BY p.name, r.position",
                values![],
            )
            .await?;
        Ok(rows::pools(&rows)?)
    }
}

#[derive(Debug)]
pub(super) struct LoadOfPool {
    pub(super) pool: PoolName,
}

impl UseCase for LoadOfPool {
    type Answer = PoolLoad;
    const DOING: &'static str = "see how full a pool is";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<PoolLoad, Failure> {
        let sql = "SELECT held, asleep FROM pool WHERE name = $1";
        let Some(row) = tx.row(sql, values![&self.pool]).await? else {
            return Ok(PoolLoad::default());
        };
        let count = |column| row.number(column).map_err(|e| e.within("pool"));
        Ok(PoolLoad { held: count("held")?, asleep: count("asleep")? })
    }
}

#[derive(Debug)]
pub(super) struct NextWaking {
    pub(super) pool: PoolName,
}

impl UseCase for NextWaking {
    type Answer = Option<Timestamp>;
    const DOING: &'static str = "see when a quarantine ends";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Option<Timestamp>, Failure> {
        let sql = "SELECT quarantine_until FROM elastic_ip
                    WHERE released_at IS NOT NULL AND pool = $1
                    ORDER BY quarantine_until LIMIT 1";
        let row = tx.row(sql, values![&self.pool]).await?;
        let time = row.map(|row| row.moment("quarantine_until")).transpose();
        Ok(time.map_err(|e| e.within("elastic_ip"))?)
    }
}

#[derive(Debug)]
pub(super) struct CountPool {
    pub(super) pool: PoolName,
}

impl UseCase for CountPool {
    type Answer = PoolCounts;
    const DOING: &'static str = "count a pool";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<PoolCounts, Failure> {
        let counts = tx
            .row(
                "SELECT p.held AS allocated, p.asleep AS quarantined,
                        (SELECT count(*) FROM pool_range r
                           JOIN association a
                             ON a.address >= r.first AND a.address < r.first + r.size
                          WHERE r.pool = p.name) AS associated
                   FROM pool p WHERE p.name = $1",
                values![&self.pool],
            )
            .await?;
        let Some(row) = counts else {
            return Ok(PoolCounts::default());
        };
        let count = |column| row.number(column).map_err(|e| e.within("pool"));
        Ok(PoolCounts {
            allocated: count("allocated")?,
            associated: count("associated")?,
            quarantined: count("quarantined")?,
        })
    }
}

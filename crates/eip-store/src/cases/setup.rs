//! Projects, pools and keys.

use eip_model::{PoolConfig, PoolName, ProjectName};
use jiff::Timestamp;

use crate::records::{ApiKeyRecord, NewApiKey, PoolCounts, PoolLoad};
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
        let pool = &self.pool;
        let made = tx
            .row(
                "INSERT INTO pool (name, quarantine_seconds, mode, created_at)
                 VALUES ($1, $2, $3, $4)
                 ON CONFLICT DO NOTHING RETURNING name",
                values![&pool.name, pool.quarantine_seconds, pool.mode.as_str(), self.now],
            )
            .await?;
        if made.is_none() {
            return Ok(());
        }
        for (position, range) in (0_i64..).zip(&pool.ranges) {
            tx.run(
                "INSERT INTO pool_range (first, size, pool, position) VALUES ($1, $2, $3, $4)",
                values![range.first(), range.size(), &pool.name, position],
            )
            .await?;
        }
        // A planner that has not counted the ranges takes them for a thousand, and would rather read
        // all elastic IPs than look up one in each.
        tx.run("ANALYZE pool_range", values![]).await?;
        tx.run("UPDATE host SET generation = generation + 1", values![]).await
    }
}

#[derive(Debug)]
pub(super) struct Pools;

impl UseCase for Pools {
    type Answer = Vec<PoolConfig>;
    const DOING: &'static str = "list the pools";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<PoolConfig>, Failure> {
        let rows = tx
            .rows(
                "SELECT p.name, p.quarantine_seconds, p.mode, r.first, r.size
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

impl UseCase for NewApiKey {
    type Answer = ();
    const DOING: &'static str = "make a key known";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        tx.run(
            "INSERT INTO api_key (id, digest, role, project, host, created_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (id) DO UPDATE
                SET digest = excluded.digest, role = excluded.role,
                    project = excluded.project, host = excluded.host",
            values![
                &self.id,
                &self.digest[..],
                self.role.as_str(),
                self.role.project(),
                self.role.host(),
                self.now,
            ],
        )
        .await
    }
}

#[derive(Debug)]
pub(super) struct FindApiKey {
    pub(super) digest: [u8; 32],
}

impl UseCase for FindApiKey {
    type Answer = Option<ApiKeyRecord>;
    const DOING: &'static str = "look up a key";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Option<ApiKeyRecord>, Failure> {
        let row = tx
            .row(
                "SELECT id, digest, role, project, host, expires_at, revoked_at
                   FROM api_key WHERE digest = $1",
                values![&self.digest[..]],
            )
            .await?;
        Ok(row.as_ref().map(rows::api_key).transpose()?)
    }
}

//! Pools: what there is in them, and what administrators do with them.

use eip_model::{
    CreatePoolRequest, Ipv4Range, Pool, PoolConfig, PoolName, UpdatePoolRequest, chain,
};
use eip_store::{Page, PoolChange, PoolCounts};
use tracing::{info, warn};

use super::admin_error::explained;
use super::inventory::part;
use super::terms::{Asked, Done};
use super::{Caller, Error, Service};

/// How long a released address sleeps unless told otherwise, in seconds.
const QUARANTINE_SECONDS: u32 = 600;

/// How many ranges a request may name, and how many reserved addresses a pool may have.
const MOST_RANGES: usize = 256;
/// How many it may come to have.
const MOST_RANGES_IN_ALL: usize = 1_024;
const MOST_RESERVED: usize = 4_096;

impl Service {
    pub(crate) async fn pools(
        &self,
        caller: &Caller,
        page: Page<PoolName>,
    ) -> Result<Vec<Pool>, Error> {
        caller.may_read()?;
        let mut all = self.repository().pools().await.map_err(Error::Store)?;
        all.retain(|config| caller.may_use(config));
        self.counted_pools(part(all, |config| &config.name, &page)).await
    }

    /// Counts every pool, whoever may use it.
    pub(super) async fn every_pool(&self) -> Result<Vec<Pool>, Error> {
        let all = self.repository().pools().await.map_err(Error::Store)?;
        self.counted_pools(all).await
    }

    async fn counted_pools(&self, configs: Vec<PoolConfig>) -> Result<Vec<Pool>, Error> {
        let mut pools = Vec::new();
        for config in configs {
            pools.push(self.counted(config).await?);
        }
        Ok(pools)
    }

    pub(crate) async fn pool(&self, caller: &Caller, named: &str) -> Result<Pool, Error> {
        let config = self.seen_pool(caller, named).await?;
        self.counted(config).await
    }

    pub(super) async fn seen_pool(
        &self,
        caller: &Caller,
        named: &str,
    ) -> Result<PoolConfig, Error> {
        caller.may_read()?;
        let all = self.repository().pools().await.map_err(Error::Store)?;
        let found = all.into_iter().find(|pool| pool.name.as_str() == named);
        found.filter(|pool| caller.may_use(pool)).ok_or_else(|| no_pool(named))
    }

    async fn counted(&self, config: PoolConfig) -> Result<Pool, Error> {
        let counts = self.counts(&config.name).await?;
        Ok(shown(config, counts))
    }

    async fn counts(&self, pool: &PoolName) -> Result<PoolCounts, Error> {
        self.repository().pool_counts(pool).await.map_err(Error::Store)
    }

    pub(crate) async fn make_pool(
        &self,
        caller: &Caller,
        request: CreatePoolRequest,
        asked: &Asked,
    ) -> Result<Done<Pool>, Error> {
        caller.may_administer()?;
        let terms = asked.no_version()?.terms(caller, &("POST /pools", &request));
        let pool = PoolConfig {
            quarantine_seconds: request.quarantine_seconds.unwrap_or(QUARANTINE_SECONDS),
            mode: request.mode,
            reserved: request.reserved,
            projects: request.projects,
            ..PoolConfig::of(request.name, request.ranges)
        };
        if !(1..=MOST_RANGES).contains(&pool.ranges.len()) {
            let detail = format!("ranges are 1 to {MOST_RANGES}, not {}", pool.ranges.len());
            let hint = match pool.ranges.is_empty() {
                true => "name one at least, as 203.0.113.0/24",
                false => "add more of them with PATCH",
            };
            return Err(Error::invalid(detail, hint));
        }
        reachable(&pool.ranges)?;
        reserved_lie_in(&pool)?;
        let made = self.repository().make_pool(&terms, &pool, &caller.by()).await;
        let made = made.map_err(|error| explained(error, "pool", pool.name.as_str()))?;
        let (config, repeated) = (made.answer, made.repeated);
        if !asked.dry_run {
            info!(key.id = %caller.key, pool = %config.name, "Made a pool");
            self.follow_committed().await;
        }
        let pool = match self.repository().pool_counts(&config.name).await {
            Ok(counts) => shown(config, counts),
            Err(error) if repeated || asked.dry_run => return Err(Error::Store(error)),
            // It is made; a pool that was just made has nothing in it.
            Err(_) => shown(config, PoolCounts::default()),
        };
        Ok(asked.done(pool, repeated))
    }

    pub(crate) async fn update_pool(
        &self,
        caller: &Caller,
        named: &str,
        request: UpdatePoolRequest,
        asked: &Asked,
    ) -> Result<Done<Pool>, Error> {
        caller.may_administer()?;
        let before = self.seen_pool(caller, named).await?;
        if request.add_ranges.len() > MOST_RANGES {
            let detail = format!("add_ranges are at most {MOST_RANGES}");
            return Err(Error::invalid(detail, "add them in several requests"));
        }
        if before.ranges.len() + request.add_ranges.len() > MOST_RANGES_IN_ALL {
            let detail = format!("a pool has at most {MOST_RANGES_IN_ALL} ranges");
            return Err(Error::invalid(detail, "make another pool"));
        }
        reachable(&request.add_ranges)?;
        let ranges = before.ranges.iter().chain(&request.add_ranges).copied().collect();
        let reserved = request.reserved.clone().unwrap_or_else(|| before.reserved.clone());
        reserved_lie_in(&PoolConfig { ranges, reserved, ..before.clone() })?;
        let change = PoolChange {
            add_ranges: request.add_ranges,
            quarantine_seconds: request.quarantine_seconds,
            mode: request.mode,
            reserved: request.reserved,
            projects: request.projects,
            draining: request.draining,
        };
        let terms = asked.no_version()?.unkeyed();
        // What is in it is counted before: once it is changed, the answer is that it is.
        let counts = self.counts(&before.name).await?;
        let by = caller.by();
        let changed = self.repository().change_pool(&terms, &before.name, &change, &by).await;
        let config = changed.map_err(|error| explained(error, "pool", before.name.as_str()))?;
        if !asked.dry_run {
            info!(key.id = %caller.key, pool = %config.name, "Changed a pool");
            self.follow_committed().await;
        }
        Ok(asked.done(shown(config, counts), false))
    }

    pub(crate) async fn delete_pool(
        &self,
        caller: &Caller,
        named: &str,
        asked: &Asked,
    ) -> Result<Done<()>, Error> {
        caller.may_administer()?;
        let name: PoolName = named.parse().map_err(|_| no_pool(named))?;
        let terms = asked.no_version()?.unkeyed();
        let deleted = self.repository().delete_pool(&terms, &name, &caller.by()).await;
        deleted.map_err(|error| explained(error, "pool", name.as_str()))?;
        if !asked.dry_run {
            info!(key.id = %caller.key, pool = %name, "Deleted a pool");
            self.follow_committed().await;
        }
        Ok(asked.done((), false))
    }

    /// Takes in what was committed just now. Should that fail, the next turn of [`Service::tend`] does it: the change is
    /// made, and whoever asked for it is told so.
    async fn follow_committed(&self) {
        if let Err(error) = self.follow_pools().await {
            warn!(error = %chain(&error), "Could not look at the pools after a change; will retry");
        }
    }

    /// Takes in what the pools are now: another server may have changed them.
    pub(super) async fn follow_pools(&self) -> Result<(), Error> {
        let pools = self.repository().pools().await.map_err(Error::Store)?;
        self.allocator.follow(pools);
        Ok(())
    }
}

/// A pool as callers see it.
fn shown(config: PoolConfig, counts: PoolCounts) -> Pool {
    let size = config.size();
    Pool {
        name: config.name,
        ranges: config.ranges,
        size,
        allocated: counts.allocated,
        associated: counts.associated,
        quarantined: counts.quarantined,
        free: size.saturating_sub(counts.allocated + counts.quarantined),
        quarantine_seconds: config.quarantine_seconds,
        mode: config.mode,
        reserved: config.reserved,
        projects: config.projects,
        draining: config.draining,
    }
}

/// Refuses ranges by which no instance could be reached.
fn reachable(ranges: &[Ipv4Range]) -> Result<(), Error> {
    for range in ranges {
        if let Some(what) = range.set_apart() {
            let hint = "name addresses that are routed to your hosts";
            return Err(Error::invalid(format!("{range} has a part of {what}"), hint));
        }
    }
    Ok(())
}

fn reserved_lie_in(pool: &PoolConfig) -> Result<(), Error> {
    if pool.reserved.len() > MOST_RESERVED {
        let detail = format!("reserved are at most {MOST_RESERVED}");
        return Err(Error::invalid(detail, "leave whole ranges out of the pool instead"));
    }
    match pool.reserved.iter().find(|address| pool.range_of(**address).is_none()) {
        None => Ok(()),
        Some(address) => {
            let detail = format!("{address} lies in no range of the pool");
            Err(Error::invalid(detail, "reserve addresses of the pool alone"))
        }
    }
}

fn no_pool(named: &str) -> Error {
    Error::PoolNotFound { pool: named.to_owned() }
}

//! What projects and pools hold, counted in the transactions that change it.

use std::collections::BTreeMap;

use eip_model::{PoolName, ProjectName};

use crate::given::Given;
use crate::records::NewAllocation;
use crate::transaction::{Failure, Tx};

/// By how much the counters go up, or down.
#[derive(Debug, Default)]
pub(super) struct Counts {
    projects: BTreeMap<ProjectName, i64>,
    pools: BTreeMap<PoolName, Pool>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Pool {
    held: i64,
    asleep: i64,
}

/// Whether a project may come to hold as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Quota,
    None,
}

impl Counts {
    /// An address is held from now on, that was free or asleep.
    pub(super) fn taken(&mut self, new: &NewAllocation, was_asleep: bool) {
        *self.projects.entry(new.project.clone()).or_default() += 1;
        let pool = self.pools.entry(new.pool.clone()).or_default();
        pool.held += 1;
        pool.asleep -= i64::from(was_asleep);
    }

    /// An address is held no more, and free or asleep.
    pub(super) fn released(&mut self, project: &ProjectName, pool: &PoolName, asleep: bool) {
        *self.projects.entry(project.clone()).or_default() -= 1;
        let pool = self.pools.entry(pool.clone()).or_default();
        pool.held -= 1;
        pool.asleep += i64::from(asleep);
    }

    pub(super) fn woke(&mut self, pool: PoolName) {
        self.pools.entry(pool).or_default().asleep -= 1;
    }

    /// Enters them: the projects by name, then the pools by name. Everyone has locked elastic IPs
    /// before, and from here on waits for nobody but the others who count.
    pub(super) async fn enter<T: Tx>(&self, tx: &mut T, limit: Limit) -> Result<(), Failure> {
        let projects: Vec<(&ProjectName, i64)> =
            self.projects.iter().map(|(name, more)| (name, *more)).collect();
        let entered = tx
            .each(
                "UPDATE project SET held = project.held + given.more
                   FROM {given}
                  WHERE project.name = given.name
                    AND (project.quota IS NULL OR NOT given.limited
                         OR project.held + given.more <= project.quota)
                 RETURNING project.name",
                Given::of(&projects)
                    .with("name", |(name, _)| *name)
                    .with("more", |(_, more)| *more)
                    .with("limited", move |_| limit == Limit::Quota),
            )
            .await?;
        if entered.len() < projects.len() {
            return Err(Failure::Again("another server took what the quota had left".into()));
        }
        let pools: Vec<(&PoolName, Pool)> =
            self.pools.iter().map(|(name, more)| (name, *more)).collect();
        tx.later(
            "UPDATE pool SET held = pool.held + given.held, asleep = pool.asleep + given.asleep
               FROM {given} WHERE pool.name = given.name",
            Given::of(&pools)
                .with("name", |(name, _)| *name)
                .with("held", |(_, more)| more.held)
                .with("asleep", |(_, more)| more.asleep),
        )
        .await
    }
}

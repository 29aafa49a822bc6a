//! Allocating: choosing an address that is free and holding it.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use eip_model::{AllocateRequest, ElasticIp, Label, PoolConfig, PoolName, ProjectName};
use eip_store::{Allocated, NewAllocation, OnceKey, Refusal, StoreError};
use jiff::Timestamp;
use tracing::info;

use super::allocator::{Allocator, Candidate, Taken};
use super::error::About;
use super::terms::{Asked, Done};
use super::{Caller, Error, Service};

/// After so many lost races for an address the hint of what is free is read anew.
const LOST_RACES: u32 = 8;
/// How often the record is looked through for a free address that others always get first.
const MOST_LOOKS: u32 = 50;

/// Whose an elastic IP is to be, and who says so.
struct Owner {
    project: ProjectName,
    actor: String,
    once: Option<OnceKey>,
    /// Whether nothing of it is to stay.
    rehearse: bool,
}

impl Service {
    /// Holds an address for the caller's project: the one asked for, or any that is free. Under the
    /// same `once` the first answer is given again; whether that is so, is told with it.
    pub(crate) async fn allocate(
        &self,
        caller: &Caller,
        request: AllocateRequest,
        asked: &Asked,
    ) -> Result<Done<ElasticIp>, Error> {
        asked.no_version()?;
        let owner = Owner {
            project: caller.project()?,
            actor: caller.actor(),
            once: asked.once(caller, &request),
            rehearse: asked.dry_run,
        };
        let made = match request.address {
            Some(address) => self.allocate_this(caller, &owner, address, &request).await,
            None => self.allocate_any(caller, &owner, &request).await,
        };
        let Allocated { record, repeated } = match (made, &owner.once) {
            // What stands against it now, the last address being gone, say, did not then.
            (Err(error), Some(once)) if !asked.dry_run => {
                let before = self.repository().allocated_before(once).await;
                before
                    .map_err(|error| About { target: &"", named: &"" }.explain(error))?
                    .ok_or(error)?
            }
            (made, _) => made?,
        };
        if !repeated && !asked.dry_run {
            info!(elastic_ip.id = %record.id, key.id = %caller.key, "Allocated");
        }
        Ok(asked.done(record.at(Timestamp::now()), repeated))
    }

    async fn allocate_this(
        &self,
        caller: &Caller,
        owner: &Owner,
        address: Ipv4Addr,
        request: &AllocateRequest,
    ) -> Result<Allocated, Error> {
        // Another server may have reserved it just now, or given the pool to others.
        self.follow_pools().await?;
        let pool = self.allocator.pool_of(address).filter(|pool| caller.may_use(pool));
        let Some(pool) = pool else {
            let hint = "see GET /pools for the addresses that there are";
            return Err(Error::invalid(format!("{address} lies in no pool"), hint));
        };
        if let Some(named) = &request.pool
            && *named != pool.name
        {
            let detail = format!("{address} lies in pool {}, not in {named}", pool.name);
            return Err(Error::invalid(detail, "name that pool, or none"));
        }
        if pool.draining {
            return Err(Error::PoolDraining { pool: pool.name });
        }
        if pool.reserves(address) {
            return Err(Error::AddressInUse { address });
        }
        let Some(candidate) = self.allocator.take(address, rand::random()) else {
            return Err(Error::Internal);
        };
        let taken = self.allocator.holding(candidate);
        let made = self.record_allocation(owner, &pool, candidate, request).await;
        not_allocated(taken, &pool.name, owner, request, made)
    }

    /// Finds a pool that the caller may use, looking again where another server may have made it.
    async fn usable_pool(
        &self,
        caller: &Caller,
        find: impl Fn(&Allocator) -> Option<PoolConfig>,
    ) -> Result<Option<PoolConfig>, Error> {
        let mut pool = find(&self.allocator);
        if pool.is_none() {
            self.follow_pools().await?;
            pool = find(&self.allocator);
        }
        Ok(pool.filter(|pool| caller.may_use(pool)))
    }

    /// Tries free addresses until the record takes one. The hint that says that none is left is
    /// corrected once before it is believed.
    async fn allocate_any(
        &self,
        caller: &Caller,
        owner: &Owner,
        request: &AllocateRequest,
    ) -> Result<Allocated, Error> {
        let name = request.pool.as_ref().unwrap_or(&self.default_pool);
        let pool = self.usable_pool(caller, |all| all.pool(name)).await?;
        let Some(pool) = pool else {
            return Err(Error::PoolNotFound { pool: name.to_string() });
        };
        if pool.draining {
            return Err(Error::PoolDraining { pool: pool.name });
        }
        let (mut lost, mut looks) = (0, 0);
        loop {
            let Some(candidate) = self.allocator.take_any(name, self.vicinity.draw(rand::random()))
            else {
                looks += 1;
                if looks > MOST_LOOKS {
                    return Err(Error::Store(always_somebody_elses()));
                }
                self.look_for_free(name).await?;
                continue;
            };
            let taken = self.allocator.holding(candidate);
            match self.record_allocation(owner, &pool, candidate, request).await {
                // Held by somebody else after all. It stays marked as taken; when that goes on,
                // another server has taken many, and the hint learns of all of them at once.
                Err(StoreError::Refused(Refusal::AddressInUse)) => {
                    taken.keep();
                    lost += 1;
                    if lost % LOST_RACES == 0 {
                        self.learn().await?;
                    }
                }
                made => return not_allocated(taken, &pool.name, owner, request, made),
            }
        }
    }

    /// Looks in the record for free addresses that the hint has not, or says that there are none.
    async fn look_for_free(&self, name: &PoolName) -> Result<(), Error> {
        self.end_quarantines().await.map_err(Error::Store)?;
        // Another server may have given it more.
        self.follow_pools().await?;
        let Some(pool) = self.allocator.pool(name) else {
            return Err(Error::PoolNotFound { pool: name.to_string() });
        };
        if pool.draining {
            return Err(Error::PoolDraining { pool: pool.name });
        }
        if self.allocator.has_free(&pool.name) {
            return Ok(());
        }
        let load = self.repository().pool_load(&pool.name).await.map_err(Error::Store)?;
        let size = pool.size();
        if load.held + load.asleep >= size {
            let next = self.repository().next_waking(&pool.name).await.map_err(Error::Store)?;
            return Err(Error::PoolExhausted { pool: pool.name.clone(), size, next });
        }
        // Those that are free may be on their way to somebody else: then the next look tells.
        self.learn().await
    }

    /// Reads anew what is free. Whoever asks while that is being read waits for the next reading,
    /// and all who wait share it.
    async fn learn(&self) -> Result<(), Error> {
        let asked = self.readings.load(Ordering::Acquire);
        let _reading = self.reading.lock().await;
        if self.readings.load(Ordering::Acquire) > asked {
            return Ok(());
        }
        self.readings.fetch_add(1, Ordering::AcqRel);
        let in_use = self.repository().addresses_in_use().await.map_err(Error::Store)?;
        self.allocator.learn(&in_use);
        Ok(())
    }

    async fn record_allocation(
        &self,
        owner: &Owner,
        pool: &PoolConfig,
        candidate: Candidate,
        request: &AllocateRequest,
    ) -> Result<Allocated, StoreError> {
        let new = NewAllocation {
            id: candidate.id,
            address: candidate.address,
            range: candidate.range,
            pool: pool.name.clone(),
            project: owner.project.clone(),
            name: request.name.clone(),
            tags: request.tags.clone(),
            protected: request.protected,
            asked_for: request.address.is_some(),
            actor: owner.actor.clone(),
            now: Timestamp::now(),
            once: owner.once.clone(),
        };
        match owner.rehearse {
            true => self.repository().rehearse_allocation(&new).await,
            false => self.repository().allocate(&new).await,
        }
    }
}

/// Says why, if it was not, and frees the address in the hint unless it is or may be held.
fn not_allocated(
    taken: Taken<'_>,
    pool: &PoolName,
    owner: &Owner,
    request: &AllocateRequest,
    made: Result<Allocated, StoreError>,
) -> Result<Allocated, Error> {
    let address = taken.address();
    let error = match made {
        // The answer of an earlier request is about another address.
        Ok(made) if made.repeated => return Ok(made),
        Ok(made) if owner.rehearse => return Ok(made),
        Ok(made) => {
            taken.keep();
            return Ok(made);
        }
        Err(StoreError::Refused(Refusal::AddressInUse)) => {
            taken.keep();
            return Err(Error::AddressInUse { address });
        }
        Err(error) => error,
    };
    if matches!(error, StoreError::Unavailable { outcome_unknown: true, .. }) {
        taken.keep();
    }
    match error {
        StoreError::Refused(Refusal::PoolDraining) => {
            return Err(Error::PoolDraining { pool: pool.clone() });
        }
        StoreError::Refused(Refusal::PoolNotFound) => {
            return Err(Error::PoolNotFound { pool: pool.to_string() });
        }
        StoreError::Refused(_) | StoreError::Unavailable { .. } | StoreError::Corrupt { .. } => {}
    }
    let name = request.name.as_ref().map_or("", Label::as_str);
    Err(About { target: &address, named: &name }.explain(error))
}

fn always_somebody_elses() -> StoreError {
    let source = Box::new(std::io::Error::other("what was free went to others every time"));
    StoreError::Unavailable { doing: "find a free address", outcome_unknown: false, source }
}

//! Choosing an address: the hint of what is free, and the id that stands for it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use eip_model::{
    ElasticIpId, FreeMap, Ipv4Range, PoolConfig, PoolName, Reserved, craft_id, derive_offset,
};

/// An address that nobody else in this process is trying for, and the id that stands for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) id: ElasticIpId,
    pub(crate) address: Ipv4Addr,
    pub(crate) range: Ipv4Range,
}

/// Which addresses of every pool are believed to be free.
///
/// A hint: the unique key of the record decides. What is wrongly believed free costs one more try;
/// what is wrongly believed taken is found again by [`Allocator::learn`], which is always asked
/// before a pool is called exhausted.
#[derive(Debug)]
pub(crate) struct Allocator {
    pools: RwLock<BTreeMap<PoolName, Arc<PoolHint>>>,
}

/// An address that is on its way into the record.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    allocator: &'a Allocator,
    address: Ipv4Addr,
    kept: bool,
}

impl Taken<'_> {
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.allocator.give_back(self.address);
        }
    }
}

#[derive(Debug)]
struct PoolHint {
    config: PoolConfig,
    free: Mutex<Vec<FreeMap>>,
}

impl Allocator {
    pub(crate) fn new(pools: Vec<PoolConfig>) -> Self {
        let allocator = Self { pools: RwLock::default() };
        allocator.follow(pools);
        allocator
    }

    /// Takes in what the pools are now. What is believed of ranges that stay is kept; of new ones all
    /// is believed to be free.
    pub(crate) fn follow(&self, pools: Vec<PoolConfig>) {
        let mut known = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *known);
        for config in pools {
            let name = config.name.clone();
            let hint = match before.get(&name) {
                Some(hint) if hint.config == config => Arc::clone(hint),
                hint => Arc::new(PoolHint::new(config, hint.map(|hint| &**hint))),
            };
            known.insert(name, hint);
        }
    }

    fn hints(&self) -> Vec<Arc<PoolHint>> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn hint(&self, name: &PoolName) -> Option<Arc<PoolHint>> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn pool(&self, name: &PoolName) -> Option<PoolConfig> {
        self.hint(name).map(|hint| hint.config.clone())
    }

    pub(crate) fn pool_of(&self, address: Ipv4Addr) -> Option<PoolConfig> {
        let hints = self.hints();
        let found = hints.iter().find(|hint| hint.config.range_of(address).is_some());
        found.map(|hint| hint.config.clone())
    }

    /// Takes the address that `random` stands for if it is free, else the next free one after it.
    pub(crate) fn take_any(&self, pool: &PoolName, random: [u8; 16]) -> Option<Candidate> {
        let hint = self.hint(pool)?;
        let mut free = hint.free();
        for (range, map) in hint.config.ranges.iter().copied().zip(free.iter_mut()) {
            let own = derive_offset(uuid::Uuid::from_bytes(random), range.size());
            if let Some(offset) = map.next_free(own) {
                map.take(offset);
                return candidate(range, offset, random);
            }
        }
        None
    }

    /// Whether there is an address left that is believed to be free.
    pub(crate) fn has_free(&self, pool: &PoolName) -> bool {
        self.hint(pool).is_some_and(|hint| hint.free().iter().any(|map| map.next_free(0).is_some()))
    }

    /// Takes this very address, free or not: its holder may be asking for it back.
    pub(crate) fn take(&self, address: Ipv4Addr, random: [u8; 16]) -> Option<Candidate> {
        let config = self.pool_of(address)?;
        let range = config.range_of(address)?;
        let offset = range.offset_of(address)?;
        self.mark(address, FreeMap::take);
        candidate(range, offset, random)
    }

    pub(crate) fn give_back(&self, address: Ipv4Addr) {
        self.mark(address, FreeMap::give_back);
    }

    /// Gives the address back when what comes back is dropped, as when a caller goes away, unless it
    /// is kept. Should it be held after all, whoever tries it next loses one try.
    pub(crate) fn holding(&self, candidate: Candidate) -> Taken<'_> {
        Taken { allocator: self, address: candidate.address, kept: false }
    }

    /// Corrects the hint: all of `in_use` is taken, and everything else is free.
    ///
    /// An address that was released or allocated meanwhile may end up wrong: the next try tells.
    pub(crate) fn learn(&self, in_use: &[Ipv4Addr]) {
        for hint in self.hints() {
            let ranges = &hint.config.ranges;
            let mut fresh: Vec<FreeMap> = ranges.iter().copied().map(all_free).collect();
            keep_back(&hint.config, &mut fresh);
            for address in in_use {
                for (range, map) in ranges.iter().zip(fresh.iter_mut()) {
                    if let Some(offset) = range.offset_of(*address) {
                        map.take(offset);
                    }
                }
            }
            *hint.free() = fresh;
        }
    }

    fn mark(&self, address: Ipv4Addr, how: fn(&mut FreeMap, u32) -> bool) {
        for hint in self.hints().iter().filter(|hint| !hint.config.reserves(address)) {
            let mut free = hint.free();
            for (range, map) in hint.config.ranges.iter().zip(free.iter_mut()) {
                if let Some(offset) = range.offset_of(address) {
                    how(map, offset);
                }
            }
        }
    }
}

/// Takes what nobody gets.
fn keep_back(config: &PoolConfig, free: &mut [FreeMap]) {
    for address in &config.reserved {
        for (range, map) in config.ranges.iter().zip(free.iter_mut()) {
            if let Some(offset) = range.offset_of(*address) {
                map.take(offset);
            }
        }
    }
}

impl PoolHint {
    /// What was believed of ranges that it had before is believed of them still, but for what was
    /// reserved then.
    fn new(config: PoolConfig, before: Option<&Self>) -> Self {
        let mut free: Vec<FreeMap> = config.ranges.iter().copied().map(all_free).collect();
        if let Some(before) = before {
            let known = before.free();
            for (range, map) in config.ranges.iter().zip(free.iter_mut()) {
                let at = before.config.ranges.iter().position(|known| known == range);
                if let Some(same) = at.and_then(|at| known.get(at)) {
                    *map = same.clone();
                    for address in &before.config.reserved {
                        if let Some(offset) = range.offset_of(*address)
                            && !Reserved::holds(*range, *address)
                        {
                            map.give_back(offset);
                        }
                    }
                }
            }
        }
        keep_back(&config, &mut free);
        Self { config, free: Mutex::new(free) }
    }

    fn free(&self) -> MutexGuard<'_, Vec<FreeMap>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn all_free(range: Ipv4Range) -> FreeMap {
    let mut map = FreeMap::new(range.size());
    for offset in Reserved::offsets(range) {
        map.take(offset);
    }
    map
}

fn candidate(range: Ipv4Range, offset: u32, random: [u8; 16]) -> Option<Candidate> {
    let id = ElasticIpId::new(craft_id(random, offset, range.size()).ok()?);
    Some(Candidate { id, address: range.at(offset)?, range })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn allocator(ranges: &[&str]) -> (Allocator, PoolName) {
        let name: PoolName = "small".parse().unwrap();
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let config = PoolConfig {
            name: name.clone(),
            ranges,
            quarantine_seconds: 0,
            mode: eip_model::Mode::Nat,
            reserved: Vec::new(),
            projects: None,
            draining: false,
        };
        (Allocator::new(vec![config]), name)
    }

    #[test]
    fn every_address_of_every_range_is_handed_out_once_and_the_ends_never() {
        let (allocator, pool) = allocator(&["203.0.113.0/28", "198.51.100.4-198.51.100.9"]);
        let mut got = BTreeSet::new();
        while let Some(one) = allocator.take_any(&pool, [7; 16]) {
            assert_eq!(one.range.derive(one.id.uuid()), one.address);
            assert!(got.insert(one.address), "twice: {}", one.address);
        }
        assert_eq!(got.len(), 14 + 4);
        assert!(!got.contains(&Ipv4Addr::new(203, 0, 113, 0)));
        assert!(!got.contains(&Ipv4Addr::new(198, 51, 100, 9)));
    }

    #[test]
    fn an_id_whose_own_address_is_free_keeps_its_bytes() {
        let (allocator, pool) = allocator(&["100.64.0.0/10"]);
        let random = *uuid::Uuid::new_v4().as_bytes();
        let one = allocator.take_any(&pool, random).unwrap();
        assert_eq!(*one.id.uuid().as_bytes(), random);
    }

    #[test]
    fn what_was_learnt_is_not_handed_out_and_what_came_back_is() {
        let (allocator, pool) = allocator(&["203.0.113.0/30"]);
        let (one, two) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2));
        allocator.learn(&[one, two]);
        assert!(allocator.take_any(&pool, [0; 16]).is_none());
        allocator.give_back(two);
        assert_eq!(allocator.take_any(&pool, [0; 16]).unwrap().address, two);
    }
}

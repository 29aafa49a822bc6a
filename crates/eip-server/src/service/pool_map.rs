//! Pictures of pools: how full they are, block by block.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eip_model::{Ipv4Range, PoolMap, PoolName};
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::{Caller, Error, Service};

/// How many cells a map has at most.
const MOST_CELLS: u64 = 4_096;

/// How many addresses a cell stands for at least: a map of single ones would be a list of who holds what.
const LEAST_CELL: u32 = 4;

/// What a picture may cost without being shown again.
const CHEAP: Duration = Duration::from_millis(25);

/// For how many times of what it cost a picture is shown again: the record is busy with pictures for a tenth of the
/// time at most, however many ask.
const AGAIN: u32 = 10;

/// The last pictures, and the turn of drawing the next.
#[derive(Debug, Default)]
pub(super) struct Gallery(Mutex<HashMap<PoolName, Picture>>);

#[derive(Debug)]
struct Picture {
    good_until: Instant,
    /// A pool that has grown has others.
    ranges: Vec<Ipv4Range>,
    map: Arc<PoolMap>,
}

impl Service {
    /// Counts a pool block by block: never a row of anybody's. One that cost much is shown again for a while; it
    /// tells of when it is.
    pub(crate) async fn pool_map(
        &self,
        caller: &Caller,
        named: &str,
    ) -> Result<Arc<PoolMap>, Error> {
        let config = self.seen_pool(caller, named).await?;
        let mut gallery = self.gallery.0.lock().await;
        let now = Instant::now();
        gallery.retain(|_, picture| picture.good_until > now);
        if let Some(known) = gallery.get(&config.name).filter(|one| one.ranges == config.ranges) {
            return Ok(Arc::clone(&known.map));
        }
        let (as_of, addresses_per_cell) = (Timestamp::now(), step(&config.ranges));
        let blocks = blocks(&config.ranges, addresses_per_cell);
        let cells = self.repository().map_pool(&config.name, &blocks).await;
        let cells = cells.map_err(Error::Store)?;
        let map = PoolMap { pool: config.name.clone(), as_of, addresses_per_cell, cells };
        let map = Arc::new(map);
        if let Some(time) = shown_for(now.elapsed()) {
            let (ranges, map) = (config.ranges, Arc::clone(&map));
            let good_until = Instant::now() + time;
            gallery.insert(config.name, Picture { good_until, ranges, map });
        }
        Ok(map)
    }
}

/// For how long a picture that cost so much is shown again.
fn shown_for(cost: Duration) -> Option<Duration> {
    (cost > CHEAP).then(|| cost.saturating_mul(AGAIN))
}

/// How many addresses a cell stands for, so that there are not too many: a power of two.
fn step(ranges: &[Ipv4Range]) -> u32 {
    let cells = |step: u32| -> u64 {
        ranges.iter().map(|range| u64::from(range.size().div_ceil(step))).sum()
    };
    let mut step = LEAST_CELL;
    while cells(step) > MOST_CELLS && step < 1 << 24 {
        step *= 2;
    }
    step
}

/// Cuts ranges into blocks of `step` addresses, of which the last of each range may have fewer.
fn blocks(ranges: &[Ipv4Range], step: u32) -> Vec<(Ipv4Addr, u32)> {
    let mut blocks = Vec::new();
    for range in ranges {
        let mut offset = 0;
        while let Some(first) = range.at(offset) {
            let size = step.min(range.size() - offset);
            blocks.push((first, size));
            offset = offset.saturating_add(size);
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_that_cost_much_is_shown_for_ten_times_as_long_and_a_cheap_one_is_not() {
        let millis = Duration::from_millis;
        assert_eq!(shown_for(millis(3)), None);
        assert_eq!(shown_for(millis(300)), Some(millis(3_000)));
    }

    #[test]
    fn a_map_has_at_most_4096_cells_which_cover_the_pool() {
        for texts in
            [&["100.64.0.0/10"][..], &["203.0.113.4-203.0.113.9"], &["10.0.0.0/8", "192.0.2.0/31"]]
        {
            let ranges: Vec<Ipv4Range> = texts.iter().map(|one| one.parse().unwrap()).collect();
            let blocks = blocks(&ranges, step(&ranges));
            assert!((1..=4096).contains(&blocks.len()), "{texts:?}: {}", blocks.len());
            let covered: u64 = blocks.iter().map(|(_, size)| u64::from(*size)).sum();
            let size: u64 = ranges.iter().map(|range| u64::from(range.size())).sum();
            assert_eq!(covered, size, "{texts:?}");
        }
    }
}

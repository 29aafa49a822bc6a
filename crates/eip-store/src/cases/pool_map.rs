//! How full a pool is, block by block.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use eip_model::{PoolCell, PoolName};

use crate::given::Given;
use crate::rows::{Cells, Wrong};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

/// Counts what there is in blocks of a pool.
///
/// Every row is counted where it lies in an index by address, and no table is read for it: a million
/// cost a tenth of a second. Those that sleep, which are few as a rule, are found by an index of
/// their own; the rest is held.
#[derive(Debug)]
pub(super) struct MapPool {
    pub(super) pool: PoolName,
    /// The blocks: how many addresses, from which on. None of them runs from one range into another.
    pub(super) blocks: Vec<(Ipv4Addr, u32)>,
}

const TAKEN: &str = "
    SELECT given.n,
           (SELECT count(*) FROM elastic_ip e
             WHERE e.address >= given.first AND e.address < given.first + given.size) AS taken,
           (SELECT count(*) FROM association a
             WHERE a.address >= given.first AND a.address < given.first + given.size) AS associated
      FROM {given}";

const ASLEEP: &str = "
    SELECT e.range_first, (e.address - e.range_first) / $2 AS block, count(*) AS asleep
      FROM elastic_ip e
     WHERE e.released_at IS NOT NULL AND e.pool = $1
     GROUP BY 1, 2";

impl UseCase for MapPool {
    /// The blocks, in the order in which they were given.
    type Answer = Vec<PoolCell>;
    const DOING: &'static str = "draw the map of a pool";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<PoolCell>, Failure> {
        let asleep = self.asleep(tx).await?;
        let numbered: Vec<(i64, &(Ipv4Addr, u32))> = (0_i64..).zip(&self.blocks).collect();
        let given = Given::of(&numbered)
            .with("n", |(n, _)| *n)
            .with("first", |(_, (first, _))| *first)
            .with("size", |(_, (_, size))| *size);
        let found = tx.each(TAKEN, given).await?;
        let empty = |(first, size): &(Ipv4Addr, u32)| PoolCell {
            first: *first,
            size: *size,
            allocated: 0,
            associated: 0,
            quarantined: 0,
        };
        let mut cells: Vec<PoolCell> = self.blocks.iter().map(empty).collect();
        let mut read = |row: &T::Row| -> Result<(), Wrong> {
            let at: usize = row.number("n")?;
            if let Some(cell) = cells.get_mut(at) {
                let taken: u32 = row.number("taken")?;
                cell.quarantined = asleep.get(&cell.first).copied().unwrap_or(0);
                cell.allocated = taken.saturating_sub(cell.quarantined);
                cell.associated = row.number("associated")?;
            }
            Ok(())
        };
        found.iter().try_for_each(&mut read).map_err(|e| e.within("elastic_ip"))?;
        Ok(cells)
    }
}

impl MapPool {
    /// Returns how many sleep in each block in which any does, by its first address.
    async fn asleep<T: Tx>(&self, tx: &mut T) -> Result<HashMap<Ipv4Addr, u32>, Failure> {
        // All are of one size, but for the last of each range.
        let size = self.blocks.iter().map(|(_, size)| *size).max().unwrap_or(1).max(1);
        let found = tx.rows(ASLEEP, values![&self.pool, i64::from(size)]).await?;
        let read = |row: &T::Row| -> Result<_, Wrong> {
            let (range, block) = (row.address("range_first")?, row.number::<u32>("block")?);
            let first = range.to_bits().saturating_add(block.saturating_mul(size));
            Ok((Ipv4Addr::from_bits(first), row.number("asleep")?))
        };
        let asleep = found.iter().map(read).collect::<Result<_, _>>();
        Ok(asleep.map_err(|e| e.within("elastic_ip"))?)
    }
}

//! Which offsets of a range are free: a hint that answers in a few word reads at any fill.

/// A set of offsets `0..size`, all free at first, that finds the next free one after any point.
///
/// A bitmap with a summary of words above it, and summaries of summaries: every level has one bit
/// for each word below that still has a free offset. Finding, taking and giving back cost at most
/// one word per level (four levels for 2^24 offsets), whatever the fill. A full /10 takes 533 kB.
#[derive(Clone)]
pub struct FreeMap {
    size: u32,
    free: u32,
    /// Level 0 has a bit per offset; a set bit means free.
    levels: Vec<Vec<u64>>,
}

impl FreeMap {
    /// Makes the map of a range of `size` addresses, all of them free.
    #[must_use]
    pub fn new(size: u32) -> Self {
        let mut levels = Vec::new();
        let mut bits = size as usize;
        loop {
            let words = bits.div_ceil(64);
            let mut level = vec![u64::MAX; words];
            if let (Some(last), tail @ 1..) = (level.last_mut(), bits % 64) {
                *last = (1 << tail) - 1;
            }
            levels.push(level);
            if words <= 1 {
                return Self { size, free: size, levels };
            }
            bits = words;
        }
    }

    /// How many offsets are free.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.free
    }

    #[must_use]
    pub fn is_free(&self, offset: u32) -> bool {
        offset < self.size && self.levels[0][word(offset)] & bit(offset) != 0
    }

    /// Marks `offset` as used. Returns whether it was free.
    pub fn take(&mut self, offset: u32) -> bool {
        if !self.is_free(offset) {
            return false;
        }
        self.free -= 1;
        let mut index = offset;
        for level in &mut self.levels {
            let entry = &mut level[word(index)];
            *entry &= !bit(index);
            if *entry != 0 {
                break;
            }
            index /= 64;
        }
        true
    }

    /// Marks `offset` as free. Returns whether it was used.
    pub fn give_back(&mut self, offset: u32) -> bool {
        if offset >= self.size || self.is_free(offset) {
            return false;
        }
        self.free += 1;
        let mut index = offset;
        for level in &mut self.levels {
            let entry = &mut level[word(index)];
            let was_empty = *entry == 0;
            *entry |= bit(index);
            if !was_empty {
                break;
            }
            index /= 64;
        }
        true
    }

    /// Returns the first free offset at `start` or after it, going round at the end of the range.
    #[must_use]
    pub fn next_free(&self, start: u32) -> Option<u32> {
        if self.free == 0 {
            return None;
        }
        let start = if start < self.size { start } else { 0 };
        self.at_or_after(start).or_else(|| self.at_or_after(0))
    }

    fn at_or_after(&self, start: u32) -> Option<u32> {
        // Upwards until a word has a free bit at or after the point, then down along first bits.
        let mut index = start;
        for (height, level) in self.levels.iter().enumerate() {
            let rest = level.get(word(index)).map_or(0, |entry| entry & (u64::MAX << (index % 64)));
            if rest != 0 {
                let found = index / 64 * 64 + rest.trailing_zeros();
                return Some(
                    self.levels[..height]
                        .iter()
                        .rev()
                        .fold(found, |at, level| at * 64 + level[at as usize].trailing_zeros()),
                );
            }
            index = index / 64 + 1;
        }
        None
    }
}

impl std::fmt::Debug for FreeMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FreeMap").field("size", &self.size).field("free", &self.free).finish()
    }
}

const fn word(index: u32) -> usize {
    (index / 64) as usize
}

const fn bit(index: u32) -> u64 {
    1 << (index % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_last_free_address_of_a_pool_is_found_from_anywhere() {
        let size = 1 << 22;
        let mut map = FreeMap::new(size);
        for offset in (0..size).filter(|offset| *offset != 2_000_003) {
            map.take(offset);
        }
        for start in [0, 2_000_002, 2_000_003, 2_000_004, size - 1, size, u32::MAX] {
            assert_eq!(map.next_free(start), Some(2_000_003));
        }
        assert!(map.take(2_000_003));
        assert_eq!(map.next_free(0), None);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_set(
            size in 1u32..9000, steps in proptest::collection::vec((any::<bool>(), any::<u32>()), 1..600),
        ) {
            let mut map = FreeMap::new(size);
            let mut model: BTreeSet<u32> = (0..size).collect();
            for (take, raw) in steps {
                // Crowds the offsets, so that whole words fill up and empty again.
                let offset = raw % size.min(200);
                if take {
                    prop_assert_eq!(map.take(offset), model.remove(&offset));
                } else {
                    prop_assert_eq!(map.give_back(offset), model.insert(offset));
                }
                let start = raw % (size + 3);
                let wrapped = if start < size { start } else { 0 };
                let expected =
                    model.range(wrapped..).next().or_else(|| model.iter().next()).copied();
                prop_assert_eq!(map.next_free(start), expected);
                prop_assert_eq!(map.free() as usize, model.len());
            }
        }
    }
}

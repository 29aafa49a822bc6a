//! Where addresses are drawn.

use std::sync::{Mutex, PoisonError};

/// How many addresses are near each other: a power of two.
const NEAR: u32 = 1 << 12;

/// How many are drawn near each other before the next ones are drawn elsewhere.
const DRAWS: u32 = 1 << 10;

/// The part of the pools that addresses are drawn from for a while.
///
/// Addresses that are allocated one after the other lie near each other, and so do their entries in the
/// database's index of addresses: a batch writes a few pages of it however many addresses are held.
/// Drawn from all of a large pool, each would write a page of its own. Where a while is spent is random,
/// and so is the place of each address there; pools of up to 4,096 addresses see no difference.
#[derive(Debug, Default)]
pub(crate) struct Vicinity(Mutex<Place>);

#[derive(Debug, Default)]
struct Place {
    /// A number of 24 bits, as ids have it in their bytes 12 to 14.
    first: u32,
    /// How many more are drawn here.
    left: u32,
}

impl Vicinity {
    /// Moves random bytes, of which an id is to be made, near those that were drawn before.
    pub(crate) fn draw(&self, mut random: [u8; 16]) -> [u8; 16] {
        let own = u32::from_be_bytes([0, random[12], random[13], random[14]]);
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if place.left == 0 {
            *place = Place { first: own - own % NEAR, left: DRAWS };
        }
        place.left -= 1;
        let [_, bytes @ ..] = (place.first + own % NEAR).to_be_bytes();
        random[12..15].copy_from_slice(&bytes);
        random
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn number(bytes: [u8; 16]) -> u32 {
        u32::from_be_bytes([0, bytes[12], bytes[13], bytes[14]])
    }

    #[test]
    fn what_is_drawn_in_a_while_is_near_and_the_next_while_is_spent_elsewhere() {
        let vicinity = Vicinity::default();
        let places: Vec<u32> =
            (0..20 * DRAWS).map(|_| number(vicinity.draw(rand::random())) / NEAR).collect();
        let whiles: Vec<&[u32]> = places.chunks(DRAWS as usize).collect();
        for one in &whiles {
            assert!(one.iter().all(|place| *place == one[0]));
        }
        let apart: BTreeSet<u32> = whiles.iter().map(|one| one[0]).collect();
        assert!(apart.len() > 10, "{apart:?}");
    }

    #[test]
    fn every_address_can_be_drawn_and_all_else_stays_random() {
        let vicinity = Vicinity::default();
        let random: [u8; 16] = rand::random();
        let drawn = vicinity.draw(random);
        assert_eq!(drawn, random, "the first of a while is where it would be");
        let other = vicinity.draw([0xff; 16]);
        assert_eq!((&other[..12], other[15]), (&[0xff; 12][..], 0xff));
        assert_eq!(number(other) % NEAR, NEAR - 1);
        let last = Vicinity::default().draw([0xff; 16]);
        assert_eq!(number(last), (1 << 24) - 1);
    }
}

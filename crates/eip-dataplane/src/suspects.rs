//! What is held back until its flows are gone: attachments that have ended, and elastic IPs that have left
//! an instance's interface.
//!
//! The transaction that ends one puts it here. The sweep deletes its flows at once, and looks once more after
//! [`crate::conntrack::SETTLED`], for those of packets that were on their way meanwhile. Then a later change of
//! the table lets it go: as many at once as do not keep a change waiting.

use std::net::Ipv4Addr;

use eip_model::{Change, DiffItem, OrdMap};

use crate::aliases::AliasChanges;
use crate::elements::{Pair, address_elements, stale_elements};
use crate::nft::Batch;
use crate::table::{STALE, WATCHED};

/// So many are let go of by one change; removing more takes longer than a move should wait.
const RELEASED_AT_ONCE: usize = 16_384;

/// Attachments and aliases that are gone, each with the number of the change that ended it, and
/// the addresses that are watched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Suspects {
    pairs: OrdMap<Pair, u64>,
    aliases: OrdMap<Ipv4Addr, u64>,
    /// Each with the number of its reasons: stale pairs that it belongs to, and being an alias or having been one.
    watched: OrdMap<Ipv4Addr, usize>,
}

impl Suspects {
    /// Returns what is suspect after a change. Of what earlier ones have left, all that is `swept` by now is
    /// let go, a part at a time.
    pub(crate) fn after(
        &self,
        number: u64,
        swept: u64,
        steps: &[Change],
        aliases: &AliasChanges,
    ) -> Self {
        let mut next = self.clone();
        next.release(swept);
        for step in steps {
            match *step {
                Change::Detach { public_ip, private_ip } => {
                    next.hold((public_ip, private_ip), number);
                }
                // Its flows are as they should be again.
                Change::Attach { public_ip, private_ip } => next.let_go((public_ip, private_ip)),
            }
        }
        next.aliases.extend(aliases.gone.keys().map(|public| (*public, number)));
        for public in aliases.new.keys() {
            if next.aliases.remove(public).is_none() {
                next.watch(*public);
            }
        }
        next
    }

    /// What a process that was here before has left in the table, until the change of that number has been swept.
    pub(crate) fn left(
        number: u64,
        pairs: impl Iterator<Item = Pair>,
        aliases: impl Iterator<Item = Ipv4Addr>,
    ) -> Self {
        let mut suspects = Self::default();
        pairs.for_each(|pair| suspects.hold(pair, number));
        for public in aliases {
            suspects.aliases.insert(public, number);
            suspects.watch(public);
        }
        suspects
    }

    /// The elastic IPs that have left an interface, each with the number of the change.
    pub(crate) fn aliases(&self) -> &OrdMap<Ipv4Addr, u64> {
        &self.aliases
    }

    fn release(&mut self, swept: u64) {
        let over = |number: &u64| *number <= swept;
        let pairs = self.pairs.iter().filter(|(_, number)| over(number)).map(|(pair, _)| *pair);
        for pair in pairs.take(RELEASED_AT_ONCE).collect::<Vec<_>>() {
            self.let_go(pair);
        }
        let aliases = self.aliases.iter().filter(|(_, number)| over(number)).map(|(one, _)| *one);
        for public in aliases.take(RELEASED_AT_ONCE).collect::<Vec<_>>() {
            self.aliases.remove(&public);
            self.unwatch(public);
        }
    }

    fn hold(&mut self, pair: Pair, number: u64) {
        if self.pairs.insert(pair, number).is_none() {
            self.watch(pair.1);
        }
    }

    fn let_go(&mut self, pair: Pair) {
        if self.pairs.remove(&pair).is_some() {
            self.unwatch(pair.1);
        }
    }

    fn watch(&mut self, address: Ipv4Addr) {
        *self.watched.entry(address).or_insert(0) += 1;
    }

    fn unwatch(&mut self, address: Ipv4Addr) {
        match self.watched.get(&address) {
            Some(1) | None => drop(self.watched.remove(&address)),
            Some(reasons) => drop(self.watched.insert(address, reasons - 1)),
        }
    }

    /// How many elements a set must have room for.
    pub(crate) fn len(&self) -> usize {
        self.pairs.len().max(self.watched.len())
    }

    /// Writes down what leads from these to the next.
    pub(crate) fn change_to(&self, next: &Self, batch: &mut Batch) {
        let (gone, new) = difference(&self.pairs, &next.pairs);
        let (unwatched, watched) = difference(&self.watched, &next.watched);
        batch.delete(STALE, stale_elements(gone.into_iter()));
        batch.delete(WATCHED, address_elements(unwatched.into_iter()));
        batch.add(STALE, stale_elements(new.into_iter()));
        batch.add(WATCHED, address_elements(watched.into_iter()));
    }
}

/// Returns the keys that are gone, and those that are new.
fn difference<K: Copy + Ord, V: PartialEq>(
    before: &OrdMap<K, V>,
    next: &OrdMap<K, V>,
) -> (Vec<K>, Vec<K>) {
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    for item in before.diff(next) {
        match item {
            DiffItem::Add(key, _) => new.push(*key),
            DiffItem::Remove(key, _) => gone.push(*key),
            DiffItem::Update { .. } => {}
        }
    }
    (gone, new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use eip_model::{AliasTarget, InstanceId};

    const E1: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
    const E2: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn detach(public_ip: Ipv4Addr, private_ip: Ipv4Addr) -> Change {
        Change::Detach { public_ip, private_ip }
    }

    fn attach(public_ip: Ipv4Addr, private_ip: Ipv4Addr) -> Change {
        Change::Attach { public_ip, private_ip }
    }

    fn after(before: &Suspects, number: u64, swept: u64, steps: &[Change]) -> Suspects {
        before.after(number, swept, steps, &AliasChanges::default())
    }

    fn seen(suspects: &Suspects) -> (Vec<Pair>, Vec<Ipv4Addr>) {
        (suspects.pairs.keys().copied().collect(), suspects.watched.keys().copied().collect())
    }

    #[test]
    fn a_pair_is_held_from_its_end_until_it_is_swept_or_comes_back() {
        let none = Suspects::default();
        let moved = after(&none, 1, 0, &[detach(E1, A), attach(E1, B)]);
        assert_eq!(seen(&moved), (vec![(E1, A)], vec![A]));
        assert_eq!(after(&moved, 2, 0, &[]), moved, "not swept yet");
        assert_eq!(after(&moved, 2, 1, &[]), none);
        assert_eq!(
            seen(&after(&moved, 2, 0, &[detach(E1, B), attach(E1, A)])),
            (vec![(E1, B)], vec![B])
        );
    }

    #[test]
    fn an_address_is_watched_as_long_as_there_is_a_reason() {
        let one = after(&Suspects::default(), 1, 0, &[detach(E1, A)]);
        let two = after(&one, 2, 0, &[detach(E2, A)]);
        assert_eq!(seen(&two), (vec![(E1, A), (E2, A)], vec![A]));
        assert_eq!(seen(&after(&two, 3, 1, &[])), (vec![(E2, A)], vec![A]));
        // Ended again before it was swept: the later end counts.
        let again = after(&two, 3, 0, &[attach(E2, A)]);
        let again = after(&again, 4, 0, &[detach(E2, A)]);
        assert_eq!(seen(&after(&again, 5, 3, &[])), (vec![(E2, A)], vec![A]));
        assert_eq!(seen(&after(&again, 5, 4, &[])), (vec![], vec![]));
    }

    #[test]
    fn an_alias_is_watched_while_it_is_there_and_until_it_is_swept() {
        let alias = || {
            let instance_id = InstanceId::new(uuid::Uuid::nil());
            (E1, AliasTarget { instance_id, private_ip: A, speakers: Default::default() })
        };
        let come = AliasChanges { new: [alias()].into(), ..AliasChanges::default() };
        let gone = AliasChanges { gone: [alias()].into(), ..AliasChanges::default() };
        let changed = AliasChanges { new: [alias()].into(), gone: [alias()].into() };
        let there = Suspects::default().after(1, 9, &[], &come);
        assert_eq!(seen(&there), (vec![], vec![E1]));
        assert_eq!(there.after(2, 9, &[], &changed), there);
        let left = there.after(3, 2, &[], &gone);
        assert_eq!(seen(&left), (vec![], vec![E1]));
        assert_eq!(left.after(4, 2, &[], &come), there);
        assert_eq!(left.after(4, 3, &[], &AliasChanges::default()), Suspects::default());
    }
}

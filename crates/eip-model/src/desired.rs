//! A host's desired set in the form in which its agent holds it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::{Serialize, Serializer};

use crate::address::Ipv4Range;
use crate::agent::{Attachment, DesiredChanges, DesiredSet};
use crate::ids::{ClusterId, Generation, InstanceId};
use crate::names::HostName;

/// A desired set that was found to be whole: each address and each instance once, all in its ranges.
///
/// Copies share what they have in common. A copy costs nothing, a change the logarithm of the set,
/// and a comparison with its successor what the two differ in. It is written as the [`DesiredSet`]
/// that it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    pub cluster_id: ClusterId,
    pub host: HostName,
    pub generation: Generation,
    pub replaces: Option<ClusterId>,
    pub ranges: Vec<Ipv4Range>,
    attachments: OrdMap<Ipv4Addr, Attachment>,
    /// The attachments the other way round.
    addresses: OrdMap<InstanceId, Ipv4Addr>,
}

impl Desired {
    /// Takes a set as a server tells it.
    ///
    /// # Errors
    /// In words, for people: what shows that this is not a whole set as a server makes it.
    pub fn new(set: DesiredSet) -> Result<Self, String> {
        let DesiredSet { cluster_id, host, generation, replaces, ranges, attachments } = set;
        let nothing = (OrdMap::new(), OrdMap::new());
        let (now, addresses) = nothing;
        let mut desired =
            Self { cluster_id, host, generation, replaces, ranges, attachments: now, addresses };
        desired.attach(attachments)?;
        Ok(desired)
    }

    /// Returns the set that the changes lead to.
    ///
    /// # Errors
    /// In words, for people, when they are for another set than this one, or do not lead to a whole one.
    pub fn with(&self, changes: &DesiredChanges) -> Result<Self, String> {
        let DesiredChanges { cluster_id, host, since, generation, .. } = changes;
        if (cluster_id, host, since) != (&self.cluster_id, &self.host, &self.generation) {
            return Err(format!("they are for generation {since} of another set"));
        }
        if generation < since {
            return Err(format!("they lead back to generation {generation}"));
        }
        let mut next = self.clone();
        next.generation = *generation;
        next.ranges.clone_from(&changes.ranges);
        // All that go before any that comes: an instance may pass from one address to another.
        let replaced = changes.attachments.iter().map(|one| &one.public_ip);
        for address in changes.removed.iter().chain(replaced) {
            if let Some(gone) = next.attachments.remove(address) {
                next.addresses.remove(&gone.instance_id);
            }
        }
        next.attach(changes.attachments.clone())?;
        if next.ranges != self.ranges {
            // Told whole, it would be refused; kept, it could not be read again.
            next.attachments.keys().try_for_each(|address| next.in_ranges(*address))?;
        }
        if generation == since && next != *self {
            return Err(format!("they change generation {since} and do not count it up"));
        }
        Ok(next)
    }

    /// Returns what leads from an earlier set of the same record to this one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> DesiredChanges {
        let mut removed = Vec::new();
        let mut attachments = Vec::new();
        for item in earlier.attachments.diff(&self.attachments) {
            match item {
                DiffItem::Add(_, new) | DiffItem::Update { new: (_, new), .. } => {
                    attachments.push(new.clone());
                }
                DiffItem::Remove(address, _) => removed.push(*address),
            }
        }
        DesiredChanges {
            cluster_id: self.cluster_id,
            host: self.host.clone(),
            since: earlier.generation,
            generation: self.generation,
            ranges: self.ranges.clone(),
            removed,
            attachments,
        }
    }

    /// By address.
    #[must_use]
    pub const fn attachments(&self) -> &OrdMap<Ipv4Addr, Attachment> {
        &self.attachments
    }

    /// Returns the elastic IP of an instance.
    #[must_use]
    pub fn address_of(&self, instance: InstanceId) -> Option<Ipv4Addr> {
        self.addresses.get(&instance).copied()
    }

    fn in_ranges(&self, address: Ipv4Addr) -> Result<(), String> {
        match self.ranges.iter().any(|range| range.contains(address)) {
            true => Ok(()),
            false => Err(format!("{address} is in none of its ranges")),
        }
    }

    fn attach(&mut self, attachments: Vec<Attachment>) -> Result<(), String> {
        let mut last = None;
        for attachment in attachments {
            let (public_ip, instance) = (attachment.public_ip, attachment.instance_id);
            if last == Some(public_ip) {
                return Err(format!("it has {public_ip} twice"));
            }
            if last > Some(public_ip) {
                return Err(format!("it is not sorted: {public_ip} comes late"));
            }
            self.in_ranges(public_ip)?;
            if self.addresses.insert(instance, public_ip).is_some() {
                return Err(format!("it has two addresses for the instance {instance}"));
            }
            self.attachments.insert(public_ip, attachment);
            last = Some(public_ip);
        }
        Ok(())
    }
}

impl Serialize for Desired {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// As [`DesiredSet`], without a copy of the attachments.
        #[derive(Serialize)]
        struct Written<'d> {
            cluster_id: ClusterId,
            host: &'d HostName,
            generation: Generation,
            #[serde(skip_serializing_if = "Option::is_none")]
            replaces: Option<ClusterId>,
            ranges: &'d [Ipv4Range],
            #[serde(serialize_with = "values")]
            attachments: &'d OrdMap<Ipv4Addr, Attachment>,
        }
        fn values<S: Serializer>(
            map: &OrdMap<Ipv4Addr, Attachment>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(map.values())
        }
        let Self { cluster_id, host, generation, replaces, ranges, attachments, .. } = self;
        let (cluster_id, generation, replaces) = (*cluster_id, *generation, *replaces);
        Written { cluster_id, host, generation, replaces, ranges, attachments }
            .serialize(serializer)
    }
}

/// Returns the addresses whose attachments differ, and of those the ones that are in one set alone.
pub(crate) fn differing(
    one: &OrdMap<Ipv4Addr, Attachment>,
    other: &OrdMap<Ipv4Addr, Attachment>,
) -> (BTreeSet<Ipv4Addr>, BTreeSet<Ipv4Addr>) {
    let (mut all, mut in_one) = (BTreeSet::new(), BTreeSet::new());
    for item in one.diff(other) {
        match item {
            DiffItem::Add(address, _) | DiffItem::Remove(address, _) => {
                in_one.insert(*address);
                all.insert(*address);
            }
            DiffItem::Update { new: (address, _), .. } => drop(all.insert(*address)),
        }
    }
    (all, in_one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ElasticIpId;
    use crate::mode::Mode;
    use uuid::Uuid;

    fn set(generation: u64, pairs: &[(u8, u128)]) -> DesiredSet {
        let attachment = |(last, instance): &(u8, u128)| Attachment {
            public_ip: Ipv4Addr::new(100, 64, 0, *last),
            elastic_ip_id: ElasticIpId::new(Uuid::from_u128(1000 + u128::from(*last))),
            instance_id: InstanceId::new(Uuid::from_u128(*instance)),
            mode: Mode::Nat,
            network: None,
        };
        DesiredSet {
            cluster_id: ClusterId::new(Uuid::from_u128(1)),
            host: "hv1".parse().unwrap(),
            generation: Generation::new(generation),
            replaces: None,
            ranges: vec!["100.64.0.0/28".parse().unwrap()],
            attachments: pairs.iter().map(attachment).collect(),
        }
    }

    fn desired(generation: u64, pairs: &[(u8, u128)]) -> Desired {
        Desired::new(set(generation, pairs)).unwrap()
    }

    #[test]
    fn a_set_that_no_server_makes_is_told_from_one_that_it_does() {
        assert!(Desired::new(set(1, &[])).is_ok());
        assert!(Desired::new(set(1, &[(1, 1), (2, 2), (15, 3)])).is_ok());
        let wrong = |pairs: &[(u8, u128)]| Desired::new(set(1, pairs)).unwrap_err();
        assert_eq!(wrong(&[(1, 1), (1, 2)]), "it has 100.64.0.1 twice");
        assert_eq!(wrong(&[(2, 1), (1, 2)]), "it is not sorted: 100.64.0.1 comes late");
        assert_eq!(wrong(&[(1, 1), (16, 2)]), "100.64.0.16 is in none of its ranges");
        assert!(wrong(&[(1, 1), (2, 1)]).starts_with("it has two addresses for the instance"));
    }

    #[test]
    fn what_has_changed_leads_from_one_set_to_the_other() {
        let all: [&[(u8, u128)]; 5] =
            [&[], &[(1, 1)], &[(1, 2), (2, 1)], &[(1, 1), (2, 2), (3, 3)], &[(3, 1)]];
        for before in all {
            for after in all {
                let (before, after) = (desired(4, before), desired(5, after));
                let changes = after.since(&before);
                assert_eq!(before.with(&changes), Ok(after.clone()), "{changes:?}");
                let length = changes.removed.len() + changes.attachments.len();
                assert!(before.attachments() != after.attachments() || length == 0);
            }
        }
    }

    #[test]
    fn changes_for_another_set_or_to_none_are_not_taken() {
        let before = desired(4, &[(1, 1), (2, 2)]);
        let changes = desired(5, &[(1, 3)]).since(&before);
        let wrong = |changes: DesiredChanges| before.with(&changes).unwrap_err();
        let since = Generation::new(3);
        assert!(wrong(DesiredChanges { since, ..changes.clone() }).contains("of another set"));
        let generation = Generation::new(3);
        assert!(wrong(DesiredChanges { generation, ..changes.clone() }).contains("lead back"));
        let generation = before.generation;
        let same = DesiredChanges { generation, ..changes.clone() };
        assert!(wrong(same).contains("do not count it up"));
        let nothing = DesiredChanges { generation, ..before.since(&before) };
        assert_eq!(before.with(&nothing), Ok(before.clone()));
        let narrower = DesiredChanges {
            ranges: vec!["100.64.0.0/31".parse().unwrap()],
            ..desired(5, &[(1, 1), (2, 2)]).since(&before)
        };
        assert_eq!(wrong(narrower), "100.64.0.2 is in none of its ranges");
        let taken = set(5, &[(3, 2)]).attachments;
        let two = DesiredChanges { attachments: taken, removed: Vec::new(), ..changes };
        assert!(wrong(two).starts_with("it has two addresses for the instance"));
    }

    #[test]
    fn it_is_written_as_the_set_that_it_was_made_of() {
        let told = set(7, &[(1, 1), (2, 2)]);
        let written = serde_json::to_value(Desired::new(told.clone()).unwrap()).unwrap();
        assert_eq!(written, serde_json::to_value(told).unwrap());
    }
}

//! What leads from what is kept to what is to be.

use std::collections::BTreeMap;

use eip_compute::Listing;
use eip_model::{
    Backend, DesiredChanges, DiffItem, Generation, InstanceId, InstanceReport, LocalNetwork,
};
use serde::{Deserialize, Serialize};

use super::ToKeep;
use super::whole::Kept;

/// A line of the log.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Change {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) desired: Option<DesiredChanges>,
    pub(super) acknowledged: Generation,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) listings: BTreeMap<Backend, ListingChanges>,
    /// Whether `acknowledged` is news.
    #[serde(skip)]
    pub(super) newly_acknowledged: bool,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ListingChanges {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) removed: Vec<InstanceId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) instances: Vec<InstanceReport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) networks: Option<Vec<LocalNetwork>>,
}

impl Change {
    /// Returns what has changed, unless that is another beginning. Costs what it is.
    pub(super) fn between(kept: &Kept, now: &ToKeep, acknowledged: Generation) -> Option<Self> {
        let known = kept.desired.as_ref()?;
        let ToKeep { desired, listings } = now;
        let one_history = (known.cluster_id, &known.host, known.replaces)
            == (desired.cluster_id, &desired.host, desired.replaces)
            && known.generation <= desired.generation
            && kept.listings.keys().all(|backend| listings.contains_key(backend));
        if !one_history {
            return None;
        }
        let changes = (known != desired).then(|| desired.since(known));
        let nothing = Listing::default();
        let listing = |(backend, now): (&Backend, &Listing)| {
            let before = kept.listings.get(backend);
            let changes = ListingChanges::between(before.unwrap_or(&nothing), now);
            let news = before.is_none() || changes != ListingChanges::default();
            news.then_some((*backend, changes))
        };
        Some(Self {
            desired: changes,
            acknowledged,
            listings: listings.iter().filter_map(listing).collect(),
            newly_acknowledged: kept.acknowledged != acknowledged,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.desired.is_none() && self.listings.is_empty() && !self.newly_acknowledged
    }
}

impl ListingChanges {
    fn between(before: &Listing, now: &Listing) -> Self {
        let mut changes = Self::default();
        for item in before.instances.diff(&now.instances) {
            match item {
                DiffItem::Add(_, report) | DiffItem::Update { new: (_, report), .. } => {
                    changes.instances.push((**report).clone());
                }
                DiffItem::Remove(id, _) => changes.removed.push(*id),
            }
        }
        changes.networks = (before.networks != now.networks).then(|| now.networks.clone());
        changes
    }
}

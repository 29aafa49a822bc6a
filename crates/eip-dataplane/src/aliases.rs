//! What a change of the elastic IPs that are on their instances' own interfaces means for the table.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use eip_model::{AliasTarget, DiffItem, OrdMap};

use crate::elements::{Element, alias_elements};
use crate::table::{ALIASES, SPEAKERS};

/// By elastic IP.
type Aliases = BTreeMap<Ipv4Addr, AliasTarget>;
type InForce = OrdMap<Ipv4Addr, AliasTarget>;

/// Those that are in force and must not be, and those that must be and are not, as they are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AliasChanges {
    pub(crate) gone: Aliases,
    pub(crate) new: Aliases,
}

impl AliasChanges {
    pub(crate) fn between(now: &InForce, desired: &InForce) -> Self {
        let mut changes = Self::default();
        for item in now.diff(desired) {
            let (gone, new) = match item {
                DiffItem::Add(public, alias) => (None, Some((public, alias))),
                DiffItem::Update { old, new } => (Some(old), Some(new)),
                DiffItem::Remove(public, alias) => (Some((public, alias)), None),
            };
            changes.gone.extend(gone.map(|(public, alias)| (*public, alias.clone())));
            changes.new.extend(new.map(|(public, alias)| (*public, alias.clone())));
        }
        changes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.new.is_empty()
    }
}

/// Returns the elements of aliases, set by set.
pub(crate) fn by_set<'a, I>(aliases: I) -> [(&'static str, Vec<Element>); 2]
where
    I: IntoIterator<Item = (&'a Ipv4Addr, &'a AliasTarget)> + Copy,
{
    let all = || aliases.into_iter().flat_map(|(public, alias)| alias_elements(*public, alias));
    [ALIASES, SPEAKERS].map(|set| {
        let of_it = all().filter(|(of, _)| *of == set);
        (set, of_it.map(|(_, element)| element).collect())
    })
}

//! What a change of the elastic IPs that are on their instances' own interfaces means for the table.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use eip_model::AliasTarget;

use crate::elements::{Element, alias_elements};
use crate::table::{ALIASES, PAIRS, SPEAKERS};

/// By elastic IP.
type Aliases = BTreeMap<Ipv4Addr, AliasTarget>;

/// Those that are in force and must not be, and those that must be and are not, as they are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AliasChanges {
    pub(crate) gone: Aliases,
    pub(crate) new: Aliases,
}

impl AliasChanges {
    pub(crate) fn between(now: Option<&Aliases>, desired: &Aliases) -> Self {
        let nothing = Aliases::new();
        let now = now.unwrap_or(&nothing);
        let but = |some: &Aliases, others: &Aliases| -> Aliases {
            let new = some.iter().filter(|(public, alias)| others.get(public) != Some(alias));
            new.map(|(public, alias)| (*public, alias.clone())).collect()
        };
        Self { gone: but(now, desired), new: but(desired, now) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.new.is_empty()
    }
}

/// Returns the elements of aliases, set by set.
pub(crate) fn by_set(aliases: &Aliases) -> [(&'static str, Vec<Element>); 3] {
    let all = || aliases.iter().flat_map(|(public, alias)| alias_elements(*public, alias));
    [ALIASES, SPEAKERS, PAIRS].map(|set| {
        let of_it = all().filter(|(of, _)| *of == set);
        (set, of_it.map(|(_, element)| element).collect())
    })
}

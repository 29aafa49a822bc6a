//! What the kernel has, as we left it, and the way from there to what is desired.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use eip_model::{AliasTarget, Change, OrdMap, changes};

use crate::aliases::{AliasChanges, by_set};
use crate::applied::Applied;
use crate::desired::DesiredState;
use crate::elements::{ATTACHMENT_SETS, shared_target};
use crate::error::ApplyError;
use crate::nft::Batch;
use crate::sets::Sets;
use crate::suspects::Suspects;

/// What the kernel has, as we left it: the shadow that changes are worked out against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InForce {
    pub(crate) sets: Sets,
    pub(crate) targets: OrdMap<Ipv4Addr, Ipv4Addr>,
    pub(crate) aliases: OrdMap<Ipv4Addr, AliasTarget>,
    /// `targets` the other way round.
    pub(crate) holders: OrdMap<Ipv4Addr, Ipv4Addr>,
    /// How many elements a map can hold: sized maps load three times as fast, and cannot grow.
    pub(crate) capacity: usize,
    /// The same of the sets of suspects and of aliases.
    pub(crate) held: usize,
}

impl InForce {
    /// Takes the small sets that are next, and the attachments, to which `steps` lead.
    pub(crate) fn into_next(self, sets: Sets, steps: &[Change], desired: &DesiredState) -> Self {
        let Self { mut holders, capacity, held, .. } = self;
        for step in steps {
            match *step {
                Change::Detach { private_ip, .. } => holders.remove(&private_ip),
                Change::Attach { public_ip, private_ip } => holders.insert(private_ip, public_ip),
            };
        }
        let (targets, aliases) = (desired.targets.clone(), desired.aliases.clone());
        Self { sets, targets, aliases, holders, capacity, held }
    }
}

/// Works out the changes, and refuses those after which two elastic IPs would share a target.
pub(crate) fn steps(
    now: Option<&InForce>,
    desired: &DesiredState,
) -> Result<Vec<Change>, ApplyError> {
    let Some(now) = now else {
        return match shared_target(&desired.targets) {
            None => Ok(changes(&OrdMap::new(), &desired.targets)),
            Some(((second, private), first)) => {
                Err(ApplyError::SharedTarget { first, second, private })
            }
        };
    };
    let steps = changes(&now.targets, &desired.targets);
    let mut holders = BTreeMap::new();
    for step in &steps {
        match *step {
            Change::Detach { private_ip, .. } => {
                holders.insert(private_ip, None);
            }
            Change::Attach { public_ip, private_ip } => {
                let standing = now.holders.get(&private_ip).copied();
                let known = holders.insert(private_ip, Some(public_ip)).unwrap_or(standing);
                if let Some(other) = known {
                    let (first, second) = (other.min(public_ip), other.max(public_ip));
                    return Err(ApplyError::SharedTarget { first, second, private: private_ip });
                }
            }
        }
    }
    Ok(steps)
}

/// The transaction from one state to the next: what goes, goes first.
pub(crate) fn element_changes(
    [now, next]: [&Sets; 2],
    [held, held_next]: [&Suspects; 2],
    steps: &[Change],
    aliases: &AliasChanges,
) -> Batch {
    let mut batch = Batch::new();
    if now != next {
        for ((set, old), (_, new)) in now.elements().into_iter().zip(next.elements()) {
            if old != new {
                batch.clear(set);
                batch.add(set, new.into_iter());
            }
        }
    }
    let detached = || {
        steps.iter().filter_map(|step| match *step {
            Change::Detach { public_ip, private_ip } => Some((public_ip, private_ip)),
            Change::Attach { .. } => None,
        })
    };
    let attached = || {
        steps.iter().filter_map(|step| match *step {
            Change::Attach { public_ip, private_ip } => Some((public_ip, private_ip)),
            Change::Detach { .. } => None,
        })
    };
    for (set, element) in ATTACHMENT_SETS {
        batch.delete(set, detached().map(element));
    }
    for (set, elements) in by_set(&aliases.gone) {
        batch.delete(set, elements.into_iter());
    }
    for (set, element) in ATTACHMENT_SETS {
        batch.add(set, attached().map(element));
    }
    for (set, elements) in by_set(&aliases.new) {
        batch.add(set, elements.into_iter());
    }
    held.change_to(held_next, &mut batch);
    batch
}

pub(crate) fn count(steps: &[Change], applied: &mut Applied) {
    for step in steps {
        match step {
            Change::Attach { .. } => applied.attached += 1,
            Change::Detach { .. } => applied.detached += 1,
        }
    }
}

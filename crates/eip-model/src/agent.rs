//! What a server and a host's agent say to each other: the desired set going down, reports going up.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::address::Ipv4Range;
use crate::ids::{ClusterId, ElasticIpId, Generation, InstanceId};
use crate::instance::{Backend, InstanceReport};
use crate::mode::Mode;
use crate::names::HostName;

/// How often an agent reports even when nothing changed, in seconds.
pub const REPORT_INTERVAL_SECONDS: i64 = 5;

/// After how many seconds without a report a host counts as silent.
pub const REPORT_SILENCE_SECONDS: i64 = 3 * REPORT_INTERVAL_SECONDS;

/// Everything that should be in force on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredSet {
    pub cluster_id: ClusterId,
    pub host: HostName,
    pub generation: Generation,
    /// Another record, whose set this one may take the place of: an operator said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<ClusterId>,
    /// Every range of every pool: what the host must keep from its own services, associated or not.
    pub ranges: Vec<Ipv4Range>,
    /// Sorted by address.
    pub attachments: Vec<Attachment>,
}

impl DesiredSet {
    /// Returns what shows that this is not a whole set as a server makes it, if anything does.
    ///
    /// # Errors
    /// In words, for people.
    pub fn check(&self) -> Result<(), String> {
        let mut last = None;
        let mut instances = BTreeSet::new();
        for attachment in &self.attachments {
            let public_ip = attachment.public_ip;
            if last == Some(public_ip) {
                return Err(format!("it has {public_ip} twice"));
            }
            if last > Some(public_ip) {
                return Err(format!("it is not sorted: {public_ip} comes late"));
            }
            if !self.ranges.iter().any(|range| range.contains(public_ip)) {
                return Err(format!("{public_ip} is in none of its ranges"));
            }
            if !instances.insert(attachment.instance_id) {
                let instance = attachment.instance_id;
                return Err(format!("it has two addresses for the instance {instance}"));
            }
            last = Some(public_ip);
        }
        Ok(())
    }
}

/// What a host needs to have the newest desired set: all of it, or what has changed since the one that
/// it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DesiredNews {
    Whole(DesiredSet),
    Changes(DesiredChanges),
}

/// What leads from one generation of a host's desired set to a later one.
///
/// Its size is that of the change: a host with many associations hears of a move by one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredChanges {
    pub cluster_id: ClusterId,
    pub host: HostName,
    /// The generation that they are for, and no other.
    pub since: Generation,
    pub generation: Generation,
    /// All ranges, as in a whole set.
    pub ranges: Vec<Ipv4Range>,
    /// What is not in the set any more. May be there again, with another instance.
    pub removed: Vec<Ipv4Addr>,
    /// What is new or different, sorted by address.
    pub attachments: Vec<Attachment>,
}

impl DesiredSet {
    /// Returns the set that the changes lead to.
    ///
    /// # Errors
    /// In words, for people, when they are for another set than this one, or are not whole themselves.
    pub fn with(&self, changes: &DesiredChanges) -> Result<Self, String> {
        let DesiredChanges { cluster_id, host, since, generation, .. } = changes;
        if (cluster_id, host, since) != (&self.cluster_id, &self.host, &self.generation) {
            return Err(format!("they are for generation {since} of another set"));
        }
        if generation < since {
            return Err(format!("they lead back to generation {generation}"));
        }
        let ranges = changes.ranges.clone();
        let part = Self { attachments: changes.attachments.clone(), ranges, ..self.clone_empty() };
        part.check()?;
        let gone: BTreeSet<Ipv4Addr> = changes.removed.iter().copied().collect();
        let new = part.attachments;
        let replaced = |one: &&Attachment| {
            new.binary_search_by_key(&one.public_ip, |other| other.public_ip).is_ok()
        };
        let stays = |one: &&Attachment| !gone.contains(&one.public_ip) && !replaced(one);
        let mut attachments: Vec<Attachment> =
            self.attachments.iter().filter(stays).cloned().collect();
        attachments.extend(new);
        // Two runs that are sorted: it costs a walk.
        attachments.sort_by_key(|one| one.public_ip);
        Ok(Self { generation: *generation, ranges: part.ranges, attachments, ..self.clone_empty() })
    }

    fn clone_empty(&self) -> Self {
        Self {
            cluster_id: self.cluster_id,
            host: self.host.clone(),
            generation: self.generation,
            replaces: self.replaces,
            ranges: Vec::new(),
            attachments: Vec::new(),
        }
    }
}

/// One association, as the host that runs the instance needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    pub public_ip: Ipv4Addr,
    pub elastic_ip_id: ElasticIpId,
    pub instance_id: InstanceId,
    #[serde(default)]
    pub mode: Mode,
    /// The one of the instance's networks that it leads to, where the caller has named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// The instances of one host, in full for every backend that could be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryReport {
    pub backends: Vec<BackendInventory>,
}

/// The instances of one backend of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendInventory {
    pub backend: Backend,
    pub listing: BackendListing,
}

/// What a backend said when it was asked for its instances.
///
/// The record keeps the instances of an unreachable backend as they were: silence is not removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum BackendListing {
    Listed { instances: Vec<InstanceReport> },
    Unreachable { reason: String },
}

/// What a host has in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedReport {
    pub cluster_id: ClusterId,
    /// The newest desired set that is wholly in force, but for `problems`.
    pub generation: Generation,
    pub data_plane: DataPlaneHealth,
    /// The attachments of that set that are not in force or not known to be, sorted by address.
    pub problems: Vec<AttachmentProblem>,
}

/// Whether a host can carry traffic at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum DataPlaneHealth {
    Ready,
    /// The host was asked to do without, or lacks the rights.
    Absent {
        reason: String,
    },
    /// The last attempt to apply the desired set failed as a whole.
    Failing {
        reason: String,
    },
}

/// One attachment that is not in force, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentProblem {
    pub public_ip: Ipv4Addr,
    pub kind: ProblemKind,
    pub reason: String,
}

/// How sure the host is that traffic does not flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Something is under way that does not take long.
    Pending,
    /// The attachment is not in force.
    Failing,
    /// The rules are in place, but the backend that could say where the instance is does not answer.
    Unknown,
}

impl ProblemKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Failing => "failing",
            Self::Unknown => "unknown",
        }
    }
}

impl std::str::FromStr for ProblemKind {
    type Err = crate::instance::UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = "pending, failing, unknown";
        [Self::Pending, Self::Failing, Self::Unknown]
            .into_iter()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| crate::instance::UnknownWord { text: text.to_owned(), known })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn set(pairs: &[(u8, u128)]) -> DesiredSet {
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
            generation: Generation::new(1),
            replaces: None,
            ranges: vec!["100.64.0.0/28".parse().unwrap()],
            attachments: pairs.iter().map(attachment).collect(),
        }
    }

    #[test]
    fn a_set_that_no_server_makes_is_told_from_one_that_it_does() {
        assert_eq!(set(&[]).check(), Ok(()));
        assert_eq!(set(&[(1, 1), (2, 2), (15, 3)]).check(), Ok(()));
        let wrong = |pairs: &[(u8, u128)]| set(pairs).check().unwrap_err();
        assert_eq!(wrong(&[(1, 1), (1, 2)]), "it has 100.64.0.1 twice");
        assert_eq!(wrong(&[(2, 1), (1, 2)]), "it is not sorted: 100.64.0.1 comes late");
        assert_eq!(wrong(&[(1, 1), (16, 2)]), "100.64.0.16 is in none of its ranges");
        assert!(wrong(&[(1, 1), (2, 1)]).starts_with("it has two addresses for the instance"));
    }
}

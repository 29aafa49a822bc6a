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

/// Some of the instances of one host: all that it has of those that `scope` is about.
///
/// A host with very many tells them in parts, and what has changed by the ids that it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryPart {
    /// Older agents tell none: what they send is taken as it comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<PartOrder>,
    pub scope: InventoryScope,
    /// Every backend, with those of its instances that are in the scope.
    pub backends: Vec<BackendInventory>,
}

/// Where a part stands among all that the agents of a host have sent. One that took so long that a newer one
/// was faster must not be taken after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartOrder {
    /// When the agent began, in microseconds since 1970; later where the host's clock has been put back.
    pub run: u64,
    /// Which of its parts it is.
    pub number: u64,
}

/// Which instances of a host something is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "of")]
pub enum InventoryScope {
    All,
    /// Those whose ids are in a range, both ends included.
    Range {
        first: InstanceId,
        last: InstanceId,
    },
    These {
        ids: Vec<InstanceId>,
    },
}

impl InventoryPart {
    /// Says what is in it that is not in its scope, if anything is.
    ///
    /// # Errors
    /// In words, for people.
    pub fn check(&self) -> Result<(), String> {
        let ids: BTreeSet<InstanceId> = match &self.scope {
            InventoryScope::These { ids } => ids.iter().copied().collect(),
            InventoryScope::All | InventoryScope::Range { .. } => BTreeSet::new(),
        };
        let is_in_scope = |id: &InstanceId| match &self.scope {
            InventoryScope::All => true,
            InventoryScope::Range { first, last } => (first..=last).contains(&id),
            InventoryScope::These { .. } => ids.contains(id),
        };
        let listed = self.backends.iter().filter_map(|one| match &one.listing {
            BackendListing::Listed { instances } => Some(instances),
            BackendListing::Unreachable { .. } => None,
        });
        match listed.flatten().find(|one| !is_in_scope(&one.id)) {
            None => Ok(()),
            Some(stray) => {
                Err(format!("the instance {} is not in the scope of the part", stray.id))
            }
        }
    }
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

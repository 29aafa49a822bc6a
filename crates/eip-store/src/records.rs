//! What goes into the record and what comes out of it.

use std::net::Ipv4Addr;

use eip_model::{
    ApiKeyInfo, AssociationView, BackendStatus, ClusterId, DataPlaneHealth, ElasticIp, ElasticIpId,
    ElasticIpRef, ElasticIpStatus, Generation, Host, HostName, InstanceId, InstanceRef, Ipv4Range,
    KeyId, Label, LettingGo, Mode, PoolName, ProjectName, REPORT_SILENCE_SECONDS, Role, Tags,
    data_plane, idle_data_plane,
};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::pages::{InstancePlace, Page};

/// Whose things a caller may see and change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    Everything,
    Project(ProjectName),
}

impl Scope {
    /// Returns the one project that may be seen, where there is one.
    #[must_use]
    pub const fn project(&self) -> Option<&ProjectName> {
        match self {
            Self::Everything => None,
            Self::Project(project) => Some(project),
        }
    }
}

/// An address to be held from now on.
#[derive(Debug, Clone)]
pub struct NewAllocation {
    /// Made so that it stands for `address` in `range`; the database checks it.
    pub id: ElasticIpId,
    pub address: Ipv4Addr,
    pub range: Ipv4Range,
    pub pool: PoolName,
    pub project: ProjectName,
    pub name: Option<Label>,
    pub tags: Tags,
    pub protected: bool,
    /// Whether the caller asked for this very address, and so may wake it from the quarantine that
    /// follows its own release.
    pub asked_for: bool,
    pub actor: String,
    pub now: Timestamp,
    /// Repeating it under the same key gives the first answer again and holds nothing more.
    pub once: Option<OnceKey>,
}

/// What makes a request one that is carried out once (draft-ietf-httpapi-idempotency-key-header).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnceKey {
    /// The API key that asks: nobody gets an answer that was meant for somebody else.
    pub owner: KeyId,
    pub key: String,
    /// SHA-256 of what was asked for.
    pub fingerprint: [u8; 32],
}

/// An address that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocated {
    pub record: ElasticIpRecord,
    /// Whether this was answered before; the elastic IP is then told as it was.
    pub repeated: bool,
}

/// Who makes a change, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    pub actor: String,
    pub at: Timestamp,
}

/// What a caller asks for besides a change itself.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// Repeating it under the same key gives the first answer again and changes nothing more.
    pub once: Option<OnceKey>,
    /// The versions of which the elastic IP must still be one.
    pub if_match: Option<Vec<Version>>,
    /// Say what it would come to, and change nothing.
    pub rehearse: bool,
}

/// An elastic IP as it was after one of its changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub id: ElasticIpId,
    pub revision: u64,
}

impl Terms {
    /// Whether there are none, as for most.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.once.is_none() && self.if_match.is_none() && !self.rehearse
    }
}

/// What a change under [`Terms`] came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled<A> {
    pub answer: A,
    /// Whether it was carried out before.
    pub repeated: bool,
    /// What was answered then, if that is known.
    pub body: Option<serde_json::Value>,
}

impl<A> Settled<A> {
    /// Something that was carried out just now.
    pub const fn first(answer: A) -> Self {
        Self { answer, repeated: false, body: None }
    }
}

#[derive(Debug, Clone)]
pub struct AssociateCommand {
    pub target: ElasticIpRef,
    pub scope: Scope,
    /// The one instance of the elastic IP's project that is called so.
    pub instance: InstanceRef,
    pub allow_reassociation: bool,
    /// How the elastic IP is to reach the instance, if the caller says so. Without, it reaches an
    /// instance that it is associated with already as it does, and another as its pool says.
    pub mode: Option<Mode>,
    pub network: NetworkWish,
    pub actor: String,
    pub now: Timestamp,
}

/// Which of the instance's networks an elastic IP is to lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NetworkWish {
    /// The one that it leads to, or the first choice of an instance that is new to it.
    #[default]
    AsItIs,
    /// The instance's first choice, whatever that comes to be.
    FirstChoice,
    Named(String),
}

#[derive(Debug, Clone)]
pub struct DisassociateCommand {
    pub target: ElasticIpRef,
    pub scope: Scope,
    pub actor: String,
    pub now: Timestamp,
}

#[derive(Debug, Clone)]
pub struct ReleaseCommand {
    pub target: ElasticIpRef,
    pub scope: Scope,
    pub actor: String,
    pub now: Timestamp,
}

#[derive(Debug, Clone)]
pub struct UpdateCommand {
    pub target: ElasticIpRef,
    pub scope: Scope,
    pub name: Option<Option<Label>>,
    pub tags: Option<Tags>,
    pub protected: Option<bool>,
    pub actor: String,
    pub now: Timestamp,
}

/// A change that a host must make true: when `host` has reported `generation`, it has.
///
/// Unless it waits for the host that had the address before ([`AssociationView::fenced_by`]): then
/// `host` gets it in a later desired set, whose generation the association has from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    pub elastic_ip: ElasticIpId,
    pub host: HostName,
    pub generation: Generation,
    /// The host that held the address before, where it is another one. Its agent must wake, too.
    pub previous_host: Option<HostName>,
    /// Whether the record changed; associating where it already is changes nothing.
    pub changed: bool,
    /// The elastic IP as recorded now, where that is known without another look.
    #[serde(skip)]
    pub record: Option<ElasticIpRecord>,
}

/// A hold that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    pub address: Ipv4Addr,
    /// The end of its quarantine. At the time of the release itself, there was none to wait for.
    pub free_at: Timestamp,
}

/// An elastic IP and its association, as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElasticIpRecord {
    pub id: ElasticIpId,
    pub address: Ipv4Addr,
    pub project: ProjectName,
    pub pool: PoolName,
    pub name: Option<Label>,
    pub tags: Tags,
    /// Whether its release is refused.
    pub protected: bool,
    pub allocated_at: Timestamp,
    pub updated_at: Timestamp,
    /// Grows with every change of the elastic IP or its association.
    pub revision: u64,
    pub association: Option<AssociationRecord>,
    /// While it is pointed at nothing: a host that has not yet reported that it let go of it.
    pub letting_go: Option<LettingGo>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssociationRecord {
    pub instance_id: InstanceId,
    pub instance_name: String,
    pub private_ip: Option<Ipv4Addr>,
    pub vpc_id: Option<String>,
    pub mode: Mode,
    pub network: Option<String>,
    pub host: HostName,
    pub view: AssociationView,
}

impl ElasticIpRecord {
    /// Returns what a caller sees at `now`.
    #[must_use]
    pub fn at(self, now: Timestamp) -> ElasticIp {
        let (status, plane) = match &self.association {
            Some(association) => (ElasticIpStatus::Associated, data_plane(&association.view, now)),
            None => {
                let plane = idle_data_plane(self.letting_go.as_ref(), self.updated_at, now);
                (ElasticIpStatus::Allocated, plane)
            }
        };
        let association = self.association;
        ElasticIp {
            id: self.id,
            public_ip: self.address,
            status,
            data_plane: plane,
            project: self.project,
            pool: self.pool,
            name: self.name,
            tags: self.tags,
            protected: self.protected,
            revision: self.revision,
            instance_id: association.as_ref().map(|one| one.instance_id),
            instance_name: association.as_ref().map(|one| one.instance_name.clone()),
            private_ip: association.as_ref().and_then(|one| one.private_ip),
            vpc_id: association.as_ref().and_then(|one| one.vpc_id.clone()),
            mode: association.as_ref().map(|one| one.mode),
            network: association.as_ref().and_then(|one| one.network.clone()),
            associated_at: association.as_ref().map(|one| one.view.associated_at),
            host: association.map(|one| one.host),
            allocated_at: self.allocated_at,
            updated_at: self.updated_at,
        }
    }
}

/// A place in lists of elastic IPs: they are in the order of their allocations, and those of one
/// moment in the order of their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPlace {
    pub allocated_at: Timestamp,
    pub address: Ipv4Addr,
}

/// Which elastic IPs to list: all fields that are given must match.
#[derive(Debug, Clone)]
pub struct ElasticIpFilter {
    pub scope: Scope,
    pub status: Option<ElasticIpStatus>,
    pub instance_id: Option<InstanceId>,
    pub public_ip: Option<Ipv4Addr>,
    pub name: Option<Label>,
    pub pool: Option<PoolName>,
    pub tag: Option<(String, String)>,
    /// Only those behind this place.
    pub after: Option<ListPlace>,
    pub limit: u32,
}

/// Which instances to list.
#[derive(Debug, Clone)]
pub struct InstanceFilter {
    pub scope: Scope,
    /// Only those that a caller could mean by this.
    pub named: Option<InstanceRef>,
    pub page: Page<InstancePlace>,
}

/// A key to be known from now on.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    pub id: KeyId,
    /// SHA-256 of the whole key as the caller presents it.
    pub digest: [u8; 32],
    pub role: Role,
    pub name: Option<Label>,
    pub expires_at: Option<Timestamp>,
    pub now: Timestamp,
}

/// A key that was made, as whoever repeats the request is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeApiKey {
    pub info: ApiKeyInfo,
    /// What the caller had noted with it.
    pub note: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRecord {
    pub id: KeyId,
    pub digest: [u8; 32],
    pub role: Role,
    pub name: Option<Label>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
}

impl ApiKeyRecord {
    /// Returns what an administrator sees.
    #[must_use]
    pub fn info(self) -> ApiKeyInfo {
        ApiKeyInfo {
            id: self.id,
            name: self.name,
            role: self.role.as_str().to_owned(),
            project: self.role.project().cloned(),
            host: self.role.host().cloned(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
            last_used_at: self.last_used_at,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounts {
    pub allocated: u64,
    pub associated: u64,
    pub quarantined: u64,
}

/// How full a pool is. Kept up by every change, so asking costs the same for any number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolLoad {
    pub held: u64,
    pub asleep: u64,
}

/// What a host's report changed in the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    /// The other hosts whose desired set changed.
    pub freed: Vec<HostName>,
    /// There is more to note than one transaction should: [`crate::Repository::mark_applied`] does.
    pub more: bool,
}

/// What a host's inventory changed in the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InventoryOutcome {
    /// Elastic IPs whose instance was removed, and their association with it.
    pub ended: Vec<Ipv4Addr>,
    /// Instances that were left out because another host holds their id.
    pub refused: Vec<InstanceId>,
}

/// What a host holds that this record never gave it: the record is behind, or it is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    pub generation: Generation,
    /// Whose set it is, where that is another record.
    pub cluster: Option<ClusterId>,
}

impl Ahead {
    /// Whether what was noted of the host says this already.
    #[must_use]
    pub fn covers(&self, found: &Self) -> bool {
        self.cluster == found.cluster && self.generation >= found.generation
    }
}

/// What came of accepting that a host is ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Acceptance {
    Accepted,
    NotAhead,
    NoSuchHost,
}

/// How far a host has come, as far as this record knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostProgress {
    pub desired: Generation,
    /// The newest generation that the host has ever reported.
    pub reported: Generation,
    /// While there is one, the host is given no desired set.
    pub ahead: Option<Ahead>,
    /// The record that this one may take the place of on the host.
    pub accepted: Option<ClusterId>,
}

/// A host as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    pub name: HostName,
    pub desired: Generation,
    pub observed: Generation,
    pub health: DataPlaneHealth,
    pub backends: Vec<BackendStatus>,
    pub last_seen_at: Timestamp,
}

impl HostRecord {
    /// Returns what a caller sees at `now`.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Host {
        let (data_plane, data_plane_reason) = match self.health {
            DataPlaneHealth::Ready => ("ready", None),
            DataPlaneHealth::Absent { reason } => ("absent", Some(reason)),
            DataPlaneHealth::Failing { reason } => ("failing", Some(reason)),
        };
        Host {
            online: now <= self.last_seen_at + REPORT_SILENCE_SECONDS.seconds(),
            name: self.name,
            data_plane: data_plane.to_owned(),
            data_plane_reason,
            backends: self.backends,
            desired_generation: self.desired,
            observed_generation: self.observed,
            last_seen_at: self.last_seen_at,
        }
    }
}

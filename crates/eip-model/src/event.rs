//! Changes of the record, as the audit log, the history of an address and live streams tell them.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{ElasticIpId, InstanceId};
use crate::instance::UnknownWord;
use crate::names::{HostName, ProjectName};

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Allocated,
    Updated,
    Associated,
    /// Associated with another instance in one transaction.
    Moved,
    /// Still associated with the instance, in another mode or on another of its networks.
    Reconfigured,
    Disassociated,
    /// The instance was removed, and its association with it.
    InstanceRemoved,
    Released,
    /// What another program had changed on a host was put right. Of no elastic IP and no project.
    DataPlaneMended,
    ProjectCreated,
    ProjectUpdated,
    ProjectDeleted,
    PoolCreated,
    PoolUpdated,
    PoolDeleted,
    ApiKeyCreated,
    ApiKeyRevoked,
    /// A host that was ahead of this record takes its desired set from now on.
    HostAccepted,
    WebhookCreated,
    WebhookUpdated,
    WebhookDeleted,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Allocated,
        Self::Updated,
        Self::Associated,
        Self::Moved,
        Self::Reconfigured,
        Self::Disassociated,
        Self::InstanceRemoved,
        Self::Released,
        Self::DataPlaneMended,
        Self::ProjectCreated,
        Self::ProjectUpdated,
        Self::ProjectDeleted,
        Self::PoolCreated,
        Self::PoolUpdated,
        Self::PoolDeleted,
        Self::ApiKeyCreated,
        Self::ApiKeyRevoked,
        Self::HostAccepted,
        Self::WebhookCreated,
        Self::WebhookUpdated,
        Self::WebhookDeleted,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allocated => "allocated",
            Self::Updated => "updated",
            Self::Associated => "associated",
            Self::Moved => "moved",
            Self::Reconfigured => "reconfigured",
            Self::Disassociated => "disassociated",
            Self::InstanceRemoved => "instance_removed",
            Self::Released => "released",
            Self::DataPlaneMended => "data_plane_mended",
            Self::ProjectCreated => "project_created",
            Self::ProjectUpdated => "project_updated",
            Self::ProjectDeleted => "project_deleted",
            Self::PoolCreated => "pool_created",
            Self::PoolUpdated => "pool_updated",
            Self::PoolDeleted => "pool_deleted",
            Self::ApiKeyCreated => "api_key_created",
            Self::ApiKeyRevoked => "api_key_revoked",
            Self::HostAccepted => "host_accepted",
            Self::WebhookCreated => "webhook_created",
            Self::WebhookUpdated => "webhook_updated",
            Self::WebhookDeleted => "webhook_deleted",
        }
    }
}

impl std::str::FromStr for EventKind {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| UnknownWord { text: text.to_owned(), known: "the kinds of event" })
    }
}

/// One change, who made it and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Opaque; a later event sorts after an earlier one.
    pub id: String,
    #[schema(value_type = String, format = "date-time")]
    pub at: Timestamp,
    pub kind: EventKind,
    /// Whose elastic IP, key, quota or webhook it is; `None` where it is nobody's.
    pub project: Option<ProjectName>,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub elastic_ip_id: Option<ElasticIpId>,
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub public_ip: Option<Ipv4Addr>,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub instance_id: Option<InstanceId>,
    pub instance_name: Option<String>,
    pub host: Option<HostName>,
    /// The key that asked for it, or `agent:HOST`.
    pub actor: String,
    /// What it is about where that is no elastic IP and no host: the name of a project or pool, the id
    /// of a key or webhook.
    #[serde(default)]
    pub subject: Option<String>,
    /// What the rest does not say, for people: what was mended, what was changed.
    #[serde(default)]
    pub detail: Option<String>,
}

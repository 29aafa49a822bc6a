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
}

impl EventKind {
    const ALL: [Self; 9] = [
        Self::Allocated,
        Self::Updated,
        Self::Associated,
        Self::Moved,
        Self::Reconfigured,
        Self::Disassociated,
        Self::InstanceRemoved,
        Self::Released,
        Self::DataPlaneMended,
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
    /// Whose elastic IP it is; `None` where it is about a host, like the next two.
    #[schema(value_type = Option<String>)]
    pub project: Option<ProjectName>,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub elastic_ip_id: Option<ElasticIpId>,
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub public_ip: Option<Ipv4Addr>,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub instance_id: Option<InstanceId>,
    pub instance_name: Option<String>,
    #[schema(value_type = Option<String>)]
    pub host: Option<HostName>,
    /// The key that asked for it, or `agent:HOST`.
    pub actor: String,
    /// What the rest does not say, for people: what was mended.
    #[serde(default)]
    pub detail: Option<String>,
}

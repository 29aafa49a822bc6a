//! Who had an address, and when.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{ElasticIpId, InstanceId};
use crate::names::{HostName, Label, PoolName, ProjectName};

/// `GET /addresses/{ip}/history`: the periods of its holders, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddressHistory {
    #[schema(value_type = String, format = "ipv4")]
    pub public_ip: Ipv4Addr,
    pub items: Vec<AllocationPeriod>,
    pub next_cursor: Option<String>,
}

/// The time for which a project held an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AllocationPeriod {
    #[schema(value_type = uuid::Uuid)]
    pub elastic_ip_id: ElasticIpId,
    pub project: ProjectName,
    pub pool: PoolName,
    pub name: Option<Label>,
    /// Who allocated it, as in its event.
    pub actor: Option<String>,
    #[schema(value_type = String, format = "date-time")]
    pub from: Timestamp,
    /// `null` while it is held.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub to: Option<Timestamp>,
    /// What it was associated with, the newest first.
    pub associations: Vec<AssociationPeriod>,
}

/// The time for which an address reached an instance, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssociationPeriod {
    #[schema(value_type = Option<uuid::Uuid>)]
    pub instance_id: Option<InstanceId>,
    pub instance_name: Option<String>,
    pub host: Option<HostName>,
    /// Who associated it, as in its event.
    pub actor: String,
    #[schema(value_type = String, format = "date-time")]
    pub from: Timestamp,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub to: Option<Timestamp>,
}

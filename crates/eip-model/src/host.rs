//! Machines with an agent, as callers see them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::Generation;
use crate::instance::Backend;
use crate::names::HostName;

/// A machine with an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    pub name: HostName,
    /// Whether the agent reported within the last 15 seconds.
    pub online: bool,
    /// `ready`, `absent` or `failing`.
    pub data_plane: String,
    pub data_plane_reason: Option<String>,
    pub backends: Vec<BackendStatus>,
    /// The newest desired set, and the newest one that the host reported in force.
    #[schema(value_type = u64)]
    pub desired_generation: Generation,
    #[schema(value_type = u64)]
    pub observed_generation: Generation,
    #[schema(value_type = String, format = "date-time")]
    pub last_seen_at: Timestamp,
}

/// Whether a compute backend of a host answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackendStatus {
    pub backend: Backend,
    pub reachable: bool,
    pub reason: Option<String>,
}

/// All hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostList {
    pub items: Vec<Host>,
    pub next_cursor: Option<String>,
}

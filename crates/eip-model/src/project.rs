//! Projects: who owns elastic IPs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::given::given;
use crate::names::ProjectName;

/// A project as administrators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    pub name: ProjectName,
    /// How many addresses it may hold; `null` for as many as there are.
    pub quota: Option<u32>,
    /// How many it holds.
    pub allocated: u64,
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
}

/// All projects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectList {
    pub items: Vec<Project>,
    pub next_cursor: Option<String>,
}

/// `POST /projects`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProjectRequest {
    pub name: ProjectName,
    /// How many addresses it may hold: by default 20, `null` for as many as there are.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, maximum = 4294967295_u32)]
    pub quota: Option<Option<u32>>,
}

/// `PATCH /projects/{name}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateProjectRequest {
    /// What it holds beyond a smaller quota, it keeps. `null` for as many as there are.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, maximum = 4294967295_u32)]
    pub quota: Option<Option<u32>>,
}

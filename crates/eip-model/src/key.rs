//! What an API key may do.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::instance::UnknownWord;
use crate::names::{HostName, Label, ProjectName};

/// The public part of an API key: what logs, events and lists name it by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the holder of a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Everything, in every project; acts in its own when it names none.
    Admin { project: ProjectName },
    /// Its project.
    Member { project: ProjectName },
    /// Its project, without changing anything.
    Reader { project: ProjectName },
    /// One host's agent: that host's desired set and reports, and nothing else.
    Agent { host: HostName },
}

impl Role {
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Admin { .. } => "admin",
            Self::Member { .. } => "member",
            Self::Reader { .. } => "reader",
            Self::Agent { .. } => "agent",
        }
    }

    /// Reads the parts as a store keeps them.
    ///
    /// # Errors
    /// [`UnknownWord`] when the word is no role, or the part that it needs is missing.
    pub fn from_parts(
        word: &str,
        project: Option<ProjectName>,
        host: Option<HostName>,
    ) -> Result<Self, UnknownWord> {
        match (word, project, host) {
            ("admin", Some(project), None) => Ok(Self::Admin { project }),
            ("member", Some(project), None) => Ok(Self::Member { project }),
            ("reader", Some(project), None) => Ok(Self::Reader { project }),
            ("agent", None, Some(host)) => Ok(Self::Agent { host }),
            _ => Err(UnknownWord {
                text: word.to_owned(),
                known: "admin, member, reader (of a project), agent (of a host)",
            }),
        }
    }

    #[must_use]
    pub const fn project(&self) -> Option<&ProjectName> {
        match self {
            Self::Admin { project } | Self::Member { project } | Self::Reader { project } => {
                Some(project)
            }
            Self::Agent { .. } => None,
        }
    }

    #[must_use]
    pub const fn host(&self) -> Option<&HostName> {
        match self {
            Self::Agent { host } => Some(host),
            Self::Admin { .. } | Self::Member { .. } | Self::Reader { .. } => None,
        }
    }
}

/// A key as administrators see it: never the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyInfo {
    #[schema(value_type = String)]
    pub id: KeyId,
    pub name: Option<Label>,
    pub role: String,
    pub project: Option<ProjectName>,
    pub host: Option<HostName>,
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub revoked_at: Option<Timestamp>,
    /// When it was last seen to be used, to within some seconds.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub last_used_at: Option<Timestamp>,
}

/// All keys, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyList {
    pub items: Vec<ApiKeyInfo>,
    pub next_cursor: Option<String>,
}

impl FromStr for KeyId {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

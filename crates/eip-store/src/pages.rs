//! Long lists are read in parts: by what comes behind the last item of the part before, so that rows that come and go
//! meanwhile move nothing.

use eip_model::{Backend, HostName, Instance, InstanceId, KeyId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A part of a list whose items have places of type `P`.
#[derive(Debug, Clone)]
pub struct Page<P> {
    /// Only what is behind this place.
    pub after: Option<P>,
    /// How many items at most.
    pub limit: u32,
}

impl<P> Page<P> {
    /// All of it.
    pub const WHOLE: Self = Self { after: None, limit: u32::MAX };
}

/// The place of an instance: lists are by host, backend and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstancePlace {
    pub host: HostName,
    pub backend: Backend,
    pub name: String,
    pub id: InstanceId,
}

impl InstancePlace {
    #[must_use]
    pub fn of(instance: &Instance) -> Self {
        let Instance { host, backend, name, id, .. } = instance;
        Self { host: host.clone(), backend: *backend, name: name.clone(), id: *id }
    }
}

/// The place of a key: the oldest comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPlace {
    pub created_at: Timestamp,
    pub id: KeyId,
}

//! Why an administrator's use case did not do what it was asked.

use eip_model::{ErrorCode, Ipv4Range};
use eip_store::{MOST_WEBHOOKS, Refusal, StoreError};
use serde_json::{Value, json};

use super::Error;

/// What stands against a change of a project, a pool or a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("there is no project {name}")]
    ProjectNotFound { name: String },
    #[error("project {name} is in use: {what}")]
    ProjectInUse { name: String, what: String },
    #[error("there is no API key {id}")]
    ApiKeyNotFound { id: String },
    #[error("API key {id} is the last one that may administer the service")]
    LastAdminKey { id: String },
    #[error("a project named {name} was deleted, and names are not used again")]
    NameRetired { name: String },
    #[error("there is no webhook {id}")]
    WebhookNotFound { id: String },
    #[error("there are {MOST_WEBHOOKS} webhooks of {of}, as many as there may be")]
    TooManyWebhooks { of: String },
    #[error("there is a {what} named {name}")]
    Exists { what: &'static str, name: String },
    #[error("of pool {pool} {held} addresses are held and {asleep} asleep")]
    PoolInUse { pool: String, held: u64, asleep: u64 },
    #[error("{range} overlaps with {other} of pool {pool}")]
    PoolOverlaps { range: Ipv4Range, other: Ipv4Range, pool: String },
    #[error("an address of pool {pool} that is to be reserved is held")]
    ReservedInUse { pool: String },
}

impl AdminError {
    pub(crate) const fn code(&self) -> ErrorCode {
        match self {
            Self::ProjectNotFound { .. } => ErrorCode::ProjectNotFound,
            Self::ProjectInUse { .. } => ErrorCode::ProjectInUse,
            Self::ApiKeyNotFound { .. } => ErrorCode::ApiKeyNotFound,
            Self::LastAdminKey { .. } => ErrorCode::LastAdminKey,
            Self::WebhookNotFound { .. } => ErrorCode::WebhookNotFound,
            Self::TooManyWebhooks { .. } => ErrorCode::QuotaExceeded,
            Self::Exists { .. } | Self::NameRetired { .. } => ErrorCode::NameInUse,
            Self::PoolInUse { .. } => ErrorCode::PoolInUse,
            Self::PoolOverlaps { .. } => ErrorCode::PoolOverlaps,
            Self::ReservedInUse { .. } => ErrorCode::AddressInUse,
        }
    }

    /// What the caller can do about it.
    pub(crate) const fn hint(&self) -> &'static str {
        match self {
            Self::ProjectNotFound { .. } => "see GET /projects",
            Self::ProjectInUse { .. } => "release what it holds and revoke its keys, then repeat",
            Self::ApiKeyNotFound { .. } => "see GET /api-keys",
            Self::LastAdminKey { .. } => "make another one first",
            Self::WebhookNotFound { .. } => "see GET /webhooks",
            Self::TooManyWebhooks { .. } => {
                "delete one first; one webhook can get every kind of event"
            }
            Self::Exists { .. } | Self::NameRetired { .. } => "choose another name",
            Self::PoolInUse { .. } => "drain it, have its addresses released, then repeat",
            Self::PoolOverlaps { .. } => "name addresses that no pool has; see GET /pools",
            Self::ReservedInUse { .. } => "have it released first",
        }
    }

    /// What the code is about, as members of the problem.
    pub(crate) fn context(&self) -> Value {
        match self {
            Self::ProjectNotFound { name } | Self::ProjectInUse { name, .. } => {
                json!({ "project": name })
            }
            Self::ApiKeyNotFound { id } | Self::LastAdminKey { id } => json!({ "api_key": id }),
            Self::WebhookNotFound { id } => json!({ "webhook": id }),
            Self::TooManyWebhooks { .. } => json!({ "quota": MOST_WEBHOOKS }),
            Self::Exists { name, .. } | Self::NameRetired { name } => json!({ "name": name }),
            Self::ReservedInUse { pool } => json!({ "pool": pool }),
            Self::PoolInUse { pool, held, asleep } => {
                json!({ "pool": pool, "allocated": held, "quarantined": asleep })
            }
            Self::PoolOverlaps { range, other, pool } => {
                json!({ "pool": pool, "range": range, "overlaps": other })
            }
        }
    }
}

/// Says why a change of `what`, which is named so, was not made.
pub(crate) fn explained(error: StoreError, what: &'static str, named: &str) -> Error {
    let StoreError::Refused(refusal) = error else { return Error::Store(error) };
    let named = named.to_owned();
    match refusal {
        Refusal::Exists => AdminError::Exists { what, name: named }.into(),
        Refusal::ProjectNotFound => AdminError::ProjectNotFound { name: named }.into(),
        Refusal::ProjectInUse { what } => AdminError::ProjectInUse { name: named, what }.into(),
        Refusal::ApiKeyNotFound => AdminError::ApiKeyNotFound { id: named }.into(),
        Refusal::LastAdminKey => AdminError::LastAdminKey { id: named }.into(),
        Refusal::NameRetired => AdminError::NameRetired { name: named }.into(),
        Refusal::Expired => {
            let hint = "give a time that is to come, or none";
            Error::invalid("expires_at has passed", hint)
        }
        Refusal::WebhookNotFound => AdminError::WebhookNotFound { id: named }.into(),
        Refusal::TooManyWebhooks => AdminError::TooManyWebhooks { of: named }.into(),
        Refusal::PoolNotFound => Error::PoolNotFound { pool: named },
        Refusal::PoolInUse { held, asleep } => {
            AdminError::PoolInUse { pool: named, held, asleep }.into()
        }
        Refusal::PoolOverlaps { range, other, pool } => {
            AdminError::PoolOverlaps { range, other, pool: pool.to_string() }.into()
        }
        Refusal::AddressInUse => AdminError::ReservedInUse { pool: named }.into(),
        Refusal::IdempotencyConflict => Error::IdempotencyConflict,
        Refusal::ElasticIpNotFound
        | Refusal::InstanceNotFound
        | Refusal::InstanceAmbiguous { .. }
        | Refusal::QuotaExceeded { .. }
        | Refusal::NameInUse
        | Refusal::AlreadyAssociated { .. }
        | Refusal::NotAssociated
        | Refusal::StillAssociated { .. }
        | Refusal::InstanceHasElasticIp { .. }
        | Refusal::InstanceNotRunning { .. }
        | Refusal::InstanceHasNoNetwork { .. }
        | Refusal::ModeNotSupported { .. }
        | Refusal::InstanceNotOnNetwork { .. }
        | Refusal::Protected
        | Refusal::PreconditionFailed
        | Refusal::PoolDraining
        | Refusal::Rehearsed => Error::Store(StoreError::Refused(refusal)),
    }
}

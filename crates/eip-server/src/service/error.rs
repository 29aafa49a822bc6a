//! What the service says when it does not do what it was asked.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use eip_model::{
    Backend, ElasticIpRef, ErrorCode, HostName, InstanceState, Mode, PoolName, Unusable,
};
use eip_store::{Refusal, StoreError};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::admin_error::AdminError;

/// Why a use case ended without doing it. `detail` and `hint` are what a caller reads; sources are
/// for the log alone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{detail}")]
    Invalid { detail: String, hint: String },
    #[error("{detail}")]
    Unauthenticated { detail: &'static str },
    #[error("{detail}")]
    Forbidden { detail: String },
    #[error("there is nothing at {path}")]
    NoSuchPath { path: String },
    #[error("{path} does not take {method}")]
    MethodNotAllowed { path: String, method: String },
    #[error("there is no elastic IP {target}")]
    ElasticIpNotFound { target: String },
    #[error("there is no instance {named}")]
    InstanceNotFound { named: String },
    #[error("there is no host {named}")]
    HostNotFound { named: String },
    #[error("{reason}")]
    HostAhead { host: HostName, reason: String },
    #[error("there is no pool {pool}")]
    PoolNotFound { pool: String },
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("pool {pool} hands nothing out any more")]
    PoolDraining { pool: PoolName },
    #[error("{target} is protected, so it was not released")]
    Protected { target: String },
    #[error("{target} has changed since it was read")]
    PreconditionFailed { target: String },
    #[error("{address} is not free")]
    AddressInUse { address: Ipv4Addr },
    #[error("the project has an elastic IP named {name}")]
    NameInUse { name: String },
    #[error("{target} is associated with instance {instance_name}")]
    AlreadyAssociated { target: String, instance_name: String },
    #[error("{target} is not associated")]
    NotAssociated { target: String },
    #[error("{target} is associated with instance {instance_name}, so it was not released")]
    StillAssociated { target: String, instance_name: String },
    #[error("instance {named} has the elastic IP {public_ip}")]
    InstanceHasElasticIp { named: String, public_ip: Ipv4Addr },
    #[error("instance {named} is {state}")]
    InstanceNotRunning { named: String, state: InstanceState },
    #[error("instance {named} cannot take an elastic IP: {}", sentence(*unusable))]
    InstanceHasNoNetwork { named: String, unusable: Option<Unusable> },
    #[error("instance {named} cannot be reached in mode {mode}{}", why_not(*mode, *backend))]
    ModeNotSupported { named: String, mode: Mode, supported: Vec<Mode>, backend: Backend },
    #[error("instance {named} is not on network {network}; it is on {}", listed(known))]
    InstanceNotOnNetwork { named: String, network: String, known: Vec<String> },
    #[error("{} instances are called {named}: {}", candidates.len(), candidates.join(", "))]
    InstanceAmbiguous { named: String, candidates: Vec<String> },
    #[error("all {size} addresses of pool {pool} are held or asleep in quarantine")]
    PoolExhausted { pool: PoolName, size: u64, next: Option<Timestamp> },
    #[error("this Idempotency-Key came before with another request")]
    IdempotencyConflict,
    #[error("the project holds {quota} addresses, as many as it may")]
    QuotaExceeded { quota: u64 },
    #[error("this key may make {quota} requests a second")]
    RateLimited { quota: u32, wait: Duration },
    #[error("the service works on as many requests as it may")]
    Busy,
    #[error("the body did not arrive within {seconds} s")]
    RequestTimeout { seconds: u64 },
    #[error("a body holds at most {limit} bytes")]
    PayloadTooLarge { limit: usize },
    #[error("the record cannot be used at the moment")]
    Store(#[source] StoreError),
    #[error("the service is stopping")]
    Stopping,
    #[error("the service failed while it worked on this")]
    Internal,
}

fn why_not(mode: Mode, backend: Backend) -> String {
    match mode {
        Mode::Nat => String::new(),
        Mode::Alias => format!(": {}", backend.why_no_alias()),
    }
}

fn listed(known: &[String]) -> String {
    if known.is_empty() { "none that its host knows".to_owned() } else { known.join(", ") }
}

fn sentence(unusable: Option<Unusable>) -> &'static str {
    unusable.map_or("it has no IPv4 address", Unusable::sentence)
}

impl Error {
    pub(crate) fn invalid(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid { detail: detail.into(), hint: hint.into() }
    }

    /// Reads the id or the address of an elastic IP, or says how one is named.
    pub(crate) fn or_reference(text: &str) -> Result<ElasticIpRef, Self> {
        let hint = "name the elastic IP by its id or its address; see GET /elastic-ips";
        text.parse::<ElasticIpRef>().map_err(|error| Self::invalid(error.to_string(), hint))
    }

    pub(crate) const fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid { .. } => ErrorCode::InvalidRequest,
            Self::Unauthenticated { .. } => ErrorCode::Unauthenticated,
            Self::Forbidden { .. } => ErrorCode::Forbidden,
            Self::NoSuchPath { .. } => ErrorCode::NotFound,
            Self::MethodNotAllowed { .. } => ErrorCode::MethodNotAllowed,
            Self::ElasticIpNotFound { .. } => ErrorCode::ElasticIpNotFound,
            Self::InstanceNotFound { .. } => ErrorCode::InstanceNotFound,
            Self::HostNotFound { .. } => ErrorCode::HostNotFound,
            Self::HostAhead { .. } => ErrorCode::HostAhead,
            Self::PoolNotFound { .. } => ErrorCode::PoolNotFound,
            Self::PoolDraining { .. } => ErrorCode::PoolDraining,
            Self::Protected { .. } => ErrorCode::ElasticIpProtected,
            Self::PreconditionFailed { .. } => ErrorCode::PreconditionFailed,
            Self::AddressInUse { .. } => ErrorCode::AddressInUse,
            Self::NameInUse { .. } => ErrorCode::NameInUse,
            Self::Admin(error) => error.code(),
            Self::AlreadyAssociated { .. } => ErrorCode::AlreadyAssociated,
            Self::NotAssociated { .. } => ErrorCode::NotAssociated,
            Self::StillAssociated { .. } => ErrorCode::StillAssociated,
            Self::InstanceHasElasticIp { .. } => ErrorCode::InstanceHasElasticIp,
            Self::InstanceNotRunning { .. } => ErrorCode::InstanceNotRunning,
            Self::InstanceHasNoNetwork { .. } => ErrorCode::InstanceHasNoNetwork,
            Self::ModeNotSupported { .. } => ErrorCode::ModeNotSupported,
            Self::InstanceNotOnNetwork { .. } => ErrorCode::InstanceNotOnNetwork,
            Self::InstanceAmbiguous { .. } => ErrorCode::InstanceAmbiguous,
            Self::PoolExhausted { .. } => ErrorCode::PoolExhausted,
            Self::QuotaExceeded { .. } => ErrorCode::QuotaExceeded,
            Self::IdempotencyConflict => ErrorCode::IdempotencyConflict,
            Self::RequestTimeout { .. } => ErrorCode::RequestTimeout,
            Self::PayloadTooLarge { .. } => ErrorCode::PayloadTooLarge,
            Self::RateLimited { .. } => ErrorCode::RateLimited,
            Self::Store(StoreError::Unavailable { .. }) | Self::Stopping | Self::Busy => {
                ErrorCode::Unavailable
            }
            Self::Store(StoreError::Refused(_) | StoreError::Corrupt { .. }) | Self::Internal => {
                ErrorCode::Internal
            }
        }
    }

    /// Whether another report of the instance's host could settle it.
    pub(crate) const fn is_of_the_instance(&self) -> bool {
        matches!(
            self,
            Self::InstanceNotFound { .. }
                | Self::InstanceNotRunning { .. }
                | Self::InstanceHasNoNetwork { .. }
                | Self::InstanceNotOnNetwork { .. }
                | Self::ModeNotSupported { .. }
        )
    }

    /// What the caller can do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Invalid { hint, .. } => hint.clone(),
            Self::Unauthenticated { .. } => {
                "send a valid key in the X-API-Key header, or as Authorization: Bearer".into()
            }
            Self::Forbidden { .. } => "use a key with a role that may do this".into(),
            Self::NoSuchPath { .. } => "the API begins at /elastic-ips".into(),
            Self::MethodNotAllowed { .. } => "see the Allow header for what it takes".into(),
            Self::ElasticIpNotFound { .. } => "see GET /elastic-ips for those you hold".into(),
            Self::InstanceNotFound { .. } => {
                "see GET /instances; a container of another project is not shown".into()
            }
            Self::HostNotFound { .. } => "see GET /hosts".into(),
            Self::HostAhead { host, .. } => {
                format!("eip host accept {host} gives the host what this record has")
            }
            Self::PoolNotFound { .. } | Self::PoolDraining { .. } => "see GET /pools".into(),
            Self::Admin(error) => error.hint().into(),
            Self::Protected { .. } => "PATCH it with \"protected\": false first".into(),
            Self::PreconditionFailed { .. } => "read it again, and send its ETag then".into(),
            Self::AddressInUse { .. } => {
                "ask for another address, or for any by naming none".into()
            }
            Self::NameInUse { .. } => "choose another name, or none".into(),
            Self::AlreadyAssociated { .. } => {
                "disassociate it first, or send \"allow_reassociation\": true to move it".into()
            }
            Self::NotAssociated { .. } => "there is nothing to undo".into(),
            Self::StillAssociated { .. } => "disassociate it first".into(),
            Self::InstanceHasElasticIp { .. } => {
                "disassociate that one first, or associate another instance".into()
            }
            Self::InstanceNotRunning { .. } => "start the instance, then repeat".into(),
            Self::InstanceHasNoNetwork { .. } => {
                "connect the instance to a network of its own, then repeat".into()
            }
            Self::ModeNotSupported { .. } => {
                "use another mode; GET /instances says under modes what each instance can do".into()
            }
            Self::InstanceNotOnNetwork { .. } => {
                "name one of those, or none; GET /instances lists them under interfaces".into()
            }
            Self::InstanceAmbiguous { .. } => "name it by its id".into(),
            Self::PoolExhausted { .. } => {
                "release an address, wait for a quarantine to end, or use another pool".into()
            }
            Self::IdempotencyConflict => "use a new key for a new request".into(),
            Self::QuotaExceeded { .. } => {
                "release an address that is not needed, or have the quota raised".into()
            }
            Self::RequestTimeout { .. } => "send all of it at once".into(),
            Self::PayloadTooLarge { .. } => "send less".into(),
            Self::RateLimited { .. } => "wait for as many seconds as Retry-After says".into(),
            Self::Store(StoreError::Unavailable { .. }) | Self::Stopping | Self::Busy => {
                "repeat the request in a moment".into()
            }
            Self::Store(StoreError::Refused(_) | StoreError::Corrupt { .. }) | Self::Internal => {
                "the log of the server says more under this request id".into()
            }
        }
    }

    /// What the code is about, as members of the problem.
    pub(crate) fn context(&self) -> Map<String, Value> {
        let members = match self {
            Self::AddressInUse { address } => json!({ "address": address }),
            Self::AlreadyAssociated { target, instance_name }
            | Self::StillAssociated { target, instance_name } => {
                json!({ "elastic_ip": target, "instance_name": instance_name })
            }
            Self::NotAssociated { target } | Self::ElasticIpNotFound { target } => {
                json!({ "elastic_ip": target })
            }
            Self::InstanceHasElasticIp { named, public_ip } => {
                json!({ "instance": named, "public_ip": public_ip })
            }
            Self::InstanceNotRunning { named, state } => {
                json!({ "instance": named, "state": state })
            }
            Self::InstanceHasNoNetwork { named, .. } | Self::InstanceNotFound { named } => {
                json!({ "instance": named })
            }
            Self::ModeNotSupported { named, mode, supported, .. } => {
                json!({ "instance": named, "mode": mode, "supported": supported })
            }
            Self::InstanceNotOnNetwork { named, network, known } => {
                json!({ "instance": named, "network": network, "networks": known })
            }
            Self::InstanceAmbiguous { named, candidates } => {
                json!({ "instance": named, "candidates": candidates })
            }
            Self::PoolExhausted { pool, size, next } => {
                json!({ "pool": pool, "size": size, "next_quarantine_ends_at": next })
            }
            Self::Admin(error) => error.context(),
            Self::PoolDraining { pool } => json!({ "pool": pool }),
            Self::Protected { target } | Self::PreconditionFailed { target } => {
                json!({ "elastic_ip": target })
            }
            Self::QuotaExceeded { quota } => json!({ "quota": quota }),
            Self::HostNotFound { named } => json!({ "host": named }),
            Self::HostAhead { host, .. } => json!({ "host": host }),
            Self::PoolNotFound { pool } => json!({ "pool": pool }),
            Self::NameInUse { name } => json!({ "name": name }),
            Self::RequestTimeout { seconds } => json!({ "limit_seconds": seconds }),
            Self::PayloadTooLarge { limit } => json!({ "limit": limit }),
            Self::RateLimited { quota, .. } => json!({ "quota": quota }),
            Self::Store(StoreError::Unavailable { outcome_unknown: true, .. }) => {
                json!({ "outcome_unknown": true })
            }
            Self::Invalid { .. }
            | Self::Unauthenticated { .. }
            | Self::Forbidden { .. }
            | Self::IdempotencyConflict
            | Self::NoSuchPath { .. }
            | Self::MethodNotAllowed { .. }
            | Self::Store(_)
            | Self::Stopping
            | Self::Busy
            | Self::Internal => Value::Null,
        };
        let Value::Object(members) = members else { return Map::new() };
        members
    }

    /// After how many seconds a caller may try again, where trying again can help.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match (self, self.code().status()) {
            (Self::RateLimited { wait, .. }, _) => Some(wait.as_secs() + 1),
            (_, 503) => Some(1),
            _ => None,
        }
    }
}

/// What a refusal is about, for the sentence that the caller reads: the elastic IP or address, and
/// the instance or name.
pub(crate) struct About<'a> {
    pub(crate) target: &'a (dyn fmt::Display + Sync),
    pub(crate) named: &'a (dyn fmt::Display + Sync),
}

impl About<'_> {
    pub(crate) fn explain(&self, error: StoreError) -> Error {
        let target = || self.target.to_string();
        let named = || self.named.to_string();
        let StoreError::Refused(refusal) = error else { return Error::Store(error) };
        match refusal {
            Refusal::ElasticIpNotFound => Error::ElasticIpNotFound { target: target() },
            Refusal::InstanceNotFound => Error::InstanceNotFound { named: named() },
            Refusal::InstanceAmbiguous { candidates } => {
                Error::InstanceAmbiguous { named: named(), candidates }
            }
            Refusal::Protected => Error::Protected { target: target() },
            Refusal::PreconditionFailed => Error::PreconditionFailed { target: target() },
            // It was deleted since the caller was let in.
            Refusal::ProjectNotFound => {
                AdminError::ProjectNotFound { name: "of your key".to_owned() }.into()
            }
            Refusal::IdempotencyConflict => Error::IdempotencyConflict,
            Refusal::QuotaExceeded { quota } => Error::QuotaExceeded { quota },
            Refusal::AlreadyAssociated { instance_name } => {
                Error::AlreadyAssociated { target: target(), instance_name }
            }
            Refusal::NotAssociated => Error::NotAssociated { target: target() },
            Refusal::StillAssociated { instance_name } => {
                Error::StillAssociated { target: target(), instance_name }
            }
            Refusal::InstanceHasElasticIp { public_ip } => {
                Error::InstanceHasElasticIp { named: named(), public_ip }
            }
            Refusal::InstanceNotRunning { state } => {
                Error::InstanceNotRunning { named: named(), state }
            }
            Refusal::InstanceHasNoNetwork { unusable } => {
                Error::InstanceHasNoNetwork { named: named(), unusable }
            }
            Refusal::ModeNotSupported { mode, supported, backend } => {
                Error::ModeNotSupported { named: named(), mode, supported, backend }
            }
            Refusal::InstanceNotOnNetwork { network, known } => {
                Error::InstanceNotOnNetwork { named: named(), network, known }
            }
            Refusal::NameInUse => Error::NameInUse { name: named() },
            Refusal::AddressInUse
            | Refusal::ProjectInUse { .. }
            | Refusal::Exists
            | Refusal::PoolNotFound
            | Refusal::PoolDraining
            | Refusal::PoolInUse { .. }
            | Refusal::PoolOverlaps { .. }
            | Refusal::ApiKeyNotFound
            | Refusal::WebhookNotFound
            | Refusal::TooManyWebhooks
            | Refusal::NameRetired
            | Refusal::Expired
            | Refusal::LastAdminKey
            | Refusal::Rehearsed => Error::Store(StoreError::Refused(refusal)),
        }
    }
}

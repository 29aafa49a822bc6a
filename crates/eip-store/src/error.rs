//! Why the record did not do what it was asked.

use std::net::Ipv4Addr;
use std::sync::Arc;

use eip_model::{Backend, InstanceState, Ipv4Range, Mode, PoolName, Unusable};

/// The record was reached and said no, or it was not reached.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A rule stands against it. Nothing was changed; trying again changes nothing.
    #[error("the record refused: {0}")]
    Refused(Refusal),
    /// The database does not answer, is full or read-only, or stayed busy. Trying again may help;
    /// the change may or may not have been made when `outcome_unknown`.
    #[error("the database cannot be used to {doing}")]
    Unavailable {
        doing: &'static str,
        outcome_unknown: bool,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A row holds what no program of ours writes.
    #[error("table {table} holds something that cannot be: {what}")]
    Corrupt { table: &'static str, what: String },
}

/// A rule that stands against a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such elastic IP")]
    ElasticIpNotFound,
    #[error("no such instance")]
    InstanceNotFound,
    /// Several of its project are called so; each as `ID (BACKEND:NAME on HOST)`.
    #[error("{} instances are called so", candidates.len())]
    InstanceAmbiguous { candidates: Vec<String> },
    #[error("the idempotency key was used for something else")]
    IdempotencyConflict,
    #[error("the project holds as many addresses as it may: {quota}")]
    QuotaExceeded { quota: u64 },
    /// Held, or asleep in quarantine for somebody else.
    #[error("the address is not free")]
    AddressInUse,
    #[error("the project has an elastic IP of this name")]
    NameInUse,
    #[error("associated with instance {instance_name}")]
    AlreadyAssociated { instance_name: String },
    #[error("it is protected from release")]
    Protected,
    #[error("it has changed")]
    PreconditionFailed,
    #[error("no such project")]
    ProjectNotFound,
    #[error("the project is in use: {what}")]
    ProjectInUse { what: String },
    #[error("there is one of this name")]
    Exists,
    #[error("no such pool")]
    PoolNotFound,
    #[error("the pool hands nothing out any more")]
    PoolDraining,
    #[error("the pool is in use: {held} held, {asleep} asleep")]
    PoolInUse { held: u64, asleep: u64 },
    #[error("{range} overlaps with {other} of pool {pool}")]
    PoolOverlaps { range: Ipv4Range, other: Ipv4Range, pool: PoolName },
    #[error("no such API key")]
    ApiKeyNotFound,
    /// It had a project that was deleted.
    #[error("the name is not used again")]
    NameRetired,
    #[error("its end has passed")]
    Expired,
    #[error("no such webhook")]
    WebhookNotFound,
    #[error("there are as many webhooks as there may be")]
    TooManyWebhooks,
    #[error("no other good key is of an administrator")]
    LastAdminKey,
    /// How a rehearsal ends: nothing of it stays.
    #[error("it was a rehearsal")]
    Rehearsed,
    #[error("not associated")]
    NotAssociated,
    #[error("still associated with instance {instance_name}")]
    StillAssociated { instance_name: String },
    #[error("the instance has elastic IP {public_ip}")]
    InstanceHasElasticIp { public_ip: Ipv4Addr },
    #[error("the instance is {state}")]
    InstanceNotRunning { state: InstanceState },
    /// It runs but has no address to point at; `unusable` says why, where the host knows.
    #[error("the instance has no usable network")]
    InstanceHasNoNetwork { unusable: Option<Unusable> },
    /// It can be reached in the modes that are `supported`.
    #[error("the instance cannot be reached in mode {mode}")]
    ModeNotSupported { mode: Mode, supported: Vec<Mode>, backend: Backend },
    #[error("the instance is on {}, not on {network}", known.join(", "))]
    InstanceNotOnNetwork { network: String, known: Vec<String> },
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl StoreError {
    /// Returns the error of a batch for one of those who were in it.
    pub(crate) fn of_all(error: &Arc<Self>) -> Self {
        match &**error {
            Self::Refused(refusal) => Self::Refused(refusal.clone()),
            Self::Corrupt { table, what } => Self::Corrupt { table, what: what.clone() },
            Self::Unavailable { doing, outcome_unknown, .. } => Self::Unavailable {
                doing,
                outcome_unknown: *outcome_unknown,
                source: Box::new(OfAll(Arc::clone(error))),
            },
        }
    }

    /// Whether the same call may succeed later without anyone changing anything.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Refused(_) | Self::Corrupt { .. } => false,
        }
    }
}

/// The error of a batch, told to each who was in it: displays what it was caused by.
#[derive(Debug)]
struct OfAll(Arc<StoreError>);

impl std::fmt::Display for OfAll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match std::error::Error::source(&*self.0) {
            Some(source) => std::fmt::Display::fmt(source, f),
            None => std::fmt::Display::fmt(&self.0, f),
        }
    }
}

impl std::error::Error for OfAll {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)?.source()
    }
}

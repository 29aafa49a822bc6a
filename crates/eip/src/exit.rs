//! How the program ends: what it prints, and its exit code.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use eip_model::{ErrorCode, Problem, chain};
use serde_json::json;

use crate::args::Output;

/// Exit codes, as `eip --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Other = 1,
    Usage = 2,
    NotFound = 3,
    Auth = 4,
    Conflict = 5,
    Exhausted = 6,
    WaitedTooLong = 7,
    Unreachable = 8,
    DataPlane = 9,
}

/// Why the program did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The service said no.
    Problem(Box<Problem>),
    /// It never came to that, or went wrong behind it.
    Here { exit: Exit, code: &'static str, detail: String, hint: String },
}

impl Failure {
    pub(crate) fn here(
        exit: Exit,
        code: &'static str,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Here { exit, code, detail: detail.into(), hint: hint.into() }
    }

    pub(crate) fn usage(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::here(Exit::Usage, "usage", detail, hint)
    }

    /// Says what could not be done and the chain of why.
    pub(crate) fn other(doing: &str, error: &dyn std::error::Error) -> Self {
        Self::here(Exit::Other, "other", format!("{doing}: {}", chain(error)), "")
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Here { exit, .. } => *exit,
            Self::Problem(problem) => exit_of(problem.code),
        }
    }

    /// Prints the failure where the reader looks for it, and returns the exit code.
    pub(crate) fn report(&self, output: Output) -> ExitCode {
        // Whoever closed the pipe does not want to hear it.
        match output {
            Output::Json => writeln!(std::io::stdout().lock(), "{}", self.json()).ok(),
            Output::Table => writeln!(anstream::stderr().lock(), "{self}").ok(),
        };
        ExitCode::from(self.exit() as u8)
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Self::Problem(problem) => json!(problem),
            Self::Here { code, detail, hint, .. } => {
                json!({ "code": code, "detail": detail, "hint": hint })
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, detail, hint) = match self {
            Self::Problem(problem) => {
                (problem.code.as_str(), problem.detail.as_str(), hint_of(problem))
            }
            Self::Here { code, detail, hint, .. } => (*code, detail.as_str(), hint.as_str()),
        };
        write!(f, "\x1b[1;31merror\x1b[0m[{code}]: {detail}")?;
        if !hint.is_empty() {
            write!(f, "\n   fix: {hint}")?;
        }
        if let Self::Problem(problem) = self {
            write!(f, "\n        request {}", problem.request_id)?;
        }
        Ok(())
    }
}

/// What to type about it; the server's own hint speaks of requests.
fn hint_of(problem: &Problem) -> &str {
    match problem.code {
        ErrorCode::ElasticIpNotFound => "see eip list",
        ErrorCode::InstanceNotFound => "see eip instance list",
        ErrorCode::PoolNotFound => "see eip pool list",
        ErrorCode::HostNotFound => "see eip host list",
        ErrorCode::ProjectNotFound => "see eip project list",
        ErrorCode::ApiKeyNotFound => "see eip key list",
        ErrorCode::WebhookNotFound => "see eip webhook list",
        ErrorCode::ElasticIpProtected => "eip unprotect it first",
        ErrorCode::Unauthenticated => {
            "set EIP_API_KEY, or name the file of a key with --api-key-file"
        }
        ErrorCode::AlreadyAssociated => {
            "eip move does it in one step; or eip disassociate it first"
        }
        ErrorCode::StillAssociated => "eip disassociate it first",
        ErrorCode::InvalidRequest
        | ErrorCode::Forbidden
        | ErrorCode::NotFound
        | ErrorCode::MethodNotAllowed
        | ErrorCode::AddressInUse
        | ErrorCode::NameInUse
        | ErrorCode::NotAssociated
        | ErrorCode::InstanceHasElasticIp
        | ErrorCode::InstanceNotRunning
        | ErrorCode::InstanceHasNoNetwork
        | ErrorCode::ModeNotSupported
        | ErrorCode::InstanceNotOnNetwork
        | ErrorCode::InstanceAmbiguous
        | ErrorCode::HostAhead
        | ErrorCode::PoolDraining
        | ErrorCode::PoolInUse
        | ErrorCode::PoolOverlaps
        | ErrorCode::ProjectInUse
        | ErrorCode::LastAdminKey
        | ErrorCode::PoolExhausted
        | ErrorCode::QuotaExceeded
        | ErrorCode::IdempotencyConflict
        | ErrorCode::PreconditionFailed
        | ErrorCode::RequestTimeout
        | ErrorCode::PayloadTooLarge
        | ErrorCode::RateLimited
        | ErrorCode::Internal
        | ErrorCode::Unavailable => &problem.hint,
    }
}

const fn exit_of(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::InvalidRequest | ErrorCode::MethodNotAllowed | ErrorCode::PayloadTooLarge => {
            Exit::Usage
        }
        ErrorCode::Unauthenticated | ErrorCode::Forbidden => Exit::Auth,
        ErrorCode::NotFound
        | ErrorCode::ElasticIpNotFound
        | ErrorCode::InstanceNotFound
        | ErrorCode::HostNotFound
        | ErrorCode::ProjectNotFound
        | ErrorCode::ApiKeyNotFound
        | ErrorCode::WebhookNotFound
        | ErrorCode::PoolNotFound => Exit::NotFound,
        ErrorCode::AddressInUse
        | ErrorCode::NameInUse
        | ErrorCode::AlreadyAssociated
        | ErrorCode::NotAssociated
        | ErrorCode::StillAssociated
        | ErrorCode::InstanceHasElasticIp
        | ErrorCode::InstanceNotRunning
        | ErrorCode::InstanceHasNoNetwork
        | ErrorCode::ModeNotSupported
        | ErrorCode::InstanceNotOnNetwork
        | ErrorCode::InstanceAmbiguous
        | ErrorCode::HostAhead
        | ErrorCode::PoolDraining
        | ErrorCode::PoolInUse
        | ErrorCode::PoolOverlaps
        | ErrorCode::ProjectInUse
        | ErrorCode::LastAdminKey
        | ErrorCode::ElasticIpProtected
        | ErrorCode::IdempotencyConflict
        | ErrorCode::PreconditionFailed => Exit::Conflict,
        ErrorCode::PoolExhausted | ErrorCode::QuotaExceeded => Exit::Exhausted,
        ErrorCode::RequestTimeout | ErrorCode::RateLimited | ErrorCode::Unavailable => {
            Exit::Unreachable
        }
        ErrorCode::Internal => Exit::Other,
    }
}

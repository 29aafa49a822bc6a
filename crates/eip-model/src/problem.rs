//! Errors as callers see them: RFC 9457 problem details with a stable code.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

macro_rules! codes {
    ($($variant:ident, $code:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, in a word that never changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode {
            $($variant,)*
        }

        impl ErrorCode {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The HTTP status that goes with it (RFC 9110, section 15).
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    InvalidRequest, "invalid_request", 400, "The request is not valid";
    Unauthenticated, "unauthenticated", 401, "No valid API key";
    Forbidden, "forbidden", 403, "The key may not do this";
    NotFound, "not_found", 404, "There is nothing at this path";
    ElasticIpNotFound, "elastic_ip_not_found", 404, "No such elastic IP";
    HostNotFound, "host_not_found", 404, "No such host";
    InstanceNotFound, "instance_not_found", 404, "No such instance";
    PoolNotFound, "pool_not_found", 404, "No such pool";
    ProjectNotFound, "project_not_found", 404, "No such project";
    ApiKeyNotFound, "api_key_not_found", 404, "No such API key";
    WebhookNotFound, "webhook_not_found", 404, "No such webhook";
    MethodNotAllowed, "method_not_allowed", 405, "The path does not take this method";
    RequestTimeout, "request_timeout", 408, "The request did not arrive in time";
    AddressInUse, "address_in_use", 409, "The address is not free";
    NameInUse, "name_in_use", 409, "The name is taken";
    AlreadyAssociated, "already_associated", 409, "The elastic IP is associated with another instance";
    NotAssociated, "not_associated", 409, "The elastic IP is not associated";
    StillAssociated, "still_associated", 409, "The elastic IP is still associated";
    InstanceHasElasticIp, "instance_has_elastic_ip", 409, "The instance has an elastic IP already";
    InstanceNotRunning, "instance_not_running", 409, "The instance does not run";
    InstanceHasNoNetwork, "instance_has_no_network", 409, "The instance has no address to point at";
    ModeNotSupported, "mode_not_supported", 409, "The instance cannot be reached in this mode";
    InstanceNotOnNetwork, "instance_not_on_network", 409, "The instance is not on this network";
    InstanceAmbiguous, "instance_ambiguous", 409, "Several instances have this name";
    HostAhead, "host_ahead", 409, "The host holds what this record never gave it";
    PoolExhausted, "pool_exhausted", 409, "The pool has no free address";
    PoolDraining, "pool_draining", 409, "The pool hands nothing out any more";
    PoolInUse, "pool_in_use", 409, "The pool is in use";
    PoolOverlaps, "pool_overlaps", 409, "The addresses belong to a pool already";
    ProjectInUse, "project_in_use", 409, "The project is in use";
    LastAdminKey, "last_admin_key", 409, "No other key may administer the service";
    ElasticIpProtected, "elastic_ip_protected", 409, "The elastic IP is protected from release";
    QuotaExceeded, "quota_exceeded", 409, "The project's quota is used up";
    IdempotencyConflict, "idempotency_conflict", 409, "The idempotency key was used for something else";
    PreconditionFailed, "precondition_failed", 412, "The elastic IP has changed";
    PayloadTooLarge, "payload_too_large", 413, "The body is too large";
    RateLimited, "rate_limited", 429, "Too many requests";
    Internal, "internal", 500, "The service failed";
    Unavailable, "unavailable", 503, "The service cannot answer now";
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A problem detail (RFC 9457), sent as `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Where the code is explained.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    pub code: ErrorCode,
    /// What to do about it.
    pub hint: String,
    pub request_id: String,
    /// What the code is about: the address, the instance, the pool.
    #[serde(flatten)]
    #[schema(value_type = std::collections::BTreeMap<String, Value>)]
    pub context: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_written_in_json_as_it_is_named() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}

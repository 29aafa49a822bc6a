//! Who is let in: no more requests at once than can be worked on, and no more of a key than it may make.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;

use super::ApiState;
use super::problem::problem;
use crate::limits::{Standing, TooMany};
use crate::service::{Caller, Error};

static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Where whoever finds out the key of a request leaves what the key has left.
#[derive(Debug, Clone, Default)]
pub(crate) struct Left(Arc<OnceLock<Standing>>);

/// Works on the request, or says at once that there are too many. What fails in a way that nobody
/// thought of is answered, too.
pub(crate) async fn request(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Response {
    let _working = match request.extensions().get::<MatchedPath>() {
        Some(route) if is_always_let_in(route.as_str()) => None,
        Some(_) | None => match Arc::clone(&state.at_work).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => return Error::Busy.into_response(),
        },
    };
    let left = state.rates.as_ref().map(|_| Left::default());
    if let Some(left) = &left {
        request.extensions_mut().insert(left.clone());
    }
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| Error::Internal.into_response());
    if let Some(standing) = left.as_ref().and_then(|left| left.0.get()) {
        tell(standing, response.headers_mut());
    }
    response
}

/// Whoever looks after the service must get through when it is busy. So must agents: it may be busy
/// with requests that wait for what they report.
fn is_always_let_in(route: &str) -> bool {
    matches!(route, "/healthz" | "/readyz" | "/metrics") || route.starts_with("/agent/v1/")
}

impl ApiState {
    /// Counts a request of this caller, if there is a limit for such.
    pub(crate) fn count(&self, caller: &Caller, left: Option<&Left>) -> Result<(), Error> {
        let (Some(rates), true) = (&self.rates, caller.is_limited()) else { return Ok(()) };
        let (standing, outcome) = match rates.count(&caller.key, Instant::now()) {
            Ok(standing) => (standing, Ok(())),
            Err(TooMany { standing, wait }) => {
                (standing, Err(Error::RateLimited { quota: standing.quota, wait }))
            }
        };
        if let Some(left) = left {
            left.0.set(standing).ok();
        }
        outcome
    }
}

/// Writes the fields of draft-ietf-httpapi-ratelimit-headers-10.
fn tell(standing: &Standing, headers: &mut HeaderMap) {
    let Standing { quota, remaining, reset } = standing;
    let reset = reset.as_millis().div_ceil(1000);
    let fields = [
        (&POLICY, format!("\"key\";q={quota};w=1")),
        (&RATE_LIMIT, format!("\"key\";r={remaining};t={reset}")),
    ];
    for (name, text) in fields {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
}

/// What a connection is told that is one too many.
pub(crate) fn too_many_connections() -> String {
    unasked("503 Service Unavailable", "Retry-After: 1\r\n", &Error::Busy)
}

/// What a connection is told that speaks in the clear where TLS is spoken.
pub(crate) fn not_in_the_clear() -> String {
    let error = Error::invalid("this port speaks TLS", "write https:// in place of http://");
    unasked("400 Bad Request", "", &error)
}

/// A whole answer, made without asking anybody.
fn unasked(status: &str, fields: &str, error: &Error) -> String {
    let id = uuid::Uuid::now_v7().to_string();
    let body = serde_json::to_string(&problem(error, &id)).unwrap_or_default();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/problem+json\r\n\
         Content-Length: {}\r\n{fields}X-Request-Id: {id}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

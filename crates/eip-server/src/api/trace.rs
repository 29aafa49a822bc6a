//! Around every request: its id, its problem body, its log line and its metrics.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use eip_model::chain;
use tracing::{Level, error, event};

use super::problem::{Pending, render};
use crate::metrics::count_request;
use crate::service::Error;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, for handlers that write it into an answer themselves.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) Arc<str>);

/// Names the request, runs it, and says how it went.
pub(crate) async fn request(mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request_id(&request);
    request.extensions_mut().insert(RequestId(Arc::from(id.as_str())));
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("none", MatchedPath::as_str);

    let mut response = next.run(request).await;

    if let Some(Pending(error)) = response.extensions_mut().remove::<Pending>() {
        if error.code().status() >= 500 && !matches!(*error, Error::Stopping | Error::Busy) {
            error!(request.id = %id, route, error = %chain(&*error), "Request failed");
        }
        response = render(&error, &id, response);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(&REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    let seconds = begun.elapsed().as_secs_f64();
    event!(Level::DEBUG, request.id = %id, %method, route, status, seconds, "Answered");
    count_request(known(&method), route, status, seconds);
    response
}

/// A client may invent methods; each would be a number of its own for ever.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Takes the caller's own id when it is fit to be written into logs, else makes one.
fn request_id(request: &Request) -> String {
    let fit = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    given.filter(fit).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

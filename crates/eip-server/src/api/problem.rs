//! Errors as answers: `application/problem+json` (RFC 9457).

use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use eip_model::Problem;

use crate::service::Error;

/// Where every code is explained.
const EXPLAINED: &str = "/errors";

/// Rides on a response until the request's id is put into its body.
#[derive(Debug, Clone)]
pub(crate) struct Pending(pub(crate) Arc<Error>);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code().status());
        let mut response = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response();
        response.extensions_mut().insert(Pending(Arc::new(self)));
        response
    }
}

/// Writes the body of a problem that a handler or a layer left behind.
pub(crate) fn render(error: &Error, request_id: &str, mut response: Response) -> Response {
    let code = error.code();
    let body = serde_json::to_vec(&problem(error, request_id)).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.remove(header::CONTENT_LENGTH);
    if code == eip_model::ErrorCode::Unauthenticated {
        let scheme = HeaderValue::from_static("Bearer realm=\"eip\"");
        headers.insert(header::WWW_AUTHENTICATE, scheme);
    }
    if let Some(seconds) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    headers.insert(HeaderName::from_static("cache-control"), HeaderValue::from_static("no-store"));
    *response.body_mut() = body.into();
    response
}

/// Says what went wrong, as a part of an answer or as all of it.
pub(crate) fn problem(error: &Error, request_id: &str) -> Problem {
    let code = error.code();
    Problem {
        kind: format!("{EXPLAINED}#{code}"),
        title: code.title().to_owned(),
        status: code.status(),
        detail: error.to_string(),
        code,
        hint: error.hint(),
        request_id: request_id.to_owned(),
        context: error.context(),
    }
}

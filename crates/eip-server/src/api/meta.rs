//! What needs no key: is it alive, is it ready, how is it doing, what is it.

use axum::Json;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::openapi::{DOCUMENT, problems};
use crate::service::Error;

problems! {
    open Open: ;
}

/// The name and the version of the program.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    name: &'static str,
    #[schema(example = "0.1.0")]
    version: &'static str,
}

/// Say that the process lives
///
/// Never touches the database.
#[utoipa::path(
    get, path = "/healthz", tag = "service", operation_id = "healthz", security(()),
    responses((status = 200, description = "It lives.", body = String, content_type = "text/plain"), Open)
)]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Say whether requests can be served
///
/// They can while the record answers.
#[utoipa::path(
    get, path = "/readyz", tag = "service", operation_id = "readyz", security(()),
    responses((status = 200, description = "It is ready.", body = String, content_type = "text/plain"), Open)
)]
pub(crate) async fn readyz(State(state): State<ApiState>) -> Result<&'static str, Error> {
    state.service.repository().ping().await.map_err(Error::Store)?;
    Ok("ready\n")
}

/// Tell what was counted and measured
///
/// In the text format of Prometheus. Counters are of this process since its start; what is told of pools, hosts and
/// the record is what `GET /pools` and `GET /hosts` say, at most a second old.
#[utoipa::path(
    get, path = "/metrics", tag = "service", operation_id = "metrics", security(()),
    responses((status = 200, description = "The numbers.", body = String, content_type = "text/plain"), Open)
)]
pub(crate) async fn metrics(State(state): State<ApiState>) -> impl IntoResponse {
    let measured = state.service.measure().await.ok();
    let mut text = crate::metrics::render();
    crate::metrics::write_states(&mut text, measured.as_deref(), state.at_work());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Tell the version of the server
#[utoipa::path(
    get, path = "/version", tag = "service", operation_id = "version", security(()),
    responses((status = 200, description = "Name and version.", body = Version), Open)
)]
pub(crate) async fn version() -> Json<Version> {
    Json(Version { name: "eip", version: env!("CARGO_PKG_VERSION") })
}

/// Explain every code
///
/// The page that the `type` of a problem leads to, in Markdown.
#[utoipa::path(
    get, path = "/errors", tag = "service", operation_id = "errors", security(()),
    responses((status = 200, description = "The page.", body = String, content_type = "text/plain"), Open)
)]
pub(crate) async fn errors() -> &'static str {
    include_str!("../../../../docs/errors.md")
}

/// Describe the API
///
/// This document: OpenAPI 3.1.
#[utoipa::path(
    get, path = "/openapi.json", tag = "service", operation_id = "openapi", security(()),
    responses((status = 200, description = "The document.", body = serde_json::Value), Open)
)]
pub(crate) async fn openapi() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.as_str())
}

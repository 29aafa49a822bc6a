//! What needs no key: is it alive, is it ready, how is it doing, what is it.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::ApiState;
use crate::service::Error;

/// Says that the process lives. Never touches the database.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Says whether requests can be served: the record answers.
pub(crate) async fn readyz(State(state): State<ApiState>) -> Result<&'static str, Error> {
    state.service.repository().ping().await.map_err(Error::Store)?;
    Ok("ready\n")
}

pub(crate) async fn metrics() -> String {
    crate::metrics::render()
}

pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "name": "eip", "version": env!("CARGO_PKG_VERSION") }))
}

/// Explains every code: where the `type` of a problem leads.
pub(crate) async fn errors() -> &'static str {
    include_str!("../../../../docs/errors.md")
}

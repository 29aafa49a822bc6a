//! The HTTP API: parse, call one use case, render what it said.

mod agent;
mod body;
mod caller;
mod cursor;
mod elastic_ips;
mod events;
mod inventory;
mod keys;
mod meta;
mod problem;
mod trace;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware;
use axum::routing::{get, post, put};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::service::{Error, Service};

/// What every handler can reach.
#[derive(Clone)]
pub struct ApiState {
    service: Arc<Service>,
    stop: CancellationToken,
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiState").field("service", &self.service).finish_non_exhaustive()
    }
}

impl ApiState {
    /// `stop` ends requests that wait.
    #[must_use]
    pub fn new(service: Arc<Service>, stop: CancellationToken) -> Self {
        Self { service, stop }
    }
}

/// Returns the whole API.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/elastic-ips", get(elastic_ips::list).post(elastic_ips::allocate))
        .route(
            "/elastic-ips/{id}",
            get(elastic_ips::show).patch(elastic_ips::update).delete(elastic_ips::release),
        )
        .route("/elastic-ips/associate", post(elastic_ips::associate_many))
        .route("/elastic-ips/{id}/associate", post(elastic_ips::associate))
        .route("/elastic-ips/{id}/disassociate", post(elastic_ips::disassociate))
        .route("/elastic-ips/{id}/events", get(elastic_ips::events))
        .route("/elastic-ips/{id}/traffic", get(elastic_ips::traffic))
        .route("/events", get(events::list))
        .route("/events/stream", get(events::stream))
        .route("/instances", get(inventory::instances))
        .route("/instances/{id}", get(inventory::instance))
        .route("/hosts", get(inventory::hosts))
        .route("/hosts/{name}/accept", post(inventory::accept_host))
        .route("/pools", get(inventory::pools))
        .route("/api-keys", post(keys::create))
        .route("/agent/v1/inventory", put(agent::inventory))
        .route("/agent/v1/applied", put(agent::applied))
        .route("/agent/v1/traffic", put(agent::traffic))
        .route("/agent/v1/mends", put(agent::mends))
        .route("/agent/v1/desired", get(agent::desired))
        .route("/errors", get(meta::errors))
        .route("/healthz", get(meta::healthz))
        .route("/readyz", get(meta::readyz))
        .route("/metrics", get(meta::metrics))
        .route("/version", get(meta::version))
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(trace::request))
        .with_state(state)
}

async fn no_such_path(uri: Uri) -> Error {
    Error::NoSuchPath { path: uri.path().to_owned() }
}

async fn method_not_allowed(method: Method, uri: Uri) -> Error {
    Error::MethodNotAllowed { path: uri.path().to_owned(), method: method.to_string() }
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    axum::response::IntoResponse::into_response(Error::Internal)
}

/// Runs a change in a task of its own, so that it is finished even when the client hangs up.
async fn finish<T: Send + 'static>(
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(change).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::Internal),
    }
}

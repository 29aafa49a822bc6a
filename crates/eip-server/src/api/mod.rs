//! The HTTP API: parse, call one use case, render what it said.

mod admit;
mod agent;
mod asked;
mod body;
mod caller;
mod cursor;
mod docs;
mod elastic_ips;
mod events;
mod history;
mod inventory;
mod keys;
mod meta;
mod openapi;
mod pools;
mod problem;
mod projects;
mod trace;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware;
use axum::routing::{get, put};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::limits::{Limits, Rates};
use crate::service::{Error, Service};

pub(crate) use admit::{not_in_the_clear, too_many_connections};

/// What every handler can reach.
#[derive(Clone)]
pub struct ApiState {
    service: Arc<Service>,
    stop: CancellationToken,
    rates: Option<Arc<Rates>>,
    at_work: Arc<Semaphore>,
    body_deadline: Duration,
    in_flight: usize,
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiState").field("service", &self.service).finish_non_exhaustive()
    }
}

impl ApiState {
    /// `stop` ends requests that wait.
    #[must_use]
    pub fn new(service: Arc<Service>, limits: &Limits, stop: CancellationToken) -> Self {
        Self {
            service,
            stop,
            rates: limits.rate.map(|quota| Arc::new(Rates::new(quota))),
            at_work: Arc::new(Semaphore::new(limits.in_flight)),
            body_deadline: limits.body,
            in_flight: limits.in_flight,
        }
    }

    /// How many requests are being worked on.
    fn at_work(&self) -> usize {
        self.in_flight.saturating_sub(self.at_work.available_permits())
    }
}

/// Returns the whole API.
pub fn router(state: ApiState) -> Router {
    let (public, _) = routes().split_for_parts();
    public
        .merge(docs::parts())
        .merge(agents())
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), admit::request))
        .layer(middleware::from_fn(trace::request))
        .with_state(state)
}

/// Returns the OpenAPI document of the API, as JSON.
#[must_use]
pub fn openapi() -> &'static str {
    &openapi::DOCUMENT
}

/// What the OpenAPI document tells of.
fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .routes(routes!(elastic_ips::list, elastic_ips::allocate))
        .routes(routes!(elastic_ips::show, elastic_ips::update, elastic_ips::release))
        .routes(routes!(elastic_ips::associate_many))
        .routes(routes!(elastic_ips::associate))
        .routes(routes!(elastic_ips::disassociate))
        .routes(routes!(elastic_ips::events))
        .routes(routes!(elastic_ips::traffic))
        .routes(routes!(events::list))
        .routes(routes!(events::stream))
        .routes(routes!(inventory::instances))
        .routes(routes!(inventory::instance))
        .routes(routes!(inventory::hosts))
        .routes(routes!(inventory::accept_host))
        .routes(routes!(history::show))
        .routes(routes!(pools::list, pools::create))
        .routes(routes!(pools::show, pools::update, pools::delete))
        .routes(routes!(pools::map))
        .routes(routes!(projects::list, projects::create))
        .routes(routes!(projects::show, projects::update, projects::delete))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::show, keys::revoke))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::show, webhooks::update, webhooks::delete))
        .routes(routes!(webhooks::rotate))
        .routes(routes!(meta::errors))
        .routes(routes!(meta::healthz))
        .routes(routes!(meta::readyz))
        .routes(routes!(meta::metrics))
        .routes(routes!(meta::version))
        .routes(routes!(meta::openapi))
        .routes(routes!(docs::page))
}

/// What agents and servers say to each other: changes with their versions, and is no part of the API.
fn agents() -> Router<ApiState> {
    Router::new()
        .route("/agent/v1/inventory", put(agent::inventory))
        .route("/agent/v1/inventory/part", put(agent::inventory_part))
        .route("/agent/v1/applied", put(agent::applied))
        .route("/agent/v1/traffic", put(agent::traffic))
        .route("/agent/v1/mends", put(agent::mends))
        .route("/agent/v1/desired", get(agent::desired))
}

async fn no_such_path(uri: Uri) -> Error {
    Error::NoSuchPath { path: uri.path().to_owned() }
}

async fn method_not_allowed(method: Method, uri: Uri) -> Error {
    Error::MethodNotAllowed { path: uri.path().to_owned(), method: method.to_string() }
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

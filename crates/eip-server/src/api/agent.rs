//! `/agent/v1`: what the agents of hosts ask and tell. The key says which host speaks.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use eip_model::{
    AppliedReport, ClusterId, DesiredNews, DesiredSet, Generation, InventoryPart, InventoryReport,
    InventoryScope, MendReport, PACKED, TrafficReport,
};
use serde::Deserialize;
use tracing::error;

use super::body::{AgentJson, Params};
use super::{ApiState, finish};
use crate::service::{Caller, Error, Holds};

/// How long an agent may wait for a change, in seconds.
const LONGEST_WAIT: u64 = 60;

/// `?acknowledged=GENERATION`
///
/// What is not known is let pass: an agent may be newer than its server.
#[derive(Debug, Deserialize)]
pub(crate) struct AppliedParams {
    #[serde(default)]
    acknowledged: u64,
}

/// `?cluster=UUID&known=GENERATION&acknowledged=GENERATION&changes=true&packed=true&wait_seconds=N`, and what newer agents say.
#[derive(Debug, Deserialize)]
pub(crate) struct DesiredParams {
    cluster: Option<ClusterId>,
    known: Option<u64>,
    #[serde(default)]
    acknowledged: u64,
    #[serde(default)]
    changes: bool,
    #[serde(default)]
    packed: bool,
    #[serde(default)]
    wait_seconds: u64,
}

pub(crate) async fn inventory(
    State(state): State<ApiState>,
    caller: Caller,
    AgentJson(report): AgentJson<InventoryReport>,
) -> Result<StatusCode, Error> {
    let (scope, backends) = (InventoryScope::All, report.backends);
    let part = InventoryPart { order: None, scope, backends };
    finish(async move { state.service.take_inventory(&caller, &part).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn inventory_part(
    State(state): State<ApiState>,
    caller: Caller,
    AgentJson(part): AgentJson<InventoryPart>,
) -> Result<StatusCode, Error> {
    finish(async move { state.service.take_inventory(&caller, &part).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn applied(
    State(state): State<ApiState>,
    caller: Caller,
    Params(params): Params<AppliedParams>,
    AgentJson(report): AgentJson<AppliedReport>,
) -> Result<StatusCode, Error> {
    let acknowledged = Generation::new(params.acknowledged);
    finish(async move { state.service.take_report(&caller, &report, acknowledged).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn traffic(
    State(state): State<ApiState>,
    caller: Caller,
    AgentJson(report): AgentJson<TrafficReport>,
) -> Result<StatusCode, Error> {
    finish(async move { state.service.take_traffic(&caller, report).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn mends(
    State(state): State<ApiState>,
    caller: Caller,
    AgentJson(report): AgentJson<MendReport>,
) -> Result<StatusCode, Error> {
    finish(async move { state.service.take_mends(&caller, report).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// 200 with the desired set as soon as it is not the known one, 204 when the wait is over. An agent
/// that asks for changes is told which of the two it gets: they, or the whole set. One that takes it packed
/// gets a whole set so ([`PACKED`]).
pub(crate) async fn desired(
    State(state): State<ApiState>,
    caller: Caller,
    Params(params): Params<DesiredParams>,
) -> Result<Response, Error> {
    let wait = Duration::from_secs(params.wait_seconds.min(LONGEST_WAIT));
    let holds = Holds {
        cluster: params.cluster,
        known: params.known.map(Generation::new),
        acknowledged: Generation::new(params.acknowledged),
        changes: params.changes,
    };
    let set = state.service.await_desired(&caller, &holds, wait);
    match state.stop.run_until_cancelled(set).await {
        Some(set) => Ok(match set? {
            Some(DesiredNews::Whole(set)) if params.packed => packed(set).await?,
            Some(news) if params.changes => axum::Json(news).into_response(),
            Some(DesiredNews::Whole(set)) => axum::Json(set).into_response(),
            Some(DesiredNews::Changes(_)) | None => StatusCode::NO_CONTENT.into_response(),
        }),
        None => Err(Error::Stopping),
    }
}

async fn packed(set: DesiredSet) -> Result<Response, Error> {
    let bytes = tokio::task::spawn_blocking(move || set.pack()).await;
    let bytes = bytes.map_err(|_| Error::Internal)?.map_err(|why| {
        error!(why, "Could not pack a desired set");
        Error::Internal
    })?;
    Ok(([(CONTENT_TYPE, PACKED)], bytes).into_response())
}

//! `/instances`, `/hosts` and `/pools`: small lists, whole in one answer.

use axum::Json;
use axum::extract::State;
use eip_model::{Host, HostList, Instance, InstanceList, PoolList};

use super::body::Segment;
use super::{ApiState, finish};
use crate::service::{Caller, Error};

pub(crate) async fn instances(
    State(state): State<ApiState>,
    caller: Caller,
) -> Result<Json<InstanceList>, Error> {
    let items = state.service.instances(&caller).await?;
    Ok(Json(InstanceList { items, next_cursor: None }))
}

pub(crate) async fn instance(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
) -> Result<Json<Instance>, Error> {
    state.service.instance(&caller, &named).await.map(Json)
}

pub(crate) async fn hosts(
    State(state): State<ApiState>,
    caller: Caller,
) -> Result<Json<HostList>, Error> {
    let items = state.service.hosts(&caller).await?;
    Ok(Json(HostList { items, next_cursor: None }))
}

pub(crate) async fn accept_host(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
) -> Result<Json<Host>, Error> {
    finish(async move { state.service.accept_host(&caller, &named).await }).await.map(Json)
}

pub(crate) async fn pools(
    State(state): State<ApiState>,
    caller: Caller,
) -> Result<Json<PoolList>, Error> {
    let items = state.service.pools(&caller).await?;
    Ok(Json(PoolList { items, next_cursor: None }))
}

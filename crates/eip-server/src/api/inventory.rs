//! `/instances` and `/hosts`.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use eip_model::{Host, HostList, Instance, InstanceList};
use eip_store::InstancePlace;

use super::body::{Params, Segment};
use super::cursor::PageParams;
use super::openapi::{DryRun, OnceHeader, problems};
use super::{ApiState, finish};
use crate::service::{Asked, Caller, Done, Error};

problems! {
    looks Looking: ;
    looks OfInstance: InstanceNotFound InstanceAmbiguous;
    looks Accepting: HostNotFound IdempotencyConflict;
}

/// List instances
///
/// Of all projects for an administrator, of its own for any other key; by host, backend and name.
#[utoipa::path(
    get, path = "/instances", tag = "inventory", operation_id = "list_instances",
    params(PageParams),
    responses((status = 200, description = "A page of the instances that the key may see.", body = InstanceList), Looking)
)]
pub(crate) async fn instances(
    State(state): State<ApiState>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Json<InstanceList>, Error> {
    let (page, turn) = params.of("instances", &state)?;
    let mut items = state.service.instances(&caller, page).await?;
    let next_cursor = turn.end(&mut items, InstancePlace::of);
    Ok(Json(InstanceList { items, next_cursor }))
}

/// Show an instance
#[utoipa::path(
    get, path = "/instances/{id}", tag = "inventory", operation_id = "show_instance",
    params(("id" = String, Path, example = "web-1", description = "Its UUID, its unique name, or `docker:name`, `libvirt:name`, `sandbox:name`.")),
    responses((status = 200, description = "The instance.", body = Instance), OfInstance)
)]
pub(crate) async fn instance(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
) -> Result<Json<Instance>, Error> {
    state.service.instance(&caller, &named).await.map(Json)
}

/// List hosts
#[utoipa::path(
    get, path = "/hosts", tag = "inventory", operation_id = "list_hosts",
    params(PageParams),
    responses((status = 200, description = "A page of the hosts, by name.", body = HostList), Looking)
)]
pub(crate) async fn hosts(
    State(state): State<ApiState>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Json<HostList>, Error> {
    let (page, turn) = params.of("hosts", &state)?;
    let mut items = state.service.hosts(&caller, page).await?;
    let next_cursor = turn.end(&mut items, |host| host.name.clone());
    Ok(Json(HostList { items, next_cursor }))
}

/// Accept a host
///
/// Gives a host that holds what this record never gave it what this record has.
#[utoipa::path(
    post, path = "/hosts/{name}/accept", tag = "administration", operation_id = "accept_host",
    params(("name" = String, Path, example = "h1", description = "The name of the host."), OnceHeader, DryRun),
    responses((status = 200, description = "The host as it is then.", body = Host), Accepting)
)]
pub(crate) async fn accept_host(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
    asked: Asked,
) -> Result<Response, Error> {
    let accepted = async move { state.service.accept_host(&caller, &named, &asked).await };
    finish(accepted).await.map(Done::changed)
}

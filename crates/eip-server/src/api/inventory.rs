//! `/instances` and `/hosts`: small lists, whole in one answer.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use eip_model::{Host, HostList, Instance, InstanceList};

use super::body::Segment;
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
/// Of all projects for an administrator, of its own for any other key.
#[utoipa::path(
    get, path = "/instances", tag = "inventory", operation_id = "list_instances",
    responses((status = 200, description = "All instances that the key may see.", body = InstanceList), Looking)
)]
pub(crate) async fn instances(
    State(state): State<ApiState>,
    caller: Caller,
) -> Result<Json<InstanceList>, Error> {
    let items = state.service.instances(&caller).await?;
    Ok(Json(InstanceList { items, next_cursor: None }))
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
    responses((status = 200, description = "All hosts.", body = HostList), Looking)
)]
pub(crate) async fn hosts(
    State(state): State<ApiState>,
    caller: Caller,
) -> Result<Json<HostList>, Error> {
    let items = state.service.hosts(&caller).await?;
    Ok(Json(HostList { items, next_cursor: None }))
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

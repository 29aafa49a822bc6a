//! `/pools`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use eip_model::{CreatePoolRequest, Pool, PoolList, PoolMap, UpdatePoolRequest};

use super::body::{Params, Segment};
use super::cursor::PageParams;
use super::openapi::{DryRun, OnceHeader, problems};
use super::{ApiState, body, finish};
use crate::service::{Asked, Caller, Done, Error};

problems! {
    looks Listing: ;
    looks OfPool: PoolNotFound;
    takes Creating: NameInUse PoolOverlaps IdempotencyConflict;
    takes Changing: PoolNotFound PoolOverlaps AddressInUse;
    looks Deleting: PoolNotFound PoolInUse;
}

/// List pools
///
/// Those that the key may use.
#[utoipa::path(
    get, path = "/pools", tag = "inventory", operation_id = "list_pools",
    params(PageParams),
    responses((status = 200, description = "A page of the pools, by name, and how full they are.", body = PoolList), Listing)
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Json<PoolList>, Error> {
    let (page, turn) = params.of("pools", &state)?;
    let mut items = state.service.pools(&caller, page).await?;
    let next_cursor = turn.end(&mut items, |pool| pool.name.clone());
    Ok(Json(PoolList { items, next_cursor }))
}

/// Show a pool
#[utoipa::path(
    get, path = "/pools/{name}", tag = "inventory", operation_id = "show_pool",
    params(("name" = String, Path, example = "edge", description = "The name of the pool.")),
    responses((status = 200, description = "The pool, and how full it is.", body = Pool), OfPool)
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
) -> Result<Json<Pool>, Error> {
    state.service.pool(&caller, &named).await.map(Json)
}

/// Draw the map of a pool
///
/// How many addresses of each block are held, associated and asleep; never whose. Of a large pool, the map
/// may be one that was drawn some seconds ago: `as_of` says when.
#[utoipa::path(
    get, path = "/pools/{name}/map", tag = "inventory", operation_id = "map_pool",
    params(("name" = String, Path, example = "edge", description = "The name of the pool.")),
    responses((status = 200, description = "At most 4,096 blocks.", body = PoolMap), OfPool)
)]
pub(crate) async fn map(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
) -> Result<Response, Error> {
    let map = state.service.pool_map(&caller, &named).await?;
    Ok(Json(&*map).into_response())
}

/// Make a pool
#[utoipa::path(
    post, path = "/pools", tag = "administration", operation_id = "create_pool",
    params(OnceHeader, DryRun),
    request_body = CreatePoolRequest,
    responses(
        (status = 201, description = "The pool was made.", body = Pool),
        (status = 200, description = "The pool that would be made.", body = Pool),
        Creating
    )
)]
pub(crate) async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    asked: Asked,
    body::Json(request): body::Json<CreatePoolRequest>,
) -> Result<Response, Error> {
    let made = async move { state.service.make_pool(&caller, request, &asked).await };
    Ok(finish(made).await?.made(|pool| format!("/pools/{}", pool.name)))
}

/// Change a pool
///
/// Ranges are added and never taken away; a pool that drains hands nothing out, and what is held stays held.
#[utoipa::path(
    patch, path = "/pools/{name}", tag = "administration", operation_id = "update_pool",
    params(("name" = String, Path, example = "edge", description = "The name of the pool."), DryRun),
    request_body = UpdatePoolRequest,
    responses((status = 200, description = "The pool as it is then.", body = Pool), Changing)
)]
pub(crate) async fn update(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
    asked: Asked,
    body::Json(request): body::Json<UpdatePoolRequest>,
) -> Result<Response, Error> {
    let changed = async move { state.service.update_pool(&caller, &named, request, &asked).await };
    finish(changed).await.map(Done::changed)
}

/// Delete a pool
///
/// One of which no address is held or asleep in quarantine.
#[utoipa::path(
    delete, path = "/pools/{name}", tag = "administration", operation_id = "delete_pool",
    params(("name" = String, Path, example = "edge", description = "The name of the pool."), DryRun),
    responses((status = 204, description = "It was deleted."), Deleting)
)]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
    asked: Asked,
) -> Result<Done<()>, Error> {
    finish(async move { state.service.delete_pool(&caller, &named, &asked).await }).await
}

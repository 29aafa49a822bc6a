//! `/elastic-ips`.

use std::net::Ipv4Addr;

use axum::extract::{Extension, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use eip_model::{
    AllocateRequest, AssociateManyRequest, AssociateRequest, AssociatedMany, AssociatedOne,
    DisassociateRequest, ElasticIp, ElasticIpPage, ElasticIpStatus, InstanceId, Label, PoolName,
    Traffic, UpdateRequest,
};
use eip_store::ListPlace;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::asked::Tagged;
use super::body::{Json, LongJson, Params, Target};
use super::cursor::Turn;
use super::events::{EventList, EventParams};
use super::openapi::{DryRun, IfMatch, OfElasticIp, OnceHeader, problems};
use super::problem::problem;
use super::trace::RequestId;
use super::{ApiState, cursor, finish};
use crate::service::{Asked, Caller, Done, Error, ListQuery};

/// What stands behind the `?` of a list.
#[derive(Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParams {
    /// How many elastic IPs at most; by default 50.
    #[param(nullable = false, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before, with the same filters.
    #[param(nullable = false)]
    cursor: Option<String>,
    #[param(inline, nullable = false)]
    status: Option<ElasticIpStatus>,
    #[param(value_type = uuid::Uuid, required = false)]
    instance_id: Option<InstanceId>,
    #[param(value_type = String, required = false, format = "ipv4")]
    public_ip: Option<Ipv4Addr>,
    #[param(nullable = false)]
    name: Option<Label>,
    #[param(nullable = false)]
    pool: Option<PoolName>,
    /// `key:value`
    #[param(
        nullable = false,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*:[^\x00-\x1f\x7f-\x9f]*$",
        example = "env:prod"
    )]
    tag: Option<String>,
}

problems! {
    takes Allocating: PoolNotFound AddressInUse NameInUse PoolExhausted QuotaExceeded IdempotencyConflict
        PoolDraining ProjectNotFound;
    looks Listing: ;
    looks Showing: ElasticIpNotFound;
    takes Updating: ElasticIpNotFound NameInUse PreconditionFailed;
    looks Releasing: ElasticIpNotFound StillAssociated ElasticIpProtected PreconditionFailed;
    takes Associating: ElasticIpNotFound InstanceNotFound AlreadyAssociated InstanceHasElasticIp
        InstanceNotRunning InstanceHasNoNetwork ModeNotSupported InstanceNotOnNetwork InstanceAmbiguous
        IdempotencyConflict PreconditionFailed;
    takes AssociatingMany: IdempotencyConflict;
    takes Disassociating: ElasticIpNotFound NotAssociated IdempotencyConflict PreconditionFailed;
}

/// Allocate an elastic IP
///
/// Any free address of the pool, or the very one that is asked for.
#[utoipa::path(
    post, path = "/elastic-ips", tag = "elastic-ips", operation_id = "allocate_elastic_ip",
    params(OnceHeader, DryRun),
    request_body = AllocateRequest,
    responses(
    (status = 200, description = "What would be yours.", body = ElasticIp),
    (status = 201, description = "It is yours.", body = ElasticIp,
     headers(("Location" = String, description = "The path of the elastic IP."))), Allocating)
)]
pub(crate) async fn allocate(
    State(state): State<ApiState>,
    caller: Caller,
    asked: Asked,
    Json(request): Json<AllocateRequest>,
) -> Result<Response, Error> {
    // Not in a task of its own: the record finishes what it has begun, whoever goes away.
    let done = state.service.allocate(&caller, request, &asked).await?;
    let place = (!asked.dry_run).then(|| format!("/elastic-ips/{}", done.answer.id));
    let response = done.answer(StatusCode::CREATED, |made| Tagged(made).into_response());
    Ok((place.map(|place| [(header::LOCATION, place)]), response).into_response())
}

/// List elastic IPs
///
/// Page by page, the latest allocation first; filters are joined by and.
#[utoipa::path(
    get, path = "/elastic-ips", tag = "elastic-ips", operation_id = "list_elastic_ips",
    params(ListParams),
    responses((status = 200, description = "A page of them.", body = ElasticIpPage), Listing)
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(mut params): Params<ListParams>,
) -> Result<axum::Json<ElasticIpPage>, Error> {
    // What is left are the filters, which the cursor of a page is bound to.
    let limit = cursor::limit(params.limit.take(), "read the list page by page")?;
    let after = params.cursor.take();
    let filters = serde_json::to_string(&params).map_err(|_| Error::Internal)?;
    let turn = Turn::of(filters, limit, &state);
    let page = turn.page(after.as_deref())?;
    let query = ListQuery {
        status: params.status,
        instance_id: params.instance_id,
        public_ip: params.public_ip,
        name: params.name,
        pool: params.pool,
        tag: params.tag.as_deref().map(tag).transpose()?,
        after: page.after,
        limit: page.limit,
    };
    let mut page = state.service.list(&caller, query).await?;
    let place =
        |item: &ElasticIp| ListPlace { allocated_at: item.allocated_at, address: item.public_ip };
    page.next_cursor = turn.end(&mut page.items, place);
    Ok(axum::Json(page))
}

fn tag(text: &str) -> Result<(String, String), Error> {
    match text.split_once(':') {
        // As texts of tags are.
        Some(_) if text.chars().any(char::is_control) => {
            Err(Error::invalid("tag has control characters", "no tag has"))
        }
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Error::invalid(format!("tag \"{text}\" has no colon"), "write tag=key:value")),
    }
}

/// Show an elastic IP
#[utoipa::path(
    get, path = "/elastic-ips/{id}", tag = "elastic-ips", operation_id = "show_elastic_ip",
    params(OfElasticIp),
    responses((status = 200, description = "The elastic IP.", body = ElasticIp), Showing)
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
) -> Result<Tagged, Error> {
    state.service.show(&caller, target).await.map(Tagged)
}

/// Name or tag an elastic IP
///
/// What is given is changed, what is left out stays.
#[utoipa::path(
    patch, path = "/elastic-ips/{id}", tag = "elastic-ips", operation_id = "update_elastic_ip",
    params(OfElasticIp, IfMatch, DryRun),
    request_body = UpdateRequest,
    responses((status = 200, description = "The elastic IP as it is then.", body = ElasticIp), Updating)
)]
pub(crate) async fn update(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
    asked: Asked,
    Json(request): Json<UpdateRequest>,
) -> Result<Done<ElasticIp>, Error> {
    finish(async move { state.service.update(&caller, target, request, &asked).await }).await
}

/// Release an elastic IP
///
/// Its address sleeps in quarantine, in which only its last holder can have it back.
#[utoipa::path(
    delete, path = "/elastic-ips/{id}", tag = "elastic-ips", operation_id = "release_elastic_ip",
    params(OfElasticIp, IfMatch, DryRun),
    responses((status = 204, description = "It was released."), Releasing)
)]
pub(crate) async fn release(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
    asked: Asked,
) -> Result<Done<()>, Error> {
    finish(async move { state.service.release(&caller, target, &asked).await }).await
}

/// Associate an elastic IP with an instance
///
/// Waits until the host has applied it, or `wait_seconds` are over, and answers with what is true then.
#[utoipa::path(
    post, path = "/elastic-ips/{id}/associate", tag = "elastic-ips", operation_id = "associate_elastic_ip",
    params(OfElasticIp, OnceHeader, IfMatch, DryRun),
    request_body = AssociateRequest,
    responses((status = 200, description = "The elastic IP as it is then.", body = ElasticIp), Associating)
)]
pub(crate) async fn associate(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
    asked: Asked,
    Json(request): Json<AssociateRequest>,
) -> Result<Done<ElasticIp>, Error> {
    finish(async move { state.service.associate(&caller, target, request, &asked).await }).await
}

/// Associate many elastic IPs
///
/// Each for itself: the answer says of each what has become of it, in the order of the request.
#[utoipa::path(
    post, path = "/elastic-ips/associate", tag = "elastic-ips", operation_id = "associate_elastic_ips",
    params(OnceHeader, DryRun),
    request_body = AssociateManyRequest,
    responses((status = 200, description = "What has become of each.", body = AssociatedMany), AssociatingMany)
)]
pub(crate) async fn associate_many(
    State(state): State<ApiState>,
    caller: Caller,
    Extension(RequestId(request_id)): Extension<RequestId>,
    asked: Asked,
    LongJson(request): LongJson<AssociateManyRequest>,
) -> Result<Response, Error> {
    let many = async move { state.service.associate_many(&caller, request, &asked).await };
    let done = finish(many).await?;
    let item = |outcome| match outcome {
        Ok(elastic_ip) => AssociatedOne { elastic_ip: Some(elastic_ip), problem: None },
        Err(error) => {
            AssociatedOne { elastic_ip: None, problem: Some(problem(&error, &request_id)) }
        }
    };
    Ok(done.answer(StatusCode::OK, |all| {
        axum::Json(AssociatedMany { items: all.into_iter().map(item).collect() }).into_response()
    }))
}

/// Disassociate an elastic IP
///
/// Waits like associate.
#[utoipa::path(
    post, path = "/elastic-ips/{id}/disassociate", tag = "elastic-ips", operation_id = "disassociate_elastic_ip",
    params(OfElasticIp, OnceHeader, IfMatch, DryRun),
    request_body = DisassociateRequest,
    responses((status = 200, description = "The elastic IP as it is then.", body = ElasticIp), Disassociating)
)]
pub(crate) async fn disassociate(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
    asked: Asked,
    Json(request): Json<DisassociateRequest>,
) -> Result<Done<ElasticIp>, Error> {
    finish(async move { state.service.disassociate(&caller, target, request, &asked).await }).await
}

/// Tell what an elastic IP has carried
#[utoipa::path(
    get, path = "/elastic-ips/{id}/traffic", tag = "elastic-ips", operation_id = "elastic_ip_traffic",
    params(OfElasticIp),
    responses((status = 200, description = "Packets and bytes.", body = Traffic), Showing)
)]
pub(crate) async fn traffic(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
) -> Result<axum::Json<Traffic>, Error> {
    state.service.traffic(&caller, target).await.map(axum::Json)
}

/// List the events of an elastic IP
#[utoipa::path(
    get, path = "/elastic-ips/{id}/events", tag = "elastic-ips", operation_id = "elastic_ip_events",
    params(OfElasticIp, EventParams),
    responses((status = 200, description = "Its events, oldest first.", body = EventList), Showing)
)]
pub(crate) async fn events(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
    Params(params): Params<EventParams>,
) -> Result<axum::Json<EventList>, Error> {
    let (after, limit) = params.read()?;
    let items = state.service.events_of(&caller, target, after, limit).await?;
    let full = items.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next_cursor = items.last().filter(|_| full).map(|last| last.id.clone());
    Ok(axum::Json(EventList { items, next_cursor }))
}

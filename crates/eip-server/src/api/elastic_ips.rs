//! `/elastic-ips`.

use std::net::Ipv4Addr;

use axum::extract::{Extension, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use eip_model::{
    AllocateRequest, AssociateManyRequest, AssociateRequest, AssociatedMany, AssociatedOne,
    DisassociateRequest, ElasticIp, ElasticIpPage, ElasticIpStatus, InstanceId, Label, PoolName,
    Traffic, UpdateRequest,
};
use eip_store::ListPlace;
use serde::{Deserialize, Serialize};

use super::body::{Json, LongJson, Once, Params, REPLAYED, Target};
use super::events::EventList;
use super::problem::problem;
use super::trace::RequestId;
use super::{ApiState, cursor, finish};
use crate::service::{Caller, Error, ListQuery};

const DEFAULT_LIMIT: u32 = 50;
const MOST: u32 = 500;

/// What stands behind the `?` of a list.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ListParams {
    #[serde(skip_serializing)]
    limit: Option<u32>,
    #[serde(skip_serializing)]
    cursor: Option<String>,
    status: Option<ElasticIpStatus>,
    instance_id: Option<InstanceId>,
    public_ip: Option<Ipv4Addr>,
    name: Option<Label>,
    pool: Option<PoolName>,
    tag: Option<String>,
}

pub(crate) async fn allocate(
    State(state): State<ApiState>,
    caller: Caller,
    Once(once): Once,
    Json(request): Json<AllocateRequest>,
) -> Result<impl IntoResponse, Error> {
    // Not in a task of its own: the record finishes what it has begun, whoever goes away.
    let (made, repeated) = state.service.allocate(&caller, request, once).await?;
    let location = [(header::LOCATION, format!("/elastic-ips/{}", made.id))];
    let replayed = repeated.then_some([(REPLAYED, "true")]);
    Ok((StatusCode::CREATED, location, replayed, axum::Json(made)))
}

pub(crate) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<axum::Json<ElasticIpPage>, Error> {
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MOST).contains(&limit) {
        let detail = format!("limit is 1 to {MOST}, not {limit}");
        return Err(Error::invalid(detail, "read the list page by page"));
    }
    let filters = serde_json::to_string(&params).map_err(|_| Error::Internal)?;
    let cluster = state.service.repository().cluster_id();
    let after = params.cursor.as_deref().map(|text| cursor::open(text, &filters, cluster));
    let query = ListQuery {
        status: params.status,
        instance_id: params.instance_id,
        public_ip: params.public_ip,
        name: params.name,
        pool: params.pool,
        tag: params.tag.as_deref().map(tag).transpose()?,
        after: after.transpose()?,
        // One more than asked for tells whether there is another page.
        limit: limit + 1,
    };
    let mut page = state.service.list(&caller, query).await?;
    let limit = limit as usize;
    if page.items.len() > limit {
        page.items.truncate(limit);
        let last = page
            .items
            .last()
            .map(|item| ListPlace { allocated_at: item.allocated_at, address: item.public_ip });
        page.next_cursor = last.map(|last| cursor::seal(last, &filters, cluster));
    }
    Ok(axum::Json(page))
}

fn tag(text: &str) -> Result<(String, String), Error> {
    match text.split_once(':') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Error::invalid(format!("tag \"{text}\" has no colon"), "write tag=key:value")),
    }
}

pub(crate) async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
) -> Result<axum::Json<ElasticIp>, Error> {
    state.service.show(&caller, target).await.map(axum::Json)
}

pub(crate) async fn update(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
    Json(request): Json<UpdateRequest>,
) -> Result<axum::Json<ElasticIp>, Error> {
    finish(async move { state.service.update(&caller, target, request).await })
        .await
        .map(axum::Json)
}

pub(crate) async fn release(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
) -> Result<StatusCode, Error> {
    finish(async move { state.service.release(&caller, target).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn associate(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
    Json(request): Json<AssociateRequest>,
) -> Result<axum::Json<ElasticIp>, Error> {
    finish(async move { state.service.associate(&caller, target, request).await })
        .await
        .map(axum::Json)
}

pub(crate) async fn associate_many(
    State(state): State<ApiState>,
    caller: Caller,
    Extension(RequestId(request_id)): Extension<RequestId>,
    LongJson(request): LongJson<AssociateManyRequest>,
) -> Result<axum::Json<AssociatedMany>, Error> {
    let all = finish(async move { state.service.associate_many(&caller, request).await }).await?;
    let item = |outcome| match outcome {
        Ok(elastic_ip) => AssociatedOne { elastic_ip: Some(elastic_ip), problem: None },
        Err(error) => {
            AssociatedOne { elastic_ip: None, problem: Some(problem(&error, &request_id)) }
        }
    };
    Ok(axum::Json(AssociatedMany { items: all.into_iter().map(item).collect() }))
}

pub(crate) async fn disassociate(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
    Json(request): Json<DisassociateRequest>,
) -> Result<axum::Json<ElasticIp>, Error> {
    finish(async move { state.service.disassociate(&caller, target, request).await })
        .await
        .map(axum::Json)
}

pub(crate) async fn traffic(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
) -> Result<axum::Json<Traffic>, Error> {
    state.service.traffic(&caller, target).await.map(axum::Json)
}

pub(crate) async fn events(
    State(state): State<ApiState>,
    caller: Caller,
    Target(target): Target,
) -> Result<axum::Json<EventList>, Error> {
    let items = state.service.events_of(&caller, target).await?;
    Ok(axum::Json(EventList { items, next_cursor: None }))
}

//! `/addresses/{ip}/history`.

use axum::Json;
use axum::extract::State;
use eip_model::AddressHistory;
use jiff::Timestamp;
use serde::Deserialize;

use utoipa::IntoParams;

use super::body::{Address, Params};
use super::cursor::Turn;
use super::openapi::problems;
use super::{ApiState, cursor};
use crate::service::{Caller, Error};

problems! {
    looks Looking: ;
}

/// `?at=TIME` for who held it then; `?limit=N&cursor=CURSOR` for page by page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryParams {
    /// Only who had it then, and what it was associated with then.
    #[param(value_type = String, required = false, format = "date-time")]
    at: Option<Timestamp>,
    /// How many periods at most; by default 50.
    #[param(nullable = false, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    #[param(nullable = false)]
    cursor: Option<String>,
}

/// Show who had an address, and when
///
/// Every allocation and association, the newest first, also after the release: of all projects for an
/// administrator, of its own for any other key.
#[utoipa::path(
    get, path = "/addresses/{ip}/history", tag = "events", operation_id = "address_history",
    params(
        ("ip" = String, Path, description = "The address.", example = "100.64.12.15", format = "ipv4"),
        HistoryParams
    ),
    responses((status = 200, description = "Its holders.", body = AddressHistory), Looking)
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Address(address): Address,
    Params(params): Params<HistoryParams>,
) -> Result<Json<AddressHistory>, Error> {
    let limit = cursor::limit(params.limit, "read the history page by page")?;
    let list = format!("history of {address} at {:?}", params.at);
    let turn = Turn::of(list, limit, &state);
    let page = turn.page(params.cursor.as_deref())?;
    let found = state.service.history(&caller, address, params.at, page.after, page.limit);
    let mut items = found.await?;
    let next_cursor = turn.end(&mut items, |one| one.from);
    Ok(Json(AddressHistory { public_ip: address, items, next_cursor }))
}

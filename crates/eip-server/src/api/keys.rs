//! `/api-keys`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use eip_model::{ApiKeyInfo, ApiKeyList, CreateKeyRequest, CreatedKey};
use eip_store::KeyPlace;

use super::body::{Params, Segment};
use super::caller::presented;
use super::cursor::PageParams;
use super::openapi::{DryRun, OnceHeader, problems};
use super::{ApiState, body, finish};
use crate::service::keys::ApiKey;
use crate::service::{Asked, Caller, Done, Error};

problems! {
    takes Creating: NameInUse IdempotencyConflict;
    looks Listing: ;
    looks OfKey: ApiKeyNotFound;
    looks Revoking: ApiKeyNotFound LastAdminKey;
}

/// Make an API key
///
/// The key is in this answer and nowhere else. A project that is not known is made, with a quota of 20.
#[utoipa::path(
    post, path = "/api-keys", tag = "administration", operation_id = "create_api_key",
    params(OnceHeader, DryRun),
    request_body = CreateKeyRequest,
    responses(
        (status = 201, description = "The key was made.", body = CreatedKey),
        (status = 200, description = "The key that would be made; it is good for nothing.", body = CreatedKey),
        Creating
    )
)]
pub(crate) async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    headers: HeaderMap,
    asked: Asked,
    body::Json(request): body::Json<CreateKeyRequest>,
) -> Result<Response, Error> {
    // It is good: the caller is known by it.
    let own = ApiKey::presented(presented(&headers).unwrap_or_default());
    let made = async move { state.service.create_key(&caller, &own, request, &asked).await };
    let mut response = finish(made).await?.made(|key| format!("/api-keys/{}", key.id));
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

/// List API keys
///
/// All that there ever were, the oldest first; never a key itself.
#[utoipa::path(
    get, path = "/api-keys", tag = "administration", operation_id = "list_api_keys",
    params(PageParams),
    responses((status = 200, description = "A page of the keys.", body = ApiKeyList), Listing)
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Json<ApiKeyList>, Error> {
    let (page, turn) = params.of("keys", &state)?;
    let mut items = state.service.api_keys(&caller, page).await?;
    let place = |key: &ApiKeyInfo| KeyPlace { created_at: key.created_at, id: key.id.clone() };
    let next_cursor = turn.end(&mut items, place);
    Ok(Json(ApiKeyList { items, next_cursor }))
}

/// Show an API key
#[utoipa::path(
    get, path = "/api-keys/{id}", tag = "administration", operation_id = "show_api_key",
    params(("id" = String, Path, example = "5d41402a", description = "The id of the key.")),
    responses((status = 200, description = "The key.", body = ApiKeyInfo), OfKey)
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(id): Segment,
) -> Result<Json<ApiKeyInfo>, Error> {
    state.service.api_key(&caller, &id).await.map(Json)
}

/// Revoke an API key
///
/// It is good for nothing any more, here at once and on every other server within a second.
#[utoipa::path(
    delete, path = "/api-keys/{id}", tag = "administration", operation_id = "revoke_api_key",
    params(("id" = String, Path, example = "5d41402a", description = "The id of the key."), DryRun),
    responses((status = 204, description = "It is revoked."), Revoking)
)]
pub(crate) async fn revoke(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(id): Segment,
    asked: Asked,
) -> Result<Done<()>, Error> {
    finish(async move { state.service.revoke_key(&caller, &id, &asked).await }).await
}

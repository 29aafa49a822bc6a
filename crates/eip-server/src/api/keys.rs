//! `/api-keys`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use eip_model::{CreateKeyRequest, CreatedKey};

use super::openapi::problems;
use super::{ApiState, body, finish};
use crate::service::{Caller, Error};

problems! {
    takes Creating: ;
}

/// Make an API key
///
/// The key is in this answer and nowhere else. A project that is not known is made, with a quota of 20.
#[utoipa::path(
    post, path = "/api-keys", tag = "administration", operation_id = "create_api_key",
    request_body = CreateKeyRequest,
    responses((status = 201, description = "The key was made.", body = CreatedKey), Creating)
)]
pub(crate) async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    body::Json(request): body::Json<CreateKeyRequest>,
) -> Result<impl IntoResponse, Error> {
    let made = finish(async move { state.service.create_key(&caller, request).await }).await?;
    let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok((StatusCode::CREATED, [no_store], Json(made)))
}

//! `/api-keys`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use eip_model::CreateKeyRequest;

use super::{ApiState, body, finish};
use crate::service::{Caller, Error};

pub(crate) async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    body::Json(request): body::Json<CreateKeyRequest>,
) -> Result<impl IntoResponse, Error> {
    let made = finish(async move { state.service.create_key(&caller, request).await }).await?;
    let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok((StatusCode::CREATED, [no_store], Json(made)))
}

//! Who asks: the key in the request's headers.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::ApiState;
use super::admit::Left;
use crate::service::{Caller, Error};

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Error> {
        let caller = state.service.authenticate(presented(&parts.headers)).await?;
        state.count(&caller, parts.extensions.get::<Left>())?;
        Ok(caller)
    }
}

/// `X-API-Key: KEY` or `Authorization: Bearer KEY` (RFC 6750).
pub(crate) fn presented(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get("x-api-key") {
        return value.to_str().ok();
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

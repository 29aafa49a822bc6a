//! Bodies: JSON whatever the Content-Type says, since `curl -d` says form; nothing at all is `{}`.

use std::time::Duration;

use axum::body::HttpBody as _;
use axum::extract::{FromRequest, Path, Query, Request};
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use eip_model::ElasticIpRef;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use super::ApiState;
use crate::service::Error;

/// How much a caller may send.
const LIMIT: usize = 64 * 1024;
/// How much a caller may send about many elastic IPs.
const LONG_LIMIT: usize = 256 * 1024;
/// How much an agent may send: the inventory of a large host.
const AGENT_LIMIT: usize = 64 * 1024 * 1024;
/// A body of at most 64 KiB.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

/// A body that may name many things: at most 256 KiB.
#[derive(Debug)]
pub(crate) struct LongJson<T>(pub(crate) T);

/// A body of an agent.
#[derive(Debug)]
pub(crate) struct AgentJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<ApiState> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Error> {
        parse(&read(request, LIMIT, state.body_deadline).await?).map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<ApiState> for LongJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Error> {
        parse(&read(request, LONG_LIMIT, state.body_deadline).await?).map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<ApiState> for AgentJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Error> {
        parse(&read(request, AGENT_LIMIT, state.body_deadline).await?).map(Self)
    }
}

async fn read(request: Request, limit: usize, deadline: Duration) -> Result<Vec<u8>, Error> {
    if request.body().is_end_stream() {
        return Ok(Vec::new());
    }
    let mut arriving = request.into_body().into_data_stream();
    let whole = async {
        let mut bytes = Vec::new();
        while let Some(more) = arriving.next().await {
            let ended = |_| Error::invalid("the body ended early", "send all of it");
            let more = more.map_err(ended)?;
            if more.len() > limit - bytes.len() {
                return Err(Error::PayloadTooLarge { limit });
            }
            bytes.extend_from_slice(&more);
        }
        Ok(bytes)
    };
    let late = |_| Error::RequestTimeout { seconds: deadline.as_secs() };
    tokio::time::timeout(deadline, whole).await.map_err(late)?
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let hint = "send one JSON object, or nothing";
    let text = match bytes.trim_ascii() {
        [] => b"{}",
        // Serde would read the fields of an object from an array, by their order.
        text if text.starts_with(b"{") => text,
        _ => return Err(Error::invalid("the body is not a JSON object", hint)),
    };
    serde_json::from_slice(text).map_err(|error| {
        let hint = match error.classify() {
            serde_json::error::Category::Data => "GET /errors explains, under invalid_request",
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => hint,
        };
        Error::invalid(format!("the body is not what this takes: {error}"), hint)
    })
}

/// The elastic IP that a path names.
#[derive(Debug)]
pub(crate) struct Target(pub(crate) ElasticIpRef);

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        let params = params.map_err(|_| Error::invalid("the path is not text", "use UTF-8"))?;
        let id = params.iter().find(|(name, _)| *name == "id").map_or("", |(_, value)| value);
        Error::or_reference(id).map(Self)
    }
}

/// The address that a path names.
#[derive(Debug)]
pub(crate) struct Address(pub(crate) std::net::Ipv4Addr);

impl<S: Send + Sync> FromRequestParts<S> for Address {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Segment(text) = Segment::from_request_parts(parts, state).await?;
        let hint = "write an IPv4 address, as in 100.64.0.1";
        let wrong = |_| Error::invalid(format!("\"{text}\" is no address"), hint);
        text.parse().map(Self).map_err(wrong)
    }
}

/// One segment of a path, as text.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) if text.contains('\0') => {
                Err(Error::invalid("the path has a NUL in it", "nothing is called so"))
            }
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => Err(Error::invalid("the path is not text", "use UTF-8")),
        }
    }
}

/// What stands behind the `?`.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => {
                let cause = std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), ToString::to_string);
                let detail = format!("the query is not what this takes: {cause}");
                Err(Error::invalid(detail, "GET /errors explains, under invalid_request"))
            }
        }
    }
}

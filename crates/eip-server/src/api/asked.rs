//! What a request asks for besides the change, and what is said besides the answer.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use eip_model::{ElasticIp, ElasticIpId};
use eip_store::Version;
use serde::{Deserialize, Serialize};

use super::body::Params;
use crate::service::{Asked, Done, Error};

/// What says that a request is one that was carried out before.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// What says that nothing was changed, as was asked.
pub(crate) const DRY_RUN: HeaderName = HeaderName::from_static("dry-run");

/// `?dry_run=true`: say what would be done, and do nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ChangeParams {
    dry_run: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Params(params) = Params::<ChangeParams>::from_request_parts(parts, state).await?;
        Ok(Self {
            key: idempotency_key(&parts.headers)?,
            if_match: if_match(&parts.headers)?,
            dry_run: params.dry_run,
        })
    }
}

/// The `Idempotency-Key`, if there is one: 1 to 255 visible ASCII characters.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let fit =
        |key: &&str| (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    match key.to_str().ok().filter(fit) {
        Some(key) => Ok(Some(key.to_owned())),
        None => {
            let detail = "an Idempotency-Key is 1 to 255 visible ASCII characters";
            Err(Error::invalid(detail, "send a UUID, and the same one when you repeat it"))
        }
    }
}

/// What `If-Match` (RFC 9110, section 13.1.1) allows; `None` where it is missing or `*`.
///
/// A tag that is weak or of something else is well-formed and matches nothing.
fn if_match(headers: &HeaderMap) -> Result<Option<Vec<Version>>, Error> {
    let malformed = || {
        let detail = "If-Match is a list of entity tags in quotes, or *";
        Error::invalid(detail, "send the ETag of the elastic IP as it was given")
    };
    let mut versions = Vec::new();
    let mut given = headers.get_all(header::IF_MATCH).iter().peekable();
    if given.peek().is_none() {
        return Ok(None);
    }
    for value in given {
        let text = value.to_str().map_err(|_| malformed())?.trim();
        if text == "*" {
            return Ok(None);
        }
        for tag in text.split(',') {
            let tag = tag.trim();
            let strong = !tag.starts_with("W/");
            let opaque = tag.strip_prefix("W/").unwrap_or(tag);
            let opaque = opaque.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let opaque = opaque.filter(|text| !text.contains('"')).ok_or_else(malformed)?;
            versions.extend(version(opaque).filter(|_| strong));
        }
    }
    Ok(Some(versions))
}

fn version(tag: &str) -> Option<Version> {
    let (id, revision) = tag.split_once('.')?;
    let id = id.parse::<uuid::Uuid>().ok()?;
    Some(Version { id: ElasticIpId::new(id), revision: revision.parse().ok()? })
}

/// The `ETag` of an elastic IP: strong, as to what is recorded. What its data plane does is no part of
/// it.
fn etag(elastic_ip: &ElasticIp) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{}.{}\"", elastic_ip.id, elastic_ip.revision)).ok()
}

/// An elastic IP with its `ETag`.
#[derive(Debug)]
pub(crate) struct Tagged(pub(crate) ElasticIp);

impl IntoResponse for Tagged {
    fn into_response(self) -> Response {
        let tag = etag(&self.0);
        let mut response = Json(self.0).into_response();
        if let Some(tag) = tag {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

impl<T> Done<T> {
    /// Says what was done, with `status` if it was.
    pub(crate) fn answer(self, status: StatusCode, body: impl FnOnce(T) -> Response) -> Response {
        let Self { answer, repeated, rehearsed } = self;
        let mut response = body(answer);
        *response.status_mut() = match status {
            StatusCode::CREATED if rehearsed => StatusCode::OK,
            status => status,
        };
        let mut say = |name: HeaderName| {
            response.headers_mut().insert(name, HeaderValue::from_static("true"));
        };
        if repeated {
            say(REPLAYED);
        }
        if rehearsed {
            say(DRY_RUN);
        }
        response
    }
}

impl IntoResponse for Done<ElasticIp> {
    fn into_response(self) -> Response {
        self.answer(StatusCode::OK, |answer| Tagged(answer).into_response())
    }
}

impl IntoResponse for Done<()> {
    fn into_response(self) -> Response {
        self.answer(StatusCode::NO_CONTENT, IntoResponse::into_response)
    }
}

impl<T: Serialize> Done<T> {
    /// Says what was made, and where it is.
    pub(crate) fn made(self, location: impl FnOnce(&T) -> String) -> Response {
        let place = (!self.rehearsed).then(|| HeaderValue::from_str(&location(&self.answer)));
        let mut response = self.answer(StatusCode::CREATED, |made| Json(made).into_response());
        if let Some(Ok(place)) = place {
            response.headers_mut().insert(header::LOCATION, place);
        }
        response
    }

    pub(crate) fn changed(self) -> Response {
        self.answer(StatusCode::OK, |changed| Json(changed).into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &'static str) -> Result<Option<Vec<Version>>, Error> {
        let value = HeaderValue::from_static(value);
        if_match(&HeaderMap::from_iter([(header::IF_MATCH, value)]))
    }

    #[test]
    fn a_tag_is_read_as_it_was_written() {
        let id = ElasticIpId::new(uuid::Uuid::from_u128(7));
        let one = Version { id, revision: 12 };
        let tag = "\"00000000-0000-0000-0000-000000000007.12\"";
        assert_eq!(read(tag).unwrap(), Some(vec![one]));
        let among = "\"x\", \"00000000-0000-0000-0000-000000000007.12\"";
        assert_eq!(read(among).unwrap(), Some(vec![one]));
        assert_eq!(read("*").unwrap(), None);
        assert_eq!(if_match(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn a_tag_of_something_else_matches_nothing_and_a_malformed_one_is_refused() {
        for foreign in ["\"x\"", "W/\"x\"", "\"\"", "\"00000000-0000-0000-0000-000000000007.x\""] {
            assert_eq!(read(foreign).unwrap(), Some(vec![]), "{foreign}");
        }
        for wrong in ["", "x", "\"x", "x\"", "12", "\"a\"b\"", "\"a\",", "w/\"x\""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

//! `/events`: every change, as a list and as a stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use eip_model::{Event, chain};
use futures_util::stream::{self, Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use tracing::error;
use utoipa::{IntoParams, ToSchema};

use super::body::Params;
use super::caller::presented;
use super::openapi::problems;
use super::{ApiState, cursor};
use crate::service::keys::ApiKey;
use crate::service::{Caller, Error, Follower};

/// How often a stream says that it is still there when nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// `?after=ID&limit=N`
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventParams {
    /// The id of the event behind which the list begins; by default it begins with the first one.
    #[param(nullable = false, pattern = "^[0-9]+$")]
    after: Option<String>,
    /// How many events at most; by default 50.
    #[param(nullable = false, minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

impl EventParams {
    /// Returns behind which event the page begins, and how many it may have.
    pub(crate) fn read(&self) -> Result<(u64, u32), Error> {
        let limit = cursor::limit(self.limit, "ask for the next page with after")?;
        Ok((self.after.as_deref().map_or(Ok(0), place)?, limit))
    }
}

/// `?after=ID`, for those who cannot send `Last-Event-ID`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StreamParams {
    /// What `Last-Event-ID` says, for those who cannot send it.
    #[param(nullable = false, pattern = "^[0-9]+$")]
    after: Option<String>,
}

/// Events of one or many elastic IPs, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventList {
    pub(crate) items: Vec<Event>,
    /// What to ask for with `after` to go on, where there may be more. Then a page may have fewer events
    /// than were asked for, or none.
    pub(crate) next_cursor: Option<String>,
}

/// `Last-Event-ID`, as browsers send it by themselves.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "says to readers what the handler reads")]
pub(crate) struct LastEventId {
    /// The id of the last event that the reader has seen.
    #[param(rename = "Last-Event-ID", required = false, nullable = false, pattern = "^[0-9]+$")]
    last_event_id: Option<String>,
}

problems! {
    looks Looking: ;
}

/// List events
///
/// Oldest first: of all projects for an administrator, of its own for any other key.
#[utoipa::path(
    get, path = "/events", tag = "events", operation_id = "list_events", params(EventParams),
    responses((status = 200, description = "A page of events.", body = EventList), Looking)
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(params): Params<EventParams>,
) -> Result<axum::Json<EventList>, Error> {
    let (after, limit) = params.read()?;
    let (items, next) = state.service.events_after(&caller, after, limit).await?;
    Ok(axum::Json(EventList { items, next_cursor: next.map(|next| format!("{next:019}")) }))
}

/// Follow events
///
/// Server-Sent Events (WHATWG HTML, 9.2): every change from now on, or from behind the event that
/// `Last-Event-ID` names, once each and in the order of their commits. It ends within a second when the key
/// is good no more.
#[utoipa::path(
    get, path = "/events/stream", tag = "events", operation_id = "stream_events",
    params(StreamParams, LastEventId),
    responses(
        (status = 200, description = "Events as they come: `id` is that of the event, `data` the event as JSON.",
         body = String, content_type = "text/event-stream"),
        Looking,
    )
)]
pub(crate) async fn stream(
    State(state): State<ApiState>,
    caller: Caller,
    headers: HeaderMap,
    Params(params): Params<StreamParams>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Error> {
    let named = match headers.get("last-event-id") {
        Some(id) => Some(id.to_str().unwrap_or("?").to_owned()),
        None => params.after,
    };
    let after = named.as_deref().map(place).transpose()?;
    let key = ApiKey::presented(presented(&headers).unwrap_or_default());
    let follower = state.service.follow_events(&caller, key, after).await?;
    let stop = state.stop.clone();
    let events = stream::unfold((state, follower), next)
        .flat_map(|events| stream::iter(events.into_iter().map(Ok)))
        .take_until(stop.cancelled_owned());
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)))
}

async fn next(
    (state, mut follower): (ApiState, Follower),
) -> Option<(Vec<sse::Event>, (ApiState, Follower))> {
    let service = Arc::clone(&state.service);
    match service.next_events(&mut follower).await {
        Ok(events) => Some((events.iter().filter_map(written).collect(), (state, follower))),
        // It was revoked, or its time is up.
        Err(Error::Unauthenticated { .. }) => None,
        // The client comes again with the last id that it got.
        Err(error) => {
            error!(error = %chain(&error), "Could not follow the events; a stream was ended");
            None
        }
    }
}

fn written(event: &Event) -> Option<sse::Event> {
    let data = serde_json::to_string(event).ok()?;
    Some(sse::Event::default().id(&event.id).data(data))
}

/// Reads the id of an event.
fn place(id: &str) -> Result<u64, Error> {
    let digits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
    id.parse().ok().filter(|_| digits).ok_or_else(|| {
        Error::invalid("this is not the id of an event", "send an id as an event has it, or none")
    })
}

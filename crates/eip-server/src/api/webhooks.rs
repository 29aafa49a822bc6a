//! `/webhooks`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use eip_model::{
    CreateWebhookRequest, UpdateWebhookRequest, Webhook, WebhookList, WebhookWithSecret,
};

use super::body::{Params, Segment};
use super::cursor::PageParams;
use super::openapi::{DryRun, OnceHeader, problems};
use super::{ApiState, body, finish};
use crate::service::{Asked, Caller, Done, Error};

problems! {
    looks Listing: ;
    looks OfWebhook: WebhookNotFound;
    takes Creating: ProjectNotFound QuotaExceeded IdempotencyConflict;
    takes Changing: WebhookNotFound;
    looks Rotating: WebhookNotFound IdempotencyConflict;
}

/// List webhooks
///
/// In the order in which they were made: all of them for an administrator, those of its project for a
/// member. Not for a reader: a URL may hold what its receiver knows senders by.
#[utoipa::path(
    get, path = "/webhooks", tag = "webhooks", operation_id = "list_webhooks",
    params(PageParams),
    responses((status = 200, description = "A page of the webhooks.", body = WebhookList), Listing)
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Json<WebhookList>, Error> {
    let (page, turn) = params.of("webhooks", &state)?;
    let mut items = state.service.webhooks(&caller, page.after, page.limit).await?;
    let next_cursor = turn.end(&mut items, |webhook| webhook.id);
    Ok(Json(WebhookList { items, next_cursor }))
}

/// Show a webhook
#[utoipa::path(
    get, path = "/webhooks/{id}", tag = "webhooks", operation_id = "show_webhook",
    params(("id" = uuid::Uuid, Path, description = "The id of the webhook.")),
    responses((status = 200, description = "The webhook.", body = Webhook), OfWebhook)
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
) -> Result<Json<Webhook>, Error> {
    state.service.webhook(&caller, &named).await.map(Json)
}

/// Make a webhook
///
/// Every event that it is for is sent as a `WebhookMessage` by POST, in the order of the commits and at
/// least once: `webhook-id` stays the same when it is sent again. The first one tells of the making
/// itself. What is not answered with 2xx within 15 seconds is sent again, after 1 second and then after
/// twice as long each time up to an hour, and all that comes behind it waits; after three days, or an
/// answer of 410, the webhook is disabled. Messages are signed as Standard Webhooks says; the secret is
/// in this answer and in no other.
#[utoipa::path(
    post, path = "/webhooks", tag = "webhooks", operation_id = "create_webhook",
    params(OnceHeader, DryRun),
    request_body = CreateWebhookRequest,
    responses(
        (status = 201, description = "The webhook was made.", body = WebhookWithSecret),
        (status = 200, description = "The webhook that would be made; its secret signs nothing.",
         body = WebhookWithSecret),
        Creating
    )
)]
pub(crate) async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    asked: Asked,
    body::Json(request): body::Json<CreateWebhookRequest>,
) -> Result<Response, Error> {
    let made = async move { state.service.make_webhook(&caller, request, &asked).await };
    let made = finish(made).await?;
    Ok(not_stored(made.made(|one| format!("/webhooks/{}", one.webhook.id))))
}

/// Change a webhook
///
/// One that has failed is tried at once.
#[utoipa::path(
    patch, path = "/webhooks/{id}", tag = "webhooks", operation_id = "update_webhook",
    params(("id" = uuid::Uuid, Path, description = "The id of the webhook."), DryRun),
    request_body = UpdateWebhookRequest,
    responses((status = 200, description = "The webhook as it is then.", body = Webhook), Changing)
)]
pub(crate) async fn update(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
    asked: Asked,
    body::Json(request): body::Json<UpdateWebhookRequest>,
) -> Result<Response, Error> {
    let changed =
        async move { state.service.update_webhook(&caller, &named, request, &asked).await };
    finish(changed).await.map(Done::changed)
}

/// Give a webhook another secret
///
/// It is in this answer and in no other. For 24 hours every message has a signature by each of the two.
#[utoipa::path(
    post, path = "/webhooks/{id}/rotate", tag = "webhooks", operation_id = "rotate_webhook",
    params(("id" = uuid::Uuid, Path, description = "The id of the webhook."), OnceHeader, DryRun),
    responses(
        (status = 200, description = "The webhook and its new secret.", body = WebhookWithSecret),
        Rotating
    )
)]
pub(crate) async fn rotate(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
    asked: Asked,
) -> Result<Response, Error> {
    let rotated = async move { state.service.rotate_webhook(&caller, &named, &asked).await };
    finish(rotated).await.map(|done| not_stored(done.changed()))
}

/// Delete a webhook
///
/// An attempt that is under way may still arrive.
#[utoipa::path(
    delete, path = "/webhooks/{id}", tag = "webhooks", operation_id = "delete_webhook",
    params(("id" = uuid::Uuid, Path, description = "The id of the webhook."), DryRun),
    responses((status = 204, description = "It was deleted."), OfWebhook)
)]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
    asked: Asked,
) -> Result<Done<()>, Error> {
    finish(async move { state.service.delete_webhook(&caller, &named, &asked).await }).await
}

/// Keeps what holds a secret out of caches.
fn not_stored(mut response: Response) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

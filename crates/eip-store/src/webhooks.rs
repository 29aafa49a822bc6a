//! What there is to keep of webhooks: where they send, and how far they are.

use async_trait::async_trait;
use eip_model::{
    EventKind, Label, ProjectName, SigningSecret, Webhook, WebhookId, WebhookState, WebhookUrl,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::StoreError;
use crate::records::{By, Scope, Settled, Terms};

/// How many webhooks a project may have, and how many those of everyone may be.
pub const MOST_WEBHOOKS: u64 = 16;

/// A webhook that is to be.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    pub id: WebhookId,
    pub project: Option<ProjectName>,
    pub name: Option<Label>,
    pub url: WebhookUrl,
    pub kinds: Option<Vec<EventKind>>,
    pub secret: SigningSecret,
}

/// What is changed of a webhook; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct WebhookChange {
    pub url: Option<WebhookUrl>,
    pub name: Option<Option<Label>>,
    pub kinds: Option<Option<Vec<EventKind>>>,
    pub enabled: Option<bool>,
    /// The new secret; the one that it had signs, too, until then.
    pub secret: Option<(SigningSecret, Timestamp)>,
}

/// A webhook, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookRecord {
    pub id: WebhookId,
    pub project: Option<ProjectName>,
    pub name: Option<Label>,
    pub url: WebhookUrl,
    pub kinds: Option<Vec<EventKind>>,
    /// Not kept with an answer: of one that is told again, see [`Webhooks::find_webhook`].
    #[serde(skip, default = "SigningSecret::nobodys")]
    pub secret: SigningSecret,
    /// The secret before, and until when it signs, too.
    #[serde(skip)]
    pub old_secret: Option<(SigningSecret, Timestamp)>,
    pub enabled: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// The number of the last event that was dealt with.
    pub seen: u64,
    /// How many attempts have failed since one did not.
    pub failures: u64,
    pub failing_since: Option<Timestamp>,
    /// Nothing is sent before.
    pub next_at: Option<Timestamp>,
    pub last_error: Option<String>,
    pub delivered_at: Option<Timestamp>,
    /// Until when a server sends for it, if one does. Once that is past, the server has gone away.
    pub held_until: Option<Timestamp>,
}

impl WebhookRecord {
    /// Returns what a caller sees.
    #[must_use]
    pub fn told(self) -> Webhook {
        let state = match (self.enabled, self.failures) {
            (false, _) => WebhookState::Disabled,
            (true, 0) => WebhookState::Active,
            (true, _) => WebhookState::Failing,
        };
        Webhook {
            id: self.id,
            project: self.project,
            name: self.name,
            url: self.url,
            kinds: self.kinds,
            enabled: self.enabled,
            state,
            last_event: format!("{:019}", self.seen),
            delivered_at: self.delivered_at,
            failing_since: self.failing_since,
            failures: self.failures,
            last_error: self.last_error,
            next_attempt_at: self.next_at.filter(|_| self.enabled),
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}

/// A server that sends for a webhook, and until when nobody else may.
#[derive(Debug, Clone)]
pub struct Hold {
    pub id: WebhookId,
    pub holder: Uuid,
    pub now: Timestamp,
    /// At `now` to let go of it.
    pub until: Timestamp,
}

/// How far a webhook has come.
#[derive(Debug, Clone)]
pub struct Deliveries {
    /// The number of the last event that was dealt with.
    pub seen: u64,
    /// When something was accepted last, if anything was.
    pub accepted_at: Option<Timestamp>,
    pub failure: Option<DeliveryFailure>,
}

/// An attempt that failed.
#[derive(Debug, Clone)]
pub struct DeliveryFailure {
    pub why: String,
    /// When to try again; `None` to give up, and disable the webhook.
    pub next_at: Option<Timestamp>,
    /// When the webhook had been changed last that was tried. Of one that was changed since, it says
    /// nothing.
    pub updated_at: Timestamp,
}

/// The webhooks of the record.
///
/// At any time one server sends for a webhook, as long as it holds it. Whoever does not hold it any more
/// learns that from every method that would change how far it is.
#[async_trait]
pub trait Webhooks: Send + Sync {
    /// Makes a webhook, which begins with its own making. Refuses with `TooManyWebhooks` and
    /// `ProjectNotFound`.
    async fn make_webhook(
        &self,
        terms: &Terms,
        new: &NewWebhook,
        by: &By,
    ) -> Result<Settled<WebhookRecord>, StoreError>;

    /// Returns at most `limit` webhooks of the scope behind the one that `after` names, in the order in
    /// which they were made.
    async fn webhooks(
        &self,
        scope: &Scope,
        after: Option<WebhookId>,
        limit: u32,
    ) -> Result<Vec<WebhookRecord>, StoreError>;

    /// Refuses with `WebhookNotFound`, like the next two.
    async fn find_webhook(&self, id: WebhookId, scope: &Scope)
    -> Result<WebhookRecord, StoreError>;

    /// Changes a webhook, and has it tried at once. What is so already is no change and no event.
    async fn change_webhook(
        &self,
        terms: &Terms,
        id: WebhookId,
        scope: &Scope,
        change: &WebhookChange,
        by: &By,
    ) -> Result<Settled<WebhookRecord>, StoreError>;

    async fn delete_webhook(
        &self,
        terms: &Terms,
        id: WebhookId,
        scope: &Scope,
        by: &By,
    ) -> Result<(), StoreError>;

    /// Holds a webhook. Returns `None` when another server holds it, and when there is nothing to send
    /// for it: it is disabled, gone, or waits after a failure.
    async fn hold_webhook(&self, hold: &Hold) -> Result<Option<WebhookRecord>, StoreError>;

    /// Notes how far a webhook has come, and goes on holding it as [`Self::hold_webhook`] does.
    async fn note_deliveries(
        &self,
        hold: &Hold,
        deliveries: &Deliveries,
    ) -> Result<Option<WebhookRecord>, StoreError>;
}

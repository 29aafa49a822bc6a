//! Webhooks: who has which, and sending what happens to where they point.

mod courier;
mod desk;

use eip_model::{
    CreateWebhookRequest, SigningSecret, UpdateWebhookRequest, Webhook, WebhookId,
    WebhookWithSecret,
};
use eip_store::{NewWebhook, Scope, Settled, Terms, WebhookChange, WebhookRecord};
use eip_webhook::{NotAllowed, shown};
use jiff::{Timestamp, ToSpan as _};
use serde::Serialize;
use tracing::info;
use uuid::Uuid;

use super::admin_error::{AdminError, explained};
use super::terms::{Asked, Done};
use super::{Caller, Error, Service};

/// For how long the secret before signs, too, once there is a new one.
const BOTH_SIGN_HOURS: i64 = 24;

/// How many kinds of event may be named.
const MOST_KINDS: usize = 64;

impl Service {
    /// Returns at most `limit` webhooks behind one, in the order in which they were made.
    pub(crate) async fn webhooks(
        &self,
        caller: &Caller,
        after: Option<WebhookId>,
        limit: u32,
    ) -> Result<Vec<Webhook>, Error> {
        // Whoever may not change them does not see where they lead: some receivers know their senders
        // by the path.
        let scope = caller.may_write()?;
        let found = self.repository().webhooks(&scope, after, limit).await.map_err(Error::Store)?;
        Ok(found.into_iter().map(WebhookRecord::told).collect())
    }

    pub(crate) async fn webhook(&self, caller: &Caller, named: &str) -> Result<Webhook, Error> {
        let scope = caller.may_write()?;
        let found = self.repository().find_webhook(id(named)?, &scope).await;
        found.map(WebhookRecord::told).map_err(|error| explained(error, "webhook", named))
    }

    pub(crate) async fn make_webhook(
        &self,
        caller: &Caller,
        request: CreateWebhookRequest,
        asked: &Asked,
    ) -> Result<Done<WebhookWithSecret>, Error> {
        let scope = caller.may_write()?;
        let terms = asked.no_version()?.terms(caller, &("POST /webhooks", &request));
        let CreateWebhookRequest { url, project, name, kinds } = request;
        let project = match (scope, project) {
            (Scope::Everything, project) => project,
            (Scope::Project(own), Some(other)) if other != own => {
                return Err(AdminError::ProjectNotFound { name: other.to_string() }.into());
            }
            (Scope::Project(own), _) => Some(own),
        };
        self.sender.admit(&url).map_err(|refused| not_there(&refused))?;
        few_enough(kinds.as_ref())?;
        let of = project.as_ref().map_or_else(|| "all projects".to_owned(), ToString::to_string);
        let secret = SigningSecret::new(rand::random());
        let new =
            NewWebhook { id: WebhookId::new(Uuid::now_v7()), project, name, url, kinds, secret };
        let made = self.repository().make_webhook(&terms, &new, &caller.by()).await;
        let made = made.map_err(|error| explained(error, "webhook", &of))?;
        if !made.repeated && !asked.dry_run {
            info!(key.id = %caller.key, webhook = %made.answer.id, "Made a webhook");
        }
        self.with_secret(asked, made).await
    }

    pub(crate) async fn update_webhook(
        &self,
        caller: &Caller,
        named: &str,
        request: UpdateWebhookRequest,
        asked: &Asked,
    ) -> Result<Done<Webhook>, Error> {
        if let Some(url) = &request.url {
            self.sender.admit(url).map_err(|refused| not_there(&refused))?;
        }
        few_enough(request.kinds.as_ref().and_then(Option::as_ref))?;
        let UpdateWebhookRequest { url, name, kinds, enabled } = request;
        let change = WebhookChange { url, name, kinds, enabled, secret: None };
        let terms = asked.no_version()?.unkeyed();
        let changed = self.change_webhook(caller, named, &terms, &change).await?;
        Ok(asked.done(changed.answer.told(), false))
    }

    /// Gives a webhook another secret. The one that it had signs, too, for a day.
    pub(crate) async fn rotate_webhook(
        &self,
        caller: &Caller,
        named: &str,
        asked: &Asked,
    ) -> Result<Done<WebhookWithSecret>, Error> {
        let terms = asked.no_version()?.terms(caller, &("rotate a webhook", named));
        let until = Timestamp::now() + BOTH_SIGN_HOURS.hours();
        let secret = Some((SigningSecret::new(rand::random()), until));
        let change = WebhookChange { secret, ..WebhookChange::default() };
        let changed = self.change_webhook(caller, named, &terms, &change).await?;
        self.with_secret(asked, changed).await
    }

    /// The secret is kept with the webhook and not with answers: whoever asks again gets the one that
    /// it has now.
    async fn with_secret(
        &self,
        asked: &Asked,
        settled: Settled<WebhookRecord>,
    ) -> Result<Done<WebhookWithSecret>, Error> {
        let Settled { answer, repeated, .. } = settled;
        let secret = match repeated {
            true => {
                let now = self.repository().find_webhook(answer.id, &Scope::Everything).await;
                now.map_err(|error| explained(error, "webhook", &answer.id.to_string()))?.secret
            }
            false => answer.secret.clone(),
        };
        let answer = WebhookWithSecret { webhook: answer.told(), secret: shown(&secret) };
        Ok(asked.done(answer, repeated))
    }

    async fn change_webhook(
        &self,
        caller: &Caller,
        named: &str,
        terms: &Terms,
        change: &WebhookChange,
    ) -> Result<Settled<WebhookRecord>, Error> {
        let scope = caller.may_write()?;
        let (id, by) = (id(named)?, caller.by());
        let changed = self.repository().change_webhook(terms, id, &scope, change, &by).await;
        let changed = changed.map_err(|error| explained(error, "webhook", named))?;
        if !changed.repeated && !terms.rehearse {
            info!(key.id = %caller.key, webhook = %id, "Changed a webhook");
        }
        Ok(changed)
    }

    pub(crate) async fn delete_webhook(
        &self,
        caller: &Caller,
        named: &str,
        asked: &Asked,
    ) -> Result<Done<()>, Error> {
        let scope = caller.may_write()?;
        let terms = asked.no_version()?.unkeyed();
        let id = id(named)?;
        let gone = self.repository().delete_webhook(&terms, id, &scope, &caller.by()).await;
        gone.map_err(|error| explained(error, "webhook", named))?;
        if !asked.dry_run {
            info!(key.id = %caller.key, webhook = %id, "Deleted a webhook");
        }
        Ok(asked.done((), false))
    }
}

/// Reads the id of a webhook. What is none names none.
fn id(named: &str) -> Result<WebhookId, Error> {
    let id = Uuid::try_parse(named);
    id.map(WebhookId::new).map_err(|_| AdminError::WebhookNotFound { id: named.to_owned() }.into())
}

fn not_there(refused: &NotAllowed) -> Error {
    let hint = "name an address that others reach, or start the server with --webhook-allow";
    Error::invalid(refused.to_string(), hint)
}

fn few_enough<K: Serialize>(kinds: Option<&Vec<K>>) -> Result<(), Error> {
    match kinds.map(Vec::len) {
        None | Some(1..=MOST_KINDS) => Ok(()),
        Some(count) => {
            let detail = format!("kinds are 1 to {MOST_KINDS}, not {count}");
            Err(Error::invalid(detail, "name those to send, or leave them out for all"))
        }
    }
}

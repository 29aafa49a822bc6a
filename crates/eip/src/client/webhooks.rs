//! `eip webhook`: where events are sent.

use eip_model::{
    CreateWebhookRequest, UpdateWebhookRequest, Webhook, WebhookList, WebhookWithSecret,
};
use serde_json::json;

use super::api::Api;
use super::output::Shown;
use crate::args::Webhooks;
use crate::exit::Failure;

pub(super) async fn webhooks(api: &Api, shown: Shown, command: Webhooks) -> Result<(), Failure> {
    let at = |id: &str| format!("/webhooks/{id}");
    let change = async |id: String, request: UpdateWebhookRequest| {
        shown.webhook(api.patch::<Webhook>(&at(&id), &request).await?)
    };
    match command {
        Webhooks::Create { to: url, project, name, kind } => {
            let kinds = Some(kind).filter(|some| !some.is_empty());
            let request = CreateWebhookRequest { url, project, name, kinds };
            shown.webhook_secret(&api.post::<WebhookWithSecret>("/webhooks", &request).await?)
        }
        Webhooks::List => {
            let items = api.all("/webhooks", &[]).await?;
            shown.webhooks(&WebhookList { items, next_cursor: None })
        }
        Webhooks::Show { id } => shown.webhook(api.get::<Webhook>(&at(&id), &[]).await?),
        Webhooks::Set { id, changes } => {
            let kinds = match (changes.all_kinds, changes.kind) {
                (true, _) => Some(None),
                (false, some) => {
                    Some(Some(some).filter(|some| !some.is_empty())).filter(Option::is_some)
                }
            };
            let (url, name) = (changes.to, changes.name.map(Some));
            change(id, UpdateWebhookRequest { url, name, kinds, enabled: None }).await
        }
        Webhooks::Enable { id } => {
            change(id, UpdateWebhookRequest { enabled: Some(true), ..Default::default() }).await
        }
        Webhooks::Disable { id } => {
            change(id, UpdateWebhookRequest { enabled: Some(false), ..Default::default() }).await
        }
        Webhooks::Rotate { id } => {
            let path = format!("{}/rotate", at(&id));
            shown.webhook_secret(&api.post::<WebhookWithSecret>(&path, &json!({})).await?)
        }
        Webhooks::Delete { id } => {
            api.delete(&at(&id)).await?;
            shown.gone("deleted", &id)
        }
    }
}

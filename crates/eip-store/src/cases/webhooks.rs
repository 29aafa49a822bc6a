//! Webhooks: who has which, and how far each is.

use async_trait::async_trait;
use eip_model::{EventKind, WebhookId};

use super::setup::list;
use super::{Record, micros};
use crate::error::{Refusal, StoreError};
use crate::news::NewEvent;
use crate::records::{By, Scope, Settled, Terms};
use crate::rows::{self, Cells};
use crate::transaction::{Database, Failure, Tx, UseCase};
use crate::value::{Statement, values};
use crate::webhooks::{
    Deliveries, Hold, MOST_WEBHOOKS, NewWebhook, WebhookChange, WebhookRecord, Webhooks,
};

/// How much of why an attempt failed is kept, in characters.
const LONGEST_ERROR: usize = 512;

/// How events call the service where nobody asked for a change.
const SERVICE: &str = "server";

async fn find<T: Tx>(
    tx: &mut T,
    id: WebhookId,
    scope: &Scope,
    lock: &str,
) -> Result<WebhookRecord, Failure> {
    let mut list = Statement::new(&rows::webhooks(), values![]);
    list.add(" WHERE id = ?", values![id.uuid()]);
    if let Some(project) = scope.project() {
        list.add(" AND project = ?", values![project]);
    }
    list.add(lock, values![]);
    let row = tx.row(&list.text, &list.values).await?;
    Ok(rows::webhook(&row.ok_or(Refusal::WebhookNotFound)?)?)
}

impl WebhookRecord {
    fn event(&self, kind: EventKind, by: &By, detail: String) -> NewEvent {
        NewEvent::about(kind, by, detail).named(&self.id).of(self.project.as_ref())
    }
}

#[derive(Debug)]
struct MakeWebhook {
    new: NewWebhook,
    by: By,
}

impl UseCase for MakeWebhook {
    type Answer = WebhookRecord;
    const DOING: &'static str = "make a webhook";

    /// It has seen all that is committed. Its own event comes behind that, as every one does that is
    /// written in a transaction which is not yet committed.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<WebhookRecord, Failure> {
        let NewWebhook { id, project, name, url, kinds, secret } = &self.new;
        tx.alone("webhooks").await?;
        if let Some(project) = project {
            let sql = "SELECT name FROM project WHERE name = $1 FOR SHARE";
            tx.row(sql, values![project]).await?.ok_or(Refusal::ProjectNotFound)?;
        }
        let mut count = Statement::new("SELECT count(*) AS made FROM webhook", values![]);
        match project {
            Some(project) => count.add(" WHERE project = ?", values![project]),
            None => count.add(" WHERE project IS NULL", values![]),
        }
        let made = tx.row(&count.text, &count.values).await?;
        let made = made.map(|row| row.number::<u64>("made")).transpose();
        if made.map_err(|e| e.within("webhook"))?.unwrap_or(0) >= MOST_WEBHOOKS {
            return Err(Refusal::TooManyWebhooks.into());
        }
        tx.run(
            "INSERT INTO webhook (id, project, name, url, kinds, secret, created_at, updated_at, seen)
             SELECT $1, $2, $3, $4, $5, $6, $7, $7, coalesce(max(seq), 0) FROM event",
            values![
                id.uuid(),
                project.as_ref(),
                name.as_ref(),
                url.as_str(),
                kinds.as_deref().map(list),
                &secret.expose()[..],
                self.by.at
            ],
        )
        .await?;
        let made = find(tx, *id, &Scope::Everything, "").await?;
        tx.tell(made.event(EventKind::WebhookCreated, &self.by, format!("to {}", url.place())));
        Ok(made)
    }
}

#[derive(Debug)]
struct ListWebhooks {
    scope: Scope,
    after: Option<WebhookId>,
    limit: u32,
}

impl UseCase for ListWebhooks {
    type Answer = Vec<WebhookRecord>;
    const DOING: &'static str = "list the webhooks";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<WebhookRecord>, Failure> {
        let mut list = Statement::new(&rows::webhooks(), values![]);
        list.add(" WHERE 1 = 1", values![]);
        if let Some(project) = self.scope.project() {
            list.add(" AND project = ?", values![project]);
        }
        if let Some(after) = self.after {
            list.add(" AND id > ?", values![after.uuid()]);
        }
        // Their ids are in the order in which they were made.
        list.add(" ORDER BY id LIMIT ?", values![self.limit]);
        let found = tx.rows(&list.text, &list.values).await?;
        Ok(found.iter().map(rows::webhook).collect::<Result<_, _>>()?)
    }
}

#[derive(Debug)]
struct FindWebhook {
    id: WebhookId,
    scope: Scope,
}

impl UseCase for FindWebhook {
    type Answer = WebhookRecord;
    const DOING: &'static str = "look up a webhook";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<WebhookRecord, Failure> {
        find(tx, self.id, &self.scope, "").await
    }
}

#[derive(Debug)]
struct ChangeWebhook {
    id: WebhookId,
    scope: Scope,
    change: WebhookChange,
    by: By,
}

impl ChangeWebhook {
    /// Says what is changed, for people.
    fn differences(&self, before: &WebhookRecord) -> Vec<String> {
        let change = &self.change;
        let mut told = Vec::new();
        if let Some(url) = change.url.as_ref().filter(|url| **url != before.url) {
            told.push(format!("to {}", url.place()));
        }
        if let Some(name) = change.name.as_ref().filter(|name| **name != before.name) {
            told.push(
                name.as_ref().map_or_else(|| "no name".to_owned(), |one| format!("called {one}")),
            );
        }
        if let Some(kinds) = change.kinds.as_ref().filter(|kinds| **kinds != before.kinds) {
            told.push(kinds.as_ref().map_or_else(
                || "all kinds of event".to_owned(),
                |some| format!("{} kinds of event", some.len()),
            ));
        }
        if let Some(enabled) = change.enabled.filter(|enabled| *enabled != before.enabled) {
            told.push(if enabled { "enabled" } else { "disabled" }.to_owned());
        }
        if change.secret.is_some() {
            told.push("a new secret".to_owned());
        }
        told
    }
}

impl UseCase for ChangeWebhook {
    type Answer = WebhookRecord;
    const DOING: &'static str = "change a webhook";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<WebhookRecord, Failure> {
        let before = find(tx, self.id, &self.scope, " FOR UPDATE").await?;
        let told = self.differences(&before);
        if told.is_empty() {
            return Ok(before);
        }
        let (id, change) = (self.id.uuid(), &self.change);
        tx.run(
            "UPDATE webhook
                SET url = $2, name = $3, enabled = $4, updated_at = $5, kinds = $6,
                    failures = 0, failing_since = NULL, next_at = NULL, last_error = NULL
              WHERE id = $1",
            values![
                id,
                change.url.as_ref().unwrap_or(&before.url).as_str(),
                change.name.as_ref().unwrap_or(&before.name).as_ref(),
                i64::from(change.enabled.unwrap_or(before.enabled)),
                self.by.at,
                change.kinds.as_ref().unwrap_or(&before.kinds).as_deref().map(list),
            ],
        )
        .await?;
        if let Some((secret, until)) = &change.secret {
            tx.run(
                "UPDATE webhook SET old_secret = secret, old_secret_until = $3, secret = $2
                  WHERE id = $1",
                values![id, &secret.expose()[..], *until],
            )
            .await?;
        }
        let after = find(tx, self.id, &self.scope, "").await?;
        tx.tell(after.event(EventKind::WebhookUpdated, &self.by, told.join("; ")));
        Ok(after)
    }
}

#[derive(Debug)]
struct DeleteWebhook {
    id: WebhookId,
    scope: Scope,
    by: By,
}

impl UseCase for DeleteWebhook {
    type Answer = ();
    const DOING: &'static str = "delete a webhook";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        let gone = find(tx, self.id, &self.scope, " FOR UPDATE").await?;
        tx.run("DELETE FROM webhook WHERE id = $1", values![self.id.uuid()]).await?;
        tx.tell(gone.event(
            EventKind::WebhookDeleted,
            &self.by,
            format!("to {}", gone.url.place()),
        ));
        Ok(())
    }
}

/// Holds a webhook, or lets go of it when the hold ends at once, and returns it as it is then, if it may
/// be held.
async fn hold<T: Tx>(tx: &mut T, hold: &Hold) -> Result<Option<WebhookRecord>, Failure> {
    let sql = format!(
        "UPDATE webhook
            SET holder = CASE WHEN $4 > $3 THEN $2 END, held_until = CASE WHEN $4 > $3 THEN $4 END
          WHERE id = $1 AND enabled = 1 AND (next_at IS NULL OR next_at <= $3)
            AND (holder IS NULL OR holder = $2 OR held_until <= $3)
         RETURNING {}",
        rows::WEBHOOK_CELLS
    );
    let held = tx.row(&sql, values![hold.id.uuid(), hold.holder, hold.now, hold.until]).await?;
    Ok(held.as_ref().map(rows::webhook).transpose()?)
}

/// Goes on holding a webhook, or lets go of it if there is nothing more to do for it: whoever enables it
/// again does not wait for the end of a hold.
async fn hold_on<T: Tx>(tx: &mut T, by: &Hold) -> Result<Option<WebhookRecord>, Failure> {
    let held = hold(tx, by).await?;
    if held.is_none() {
        let sql = "UPDATE webhook SET holder = NULL, held_until = NULL
                    WHERE id = $1 AND holder = $2";
        tx.run(sql, values![by.id.uuid(), by.holder]).await?;
    }
    Ok(held)
}

#[derive(Debug)]
struct HoldWebhook(Hold);

impl UseCase for HoldWebhook {
    type Answer = Option<WebhookRecord>;
    const DOING: &'static str = "hold a webhook";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Option<WebhookRecord>, Failure> {
        hold(tx, &self.0).await
    }
}

#[derive(Debug)]
struct NoteDeliveries {
    hold: Hold,
    deliveries: Deliveries,
}

impl UseCase for NoteDeliveries {
    type Answer = Option<WebhookRecord>;
    const DOING: &'static str = "note what a webhook has sent";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Option<WebhookRecord>, Failure> {
        let (id, holder) = (self.hold.id.uuid(), self.hold.holder);
        let Deliveries { seen, accepted_at, failure } = &self.deliveries;
        let seen = i64::try_from(*seen).unwrap_or(i64::MAX);
        let ours = tx
            .row(
                "UPDATE webhook
                    SET seen = CASE WHEN seen < $3 THEN $3 ELSE seen END,
                        delivered_at = coalesce($4, delivered_at)
                  WHERE id = $1 AND holder = $2 RETURNING id",
                values![id, holder, seen, *accepted_at],
            )
            .await?;
        if ours.is_none() {
            return Ok(None);
        }
        if accepted_at.is_some() {
            tx.run(
                "UPDATE webhook SET failures = 0, failing_since = NULL, next_at = NULL
                  WHERE id = $1 AND failures > 0",
                values![id],
            )
            .await?;
        }
        let Some(failure) = failure else { return hold_on(tx, &self.hold).await };
        let webhook = find(tx, self.hold.id, &Scope::Everything, "").await?;
        if webhook.updated_at != failure.updated_at {
            return hold_on(tx, &self.hold).await;
        }
        let why: String = failure.why.chars().take(LONGEST_ERROR).collect();
        let sql = "UPDATE webhook
                      SET failures = failures + 1, failing_since = coalesce(failing_since, $2),
                          next_at = $3, last_error = $4, holder = NULL, held_until = NULL
                    WHERE id = $1";
        let values = values![id, self.hold.now, failure.next_at, why.as_str()];
        tx.run(sql, values).await?;
        if failure.next_at.is_none() {
            let sql = "UPDATE webhook SET enabled = 0, updated_at = $2 WHERE id = $1";
            tx.run(sql, values![id, self.hold.now]).await?;
            let by = By { actor: SERVICE.to_owned(), at: self.hold.now };
            tx.tell(webhook.event(EventKind::WebhookUpdated, &by, format!("disabled: {why}")));
        }
        Ok(None)
    }
}

#[async_trait]
impl<D: Database> Webhooks for Record<D> {
    async fn make_webhook(
        &self,
        terms: &Terms,
        new: &NewWebhook,
        by: &By,
    ) -> Result<Settled<WebhookRecord>, StoreError> {
        let new = new.clone();
        self.carry_out(terms, by, |by| MakeWebhook { new, by }).await
    }

    async fn webhooks(
        &self,
        scope: &Scope,
        after: Option<WebhookId>,
        limit: u32,
    ) -> Result<Vec<WebhookRecord>, StoreError> {
        self.database.look(ListWebhooks { scope: scope.clone(), after, limit }).await
    }

    async fn find_webhook(
        &self,
        id: WebhookId,
        scope: &Scope,
    ) -> Result<WebhookRecord, StoreError> {
        self.database.look(FindWebhook { id, scope: scope.clone() }).await
    }

    async fn change_webhook(
        &self,
        terms: &Terms,
        id: WebhookId,
        scope: &Scope,
        change: &WebhookChange,
        by: &By,
    ) -> Result<Settled<WebhookRecord>, StoreError> {
        let (scope, mut change) = (scope.clone(), change.clone());
        change.secret = change.secret.map(|(secret, until)| (secret, micros(until)));
        self.carry_out(terms, by, |by| ChangeWebhook { id, scope, change, by }).await
    }

    async fn delete_webhook(
        &self,
        terms: &Terms,
        id: WebhookId,
        scope: &Scope,
        by: &By,
    ) -> Result<(), StoreError> {
        let scope = scope.clone();
        let done = self.carry_out(terms, by, |by| DeleteWebhook { id, scope, by }).await;
        done.map(|done| done.answer)
    }

    async fn hold_webhook(&self, hold: &Hold) -> Result<Option<WebhookRecord>, StoreError> {
        self.database.change(HoldWebhook(whole(hold))).await
    }

    async fn note_deliveries(
        &self,
        hold: &Hold,
        deliveries: &Deliveries,
    ) -> Result<Option<WebhookRecord>, StoreError> {
        let mut deliveries = deliveries.clone();
        deliveries.accepted_at = deliveries.accepted_at.map(micros);
        if let Some(failure) = &mut deliveries.failure {
            failure.next_at = failure.next_at.map(micros);
        }
        self.database.change(NoteDeliveries { hold: whole(hold), deliveries }).await
    }
}

/// With times as the record keeps them.
fn whole(hold: &Hold) -> Hold {
    Hold { now: micros(hold.now), until: micros(hold.until), ..hold.clone() }
}

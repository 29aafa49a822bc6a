//! Which webhook has something to be sent, and who goes.
//!
//! Every server reads the events once, for all webhooks together. Whenever there is one that a webhook
//! is for, a courier sets out, on every server: the first one to hold the webhook sends, and the others
//! come back. What a server leaves undone that goes away, another one sees within a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use eip_model::{WebhookId, chain};
use eip_store::{Scope, StoreError, WebhookRecord};
use jiff::Timestamp;
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::error;
use uuid::Uuid;

use super::courier::{Courier, is_for};
use crate::service::{Error, Service};

/// How often the webhooks are looked at, besides whenever something happens.
const LOOK: Duration = Duration::from_secs(1);

/// How many webhooks or events are read at a time.
const PAGE: u32 = 500;

/// How many events that it is not for may come behind a webhook until it is noted that it has seen them:
/// that many may have to be read again.
const BEHIND: u64 = 50_000;

/// What one server knows of the webhooks.
#[derive(Debug)]
struct Desk {
    /// Who this is, for as long as it runs.
    server: Uuid,
    webhooks: Vec<WebhookRecord>,
    /// The last event that each is for.
    due: HashMap<WebhookId, u64>,
    away: HashMap<task::Id, WebhookId>,
    couriers: JoinSet<Option<u64>>,
    /// The last event that was read; none while nobody waits for any.
    read: Option<u64>,
}

impl Service {
    /// Sends what happens to where webhooks point, until told to stop.
    pub(in crate::service) async fn deliver(self: &Arc<Self>, stop: &CancellationToken) {
        let mut desk = Desk {
            server: Uuid::new_v4(),
            webhooks: Vec::new(),
            due: HashMap::new(),
            away: HashMap::new(),
            couriers: JoinSet::new(),
            read: None,
        };
        let mut turn = tokio::time::interval(LOOK);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut wakes = self.signals.watch_events();
        let mut troubled = false;
        while !stop.is_cancelled() {
            let looked = tokio::select! {
                () = stop.cancelled() => break,
                _ = turn.tick() => desk.look(self).await,
                Ok(()) = wakes.changed(), if desk.read.is_some() => Ok(()),
                Some(back) = desk.couriers.join_next_with_id() => {
                    desk.welcome(back);
                    Ok(())
                }
            };
            let sent = match looked {
                Ok(()) => desk.read(self, stop).await,
                failed => failed,
            };
            match sent {
                Err(error) if !troubled => {
                    error!(error = chain(&error), "Could not send for webhooks; will retry");
                    troubled = true;
                }
                Err(_) => {}
                Ok(()) => troubled = false,
            }
        }
        // They were told, too, and let go of what they hold.
        while desk.couriers.join_next().await.is_some() {}
    }

    async fn every_webhook(&self) -> Result<Vec<WebhookRecord>, StoreError> {
        let mut all: Vec<WebhookRecord> = Vec::new();
        loop {
            let after = all.last().map(|one| one.id);
            let more = self.repository().webhooks(&Scope::Everything, after, PAGE).await?;
            let full = more.len() >= usize::try_from(PAGE).unwrap_or(usize::MAX);
            all.extend(more);
            if !full {
                return Ok(all);
            }
        }
    }
}

impl Desk {
    /// Reads the webhooks anew.
    async fn look(&mut self, service: &Arc<Service>) -> Result<(), Error> {
        let before: Vec<WebhookId> = self.webhooks.iter().map(|one| one.id).collect();
        let mut all = service.every_webhook().await.map_err(Error::Store)?;
        all.retain(|one| one.enabled);
        self.webhooks = all;
        self.due.retain(|id, _| self.webhooks.iter().any(|one| one.id == *id));
        if self.webhooks.is_empty() {
            self.read = None;
            return Ok(());
        }
        let last = match self.read {
            Some(read) => read,
            None => service.repository().last_event().await.map_err(Error::Store)?,
        };
        self.read = Some(last);
        // Nobody has looked at what came before for those that are new here.
        for one in self.webhooks.iter().filter(|one| !before.contains(&one.id)) {
            self.due.insert(one.id, last);
        }
        Ok(())
    }

    /// Reads the events that are new, and sends for those that they are for.
    async fn read(
        &mut self,
        service: &Arc<Service>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        while let Some(read) = self.read {
            let (events, last) = service.events_from(read, PAGE, &Scope::Everything).await?;
            for webhook in &self.webhooks {
                if let Some(event) = events.iter().rev().find(|event| is_for(webhook, event)) {
                    self.due.insert(webhook.id, event.id.parse().unwrap_or(read));
                }
            }
            let Some(last) = last else { break };
            self.read = Some(last);
        }
        self.send(service, stop);
        Ok(())
    }

    /// Has a courier set out for every webhook that there is something to do for.
    fn send(&mut self, service: &Arc<Service>, stop: &CancellationToken) {
        let (now, read) = (Timestamp::now(), self.read.unwrap_or(0));
        for webhook in &self.webhooks {
            let id = webhook.id;
            let may = webhook.next_at.is_none_or(|next| next <= now)
                && webhook.held_until.is_none_or(|until| until <= now);
            let has_news = self.due.get(&id).is_some_and(|due| webhook.seen < *due);
            let was_left = webhook.failures > 0 || webhook.held_until.is_some();
            let is_far = read.saturating_sub(webhook.seen) > BEHIND;
            if !may || !(has_news || was_left || is_far) || self.away.values().any(|one| *one == id)
            {
                continue;
            }
            let (service, server, stop) = (Arc::clone(service), self.server, stop.clone());
            let going = self.couriers.spawn(async move {
                Some(Courier::set_out(service, id, server, stop).await?.run().await)
            });
            self.away.insert(going.id(), id);
        }
    }

    /// Takes in how far a courier has come.
    fn welcome(&mut self, back: Result<(task::Id, Option<u64>), JoinError>) {
        let (task, seen) = match back {
            Ok(back) => back,
            Err(error) => {
                error!(%error, "A courier of a webhook ended in a way it should not");
                (error.id(), None)
            }
        };
        let Some(id) = self.away.remove(&task) else { return };
        let Some(webhook) = self.webhooks.iter_mut().find(|one| one.id == id) else { return };
        match seen {
            Some(seen) => webhook.seen = webhook.seen.max(seen),
            // Somebody else holds it, or it waits: which, the next look says.
            None => webhook.held_until = Some(Timestamp::now() + LOOK),
        }
    }
}

//! One webhook, from where it is to where the events are.

use std::sync::Arc;
use std::time::Duration;

use eip_model::{Event, SigningSecret, WebhookId, chain};
use eip_store::{Deliveries, DeliveryFailure, Hold, Scope, StoreError, WebhookRecord};
use eip_webhook::{Attempt, Message};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::metrics;
use crate::service::{Error, Service};

/// How many events are read at a time.
const PAGE: u32 = 500;

/// How long a webhook is held for what takes at most half of that: an attempt.
const HOLD: SignedDuration = SignedDuration::from_secs(30);

/// How old what is known of a webhook may be when something is sent for it. How far it is, is noted as
/// often: whatever was sent since is sent again after a crash.
const KNOWN: Duration = Duration::from_secs(1);

/// How long a webhook is held when nothing more happens: often something does.
const LINGER: Duration = Duration::from_secs(1);

/// How long after the first attempt that failed the second one is; every next one waits twice as long.
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(1);
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(1);

/// For how long a webhook may fail without a break until it is disabled.
const GIVE_UP: SignedDuration = SignedDuration::from_hours(72);

/// Whether the events that a webhook is for include this one. What becomes of itself it is told in any
/// case: a receiver sees at once that what was set up works.
pub(super) fn is_for(webhook: &WebhookRecord, event: &Event) -> bool {
    let of_project = webhook.project.is_none() || webhook.project == event.project;
    let of_kind = webhook.kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind));
    of_project && (of_kind || concerns(webhook, event))
}

/// Whether the event tells what became of the webhook itself.
fn concerns(webhook: &WebhookRecord, event: &Event) -> bool {
    event.subject.as_ref().is_some_and(|subject| *subject == webhook.id.to_string())
}

/// Sends for one webhook, as long as it holds it.
#[derive(Debug)]
pub(super) struct Courier {
    service: Arc<Service>,
    hold: Holder,
    stop: CancellationToken,
    webhook: WebhookRecord,
    /// When that was read.
    known: Instant,
    /// The number of the last event that was dealt with.
    seen: u64,
    accepted_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy)]
struct Holder {
    id: WebhookId,
    server: Uuid,
}

impl Holder {
    fn until(self, length: SignedDuration) -> Hold {
        let now = Timestamp::now();
        Hold { id: self.id, holder: self.server, now, until: now + length }
    }
}

/// What came of an event.
enum Outcome {
    Sent,
    /// It was not, or nobody knows; how far the webhook is has been noted.
    Ended,
}

impl Courier {
    /// Holds the webhook; `None` when there is nothing to do for it, or another server does it.
    pub(super) async fn set_out(
        service: Arc<Service>,
        id: WebhookId,
        server: Uuid,
        stop: CancellationToken,
    ) -> Option<Self> {
        let hold = Holder { id, server };
        match service.repository().hold_webhook(&hold.until(HOLD)).await {
            Ok(webhook) => {
                let webhook = webhook?;
                let (known, seen) = (Instant::now(), webhook.seen);
                Some(Self { service, hold, stop, webhook, known, seen, accepted_at: None })
            }
            Err(error) => {
                warn!(webhook = %id, error = chain(&error), "Could not send for a webhook");
                None
            }
        }
    }

    /// Sends whatever there is until nothing more comes, and lets go of the webhook. Returns how far
    /// it is then.
    pub(super) async fn run(mut self) -> u64 {
        match self.carry().await {
            Ok(Outcome::Sent) => self.let_go().await,
            Ok(Outcome::Ended) => {}
            Err(error) => {
                let error = chain(&error);
                warn!(webhook = %self.hold.id, error, "Could not go on sending for a webhook");
            }
        }
        self.seen
    }

    async fn carry(&mut self) -> Result<Outcome, Error> {
        let mut wakes = self.service.signals.watch_events();
        let mut idle = Instant::now();
        let scope = match &self.webhook.project {
            Some(project) => Scope::Project(project.clone()),
            None => Scope::Everything,
        };
        while !self.stop.is_cancelled() {
            wakes.borrow_and_update();
            let (events, last) = self.service.events_from(self.seen, PAGE, &scope).await?;
            for event in &events {
                if is_for(&self.webhook, event) {
                    if let Outcome::Ended = self.deliver(event).await? {
                        return Ok(Outcome::Ended);
                    }
                    idle = Instant::now();
                }
                self.seen = event.id.parse().unwrap_or(self.seen);
            }
            match last {
                Some(last) => self.seen = last,
                None => {
                    let left = LINGER.saturating_sub(idle.elapsed());
                    let waited = tokio::time::timeout(left, wakes.changed());
                    if !matches!(self.stop.run_until_cancelled(waited).await, Some(Ok(Ok(())))) {
                        break;
                    }
                }
            }
        }
        Ok(Outcome::Sent)
    }

    /// Sends an event, again if the webhook was changed while it failed.
    async fn deliver(&mut self, event: &Event) -> Result<Outcome, Error> {
        // What it is told of itself is sent as it is since then: to another place, with a new secret.
        let mut known = !concerns(&self.webhook, event) && self.known.elapsed() <= KNOWN;
        loop {
            if !known && !self.note(None).await.map_err(Error::Store)? {
                return Ok(Outcome::Ended);
            }
            if !is_for(&self.webhook, event) {
                return Ok(Outcome::Sent);
            }
            let now = Timestamp::now();
            // Cut off, it may have arrived: it is sent again.
            let Some(attempt) = self.attempt(event, now).await else {
                self.let_go().await;
                return Ok(Outcome::Ended);
            };
            metrics::count_delivery(attempt == Attempt::Accepted);
            let (why, next_at) = match attempt {
                Attempt::Accepted => {
                    self.accepted_at = Some(now);
                    return Ok(Outcome::Sent);
                }
                Attempt::Failed { why, wait } => {
                    (why, next_attempt(&self.webhook, now, wait, rand::random()))
                }
                Attempt::Gone => ("the answer was 410 Gone".to_owned(), None),
            };
            match next_at {
                Some(_) => info!(webhook = %self.hold.id, why, "Could not send for a webhook"),
                None => warn!(webhook = %self.hold.id, why, "Gave up on a webhook"),
            }
            let updated_at = self.webhook.updated_at;
            let failure = DeliveryFailure { why, next_at, updated_at };
            if !self.note(Some(failure)).await.map_err(Error::Store)? {
                return Ok(Outcome::Ended);
            }
            known = true;
        }
    }

    /// `None` when it was told to stop.
    async fn attempt(&self, event: &Event, now: Timestamp) -> Option<Attempt> {
        let WebhookRecord { url, secret, old_secret, .. } = &self.webhook;
        let old = old_secret.as_ref().filter(|(_, until)| *until > now).map(|(old, _)| old);
        let secrets: Vec<&SigningSecret> = [secret].into_iter().chain(old).collect();
        let message = Message::of(event);
        let sending = self.service.sender.send(url, &secrets, &message, now);
        self.stop.run_until_cancelled(sending).await
    }

    /// Notes how far the webhook is. Returns whether it is still held.
    async fn note(&mut self, failure: Option<DeliveryFailure>) -> Result<bool, StoreError> {
        self.write(HOLD, failure).await.map(|held| match held {
            Some(webhook) => {
                self.webhook = webhook;
                self.known = Instant::now();
                true
            }
            None => false,
        })
    }

    async fn let_go(&self) {
        if let Err(error) = self.write(SignedDuration::ZERO, None).await {
            warn!(webhook = %self.hold.id, error = chain(&error), "Could not note what was sent");
        }
    }

    async fn write(
        &self,
        length: SignedDuration,
        failure: Option<DeliveryFailure>,
    ) -> Result<Option<WebhookRecord>, StoreError> {
        let deliveries = Deliveries { seen: self.seen, accepted_at: self.accepted_at, failure };
        self.service.repository().note_deliveries(&self.hold.until(length), &deliveries).await
    }
}

/// Says when to try again after one more attempt that failed at `now`; `None` to give up. `chance` is 0
/// to 1, and spreads those who failed together.
fn next_attempt(
    webhook: &WebhookRecord,
    now: Timestamp,
    asked: Option<Duration>,
    chance: f64,
) -> Option<Timestamp> {
    if webhook.failing_since.is_some_and(|since| now.duration_since(since) > GIVE_UP) {
        return None;
    }
    let doublings = i32::try_from(webhook.failures).unwrap_or(i32::MAX).min(16);
    let wait = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
    let wait = wait.mul_f64(0.75 + 0.5 * chance.clamp(0.0, 1.0));
    // It may ask for more, within reason.
    let asked = asked.and_then(|asked| SignedDuration::try_from(asked).ok());
    Some(now + wait.max(asked.unwrap_or_default().min(LONGEST_WAIT)))
}

#[cfg(test)]
mod tests {
    use eip_model::EventKind;

    use super::*;

    fn webhook(failures: u64, failing_since: Option<Timestamp>) -> WebhookRecord {
        WebhookRecord {
            id: WebhookId::new(Uuid::from_u128(1)),
            project: None,
            name: None,
            url: "https://hooks.example.com/".parse().unwrap(),
            kinds: None,
            secret: SigningSecret::new([0; 32]),
            old_secret: None,
            enabled: true,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            seen: 0,
            failures,
            failing_since,
            next_at: None,
            last_error: None,
            delivered_at: None,
            held_until: None,
        }
    }

    #[test]
    fn every_attempt_waits_longer_than_the_one_before_up_to_an_hour() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let wait = |failures, asked, chance| {
            let next = next_attempt(&webhook(failures, Some(now)), now, asked, chance).unwrap();
            next.duration_since(now)
        };
        for failures in 0..12 {
            let (least, most) = (wait(failures, None, 0.0), wait(failures, None, 1.0));
            let middle = SignedDuration::from_secs((1 << failures).min(3_600));
            assert_eq!((least, most), (middle.mul_f64(0.75), middle.mul_f64(1.25)), "{failures}");
        }
        assert_eq!(wait(u64::MAX, None, 0.5), LONGEST_WAIT);
        assert_eq!(wait(0, Some(Duration::from_secs(90)), 0.5), SignedDuration::from_secs(90));
        assert_eq!(wait(0, Some(Duration::MAX), 0.5), FIRST_WAIT);
        assert_eq!(wait(0, Some(Duration::from_secs(1 << 40)), 0.5), LONGEST_WAIT);
    }

    #[test]
    fn what_has_failed_for_three_days_is_given_up() {
        let since = Timestamp::from_second(1_700_000_000).unwrap();
        let after = |hours| {
            let now = since + SignedDuration::from_hours(hours);
            next_attempt(&webhook(90, Some(since)), now, None, 0.5).is_some()
        };
        assert!(after(71));
        assert!(!after(73));
    }

    #[test]
    fn a_webhook_is_for_its_kinds_and_its_project_and_for_what_becomes_of_itself() {
        let event = |kind, project: Option<&str>, subject: Option<String>| Event {
            id: "1".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            kind,
            project: project.map(|name| name.parse().unwrap()),
            elastic_ip_id: None,
            public_ip: None,
            instance_id: None,
            instance_name: None,
            host: None,
            actor: "key:k".to_owned(),
            subject,
            detail: None,
        };
        let all = webhook(0, None);
        let some = WebhookRecord { kinds: Some(vec![EventKind::Moved]), ..webhook(0, None) };
        let own = WebhookRecord { project: Some("acme".parse().unwrap()), ..webhook(0, None) };
        let moved = event(EventKind::Moved, Some("acme"), None);
        let mended = event(EventKind::DataPlaneMended, None, None);
        assert!(is_for(&all, &moved) && is_for(&all, &mended));
        assert!(is_for(&some, &moved) && !is_for(&some, &mended));
        assert!(is_for(&own, &moved) && !is_for(&own, &mended));
        assert!(!is_for(&own, &event(EventKind::Moved, Some("other"), None)));
        let itself = event(EventKind::WebhookCreated, None, Some(some.id.to_string()));
        let another = event(EventKind::WebhookCreated, None, Some(Uuid::nil().to_string()));
        assert!(is_for(&some, &itself) && !is_for(&some, &another));
    }
}

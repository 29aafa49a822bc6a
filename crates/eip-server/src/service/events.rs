//! Following the events of all elastic IPs.

use std::time::Duration;

use eip_model::Event;
use eip_store::Scope;
use tokio::sync::watch;

use super::keys::ApiKey;
use super::{Caller, Error, Service};

/// How many events are read at a time.
const PAGE: u32 = 500;

/// How often a list is looked through for more before it is told as it is.
const MOST_LOOKS: u32 = 5;

/// How often a follower looks without having been woken, and whether its key is still good.
const SLOW_POLL: Duration = Duration::from_secs(1);

/// A place in the order of the events, and whose of them are shown.
#[derive(Debug)]
pub(crate) struct Follower {
    scope: Scope,
    after: u64,
    wakes: watch::Receiver<u64>,
    key: ApiKey,
}

impl Service {
    /// Begins behind the event that has this number, or else with the next one that comes.
    pub(crate) async fn follow_events(
        &self,
        caller: &Caller,
        key: ApiKey,
        after: Option<u64>,
    ) -> Result<Follower, Error> {
        let scope = caller.may_read()?;
        // Watched before it is looked at: what comes between is seen twice, not never.
        let wakes = self.signals.watch_events();
        let last = self.repository().last_event().await.map_err(Error::Store)?;
        let after = after.unwrap_or(last);
        if after > last {
            let hint = "this record may have been restored from a copy; read the state anew";
            return Err(Error::invalid(format!("there is no event {after} yet"), hint));
        }
        Ok(Follower { scope, after, wakes, key })
    }

    /// Returns the next events that the follower may see, waiting until there are any, as long as its
    /// key is good.
    pub(crate) async fn next_events(&self, follower: &mut Follower) -> Result<Vec<Event>, Error> {
        loop {
            self.authenticate(Some(follower.key.expose())).await?;
            follower.wakes.borrow_and_update();
            let (events, seen) = self.events_from(follower.after, PAGE, &follower.scope).await?;
            follower.after = seen.unwrap_or(follower.after);
            if !events.is_empty() {
                return Ok(events);
            }
            if seen.is_none() {
                // Either outcome leads to another look.
                tokio::time::timeout(SLOW_POLL, follower.wakes.changed()).await.ok();
            }
        }
    }

    /// Returns at most `limit` events behind one, oldest first, and the place from which to go on if
    /// there may be more. A page may be short of them: looking for those of one project among very
    /// many others ends after a while.
    pub(crate) async fn events_after(
        &self,
        caller: &Caller,
        mut after: u64,
        limit: u32,
    ) -> Result<(Vec<Event>, Option<u64>), Error> {
        let scope = caller.may_read()?;
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut events: Vec<Event> = Vec::new();
        for _ in 0..MOST_LOOKS {
            let left = u32::try_from(wanted - events.len()).unwrap_or(limit);
            let (more, seen) = self.events_from(after, left, &scope).await?;
            let Some(seen) = seen else { return Ok((events, None)) };
            after = seen;
            events.extend(more);
            if events.len() >= wanted {
                break;
            }
        }
        Ok((events, Some(after)))
    }

    /// Returns those of the next events that the scope shows, and how far that was; `None` when there
    /// is nothing more.
    pub(super) async fn events_from(
        &self,
        after: u64,
        limit: u32,
        scope: &Scope,
    ) -> Result<(Vec<Event>, Option<u64>), Error> {
        if let Some(project) = scope.project() {
            let found = self.repository().events_of_project(project, after, limit).await;
            return found.map_err(Error::Store);
        }
        let read = self.repository().events_after(after, limit).await;
        let events = read.map_err(Error::Store)?;
        let seen = events.last().and_then(|event| event.id.parse().ok());
        Ok((events, seen))
    }
}

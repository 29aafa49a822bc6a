//! Following the events of all elastic IPs.

use std::time::Duration;

use eip_model::Event;
use eip_store::Scope;
use tokio::sync::watch;

use super::{Caller, Error, Service};

/// How many events are read at a time.
const PAGE: u32 = 500;

/// How often a follower looks without having been woken.
const SLOW_POLL: Duration = Duration::from_secs(1);

/// A place in the order of the events, and whose of them are shown.
#[derive(Debug)]
pub(crate) struct Follower {
    scope: Scope,
    after: u64,
    wakes: watch::Receiver<u64>,
}

impl Service {
    /// Begins behind the event that has this number, or else with the next one that comes.
    pub(crate) async fn follow_events(
        &self,
        caller: &Caller,
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
        Ok(Follower { scope, after, wakes })
    }

    /// Returns the next events that the follower may see, waiting until there are any.
    pub(crate) async fn next_events(&self, follower: &mut Follower) -> Result<Vec<Event>, Error> {
        loop {
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

    /// Returns at most `limit` events behind one, oldest first.
    pub(crate) async fn events_after(
        &self,
        caller: &Caller,
        mut after: u64,
        limit: u32,
    ) -> Result<Vec<Event>, Error> {
        let scope = caller.may_read()?;
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut events = Vec::new();
        while events.len() < wanted {
            let (more, seen) = self.events_from(after, limit.max(PAGE), &scope).await?;
            let Some(seen) = seen else { break };
            after = seen;
            events.extend(more);
        }
        events.truncate(wanted);
        Ok(events)
    }

    /// Returns those of the next events that the scope shows, and how far that was.
    pub(super) async fn events_from(
        &self,
        after: u64,
        limit: u32,
        scope: &Scope,
    ) -> Result<(Vec<Event>, Option<u64>), Error> {
        let read = self.repository().events_after(after, limit).await;
        let mut events = read.map_err(Error::Store)?;
        let seen = events.last().and_then(|event| event.id.parse().ok());
        if let Some(project) = scope.project() {
            events.retain(|event| event.project.as_ref() == Some(project));
        }
        Ok((events, seen))
    }
}

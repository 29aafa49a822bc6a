//! Telling the server what was put right on this host.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eip_model::{MENDS_KEPT, Mend, MendReport, chain};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::server::{LinkError, ServerLink};

/// What is mended again within this time is told together, when it is over.
const TOGETHER: Duration = Duration::from_secs(10);
/// How long to wait before a server that did not answer is told again.
const RETRY: Duration = Duration::from_secs(1);
/// The same for one that turned the report down: it may be older than this agent.
const LONG_RETRY: Duration = Duration::from_secs(60);

/// What was mended and no server has taken yet.
#[derive(Debug, Default)]
pub(crate) struct Mends {
    kept: Mutex<Kept>,
    news: Notify,
}

impl Mends {
    /// Has it told that this was mended now.
    pub(crate) fn add(&self, what: &'static str) {
        self.kept().add(what, Timestamp::now(), Instant::now());
        self.news.notify_one();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what was mended, each thing until a server has taken it, until told to stop.
pub(crate) async fn tell_mends(mends: Arc<Mends>, server: ServerLink, stop: CancellationToken) {
    let telling = async {
        loop {
            let (due, next) = mends.kept().due(Instant::now());
            if due.is_empty() {
                let over = async {
                    match next {
                        Some(next) => tokio::time::sleep_until(next).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = mends.news.notified() => {}
                    () = over => {}
                }
                continue;
            }
            let report = MendReport { mends: due };
            match server.put("mends", &report).await {
                Ok(()) => mends.kept().taken(&report.mends),
                Err(error) => {
                    debug!(error = %chain(&error), "What was mended did not arrive; will retry");
                    tokio::time::sleep(pause(&error)).await;
                }
            }
        }
    };
    stop.run_until_cancelled(telling).await;
}

fn pause(error: &LinkError) -> Duration {
    match error {
        LinkError::Refused { status, .. } if status.is_client_error() => LONG_RETRY,
        LinkError::Refused { .. } | LinkError::Unreached(_) | LinkError::Garbled(_) => RETRY,
    }
}

#[derive(Debug, Default)]
struct Kept {
    all: VecDeque<Waiting>,
    /// Until when what is mended again is told together.
    until: BTreeMap<&'static str, Instant>,
}

#[derive(Debug)]
struct Waiting {
    mend: Mend,
    due: Instant,
    /// A server may have taken it: what it says does not change any more.
    offered: bool,
}

impl Kept {
    /// The first of a kind is due at once, those that follow soon are due together.
    fn add(&mut self, what: &'static str, at: Timestamp, now: Instant) {
        let due = match self.until.get(what) {
            Some(until) if *until > now => *until,
            Some(_) | None => {
                self.until.insert(what, now + TOGETHER);
                now
            }
        };
        let same = |one: &&mut Waiting| one.mend.what == what && one.due == due && !one.offered;
        if let Some(one) = self.all.iter_mut().find(same) {
            one.mend.times = one.mend.times.saturating_add(1);
            return;
        }
        if self.all.len() >= MENDS_KEPT
            && let Some(oldest) = self.all.pop_front()
        {
            let Mend { at, what, times } = oldest.mend;
            warn!(%at, what, times, "Too much was mended to tell all; the server never hears of this");
        }
        let mend = Mend { at, what: what.to_owned(), times: 1 };
        self.all.push_back(Waiting { mend, due, offered: false });
    }

    /// Returns what is to be told now, and when there will be more.
    fn due(&mut self, now: Instant) -> (Vec<Mend>, Option<Instant>) {
        let mut due = Vec::new();
        for one in self.all.iter_mut().filter(|one| one.due <= now) {
            one.offered = true;
            due.push(one.mend.clone());
        }
        (due, self.all.iter().map(|one| one.due).filter(|due| *due > now).min())
    }

    fn taken(&mut self, mends: &[Mend]) {
        self.all.retain(|one| !one.offered || !mends.contains(&one.mend));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn told(kept: &mut Kept, now: Instant) -> Vec<(i64, String, u32)> {
        let (due, _) = kept.due(now);
        due.into_iter().map(|one| (one.at.as_second(), one.what, one.times)).collect()
    }

    fn one(second: i64, what: &str, times: u32) -> (i64, String, u32) {
        (second, what.to_owned(), times)
    }

    #[test]
    fn the_first_is_told_at_once_and_what_follows_soon_is_told_together() {
        let mut kept = Kept::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        kept.add("routes", at(0), start);
        assert_eq!(told(&mut kept, start), [one(0, "routes", 1)]);
        let (due, _) = kept.due(start);
        kept.taken(&due);
        kept.add("routes", at(1), after(1));
        kept.add("table", at(2), after(2));
        kept.add("routes", at(3), after(3));
        assert_eq!(told(&mut kept, after(4)), [one(2, "table", 1)]);
        assert_eq!(kept.due(after(4)).1, Some(after(10)));
        let (due, _) = kept.due(after(4));
        kept.taken(&due);
        assert_eq!(told(&mut kept, after(10)), [one(1, "routes", 2)]);
        kept.add("routes", at(11), after(11));
        assert_eq!(told(&mut kept, after(11)), [one(1, "routes", 2), one(11, "routes", 1)]);
    }

    #[test]
    fn what_a_server_may_have_taken_is_told_again_as_it_was() {
        let mut kept = Kept::default();
        let start = Instant::now();
        kept.add("table", at(0), start);
        let (due, _) = kept.due(start);
        // The answer to that is lost.
        kept.add("table", at(0), start);
        assert_eq!(told(&mut kept, start), [one(0, "table", 1)]);
        kept.taken(&due);
        assert_eq!(told(&mut kept, start + TOGETHER), [one(0, "table", 1)]);
    }

    #[test]
    fn no_more_is_kept_than_a_report_may_have() {
        let mut kept = Kept::default();
        let start = Instant::now();
        for n in 0..150 {
            let now = start + TOGETHER * n;
            kept.add("table", at(n.into()), now);
            kept.due(now);
        }
        let (due, _) = kept.due(start + TOGETHER * 150);
        assert_eq!((due.len(), due[0].at), (MENDS_KEPT, at(50)));
    }
}

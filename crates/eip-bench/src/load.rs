//! The closed loop: every connection asks, waits for the answer, and asks the next.
//!
//! All connections live on one thread, so that the generator costs as little as it can of the
//! processors that it shares with the server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use crate::http::{Answer, Connection};
use crate::latencies::{Latencies, micros};

/// How long any burst may take: a server that has grown slow breaks one benchmark, not the night.
const LONGEST: Duration = Duration::from_mins(5);

/// What one connection asks.
pub(crate) trait Caller {
    /// The next request; `None` when there is nothing more to ask.
    fn ask(&mut self) -> Option<&[u8]>;

    /// Takes in what was answered.
    fn hear(&mut self, answer: Answer<'_>);

    /// Whether it was answered as it should be.
    fn expects(&self, answer: Answer<'_>) -> bool {
        answer.is_success()
    }

    /// Whether nothing that was begun is left behind when the time is over now.
    fn may_stop(&self) -> bool {
        true
    }
}

/// The same request over and over.
#[derive(Debug, Clone)]
pub(crate) struct Repeat(pub(crate) Vec<u8>);

impl Caller for Repeat {
    fn ask(&mut self) -> Option<&[u8]> {
        Some(&self.0)
    }

    fn hear(&mut self, _: Answer<'_>) {}
}

/// When a burst ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    Elapsed(Duration),
    /// Every caller has nothing more to ask.
    Done,
}

/// What a burst of requests came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Burst {
    pub(crate) seconds: f64,
    pub(crate) latencies: Latencies,
    pub(crate) refused: Refused,
}

impl Burst {
    /// Requests that were answered as they should be, per second.
    pub(crate) fn rate(&self) -> f64 {
        (self.latencies.count() as f64 - self.refused.count() as f64) / self.seconds
    }
}

/// Answers other than 2xx, where nothing else was expected: how many of each status, and what the first one said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused(pub(crate) BTreeMap<u16, (u64, String)>);

impl Refused {
    pub(crate) fn count(&self) -> u64 {
        self.0.values().map(|(count, _)| count).sum()
    }

    pub(crate) fn of_status(&self, status: u16) -> u64 {
        self.0.get(&status).map_or(0, |(count, _)| *count)
    }

    pub(crate) fn note(&mut self, answer: Answer<'_>) {
        let (count, _) = self.0.entry(answer.status).or_insert_with(|| (0, answer.text()));
        *count += 1;
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (status, (count, sample)) in other.0 {
            self.0.entry(status).or_insert((0, sample)).0 += count;
        }
    }
}

/// Runs one connection per caller, and returns what it came to.
///
/// The connections are there before the clock starts.
pub(crate) async fn burst<C>(at: SocketAddr, callers: Vec<C>, until: Until) -> Result<Burst>
where
    C: Caller + 'static,
{
    let mut connections = Vec::with_capacity(callers.len());
    for caller in callers {
        connections.push((Connection::open(at).await?, caller));
    }
    let here = tokio::task::LocalSet::new();
    let begun = Instant::now();
    let deadline = match until {
        Until::Elapsed(time) => Some(begun + time),
        Until::Done => None,
    };
    let tasks = here.run_until(async {
        let mut tasks = JoinSet::new();
        for (connection, caller) in connections {
            tasks.spawn_local(one(connection, caller, deadline));
        }
        let mut done = Vec::new();
        while let Some(task) = tasks.join_next().await {
            done.push(task.context("a connection of the load generator ended badly")??);
        }
        anyhow::Ok(done)
    });
    let done = tokio::time::timeout(LONGEST, tasks).await;
    let done = done.with_context(|| format!("a burst is not over after {LONGEST:?}"))??;
    let seconds = begun.elapsed().as_secs_f64();
    let mut times = Vec::with_capacity(done.iter().map(|(times, _)| times.len()).sum());
    let mut refused = Refused::default();
    for (some, more) in done {
        times.extend(some);
        refused.merge(more);
    }
    Ok(Burst { seconds, latencies: Latencies::of(times), refused })
}

async fn one<C: Caller>(
    mut connection: Connection,
    mut caller: C,
    deadline: Option<Instant>,
) -> Result<(Vec<u32>, Refused)> {
    let mut times = Vec::with_capacity(8192);
    let mut refused = Refused::default();
    let mut now = Instant::now();
    while deadline.is_none_or(|deadline| now < deadline) || !caller.may_stop() {
        let Some(request) = caller.ask() else {
            break;
        };
        let answer = connection.ask(request).await?;
        // The end of one is the beginning of the next: half of the questions about the time.
        let asked = std::mem::replace(&mut now, Instant::now());
        times.push(micros(now - asked));
        if !caller.expects(answer) {
            refused.note(answer);
        }
        caller.hear(answer);
    }
    Ok((times, refused))
}

//! What the kernel counted of a process: its time on processors and its memory.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Sub;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Microseconds in a tick of `/proc`: every architecture that matters counts 100 in a second.
const TICK: u64 = 10_000;

/// Time on processors, in microseconds, since the processes began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) server: u64,
    /// All processes of the cluster, those that have ended included.
    pub(crate) postgres: u64,
    /// This process: the load generator.
    pub(crate) own: u64,
}

impl Usage {
    pub(crate) fn now(server: u32, postmaster: u32) -> Result<Self> {
        Ok(Self {
            server: Stat::of(server)?.busy,
            postgres: cluster(postmaster)?,
            own: Stat::of(std::process::id())?.busy,
        })
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            server: self.server.saturating_sub(earlier.server),
            postgres: self.postgres.saturating_sub(earlier.postgres),
            own: self.own.saturating_sub(earlier.own),
        }
    }
}

/// Waits until a process takes less than a tenth of a processor, but no longer than `patience`. Returns how
/// long that took.
pub(crate) async fn until_it_rests(pid: u32, patience: Duration) -> Result<Duration> {
    const LOOK: Duration = Duration::from_millis(500);
    let begun = Instant::now();
    loop {
        let (before, at) = (Stat::of(pid)?.busy, Instant::now());
        tokio::time::sleep(LOOK).await;
        let busy = Stat::of(pid)?.busy - before;
        if u128::from(busy) * 10 < at.elapsed().as_micros() || begun.elapsed() > patience {
            return Ok(begun.elapsed());
        }
    }
}

/// Memory of a process that is in RAM, in bytes.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.map(|kilobytes| kilobytes * 1024).context("the kernel tells no VmRSS")
}

fn cluster(postmaster: u32) -> Result<u64> {
    let parent = Stat::of(postmaster)?;
    let mut total = parent.busy + parent.ended;
    let children: BTreeSet<u32> = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for pid in children {
        // One that has just ended is in its parent's count at the next look.
        if let Ok(stat) = Stat::of(pid)
            && stat.parent == postmaster
        {
            total += stat.busy;
        }
    }
    Ok(total)
}

/// A line of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    busy: u64,
    /// Of children that have ended and were waited for.
    ended: u64,
}

impl Stat {
    fn of(pid: u32) -> Result<Self> {
        let line = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::read(&line).with_context(|| format!("cannot read the times of process {pid}"))
    }

    fn read(line: &str) -> Option<Self> {
        // The name in brackets may hold anything, brackets and spaces included.
        let (_, rest) = line.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            busy: (ticks(11)? + ticks(12)?) * TICK,
            ended: (ticks(13)? + ticks(14)?) * TICK,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let line = "42 (a) b) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 300 400 20 0 1 0 99 1 2";
        let stat = Stat { parent: 7, busy: 300_000, ended: 7_000_000 };
        assert_eq!(Stat::read(line), Some(stat));
        assert_eq!(Stat::read("42 (a) S 7"), None);
    }

    #[test]
    fn this_process_is_in_memory() {
        assert!(memory(std::process::id()).unwrap() > 100_000);
    }
}

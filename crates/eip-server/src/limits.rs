//! How much the service takes on: of each key, and altogether.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use eip_model::KeyId;

/// How many keys are remembered at most, but for those that are about to be limited.
const REMEMBERED: usize = 10_000;

/// What the service takes on. The rest is told to come again, at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many requests a second a key of role `member` or `reader` may make, and at once after a
    /// pause; without it, any number.
    pub rate: Option<NonZeroU32>,
    /// How many requests are worked on at once; 503 for those beyond.
    pub in_flight: usize,
    /// How many connections are open at once; 503 for those beyond.
    pub connections: usize,
    /// How long a client may take to send the head of a request, also the next one on its
    /// connection, and for a TLS handshake.
    pub head: Duration,
    /// How long a body may take to arrive.
    pub body: Duration,
    /// How long a client may take nothing of what is written to it; its connection is ended then.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rate: None,
            in_flight: 1024,
            connections: 4096,
            head: Duration::from_secs(15),
            body: Duration::from_secs(15),
            write: Duration::from_secs(30),
        }
    }
}

/// What a key has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// How many requests it may make a second.
    pub(crate) quota: u32,
    /// How many it may make now.
    pub(crate) remaining: u32,
    /// When it may make as many as ever.
    pub(crate) reset: Duration,
}

/// The request is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany {
    pub(crate) standing: Standing,
    /// When there is room for one again.
    pub(crate) wait: Duration,
}

/// Counts the requests of each key.
///
/// The generic cell rate algorithm: of each key it keeps the moment at which it will have its whole
/// quota again. A request moves that by one interval, and is too many if that is more than a second
/// away. No timer, nothing to refill, and what there is to forget is told by the clock.
#[derive(Debug)]
pub(crate) struct Rates {
    quota: NonZeroU32,
    whole_at: Mutex<HashMap<KeyId, Instant>>,
}

impl Rates {
    pub(crate) fn new(quota: NonZeroU32) -> Self {
        Self { quota, whole_at: Mutex::default() }
    }

    /// Counts a request of this key.
    pub(crate) fn count(&self, key: &KeyId, now: Instant) -> Result<Standing, TooMany> {
        let mut all = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        let (whole_at, standing) = step(self.quota, all.get(key).copied(), now)?;
        if all.len() >= REMEMBERED && !all.contains_key(key) {
            all.retain(|_, whole_at| *whole_at > now);
        }
        all.insert(key.clone(), whole_at);
        Ok(standing)
    }
}

/// Says what a request at `now` comes to, of a key that has its whole quota at `whole_at`.
fn step(
    quota: NonZeroU32,
    whole_at: Option<Instant>,
    now: Instant,
) -> Result<(Instant, Standing), TooMany> {
    let interval = Duration::from_secs(1) / quota.get();
    let window = interval * quota.get();
    let used = whole_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
    let standing = |used: Duration| {
        let left = window.saturating_sub(used).as_nanos() / interval.as_nanos().max(1);
        let remaining = u32::try_from(left).unwrap_or(u32::MAX);
        Standing { quota: quota.get(), remaining, reset: used }
    };
    let after = used + interval;
    if after > window {
        return Err(TooMany { standing: standing(used), wait: after - window });
    }
    Ok((now + after, standing(after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_key_makes_its_quota_at_once_and_then_one_each_interval() {
        let rates = Rates::new(NonZeroU32::new(10).unwrap());
        let (key, start) = (KeyId::new("a"), Instant::now());
        for left in (0..10).rev() {
            assert_eq!(rates.count(&key, start).unwrap().remaining, left);
        }
        let refused = rates.count(&key, at(start, 30)).unwrap_err();
        assert_eq!((refused.wait, refused.standing.remaining), (Duration::from_millis(70), 0));
        assert_eq!(rates.count(&key, at(start, 100)).unwrap().remaining, 0);
        assert!(rates.count(&key, at(start, 100)).is_err());
        assert!(rates.count(&KeyId::new("b"), at(start, 100)).is_ok(), "each for itself");
        assert_eq!(rates.count(&key, at(start, 5_000)).unwrap().remaining, 9);
    }

    #[test]
    fn no_second_holds_more_than_twice_the_quota_and_no_hour_more_than_its_share() {
        let rates = Rates::new(NonZeroU32::new(7).unwrap());
        let (key, start) = (KeyId::new("a"), Instant::now());
        let made = (0..60_000).filter(|ms| rates.count(&key, at(start, *ms)).is_ok()).count();
        assert!((7 * 60..=7 * 60 + 7).contains(&made), "{made}");
    }

    #[test]
    fn keys_that_have_their_whole_quota_are_forgotten() {
        let rates = Rates::new(NonZeroU32::new(100).unwrap());
        let start = Instant::now();
        for n in 0..REMEMBERED {
            rates.count(&KeyId::new(n.to_string()), start).unwrap();
        }
        rates.count(&KeyId::new("late"), at(start, 1_000)).unwrap();
        assert_eq!(rates.whole_at.lock().unwrap().len(), 1);
    }
}

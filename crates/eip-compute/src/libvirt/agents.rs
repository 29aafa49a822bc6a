//! When which guest agent is asked.
//!
//! An agent is a process in a guest: it may be slow, hang, or lie. It is asked when there is reason
//! to think that its answer is new, and seldom otherwise; one that does not answer is asked ever
//! more seldom. Few are asked at a time, so that those that hang hold up nobody but each other.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// So many agents may be at it at once.
const AT_ONCE: usize = 2;
/// An agent that has told an address is asked again after this.
const CONTENT: Duration = Duration::from_secs(60);
/// Between two questions to one agent, whatever happens.
const BREATH: Duration = Duration::from_secs(1);
/// One that failed is left alone for so long at least.
const FAILED: Duration = Duration::from_secs(5);
/// A guest that has just started its agent may be about to get its address.
const IMPATIENT: Duration = Duration::from_millis(500);

/// What an agent's answer was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    Address,
    Nothing,
    Failure,
}

/// The agents that are there.
#[derive(Debug, Default)]
pub(super) struct Agents {
    all: BTreeMap<Uuid, Agent>,
}

#[derive(Debug)]
struct Agent {
    /// When it was first seen to be there.
    since: Instant,
    due: Instant,
    asked: Option<Instant>,
    busy: bool,
}

impl Agents {
    /// One is there. Nothing happens if that was known.
    pub(super) fn is_there(&mut self, domain: Uuid, now: Instant) {
        let new = Agent { since: now, due: now, asked: None, busy: false };
        self.all.entry(domain).or_insert(new);
    }

    /// One is not there, or it is another one from now on.
    pub(super) fn is_gone(&mut self, domain: Uuid) {
        self.all.remove(&domain);
    }

    /// There is reason to think that an answer would be new.
    pub(super) fn hint(&mut self, domain: Uuid, now: Instant) {
        if let Some(agent) = self.all.get_mut(&domain) {
            let rested = agent.asked.map_or(now, |asked| now.max(asked + BREATH));
            agent.due = agent.due.min(rested);
        }
    }

    /// Returns who is to be asked now. `under_way` are all that have not been answered, also of
    /// agents that are gone.
    pub(super) fn next(&mut self, under_way: usize, now: Instant) -> Option<Uuid> {
        if under_way >= AT_ONCE {
            return None;
        }
        let waiting = self.all.iter_mut().filter(|(_, one)| !one.busy && one.due <= now);
        let (domain, agent) = waiting.min_by_key(|(_, one)| one.due)?;
        agent.busy = true;
        agent.asked = Some(now);
        Some(*domain)
    }

    /// When the next one is to be asked.
    pub(super) fn next_due(&self, under_way: usize) -> Option<Instant> {
        if under_way >= AT_ONCE {
            return None;
        }
        self.all.values().filter(|one| !one.busy).map(|one| one.due).min()
    }

    pub(super) fn answered(&mut self, domain: Uuid, worth: Worth, now: Instant) {
        let Some(agent) = self.all.get_mut(&domain) else { return };
        agent.busy = false;
        let growing = (now - agent.since) / 2;
        agent.due = now
            + match worth {
                Worth::Address => CONTENT,
                Worth::Nothing => growing.clamp(IMPATIENT, CONTENT),
                Worth::Failure => growing.clamp(FAILED, CONTENT),
            };
    }

    /// Whether everybody who is there has been asked and has answered.
    pub(super) fn all_heard(&self) -> bool {
        self.all.values().all(|one| one.asked.is_some() && !one.busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);
    const C: Uuid = Uuid::from_u128(3);

    #[test]
    fn agents_that_hang_hold_up_nobody_but_agents() {
        let now = Instant::now();
        let mut agents = Agents::default();
        for one in [A, B, C] {
            agents.is_there(one, now);
        }
        assert!(agents.next(0, now).is_some() && agents.next(1, now).is_some());
        assert_eq!(agents.next(2, now), None);
        assert_eq!(agents.next_due(2), None);
        assert!(!agents.all_heard());
        assert_eq!(agents.next(1, now), Some(C));
    }

    #[test]
    fn an_agent_is_not_asked_for_each_event_in_a_row() {
        let start = Instant::now();
        let mut agents = Agents::default();
        agents.is_there(A, start);
        assert_eq!(agents.next(0, start), Some(A));
        agents.answered(A, Worth::Address, start);
        for _ in 0..100 {
            agents.hint(A, start);
        }
        assert_eq!(agents.next(0, start), None);
        assert_eq!(agents.next(0, start + BREATH), Some(A));
        agents.answered(A, Worth::Address, start + BREATH);
        assert_eq!(agents.next_due(0), Some(start + BREATH + CONTENT));
        // After a rest it is asked at once.
        let later = start + BREATH * 9;
        agents.hint(A, later);
        assert_eq!(agents.next(0, later), Some(A));
    }

    #[test]
    fn an_agent_that_fails_is_asked_ever_more_seldom() {
        let start = Instant::now();
        let mut agents = Agents::default();
        agents.is_there(A, start);
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(agents.next(0, now), Some(A));
            agents.answered(A, Worth::Failure, now);
            let due = agents.next_due(0).unwrap();
            pauses.push(due - now);
            now = due;
        }
        assert_eq!((pauses[0], pauses[11]), (FAILED, CONTENT));
        assert!(pauses.is_sorted());
    }

    #[test]
    fn an_agent_that_has_gone_is_not_asked_and_one_that_returns_is_at_once() {
        let now = Instant::now();
        let mut agents = Agents::default();
        agents.is_there(A, now);
        agents.next(0, now);
        agents.is_gone(A);
        agents.answered(A, Worth::Address, now);
        assert_eq!(agents.next_due(0), None);
        agents.is_there(A, now);
        assert_eq!(agents.next(0, now), Some(A));
    }
}

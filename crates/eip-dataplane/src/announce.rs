//! Telling neighbours where an elastic IP is, and telling them again.
//!
//! One frame may get lost, and Linux ignores an announcement within a second of the last change of
//! its entry (`locktime` in `arp(7)`), so each is sent at 0, 0.1, 1 and 2 seconds. A thread of its
//! own does that: a change never waits for it.
//!
//! What is withdrawn is not announced again, not even once: an announcement that comes after
//! another host's would take the address away from it. So the thread holds a lock while it sends,
//! and whoever has withdrawn an address knows that the last frame is out.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::debug;

use crate::arp::FrameSocket;
use crate::host::Interface;

/// When each address is announced, from the moment it came.
const ROUNDS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(2)];
/// So many addresses are announced at once, with a pause behind them: a neighbour has to read each.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);

/// The hand that the data plane gives its addresses to. The thread ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Announcer {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    schedule: Mutex<Schedule>,
    news: Condvar,
}

impl Announcer {
    /// Needs the capability `CAP_NET_RAW`. Frames go to the namespace of the thread that calls.
    pub(crate) fn start() -> io::Result<Self> {
        let socket = FrameSocket::open()?;
        let shared = Arc::new(Shared::default());
        let herald = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("eip-announce".into())
            .spawn(move || herald.run(&socket))?;
        Ok(Self { shared })
    }

    /// Announces on these interfaces from now on. Returns whether one of them can hear what it
    /// could not before; false at the first call.
    pub(crate) fn on(&self, interfaces: Vec<Interface>) -> bool {
        let mut schedule = self.shared.lock();
        let known = schedule.interfaces.replace(interfaces);
        let (Some(known), Some(now)) = (known, &schedule.interfaces) else { return false };
        let same = |a: &Interface, b: &Interface| a.index == b.index && a.mac == b.mac;
        now.iter().any(|one| !known.iter().any(|other| same(one, other)))
    }

    /// Announces these addresses, now and again, until they are withdrawn.
    pub(crate) fn announce(&self, addresses: impl Iterator<Item = Ipv4Addr>) {
        self.shared.lock().add(addresses, Instant::now());
        self.shared.news.notify_one();
    }

    /// No frame for these addresses leaves after this returns.
    pub(crate) fn withdraw(&self, addresses: impl Iterator<Item = Ipv4Addr>) {
        let mut schedule = self.shared.lock();
        for address in addresses {
            schedule.wanted.remove(&address);
        }
    }

    /// No frame for any other address leaves after this returns.
    pub(crate) fn withdraw_all_but(&self, keep: impl Fn(Ipv4Addr) -> bool) {
        self.shared.lock().wanted.retain(|address, _| keep(*address));
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.news.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, socket: &FrameSocket) {
        let mut schedule = self.lock();
        while !schedule.over {
            let wait = schedule.burst(Instant::now(), |address, interfaces| {
                for interface in interfaces {
                    if let Err(error) = socket.announce(address, interface) {
                        let on = &interface.name;
                        debug!(interface = on, %error, "Could not send an announcement");
                    }
                }
            });
            schedule = match wait {
                Some(wait) => {
                    let woken = self.news.wait_timeout(schedule, wait);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.news.wait(schedule).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// What is to be announced when.
#[derive(Debug, Default)]
struct Schedule {
    /// None until it is told for the first time.
    interfaces: Option<Vec<Interface>>,
    /// Which announcement of an address is the one that counts: it may go and come again.
    wanted: BTreeMap<Ipv4Addr, u64>,
    last: u64,
    /// One line for each round, in the order in which they are due.
    rounds: [VecDeque<Due>; ROUNDS.len()],
    over: bool,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    address: Ipv4Addr,
    serial: u64,
}

impl Schedule {
    fn add(&mut self, addresses: impl Iterator<Item = Ipv4Addr>, now: Instant) {
        for address in addresses {
            self.last += 1;
            self.wanted.insert(address, self.last);
            self.rounds[0].push_back(Due { at: now, address, serial: self.last });
        }
    }

    /// Sends what is due, but no more than one burst. Returns when there is more to do, if there is.
    fn burst(
        &mut self,
        now: Instant,
        mut send: impl FnMut(Ipv4Addr, &[Interface]),
    ) -> Option<Duration> {
        let mut left = BURST;
        for (round, offset) in ROUNDS.iter().enumerate() {
            while let Some(due) = self.rounds[round].front().copied().filter(|due| due.at <= now) {
                if left == 0 {
                    return Some(PAUSE);
                }
                self.rounds[round].pop_front();
                if self.wanted.get(&due.address) != Some(&due.serial) {
                    continue;
                }
                left -= 1;
                send(due.address, self.interfaces.as_deref().unwrap_or_default());
                if let Some(next) = ROUNDS.get(round + 1) {
                    // Counted from when this one went out, which may be later than it was due.
                    let at = now + (*next - *offset);
                    self.rounds[round + 1].push_back(Due { at, ..due });
                } else {
                    self.wanted.remove(&due.address);
                }
            }
        }
        let first = self.rounds.iter().filter_map(|round| round.front()).map(|due| due.at).min();
        first.map(|at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(schedule: &mut Schedule, at: Instant) -> (Vec<u8>, Option<Duration>) {
        let mut sent = Vec::new();
        let wait = schedule.burst(at, |address, _| sent.push(address.octets()[3]));
        (sent, wait)
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(100, 64, 0, last)
    }

    #[test]
    fn an_address_is_announced_four_times_in_two_seconds() {
        let (mut schedule, begun) = (Schedule::default(), Instant::now());
        schedule.add([ip(1)].into_iter(), begun);
        for (at, next) in [(0, Some(100)), (100, Some(900)), (1000, Some(1000)), (2000, None)] {
            let (sent, wait) = sent(&mut schedule, begun + Duration::from_millis(at));
            assert_eq!((sent, wait), (vec![1], next.map(Duration::from_millis)));
        }
        assert!(schedule.wanted.is_empty());
    }

    #[test]
    fn what_goes_and_comes_again_begins_anew() {
        let (mut schedule, begun) = (Schedule::default(), Instant::now());
        schedule.add([ip(1), ip(2)].into_iter(), begun);
        assert_eq!(sent(&mut schedule, begun).0, [1, 2]);
        schedule.wanted.remove(&ip(1));
        let later = begun + Duration::from_millis(50);
        schedule.add([ip(1)].into_iter(), later);
        assert_eq!(sent(&mut schedule, later).0, [1]);
        assert_eq!(sent(&mut schedule, begun + Duration::from_millis(100)).0, [2]);
        assert_eq!(sent(&mut schedule, begun + Duration::from_millis(150)).0, [1]);
    }

    #[test]
    fn many_addresses_go_out_in_bursts() {
        let (mut schedule, begun) = (Schedule::default(), Instant::now());
        schedule.add((0..150).map(|n| Ipv4Addr::from_bits(0x6440_0000 + n)), begun);
        for (count, wait) in [(64, PAUSE), (64, PAUSE), (22, ROUNDS[1])] {
            let (sent, next) = sent(&mut schedule, begun);
            assert_eq!((sent.len(), next), (count, Some(wait)));
        }
    }
}

//! Deleting the flows of attachments that are gone, and those that instances had begun before they had
//! their elastic IP.
//!
//! The rules already hold the first back (see [`crate::table`]), and the others carry the host's address,
//! which is nobody else's. So it is done by a thread of its own, a little behind the change: a look through
//! a table of 250,000 flows takes a quarter of a second. It matters all the same: what is held back stays held
//! back until it is gone, a flow that was begun without the elastic IP goes on without it, an established TCP flow is
//! kept for 5 days, and the table is bounded for the whole host.
//!
//! A packet that was on its way during the change may make a stale flow after the look, so there is
//! another one [`SETTLED`] later; what was held back until then is told as swept.
//! Source: `linux/netfilter/nfnetlink_conntrack.h`.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use eip_model::{DiffItem, OrdMap};
use nix::sys::socket::SockProtocol;
use tracing::{debug, warn};

use crate::elements::{Intervals, merge};
use crate::sets::Sets;
use crate::socket::Netlink;
use crate::wire::{self, NLM_F_DUMP, attr, nest};

const SUBSYSTEM: u16 = 1;
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;
const AF_INET: u8 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// How long to wait after what went wrong.
const RETRY: Duration = Duration::from_millis(500);
/// So many deletions go into one send.
const AT_ONCE: usize = 1000;

/// How long a packet may be on its way through the host, with a large margin: microseconds, as a rule.
pub(crate) const SETTLED: Duration = Duration::from_secs(1);

/// What the sweeper must know to tell a stale flow from a good one.
#[derive(Debug)]
enum News {
    Around(Around),
    Attached { now: Attached, anew: bool },
    SweepNow(Sender<io::Result<()>>),
}

/// The elastic IP of each private address.
type Holders = OrdMap<Ipv4Addr, Ipv4Addr>;

/// What is in force since the change of that number. If nothing is taken for known, it is all news.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attached {
    pub(crate) number: u64,
    pub(crate) holders: Holders,
    /// The aliases that have gone, each with the number of the change, until their flows have.
    pub(crate) gone: OrdMap<Ipv4Addr, u64>,
}

/// The addresses that flows are told apart by, beside those of attachments.
#[derive(Debug, Clone, Default)]
struct Around {
    pool: Intervals,
    /// Where an instance's elastic IP plays no part: the subnets, the host's own addresses, multicast.
    near: Intervals,
}

impl Around {
    fn of(sets: &Sets) -> Self {
        Self { pool: sets.pool.clone(), near: sets.near.clone() }
    }
}

/// The hand that the data plane gives its news to.
#[derive(Debug)]
pub(crate) struct Sweeper {
    news: Sender<News>,
    swept: Arc<AtomicU64>,
}

impl Sweeper {
    /// Starts the thread; it ends when the sweeper is dropped.
    pub(crate) fn start() -> io::Result<Self> {
        let socket = Netlink::open(SockProtocol::NetlinkNetFilter, 0)?;
        let (news, inbox) = mpsc::channel();
        let swept = Arc::<AtomicU64>::default();
        let sweep = Sweep {
            socket,
            flows: Flows::default(),
            latest: Around::default(),
            unsettled: Unsettled::default(),
            swept: Arc::clone(&swept),
            troubled: false,
        };
        std::thread::Builder::new().name("eip-sweep".into()).spawn(move || sweep.run(&inbox))?;
        Ok(Self { news, swept })
    }

    pub(crate) fn around(&self, sets: &Sets) {
        self.tell(News::Around(Around::of(sets)));
    }

    pub(crate) fn attached(&self, now: Attached, anew: bool) {
        self.tell(News::Attached { now, anew });
    }

    /// Returns the number of the newest change that has left no stale flow, nor has any change before it.
    pub(crate) fn swept(&self) -> u64 {
        self.swept.load(Ordering::Acquire)
    }

    /// Has the flows looked through, and waits until that is done.
    pub(crate) fn sweep_now(&self) -> io::Result<()> {
        let (done, waiting) = mpsc::channel();
        self.tell(News::SweepNow(done));
        let gone = |_| Err(io::Error::other("the thread that deletes stale flows is gone"));
        waiting.recv().unwrap_or_else(gone)
    }

    fn tell(&self, news: News) {
        if self.news.send(news).is_err() {
            warn!("The thread that deletes stale flows is gone; they stay until they time out");
        }
    }
}

struct Sweep {
    socket: Netlink,
    flows: Flows,
    /// The surroundings as they are, while `flows` still knows those of what is unsettled.
    latest: Around,
    unsettled: Unsettled,
    swept: Arc<AtomicU64>,
    troubled: bool,
}

impl Sweep {
    fn run(mut self, inbox: &Receiver<News>) {
        loop {
            let settled = self.unsettled.look_at();
            let look_at = if self.troubled { Some(Instant::now() + RETRY) } else { settled };
            let first = match look_at {
                Some(when) => inbox.recv_timeout(when.saturating_duration_since(Instant::now())),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut asked = Vec::new();
            let mut due = match first {
                Ok(news) => self.learn(news, &mut asked),
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // One look through the flows answers for everything that has come in by now.
            while let Ok(more) = inbox.try_recv() {
                due |= self.learn(more, &mut asked);
            }
            if due {
                let swept = self.sweep_and_say();
                for done in asked {
                    let outcome = swept.as_ref().map(drop).map_err(again);
                    // Who asked may have gone.
                    let _gone = done.send(outcome);
                }
            }
        }
    }

    /// Takes in news, and says whether they can have made a flow stale.
    fn learn(&mut self, news: News, asked: &mut Vec<Sender<io::Result<()>>>) -> bool {
        match news {
            News::Around(around) => {
                // What has ended in ranges that are no more is swept all the same.
                let pool =
                    if self.unsettled.0.is_empty() { &[] } else { &self.flows.around.pool[..] };
                let pool = merge([&around.pool, pool].concat());
                self.flows.around = Around { pool, near: around.near.clone() };
                self.latest = around;
                false
            }
            News::Attached { now, anew } => {
                self.unsettled.put(now.number, Instant::now());
                self.flows.learn(now, anew)
            }
            News::SweepNow(done) => {
                asked.push(done);
                true
            }
        }
    }

    fn sweep_and_say(&mut self) -> io::Result<usize> {
        let begun = Instant::now();
        let swept = self.sweep();
        match &swept {
            Ok(deleted) => {
                debug!(deleted, "Deleted stale flows");
                self.flows.fresh.clear();
                if let Some(number) = self.unsettled.seen_by(begun) {
                    self.swept.store(number, Ordering::Release);
                }
                if self.unsettled.0.is_empty() {
                    self.flows.around.clone_from(&self.latest);
                }
            }
            Err(error) if !self.troubled => {
                warn!(%error, "Could not delete stale flows, which are held back; will retry");
            }
            Err(_) => {}
        }
        self.troubled = swept.is_err();
        swept
    }

    fn sweep(&mut self) -> io::Result<usize> {
        let mut request = Vec::new();
        wire::message(&mut request, SUBSYSTEM << 8 | GET, NLM_F_DUMP, 1, |m| {
            m.extend_from_slice(&[AF_INET, 0, 0, 0]);
        });
        let mut doomed = Vec::new();
        self.socket.dump(&request, |one| {
            let attrs = one.body.get(4..).unwrap_or_default();
            if one.kind == SUBSYSTEM << 8 | NEW && self.flows.is_stale(attrs) {
                doomed.push(deletion(attrs));
            }
        })?;
        let mut failure = None;
        for chunk in doomed.chunks(AT_ONCE) {
            self.socket.exchange(&chunk.concat(), |one| {
                let code = one.errno().filter(|code| ![0, libc::ENOENT].contains(code));
                failure = failure.or(code);
            })?;
        }
        match failure {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(doomed.len()),
        }
    }
}

/// Names the flow by its own words (the zone may be inside the tuple) and by its id, so that one
/// which has since taken its place is left alone.
fn deletion(attrs: &[u8]) -> Vec<u8> {
    let mut buf = Vec::with_capacity(128);
    wire::message(&mut buf, SUBSYSTEM << 8 | DELETE, 0, 1, |m| {
        m.extend_from_slice(&[AF_INET, 0, 0, 0]);
        if let Some(tuple) = wire::find(attrs, TUPLE_ORIGINAL) {
            nest(m, TUPLE_ORIGINAL, |m| m.extend_from_slice(tuple));
        }
        for kind in [ID, ZONE] {
            if let Some(value) = wire::find(attrs, kind) {
                attr(m, kind, value);
            }
        }
    });
    buf
}

/// The numbers of changes, and from when on the flows can be seen of packets that were on their way then.
#[derive(Debug, Default)]
struct Unsettled(VecDeque<(Instant, u64)>);

impl Unsettled {
    fn put(&mut self, number: u64, changed: Instant) {
        self.0.push_back((changed + SETTLED, number));
    }

    /// When to look: once for all changes of a while, which is as long as the first of them has waited already.
    fn look_at(&self) -> Option<Instant> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        Some(last.0.min(first.0 + SETTLED))
    }

    /// Returns the newest change of which a look that began then has seen the end.
    fn seen_by(&mut self, begun: Instant) -> Option<u64> {
        let seen = self.0.iter().take_while(|(from, _)| *from <= begun).count();
        self.0.drain(..seen).next_back().map(|(_, number)| number)
    }
}

/// The same error for somebody else.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// What is in force, as far as it decides about flows.
#[derive(Debug, Default)]
struct Flows {
    around: Around,
    now: Attached,
    /// The private addresses that have got an elastic IP since the last sweep.
    fresh: BTreeSet<Ipv4Addr>,
}

impl Flows {
    /// Takes in what is in force, and says whether that can have made a flow stale.
    fn learn(&mut self, now: Attached, anew: bool) -> bool {
        let before = if anew { Attached::default() } else { std::mem::take(&mut self.now) };
        let mut differs = anew;
        for item in before.holders.diff(&now.holders) {
            differs = true;
            if let DiffItem::Add(private, _) | DiffItem::Update { new: (private, _), .. } = item {
                self.fresh.insert(*private);
            }
        }
        differs |= before.gone != now.gone;
        self.now = now;
        differs
    }

    /// A flow is stale if it was rewritten between an address of the pool and anything but
    /// the private address that the pool's address has now; if one of its ends is an alias that is gone; or if
    /// it was begun by an instance that has got an elastic IP since, and leaves the host as something else.
    fn is_stale(&self, attrs: &[u8]) -> bool {
        let ends = |tuple| {
            let addresses = wire::find(wire::find(attrs, tuple)?, 1)?;
            let end = |kind| wire::find(addresses, kind).and_then(wire::address);
            Some((end(1)?, end(2)?))
        };
        let (Some(original), Some(reply)) = (ends(TUPLE_ORIGINAL), ends(TUPLE_REPLY)) else {
            return false;
        };
        let holder = |private| self.now.holders.get(&private).copied();
        let broken = |public: Ipv4Addr, private: Ipv4Addr| {
            public != private
                && is_within(&self.around.pool, public)
                && holder(private) != Some(public)
        };
        let ((from, to), seen_as) = (original, reply.1);
        let unfollowed = seen_as != from
            && self.fresh.contains(&from)
            && holder(from).is_some_and(|public| public != seen_as)
            && !is_within(&self.around.near, to);
        let left = |public, end| public == end && self.now.gone.contains_key(&public);
        broken(to, reply.0)
            || broken(seen_as, from)
            || left(from, seen_as)
            || left(to, reply.0)
            || unfollowed
    }
}

fn is_within(intervals: &Intervals, address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    let behind = intervals.partition_point(|(first, _)| *first <= bits);
    behind.checked_sub(1).is_some_and(|place| bits <= intervals[place].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(original: [[u8; 4]; 2], reply: [[u8; 4]; 2]) -> Vec<u8> {
        let mut buf = Vec::new();
        for (kind, [source, destination]) in [(TUPLE_ORIGINAL, original), (TUPLE_REPLY, reply)] {
            nest(&mut buf, kind, |b| {
                nest(b, 1, |b| {
                    attr(b, 1, &source);
                    attr(b, 2, &destination);
                });
            });
        }
        buf
    }

    const CLIENT: [u8; 4] = [192, 0, 2, 9];
    const HOST: [u8; 4] = [192, 0, 2, 1];
    const PUBLIC: [u8; 4] = [100, 64, 0, 1];
    const NOW: [u8; 4] = [10, 0, 0, 1];
    const BEFORE: [u8; 4] = [10, 0, 0, 2];

    /// The instance that was there before has the elastic IP.
    fn flows() -> Flows {
        let mut flows = Flows::default();
        let around = Around {
            pool: vec![(0x6440_0000, 0x647f_ffff)],
            near: vec![(0x0a00_0000, 0x0a00_00ff), (0xc000_0201, 0xc000_0201)],
        };
        flows.around = around;
        assert!(holds(&mut flows, BEFORE, true));
        flows.fresh.clear();
        flows
    }

    fn holds(flows: &mut Flows, private: [u8; 4], anew: bool) -> bool {
        let holders = Holders::unit(private.into(), PUBLIC.into());
        flows.learn(Attached { holders, ..Attached::default() }, anew)
    }

    #[test]
    fn flows_of_pairs_that_are_not_in_force_are_stale() {
        let mut flows = flows();
        assert!(!holds(&mut flows, BEFORE, false), "nothing has changed");
        assert!(holds(&mut flows, NOW, false));
        let inbound = |private| flow([CLIENT, PUBLIC], [private, CLIENT]);
        let outbound = |private| flow([private, CLIENT], [CLIENT, PUBLIC]);
        assert!(!flows.is_stale(&inbound(NOW)) && !flows.is_stale(&outbound(NOW)));
        assert!(flows.is_stale(&inbound(BEFORE)) && flows.is_stale(&outbound(BEFORE)));
        // To an elastic IP of another host, and what has nothing to do with the pool.
        assert!(!flows.is_stale(&flow([NOW, [100, 64, 9, 9]], [[100, 64, 9, 9], PUBLIC])));
        assert!(!flows.is_stale(&flow([CLIENT, [192, 0, 2, 7]], [BEFORE, CLIENT])));
        assert!(!flows.is_stale(&[1, 2, 3]));
    }

    #[test]
    fn what_an_instance_began_without_the_elastic_ip_that_it_has_now_is_stale_once() {
        let mut flows = flows();
        let masqueraded = flow([NOW, CLIENT], [CLIENT, HOST]);
        assert!(!flows.is_stale(&masqueraded), "it has none");
        assert!(holds(&mut flows, NOW, false));
        assert!(flows.is_stale(&masqueraded));
        assert!(!flows.is_stale(&flow([BEFORE, CLIENT], [CLIENT, HOST])), "it has none any more");
        // What is not rewritten, to a neighbour in another network, and to a port that it publishes.
        assert!(!flows.is_stale(&flow([NOW, CLIENT], [CLIENT, NOW])));
        assert!(!flows.is_stale(&flow([NOW, [10, 0, 0, 9]], [[10, 0, 0, 9], HOST])));
        assert!(!flows.is_stale(&flow([CLIENT, HOST], [NOW, CLIENT])));
        flows.fresh.clear();
        assert!(!flows.is_stale(&masqueraded), "another's rule gives it that address");
    }

    #[test]
    fn flows_of_an_alias_are_stale_when_it_has_gone_and_until_it_comes_back() {
        let mut flows = flows();
        let [begun, asked] =
            [flow([PUBLIC, CLIENT], [CLIENT, PUBLIC]), flow([CLIENT, PUBLIC], [PUBLIC, HOST])];
        assert!(!flows.is_stale(&begun) && !flows.is_stale(&asked));
        let left = Attached { gone: OrdMap::unit(PUBLIC.into(), 1), ..Attached::default() };
        // Also to who knows nothing of what was before.
        for anew in [false, true] {
            assert!(flows.learn(left.clone(), anew));
            assert!(flows.is_stale(&begun) && flows.is_stale(&asked));
        }
        assert!(flows.learn(Attached::default(), false));
        assert!(!flows.is_stale(&begun) && !flows.is_stale(&asked));
    }

    #[test]
    fn a_change_is_swept_by_a_look_that_begins_when_packets_of_before_have_arrived() {
        let mut unsettled = Unsettled::default();
        let begun = Instant::now();
        unsettled.put(1, begun);
        unsettled.put(2, begun + SETTLED / 2);
        assert_eq!(unsettled.look_at(), Some(begun + SETTLED / 2 + SETTLED), "once for both");
        unsettled.put(3, begun + 3 * SETTLED);
        assert_eq!(unsettled.look_at(), Some(begun + 2 * SETTLED), "the first has waited enough");
        unsettled.0.pop_back();
        assert_eq!(unsettled.seen_by(begun + SETTLED / 2), None);
        assert_eq!(unsettled.seen_by(begun + SETTLED), Some(1));
        assert_eq!(unsettled.seen_by(begun + SETTLED), None);
        assert_eq!(unsettled.seen_by(begun + 2 * SETTLED), Some(2));
        assert_eq!(unsettled.0.front(), None);
    }
}

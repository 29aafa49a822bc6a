//! Deleting the flows of attachments that are gone.
//!
//! The rules already hold such flows back (see [`crate::table`]), so this is clean-up, and
//! done by a thread of its own: a look through a table of 250,000 flows takes a quarter of a second.
//! It matters all the same: an established TCP flow is kept for 5 days otherwise, and the table is
//! bounded for the whole host.
//! Source: `linux/netfilter/nfnetlink_conntrack.h`.

use std::io;
use std::net::Ipv4Addr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use eip_model::OrdMap;
use nix::sys::socket::SockProtocol;
use tracing::{debug, warn};

use crate::elements::Intervals;
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

/// The private addresses of elastic IPs.
type Targets = OrdMap<Ipv4Addr, Ipv4Addr>;

/// What the sweeper must know to tell a stale flow from a good one.
#[derive(Debug)]
enum News {
    Pool(Intervals),
    /// Whether one that is in force no more may have left flows.
    Targets {
        now: Targets,
        less: bool,
    },
}

/// The hand that the data plane gives its news to.
#[derive(Debug)]
pub(crate) struct Sweeper {
    news: Sender<News>,
}

impl Sweeper {
    /// Starts the thread; it ends when the sweeper is dropped.
    pub(crate) fn start() -> io::Result<Self> {
        let socket = Netlink::open(SockProtocol::NetlinkNetFilter, 0)?;
        let (news, inbox) = mpsc::channel();
        std::thread::Builder::new()
            .name("eip-sweep".into())
            .spawn(move || Sweep { socket, flows: Flows::default() }.run(&inbox))?;
        Ok(Self { news })
    }

    pub(crate) fn pool(&self, pool: Intervals) {
        self.tell(News::Pool(pool));
    }

    pub(crate) fn targets(&self, now: Targets, less: bool) {
        self.tell(News::Targets { now, less });
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
}

impl Sweep {
    fn run(mut self, inbox: &Receiver<News>) {
        let mut troubled = false;
        loop {
            let first = match troubled {
                true => inbox.recv_timeout(RETRY),
                false => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut due = troubled;
            match first {
                Ok(news) => due |= self.flows.learn(news),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // One look through the flows answers for everything that has come in by now.
            while let Ok(more) = inbox.try_recv() {
                due |= self.flows.learn(more);
            }
            if !due {
                continue;
            }
            let swept = self.sweep();
            match &swept {
                Ok(deleted) => debug!(deleted, "Deleted stale flows"),
                Err(error) if !troubled => {
                    warn!(%error, "Could not delete stale flows, which are held back; will retry");
                }
                Err(_) => {}
            }
            troubled = swept.is_err();
        }
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
        for chunk in doomed.chunks(AT_ONCE) {
            let mut failure = None;
            self.socket.exchange(&chunk.concat(), |one| {
                let code = one.errno().filter(|code| ![0, libc::ENOENT].contains(code));
                failure = failure.or(code);
            })?;
            if let Some(code) = failure {
                return Err(io::Error::from_raw_os_error(code));
            }
        }
        Ok(doomed.len())
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

/// The attachments in force, as far as they decide about flows.
#[derive(Debug, Default)]
struct Flows {
    pool: Intervals,
    targets: Targets,
}

impl Flows {
    /// Takes in news, and says whether they can have made a flow stale.
    fn learn(&mut self, news: News) -> bool {
        match news {
            News::Pool(pool) => {
                self.pool = pool;
                false
            }
            News::Targets { now, less } => {
                self.targets = now;
                less
            }
        }
    }

    /// A flow is stale if it was rewritten between an address of the pool and anything but
    /// the private address that the pool's address has now.
    fn is_stale(&self, attrs: &[u8]) -> bool {
        let ends = |tuple| {
            let addresses = wire::find(wire::find(attrs, tuple)?, 1)?;
            let end = |kind| wire::find(addresses, kind).and_then(wire::address);
            Some((end(1)?, end(2)?))
        };
        let (Some(original), Some(reply)) = (ends(TUPLE_ORIGINAL), ends(TUPLE_REPLY)) else {
            return false;
        };
        let broken = |public: Ipv4Addr, private: Ipv4Addr| {
            public != private && self.in_pool(public) && self.targets.get(&public) != Some(&private)
        };
        broken(original.1, reply.0) || broken(reply.1, original.0)
    }

    fn in_pool(&self, address: Ipv4Addr) -> bool {
        let bits = address.to_bits();
        let behind = self.pool.partition_point(|(first, _)| *first <= bits);
        behind.checked_sub(1).is_some_and(|place| bits <= self.pool[place].1)
    }
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

    #[test]
    fn only_flows_of_pairs_that_are_not_in_force_are_stale() {
        const CLIENT: [u8; 4] = [192, 0, 2, 9];
        const PUBLIC: [u8; 4] = [100, 64, 0, 1];
        const NOW: [u8; 4] = [10, 0, 0, 1];
        const BEFORE: [u8; 4] = [10, 0, 0, 2];
        let mut flows = Flows::default();
        assert!(!flows.learn(News::Pool(vec![(0x6440_0000, 0x647f_ffff)])));
        let to = |private: [u8; 4]| OrdMap::unit(PUBLIC.into(), private.into());
        assert!(!flows.learn(News::Targets { now: to(BEFORE), less: false }));
        assert!(flows.learn(News::Targets { now: to(NOW), less: true }));
        let inbound = |private| flow([CLIENT, PUBLIC], [private, CLIENT]);
        let outbound = |private| flow([private, CLIENT], [CLIENT, PUBLIC]);
        assert!(!flows.is_stale(&inbound(NOW)) && !flows.is_stale(&outbound(NOW)));
        assert!(flows.is_stale(&inbound(BEFORE)) && flows.is_stale(&outbound(BEFORE)));
        // To an elastic IP of another host, and what has nothing to do with the pool.
        assert!(!flows.is_stale(&flow([NOW, [100, 64, 9, 9]], [[100, 64, 9, 9], PUBLIC])));
        assert!(!flows.is_stale(&flow([CLIENT, [192, 0, 2, 1]], [BEFORE, CLIENT])));
        assert!(!flows.is_stale(&[1, 2, 3]));
    }
}

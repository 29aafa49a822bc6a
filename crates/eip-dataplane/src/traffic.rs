//! Counting what each elastic IP carries, in both directions.
//!
//! Counters on the maps of the NAT chains would count flows: those chains see the first packet of
//! each. So there are two sets in a table of their own, `ip eip_traffic`, looked up where every
//! packet carries the elastic IP: before the destination is rewritten, and after the source is. A
//! table of its own outlives replacements of the other, and an agent that is started anew: counters
//! go on. Being keyed by the elastic IP, they do not notice a move within the host.
//!
//! All of it happens on a thread of its own, a little behind the change: what an address carries in
//! its first moment may not be counted. Elements with counters are slow to add (they are kept in a table that
//! grows), and slow to list (all of it for each part), so they are added in slices and asked for by name.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eip_model::Volume;
use nix::sys::socket::SockProtocol;
use tracing::{debug, warn};

use crate::expr::Expr;
use crate::nft::{
    Batch, DELSETELEM, DELTABLE, NEWCHAIN, NEWRULE, NEWSET, NEWSETELEM, NEWTABLE, elements, key,
    keys, question,
};
use crate::socket::Netlink;
use crate::wanted;
use crate::wire::{self, NLM_F_APPEND, NLM_F_CREATE, attr, attr_be32, attr_str, nest};

const TABLE: &str = "eip_traffic";
const IN: &str = "in";
const OUT: &str = "out";
const SETS: [&str; 2] = [IN, OUT];
const IPV4: u32 = 7;
const NF_ACCEPT: u32 = 1;

/// How often the counters are read.
const READ_EVERY: Duration = Duration::from_secs(10);
/// So many addresses are added or removed at once. Whoever listens to changes of rules,
/// which is us, hears of each element that is added, and has room for some thousands; and whoever changes
/// rules waits for a slice, 8 us for each address.
const SLICE: usize = 200;
const BETWEEN_SLICES: Duration = Duration::from_millis(50);
/// So many are asked for at once.
const ASKED: usize = 1000;
/// How long to wait after what went wrong.
const RETRY: Duration = Duration::from_millis(500);
/// Reading takes at most this part of the time.
const REST: u32 = 10;
/// The least that the sets are made for.
const LEAST_CAPACITY: usize = 16_384;
/// An earlier run's counters are gone through at the start only if they are so few.
const ADOPTED: usize = 100_000;

/// The hooks: before `dstnat`, for what the host itself sends too, and after `srcnat`.
const CHAINS: [(&str, u32, i32, Expr, &str); 3] = [
    ("pre", 0, -150, Expr::DestinationAddress, IN),
    ("host", 3, -150, Expr::DestinationAddress, IN),
    ("post", 4, 150, Expr::SourceAddress, OUT),
];

/// What was counted by the last reading.
#[derive(Debug, Clone, Default)]
pub struct TrafficReader(Arc<Mutex<Arc<BTreeMap<Ipv4Addr, Volume>>>>);

impl TrafficReader {
    /// Returns the counters of every elastic IP that is attached here, as they were last read: the
    /// same value until they are read again.
    #[must_use]
    pub fn latest(&self) -> Arc<BTreeMap<Ipv4Addr, Volume>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, volumes: BTreeMap<Ipv4Addr, Volume>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(volumes);
    }
}

#[derive(Debug)]
enum News {
    Wanted(wanted::News),
    ReadNow(Sender<()>),
}

/// The hand that the data plane gives its news to; the thread ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Meter {
    news: Sender<News>,
    reader: TrafficReader,
}

impl Meter {
    /// `alone` is held while the thread commits.
    pub(crate) fn start(alone: Arc<Mutex<()>>) -> io::Result<Self> {
        let socket = Netlink::open(SockProtocol::NetlinkNetFilter, 0)?;
        let (news, inbox) = mpsc::channel();
        let reader = TrafficReader::default();
        let mut counting = Counting {
            socket,
            alone,
            reader: reader.clone(),
            wanted: BTreeSet::new(),
            present: None,
            pending: BTreeSet::new(),
            troubled: false,
        };
        std::thread::Builder::new()
            .name("eip-traffic".into())
            .spawn(move || counting.run(&inbox))?;
        Ok(Self { news, reader })
    }

    /// Removes what an earlier run has counted with.
    pub(crate) fn remove() -> io::Result<()> {
        let mut socket = Netlink::open(SockProtocol::NetlinkNetFilter, 0)?;
        let mut batch = Batch::new();
        batch.push(NEWTABLE, NLM_F_CREATE, "table eip_traffic".into(), |m| attr_str(m, 1, TABLE));
        batch.push(DELTABLE, 0, "removal of eip_traffic".into(), |m| attr_str(m, 1, TABLE));
        commit(&mut socket, batch)
    }

    pub(crate) fn reader(&self) -> TrafficReader {
        self.reader.clone()
    }

    pub(crate) fn all(&self, addresses: impl Iterator<Item = Ipv4Addr>) {
        self.tell(News::Wanted(wanted::News::All(addresses.collect())));
    }

    pub(crate) fn changed(&self, gone: Vec<Ipv4Addr>, come: Vec<Ipv4Addr>) {
        self.tell(News::Wanted(wanted::News::Changed { gone, come }));
    }

    /// Has the counters read, and waits until they are.
    pub(crate) fn read_now(&self) {
        let (done, waiting) = mpsc::channel();
        self.tell(News::ReadNow(done));
        // Without the thread there is nothing to wait for.
        let _ended = waiting.recv();
    }

    fn tell(&self, news: News) {
        if self.news.send(news).is_err() {
            warn!("The thread that counts traffic is gone; nothing is counted any more");
        }
    }
}

struct Counting {
    socket: Netlink,
    alone: Arc<Mutex<()>>,
    reader: TrafficReader,
    wanted: BTreeSet<Ipv4Addr>,
    /// What is in the sets; nothing is known before the table was looked at.
    present: Option<BTreeSet<Ipv4Addr>>,
    /// What is in one of the two and not in the other, where `present` is known: comparing all of them for
    /// each slice would cost their square.
    pending: BTreeSet<Ipv4Addr>,
    troubled: bool,
}

impl Counting {
    fn run(&mut self, inbox: &Receiver<News>) {
        let mut next_read = Instant::now() + READ_EVERY;
        let mut pause = READ_EVERY;
        loop {
            let mut asked = Vec::new();
            match inbox.recv_timeout(pause) {
                Ok(news) => self.learn(news, &mut asked),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(more) = inbox.try_recv() {
                self.learn(more, &mut asked);
            }
            let mut behind = self.settle_and_say();
            while behind && !asked.is_empty() {
                behind = self.settle_and_say();
            }
            if !asked.is_empty() || Instant::now() >= next_read {
                let begun = Instant::now();
                if let Err(error) = self.read() {
                    self.say(&error);
                }
                next_read = Instant::now() + READ_EVERY.max(begun.elapsed() * REST);
            }
            let left = next_read.saturating_duration_since(Instant::now());
            pause = match (behind, self.troubled) {
                (true, _) => BETWEEN_SLICES,
                (false, true) => RETRY.min(left),
                (false, false) => left,
            };
        }
    }

    fn learn(&mut self, news: News, asked: &mut Vec<Sender<()>>) {
        match news {
            News::Wanted(news) => self.learn_wanted(news),
            News::ReadNow(done) => asked.push(done),
        }
    }

    fn learn_wanted(&mut self, news: wanted::News) {
        let concerned: Option<Vec<Ipv4Addr>> = match &news {
            wanted::News::All(_) => None,
            wanted::News::Changed { gone, come } => Some([&gone[..], come].concat()),
        };
        wanted::learn(&mut self.wanted, news);
        let Some(present) = &self.present else { return };
        match concerned {
            None => self.pending = differing(present, &self.wanted),
            Some(addresses) => {
                for address in addresses {
                    match present.contains(&address) == self.wanted.contains(&address) {
                        true => self.pending.remove(&address),
                        false => self.pending.insert(address),
                    };
                }
            }
        }
    }

    /// Brings the sets a slice nearer to what is wanted. Returns whether there is more to do.
    fn settle_and_say(&mut self) -> bool {
        match self.settle() {
            Ok(behind) => {
                self.troubled = false;
                behind
            }
            Err(error) => {
                // The table may be gone, or not be as it was: it is looked at anew next time.
                self.present = None;
                self.say(&error);
                false
            }
        }
    }

    fn say(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.troubled, true) {
            warn!(%error, "Could not count traffic; will retry");
        }
    }

    fn settle(&mut self) -> io::Result<bool> {
        let mut present = match self.present.take() {
            Some(present) => present,
            None => {
                let found = self.adopt_or_make()?;
                self.pending = differing(&found, &self.wanted);
                found
            }
        };
        let slice: Vec<Ipv4Addr> = self.pending.iter().copied().take(SLICE).collect();
        let is_wanted = |address: &Ipv4Addr| self.wanted.contains(address);
        let (come, gone): (Vec<_>, Vec<_>) = slice.iter().copied().partition(is_wanted);
        if !slice.is_empty() {
            let mut batch = Batch::new();
            for set in SETS {
                push_elements(&mut batch, DELSETELEM, set, &gone);
                push_elements(&mut batch, NEWSETELEM, set, &come);
            }
            if let Err(error) = self.commit(batch) {
                if error.raw_os_error() != Some(libc::ENFILE) {
                    return Err(error);
                }
                // They are full. What was counted is told before larger ones begin anew.
                self.present = Some(present);
                self.read()?;
                self.present = Some(self.make()?);
                self.pending = self.wanted.clone();
                return Ok(true);
            }
            for address in &gone {
                present.remove(address);
            }
            present.extend(&come);
            for address in &slice {
                self.pending.remove(address);
            }
        }
        self.present = Some(present);
        Ok(!self.pending.is_empty())
    }

    /// Goes on with the table of an earlier run, or makes one. Returns what is in it.
    fn adopt_or_make(&mut self) -> io::Result<BTreeSet<Ipv4Addr>> {
        match self.list(IN).and_then(|into| Ok((into, self.list(OUT)?))) {
            Ok((into, out)) if into == out && into.len() <= ADOPTED => {
                debug!(addresses = into.len(), "Goes on counting traffic");
                return Ok(into);
            }
            // What cannot be read now may be whole: it is lost only if it cannot be read again.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) && !self.troubled => {
                return Err(error);
            }
            Ok(_) | Err(_) => {}
        }
        self.make()
    }

    /// Makes a table with room for twice as many as there are. Returns what is in it.
    fn make(&mut self) -> io::Result<BTreeSet<Ipv4Addr>> {
        let capacity = (2 * self.wanted.len()).next_power_of_two().max(LEAST_CAPACITY);
        let mut batch = Batch::new();
        push_table(&mut batch, u32::try_from(capacity).unwrap_or(u32::MAX));
        self.commit(batch)?;
        Ok(BTreeSet::new())
    }

    fn commit(&mut self, batch: Batch) -> io::Result<()> {
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        commit(&mut self.socket, batch)
    }

    fn list(&mut self, set: &str) -> io::Result<BTreeSet<Ipv4Addr>> {
        let keys = keys(&mut self.socket, TABLE, set)?;
        Ok(keys.iter().filter_map(|key| wire::address(key)).collect())
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(present) = self.present.clone() else { return Ok(()) };
        let mut volumes: BTreeMap<Ipv4Addr, Volume> = BTreeMap::new();
        let addresses: Vec<_> = present.into_iter().collect();
        for slice in addresses.chunks(ASKED) {
            for set in SETS {
                let request = question(0, |m| {
                    attr_str(m, 1, TABLE);
                    attr_str(m, 2, set);
                    nest(m, 3, |m| slice.iter().for_each(|address| element(m, *address)));
                });
                let mut refused = None;
                self.socket.exchange(&request, |one| {
                    refused = refused.or(one.errno().filter(|code| *code != 0));
                    each_element(one.body, |address, (packets, bytes)| {
                        let volume = volumes.entry(address).or_default();
                        if set == IN {
                            (volume.packets_in, volume.bytes_in) = (packets, bytes);
                        } else {
                            (volume.packets_out, volume.bytes_out) = (packets, bytes);
                        }
                    });
                })?;
                if let Some(code) = refused {
                    self.present = None;
                    return Err(io::Error::from_raw_os_error(code));
                }
            }
        }
        self.reader.put(volumes);
        Ok(())
    }
}

/// Returns what is in one of them and not in the other.
fn differing(one: &BTreeSet<Ipv4Addr>, other: &BTreeSet<Ipv4Addr>) -> BTreeSet<Ipv4Addr> {
    one.symmetric_difference(other).copied().collect()
}

fn commit(socket: &mut Netlink, batch: Batch) -> io::Result<()> {
    let bytes = batch.finish();
    let (mut acknowledged, mut refused) = (false, None);
    socket.exchange(&bytes, |one| match one.errno() {
        Some(0) => acknowledged = true,
        Some(code) => refused = refused.or(Some(code)),
        None => (),
    })?;
    match refused {
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None if acknowledged => Ok(()),
        None => Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
    }
}

fn push_table(batch: &mut Batch, capacity: u32) {
    let label = || "table eip_traffic".into();
    let named = |m: &mut Vec<u8>| attr_str(m, 1, TABLE);
    batch.push(NEWTABLE, NLM_F_CREATE, label(), named);
    batch.push(DELTABLE, 0, label(), named);
    batch.push(NEWTABLE, NLM_F_CREATE, label(), named);
    for (id, set) in (1..).zip(SETS) {
        batch.push(NEWSET, NLM_F_CREATE, label(), |m| {
            attr_str(m, 1, TABLE);
            attr_str(m, 2, set);
            attr_be32(m, 3, 0);
            attr_be32(m, 4, IPV4);
            attr_be32(m, 5, 4);
            // Every packet looks here twice, and a set of a fixed size is the faster one.
            nest(m, 9, |m| attr_be32(m, 1, capacity));
            attr_be32(m, 10, id);
            nest(m, 17, |m| attr_str(m, 1, "counter"));
        });
    }
    for (name, hook, priority, field, set) in CHAINS {
        batch.push(NEWCHAIN, NLM_F_CREATE, label(), |m| {
            attr_str(m, 1, TABLE);
            attr_str(m, 3, name);
            nest(m, 4, |m| {
                attr_be32(m, 1, hook);
                attr(m, 2, &priority.to_be_bytes());
            });
            attr_be32(m, 5, NF_ACCEPT);
            attr_str(m, 7, "filter");
        });
        batch.push(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, label(), |m| {
            attr_str(m, 1, TABLE);
            attr_str(m, 2, name);
            nest(m, 4, |m| [field, Expr::In(set)].into_iter().for_each(|one| one.encode(m)));
        });
    }
}

fn push_elements(batch: &mut Batch, kind: u16, set: &str, addresses: &[Ipv4Addr]) {
    if addresses.is_empty() {
        return;
    }
    let flags = if kind == NEWSETELEM { NLM_F_CREATE } else { 0 };
    batch.push(kind, flags, "elements of eip_traffic".into(), |m| {
        attr_str(m, 1, TABLE);
        attr_str(m, 2, set);
        nest(m, 3, |m| addresses.iter().for_each(|address| element(m, *address)));
    });
}

fn element(m: &mut Vec<u8>, address: Ipv4Addr) {
    nest(m, 1, |m| nest(m, 1, |m| attr(m, 1, &address.octets())));
}

/// Hands each element of a message on, with the packets and the bytes that it has counted.
fn each_element(body: &[u8], mut each: impl FnMut(Ipv4Addr, (u64, u64))) {
    for element in elements(body) {
        let counter = wire::find(element, 7).and_then(|expr| wire::find(expr, 2));
        let number = |kind| {
            let value = counter.and_then(|data| wire::find(data, kind))?;
            value.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
        };
        if let Some(address) = key(element).and_then(wire::address) {
            each(address, (number(2).unwrap_or_default(), number(1).unwrap_or_default()));
        }
    }
}

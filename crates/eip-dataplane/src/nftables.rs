//! The table in the kernel: replaced whole or changed by elements, each in one transaction.
//!
//! Source: `linux/netfilter/nf_tables.h`, `linux/netfilter/nfnetlink.h`.

use std::borrow::Cow;
use std::io;

use nix::sys::socket::SockProtocol;

use crate::elements::{
    ATTACHMENT_SETS, Element, Intervals, Pair, encode_elements, encode_set_name,
    interface_elements, interval_elements,
};
use crate::socket::Netlink;
use crate::table::{
    CHAINS, INSIDE, POOL, PRIVNETS, SETS, TABLE, encode_chain, encode_rule, encode_set,
    encode_table, rule_label,
};
use crate::wire::{NLM_F_APPEND, NLM_F_CREATE, NLMSG_ERROR, Received, find, message, name};

const SUBSYSTEM: u16 = 10;
/// Family, version, and the subsystem that a batch is for, in network order.
const BATCH_FOR: [u8; 4] = [0, 0, 0, 10];
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;
const NEW_GENERATION: u16 = 15;
const FAMILY_IPV4: u8 = 2;
/// The bit of the multicast group that hears of every change of any ruleset.
const NOTIFICATIONS: u32 = 1 << 6;

/// Maps have room for at least this many attachments, so that the first ones fit without growing.
const LEAST_CAPACITY: usize = 65_536;

/// What the small sets hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pub(crate) inside: Vec<String>,
    pub(crate) pool: Intervals,
    pub(crate) private: Intervals,
}

impl Surroundings {
    fn elements(&self) -> [(&'static str, Vec<Element>); 3] {
        [
            (INSIDE, interface_elements(self.inside.iter().map(String::as_str))),
            (POOL, interval_elements(&self.pool)),
            (PRIVNETS, interval_elements(&self.private)),
        ]
    }
}

/// A transaction was refused; nothing of it is in force.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} (at {at})")]
pub(crate) struct Refused {
    doing: &'static str,
    at: Cow<'static, str>,
    #[source]
    pub(crate) source: io::Error,
}

/// The table of this network namespace.
#[derive(Debug)]
pub(crate) struct Nftables {
    socket: Netlink,
    news: Netlink,
}

impl Nftables {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Netlink::open(SockProtocol::NetlinkNetFilter, 0)?;
        let news = Netlink::open(SockProtocol::NetlinkNetFilter, NOTIFICATIONS)?;
        Ok(Self { socket, news })
    }

    /// Makes and deletes a table of the same kind, to learn whether that is allowed and possible.
    pub(crate) fn probe(&mut self) -> Result<(), Refused> {
        let mut batch = Batch::new();
        batch.table("eip-probe");
        batch.delete_table("eip-probe");
        batch.commit(&mut self.socket, "use nf_tables")
    }

    /// Replaces the table, whatever was in it, by this. Returns for how many attachments it has room.
    ///
    /// A packet sees the old table or the new one and never anything between. `delete table` is
    /// part of the transaction, because `flush` keeps the elements of maps.
    pub(crate) fn replace(
        &mut self,
        surroundings: &Surroundings,
        pairs: &(impl ExactSizeIterator<Item = Pair> + Clone),
    ) -> Result<usize, Refused> {
        // Twice what is needed: the kernel refuses to go over the size a set was made with.
        let capacity = (pairs.len() * 2).next_power_of_two().max(LEAST_CAPACITY);
        let mut batch = Batch::new();
        batch.table(TABLE);
        batch.delete_table(TABLE);
        batch.table(TABLE);
        let room = u32::try_from(capacity).unwrap_or(u32::MAX);
        for ((name, kind), id) in SETS.into_iter().zip(1..) {
            batch.add(NEW_SET, NLM_F_CREATE, name, |b| encode_set(b, name, kind, id, room));
        }
        for chain in &CHAINS {
            batch.add(NEW_CHAIN, NLM_F_CREATE, chain.name, |b| encode_chain(b, chain));
        }
        batch.surroundings(surroundings);
        batch.elements(NEW_ELEMENT, pairs);
        for chain in &CHAINS {
            for (number, rule) in chain.rules.iter().enumerate() {
                let label = rule_label(chain, number);
                batch.add(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, label, |b| {
                    encode_rule(b, chain, rule);
                });
            }
        }
        batch.commit(&mut self.socket, "load the table of elastic IPs")?;
        Ok(capacity)
    }

    /// Takes attachments away and adds others; `surroundings` are given when they have changed.
    pub(crate) fn change(
        &mut self,
        surroundings: Option<&Surroundings>,
        gone: &(impl Iterator<Item = Pair> + Clone),
        new: &(impl Iterator<Item = Pair> + Clone),
    ) -> Result<(), Refused> {
        let mut batch = Batch::new();
        if let Some(surroundings) = surroundings {
            for set in [INSIDE, POOL, PRIVNETS] {
                batch.add(DELETE_ELEMENT, 0, set, |b| encode_set_name(b, set));
            }
            batch.surroundings(surroundings);
        }
        batch.elements(DELETE_ELEMENT, gone);
        batch.elements(NEW_ELEMENT, new);
        batch.commit(&mut self.socket, "change the table of elastic IPs")
    }

    /// Whether nobody else has touched the table since this was last asked.
    ///
    /// News that was lost on the way counts as touched.
    pub(crate) fn untouched(&mut self) -> bool {
        let own = self.socket.port();
        let mut touched = false;
        let drained = self.news.drain(|news| touched |= news.port != own && concerns_us(&news));
        drained.is_ok() && !touched
    }
}

fn concerns_us(news: &Received<'_>) -> bool {
    if news.kind >> 8 != SUBSYSTEM || news.kind & 0xff == NEW_GENERATION {
        return false;
    }
    // Behind the family, version and resource id; the table's name is attribute 1 of every kind.
    let table = news.body.get(4..).and_then(|attributes| find(attributes, 1));
    table.is_some_and(|table| name(table) == TABLE)
}

/// The messages of one transaction, and what each is for.
struct Batch {
    bytes: Vec<u8>,
    labels: Vec<Cow<'static, str>>,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), labels: Vec::new() };
        batch.frame(BATCH_BEGIN);
        batch
    }

    fn frame(&mut self, kind: u16) {
        let sequence = self.next("the transaction".into());
        message(&mut self.bytes, kind, 0, sequence, |b| b.extend(BATCH_FOR));
    }

    fn next(&mut self, label: Cow<'static, str>) -> u32 {
        self.labels.push(label);
        u32::try_from(self.labels.len()).unwrap_or(u32::MAX)
    }

    fn add(
        &mut self,
        kind: u16,
        flags: u16,
        label: impl Into<Cow<'static, str>>,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let sequence = self.next(label.into());
        message(&mut self.bytes, SUBSYSTEM << 8 | kind, flags, sequence, |b| {
            b.extend([FAMILY_IPV4, 0, 0, 0]);
            body(b);
        });
    }

    fn table(&mut self, name: &'static str) {
        self.add(NEW_TABLE, NLM_F_CREATE, name, |b| encode_table(b, name));
    }

    fn delete_table(&mut self, name: &'static str) {
        self.add(DELETE_TABLE, 0, name, |b| encode_table(b, name));
    }

    fn surroundings(&mut self, surroundings: &Surroundings) {
        for (set, elements) in surroundings.elements() {
            for body in encode_elements(set, elements.into_iter()) {
                self.add(NEW_ELEMENT, NLM_F_CREATE, set, |b| b.extend(body));
            }
        }
    }

    fn elements(&mut self, kind: u16, pairs: &(impl Iterator<Item = Pair> + Clone)) {
        let flags = if kind == NEW_ELEMENT { NLM_F_CREATE } else { 0 };
        for (set, element) in ATTACHMENT_SETS {
            for body in encode_elements(set, pairs.clone().map(element)) {
                self.add(kind, flags, set, |b| b.extend(body));
            }
        }
    }

    /// Sends the transaction. The kernel works it off inside the call, and answers only with what
    /// it refused: no answer is success.
    fn commit(mut self, socket: &mut Netlink, doing: &'static str) -> Result<(), Refused> {
        self.frame(BATCH_END);
        let mut refusal = None;
        let exchanged = socket.exchange(&self.bytes, |answer| {
            if let (NLMSG_ERROR, Some(code @ 1..)) = (answer.kind, answer.errno()) {
                refusal.get_or_insert((answer.sequence, code));
            }
        });
        let refused = |at: Cow<'static, str>, source| Refused { doing, at, source };
        if let Some((sequence, code)) = refusal {
            let index = usize::try_from(sequence).unwrap_or_default().wrapping_sub(1);
            let at = self.labels.get(index).cloned().unwrap_or_default();
            return Err(refused(at, io::Error::from_raw_os_error(code)));
        }
        exchanged.map_err(|source| refused("the socket".into(), source))
    }
}

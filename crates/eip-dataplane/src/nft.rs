//! Transactions with `nf_tables`, and noticing what others do to our table.

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::SockProtocol;

use crate::elements::{Element, encode_elements, encode_set_name};
use crate::expr::Expr;
use crate::socket::Netlink;
use crate::table::{self, CHAINS, Room, SETS, SUB_CHAINS, TABLE};
use crate::wire::{
    self, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLMSG_ERROR, Received, attr_str,
};

const NFPROTO_UNSPEC: u8 = 0;
pub(crate) const NFPROTO_IPV4: u8 = 2;
pub(crate) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
pub(crate) const NEWTABLE: u16 = 0;
pub(crate) const DELTABLE: u16 = 2;
pub(crate) const NEWCHAIN: u16 = 3;
pub(crate) const NEWRULE: u16 = 6;
pub(crate) const NEWSET: u16 = 9;
pub(crate) const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
pub(crate) const DELSETELEM: u16 = 14;
const NEWGEN: u16 = 15;
const GETGEN: u16 = 16;
/// `NFNLGRP_NFTABLES` is 7; the mask counts from bit 0.
const GROUP_NFTABLES: u32 = 1 << 6;

/// What every kernel with `nf_tables` for IPv4 takes.
const OUR_TABLE: &str = "table eip (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4)";

/// A transaction of elements that is longer than this, in bytes, is committed while nobody listens:
/// a few hundred attachments. Removing 39,000 took 0.93 s heard, and 0.18 s unheard.
const LARGE: usize = 64 << 10;

/// What the elements of one attachment take in a transaction, a little more than less.
const ATTACHMENT_BYTES: usize = 96;

/// A transaction in the making: everything in it happens, or nothing does.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// What each message is for; the message's sequence number is its place in here.
    labels: Vec<Cow<'static, str>>,
    last: usize,
}

impl Batch {
    /// Begins a transaction.
    ///
    /// `NFNL_BATCH_GENID` is left out on purpose: it would make our transaction fail whenever anyone
    /// (Docker, an administrator) commits anything to any table at the same time. What we must
    /// know is whether *our* table is the one we made, and that [`Nft::intact`] tells.
    pub(crate) fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), labels: Vec::new(), last: 0 };
        batch.control(BATCH_BEGIN);
        batch
    }

    fn control(&mut self, kind: u16) {
        let sequence = self.next("begin or end of the transaction (CONFIG_NF_TABLES)".into());
        wire::message(&mut self.bytes, kind, 0, sequence, |m| {
            m.extend_from_slice(&[NFPROTO_UNSPEC, 0]);
            m.extend_from_slice(&SUBSYSTEM.to_be_bytes());
        });
    }

    fn next(&mut self, label: Cow<'static, str>) -> u32 {
        self.labels.push(label);
        u32::try_from(self.labels.len() - 1).expect("a batch is far below 2^32 messages")
    }

    pub(crate) fn push(
        &mut self,
        kind: u16,
        flags: u16,
        label: Cow<'static, str>,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let sequence = self.next(label);
        self.last = self.bytes.len();
        wire::message(&mut self.bytes, SUBSYSTEM << 8 | kind, flags, sequence, |m| {
            m.extend_from_slice(&[NFPROTO_IPV4, 0, 0, 0]);
            body(m);
        });
    }

    /// Replaces the whole table, whether there is one or not.
    ///
    /// The deletion of a table that is not there fails, so it is added first. `flush` would not
    /// do: it keeps the elements of maps.
    pub(crate) fn replace_table(&mut self, room: Room) {
        self.push(NEWTABLE, NLM_F_CREATE, OUR_TABLE.into(), table::encode_table);
        self.push(DELTABLE, 0, "removal of table eip".into(), table::encode_table);
        self.push(NEWTABLE, NLM_F_CREATE, OUR_TABLE.into(), table::encode_table);
        for (id, (name, kind)) in (1..).zip(SETS) {
            self.push(NEWSET, NLM_F_CREATE, format!("set {name}").into(), |m| {
                table::encode_set(m, name, kind, id, room);
            });
        }
        // Ahead of those that jump to them.
        for chain in &SUB_CHAINS {
            self.push(NEWCHAIN, NLM_F_CREATE, format!("chain {}", chain.name).into(), |m| {
                table::encode_sub_chain(m, chain);
            });
            self.push_rules(chain.name, chain.rules);
        }
        for chain in &CHAINS {
            self.push(NEWCHAIN, NLM_F_CREATE, table::chain_label(chain), |m| {
                table::encode_chain(m, chain);
            });
            self.push_rules(chain.name, chain.rules);
        }
    }

    fn push_rules(&mut self, chain: &str, rules: &[&[Expr]]) {
        for (number, rule) in (1..).zip(rules) {
            let label = table::rule_label(chain, number, rule);
            self.push(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, label, |m| {
                table::encode_rule(m, chain, rule);
            });
        }
    }

    pub(crate) fn add(&mut self, set: &str, elements: impl Iterator<Item = Element>) {
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            self.push(NEWSETELEM, NLM_F_CREATE, format!("new elements of {set}").into(), |m| {
                encode_elements(m, set, &mut elements);
            });
        }
    }

    pub(crate) fn delete(&mut self, set: &str, elements: impl Iterator<Item = Element>) {
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            self.push(DELSETELEM, 0, format!("old elements of {set}").into(), |m| {
                encode_elements(m, set, &mut elements);
            });
        }
    }

    /// Makes room for so many attachments: what has grown is copied.
    pub(crate) fn reserve(&mut self, attachments: usize) {
        self.bytes.reserve(attachments * ATTACHMENT_BYTES);
    }

    pub(crate) fn clear(&mut self, set: &str) {
        self.push(DELSETELEM, 0, format!("old elements of {set}").into(), |m| {
            encode_set_name(m, set);
        });
    }

    /// Ends a transaction that is acknowledged as a whole, and returns it as it is sent.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.acknowledge_last();
        self.control(BATCH_END);
        self.bytes
    }

    fn acknowledge_last(&mut self) {
        wire::add_flags(&mut self.bytes, self.last, NLM_F_ACK);
    }
}

/// A transaction that did not happen: nothing in the kernel has changed.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The message that the kernel objected to first.
    pub(crate) tried: Cow<'static, str>,
    pub(crate) source: io::Error,
}

/// A connection to `nf_tables` of one network namespace.
#[derive(Debug)]
pub(crate) struct Nft {
    commands: Netlink,
    /// Hears of every change to any table; an own socket, so that answers do not mix with it.
    news: Option<Netlink>,
    /// Held during commits for which nobody listens, so that none of our own is taken for a stranger's.
    alone: Arc<Mutex<()>>,
    /// The generation of the whole ruleset up to which we know that our table is ours alone.
    generation: u32,
    tampered: bool,
}

impl Nft {
    pub(crate) fn open() -> io::Result<Self> {
        let commands = Netlink::open(SockProtocol::NetlinkNetFilter, 0)?;
        let (news, alone) = (Some(listen()?), Arc::default());
        let mut nft = Self { commands, news, alone, generation: 0, tampered: true };
        nft.generation = nft.current_generation()?;
        Ok(nft)
    }

    /// To be held by whoever else of ours commits to `nf_tables`.
    pub(crate) fn alone(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.alone)
    }

    /// Has the kernel check a whole table without making it.
    ///
    /// A batch without an end is checked in full and then undone.
    pub(crate) fn rehearse(&mut self) -> Result<(), Refused> {
        let mut batch = Batch::new();
        batch.replace_table(Room { attachments: 1, suspects: 1 });
        batch.acknowledge_last();
        self.exchange(&batch).map(|_| ())
    }

    /// Changes elements of the table in force.
    pub(crate) fn commit_elements(&mut self, batch: Batch) -> Result<(), Refused> {
        if batch.bytes.len() > LARGE {
            let tampered = !self.intact().map_err(generation_unknown)?;
            return self.commit_unheard(batch, tampered);
        }
        let tampered = !self.intact().map_err(generation_unknown)?;
        self.commit(batch)?;
        let now = self.current_generation().map_err(generation_unknown)?;
        let ours_alone = now == self.generation.wrapping_add(1);
        self.generation = now;
        self.tampered = tampered;
        if ours_alone {
            // What the listener holds is our own; losing what we throw away is no loss.
            let _lost = self.drain_news(|_| ());
        } else {
            self.tampered |= self.heard_of_tampering();
        }
        Ok(())
    }

    /// Replaces the table.
    pub(crate) fn commit_table(&mut self, batch: Batch) -> Result<(), Refused> {
        self.commit_unheard(batch, false)
    }

    /// Commits while nobody listens: the kernel would write a notification for each of the elements,
    /// which takes longer than adding them. The count of commits tells whether anyone else
    /// committed in that time; if so, the table counts as tampered with, and is replaced again.
    /// `tampered` says whether the table will not be wholly ours even if nobody did.
    fn commit_unheard(&mut self, batch: Batch, tampered: bool) -> Result<(), Refused> {
        let alone = self.alone();
        let _alone = alone.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current_generation().map_err(generation_unknown)?;
        self.news = None;
        self.tampered = true;
        let committed = self.commit(batch);
        let listening = |source| Refused { tried: "listening for changes".into(), source };
        self.news = Some(listen().map_err(listening)?);
        committed?;
        self.generation = self.current_generation().map_err(generation_unknown)?;
        self.tampered = tampered || self.generation != before.wrapping_add(1);
        Ok(())
    }

    fn commit(&mut self, mut batch: Batch) -> Result<(), Refused> {
        batch.acknowledge_last();
        batch.control(BATCH_END);
        if self.exchange(&batch)? {
            return Ok(());
        }
        let source = io::Error::from_raw_os_error(libc::ENOBUFS);
        Err(Refused { tried: "acknowledgement of the transaction".into(), source })
    }

    /// Says whether our table is still the one that we made. About a microsecond when nobody
    /// committed anything.
    pub(crate) fn intact(&mut self) -> io::Result<bool> {
        if self.tampered {
            return Ok(false);
        }
        let now = self.current_generation()?;
        if now != self.generation {
            self.tampered = self.heard_of_tampering();
            self.generation = now;
        }
        Ok(!self.tampered)
    }

    pub(crate) fn current_generation(&mut self) -> io::Result<u32> {
        let mut request = Vec::new();
        wire::message(&mut request, SUBSYSTEM << 8 | GETGEN, 0, 1, |m| {
            m.extend_from_slice(&[NFPROTO_UNSPEC, 0, 0, 0]);
        });
        let mut answer = Err(io::Error::from_raw_os_error(libc::ENODATA));
        self.commands.exchange(&request, |one| match (one.kind, one.errno()) {
            (NLMSG_ERROR, Some(code)) => answer = Err(io::Error::from_raw_os_error(code)),
            (kind, _) if kind == SUBSYSTEM << 8 | NEWGEN => {
                let id = one.body.get(4..).and_then(|attrs| wire::find(attrs, 1));
                if let Some(bytes) = id.and_then(|value| value.first_chunk::<4>()) {
                    answer = Ok(u32::from_be_bytes(*bytes));
                }
            }
            _ => (),
        })?;
        answer
    }

    /// Returns the keys of a set of the table, as it is; none if there is no such set or table. Not for a large one.
    pub(crate) fn keys(&mut self, set: &str) -> io::Result<Vec<Vec<u8>>> {
        match keys(&mut self.commands, TABLE, set) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// Sends a batch and reads all that is said about it. `Ok(true)` if it was acknowledged.
    ///
    /// Only the last message asks for an acknowledgement: the kernel hands them all out at the end,
    /// and those of a large batch would not fit the socket. Errors are told for every message.
    fn exchange(&mut self, batch: &Batch) -> Result<bool, Refused> {
        let mut acknowledged = false;
        let mut refusal: Option<(u32, i32)> = None;
        let outcome = self.commands.exchange(&batch.bytes, |one| match one.errno() {
            Some(0) => acknowledged = true,
            Some(code) => refusal = refusal.or(Some((one.sequence, code))),
            None => (),
        });
        if let Some((sequence, code)) = refusal {
            let place = usize::try_from(sequence).unwrap_or(usize::MAX);
            let tried = batch.labels.get(place).cloned().unwrap_or("the transaction".into());
            return Err(Refused { tried, source: io::Error::from_raw_os_error(code) });
        }
        outcome.map_err(|source| Refused { tried: "the transaction".into(), source })?;
        Ok(acknowledged)
    }

    /// Looks for changes that others made to our table; when news were lost, there might be some.
    fn heard_of_tampering(&mut self) -> bool {
        let ours = self.commands.port();
        let mut foreign = false;
        let heard = self.drain_news(|one| foreign |= is_about_us(one) && one.port != ours);
        foreign || heard.is_err()
    }

    fn drain_news(&mut self, each: impl FnMut(Received<'_>)) -> io::Result<()> {
        match &mut self.news {
            Some(news) => news.drain(each),
            None => Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
        }
    }
}

/// A question for elements of a set.
pub(crate) fn question(flags: u16, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut request = Vec::new();
    wire::message(&mut request, SUBSYSTEM << 8 | GETSETELEM, flags, 1, |m| {
        m.extend_from_slice(&[NFPROTO_IPV4, 0, 0, 0]);
        body(m);
    });
    request
}

/// Lists the keys of a set.
pub(crate) fn keys(socket: &mut Netlink, table: &str, set: &str) -> io::Result<Vec<Vec<u8>>> {
    let request = question(NLM_F_DUMP, |m| {
        attr_str(m, 1, table);
        attr_str(m, 2, set);
    });
    let mut found = Vec::new();
    socket.dump(&request, |one| {
        found.extend(elements(one.body).filter_map(|element| key(element).map(<[u8]>::to_vec)));
    })?;
    Ok(found)
}

/// The elements that a message tells of.
pub(crate) fn elements(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let list = body.get(4..).and_then(|attrs| wire::find(attrs, 3)).unwrap_or_default();
    wire::attrs(list).map(|(_, element)| element)
}

pub(crate) fn key(element: &[u8]) -> Option<&[u8]> {
    wire::find(wire::find(element, 1)?, 1)
}

fn listen() -> io::Result<Netlink> {
    Netlink::open(SockProtocol::NetlinkNetFilter, GROUP_NFTABLES)
}

fn generation_unknown(source: io::Error) -> Refused {
    Refused { tried: "a question for the ruleset's generation".into(), source }
}

/// Every message about a table has the name of the table as its first kind of attribute.
fn is_about_us(one: Received<'_>) -> bool {
    one.kind >> 8 == SUBSYSTEM
        && one.kind & 0xff != NEWGEN
        && one.body.first() == Some(&NFPROTO_IPV4)
        && one.body.get(4..).and_then(|attrs| wire::find(attrs, 1)).map(wire::name) == Some(TABLE)
}

//! The instance that calls itself: its frame has to leave by the bridge port that it came in by.
//!
//! Where bridged frames are filtered as IP (`net.bridge.bridge-nf-call-iptables=1`, which Docker
//! sets), the destination is rewritten while the frame is still on the bridge, and a bridge sends
//! nothing back to where it came from but on ports in hairpin mode. So the ports of instances with an
//! elastic IP are put in it, and taken out of it afterwards; what others have set is left alone.
//!
//! Which port that is, the kernel knows once the instance has spoken: its neighbour table has the MAC
//! address behind the private one, and the bridge's table the port behind the MAC address. Both are
//! looked at when something in them has changed, on a thread of its own.
//! Sources: `linux/if_bridge.h`, `linux/if_link.h`, `linux/neighbour.h`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use nix::sys::socket::SockProtocol;
use tracing::{debug, warn};

use crate::socket::Netlink;
use crate::wanted::{News, learn};
use crate::wire::{self, NLM_F_ACK, NLM_F_DUMP, NLMSG_ERROR, attr, nest};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
/// `RTMGRP_NEIGH`, which tells of both tables.
const GROUP_NEIGH: u32 = 0x4;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_BRPORT_MODE: u16 = 4;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;

/// How long a port that the kernel has just learnt may wait.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const FILTERED: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

type Mac = [u8; 6];

/// The hand that the data plane gives its news to; the thread ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Hairpin {
    news: Sender<News>,
}

impl Hairpin {
    pub(crate) fn start() -> io::Result<Self> {
        let (news, inbox) = mpsc::channel();
        let mut ports = Ports {
            questions: Netlink::open(SockProtocol::NetlinkRoute, 0)?,
            news: Netlink::open(SockProtocol::NetlinkRoute, GROUP_NEIGH)?,
            wanted: BTreeSet::new(),
            ours: BTreeSet::new(),
        };
        std::thread::Builder::new().name("eip-hairpin".into()).spawn(move || ports.run(&inbox))?;
        Ok(Self { news })
    }

    pub(crate) fn all(&self, instances: impl Iterator<Item = Ipv4Addr>) {
        self.tell(News::All(instances.collect()));
    }

    pub(crate) fn changed(&self, gone: Vec<Ipv4Addr>, come: Vec<Ipv4Addr>) {
        self.tell(News::Changed { gone, come });
    }

    fn tell(&self, news: News) {
        if self.news.send(news).is_err() {
            warn!(
                "The thread that looks after bridge ports is gone; instances may not reach themselves"
            );
        }
    }
}

struct Ports {
    questions: Netlink,
    news: Netlink,
    /// The private addresses of instances that have an elastic IP.
    wanted: BTreeSet<Ipv4Addr>,
    /// The ports that we have put in hairpin mode, by the index of the interface.
    ours: BTreeSet<i32>,
}

/// A port of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Port {
    bridge: i32,
    hairpin: bool,
}

impl Ports {
    fn run(&mut self, inbox: &Receiver<News>) {
        let mut troubled = false;
        loop {
            let mut due = troubled;
            match inbox.recv_timeout(LOOK_EVERY) {
                Ok(news) => {
                    learn(&mut self.wanted, news);
                    due = true;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(more) = inbox.try_recv() {
                learn(&mut self.wanted, more);
            }
            // Lost news are news.
            let mut told = false;
            due |= self.news.drain(|_| told = true).is_err() || told;
            if !due || (self.wanted.is_empty() && self.ours.is_empty()) {
                continue;
            }
            let outcome = self.settle();
            if let Err(error) = &outcome
                && !troubled
            {
                warn!(%error, "Could not look after bridge ports; will retry");
            }
            troubled = outcome.is_err();
        }
    }

    fn settle(&mut self) -> io::Result<()> {
        let ports = self.ports()?;
        let needed = if is_filtered() { self.needed(&ports)? } else { BTreeSet::new() };
        self.ours.retain(|port| ports.contains_key(port));
        for port in needed.iter().filter(|port| ports.get(port).is_some_and(|one| !one.hairpin)) {
            // Noted first: it may be done though the answer is lost, and has to be undone some day.
            self.ours.insert(*port);
            self.set(*port, true)?;
            debug!(port, "Put a bridge port in hairpin mode");
        }
        let over: Vec<i32> = self.ours.difference(&needed).copied().collect();
        for port in over {
            // An instance that is silent for long is forgotten by the bridge, and may speak again.
            if is_filtered() && self.may_be_needed(port, &ports)? {
                continue;
            }
            self.set(port, false)?;
            debug!(port, "Took a bridge port out of hairpin mode");
            self.ours.remove(&port);
        }
        Ok(())
    }

    /// Whether the bridge knows of no instance behind the port, so that it may be that of one that is
    /// wanted.
    fn may_be_needed(&mut self, port: i32, ports: &BTreeMap<i32, Port>) -> io::Result<bool> {
        if self.wanted.is_empty() {
            return Ok(false);
        }
        let known = self.fdb()?;
        let bridge = ports.get(&port).map(|one| one.bridge);
        Ok(!known.iter().any(|((at, _), behind)| Some(*at) == bridge && *behind == port))
    }

    fn needed(&mut self, ports: &BTreeMap<i32, Port>) -> io::Result<BTreeSet<i32>> {
        let neighbours = self.neighbours()?;
        let fdb = self.fdb()?;
        let port = |bridge_and_mac: &(i32, Mac)| fdb.get(bridge_and_mac).copied();
        let found = neighbours.iter().filter_map(port).filter(|port| ports.contains_key(port));
        Ok(found.collect())
    }

    fn ports(&mut self) -> io::Result<BTreeMap<i32, Port>> {
        let mut request = Vec::new();
        wire::message(&mut request, RTM_GETLINK, NLM_F_DUMP, 1, |m| {
            m.push(AF_BRIDGE);
            m.resize(wire::HEADER + 16, 0);
        });
        let mut ports = BTreeMap::new();
        self.questions.dump(&request, |one| {
            let port = || {
                let index = number(one.body.get(4..)?)?;
                let attrs = one.body.get(16..)?;
                let bridge = number(wire::find(attrs, IFLA_MASTER)?)?;
                let mode = wire::find(wire::find(attrs, IFLA_PROTINFO)?, IFLA_BRPORT_MODE)?;
                Some((index, Port { bridge, hairpin: mode.first() == Some(&1) }))
            };
            if one.kind == RTM_NEWLINK {
                ports.extend(port());
            }
        })?;
        Ok(ports)
    }

    /// Returns the interface and the MAC address behind each private address that is wanted.
    fn neighbours(&mut self) -> io::Result<BTreeSet<(i32, Mac)>> {
        let mut found = BTreeSet::new();
        let wanted = &self.wanted;
        self.questions.dump(&neighbour_question(AF_INET), |one| {
            let entry = || {
                let attrs = one.body.get(12..)?;
                let address = wire::address(wire::find(attrs, NDA_DST)?)?;
                let mac = wire::find(attrs, NDA_LLADDR)?.try_into().ok()?;
                let interface = number(one.body.get(4..)?)?;
                wanted.contains(&address).then_some((interface, mac))
            };
            if one.kind == RTM_NEWNEIGH {
                found.extend(entry());
            }
        })?;
        Ok(found)
    }

    /// Returns the port behind each MAC address of each bridge.
    fn fdb(&mut self) -> io::Result<BTreeMap<(i32, Mac), i32>> {
        /// `NUD_PERMANENT`: the port's own address, or one that somebody set.
        const PERMANENT: u16 = 0x80;
        let mut found = BTreeMap::new();
        self.questions.dump(&neighbour_question(AF_BRIDGE), |one| {
            let entry = || {
                let attrs = one.body.get(12..)?;
                let state = u16::from_ne_bytes(*one.body.get(8..)?.first_chunk::<2>()?);
                let mac = wire::find(attrs, NDA_LLADDR)?.try_into().ok()?;
                let bridge = number(wire::find(attrs, NDA_MASTER)?)?;
                let port = number(one.body.get(4..)?)?;
                (state & PERMANENT == 0).then_some(((bridge, mac), port))
            };
            if one.kind == RTM_NEWNEIGH {
                found.extend(entry());
            }
        })?;
        Ok(found)
    }

    fn set(&mut self, port: i32, hairpin: bool) -> io::Result<()> {
        let mut request = Vec::new();
        wire::message(&mut request, RTM_SETLINK, NLM_F_ACK, 1, |m| {
            m.extend_from_slice(&[AF_BRIDGE, 0, 0, 0]);
            m.extend_from_slice(&port.to_ne_bytes());
            m.extend_from_slice(&[0; 8]);
            nest(m, IFLA_PROTINFO, |m| attr(m, IFLA_BRPORT_MODE, &[u8::from(hairpin)]));
        });
        let mut refused = None;
        self.questions.exchange(&request, |one| {
            refused = one.errno().filter(|code| one.kind == NLMSG_ERROR && *code != 0);
        })?;
        match refused {
            // A port that has gone needs nothing.
            None | Some(libc::ENODEV) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

fn is_filtered() -> bool {
    std::fs::read_to_string(FILTERED).is_ok_and(|text| text.trim() != "0")
}

fn neighbour_question(family: u8) -> Vec<u8> {
    let mut request = Vec::new();
    wire::message(&mut request, RTM_GETNEIGH, NLM_F_DUMP, 1, |m| {
        m.push(family);
        m.resize(wire::HEADER + 12, 0);
    });
    request
}

fn number(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk::<4>().map(|four| i32::from_ne_bytes(*four))
}

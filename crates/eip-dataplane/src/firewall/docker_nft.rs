//! Docker's other firewall: the table `ip docker-bridges`, from engine 29 on, where it was told to use
//! nftables itself (`--firewall-backend=nftables`).
//!
//! It has no chain for rules of others, and what it drops nobody else can accept. It lets in what carries a
//! mark that the engine was told of when it was started, so that is the operator's to do; here it
//! is found out whether it was done.
//! Source: Docker's manual, "Docker with nftables"; `linux/netfilter/nf_tables.h`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use nix::sys::socket::SockProtocol;

use crate::nft::{NFPROTO_IPV4, SUBSYSTEM};
use crate::socket::Netlink;
use crate::wire::{self, NLM_F_DUMP, attr_str};

const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const TABLE: &str = "docker-bridges";
/// What precedes the bridge in the name of the chain for what is forwarded to it.
const TO_BRIDGE: &str = "filter-forward-in__";
const META_MARK: u32 = 3;
const NF_DROP: u32 = 0;

/// What the rules of one chain do.
#[derive(Debug, Default)]
struct Door {
    drops: bool,
    looks_at_marks: bool,
}

/// Returns the bridges to which Docker's nftables firewall lets nothing in but what it has published:
/// their chains drop, and no rule there looks at a packet's mark.
///
/// What is sent to elastic IPs carries [`crate::ACCEPT_MARK`]; `dockerd --bridge-accept-fwmark` is how
/// the engine learns of it.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn closed_by_docker() -> io::Result<BTreeSet<String>> {
    let mut socket = Netlink::open(SockProtocol::NetlinkNetFilter, 0)?;
    let mut request = Vec::new();
    wire::message(&mut request, SUBSYSTEM << 8 | GETRULE, NLM_F_DUMP, 1, |m| {
        m.extend_from_slice(&[NFPROTO_IPV4, 0, 0, 0]);
        attr_str(m, 1, TABLE);
    });
    let mut doors: BTreeMap<String, Door> = BTreeMap::new();
    let listed = socket.dump(&request, |one| {
        if one.kind == SUBSYSTEM << 8 | NEWRULE {
            learn(&mut doors, one.body.get(4..).unwrap_or_default());
        }
    });
    match listed {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let closed = doors.into_iter().filter(|(_, door)| door.drops && !door.looks_at_marks);
    Ok(closed.map(|(bridge, _)| bridge).collect())
}

/// Takes in one rule of the table.
fn learn(doors: &mut BTreeMap<String, Door>, rule: &[u8]) {
    let is_ours = wire::find(rule, 1).is_some_and(|table| wire::name(table) == TABLE);
    let chain = wire::find(rule, 2).map(wire::name).unwrap_or_default();
    let Some(bridge) = chain.strip_prefix(TO_BRIDGE).filter(|_| is_ours) else { return };
    let door = doors.entry(bridge.to_owned()).or_default();
    for (_, expression) in wire::attrs(wire::find(rule, 4).unwrap_or_default()) {
        let name = wire::find(expression, 1).map(wire::name);
        let data = wire::find(expression, 2).unwrap_or_default();
        let number = |from, kind| Some(u32::from_be_bytes(*wire::find(from, kind)?.first_chunk()?));
        let verdict = || number(wire::find(wire::find(data, 2)?, 2)?, 1);
        door.looks_at_marks |= name == Some("meta") && number(data, 2) == Some(META_MARK);
        door.drops |= name == Some("immediate") && verdict() == Some(NF_DROP);
    }
}

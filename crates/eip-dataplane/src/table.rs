//! The table `ip eip`: its sets, chains and rules. Rules never change; addresses live in sets.
//!
//! In nft's own words (`nft list table ip eip` shows the same):
//!
//! | set or map | holds |
//! |---|---|
//! | `inside` | interfaces that lead to instances; every other interface is outside |
//! | `pool` | the ranges, less the host's own addresses and the instances' subnets |
//! | `blocks` | the first halves of the addresses in `pool`: the blocks of 65,536 that it has a part in |
//! | `privnets` | the subnets of the instances |
//! | `hidden` | those of them that are not routed beyond the host |
//! | `dn`, `sn` | elastic IP to private address, and back |
//! | `zd` | elastic IP to the conntrack zone of the attachment |
//! | `aliases` | the elastic IPs that are on their instances' own interfaces |
//! | `speakers` | interface . elastic IP . MAC address: who may send with such an address |
//! | `stale` | elastic IP . private address of attachments that are gone, until their flows are, too |
//! | `watched` | the addresses whose packets are looked at one by one: those of `stale`, and aliases |
//!
//! Five things are less than obvious.
//!
//! *Zones.* A NAT decision is made once for a flow and remembered by conntrack, so changing a map
//! moves no running flow. A flow is found by its addresses *and its zone*; each attachment has a
//! zone of its own, so that the transaction which moves an elastic IP also makes every flow
//! of the old attachment invisible: the next packet is the first of a new flow. Only what is sent to an
//! elastic IP is put in a zone, and only its original direction (`ct original zone`). Replies are
//! looked up without one, so that a reply is found whatever way the flow began: through the elastic
//! IP, through a port that Docker publishes on the host, or from the host itself; and at the first look.
//! What an instance begins itself has no zone: putting it in one would cost every *reply* of every
//! instance a second look into conntrack's table, for what `stale` and the sweep do as well.
//!
//! *Stale pairs.* What zones cannot hide (replies of the old instance; what it has begun; two attachments
//! that share a zone by chance) is held back by the transaction that ends an attachment: it puts the pair
//! into `stale`, and from then on no packet of a flow that was rewritten between the two passes. The sweep
//! ([`crate::conntrack`]) deletes these flows; only when none is left does the pair leave `stale`
//! ([`crate::suspects`]). The sweep deletes, too, what an instance had begun before it had its elastic IP: its
//! next packet begins a flow anew, with what it has now.
//!
//! *Aliases* are routed, not rewritten, so they are in none of the maps. An instance that sends with an
//! elastic IP is who it says only if it is in `speakers`: the MAC address tells it from the instance
//! on the same bridge that had the elastic IP before, and may not know yet that it has lost it.
//!
//! *Cost.* Every packet of every flow goes through `pre_raw` and `fwd_guard`. Nearly all of them belong to flows that
//! are rewritten and answered: these leave both after a look into `zd`, two into `watched` and one into `blocks`,
//! which are small. What takes longer (intervals, names of interfaces, the routing table) is asked of the first packet
//! of a flow, of what is not rewritten, of what is watched, and of what may come from an address of the pool.
//!
//! *Order.* `dstnat - 10` and `srcnat - 10` are ahead of Docker's and libvirt's own NAT (the first
//! NAT of a flow stands); `srcnat + 10` is behind it, for what nobody else has masqueraded.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::expr::Direction::{Original, Reply};
use crate::expr::Expr::{self, *};
use crate::expr::Register::{First, Second};
use crate::wire::{attr, attr_be32, attr_str, nest};

pub(crate) const TABLE: &str = "eip";
pub(crate) const INSIDE: &str = "inside";
pub(crate) const POOL: &str = "pool";
pub(crate) const BLOCKS: &str = "blocks";
pub(crate) const PRIVNETS: &str = "privnets";
pub(crate) const HIDDEN: &str = "hidden";
pub(crate) const DN: &str = "dn";
pub(crate) const SN: &str = "sn";
pub(crate) const ZD: &str = "zd";
pub(crate) const ALIASES: &str = "aliases";
pub(crate) const SPEAKERS: &str = "speakers";
pub(crate) const STALE: &str = "stale";
pub(crate) const WATCHED: &str = "watched";

/// More bridges and other interfaces that lead to instances than a host ever has.
const MOST_INTERFACES: u32 = 16_384;
/// As many blocks of 65,536 addresses as there are.
const ALL_BLOCKS: u32 = 65_536;

/// Set on packets that begin a flow to an elastic IP, for firewalls that accept by mark.
pub const ACCEPT_MARK: u32 = 0x1_0000;

/// What a set is keyed by and maps to; the numbers are nft's ids of types, for `nft list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetKind {
    Interfaces,
    Intervals,
    AddressToAddress,
    AddressToZone,
    AddressPairs,
    Addresses,
    Blocks,
    Speakers,
}

pub(crate) const SETS: [(&str, SetKind); 12] = [
    (INSIDE, SetKind::Interfaces),
    (POOL, SetKind::Intervals),
    (BLOCKS, SetKind::Blocks),
    (PRIVNETS, SetKind::Intervals),
    (HIDDEN, SetKind::Intervals),
    (DN, SetKind::AddressToAddress),
    (SN, SetKind::AddressToAddress),
    (ZD, SetKind::AddressToZone),
    (ALIASES, SetKind::Addresses),
    (SPEAKERS, SetKind::Speakers),
    (STALE, SetKind::AddressPairs),
    (WATCHED, SetKind::Addresses),
];

/// A chain that others jump to: only packets that are sent there meet its rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SubChain {
    pub(crate) name: &'static str,
    pub(crate) rules: &'static [&'static [Expr]],
}

/// What carries an elastic IP as its source: an instance does not speak as one unless it is on its
/// interface, it gets one on the way out.
const SPEAKS: SubChain = SubChain {
    name: "speaks",
    rules: &[&[IifName, NotIn(INSIDE), Return], &[Speaker, In(SPEAKERS), Return], &[Count, Drop]],
};

/// What comes from an address of the pool must be from who may speak as it.
const FROM_POOL: &[Expr] = &[SourceAddress, In(POOL), Jump(SPEAKS.name)];

/// Flows that were rewritten for an attachment which is gone. Both directions are held back.
const HELD: SubChain = SubChain {
    name: "held",
    rules: &[
        &[
            DestinationRewritten,
            FlowDestination(Original, First),
            FlowSource(Reply, Second),
            In(STALE),
            Count,
            Drop,
        ],
        &[
            SourceRewritten,
            FlowDestination(Reply, First),
            FlowSource(Original, Second),
            In(STALE),
            Count,
            Drop,
        ],
    ],
};

/// What nobody here has must not be handed back to the router it came from.
const TURNS_BACK: &[Expr] =
    &[IifName, NotIn(INSIDE), DestinationAddress, In(POOL), WouldTurnBack, Count, Drop];

/// Packets of flows that were rewritten and that have a watched address at one end.
const WATCH: SubChain =
    SubChain { name: "watch", rules: &[FROM_POOL, TURNS_BACK, &[Jump(HELD.name)]] };

/// The first packets of flows that were rewritten, until something comes back. They are marked for
/// firewalls that accept by mark: what leads to an instance by its elastic IP.
const BEGINS: SubChain = SubChain {
    name: "begins",
    rules: &[
        &[DestinationRewritten, FlowDestination(Original, First), In(POOL), AddMark(ACCEPT_MARK)],
        &[DestinationAddress, In(ALIASES), AddMark(ACCEPT_MARK)],
    ],
};

/// What may come from an address of the pool, as its first half says.
const PERHAPS_FROM_POOL: SubChain = SubChain { name: "from_pool", rules: &[FROM_POOL] };

/// Packets of flows that were rewritten, and answered.
const STEADY: SubChain = SubChain {
    name: "steady",
    rules: &[
        &[SourceAddress, In(WATCHED), Goto(WATCH.name)],
        &[DestinationAddress, In(WATCHED), Goto(WATCH.name)],
        &[SourceBlock, In(BLOCKS), Jump(PERHAPS_FROM_POOL.name)],
    ],
};

/// Who an instance sees that is asked by its elastic IP.
const CALLER: SubChain = SubChain {
    name: "caller",
    rules: &[
        &[SourceAddress, Map(SN), RewriteSource],
        // A neighbour without an elastic IP: the answer must come back through the host.
        &[SourceAddress, In(PRIVNETS), Masquerade],
        // Everyone else keeps the source they have: no other masquerade gets to hide it.
        &[SourceAddress, RewriteSource],
    ],
};

/// Each behind those that it jumps to.
pub(crate) const SUB_CHAINS: [SubChain; 7] =
    [SPEAKS, HELD, WATCH, BEGINS, PERHAPS_FROM_POOL, STEADY, CALLER];

/// A base chain: where it hooks in, and its rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    kind: &'static str,
    hook: Hook,
    priority: i32,
    pub(crate) rules: &'static [&'static [Expr]],
}

#[derive(Debug, Clone, Copy)]
enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

pub(crate) const CHAINS: [Chain; 9] = [
    // Behind Docker's raw chain (-300), ahead of conntrack (-200).
    Chain {
        name: "pre_raw",
        kind: "filter",
        hook: Hook::Prerouting,
        priority: -290,
        rules: &[&[DestinationAddress, Map(ZD), SetOriginalZone]],
    },
    Chain {
        name: "out_raw",
        kind: "filter",
        hook: Hook::Output,
        priority: -290,
        rules: &[&[DestinationAddress, Map(ZD), SetOriginalZone]],
    },
    Chain {
        name: "pre",
        kind: "nat",
        hook: Hook::Prerouting,
        priority: -110,
        rules: &[&[DestinationAddress, Map(DN), RewriteDestination]],
    },
    Chain {
        name: "out",
        kind: "nat",
        hook: Hook::Output,
        priority: -110,
        rules: &[&[DestinationAddress, Map(DN), RewriteDestination]],
    },
    // Without this the host's own services would answer on an elastic IP that nobody has.
    Chain {
        name: "in_guard",
        kind: "filter",
        hook: Hook::Input,
        priority: -10,
        rules: &[
            FROM_POOL,
            &[IsOriginal, DestinationAddress, In(POOL), Count, Drop],
            // What conntrack makes nothing of was not rewritten: the host would answer with a reset.
            &[OfNoFlow, DestinationAddress, In(POOL), Count, Drop],
            // What an instance that had the elastic IP still answers to the host itself.
            &[SourceAddress, In(WATCHED), Jump(HELD.name)],
        ],
    },
    Chain {
        name: "fwd_guard",
        kind: "filter",
        hook: Hook::Forward,
        priority: -10,
        rules: &[
            &[DestinationRewrittenAndAnswered, Goto(STEADY.name)],
            &[SourceRewrittenAndAnswered, Goto(STEADY.name)],
            FROM_POOL,
            &[Rewritten, IsNew, Jump(BEGINS.name)],
            &[Rewritten, Goto(STEADY.name)],
            &[IsNew, DestinationAddress, In(ALIASES), AddMark(ACCEPT_MARK)],
            TURNS_BACK,
        ],
    },
    Chain {
        name: "out_guard",
        kind: "filter",
        hook: Hook::Output,
        priority: 0,
        rules: &[&[DestinationAddress, In(WATCHED), Jump(HELD.name)]],
    },
    Chain {
        name: "post",
        kind: "nat",
        hook: Hook::Postrouting,
        priority: 90,
        rules: &[
            &[OifName, NotIn(INSIDE), SourceAddress, Map(SN), RewriteSource],
            &[DestinationAddress, In(ALIASES), SourceAddress, Map(SN), RewriteSource],
            &[DestinationRewritten, FlowDestination(Original, First), In(POOL), Goto(CALLER.name)],
        ],
    },
    // A private address never leaves the host, unless its network is routed.
    Chain {
        name: "post_late",
        kind: "nat",
        hook: Hook::Postrouting,
        priority: 110,
        rules: &[&[
            OifName,
            NotLoopback,
            OifName,
            NotIn(INSIDE),
            SourceAddress,
            In(HIDDEN),
            Masquerade,
        ]],
    },
];

/// How many elements the sets are made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// In each of the maps.
    pub(crate) attachments: u32,
    /// In each of the sets of what is held back, watched, or an alias.
    pub(crate) suspects: u32,
}

pub(crate) fn encode_table(buf: &mut Vec<u8>) {
    attr_str(buf, 1, TABLE);
}

/// Appends the attributes of `NFT_MSG_NEWSET`; `id` tells the sets of one transaction apart.
pub(crate) fn encode_set(buf: &mut Vec<u8>, name: &str, kind: SetKind, id: u32, room: Room) {
    const INTERVAL: u32 = 4;
    const MAP: u32 = 8;
    const IPV4: u32 = 7;
    const IFNAME: u32 = 41;
    const ETHER: u32 = 9;
    let (flags, key_type, key_length) = match kind {
        SetKind::Interfaces => (0, IFNAME, 16),
        SetKind::Intervals => (INTERVAL, IPV4, 4),
        SetKind::AddressToAddress | SetKind::AddressToZone => (MAP, IPV4, 4),
        SetKind::AddressPairs => (0, IPV4 << 6 | IPV4, 8),
        SetKind::Addresses | SetKind::Blocks => (0, IPV4, 4),
        // The six bytes of a MAC address take two registers.
        SetKind::Speakers => (0, (IFNAME << 6 | IPV4) << 6 | ETHER, 28),
    };
    attr_str(buf, 1, TABLE);
    attr_str(buf, 2, name);
    attr_be32(buf, 3, flags);
    attr_be32(buf, 4, key_type);
    attr_be32(buf, 5, key_length);
    match kind {
        SetKind::AddressToAddress => {
            attr_be32(buf, 6, IPV4);
            attr_be32(buf, 7, 4);
        }
        SetKind::AddressToZone => {
            attr_be32(buf, 6, 4);
            attr_be32(buf, 7, 2);
            attr(buf, 13, &ZONE_USER_DATA);
        }
        // The key is in host order, says the user data: nft would print it backwards else.
        SetKind::Interfaces => attr(buf, 13, &[0x00, 0x04, 0x01, 0, 0, 0]),
        SetKind::Intervals
        | SetKind::AddressPairs
        | SetKind::Addresses
        | SetKind::Blocks
        | SetKind::Speakers => (),
    }
    attr_be32(buf, 10, id);
    match kind {
        // Without a size they grow as they need.
        SetKind::Intervals | SetKind::Speakers => (),
        // Every packet looks here, and a set of a fixed size is the faster one.
        SetKind::Interfaces => nest(buf, 9, |b| attr_be32(b, 1, MOST_INTERFACES)),
        SetKind::Blocks => nest(buf, 9, |b| attr_be32(b, 1, ALL_BLOCKS)),
        SetKind::AddressToAddress | SetKind::AddressToZone => {
            nest(buf, 9, |b| attr_be32(b, 1, room.attachments));
        }
        SetKind::AddressPairs | SetKind::Addresses => {
            nest(buf, 9, |b| attr_be32(b, 1, room.suspects));
        }
    }
}

/// What `nft` needs to print `typeof ip daddr : ct zone`: a zone has no type of its own.
const ZONE_USER_DATA: [u8; 62] = [
    0x00, 0x04, 0x02, 0, 0, 0, 0x01, 0x04, 0x01, 0, 0, 0, // key network order, value host's
    0x03, 0x14, 0x00, 0x04, 7, 0, 0, 0, 0x01, 0x0c, 0x00, 0x04, 0x0c, 0, 0, 0, // payload, ip
    0x01, 0x04, 0x0c, 0, 0, 0, // daddr
    0x04, 0x14, 0x00, 0x04, 12, 0, 0, 0, 0x01, 0x0c, 0x00, 0x04, 0x11, 0, 0, 0, 0x01, 0x04, 0xff,
    0xff, 0xff, 0xff, 0x06, 0x04, 0, 0, 0, 0, // ct, zone, no direction
];

pub(crate) fn encode_chain(buf: &mut Vec<u8>, chain: &Chain) {
    const NF_ACCEPT: u32 = 1;
    attr_str(buf, 1, TABLE);
    attr_str(buf, 3, chain.name);
    nest(buf, 4, |b| {
        attr_be32(b, 1, chain.hook as u32);
        attr(b, 2, &chain.priority.to_be_bytes());
    });
    attr_be32(buf, 5, NF_ACCEPT);
    attr_str(buf, 7, chain.kind);
}

pub(crate) fn encode_sub_chain(buf: &mut Vec<u8>, chain: &SubChain) {
    attr_str(buf, 1, TABLE);
    attr_str(buf, 3, chain.name);
}

pub(crate) fn encode_rule(buf: &mut Vec<u8>, chain: &str, rule: &[Expr]) {
    attr_str(buf, 1, TABLE);
    attr_str(buf, 2, chain);
    nest(buf, 4, |b| rule.iter().for_each(|one| one.encode(b)));
}

/// Names a rule for an error, with the kernel's options that it needs.
pub(crate) fn rule_label(chain: &str, number: usize, rule: &[Expr]) -> Cow<'static, str> {
    let options: BTreeSet<_> = rule.iter().filter_map(|one| one.kernel_option()).collect();
    let needs: Vec<_> = options.into_iter().collect();
    let needs = if needs.is_empty() { String::new() } else { format!(" ({})", needs.join(", ")) };
    format!("rule {number} of chain {chain}{needs}").into()
}

/// Names a chain for an error, likewise.
pub(crate) fn chain_label(chain: &Chain) -> Cow<'static, str> {
    let needs = if chain.kind == "nat" { " (CONFIG_NFT_NAT)" } else { "" };
    format!("chain {}{needs}", chain.name).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rule_needs_of_the_kernel_is_named_by_its_option() {
        let label = |name: &str, number: usize| {
            let chain = CHAINS.iter().find(|chain| chain.name == name).expect("a chain");
            rule_label(chain.name, number, chain.rules[number - 1])
        };
        assert_eq!(
            label("pre_raw", 1),
            "rule 1 of chain pre_raw (CONFIG_NFT_CT with CONFIG_NF_CONNTRACK_ZONES)"
        );
        assert_eq!(label("fwd_guard", 7), "rule 7 of chain fwd_guard (CONFIG_NFT_FIB_IPV4)");
        assert_eq!(label("pre", 1), "rule 1 of chain pre (CONFIG_NFT_NAT)");
        assert!(label("post_late", 1).ends_with("(CONFIG_NFT_MASQ)"));
        assert_eq!(label("in_guard", 1), "rule 1 of chain in_guard");
        let nat = CHAINS.iter().find(|chain| chain.name == "post").expect("a chain");
        assert_eq!(chain_label(nat), "chain post (CONFIG_NFT_NAT)");
    }
}

//! The expressions that rules are made of, each as `nf_tables` reads it.
//!
//! Sources: `linux/netfilter/nf_tables.h`, `linux/netfilter/nf_conntrack_common.h`. Attributes are in
//! network byte order; the *values* that are compared are in the order in which the kernel loads
//! them into a register: addresses as on the wire, marks and status bits as the host has them.

use crate::wire::{attr, attr_be32, attr_str, nest};

/// A register; 4-byte values may sit side by side to make a concatenation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Register {
    First,
    /// The 4 bytes behind the first 4 of [`Register::First`].
    Second,
    /// The 4 bytes behind the 16 of an interface's name.
    Fifth,
    Sixth,
}

impl Register {
    const fn number(self) -> u32 {
        match self {
            Self::First => 1,
            Self::Second => 9,
            Self::Fifth => 12,
            Self::Sixth => 13,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Original = 0,
    Reply = 1,
}

/// One step of a rule. Everything is loaded to and read from [`Register::First`] unless it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expr {
    IifName,
    OifName,
    SourceAddress,
    DestinationAddress,
    /// `ip saddr & 255.255.0.0`.
    SourceBlock,
    /// The interface, the source address and the MAC address that the packet came from, if it came by Ethernet.
    Speaker,
    /// Goes on if the value is (not) in the set.
    In(&'static str),
    NotIn(&'static str),
    /// Goes on if the map has the value as a key, with what it maps to instead of it.
    Map(&'static str),
    /// `oifname != "lo"`, after [`Expr::OifName`].
    NotLoopback,
    /// `ct status dnat`: the destination of the flow was rewritten.
    DestinationRewritten,
    /// `ct status snat`.
    SourceRewritten,
    /// `ct status snat,dnat`: one of the two was rewritten.
    Rewritten,
    /// `ct status & (seen-reply | snat | dnat) == seen-reply | dnat`: the destination of the flow was rewritten,
    /// the source was not, and something has come back.
    DestinationRewrittenAndAnswered,
    /// The same with source and destination the other way round.
    SourceRewrittenAndAnswered,
    /// `ct state new`: nothing has come back yet.
    IsNew,
    /// `ct direction original`.
    IsOriginal,
    /// `ct state invalid,untracked`.
    OfNoFlow,
    FlowSource(Direction, Register),
    FlowDestination(Direction, Register),
    /// Puts the packet's original direction into the conntrack zone just loaded.
    SetOriginalZone,
    /// `fib daddr . iif oif exists`: the route to the destination leads back where it came from.
    WouldTurnBack,
    /// `meta mark set meta mark or BITS`.
    AddMark(u32),
    RewriteDestination,
    RewriteSource,
    Masquerade,
    Count,
    Drop,
    /// Goes on in another chain, and comes back when that says so or ends.
    Jump(&'static str),
    /// Goes on in another chain, and does not come back.
    Goto(&'static str),
    Return,
}

const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_IIFTYPE: u32 = 8;
/// `linux/if_arp.h`
const ARPHRD_ETHER: u16 = 1;
const CT_STATE: u32 = 0;
const NF_CT_STATE_INVALID: u32 = 1;
const NF_CT_STATE_NEW: u32 = 1 << 3;
const NF_CT_STATE_UNTRACKED: u32 = 1 << 6;
const CT_DIRECTION: u32 = 1;
const CT_STATUS: u32 = 2;
const CT_ZONE: u32 = 17;
const CT_SRC_IP: u32 = 19;
const CT_DST_IP: u32 = 20;
const IPS_SEEN_REPLY: u32 = 1 << 1;
const IPS_SRC_NAT: u32 = 1 << 4;
const IPS_DST_NAT: u32 = 1 << 5;
const FIB_RESULT_OIF: u32 = 1;
const FIB_F_DADDR: u32 = 1 << 1;
const FIB_F_IIF: u32 = 1 << 3;
const FIB_F_PRESENT: u32 = 1 << 5;
const NAT_SOURCE: u32 = 0;
const NAT_DESTINATION: u32 = 1;
const NFPROTO_IPV4: u32 = 2;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const LOOKUP_INVERTED: u32 = 1;
const NF_DROP: u32 = 0;
/// `NFT_JUMP` and `NFT_RETURN`: -3 and -5.
const NFT_JUMP: u32 = 0xffff_fffd;
const NFT_GOTO: u32 = 0xffff_fffc;
const NFT_RETURN: u32 = 0xffff_fffb;
/// `NFT_PAYLOAD_LL_HEADER` and `NFT_PAYLOAD_NETWORK_HEADER`.
const LINK_HEADER: u32 = 0;
const NETWORK_HEADER: u32 = 1;

impl Expr {
    /// Returns the option that a kernel may be built without, and that this needs. Lookups,
    /// comparisons, counters and verdicts are part of `nf_tables` itself.
    pub(crate) const fn kernel_option(self) -> Option<&'static str> {
        match self {
            Self::DestinationRewritten
            | Self::SourceRewritten
            | Self::Rewritten
            | Self::DestinationRewrittenAndAnswered
            | Self::SourceRewrittenAndAnswered
            | Self::IsNew
            | Self::IsOriginal
            | Self::OfNoFlow
            | Self::FlowSource(..)
            | Self::FlowDestination(..) => Some("CONFIG_NFT_CT"),
            Self::SetOriginalZone => Some("CONFIG_NFT_CT with CONFIG_NF_CONNTRACK_ZONES"),
            Self::WouldTurnBack => Some("CONFIG_NFT_FIB_IPV4"),
            Self::RewriteDestination | Self::RewriteSource => Some("CONFIG_NFT_NAT"),
            Self::Masquerade => Some("CONFIG_NFT_MASQ"),
            Self::IifName
            | Self::OifName
            | Self::SourceAddress
            | Self::SourceBlock
            | Self::DestinationAddress
            | Self::In(_)
            | Self::NotIn(_)
            | Self::Map(_)
            | Self::NotLoopback
            | Self::AddMark(_)
            | Self::Speaker
            | Self::Count
            | Self::Drop
            | Self::Jump(_)
            | Self::Goto(_)
            | Self::Return => None,
        }
    }

    pub(crate) fn encode(self, buf: &mut Vec<u8>) {
        match self {
            Self::IifName => load_meta(buf, META_IIFNAME),
            Self::OifName => load_meta(buf, META_OIFNAME),
            Self::SourceAddress => load_header(buf, NETWORK_HEADER, 12, 4, Register::First),
            Self::DestinationAddress => load_header(buf, NETWORK_HEADER, 16, 4, Register::First),
            Self::SourceBlock => {
                load_header(buf, NETWORK_HEADER, 12, 4, Register::First);
                bitwise(buf, u32::from_ne_bytes([255, 255, 0, 0]), 0);
            }
            Self::Speaker => {
                load_meta(buf, META_IIFTYPE);
                compare(buf, CMP_EQ, &ARPHRD_ETHER.to_ne_bytes());
                load_meta(buf, META_IIFNAME);
                load_header(buf, NETWORK_HEADER, 12, 4, Register::Fifth);
                load_header(buf, LINK_HEADER, 6, 6, Register::Sixth);
            }
            Self::In(set) => lookup(buf, set, 0, false),
            Self::NotIn(set) => lookup(buf, set, LOOKUP_INVERTED, false),
            Self::Map(map) => lookup(buf, map, 0, true),
            Self::NotLoopback => compare(buf, CMP_NEQ, b"lo\0"),
            Self::DestinationRewritten => has_any(buf, CT_STATUS, IPS_DST_NAT),
            Self::SourceRewritten => has_any(buf, CT_STATUS, IPS_SRC_NAT),
            Self::DestinationRewrittenAndAnswered => answered(buf, IPS_DST_NAT),
            Self::SourceRewrittenAndAnswered => answered(buf, IPS_SRC_NAT),
            Self::Rewritten => has_any(buf, CT_STATUS, IPS_SRC_NAT | IPS_DST_NAT),
            Self::IsNew => has_any(buf, CT_STATE, NF_CT_STATE_NEW),
            Self::IsOriginal => {
                load_ct(buf, CT_DIRECTION, None, Register::First);
                compare(buf, CMP_EQ, &[Direction::Original as u8]);
            }
            Self::OfNoFlow => has_any(buf, CT_STATE, NF_CT_STATE_INVALID | NF_CT_STATE_UNTRACKED),
            Self::FlowSource(direction, to) => load_ct(buf, CT_SRC_IP, Some(direction), to),
            Self::FlowDestination(direction, to) => load_ct(buf, CT_DST_IP, Some(direction), to),
            Self::SetOriginalZone => expression(buf, "ct", |b| {
                attr_be32(b, 2, CT_ZONE);
                attr(b, 3, &[Direction::Original as u8]);
                attr_be32(b, 4, Register::First.number());
            }),
            Self::WouldTurnBack => {
                fib(buf, FIB_RESULT_OIF, FIB_F_DADDR | FIB_F_IIF | FIB_F_PRESENT);
                // A byte, and the rest of the register is zero; as wide as an interface, for nft to print it right.
                compare(buf, CMP_EQ, &[1, 0, 0, 0]);
            }
            Self::AddMark(bits) => {
                load_meta(buf, META_MARK);
                bitwise(buf, !bits, bits);
                expression(buf, "meta", |b| {
                    attr_be32(b, 2, META_MARK);
                    attr_be32(b, 3, Register::First.number());
                });
            }
            Self::RewriteDestination => nat(buf, NAT_DESTINATION),
            Self::RewriteSource => nat(buf, NAT_SOURCE),
            Self::Masquerade => expression(buf, "masq", |_| ()),
            Self::Count => expression(buf, "counter", |_| ()),
            Self::Drop => verdict(buf, NF_DROP, None),
            Self::Jump(chain) => verdict(buf, NFT_JUMP, Some(chain)),
            Self::Goto(chain) => verdict(buf, NFT_GOTO, Some(chain)),
            Self::Return => verdict(buf, NFT_RETURN, None),
        }
    }
}

fn verdict(buf: &mut Vec<u8>, code: u32, chain: Option<&str>) {
    expression(buf, "immediate", |b| {
        attr_be32(b, 1, 0);
        nest(b, 2, |b| {
            nest(b, NFTA_DATA_VERDICT, |b| {
                attr_be32(b, 1, code);
                if let Some(chain) = chain {
                    attr_str(b, 2, chain);
                }
            });
        });
    });
}

fn expression(buf: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    nest(buf, 1, |b| {
        attr_str(b, 1, name);
        nest(b, 2, data);
    });
}

fn load_meta(buf: &mut Vec<u8>, key: u32) {
    expression(buf, "meta", |b| {
        attr_be32(b, 1, Register::First.number());
        attr_be32(b, 2, key);
    });
}

fn load_header(buf: &mut Vec<u8>, header: u32, offset: u32, length: u32, to: Register) {
    expression(buf, "payload", |b| {
        attr_be32(b, 1, to.number());
        attr_be32(b, 2, header);
        attr_be32(b, 3, offset);
        attr_be32(b, 4, length);
    });
}

fn load_ct(buf: &mut Vec<u8>, key: u32, direction: Option<Direction>, to: Register) {
    expression(buf, "ct", |b| {
        attr_be32(b, 1, to.number());
        attr_be32(b, 2, key);
        if let Some(direction) = direction {
            attr(b, 3, &[direction as u8]);
        }
    });
}

fn lookup(buf: &mut Vec<u8>, set: &str, flags: u32, mapped: bool) {
    expression(buf, "lookup", |b| {
        attr_str(b, 1, set);
        attr_be32(b, 2, Register::First.number());
        if mapped {
            attr_be32(b, 3, Register::First.number());
        }
        if flags != 0 {
            attr_be32(b, 5, flags);
        }
    });
}

fn compare(buf: &mut Vec<u8>, operation: u32, value: &[u8]) {
    expression(buf, "cmp", |b| {
        attr_be32(b, 1, Register::First.number());
        attr_be32(b, 2, operation);
        nest(b, 3, |b| attr(b, NFTA_DATA_VALUE, value));
    });
}

fn bitwise(buf: &mut Vec<u8>, mask: u32, xor: u32) {
    expression(buf, "bitwise", |b| {
        attr_be32(b, 1, Register::First.number());
        attr_be32(b, 2, Register::First.number());
        attr_be32(b, 3, 4);
        nest(b, 4, |b| attr(b, NFTA_DATA_VALUE, &mask.to_ne_bytes()));
        nest(b, 5, |b| attr(b, NFTA_DATA_VALUE, &xor.to_ne_bytes()));
    });
}

fn has_any(buf: &mut Vec<u8>, key: u32, bits: u32) {
    load_ct(buf, key, None, Register::First);
    bitwise(buf, bits, 0);
    compare(buf, CMP_NEQ, &0_u32.to_ne_bytes());
}

/// Of the two rewritings it must be this one alone.
fn answered(buf: &mut Vec<u8>, rewritten: u32) {
    load_ct(buf, CT_STATUS, None, Register::First);
    bitwise(buf, IPS_SEEN_REPLY | IPS_SRC_NAT | IPS_DST_NAT, 0);
    compare(buf, CMP_EQ, &(IPS_SEEN_REPLY | rewritten).to_ne_bytes());
}

fn fib(buf: &mut Vec<u8>, result: u32, flags: u32) {
    expression(buf, "fib", |b| {
        attr_be32(b, 1, Register::First.number());
        attr_be32(b, 2, result);
        attr_be32(b, 3, flags);
    });
}

fn nat(buf: &mut Vec<u8>, kind: u32) {
    expression(buf, "nat", |b| {
        attr_be32(b, 1, kind);
        attr_be32(b, 2, NFPROTO_IPV4);
        attr_be32(b, 3, Register::First.number());
    });
}

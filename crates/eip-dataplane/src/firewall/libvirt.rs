//! libvirt's: it rejects whatever is forwarded to a bridge of its own, in the chain `LIBVIRT_FWI`.
//!
//! It has no chain for rules of others, so ours are in `FORWARD`, right ahead of its jumps: behind
//! what an administrator has put ahead of them, and for its bridges only, so that what is for others
//! still meets the rules that come after. What is accepted by where it comes from is further back,
//! ahead of the jump to `LIBVIRT_FWO`, which is what rejects it: it has met by then what guards the
//! networks that it may be going to.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use eip_model::{Ipv4Range, LocalNetwork};

use super::iptables::{Chain, FirewallError, is_ours, option};
use super::{Accept, REWRITTEN, Through, to_pool};

/// Where libvirt rejects what is sent to its networks.
const REJECTS: &str = "LIBVIRT_FWI";
/// Where it rejects what they send with an address that is not theirs. Behind the other.
const REJECTS_SOURCES: &str = "LIBVIRT_FWO";
const JUMPS: &str = "LIBVIRT_";

/// Rules of ours that were for no bridge of libvirt's at the last look.
///
/// While libvirtd starts it takes its own out for a moment, and is back before the next look.
#[derive(Debug, Default)]
pub struct Doubts(BTreeSet<String>);

/// Makes libvirt's firewall accept what is sent to the elastic IPs of these ranges, to those of
/// `networks` whose bridges it guards.
///
/// Of aliases it must accept also what they send: libvirt rejects what comes from an address that is
/// not of its network.
///
/// libvirt and Docker put their jumps at the head of `FORWARD` when they find them missing, so it is
/// the place of our rules that is looked at, not only whether they are there. A rule that has no
/// effect is removed before it is put where it has: nothing is refused meanwhile that was let
/// through before. Rules of ours for bridges that are gone are removed at the second look that finds
/// it so, counted by `doubts`.
///
/// Not for libvirt's nftables backend (table `ip libvirt_network`), which has none of these chains.
///
/// # Errors
/// [`FirewallError`] when `iptables` cannot be run or refuses a rule.
pub fn ensure_libvirt_accept(
    ranges: &[Ipv4Range],
    networks: &[LocalNetwork],
    through: Through,
    doubts: &mut Doubts,
) -> Result<Accept, FirewallError> {
    let Some(mut forward) = Chain::look("FORWARD")? else { return Ok(Accept::NotNeeded) };
    let bridges = guarded(&forward, networks)?;
    let useless = useless(&forward, &bridges, through, doubts);
    for rule in &useless {
        forward.remove(rule)?;
    }
    if bridges.is_empty() {
        return Ok(Accept::NotNeeded);
    }
    if !useless.is_empty() {
        forward = Chain::look("FORWARD")?.unwrap_or(forward);
    }
    let mut inserted = 0;
    for bridge in &bridges {
        for rule in rules(bridge, ranges, through) {
            if !forward.has(&rule)? {
                // Each that is inserted moves what is behind it.
                forward = Chain::look("FORWARD")?.unwrap_or(forward);
                forward.insert(*place(&forward, &rule).end(), &rule)?;
                inserted += 1;
            }
        }
    }
    Ok(Accept::after(inserted))
}

/// Returns the matches of what is let through to and from a bridge.
fn rules(bridge: &str, ranges: &[Ipv4Range], through: Through) -> Vec<String> {
    let mut rules: Vec<String> =
        to_pool(ranges).map(|to_pool| format!("-o {bridge} {to_pool}")).collect();
    if through == Through::AliasesToo {
        let prefixes = ranges.iter().flat_map(Ipv4Range::prefixes);
        rules.extend(prefixes.flat_map(|prefix| {
            [format!("-d {prefix} -o {bridge}"), format!("-s {prefix} -i {bridge}")]
        }));
    }
    rules
}

/// Returns the bridges of these networks that libvirt guards.
fn guarded<'n>(
    forward: &Chain,
    networks: &'n [LocalNetwork],
) -> Result<BTreeSet<&'n str>, FirewallError> {
    if first_jump(forward) == forward.rules.len() {
        return Ok(BTreeSet::new());
    }
    let Some(rejects) = Chain::look(REJECTS)? else { return Ok(BTreeSet::new()) };
    let names = networks.iter().map(|network| network.interface.as_str());
    Ok(names.filter(|name| rejects.rules.iter().any(|rule| to(rule) == Some(name))).collect())
}

/// Returns those of our rules that are not in their place, or were for no bridge of libvirt's at the last
/// look either.
fn useless(
    forward: &Chain,
    bridges: &BTreeSet<&str>,
    through: Through,
    doubts: &mut Doubts,
) -> Vec<String> {
    let needed = |rule: &str| {
        let bridge = to(rule).or_else(|| option(rule, "-i"));
        let is_wanted = through == Through::AliasesToo || option(rule, REWRITTEN).is_some();
        is_wanted && bridge.is_some_and(|bridge| bridges.contains(bridge))
    };
    let mut useless = Vec::new();
    let mut doubted = BTreeSet::new();
    for (at, rule) in forward.rules.iter().enumerate().filter(|(_, rule)| is_ours(rule)) {
        if !place(forward, rule).contains(&at) || (!needed(rule) && doubts.0.contains(rule)) {
            useless.push(rule.clone());
        } else if !needed(rule) {
            doubted.insert(rule.clone());
        }
    }
    doubts.0 = doubted;
    useless
}

/// Returns the indexes at which a rule of ours has the effect that it should have, and no other.
fn place(forward: &Chain, rule: &str) -> RangeInclusive<usize> {
    if option(rule, "-i").is_none() {
        return 0..=first_jump(forward);
    }
    let ahead_of = jump(forward, |to| to == REJECTS_SOURCES).unwrap_or(forward.rules.len());
    let behind = jump(forward, |to| to == REJECTS).map_or(0, |at| at + 1);
    // Where somebody has turned the jumps round, being ahead of what rejects it is what counts.
    if behind > ahead_of { 0..=ahead_of } else { behind..=ahead_of }
}

/// Returns the index of libvirt's first jump, or of the end of the chain when it has none there.
fn first_jump(forward: &Chain) -> usize {
    jump(forward, |to| to.starts_with(JUMPS)).unwrap_or(forward.rules.len())
}

fn jump(forward: &Chain, to: impl Fn(&str) -> bool) -> Option<usize> {
    forward.rules.iter().position(|rule| option(rule, "-j").is_some_and(&to))
}

fn to(rule: &str) -> Option<&str> {
    option(rule, "-o")
}

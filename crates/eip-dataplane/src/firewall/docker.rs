//! Docker's: it keeps a chain for rules of others, `DOCKER-USER`, and leaves it alone over restarts.

use eip_model::{Ipv4Range, LocalNetwork};

use super::iptables::{Chain, FirewallError, is_ours, option};
use super::{Accept, REWRITTEN, Through, to_pool};

/// Makes Docker's firewall accept what is sent to the elastic IPs of these ranges.
///
/// `foreign` are the networks with instances that neither Docker nor libvirt manages. Where the
/// policy of `FORWARD` is to drop, what they send (and what is answered) is accepted too; Docker and
/// libvirt see to their own. Of aliases what is sent to them is accepted, and what answers for them: the
/// rest of what they send passes by the interface that it comes from. Repeating it is a no-op: each rule is looked for first. Other rules
/// ahead of ours are the administrator's choice and stay there.
///
/// # Errors
/// [`FirewallError`] when `iptables` cannot be run or refuses a rule.
pub fn ensure_docker_accept(
    ranges: &[Ipv4Range],
    foreign: &[LocalNetwork],
    through: Through,
) -> Result<Accept, FirewallError> {
    let Some(chain) = Chain::look("DOCKER-USER")? else { return Ok(Accept::NotNeeded) };
    let mut wanted: Vec<String> = to_pool(ranges).collect();
    if !foreign.is_empty() && Chain::look("FORWARD")?.is_some_and(|forward| forward.policy_drops) {
        wanted.extend(foreign.iter().flat_map(|network| both_ways(&network.interface)));
    }
    match through {
        Through::AliasesToo => {
            let prefixes = ranges.iter().flat_map(Ipv4Range::prefixes);
            wanted.extend(prefixes.flat_map(|prefix| to_and_from(&prefix)));
        }
        Through::Rewritten => {
            for rule in chain.rules.iter().filter(|rule| is_for_aliases(rule)) {
                chain.remove(rule)?;
            }
        }
    }
    let mut inserted = 0;
    for rule in &wanted {
        if !chain.has(rule)? {
            chain.insert(0, rule)?;
            inserted += 1;
        }
    }
    Ok(Accept::after(inserted))
}

fn to_and_from(prefix: &impl std::fmt::Display) -> [String; 2] {
    let answers = "-m conntrack --ctstate RELATED,ESTABLISHED";
    [format!("-d {prefix}"), format!("-s {prefix} {answers}")]
}

/// Whether a listed rule is one of ours that is for no network and no flow that is rewritten.
fn is_for_aliases(rule: &str) -> bool {
    let is_for_a_network = option(rule, "-i").or(option(rule, "-o")).is_some();
    is_ours(rule) && !is_for_a_network && option(rule, REWRITTEN).is_none()
}

fn both_ways(bridge: &str) -> [String; 2] {
    [format!("-i {bridge}"), format!("-o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED")]
}

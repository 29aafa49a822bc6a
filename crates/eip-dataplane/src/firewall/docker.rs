//! Docker's: it keeps a chain for rules of others, `DOCKER-USER`, and leaves it alone over restarts.

use eip_model::{Ipv4Range, LocalNetwork};

use super::iptables::{Chain, FirewallError};
use super::{Accept, to_pool};

/// Makes Docker's firewall accept what is sent to the elastic IPs of these ranges.
///
/// `foreign` are the networks with instances that neither Docker nor libvirt manages. Where the
/// policy of `FORWARD` is to drop, what they send (and what is answered) is accepted too; Docker and
/// libvirt see to their own. Repeating it is a no-op: each rule is looked for first. Other rules
/// ahead of ours are the administrator's choice and stay there.
///
/// # Errors
/// [`FirewallError`] when `iptables` cannot be run or refuses a rule.
pub fn ensure_docker_accept(
    ranges: &[Ipv4Range],
    foreign: &[LocalNetwork],
) -> Result<Accept, FirewallError> {
    let Some(chain) = Chain::look("DOCKER-USER")? else { return Ok(Accept::NotNeeded) };
    let mut wanted: Vec<String> = to_pool(ranges).collect();
    if !foreign.is_empty() && Chain::look("FORWARD")?.is_some_and(|forward| forward.policy_drops) {
        wanted.extend(foreign.iter().flat_map(|network| both_ways(&network.interface)));
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

fn both_ways(bridge: &str) -> [String; 2] {
    [format!("-i {bridge}"), format!("-o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED")]
}

//! Docker's firewall: the few accepts without which it drops what is sent to elastic IPs.
//!
//! An accept in our own table cannot overrule a drop in another, so the accept must be where the
//! drop is. Docker keeps a chain for that, `DOCKER-USER`, and leaves it alone over restarts. Rules
//! are put at its head, each with the comment `eip`; nothing else of anyone is touched. The
//! `iptables` of the system is asked, since it knows in which of the two kernel interfaces the
//! chain is; each question takes some 20 ms, so all this is apart from [`crate::DataPlane::apply`].

use std::io;
use std::process::{Command, Output};

use eip_model::{Ipv4Range, LocalNetwork};

const CHAIN: &str = "DOCKER-USER";
const TOOL: &str = "iptables";

/// What became of the rules in Docker's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DockerAccept {
    /// There is no such chain (or no `iptables`): nothing to do.
    NotNeeded,
    AlreadyThere,
    /// So many rules were missing and have been put at the head of the chain.
    Inserted(usize),
}

/// The rules could not be looked at, or not be inserted.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    #[error("cannot run {TOOL}")]
    Run(#[source] io::Error),
    #[error("{TOOL} refused \"{arguments}\": {said}")]
    Refused { arguments: String, said: String },
}

/// Makes Docker's firewall accept what is sent to the elastic IPs of these ranges.
///
/// `foreign` are the networks with instances that Docker does not manage. Where the policy of
/// `FORWARD` is to drop, what they send (and what is answered) is accepted too; Docker sees to its
/// own. Repeating it is a no-op: each rule is looked for first. Other rules ahead of ours are
/// the administrator's choice and stay there.
///
/// # Errors
/// [`FirewallError`] when `iptables` cannot be run or refuses a rule.
pub fn ensure_docker_accept(
    ranges: &[Ipv4Range],
    foreign: &[LocalNetwork],
) -> Result<DockerAccept, FirewallError> {
    let chain_exists = match run(&["-n", "-L", CHAIN]) {
        Ok(output) => output.status.success(),
        Err(FirewallError::Run(source)) if source.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if !chain_exists {
        return Ok(DockerAccept::NotNeeded);
    }
    let mut wanted: Vec<Vec<String>> =
        ranges.iter().flat_map(Ipv4Range::prefixes).map(|net| to_pool(&net.to_string())).collect();
    if !foreign.is_empty() && forward_drops()? {
        wanted.extend(foreign.iter().flat_map(|network| both_ways(&network.interface)));
    }
    let mut inserted = 0;
    for rule in &wanted {
        if !command("-C", rule)?.status.success() {
            let output = command("-I", rule)?;
            if !output.status.success() {
                return Err(refused(&rule.join(" "), &output));
            }
            inserted += 1;
        }
    }
    Ok(if inserted == 0 { DockerAccept::AlreadyThere } else { DockerAccept::Inserted(inserted) })
}

fn to_pool(prefix: &str) -> Vec<String> {
    words(&format!("-m conntrack --ctstate DNAT --ctorigdst {prefix}"))
}

fn both_ways(bridge: &str) -> [Vec<String>; 2] {
    [
        words(&format!("-i {bridge}")),
        words(&format!("-o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED")),
    ]
}

fn words(matches: &str) -> Vec<String> {
    let tail = "-m comment --comment eip -j ACCEPT".split(' ');
    matches.split(' ').chain(tail).map(str::to_owned).collect()
}

fn forward_drops() -> Result<bool, FirewallError> {
    let output = run(&["-S", "FORWARD"])?;
    if !output.status.success() {
        return Err(refused("-S FORWARD", &output));
    }
    Ok(output.stdout.starts_with(b"-P FORWARD DROP"))
}

fn command(action: &str, rule: &[String]) -> Result<Output, FirewallError> {
    let mut arguments = vec![action, CHAIN];
    arguments.extend(rule.iter().map(String::as_str));
    run(&arguments)
}

fn run(arguments: &[&str]) -> Result<Output, FirewallError> {
    // -w: another iptables at work is waited for instead of failing.
    Command::new(TOOL)
        .args(["-w", "-t", "filter"])
        .args(arguments)
        .output()
        .map_err(FirewallError::Run)
}

fn refused(arguments: &str, output: &Output) -> FirewallError {
    FirewallError::Refused {
        arguments: arguments.to_owned(),
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    }
}

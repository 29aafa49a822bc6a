//! Docker's firewall: the few accepts that elastic IPs need in the chain that Docker leaves to users.
//!
//! Docker sets the policy of `FORWARD` to drop, and an accept in another table does not undo that.
//! `DOCKER-USER` is where its documentation wants the rules of others; its own tool, `iptables`, is
//! the right one, because the chain may be of either kind of iptables.

use std::io;
use std::process::{Command, Output, Stdio};

use eip_model::Ipv4Range;

const CHAIN: &str = "DOCKER-USER";
const COMMENT: [&str; 4] = ["-m", "comment", "--comment", "eip"];

/// `iptables` could not be run or refused a rule.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    #[error("cannot run iptables")]
    Run(#[source] io::Error),
    #[error("iptables refused \"{rule}\": {said}")]
    Refused { rule: String, said: String },
}

/// Lets through what was sent to elastic IPs, and what the bridges in `own` send.
///
/// The latter are not Docker's, so it knows no rule for them. Returns how many rules were missing;
/// a host without the chain misses none.
///
/// Costs a process for each rule, some 20 ms, so it is asked now and then, not at every change.
///
/// # Errors
/// When `iptables` is there and fails. Without it there is no Docker to be let through.
pub fn ensure_docker_accepts(ranges: &[Ipv4Range], own: &[String]) -> Result<usize, FirewallError> {
    match iptables(&["-n", "-L", CHAIN]) {
        Ok(output) if output.status.success() => {}
        Ok(_) => return Ok(0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(FirewallError::Run(error)),
    }
    let mut missing = 0;
    for rule in rules(ranges, own) {
        let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
        let check = [&["-C", CHAIN], rule.as_slice()].concat();
        if iptables(&check).map_err(FirewallError::Run)?.status.success() {
            continue;
        }
        let insert = [&["-I", CHAIN, "1"], rule.as_slice()].concat();
        let output = iptables(&insert).map_err(FirewallError::Run)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(FirewallError::Refused { rule: insert.join(" "), said });
        }
        missing += 1;
    }
    Ok(missing)
}

fn rules(ranges: &[Ipv4Range], own: &[String]) -> Vec<Vec<String>> {
    let rule = |words: &[&str]| {
        let all = words.iter().chain(&COMMENT).chain(&["-j", "ACCEPT"]);
        all.map(ToString::to_string).collect()
    };
    // Both directions of a flow whose destination was rewritten and began as an elastic IP.
    let prefixes = ranges.iter().flat_map(Ipv4Range::prefixes).map(|prefix| prefix.to_string());
    let mut rules: Vec<Vec<String>> = prefixes
        .map(|prefix| {
            rule(&["-m", "conntrack", "--ctstate", "DNAT", "--ctorigdst", prefix.as_str()])
        })
        .collect();
    for bridge in own {
        rules.push(rule(&["-i", bridge]));
        let answers = ["-o", bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"];
        rules.push(rule(&answers));
    }
    rules
}

fn iptables(args: &[&str]) -> io::Result<Output> {
    let mut command = Command::new("iptables");
    command.arg("-w").args(args).stdin(Stdio::null()).output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_rule_for_a_range_that_is_a_prefix() {
        let ranges = ["100.64.0.0/10".parse().unwrap()];
        let all: Vec<_> = rules(&ranges, &[]).iter().map(|rule| rule.join(" ")).collect();
        let expected = "-m conntrack --ctstate DNAT --ctorigdst 100.64.0.0/10 \
                        -m comment --comment eip -j ACCEPT";
        assert_eq!(all, [expected]);
    }
}

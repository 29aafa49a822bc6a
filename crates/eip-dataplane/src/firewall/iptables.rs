//! The `iptables` of the system, in the table `filter`.

use std::io;
use std::process::{Command, Output};

const TOOL: &str = "iptables";
/// How it exits when there is no such chain or rule.
const NOT_THERE: i32 = 1;
/// What every rule of ours says of itself.
const MARK: &str = "-m comment --comment eip -j ACCEPT";

/// The rules could not be looked at, or not be changed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    #[error("cannot run {TOOL}")]
    Run(#[source] io::Error),
    #[error("{TOOL} refused \"{arguments}\": {said}")]
    Refused { arguments: String, said: String },
}

/// A chain, and its rules as they were listed.
#[derive(Debug)]
pub(super) struct Chain {
    name: &'static str,
    /// Each as the arguments that would append it, less the chain's name.
    pub(super) rules: Vec<String>,
    pub(super) policy_drops: bool,
}

impl Chain {
    /// Looks at a chain. There is none if there is no such chain, or no `iptables`.
    pub(super) fn look(name: &'static str) -> Result<Option<Self>, FirewallError> {
        let question = ["-S", name];
        let output = match run(&question) {
            Err(FirewallError::Run(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        if !is_there(&question, &output)? {
            return Ok(None);
        }
        let listed = String::from_utf8_lossy(&output.stdout);
        let append = format!("-A {name} ");
        let rules = listed.lines().filter_map(|line| line.strip_prefix(&append));
        let rules = rules.map(str::to_owned).collect();
        let policy_drops = listed.starts_with(&format!("-P {name} DROP"));
        Ok(Some(Self { name, rules, policy_drops }))
    }

    /// Whether an accept of ours with this match is anywhere in the chain now.
    pub(super) fn has(&self, matches: &str) -> Result<bool, FirewallError> {
        let question = ours(matches);
        let question = arguments(&["-C", self.name], &question);
        is_there(&question, &run(&question)?)
    }

    /// Inserts an accept of ours ahead of the rule that has this index now.
    pub(super) fn insert(&self, index: usize, matches: &str) -> Result<(), FirewallError> {
        let number = (index + 1).to_string();
        succeed(&arguments(&["-I", self.name, &number], &ours(matches)))
    }

    /// Removes a rule that was listed, if it is still there.
    pub(super) fn remove(&self, rule: &str) -> Result<(), FirewallError> {
        let order = arguments(&["-D", self.name], rule);
        is_there(&order, &run(&order)?).map(drop)
    }
}

/// Whether a listed rule is one of ours.
pub(super) fn is_ours(rule: &str) -> bool {
    rule.ends_with(MARK)
}

/// Returns the word that follows an option in a listed rule.
pub(super) fn option<'r>(rule: &'r str, name: &str) -> Option<&'r str> {
    let mut words = rule.split(' ');
    words.find(|word| *word == name).and_then(|_| words.next())
}

fn ours(matches: &str) -> String {
    format!("{matches} {MARK}")
}

fn arguments<'a>(action: &[&'a str], rule: &'a str) -> Vec<&'a str> {
    action.iter().copied().chain(rule.split(' ')).collect()
}

fn succeed(arguments: &[&str]) -> Result<(), FirewallError> {
    let output = run(arguments)?;
    if output.status.success() {
        return Ok(());
    }
    Err(refused(arguments, &output))
}

/// Returns whether what was asked about is there. Of other failures, such as a lock that somebody
/// held for too long (4), nothing follows: taken for absence, they would have rules removed.
fn is_there(arguments: &[&str], output: &Output) -> Result<bool, FirewallError> {
    match output.status.code() {
        Some(0) => Ok(true),
        Some(NOT_THERE) => Ok(false),
        Some(_) | None => Err(refused(arguments, output)),
    }
}

fn refused(arguments: &[&str], output: &Output) -> FirewallError {
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    FirewallError::Refused { arguments: arguments.join(" "), said }
}

fn run(arguments: &[&str]) -> Result<Output, FirewallError> {
    // -w: another iptables at work is waited for, up to so many seconds, instead of failing.
    Command::new(TOOL)
        .args(["-w", "5", "-t", "filter"])
        .args(arguments)
        .output()
        .map_err(FirewallError::Run)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn only_one_way_to_fail_means_that_something_is_not_there() {
        let ended = |raw: i32| {
            let status = ExitStatus::from_raw(raw);
            let said = b"Another app is currently holding the xtables lock.\n".to_vec();
            is_there(&["-S", "FORWARD"], &Output { status, stdout: Vec::new(), stderr: said })
        };
        assert!(ended(0).unwrap());
        assert!(!ended(1 << 8).unwrap());
        let killed = 9;
        for raw in [2 << 8, 3 << 8, 4 << 8, 111 << 8, killed] {
            let why = ended(raw).unwrap_err().to_string();
            assert!(why.contains("\"-S FORWARD\": Another app"), "{raw}: {why}");
        }
    }
}

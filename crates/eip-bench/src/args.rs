//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures the record, the control plane and the data plane of eip, and PostgreSQL beside it.
///
/// Everything runs on this machine in a folder of its own, which goes when the program ends. A
/// target that is missed is told; it fails nothing. What is refused or breaks does.
#[derive(Debug, Clone, Parser)]
#[command(name = "eip-bench")]
pub(crate) struct Args {
    /// What to measure [default: all of them].
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<Name>,
    /// How long a burst of requests lasts.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// How often each burst is repeated; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// How many events `stream` counts.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) events: usize,
    /// How many elastic IPs `million` holds.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) held: usize,
    /// How many instances `associate` points at.
    #[arg(long, default_value_t = 50_000)]
    pub(crate) instances: usize,
    /// How often `moves` moves an address.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) moves: u32,
    /// Among how many other associations `moves` does so the last time.
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) others: u32,
    /// How many associations there are in `packets`, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,65536,1000000")]
    pub(crate) associations: Vec<u32>,
    /// Up to how many of them `packets` also does with a rule of iptables for each.
    #[arg(long, default_value_t = 65_536)]
    pub(crate) rules: u32,
    /// How many associations there are in `load`, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "65536,1000000")]
    pub(crate) loads: Vec<u32>,
    /// How often `kills` kills the agent.
    #[arg(long, default_value_t = 100)]
    pub(crate) kills: u32,
    /// The program to measure [default: the one beside this].
    #[arg(long, value_name = "FILE")]
    pub(crate) eip: Option<PathBuf>,
    /// On which disk to measure [default: that of /tmp or /var/tmp].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Appends what each run came to, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

impl Args {
    pub(crate) fn burst(&self) -> Duration {
        Duration::from_secs(self.seconds.max(1))
    }

    /// What to measure, in the order in which it was asked for.
    pub(crate) fn chosen(&self) -> Vec<Name> {
        if self.names.is_empty() {
            return Name::value_variants().to_vec();
        }
        self.names.clone()
    }
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// The load generator itself, against what never touches the record.
    Generator,
    /// What keys, log and metrics cost a request.
    Overhead,
    /// Allocations on PostgreSQL.
    Allocate,
    /// Allocations on SQLite.
    Sqlite,
    /// Allocations while a pool fills up.
    Fill,
    /// Associations and their end.
    Associate,
    /// Allocations in a project with a quota.
    Quota,
    /// Reads, pages, memory and start with a million held.
    Million,
    /// The stream of events: its delay, and that it loses nothing.
    Stream,
    /// Moves, seen by clients: how long they take, and that nothing is lost or led astray.
    Moves,
    /// What a packet, a connection and a stream cost, beside plain routing.
    Packets,
    /// The whole table from the record to the kernel, and a thousand changes at once.
    Load,
    /// What is lost when the agent is killed in the middle of changes.
    Kills,
}

impl Name {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Generator => "generator",
            Self::Overhead => "overhead",
            Self::Allocate => "allocate",
            Self::Sqlite => "sqlite",
            Self::Fill => "fill",
            Self::Associate => "associate",
            Self::Quota => "quota",
            Self::Million => "million",
            Self::Stream => "stream",
            Self::Moves => "moves",
            Self::Packets => "packets",
            Self::Load => "load",
            Self::Kills => "kills",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_benchmark_is_asked_for_by_the_name_that_it_prints() {
        for name in Name::value_variants() {
            assert_eq!(Name::from_str(name.as_str(), false), Ok(*name));
        }
    }
}

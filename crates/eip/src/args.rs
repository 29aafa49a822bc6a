//! The command line.

mod webhooks;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use eip_compute::sandbox::SandboxName;
use eip_model::{HostName, Ipv4Range, Label, Mode, PoolName, ProjectName};
use eip_server::IpNet;
use jiff::Timestamp;
use serde::Deserialize;

pub(crate) use webhooks::Webhooks;

/// Elastic IPs for machines you own.
#[derive(Debug, Parser)]
#[command(name = "eip", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  eip allocate --name web             hold an address
  eip associate web docker:web        point it at a container
  eip move web docker:web-2           point it at another, in one step
  eip list -o json | jq -r '.items[].public_ip'

Exit codes: 0 ok, 1 other, 2 usage, 3 not found, 4 key, 5 conflict, 6 exhausted or over quota,
7 waited too long, 8 server unreachable, 9 data plane failed";

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Global {
    /// How to print the result; a pipe gets tab-separated columns instead of a table.
    #[arg(short, long, global = true, env = "EIP_OUTPUT", default_value = "table")]
    pub(crate) output: Output,
    /// Where the service answers [default: port 8080 of this machine].
    #[arg(long, global = true, env = "EIP_URL")]
    pub(crate) url: Option<String>,
    /// A PEM file with the certificates of those who may have signed the certificate of an https
    /// service [default: whom this machine trusts].
    #[arg(long, global = true, env = "EIP_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// A file that holds the API key [default: admin.key in the data folder].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Print only addresses (or names, where there are none).
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the service, with this host's agent.
    Serve(Serve),
    /// Run the agent of a host whose service runs elsewhere.
    Agent(Agent),
    /// Copy the record into a new file while the service goes on.
    Backup(Backup),
    /// Move the record of a stopped service from SQLite to PostgreSQL.
    Import(Import),
    /// Throw-away instances: network namespaces that answer with their name on port 80.
    #[command(subcommand)]
    Sandbox(Sandbox),
    #[command(flatten)]
    Client(Client),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Serve {
    /// Where to listen [default: 127.0.0.1:8080].
    #[arg(long, env = "EIP_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// sqlite:PATH or postgres://... [default: sqlite:eip.db in the data folder].
    #[arg(long, env = "EIP_DATABASE", value_name = "URL", hide_env_values = true)]
    pub(crate) database: Option<String>,
    /// The addresses to hand out: prefixes or first-last, separated by commas. Used at the first
    /// start, to make the pool `public` [default: 100.64.0.0/10].
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    pub(crate) pool: Vec<String>,
    /// How long a released address of that pool sleeps, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) quarantine: u32,
    /// How elastic IPs of that pool reach instances unless a caller says otherwise: nat or alias
    /// [default: nat].
    #[arg(long, env = "EIP_POOL_MODE", value_name = "MODE")]
    pub(crate) pool_mode: Option<Mode>,
    /// Serve by TLS, with this chain of certificates, the server's own first (PEM). It is read again
    /// when it changes.
    #[arg(long, env = "EIP_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of that certificate (PEM).
    #[arg(long, env = "EIP_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// How many requests a second a key of role member or reader may make; 0 for any number
    /// [default: 100].
    #[arg(long, env = "EIP_RATE_LIMIT", value_name = "REQUESTS")]
    pub(crate) rate_limit: Option<u32>,
    /// Let webhooks go to these networks, too, which they may not by default: those of this machine and
    /// of its link, as in 127.0.0.0/8.
    #[arg(long, env = "EIP_WEBHOOK_ALLOW", value_name = "NETWORKS", value_delimiter = ',')]
    pub(crate) webhook_allow: Vec<IpNet>,
    /// Serve the API alone: no agent, no data plane.
    #[arg(long)]
    pub(crate) no_agent: bool,
    #[command(flatten)]
    pub(crate) host: Host,
    /// How to write the log.
    #[arg(long, env = "EIP_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Backup {
    /// The file to make. `eip serve --database sqlite:FILE` serves it.
    pub(crate) file: PathBuf,
    /// The record to copy: sqlite:PATH [default: sqlite:eip.db in the data folder].
    #[arg(long, env = "EIP_DATABASE", value_name = "URL", hide_env_values = true)]
    pub(crate) database: Option<String>,
    /// The data folder of the service.
    #[arg(long, env = "EIP_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Import {
    /// The record to read: sqlite:PATH. It stays as it is.
    #[arg(long, value_name = "URL")]
    pub(crate) from: String,
    /// The empty PostgreSQL database to fill.
    #[arg(long, value_name = "URL")]
    pub(crate) to: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Agent {
    /// Where the service answers: http://HOST:PORT, or https:// as --ca-file says.
    #[arg(long, env = "EIP_URL", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The file that holds the key of this host's agent [default: agent.key in the data folder].
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) host: Host,
    /// How to write the log.
    #[arg(long, env = "EIP_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// What an agent needs to know, alone or inside `serve`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Host {
    /// Where keys, the record and the agent's file lie [default: /var/lib/eip for root].
    #[arg(long, env = "EIP_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// docker, libvirt, sandbox, docker=unix:///path, libvirt=URI; separated by commas
    /// [default: whatever answers].
    #[arg(long, env = "EIP_COMPUTE", value_name = "BACKENDS", value_delimiter = ',')]
    pub(crate) compute: Vec<String>,
    /// What this host is called [default: its hostname].
    #[arg(long, value_name = "NAME")]
    pub(crate) host_name: Option<HostName>,
    /// Carry no traffic: record and report only.
    #[arg(long)]
    pub(crate) no_data_plane: bool,
    /// How the network learns that an elastic IP is on this host: `arp`, or `none` where the
    /// upstream routes the pool to it [default: arp].
    #[arg(long, env = "EIP_ANNOUNCE", value_name = "HOW")]
    pub(crate) announce: Option<Announce>,
    /// Whether the packets and bytes of each elastic IP are counted [default: on].
    #[arg(long, env = "EIP_COUNTERS", value_name = "ON_OR_OFF")]
    pub(crate) counters: Option<Counters>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Announce {
    Arp,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Counters {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sandbox {
    /// Make one and start it in the background; one that was stopped comes back.
    Add {
        name: SandboxName,
        /// The project that owns it [default: the host's].
        #[arg(long)]
        project: Option<ProjectName>,
        #[command(flatten)]
        place: SandboxPlace,
    },
    /// List them.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        place: SandboxPlace,
    },
    /// End one, and keep it as stopped.
    Stop {
        name: SandboxName,
        #[command(flatten)]
        place: SandboxPlace,
    },
    /// End one, and forget it.
    #[command(visible_alias = "rm")]
    Remove {
        name: SandboxName,
        #[command(flatten)]
        place: SandboxPlace,
    },
    /// Run a command inside its network.
    Exec {
        name: SandboxName,
        #[command(flatten)]
        place: SandboxPlace,
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Be one, until ended.
    Run {
        name: SandboxName,
        #[arg(long)]
        project: Option<ProjectName>,
        #[command(flatten)]
        place: SandboxPlace,
        #[arg(long, hide = true)]
        detach: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SandboxPlace {
    /// The data folder of the service or agent that is to see it.
    #[arg(long, env = "EIP_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Client {
    /// Hold an address.
    #[command(visible_aliases = ["create", "new"])]
    Allocate(Allocate),
    /// List the addresses that you hold.
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one, by id, address or name.
    #[command(visible_aliases = ["get", "describe"])]
    Show { elastic_ip: String },
    /// Point it at an instance.
    #[command(visible_aliases = ["attach", "assign"])]
    Associate(Associate),
    /// Point it at nothing.
    #[command(visible_aliases = ["detach", "unassign"])]
    Disassociate {
        elastic_ip: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Point it at another instance, in one step.
    Move {
        elastic_ip: String,
        instance: String,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        wait: Wait,
    },
    /// Refuse its release.
    Protect { elastic_ip: String },
    /// Allow its release again.
    Unprotect { elastic_ip: String },
    /// Give it back.
    #[command(visible_aliases = ["rm", "delete"])]
    Release { elastic_ip: String },
    /// Give an instance an address: allocate and associate, safe to repeat.
    Up {
        instance: String,
        /// What to call the elastic IP [default: the name of the instance].
        #[arg(long)]
        name: Option<Label>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Containers and virtual machines.
    #[command(subcommand)]
    Instance(Instances),
    /// Machines with an agent.
    #[command(subcommand)]
    Host(Hosts),
    /// Who had an address, and when.
    History {
        address: Ipv4Addr,
        /// Only who had it then, as in 2026-11-03T10:00:00Z.
        #[arg(long)]
        at: Option<Timestamp>,
    },
    /// Pools of addresses.
    #[command(subcommand)]
    Pool(Pools),
    /// Projects: who holds elastic IPs.
    #[command(subcommand)]
    Project(Projects),
    /// Keys of the API.
    #[command(subcommand)]
    Key(Keys),
    /// Where events are sent as they happen.
    #[command(subcommand)]
    Webhook(Webhooks),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Allocate {
    /// This very address.
    #[arg(long)]
    pub(crate) address: Option<Ipv4Addr>,
    /// From this pool.
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
    /// What to call it.
    #[arg(long)]
    pub(crate) name: Option<Label>,
    /// KEY=VALUE; may be repeated.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) tags: Vec<(String, String)>,
    /// Refuse its release until `eip unprotect`.
    #[arg(long)]
    pub(crate) protected: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct List {
    /// Only `allocated` or `associated` ones.
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// Only those of this pool.
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
    /// Only those with this tag.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) tag: Option<(String, String)>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Associate {
    pub(crate) elastic_ip: String,
    /// Its id, its name, or docker:NAME, libvirt:NAME, sandbox:NAME.
    pub(crate) instance: String,
    /// Take it from the instance that has it.
    #[arg(long)]
    pub(crate) allow_reassociation: bool,
    #[command(flatten)]
    pub(crate) how: How,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct How {
    /// nat: the host rewrites it; alias: it is on the instance's own interface [default: as its pool
    /// says].
    #[arg(long)]
    pub(crate) mode: Option<Mode>,
    /// Which of the instance's networks it is to lead to [default: the one that it leads to].
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<String>,
    /// Whichever of its networks the instance puts first, after it was one of a name.
    #[arg(long, conflicts_with = "network")]
    pub(crate) any_network: bool,
}

#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct Wait {
    /// How long to wait for the host, in seconds [default: 5, at most 60].
    #[arg(long = "wait", value_name = "SECONDS")]
    pub(crate) seconds: Option<i64>,
    /// Do not wait for the host.
    #[arg(long, conflicts_with = "seconds")]
    pub(crate) no_wait: bool,
}

impl Wait {
    pub(crate) fn seconds(self) -> Option<i64> {
        if self.no_wait { Some(0) } else { self.seconds }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Instances {
    /// List those of your project.
    #[command(visible_alias = "ls")]
    List,
    /// Show one.
    Show { instance: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Hosts {
    /// List them, with what they report.
    #[command(visible_alias = "ls")]
    List,
    /// Give a host that holds a newer or another desired set what this record has.
    Accept { host: HostName },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Pools {
    /// List them, with how full they are.
    #[command(visible_alias = "ls")]
    List,
    /// Show one.
    Show { name: PoolName },
    /// Make one.
    Create {
        name: PoolName,
        /// As 203.0.113.0/24 or 203.0.113.4-203.0.113.9.
        #[arg(required = true)]
        ranges: Vec<Ipv4Range>,
        /// How long a released address sleeps, in seconds [default: 600].
        #[arg(long, value_name = "SECONDS")]
        quarantine: Option<u32>,
        /// How its elastic IPs reach instances.
        #[arg(long)]
        mode: Option<Mode>,
        /// An address that nobody gets; may be repeated.
        #[arg(long = "reserve", value_name = "ADDRESS")]
        reserved: Vec<Ipv4Addr>,
        /// A project that may use it, alone or with others that are named so.
        #[arg(long = "project", value_name = "PROJECT")]
        projects: Vec<ProjectName>,
    },
    /// Give one more addresses.
    Grow {
        name: PoolName,
        #[arg(required = true)]
        ranges: Vec<Ipv4Range>,
    },
    /// Have it hand nothing out any more.
    Drain {
        name: PoolName,
        /// Have it hand out again.
        #[arg(long)]
        undo: bool,
    },
    /// Delete one of which nothing is held or asleep.
    #[command(visible_alias = "rm")]
    Delete { name: PoolName },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Projects {
    /// List them.
    #[command(visible_alias = "ls")]
    List,
    /// Make one.
    Create {
        name: ProjectName,
        #[command(flatten)]
        quota: Quota,
    },
    /// Change how much one may hold.
    Set {
        name: ProjectName,
        #[command(flatten)]
        quota: Quota,
    },
    /// Delete one that holds nothing and has no key.
    #[command(visible_alias = "rm")]
    Delete { name: ProjectName },
}

#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct Quota {
    /// How many addresses it may hold.
    #[arg(long)]
    pub(crate) quota: Option<u32>,
    /// Let it hold as many as there are.
    #[arg(long, conflicts_with = "quota")]
    pub(crate) no_quota: bool,
}

impl Quota {
    pub(crate) fn wish(self) -> Option<Option<u32>> {
        if self.no_quota { Some(None) } else { self.quota.map(Some) }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make one. It is printed this once.
    Create {
        /// What its holder may do; `agent` speaks for the host that --host names.
        #[arg(long, default_value = "member")]
        role: KeyRole,
        /// The project it is for [default: your own].
        #[arg(long)]
        project: Option<ProjectName>,
        /// The host whose agent it is for.
        #[arg(long, required_if_eq("role", "agent"), conflicts_with = "project")]
        host: Option<HostName>,
        /// What to call it.
        #[arg(long)]
        name: Option<Label>,
        /// When it ends, as in 2027-01-01T00:00:00Z [default: never].
        #[arg(long, value_name = "TIME")]
        expires_at: Option<Timestamp>,
    },
    /// List them: who may what, until when, and when each was used last.
    #[command(visible_alias = "ls")]
    List,
    /// Make one good for nothing.
    #[command(visible_alias = "rm")]
    Revoke { id: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyRole {
    Admin,
    Member,
    Reader,
    Agent,
}

impl KeyRole {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Reader => "reader",
            Self::Agent => "agent",
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("write KEY=VALUE".to_owned()),
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
}

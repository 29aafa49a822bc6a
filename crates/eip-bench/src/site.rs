//! A client, a host and an instance with many private addresses, and what the host does with packets
//! to it: it routes them, or also rewrites them by the rules of eip, or by a pair of iptables rules for
//! each address.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eip_dataplane::{Announce, DataPlane, DesiredState, Options};
use eip_model::{LocalNetwork, OrdMap};
use eip_testkit::netns::{Namespace, link};

use crate::bench::LARGE;
use crate::crowd::{private, public};
use crate::lab::pair;
use crate::traffic::{FLOWS, Target, Traffic};

/// What a host does with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Routing alone: no rules, no connection tracking.
    Plain,
    /// The rules of eip, with so many associations.
    Eip(u32),
    /// Two rules of iptables for each of so many addresses.
    Iptables(u32),
}

/// The three namespaces, with traffic that is ready to flow.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) traffic: Traffic,
    /// How long the rules took to load.
    pub(crate) loaded: Duration,
    /// What the kernel keeps more than before, in bytes.
    pub(crate) memory: i64,
    _plane: Option<DataPlane>,
    _host: Namespace,
    _inside: Namespace,
}

impl Site {
    pub(crate) fn make(kind: Kind) -> Result<Self> {
        let [client, host] = pair()?;
        let inside = Namespace::new("instance");
        host.bridge("br0", "10.0.0.1/24");
        link(&host, &inside, "v-in", "eth0");
        // By way of one neighbour: the kernel keeps few of them.
        host.ip(&["link set v-in master br0", "route add 10.128.0.0/11 via 10.0.0.2"]);
        host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        // As it is where no Docker runs: frames between ports of a bridge are no IP packets.
        host.sh("! [ -e /proc/sys/net/bridge ] || echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables");
        inside.ip(&[
            "addr add 10.0.0.2/24 dev eth0",
            "route add default via 10.0.0.1",
            "route add local 10.128.0.0/11 dev lo",
        ]);
        let before = kernel_memory()?;
        let begun = Instant::now();
        let plane = match kind {
            Kind::Plain => None,
            Kind::Eip(number) => Some(rules_of_eip(&host, number)?),
            Kind::Iptables(number) => {
                rules_of_iptables(&host, number)?;
                None
            }
        };
        let loaded = begun.elapsed();
        let memory = kernel_memory()? - before;
        let traffic = Traffic::open(client, &inside, &targets(kind))?;
        Ok(Self { traffic, loaded, memory, _plane: plane, _host: host, _inside: inside })
    }
}

/// The flows go to as many of the addresses as there are flows, evenly spread.
fn targets(kind: Kind) -> Vec<Target> {
    let number = match kind {
        Kind::Plain => FLOWS,
        Kind::Eip(number) | Kind::Iptables(number) => number,
    };
    let spread = |flow: u32| u64::from(flow) * u64::from(number) / u64::from(FLOWS);
    let numbers = (0..FLOWS).map(|flow| u32::try_from(spread(flow)).unwrap_or(0));
    let target = |at| Target {
        asked: if kind == Kind::Plain { private(at) } else { public(at) },
        private: private(at),
    };
    numbers.map(target).collect()
}

fn rules_of_eip(host: &Namespace, number: u32) -> Result<DataPlane> {
    let network = |subnet: &str| anyhow::Ok(LocalNetwork::new("br0", subnet.parse()?));
    let desired = DesiredState {
        aliases: OrdMap::new(),
        ranges: vec![LARGE.parse()?],
        networks: vec![network("10.0.0.0/24")?, network("10.128.0.0/11")?],
        targets: (0..number).map(|at| (public(at), private(at))).collect(),
    };
    host.run(move || {
        let mut plane =
            DataPlane::open_with(Options { announce: Announce::None, ..Options::default() })?;
        let applied = plane.apply(&desired)?;
        ensure!(applied.warnings.is_empty(), "not all is well: {:?}", applied.warnings);
        Ok(plane)
    })
}

/// What reference systems do: a rule for what comes in and one for what goes out.
fn rules_of_iptables(host: &Namespace, number: u32) -> Result<()> {
    let mut rules = "*nat\n".to_owned();
    for at in 0..number {
        let (public, private) = (public(at), private(at));
        rules += &format!("-A PREROUTING -d {public}/32 -j DNAT --to-destination {private}\n");
        rules += &format!("-A POSTROUTING -s {private}/32 -j SNAT --to-source {public}\n");
    }
    rules += "COMMIT\n";
    let mut command = host.command("iptables-restore");
    let mut child = command.stdin(Stdio::piped()).spawn().context("cannot run iptables-restore")?;
    child.stdin.take().context("it has no input")?.write_all(rules.as_bytes())?;
    ensure!(child.wait()?.success(), "iptables-restore failed");
    Ok(())
}

/// What the kernel keeps of its own: in slabs, for processors, and in areas of virtual memory.
fn kernel_memory() -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kilobytes = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let counts = matches!(name, "Slab" | "VmallocUsed" | "Percpu");
        counts.then(|| value.trim().trim_end_matches(" kB").parse::<i64>().ok())?
    };
    Ok(text.lines().filter_map(kilobytes).sum::<i64>() * 1024)
}

//! The data plane of this host as the agent's kernel.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eip_dataplane::firewall::{
    Accept, Doubts, FirewallError, Through, closed_by_docker, ensure_docker_accept,
    ensure_libvirt_accept,
};
use eip_dataplane::{
    ACCEPT_MARK, Applied, ApplyError, DataPlane, DesiredState, Options, TrafficReader,
};
use eip_model::{AttachmentProblem, Ipv4Range, LocalNetwork, ProblemKind, chain};
use tracing::{debug, warn};

use crate::kernel::{Kernel, KernelError};

/// How often our rules in the firewalls of Docker and libvirt are looked at: each look costs processes.
const FIREWALL_INTERVAL: Duration = Duration::from_secs(2);
/// How often what is wanted is compared with what was applied, where the table is as we left it: that
/// takes a walk through all of it.
const SETTLE_INTERVAL: Duration = Duration::from_secs(1);
/// How often our routes are compared with what the kernel has: it tells nobody when one goes. Less often
/// where there are so many that it would take more than a part of the time.
const ROUTE_INTERVAL: Duration = Duration::from_secs(3);
const ROUTE_SHARE: u32 = 30;

/// What of ours was found changed, as events name it.
const TABLE: &str = "the nftables table of elastic IPs";
const ROUTES: &str = "the routes of elastic IPs or the addresses of the host";

/// Bridges, by name.
type Closed = Arc<Mutex<BTreeSet<String>>>;

/// What was put right and has not been told yet.
type Mended = Arc<Mutex<BTreeSet<&'static str>>>;

#[derive(Debug)]
struct Netfilter {
    plane: DataPlane,
    passage: Arc<Mutex<Passage>>,
    /// When routes are compared next.
    compare_at: Instant,
    settled: Instant,
    /// Something was applied: the table is ours to lose.
    begun: bool,
    mended: Mended,
    /// The bridges that Docker's nftables firewall keeps elastic IPs from.
    closed: Closed,
    problems: Vec<AttachmentProblem>,
    /// What has been said: a warning that lasts is said once.
    warned: BTreeSet<String>,
}

/// What the firewalls of others are asked to let through: what is sent to the ranges, into these
/// networks, and what those of them send that are nobody else's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Passage {
    ranges: Vec<Ipv4Range>,
    networks: Vec<LocalNetwork>,
    own: Vec<LocalNetwork>,
    through: Through,
}

/// Opens the data plane of this host, or says why it has none.
///
/// # Errors
/// The reason, for people: the missing right, or what the kernel lacks.
pub fn open_kernel(options: Options) -> Result<Box<dyn Kernel>, String> {
    let plane = DataPlane::open_with(options).map_err(|error| chain(&error))?;
    let passage = Arc::new(Mutex::new(Passage::default()));
    let mended = Mended::default();
    let closed = Closed::default();
    look_for_closed(&closed);
    watch_firewalls(&passage, &mended, &closed)
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    Ok(Box::new(Netfilter {
        plane,
        passage,
        compare_at: Instant::now() + ROUTE_INTERVAL,
        settled: Instant::now(),
        begun: false,
        mended,
        closed,
        problems: Vec::new(),
        warned: BTreeSet::new(),
    }))
}

impl Kernel for Netfilter {
    fn apply(&mut self, wanted: &DesiredState) -> Result<(), KernelError> {
        if self.begun && matches!(self.plane.intact(), Ok(false)) {
            self.note(TABLE);
        }
        self.settle(wanted)?;
        self.begun = true;
        let passage = passage(wanted);
        let mut known = self.passage.lock().unwrap_or_else(PoisonError::into_inner);
        let less = Passage { through: Through::Rewritten, ..known.clone() };
        if *known != passage && less != passage {
            // Before the association is told as active: without it nothing comes in.
            // Taking away what is for nobody any more is left to those who look again.
            let_through(&passage, &mut Doubts::default());
        }
        *known = passage;
        Ok(())
    }

    fn mend(&mut self, wanted: &DesiredState) -> Result<Vec<&'static str>, KernelError> {
        let intact = self.plane.intact().map_err(|error| refused(&error))?;
        let routes_doubted = self.routes_doubted();
        if !intact || routes_doubted || self.settled.elapsed() >= SETTLE_INTERVAL {
            match (intact, self.settle(wanted)?) {
                (false, _) => self.note(TABLE),
                (true, true) => self.note(ROUTES),
                (true, false) => {}
            }
        }
        let mut mended = self.mended.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *mended).into_iter().collect())
    }

    fn problems(&self) -> Vec<AttachmentProblem> {
        self.problems.clone()
    }

    fn caveat(&self) -> Option<String> {
        self.plane.caveat().map(|warning| warning.to_string())
    }

    fn traffic(&self) -> Option<TrafficReader> {
        self.plane.traffic()
    }
}

impl Netfilter {
    fn note(&self, mended: &'static str) {
        self.mended.lock().unwrap_or_else(PoisonError::into_inner).insert(mended);
    }

    /// Has routes compared in their time, and the next turn look for itself where they may differ.
    /// Returns whether they may.
    fn routes_doubted(&mut self) -> bool {
        let now = Instant::now();
        if let Some(audit) = self.plane.audited() {
            self.compare_at = now + ROUTE_INTERVAL.max(audit.took * ROUTE_SHARE);
            if audit.differs {
                self.plane.distrust_routes();
            }
            return audit.differs;
        }
        if now >= self.compare_at {
            self.plane.begin_audit();
        }
        false
    }

    /// Returns whether anything had to be changed.
    fn settle(&mut self, wanted: &DesiredState) -> Result<bool, KernelError> {
        let applied = self.plane.apply(wanted).map_err(|error| refused(&error))?;
        self.settled = Instant::now();
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        self.problems = problems(&applied, wanted, &closed);
        drop(closed);
        for warning in &applied.warnings {
            if self.warned.insert(warning.to_string()) {
                warn!(%warning, "Applied, with a warning");
            }
        }
        Ok(!applied.changed_nothing())
    }
}

/// Looks after others' firewalls until the data plane is dropped. On a thread of its own: `iptables`
/// may have to wait for others, and moves must not wait with it.
fn watch_firewalls(
    passage: &Arc<Mutex<Passage>>,
    mended: &Mended,
    closed: &Closed,
) -> std::io::Result<()> {
    let (passage, mended) = (Arc::downgrade(passage), Arc::clone(mended));
    let closed = Arc::clone(closed);
    let watch = move || {
        let mut doubts = Doubts::default();
        let mut before = Passage::default();
        loop {
            std::thread::sleep(FIREWALL_INTERVAL);
            let Some(passage) = passage.upgrade() else { return };
            let now = passage.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if now.ranges.is_empty() {
                continue;
            }
            look_for_closed(&closed);
            let inserted = let_through(&now, &mut doubts);
            // What is wanted for the first time was not taken away by anybody.
            if now == before {
                mended.lock().unwrap_or_else(PoisonError::into_inner).extend(inserted);
            }
            before = now;
        }
    };
    std::thread::Builder::new().name("eip-firewall".to_owned()).spawn(watch).map(drop)
}

/// Returns what was missing in whose firewalls. One that cannot be looked after is said, and is
/// no reason to undo what is in force.
fn let_through(passage: &Passage, doubts: &mut Doubts) -> Vec<&'static str> {
    let docker = ensure_docker_accept(&passage.ranges, &passage.own, passage.through);
    let Passage { ranges, networks, through, .. } = passage;
    let libvirt = ensure_libvirt_accept(ranges, networks, *through, doubts);
    let mended =
        |(whose, what, outcome): (&str, &'static str, Result<Accept, FirewallError>)| match outcome
        {
            Ok(Accept::Inserted(_)) => Some(what),
            Ok(Accept::NotNeeded | Accept::AlreadyThere) => None,
            Err(error) => {
                let error = chain(&error);
                warn!(firewall = whose, error, "Could not look after a firewall; will retry");
                None
            }
        };
    [
        ("Docker's", "the accepts in Docker's firewall", docker),
        ("libvirt's", "the accepts in libvirt's firewall", libvirt),
    ]
    .into_iter()
    .filter_map(mended)
    .collect()
}

/// Looks which bridges Docker's nftables firewall keeps elastic IPs from.
fn look_for_closed(closed: &Closed) {
    let found = match closed_by_docker() {
        Ok(found) => found,
        Err(error) => {
            debug!(%error, "Could not look at Docker's nftables firewall; will retry");
            return;
        }
    };
    let mut known = closed.lock().unwrap_or_else(PoisonError::into_inner);
    for bridge in found.difference(&known) {
        let mark = accept_mark();
        warn!(
            bridge,
            "Docker's nftables firewall keeps elastic IPs out; start dockerd with \
             --bridge-accept-fwmark={mark}"
        );
    }
    *known = found;
}

/// As `dockerd` takes it: the value, and the bits that count.
fn accept_mark() -> String {
    format!("{ACCEPT_MARK:#x}/{ACCEPT_MARK:#x}")
}

/// Says what elastic IPs cannot be reached though they are applied.
fn problems(
    applied: &Applied,
    wanted: &DesiredState,
    closed: &BTreeSet<String>,
) -> Vec<AttachmentProblem> {
    let failing = |public_ip: &Ipv4Addr, reason| AttachmentProblem {
        public_ip: *public_ip,
        kind: ProblemKind::Failing,
        reason,
    };
    let refused = applied.refused.iter();
    let refused = refused
        .map(|(to, error)| failing(to, format!("the kernel refuses a route to it: {error}")));
    let mut all: Vec<AttachmentProblem> = refused.collect();
    if closed.is_empty() {
        return all;
    }
    let bridge = |private: Ipv4Addr| {
        let leads = |network: &&LocalNetwork| network.subnet.contains(&private);
        let interface = wanted.networks.iter().find(leads).map(|network| &network.interface);
        interface.filter(|interface| closed.contains(*interface))
    };
    let rewritten = wanted.targets.iter().map(|(public, private)| (public, *private));
    let aliases = wanted.aliases.iter().map(|(public, alias)| (public, alias.private_ip));
    all.extend(rewritten.chain(aliases).filter_map(|(public, private)| {
        let bridge = bridge(private)?;
        let mark = accept_mark();
        let why = format!(
            "Docker's nftables firewall keeps it out of {bridge}; start dockerd with \
             --bridge-accept-fwmark={mark}"
        );
        Some(failing(public, why))
    }));
    all
}

fn passage(wanted: &DesiredState) -> Passage {
    let (ranges, networks) = (wanted.ranges.clone(), wanted.networks.clone());
    let own = |network: &&LocalNetwork| network.interface == eip_compute::sandbox::BRIDGE;
    let own = networks.iter().filter(own).cloned().collect();
    let through = match wanted.aliases.is_empty() {
        true => Through::Rewritten,
        false => Through::AliasesToo,
    };
    Passage { ranges, networks, own, through }
}

fn refused(error: &ApplyError) -> KernelError {
    KernelError(chain(error))
}

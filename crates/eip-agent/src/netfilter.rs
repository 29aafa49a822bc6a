//! The data plane of this host as the agent's kernel.

use std::time::{Duration, Instant};

use eip_dataplane::{ApplyError, DataPlane, DesiredState, firewall};
use eip_model::Ipv4Range;
use tracing::warn;

use crate::chain;
use crate::kernel::{Kernel, KernelError, Wanted};

/// How often the rules in Docker's own firewall are looked at: each look costs processes.
const FIREWALL_INTERVAL: Duration = Duration::from_secs(2);

/// Which of the wanted networks are not Docker's, and so are unknown to its firewall.
const OWN_BRIDGES: [&str; 1] = [eip_compute::sandbox::BRIDGE];

#[derive(Debug)]
struct Netfilter {
    plane: DataPlane,
    firewall: Firewall,
}

/// What the firewall is asked to let through.
#[derive(Debug, Default, PartialEq, Eq)]
struct Passage {
    ranges: Vec<Ipv4Range>,
    bridges: Vec<String>,
}

/// What it was last asked, when, and whether it failed then.
#[derive(Debug, Default)]
struct Firewall {
    passage: Passage,
    looked: Option<Instant>,
    complained: bool,
}

/// Opens the data plane of this host, or says why it has none.
///
/// # Errors
/// The reason, for people: the missing right, or what the kernel lacks.
pub fn open_kernel() -> Result<Box<dyn Kernel>, String> {
    match DataPlane::open() {
        Ok(plane) => Ok(Box::new(Netfilter { plane, firewall: Firewall::default() })),
        Err(error) => Err(chain(&error)),
    }
}

impl Kernel for Netfilter {
    fn apply(&mut self, wanted: &Wanted) -> Result<(), KernelError> {
        let Wanted { ranges, networks, targets } = wanted.clone();
        self.plane
            .apply(&DesiredState { ranges, networks, targets })
            .map_err(|error| refused(&error))?;
        // What is let through already costs nothing here: a look costs more than the change itself.
        if self.firewall.passage != passage(wanted) {
            self.let_through(wanted);
        }
        Ok(())
    }

    fn mend(&mut self, wanted: &Wanted) -> Result<Option<&'static str>, KernelError> {
        let mut mended = None;
        if !self.plane.intact() {
            self.plane.forget();
            self.apply(wanted)?;
            mended = Some("the nftables table of elastic IPs");
        }
        if self.let_through(wanted) > 0 {
            mended = Some("the accepts in Docker's firewall");
        }
        self.plane.sweep().map_err(|error| refused(&error))?;
        Ok(mended)
    }
}

impl Netfilter {
    /// Looks after Docker's firewall when there is something new or it is time. A firewall that
    /// cannot be looked after is no reason to undo what is in force. Returns what had gone missing.
    fn let_through(&mut self, wanted: &Wanted) -> usize {
        let asked = passage(wanted);
        let same = self.firewall.passage == asked;
        if same && self.firewall.looked.is_some_and(|at| at.elapsed() < FIREWALL_INTERVAL) {
            return 0;
        }
        let ensured = firewall::ensure_docker_accepts(&asked.ranges, &asked.bridges);
        if let Err(error) = &ensured
            && !self.firewall.complained
        {
            warn!(error = %chain(error), "Could not look after Docker's firewall; will retry");
        }
        let complained = ensured.is_err();
        self.firewall = Firewall { passage: asked, looked: Some(Instant::now()), complained };
        if same { ensured.unwrap_or(0) } else { 0 }
    }
}

fn passage(wanted: &Wanted) -> Passage {
    let here = |one: &&str| wanted.networks.iter().any(|network| network.interface == **one);
    let bridges = OWN_BRIDGES.into_iter().filter(here).map(str::to_owned).collect();
    Passage { ranges: wanted.ranges.clone(), bridges }
}

fn refused(error: &ApplyError) -> KernelError {
    KernelError(chain(error))
}

//! Making the desired state be in force.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use eip_model::{Change, Ipv4Range, LocalNetwork, changes};
use nix::sys::socket::SockProtocol;
use tracing::{debug, warn};

use crate::arp::Announcer;
use crate::conntrack;
use crate::elements::{Pair, pool_intervals, private_intervals, shared_target};
use crate::interfaces::Interfaces;
use crate::nftables::{Nftables, Refused, Surroundings};
use crate::routes;
use crate::socket::Netlink;
use crate::sysctl;

/// How many addresses are announced in one go, at some 50 us each.
const ANNOUNCED_AT_ONCE: usize = 256;

/// From how many changes on it may pay to replace the table instead.
const MANY: usize = 1024;

/// Everything that must be in force on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredState {
    /// All addresses that elastic IPs are made of, associated or not.
    pub ranges: Vec<Ipv4Range>,
    /// Where instances live. Every other interface is outside.
    pub networks: Vec<LocalNetwork>,
    /// Each attached elastic IP's private address. No two have the same.
    pub targets: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

/// Why there can be no data plane here.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("not permitted: changing the network of this host takes CAP_NET_ADMIN")]
    NotPermitted,
    #[error("this kernel has no nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4)")]
    Unsupported(#[source] io::Error),
    #[error("cannot open netlink sockets")]
    Socket(#[source] io::Error),
}

/// What could not be done. Nothing that was in force before has been lost by it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub struct ApplyError {
    doing: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

fn failed<E>(doing: &'static str) -> impl FnOnce(E) -> ApplyError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |source| ApplyError { doing, source: source.into() }
}

/// The data plane of the network namespace that it was opened in.
#[derive(Debug)]
pub struct DataPlane {
    nftables: Nftables,
    route: Netlink,
    conntrack: Netlink,
    announcer: Option<Announcer>,
    /// What is in the table; nothing when that is not known.
    table: Option<Table>,
    /// The routes of ours that there are, and the source that they were given.
    routes: Option<Routes>,
    /// Elastic IPs that the host newly answers for, still to be announced.
    unannounced: BTreeSet<Ipv4Addr>,
    /// Elastic IPs that were detached, whose flows are still to be forgotten.
    unswept: BTreeSet<Ipv4Addr>,
}

#[derive(Debug)]
struct Table {
    surroundings: Surroundings,
    targets: BTreeMap<Ipv4Addr, Ipv4Addr>,
    capacity: usize,
}

#[derive(Debug)]
struct Routes {
    addresses: BTreeSet<Ipv4Addr>,
    source: Option<Ipv4Addr>,
}

impl DataPlane {
    /// Opens the sockets and makes sure that the kernel can and lets us.
    ///
    /// # Errors
    /// [`OpenError`] says whether it is the rights or the kernel that is missing.
    pub fn open() -> Result<Self, OpenError> {
        let mut nftables = Nftables::open().map_err(without(OpenError::Socket))?;
        let probed = nftables.probe().map_err(|Refused { source, .. }| source);
        probed.map_err(without(OpenError::Unsupported))?;
        let announcer = Announcer::open();
        if let Err(error) = &announcer {
            warn!(%error, "Cannot announce addresses by ARP (it takes CAP_NET_RAW); going on without");
        }
        let socket = |protocol| Netlink::open(protocol, 0).map_err(OpenError::Socket);
        Ok(Self {
            nftables,
            route: socket(SockProtocol::NetlinkRoute)?,
            conntrack: socket(SockProtocol::NetlinkNetFilter)?,
            announcer: announcer.ok(),
            table: None,
            routes: None,
            unannounced: BTreeSet::new(),
            unswept: BTreeSet::new(),
        })
    }

    /// Makes exactly this be in force, whatever was before.
    ///
    /// The first time, and after [`DataPlane::forget`], the table is replaced as a whole; later on
    /// only what differs is changed. Rules come first, then routes, then announcements; what is
    /// taken away loses its rules before its route. Repeating it with the same state does nothing.
    ///
    /// # Errors
    /// When the kernel refuses a part. The next call tries again what is missing.
    pub fn apply(&mut self, desired: &DesiredState) -> Result<(), ApplyError> {
        if let Some(((public, private), other)) = shared_target(&desired.targets) {
            let said = format!("{public} and {other} both point at {private}");
            return Err(failed("hold two elastic IPs for one private address")(said));
        }
        let listed = Interfaces::list(&mut self.route);
        let interfaces = listed.map_err(failed("list the interfaces"))?;
        let surroundings = surroundings(desired, &interfaces);
        sysctl::prepare(surroundings.inside.iter().map(String::as_str))
            .map_err(failed("turn forwarding on"))?;
        self.apply_table(desired, surroundings)?;
        let inside = interior(&desired.networks);
        let source = interfaces.outside(&inside).find_map(|one| one.addresses.first().copied());
        let new = self.apply_routes(&desired.targets, source)?;
        self.unannounced.retain(|address| desired.targets.contains_key(address));
        self.unannounced.extend(new);
        self.announce(&interfaces, &inside);
        Ok(())
    }

    fn apply_table(
        &mut self,
        desired: &DesiredState,
        surroundings: Surroundings,
    ) -> Result<(), ApplyError> {
        let fits = |table: &&mut Table| desired.targets.len() <= table.capacity;
        let Some(table) = self.table.as_mut().filter(fits) else {
            return self.replace_table(desired, surroundings);
        };
        let steps = changes(&table.targets, &desired.targets);
        // Taking elements out one by one costs more than making the table anew without them.
        if steps.len() > MANY && steps.len() > desired.targets.len() {
            self.unswept.extend(steps.iter().filter_map(detached).map(|(public, _)| public));
            return self.replace_table(desired, surroundings);
        }
        let news = (table.surroundings != surroundings).then_some(&surroundings);
        if steps.is_empty() && news.is_none() {
            return Ok(());
        }
        let gone = steps.iter().filter_map(detached);
        let new = steps.iter().filter_map(attached);
        let changed = self.nftables.change(news, &gone, &new);
        // Whatever went wrong, the next call begins from scratch and not from a belief.
        let changed = changed.inspect_err(|_| self.table = None);
        changed.map_err(failed("change the rules"))?;
        self.unswept.extend(gone.map(|(public, _)| public));
        if let Some(table) = &mut self.table {
            table.surroundings = surroundings;
            table.targets.clone_from(&desired.targets);
        }
        debug!(steps = steps.len(), "Changed the rules");
        Ok(())
    }

    fn replace_table(
        &mut self,
        desired: &DesiredState,
        surroundings: Surroundings,
    ) -> Result<(), ApplyError> {
        let DesiredState { targets, .. } = desired;
        let pairs = targets.iter().map(|(public, private)| (*public, *private));
        let replaced = self.nftables.replace(&surroundings, &pairs);
        let capacity = replaced.map_err(failed("load the rules"))?;
        // News of before, and of this replacement, says nothing about what comes after.
        self.nftables.untouched();
        self.table = Some(Table { surroundings, targets: targets.clone(), capacity });
        debug!(attachments = targets.len(), "Loaded the rules");
        Ok(())
    }

    /// Returns the addresses that the host newly answers for.
    fn apply_routes(
        &mut self,
        targets: &BTreeMap<Ipv4Addr, Ipv4Addr>,
        source: Option<Ipv4Addr>,
    ) -> Result<Vec<Ipv4Addr>, ApplyError> {
        let routes = match self.routes.take() {
            Some(routes) => routes,
            None => {
                let listed = routes::list(&mut self.route);
                Routes { addresses: listed.map_err(failed("list the routes"))?, source: None }
            }
        };
        let gone = routes.addresses.iter().copied().filter(|one| !targets.contains_key(one));
        routes::remove(&mut self.route, gone).map_err(failed("remove routes"))?;
        let fresh = |one: &Ipv4Addr| !routes.addresses.contains(one) || routes.source != source;
        let new = targets.keys().copied().filter(fresh);
        routes::add(&mut self.route, new, source).map_err(failed("add routes"))?;
        let is_new = |one: &Ipv4Addr| !routes.addresses.contains(one);
        let announced = targets.keys().copied().filter(is_new).collect();
        self.routes = Some(Routes { addresses: targets.keys().copied().collect(), source });
        Ok(announced)
    }

    /// Announces what is due, up to so many at a time: whoever applies is waiting.
    ///
    /// An address that could not be announced is answered for all the same, when it is asked for.
    fn announce(&mut self, interfaces: &Interfaces, inside: &[String]) {
        let Some(announcer) = &self.announcer else { return self.unannounced.clear() };
        for _ in 0..ANNOUNCED_AT_ONCE {
            let Some(address) = self.unannounced.pop_first() else { return };
            for interface in interfaces.outside(inside) {
                if let Err(error) = announcer.announce(address, interface) {
                    debug!(interface = interface.name, %error, "Could not announce an address");
                }
            }
        }
    }

    /// Whether the table is still as it was left, by what the kernel has told since this was last
    /// asked. Where it is not, [`DataPlane::forget`] and apply again.
    pub fn intact(&mut self) -> bool {
        self.nftables.untouched()
    }

    /// Lets the next apply replace everything instead of trusting what was in force.
    pub fn forget(&mut self) {
        self.table = None;
        self.routes = None;
    }

    /// Does what may come after a change: announces the rest of the addresses that are new, and
    /// forgets the flows of those that were detached. Some of it may be left for the next time.
    ///
    /// # Errors
    /// When the kernel refuses; what is left is tried at the next sweep.
    pub fn sweep(&mut self) -> Result<(), ApplyError> {
        if let Some(table) = &self.table
            && !self.unannounced.is_empty()
        {
            let inside = table.surroundings.inside.clone();
            let listed = Interfaces::list(&mut self.route);
            self.announce(&listed.map_err(failed("list the interfaces"))?, &inside);
        }
        while let Some(address) = self.unswept.first().copied() {
            let forgotten = conntrack::forget(&mut self.conntrack, address);
            forgotten.map_err(failed("forget the flows of an elastic IP"))?;
            self.unswept.remove(&address);
        }
        Ok(())
    }
}

/// Tells what is not permitted from what went wrong otherwise.
fn without(otherwise: fn(io::Error) -> OpenError) -> impl FnOnce(io::Error) -> OpenError {
    move |error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => OpenError::NotPermitted,
        _ => otherwise(error),
    }
}

fn surroundings(desired: &DesiredState, interfaces: &Interfaces) -> Surroundings {
    let DesiredState { ranges, networks, .. } = desired;
    Surroundings {
        inside: interior(networks),
        pool: pool_intervals(ranges, networks, interfaces.own.iter().copied()),
        private: private_intervals(networks),
    }
}

/// Returns the names of the interfaces that lead to instances, each once.
fn interior(networks: &[LocalNetwork]) -> Vec<String> {
    let names: BTreeSet<&String> = networks.iter().map(|network| &network.interface).collect();
    names.into_iter().cloned().collect()
}

fn detached(change: &Change) -> Option<Pair> {
    match change {
        Change::Detach { public_ip, private_ip } => Some((*public_ip, *private_ip)),
        Change::Attach { .. } => None,
    }
}

fn attached(change: &Change) -> Option<Pair> {
    match change {
        Change::Attach { public_ip, private_ip } => Some((*public_ip, *private_ip)),
        Change::Detach { .. } => None,
    }
}

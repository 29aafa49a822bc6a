//! The data plane: full set in, and the kernel converges on it whatever was there.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;

use eip_model::{AliasTarget, Change, LocalNetwork, OrdMap, changes};
use tracing::{debug, warn};

use crate::aliases::{AliasChanges, by_set};
use crate::announce::Announcer;
use crate::applied::{Applied, Warning};
use crate::audit::{Audit, Auditor, Expected};
use crate::conntrack::{Attached, Sweeper};
use crate::desired::DesiredState;
use crate::elements::ATTACHMENT_SETS;
use crate::error::{ApplyError, OpenError};
use crate::hairpin::Hairpin;
use crate::host::{Host, Lookout};
use crate::in_force::{InForce, count, element_changes, steps};
use crate::nft::{Batch, Nft, Refused};
use crate::options::{Announce, Counters, Options};
use crate::paths::{self, Paths};
use crate::routes::{Held, Routes};
use crate::sets::Sets;
use crate::suspects::Suspects;
use crate::sysctl;
use crate::table::{ALIASES, Room, STALE};
use crate::traffic::{Meter, TrafficReader};
use crate::wire;

/// The least that the maps of the table are made for.
const LEAST_CAPACITY: usize = 1024;
/// The least that the sets are made for of what is held back: so many may end at once before the table is replaced.
const LEAST_HELD: usize = 16_384;

/// The kernel side of one host, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct DataPlane {
    namespace: u64,
    nft: Nft,
    lookout: Lookout,
    routes: Routes,
    paths: Paths,
    /// None where nothing is to be announced.
    announcer: Option<io::Result<Announcer>>,
    sweeper: Sweeper,
    meter: Option<Meter>,
    hairpin: Hairpin,
    auditor: Auditor,
    in_force: Option<InForce>,
    /// What is held back by the table that was made last.
    suspects: Suspects,
    /// The targets and aliases of that table, whether they are known to be in force or not.
    last: (OrdMap<Ipv4Addr, Ipv4Addr>, OrdMap<Ipv4Addr, AliasTarget>),
    /// How often attachments have changed.
    changes: u64,
    /// The table was replaced, and the flows have not been looked through since.
    unswept: bool,
    /// The preferred source that our routes have, once they are known to be those of `in_force`.
    routed: Option<Option<Ipv4Addr>>,
    settled_networks: Option<Vec<LocalNetwork>>,
    /// The networks that are inside, as far as announcements know.
    announced_beside: Option<Vec<LocalNetwork>>,
    /// What turns that failed have left to announce, and whether the host has changed since one did not.
    owed: (BTreeSet<Ipv4Addr>, bool),
}

impl DataPlane {
    /// Connects to the kernel, and has it check that it understands our rules. Changes nothing.
    ///
    /// # Errors
    /// [`OpenError`] tells missing rights from what the kernel lacks.
    pub fn open() -> Result<Self, OpenError> {
        Self::open_with(Options::default())
    }

    /// The same, with what an operator may choose.
    ///
    /// # Errors
    /// [`OpenError`] tells missing rights from what the kernel lacks.
    pub fn open_with(options: Options) -> Result<Self, OpenError> {
        let mut nft = Nft::open().map_err(|source| {
            OpenError::new("speak nf_tables (CONFIG_NETFILTER_NETLINK)", source)
        })?;
        nft.rehearse().map_err(|refused| match refused.source.raw_os_error() {
            Some(libc::EPERM) => OpenError::NoRights(refused.source),
            Some(_) | None => {
                OpenError::KernelLacks { feature: refused.tried, source: refused.source }
            }
        })?;
        let io = |tried| move |source| OpenError::new(tried, source);
        let meter = meter(options.counters, &nft).map_err(io("count traffic"))?;
        Ok(Self {
            namespace: namespace().map_err(io("tell network namespaces apart"))?,
            nft,
            lookout: Lookout::open().map_err(io("speak rtnetlink"))?,
            routes: Routes::open().map_err(io("speak rtnetlink"))?,
            paths: Paths::open().map_err(io("speak rtnetlink"))?,
            announcer: match options.announce {
                Announce::Arp => Some(Announcer::start()),
                Announce::None => None,
            },
            sweeper: Sweeper::start().map_err(io("speak ctnetlink (CONFIG_NF_CT_NETLINK)"))?,
            hairpin: Hairpin::start().map_err(io("speak rtnetlink"))?,
            auditor: Auditor::start().map_err(io("speak rtnetlink"))?,
            meter,
            in_force: None,
            suspects: Suspects::default(),
            last: Default::default(),
            changes: 0,
            unswept: false,
            routed: None,
            settled_networks: None,
            announced_beside: None,
            owed: Default::default(),
        })
    }

    /// Makes `desired` true of the kernel: rules, then routes, then the word to the neighbours.
    ///
    /// Blocks for microseconds when little changed, and for a second or so with a million addresses.
    /// The rules change in one transaction; the first one, and the one after [`Self::forget`],
    /// replaces the table whole. An elastic IP that goes loses its rules before its route.
    ///
    /// # Errors
    /// [`ApplyError`] says what was refused. What has happened is known all the same, and the
    /// next call goes on from there.
    pub fn apply(&mut self, desired: &DesiredState) -> Result<Applied, ApplyError> {
        self.refuse_other_namespace()?;
        let look = |source| ApplyError::Look { what: "the network", source };
        let (host, host_changed) = self.lookout.look().map_err(look)?;
        self.owed.1 |= host_changed;
        let host_changed = self.owed.1;
        let intact = self.nft.intact();
        if !intact.map_err(|source| ApplyError::Look { what: "the ruleset", source })? {
            self.in_force = None;
        }
        let mut applied = Applied::default();
        self.settle_sysctls(desired, &mut applied)?;
        let changed = self.change_rules(desired, &host, &mut applied)?;
        if host_changed || applied.replaced {
            // With an address the kernel removes the routes that prefer it as a source.
            self.distrust_routes();
        }
        let source = host.primary(&desired.networks);
        let routed = self.change_routes(desired, &changed, source, &mut applied);
        // Counters of very many take as long as their routes, and nobody waits for them: they come after.
        self.tell_meter(desired, &changed, &applied);
        self.tell_hairpin(desired, &changed, &applied);
        let mut fresh = routed?;
        let outside = match &self.announcer {
            Some(_) => host.announce_on(&desired.networks),
            None => Vec::new(),
        };
        self.owed.0.extend(fresh.drain(..));
        let paths = self.paths.change(&desired.aliases, &outside, source).inspect_err(|_| {
            self.owed.0.extend(desired.aliases.keys());
        })?;
        self.tell_meter_of_ways(desired, &paths);
        applied.routes_added += paths.added;
        applied.routes_removed += paths.gone.len();
        let (owed, _) = std::mem::take(&mut self.owed);
        fresh.extend(owed.into_iter().filter(|address| desired.has(*address)));
        fresh.extend(paths.fresh);
        if let Some(Ok(announcer)) = &self.announcer {
            announcer.withdraw(paths.gone.into_iter());
        }
        applied.refused = paths.refused;
        self.announce(&host, host_changed, desired, &fresh, &mut applied);
        self.sweep_after_replacement()?;
        Ok(applied)
    }

    /// Says whether the table is still the one that the last `apply` left. Takes microseconds.
    ///
    /// If not, [`Self::apply`] replaces it whole.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn intact(&mut self) -> Result<bool, ApplyError> {
        self.nft.intact().map_err(|source| ApplyError::Look { what: "the ruleset", source })
    }

    /// Makes the next `apply` take nothing for granted: it replaces the table and compares routes.
    pub fn forget(&mut self) {
        self.in_force = None;
        self.distrust_routes();
        self.settled_networks = None;
    }

    /// Makes the next `apply` compare our routes with what the kernel has, and put right what differs.
    ///
    /// The kernel tells of a route that others removed only to who listens to all routes, which on a
    /// router may be hundreds of thousands; a look of our own now and then is cheaper.
    pub fn distrust_routes(&mut self) {
        self.routed = None;
        self.paths.distrust();
    }

    /// Has our routes compared with what was applied last, beside whatever comes next; [`Self::audited`]
    /// says what it came to. With very many routes the comparison takes a while.
    pub fn begin_audit(&mut self) {
        if let (Some(now), Some(source), Some(ways)) =
            (&self.in_force, self.routed, self.paths.known())
        {
            let (targets, ways) = (now.targets.clone(), ways.clone());
            self.auditor.begin(Expected { targets, source, ways });
        }
    }

    /// What the comparison came to that was begun last, once it is over. Where something may differ,
    /// [`Self::distrust_routes`] has the next `apply` put it right.
    pub fn audited(&mut self) -> Option<Audit> {
        self.auditor.outcome()
    }

    /// Says what will not work for want of rights, though all else does.
    #[must_use]
    pub fn caveat(&self) -> Option<Warning> {
        match &self.announcer {
            Some(Err(error)) => Some(Warning::CannotAnnounce(error.kind())),
            Some(Ok(_)) | None => None,
        }
    }

    /// What is counted, for whoever wants to look; nothing where counting is off.
    #[must_use]
    pub fn traffic(&self) -> Option<TrafficReader> {
        self.meter.as_ref().map(Meter::reader)
    }

    /// Has the counters read now, and not only in their time, and waits until they are.
    pub fn read_traffic(&self) {
        if let Some(meter) = &self.meter {
            meter.read_now();
        }
    }

    fn tell_meter(&self, desired: &DesiredState, steps: &[Change], applied: &Applied) {
        let Some(meter) = &self.meter else { return };
        if applied.replaced {
            meter.all(desired.targets.keys().chain(desired.aliases.keys()).copied());
        } else if !steps.is_empty() {
            let (gone, come, _) = by_changes(steps, None);
            let addresses = |held: Vec<Held>| held.into_iter().map(|held| held.0);
            let gone = addresses(gone).filter(|address| !desired.has(*address)).collect();
            meter.changed(gone, addresses(come).collect());
        }
    }

    /// An elastic IP that changes its mode goes on being counted.
    fn tell_meter_of_ways(&self, desired: &DesiredState, ways: &paths::Changed) {
        if let Some(meter) = &self.meter
            && !(ways.gone.is_empty() && ways.fresh.is_empty())
        {
            let gone = ways.gone.iter().copied().filter(|address| !desired.has(*address));
            meter.changed(gone.collect(), ways.fresh.clone());
        }
    }

    fn tell_hairpin(&self, desired: &DesiredState, steps: &[Change], applied: &Applied) {
        if applied.replaced {
            self.hairpin.all(desired.targets.values().copied());
        } else if !steps.is_empty() {
            let (mut gone, mut come) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Change::Detach { private_ip, .. } => gone.push(*private_ip),
                    Change::Attach { private_ip, .. } => come.push(*private_ip),
                }
            }
            self.hairpin.changed(gone, come);
        }
    }

    fn refuse_other_namespace(&self) -> Result<(), ApplyError> {
        let here = namespace();
        let here = here.map_err(|source| ApplyError::Look { what: "the namespace", source })?;
        if here == self.namespace { Ok(()) } else { Err(ApplyError::WrongNamespace) }
    }

    fn settle_sysctls(
        &mut self,
        desired: &DesiredState,
        applied: &mut Applied,
    ) -> Result<(), ApplyError> {
        sysctl::forward()?;
        if self.settled_networks.as_ref() != Some(&desired.networks) {
            let failures = sysctl::no_redirects(&desired.networks);
            self.settled_networks = failures.is_empty().then(|| desired.networks.clone());
            applied.warnings.extend(failures.into_iter().map(Warning::Redirects));
        }
        Ok(())
    }

    /// Brings the table up to date, and returns what that meant for attachments.
    fn change_rules(
        &mut self,
        desired: &DesiredState,
        host: &Host,
        applied: &mut Applied,
    ) -> Result<Vec<Change>, ApplyError> {
        let own = host.addresses().filter(|address| !desired.targets.contains_key(address));
        let sets = Sets::new(&desired.ranges, &desired.networks, own);
        let steps = steps(self.in_force.as_ref(), desired)?;
        count(&steps, applied);
        let nothing = OrdMap::new();
        let in_force = self.in_force.as_ref().map_or(&nothing, |now| &now.aliases);
        let aliases = AliasChanges::between(in_force, &desired.aliases);
        applied.attached += aliases.new.len();
        applied.detached += aliases.gone.len();
        let (number, swept) = (self.changes + 1, self.sweeper.swept());
        let Some(now) = self.in_force.take() else {
            let suspects = self.suspects_of_unknown(number, swept, desired)?;
            return self.replace_table(desired, sets, suspects, steps, applied);
        };
        let suspects = self.suspects.after(number, swept, &steps, &aliases);
        let settled = now.sets == sets;
        let changed = !(steps.is_empty() && aliases.is_empty());
        if !changed && now.sets.looks_like(&sets) && self.suspects == suspects {
            self.in_force = Some(InForce { sets, ..now });
            self.tell_sweeper(settled, changed);
            return Ok(steps);
        }
        let elements = now.targets.len() + now.aliases.len() + applied.attached;
        if elements > now.capacity || suspects.len() > now.held {
            return self.replace_table(desired, sets, suspects, steps, applied);
        }
        let held = [&self.suspects, &suspects];
        let batch = element_changes([&now.sets, &sets], held, &steps, &aliases);
        match self.nft.commit_elements(batch) {
            Ok(()) => {
                self.in_force = Some(now.into_next(sets, &steps, desired));
                self.last = (desired.targets.clone(), desired.aliases.clone());
                self.suspects = suspects;
                self.tell_sweeper(settled, changed);
                Ok(steps)
            }
            Err(Refused { tried, source }) => {
                // Someone changed the table in a way we did not hear of: make it anew.
                warn!(%tried, error = %source, "Element change refused; replacing the table");
                self.replace_table(desired, sets, suspects, steps, applied)
            }
        }
    }

    /// What is held back by a table that is made because nobody knows what the one that is there is like: it
    /// may have been made by a process before this one, or changed by a stranger.
    fn suspects_of_unknown(
        &mut self,
        number: u64,
        swept: u64,
        desired: &DesiredState,
    ) -> Result<Suspects, ApplyError> {
        if self.changes == 0 {
            let look = |source| ApplyError::Look { what: "what is held back", source };
            let pairs = self.nft.keys(STALE).map_err(look)?;
            let aliases = self.nft.keys(ALIASES).map_err(look)?;
            let pair = |key: &Vec<u8>| {
                Some((wire::address(key.get(..4)?)?, wire::address(key.get(4..)?)?))
            };
            let pairs = pairs.iter().filter_map(pair);
            let aliases = aliases.iter().filter_map(|key| wire::address(key));
            self.suspects = Suspects::left(number, pairs, aliases);
        }
        let (targets, aliases) = &self.last;
        let steps = changes(targets, &desired.targets);
        let aliases = AliasChanges::between(aliases, &desired.aliases);
        Ok(self.suspects.after(number, swept, &steps, &aliases))
    }

    fn replace_table(
        &mut self,
        desired: &DesiredState,
        sets: Sets,
        suspects: Suspects,
        steps: Vec<Change>,
        applied: &mut Applied,
    ) -> Result<Vec<Change>, ApplyError> {
        let elements = desired.targets.len() + desired.aliases.len();
        let capacity = (2 * elements).next_power_of_two().max(LEAST_CAPACITY);
        let held = (2 * suspects.len()).next_power_of_two().max(LEAST_HELD);
        let [attachments, room] =
            [capacity, held].map(|one| u32::try_from(one).unwrap_or(u32::MAX));
        let mut batch = Batch::new();
        batch.reserve(elements);
        batch.replace_table(Room { attachments, suspects: room });
        for (set, elements) in sets.elements() {
            batch.add(set, elements.into_iter());
        }
        for (set, element) in ATTACHMENT_SETS {
            let pairs = desired.targets.iter().map(|(public, private)| (*public, *private));
            batch.add(set, pairs.map(element));
        }
        for (set, elements) in by_set(&desired.aliases) {
            batch.add(set, elements.into_iter());
        }
        Suspects::default().change_to(&suspects, &mut batch);
        let refused = |Refused { tried, source }| ApplyError::Rules { tried, source };
        self.nft.commit_table(batch).map_err(refused)?;
        debug!(attachments = desired.targets.len(), capacity, "Replaced the table");
        applied.replaced = true;
        self.unswept = true;
        // What takes a while with very many is done when they are in force.
        let holders = desired.targets.iter().map(|(public, private)| (*private, *public)).collect();
        let (targets, aliases) = (desired.targets.clone(), desired.aliases.clone());
        self.last = (targets.clone(), aliases.clone());
        self.in_force = Some(InForce { sets, targets, aliases, holders, capacity, held });
        self.suspects = suspects;
        self.tell_sweeper(false, true);
        Ok(steps)
    }

    /// `settled` says that it knows the surroundings, `changed` that attachments have.
    fn tell_sweeper(&mut self, settled: bool, changed: bool) {
        let Some(now) = &self.in_force else { return };
        // In this order: what has ended may have been in a range that is no more.
        if changed {
            self.changes += 1;
            let (holders, gone) = (now.holders.clone(), self.suspects.aliases().clone());
            let attached = Attached { number: self.changes, holders, gone };
            self.sweeper.attached(attached, self.unswept);
        }
        if !settled {
            self.sweeper.around(&now.sets);
        }
    }

    /// What a table that was replaced may have let go of is in none of its sets: it is in force only when
    /// no flow of that is left.
    fn sweep_after_replacement(&mut self) -> Result<(), ApplyError> {
        if self.unswept {
            self.sweeper.sweep_now().map_err(|source| ApplyError::Flows { source })?;
            self.unswept = false;
        }
        Ok(())
    }

    /// Brings the routes up to date, and returns the elastic IPs that had none before.
    fn change_routes(
        &mut self,
        desired: &DesiredState,
        steps: &[Change],
        source: Option<Ipv4Addr>,
        applied: &mut Applied,
    ) -> Result<Vec<Ipv4Addr>, ApplyError> {
        let known = self.routed == Some(source);
        let (gone, missing, fresh) = if known {
            by_changes(steps, source)
        } else {
            by_comparison(&self.routes.list()?, desired, source)
        };
        if let Some(Ok(announcer)) = &self.announcer {
            if known {
                announcer.withdraw(gone.iter().map(|held| held.0));
            } else {
                announcer.withdraw_all_but(|address| desired.has(address));
            }
        }
        self.routed = None;
        applied.routes_removed = gone.len();
        applied.routes_added = missing.len();
        // Both are tried: one that cannot go must not keep others from coming.
        let removed = self.routes.remove(&gone);
        let done = self.routes.add(&missing).and(removed);
        done.inspect_err(|_| self.owed.0.extend(&fresh))?;
        self.routed = Some(source);
        Ok(fresh)
    }

    /// Announces what is new here, and everything where it can be heard only now.
    fn announce(
        &mut self,
        host: &Host,
        host_changed: bool,
        desired: &DesiredState,
        fresh: &[Ipv4Addr],
        applied: &mut Applied,
    ) {
        let announcer = match &self.announcer {
            Some(Ok(announcer)) => announcer,
            Some(Err(error)) => {
                if !fresh.is_empty() {
                    applied.warnings.push(Warning::CannotAnnounce(error.kind()));
                }
                return;
            }
            None => return,
        };
        let networks_changed = self.announced_beside.as_ref() != Some(&desired.networks);
        let mut newly_heard = false;
        if host_changed || networks_changed {
            let interfaces = host.announce_on(&desired.networks);
            applied.warnings.extend(interfaces.iter().filter_map(|one| {
                let interface = one.name.clone();
                sysctl::ignores_arp(&interface)
                    .map(|arp_ignore| Warning::Unanswered { interface, arp_ignore })
            }));
            newly_heard = announcer.on(interfaces);
            self.announced_beside = Some(desired.networks.clone());
        }
        if newly_heard {
            applied.announced = desired.targets.len() + desired.aliases.len();
            announcer.announce(desired.targets.keys().chain(desired.aliases.keys()).copied());
        } else if !fresh.is_empty() {
            applied.announced = fresh.len();
            announcer.announce(fresh.iter().copied());
        }
    }
}

type RouteChanges = (Vec<Held>, Vec<Held>, Vec<Ipv4Addr>);

/// The routes are known to be those of the last state: only what changed needs a change.
fn by_changes(steps: &[Change], source: Option<Ipv4Addr>) -> RouteChanges {
    let (mut gone, mut new) = (BTreeSet::new(), BTreeSet::new());
    for step in steps {
        match step {
            Change::Detach { public_ip, .. } => gone.insert(*public_ip),
            Change::Attach { public_ip, .. } => new.insert(*public_ip),
        };
    }
    let held = |set: &BTreeSet<_>, other: &BTreeSet<_>| {
        set.difference(other).map(|address| (*address, source)).collect::<Vec<_>>()
    };
    let fresh = new.difference(&gone).copied().collect();
    (held(&gone, &new), held(&new, &gone), fresh)
}

/// What is listed is compared with what is wanted: routes that an earlier process left, too.
fn by_comparison(
    found: &BTreeSet<Held>,
    desired: &DesiredState,
    source: Option<Ipv4Addr>,
) -> RouteChanges {
    let known: BTreeSet<Ipv4Addr> = found.iter().map(|(address, _)| *address).collect();
    let missing: Vec<Held> = desired
        .targets
        .keys()
        .map(|address| (*address, source))
        .filter(|held| !found.contains(held))
        .collect();
    let gone =
        found.iter().filter(|held| !desired.targets.contains_key(&held.0)).copied().collect();
    let fresh = missing.iter().map(|held| held.0).filter(|a| !known.contains(a)).collect();
    (gone, missing, fresh)
}

fn meter(counters: Counters, nft: &Nft) -> io::Result<Option<Meter>> {
    match counters {
        Counters::On => Meter::start(nft.alone()).map(Some),
        Counters::Off => Meter::remove().map(|()| None),
    }
}

/// Returns the inode that stands for the network namespace of this thread.
fn namespace() -> io::Result<u64> {
    std::fs::metadata("/proc/thread-self/ns/net").map(|meta| meta.ino())
}

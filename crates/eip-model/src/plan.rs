//! From what is desired and what runs here to what must be in force, and the steps that lead there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::agent::{Attachment, AttachmentProblem, ProblemKind};
use crate::ids::InstanceId;
use crate::instance::{Backend, InstanceReport, InstanceState};
use crate::mode::{InstanceInterface, MacAddress, Mode};
use crate::network::LocalNetwork;

/// Instances by id. Copies share what they have in common.
pub type Instances = OrdMap<InstanceId, Arc<InstanceReport>>;

/// What must be in force on a host now: where each elastic IP leads, and what is in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolution {
    /// The private addresses of those in mode `nat`.
    pub targets: OrdMap<Ipv4Addr, Ipv4Addr>,
    pub aliases: OrdMap<Ipv4Addr, AliasTarget>,
    pub problems: OrdMap<Ipv4Addr, AttachmentProblem>,
}

/// A host as it is.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The last full list of every backend.
    pub known: Instances,
    /// The backends that do not answer at present, and why. Their instances are taken to be where they
    /// were.
    pub silent: BTreeMap<Backend, String>,
    pub networks: Vec<LocalNetwork>,
}

/// Where an elastic IP in mode `alias` leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasTarget {
    /// The instance that has the elastic IP on an interface.
    pub instance_id: InstanceId,
    /// The address of that interface.
    pub private_ip: Ipv4Addr,
    /// From where it may speak as the elastic IP: each of its interfaces, since what it sends goes by
    /// its own routes.
    pub speakers: BTreeSet<Speaker>,
}

/// An interface of an instance as its host sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Speaker {
    /// The interface of the host that leads there.
    pub interface: String,
    pub mac: MacAddress,
}

/// Finds for each attachment where its instance is on this host now.
///
/// An instance that does not run has no target: another may have inherited its private address. Two
/// attachments never share a target: of several the first by address has it that could. A target is
/// never itself an elastic IP.
///
/// Walks through all of them; [`crate::Resolver`] comes to the same by what has changed.
#[must_use]
pub fn resolve(attachments: &OrdMap<Ipv4Addr, Attachment>, host: &Surroundings) -> Resolution {
    let mut resolution = Resolution::default();
    let mut taken: BTreeMap<Ipv4Addr, Ipv4Addr> = BTreeMap::new();
    for (public_ip, attachment) in attachments {
        let found = claim(attachment, &host.known).and_then(|(instance, target)| {
            let holder = taken.get(&target).copied();
            let itself = attachments.contains_key(&target);
            lead(attachment, instance, target, Rivals { holder, itself }, host)
        });
        if let Ok(Lead { target, .. }) = &found {
            taken.insert(*target, *public_ip);
        }
        resolution.put(*public_ip, found);
    }
    resolution
}

/// Where an attachment leads.
#[derive(Debug)]
pub(crate) struct Lead {
    pub(crate) target: Ipv4Addr,
    alias: Option<AliasTarget>,
    /// What is to be said of it all the same.
    problem: Option<(ProblemKind, String)>,
}

/// What is in the way of a private address as a target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rivals {
    /// The elastic IP that leads there already.
    pub(crate) holder: Option<Ipv4Addr>,
    /// Whether it is itself an elastic IP.
    pub(crate) itself: bool,
}

impl Resolution {
    /// Notes where an elastic IP leads, or why nowhere.
    pub(crate) fn put(&mut self, public_ip: Ipv4Addr, found: Result<Lead, String>) {
        let problem = match found {
            Err(reason) => Some((ProblemKind::Failing, reason)),
            Ok(Lead { target, alias, problem }) => {
                match alias {
                    None => drop(self.targets.insert(public_ip, target)),
                    Some(alias) => drop(self.aliases.insert(public_ip, alias)),
                }
                problem
            }
        };
        if let Some((kind, reason)) = problem {
            self.problems.insert(public_ip, AttachmentProblem { public_ip, kind, reason });
        }
    }
}

/// Finds the instance of an attachment and the private address that it has now, or says why it leads
/// nowhere.
pub(crate) fn claim<'k>(
    attachment: &Attachment,
    known: &'k Instances,
) -> Result<(&'k InstanceReport, Ipv4Addr), String> {
    let Some(instance) = known.get(&attachment.instance_id) else {
        return Err(format!("no instance {} on this host", attachment.instance_id));
    };
    let target = match &attachment.network {
        None => instance.target(),
        Some(network) => instance.target_on(network),
    };
    match target {
        Some(target) => Ok((instance, target)),
        None => Err(why_no_target(instance, attachment.network.as_deref())),
    }
}

/// Says where an attachment leads whose instance has a private address, or why nowhere.
pub(crate) fn lead(
    attachment: &Attachment,
    instance: &InstanceReport,
    target: Ipv4Addr,
    rivals: Rivals,
    host: &Surroundings,
) -> Result<Lead, String> {
    if let Some(other) = rivals.holder {
        return Err(format!("{other} is already pointed at the private address {target}"));
    }
    if rivals.itself {
        return Err(format!("the private address {target} is itself an elastic IP"));
    }
    let alias = match attachment.mode {
        Mode::Nat => None,
        Mode::Alias => {
            let wished = attachment.network.as_deref();
            Some(alias(instance, target, wished, &host.networks)?)
        }
    };
    let problem = if let Some(why) = host.silent.get(&instance.backend) {
        let reason =
            format!("{} does not answer ({why}); its rules stay as they were", instance.backend);
        Some((ProblemKind::Unknown, reason))
    } else if !instance.modes.contains(&attachment.mode) {
        Some((ProblemKind::Failing, mode_lost(instance, attachment.mode)))
    } else {
        None
    };
    Ok(Lead { target, alias, problem })
}

/// Finds from where an instance may speak as its elastic IP, or says why it cannot have one. `wished`
/// is the network that it is to lead to, where one is named.
fn alias(
    instance: &InstanceReport,
    private_ip: Ipv4Addr,
    wished: Option<&str>,
    networks: &[LocalNetwork],
) -> Result<AliasTarget, String> {
    let InstanceReport { id, backend, name, interfaces, .. } = instance;
    let has_it = |one: &&InstanceInterface| {
        one.private_ip == Some(private_ip) && wished.is_none_or(|network| one.network == network)
    };
    let leads = |one: &InstanceInterface| leads_to(*backend, one, networks);
    let own = interfaces.iter().find(has_it);
    if own.is_some_and(|one| leads(one).is_none()) {
        return Err(format!("no network of this host leads to {private_ip} of {backend}:{name}"));
    }
    if own.is_none_or(|one| one.mac.is_none()) {
        return Err(format!("the MAC address of {backend}:{name} is not known"));
    }
    let speaker = |one: &InstanceInterface| {
        Some(Speaker { interface: leads(one)?.to_owned(), mac: one.mac? })
    };
    let speakers = interfaces.iter().filter_map(speaker).collect();
    Ok(AliasTarget { instance_id: *id, private_ip, speakers })
}

/// Finds the host's interface that leads to an instance's. Its network's name says which, since the
/// subnets of two networks may overlap; a list from before networks told their names has none.
fn leads_to<'n>(
    backend: Backend,
    to: &InstanceInterface,
    networks: &'n [LocalNetwork],
) -> Option<&'n str> {
    let address = to.private_ip?;
    let fits = || networks.iter().filter(|one| one.subnet.contains(&address));
    let is_it = |one: &&LocalNetwork| {
        one.known_as.as_ref().is_some_and(|(of, name)| (*of, name) == (backend, &to.network))
    };
    let found = fits().find(is_it).or_else(|| fits().find(|one| one.known_as.is_none()));
    found.map(|one| one.interface.as_str())
}

fn mode_lost(instance: &InstanceReport, mode: Mode) -> String {
    let InstanceReport { backend, name, .. } = instance;
    match mode {
        Mode::Nat => format!("{backend}:{name} cannot be reached in mode {mode}"),
        Mode::Alias => {
            format!("{backend}:{name} is out of reach for mode {mode}: {}", backend.why_no_alias())
        }
    }
}

fn why_no_target(instance: &InstanceReport, network: Option<&str>) -> String {
    let InstanceReport { backend, name, state, unusable, .. } = instance;
    match (state, unusable) {
        (InstanceState::Paused | InstanceState::Stopped, _) => {
            format!("{backend}:{name} is {state}")
        }
        (InstanceState::Running, Some(why)) => {
            format!("{backend}:{name} cannot take an elastic IP: {}", why.sentence())
        }
        (InstanceState::Running, None) => match network {
            None => format!("{backend}:{name} has no IPv4 address"),
            Some(network) => format!("{backend}:{name} has no IPv4 address on network {network}"),
        },
    }
}

/// One reversible act on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Detach { public_ip: Ipv4Addr, private_ip: Ipv4Addr },
    Attach { public_ip: Ipv4Addr, private_ip: Ipv4Addr },
}

/// Returns the changes that turn what is in force into what must be.
///
/// Everything that goes comes first: two holders of one private address are worse than none. Costs what
/// the two differ in, where one was made of the other.
#[must_use]
pub fn changes(
    in_force: &OrdMap<Ipv4Addr, Ipv4Addr>,
    wanted: &OrdMap<Ipv4Addr, Ipv4Addr>,
) -> Vec<Change> {
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    for item in in_force.diff(wanted) {
        let (before, after) = match item {
            DiffItem::Add(public, private) => (None, Some((public, private))),
            DiffItem::Update { old, new } => (Some(old), Some(new)),
            DiffItem::Remove(public, private) => (Some((public, private)), None),
        };
        gone.extend(
            before.map(|(public, private)| Change::Detach {
                public_ip: *public,
                private_ip: *private,
            }),
        );
        new.extend(
            after.map(|(public, private)| Change::Attach {
                public_ip: *public,
                private_ip: *private,
            }),
        );
    }
    gone.append(&mut new);
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ElasticIpId;
    use crate::instance::Unusable;
    use uuid::Uuid;

    fn instance(n: u128, private_ip: Option<[u8; 4]>) -> InstanceReport {
        InstanceReport {
            id: InstanceId::new(Uuid::from_u128(n)),
            backend: Backend::Docker,
            name: format!("web-{n}"),
            project: None,
            state: InstanceState::Running,
            private_ip: private_ip.map(Ipv4Addr::from),
            vpc_id: None,
            address_source: None,
            unusable: None,
            modes: Mode::nat_alone(),
            interfaces: Vec::new(),
        }
    }

    fn attachment(last: u8, instance: u128) -> Attachment {
        Attachment {
            public_ip: Ipv4Addr::new(100, 64, 0, last),
            elastic_ip_id: ElasticIpId::new(Uuid::from_u128(1000 + u128::from(last))),
            instance_id: InstanceId::new(Uuid::from_u128(instance)),
            mode: Mode::Nat,
            network: None,
        }
    }

    fn interface(network: &str, last: u8) -> InstanceInterface {
        InstanceInterface {
            network: network.into(),
            private_ip: Some(Ipv4Addr::new(10, 0, last, last)),
            mac: Some(MacAddress::new([2, 0, 0, 0, 0, last])),
        }
    }

    /// An instance on two networks of its host.
    fn manifold() -> (InstanceReport, [LocalNetwork; 2]) {
        let report = InstanceReport {
            private_ip: Some(Ipv4Addr::new(10, 0, 1, 1)),
            modes: Mode::ALL.to_vec(),
            interfaces: vec![interface("front", 1), interface("back", 2)],
            ..instance(1, None)
        };
        let network = |name: &str, subnet: &str| LocalNetwork::new(name, subnet.parse().unwrap());
        (report, [network("br-f", "10.0.1.0/24"), network("br-b", "10.0.2.0/24")])
    }

    #[test]
    fn the_network_that_was_named_is_followed() {
        let (report, networks) = manifold();
        let on = |network: &str| Attachment { network: Some(network.into()), ..attachment(1, 1) };
        let found = resolve(&[on("back")], &host(vec![report.clone()], &networks));
        assert_eq!(found.targets[&Ipv4Addr::new(100, 64, 0, 1)], Ipv4Addr::new(10, 0, 2, 2));
        let gone = resolve(&[on("side")], &host(vec![report], &networks));
        assert_eq!(reasons(&gone)[0], "docker:web-1 has no IPv4 address on network side");
        assert!(gone.targets.is_empty());
    }

    #[test]
    fn an_alias_may_be_spoken_as_from_every_interface_of_its_instance() {
        let (report, networks) = manifold();
        let wanted = [Attachment { mode: Mode::Alias, ..attachment(1, 1) }];
        let found = resolve(&wanted, &host(vec![report.clone()], &networks));
        assert!(found.targets.is_empty() && found.problems.is_empty(), "{found:?}");
        let alias = &found.aliases[&Ipv4Addr::new(100, 64, 0, 1)];
        assert_eq!(alias.private_ip, Ipv4Addr::new(10, 0, 1, 1));
        let from: Vec<_> = alias.speakers.iter().map(|one| one.interface.as_str()).collect();
        assert_eq!(from, ["br-b", "br-f"]);

        let elsewhere = resolve(&wanted, &host(vec![report.clone()], &networks[1..]));
        assert!(elsewhere.aliases.is_empty());
        assert!(reasons(&elsewhere)[0].starts_with("no network of this host leads to"));
        let mut nameless = report;
        nameless.interfaces[0].mac = None;
        let found = resolve(&wanted, &host(vec![nameless], &networks));
        assert_eq!(reasons(&found)[0], "the MAC address of docker:web-1 is not known");
    }

    #[test]
    fn of_two_networks_with_one_subnet_the_one_that_it_is_in_is_where_an_alias_speaks_from() {
        let (mut report, _) = manifold();
        report.interfaces[1].private_ip = Some(Ipv4Addr::new(10, 0, 1, 7));
        let network = |bridge: &str, backend, name: &str| {
            LocalNetwork::new(bridge, "10.0.1.0/24".parse().unwrap()).known_as(backend, name)
        };
        let wanted = [Attachment { mode: Mode::Alias, ..attachment(1, 1) }];
        let from = |networks: &[LocalNetwork]| -> Vec<String> {
            let found = resolve(&wanted, &host(vec![report.clone()], networks));
            let speakers = found.aliases.values().flat_map(|one| one.speakers.clone());
            speakers.map(|one| format!("{} {}", one.interface, one.mac)).collect()
        };
        let networks = [
            network("br-1", Backend::Libvirt, "front"),
            network("br-2", Backend::Docker, "back"),
            network("br-3", Backend::Docker, "front"),
        ];
        assert_eq!(from(&networks), ["br-2 02:00:00:00:00:02", "br-3 02:00:00:00:00:01"]);
        assert!(from(&networks[..2]).is_empty(), "another's network of that name and subnet");
    }

    #[test]
    fn a_mode_that_is_lost_is_told_and_what_is_in_force_stays() {
        let (mut report, networks) = manifold();
        report.modes = Mode::nat_alone();
        let wanted = [Attachment { mode: Mode::Alias, ..attachment(1, 1) }];
        let found = resolve(&wanted, &host(vec![report], &networks));
        assert_eq!(found.aliases.len(), 1);
        assert_eq!(found.problems.values().next().unwrap().kind, ProblemKind::Failing);
        assert!(reasons(&found)[0].contains("CAP_SYS_ADMIN"), "{found:?}");
    }

    fn host(list: Vec<InstanceReport>, networks: &[LocalNetwork]) -> Surroundings {
        let known = list.into_iter().map(|one| (one.id, Arc::new(one))).collect();
        Surroundings { known, silent: BTreeMap::new(), networks: networks.to_vec() }
    }

    fn resolve(attachments: &[Attachment], host: &Surroundings) -> Resolution {
        let all = attachments.iter().map(|one| (one.public_ip, one.clone())).collect();
        super::resolve(&all, host)
    }

    fn reasons(found: &Resolution) -> Vec<&str> {
        found.problems.values().map(|one| one.reason.as_str()).collect()
    }

    #[test]
    fn a_running_instance_is_followed_to_its_private_address_of_now() {
        let found =
            resolve(&[attachment(1, 1)], &host(vec![instance(1, Some([10, 0, 0, 2]))], &[]));
        assert_eq!(found.targets[&Ipv4Addr::new(100, 64, 0, 1)], Ipv4Addr::new(10, 0, 0, 2));
        assert!(found.problems.is_empty());
    }

    #[test]
    fn what_does_not_run_or_is_not_there_has_no_target_and_the_reason_names_it() {
        let mut stopped = instance(1, Some([10, 0, 0, 2]));
        stopped.state = InstanceState::Stopped;
        let mut on_host = instance(2, None);
        on_host.unusable = Some(Unusable::HostNetwork);
        let wanted = [attachment(1, 1), attachment(2, 2), attachment(3, 3)];
        let found = resolve(&wanted, &host(vec![stopped, on_host], &[]));
        assert!(found.targets.is_empty());
        let reasons = reasons(&found);
        assert_eq!(reasons[0], "docker:web-1 is stopped");
        assert!(reasons[1].contains("shares the network of its host"));
        assert!(reasons[2].starts_with("no instance"));
    }

    #[test]
    fn a_silent_backend_keeps_its_rules_and_says_that_it_does_not_know() {
        let silent = BTreeMap::from([(Backend::Docker, "timed out".into())]);
        let world = Surroundings { silent, ..host(vec![instance(1, Some([10, 0, 0, 2]))], &[]) };
        let found = resolve(&[attachment(1, 1)], &world);
        assert_eq!(found.targets.len(), 1);
        let problem = &found.problems[&Ipv4Addr::new(100, 64, 0, 1)];
        assert_eq!(problem.kind, ProblemKind::Unknown);
        assert!(problem.reason.starts_with("docker does not answer (timed out)"), "{problem:?}");
    }

    #[test]
    fn two_elastic_ips_never_share_a_private_address() {
        let world =
            host(vec![instance(1, Some([10, 0, 0, 2])), instance(2, Some([10, 0, 0, 2]))], &[]);
        let found = resolve(&[attachment(1, 1), attachment(2, 2)], &world);
        assert_eq!(found.targets.len(), 1);
        assert_eq!(found.problems.len(), 1);
    }

    #[test]
    fn an_elastic_ip_is_never_a_target() {
        let world = host(vec![instance(1, Some([100, 64, 0, 1]))], &[]);
        let found = resolve(&[attachment(1, 1)], &world);
        assert!(found.targets.is_empty());
    }

    #[test]
    fn a_move_detaches_before_it_attaches() {
        let ip = |last| Ipv4Addr::new(100, 64, 0, last);
        let private = |last| Ipv4Addr::new(10, 0, 0, last);
        let before: OrdMap<_, _> = [(ip(1), private(1)), (ip(2), private(2))].into_iter().collect();
        let after: OrdMap<_, _> =
            [(ip(1), private(3)), (ip(2), private(2)), (ip(3), private(1))].into_iter().collect();
        assert_eq!(
            changes(&before, &after),
            [
                Change::Detach { public_ip: ip(1), private_ip: private(1) },
                Change::Attach { public_ip: ip(1), private_ip: private(3) },
                Change::Attach { public_ip: ip(3), private_ip: private(1) },
            ]
        );
        assert!(changes(&after, &after).is_empty());
    }
}

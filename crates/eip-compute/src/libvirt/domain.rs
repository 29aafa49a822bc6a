//! What is known of one domain, and the instance that it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use eip_model::{
    AddressSource, Backend, InstanceId, InstanceInterface, InstanceReport, InstanceState,
    LocalNetwork, MacAddress, Mode, Unusable,
};

use super::bridges::{Bridge, Bridges};
use super::mac::Mac;
use super::neighbours::Neighbours;
use super::rpc::messages::{Addressed, DomainRef, DomainState, Lease};
use super::xml::{About, BadWish, Interface, Network, NetworkKind, Plug, Wishes};

/// One domain.
#[derive(Debug, Clone)]
pub(super) struct Domain {
    pub(super) named: DomainRef,
    pub(super) state: InstanceState,
    pub(super) about: About,
    pub(super) heard: Heard,
    /// How often its guest agent has come.
    pub(super) connects: u32,
}

/// What was heard of a domain's addresses since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// What its guest agent said last.
    pub(super) agent: Vec<Addressed>,
    /// Its DHCP server has said something else since: the agent is asked again before it counts.
    pub(super) agent_is_old: bool,
    /// What libvirt says of leases where a network's cannot be listed.
    pub(super) leases: Vec<Addressed>,
    /// Where the neighbour table last had each interface. It stays when the entry is gone: the
    /// kernel forgets whom it has not talked to, and silence is no sign of another address.
    pub(super) guesses: BTreeMap<Mac, Ipv4Addr>,
}

/// What is known beside the domains.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    pub(super) networks: BTreeMap<String, Network>,
    pub(super) leases: LeaseBook,
    pub(super) bridges: Bridges,
    /// They are those of another host.
    pub(super) elsewhere: bool,
}

/// What running domains have in common that they should not.
#[derive(Debug, Default)]
pub(super) struct Census {
    macs: BTreeMap<Mac, usize>,
    /// Who has an address by DHCP, or was last seen at it by this host.
    holders: BTreeMap<Ipv4Addr, Mac>,
    /// How many have an address by their metadata.
    stated: BTreeMap<Ipv4Addr, usize>,
}

/// Says what a state is to an elastic IP.
pub(super) const fn state_of(state: DomainState) -> InstanceState {
    match state {
        DomainState::Running
        | DomainState::Blocked
        | DomainState::ShuttingDown
        | DomainState::NoState => InstanceState::Running,
        DomainState::Paused | DomainState::PmSuspended => InstanceState::Paused,
        DomainState::ShutOff | DomainState::Crashed | DomainState::Other(_) => {
            InstanceState::Stopped
        }
    }
}

impl Domain {
    /// Returns whether anything can be at its addresses.
    pub(super) fn is_up(&self) -> bool {
        match self.state {
            InstanceState::Running | InstanceState::Paused => true,
            InstanceState::Stopped => false,
        }
    }

    /// Whether its guest agent can be asked to do something.
    fn has_agent(&self, around: &Surroundings) -> bool {
        self.is_up() && self.about.agent_connected && !around.elsewhere
    }

    /// Another number each time that it, or its guest agent, starts.
    pub(super) fn life(&self) -> u64 {
        u64::from(self.named.id.unsigned_abs()) << 32 | u64::from(self.connects)
    }

    pub(super) fn macs(&self) -> impl Iterator<Item = Mac> {
        self.about.interfaces.iter().filter_map(|one| one.mac)
    }

    /// Returns the names of libvirt's networks that it is plugged into.
    pub(super) fn networks(&self) -> impl Iterator<Item = &str> {
        self.about.interfaces.iter().filter_map(|one| match &one.plug {
            Plug::Network(name) => Some(name.as_str()),
            Plug::Bridge(_) | Plug::Tap(_) | Plug::User | Plug::Past => None,
        })
    }

    /// Takes in what the neighbour table says of its interfaces. Returns whether that is news.
    pub(super) fn look_around(&mut self, neighbours: &Neighbours) -> bool {
        if !self.is_up() {
            return false;
        }
        let before = self.heard.guesses.clone();
        let macs: Vec<Mac> = self.macs().collect();
        self.heard.guesses.retain(|mac, _| macs.contains(mac));
        for mac in macs {
            let guess = self.heard.guesses.get(&mac).copied();
            match (neighbours.address_of(mac), guess) {
                (Some(address), _) => {
                    self.heard.guesses.insert(mac, address);
                }
                (None, Some(address)) if neighbours.is_anothers(address, mac) => {
                    self.heard.guesses.remove(&mac);
                }
                (None, _) => {}
            }
        }
        self.heard.guesses != before
    }

    /// Takes in that the leases of some interfaces have changed. Returns whether any is its own.
    pub(super) fn doubt_agent(&mut self, leases: &BTreeMap<Mac, Ipv4Addr>) -> bool {
        let contradicts = |mac: Mac| {
            let lease = leases.get(&mac);
            let said = |address: Ipv4Addr| self.heard.agent.contains(&Addressed { mac, address });
            lease.is_some_and(|address| !said(*address))
        };
        let doubtful = !self.heard.agent.is_empty() && self.macs().any(contradicts);
        self.heard.agent_is_old |= doubtful;
        doubtful
    }

    /// Says which instance it is.
    pub(super) fn report(&self, around: &Surroundings, census: &Census) -> InstanceReport {
        let (wishes, bad) = match &self.about.wishes {
            Ok(wishes) => (wishes.clone(), None),
            Err(BadWish::Project) => (Wishes::default(), Some(Unusable::BadProject)),
            Err(BadWish::Other) => (Wishes::default(), Some(Unusable::BadMetadata)),
        };
        let Search { found, first, ambiguous, trouble } =
            self.search(wishes.network.as_deref(), around, census);
        let unknown = found.is_none() && self.is_up();
        let stated = first.as_ref().zip(wishes.address.filter(|_| unknown));
        let stated = stated.map(|(first, address)| match first.can_have(address, census) {
            true => Ok((address, AddressSource::Metadata, first.vpc.clone())),
            false => Err(Unusable::BadMetadata),
        });
        let (stated, bad_address) = match stated.transpose() {
            Ok(stated) => (stated, None),
            Err(why) => (None, Some(why)),
        };
        let found = found.or(stated).filter(|_| self.is_up());
        let running = self.state == InstanceState::Running;
        let why_none = match (&found, &first) {
            (Some(_), _) => None,
            (None, None) if self.about.interfaces.is_empty() => Some(Unusable::NoInterface),
            // With no trouble at any, the network that was wished for is not among its own.
            (None, None) => Some(trouble.unwrap_or(Unusable::BadMetadata)),
            (None, Some(_)) if bad_address.is_some() => bad_address,
            (None, Some(_)) if running && ambiguous => Some(Unusable::AmbiguousMac),
            (None, Some(_)) if running => Some(Unusable::NoAddress),
            (None, Some(_)) => None,
        };
        let (private_ip, address_source, vpc_id) = match found {
            Some((address, source, vpc)) => (Some(address), Some(source), vpc),
            None => (None, None, first.and_then(|first| first.vpc)),
        };
        let interfaces = self.interfaces(around, census, vpc_id.as_deref(), private_ip);
        let unusable = bad.or(why_none);
        InstanceReport {
            id: InstanceId::new(self.named.uuid),
            backend: Backend::Libvirt,
            name: self.about.name.clone(),
            project: wishes.project,
            state: self.state,
            private_ip,
            address_source,
            vpc_id,
            unusable,
            modes: match unusable {
                Some(_) => Vec::new(),
                None if self.has_agent(around) => Mode::ALL.to_vec(),
                None => Mode::nat_alone(),
            },
            interfaces,
        }
    }

    /// Lists its interfaces that are on something with a name. `vpc` is the one that an elastic IP
    /// leads to by itself, and `private_ip` its address, however that is known.
    fn interfaces(
        &self,
        around: &Surroundings,
        census: &Census,
        vpc: Option<&str>,
        private_ip: Option<Ipv4Addr>,
    ) -> Vec<InstanceInterface> {
        let interface = |one: &Interface| {
            let network = one.plug.name()?.to_owned();
            let reach = around.reach(&one.plug).ok().filter(|_| self.is_up());
            let found = reach.and_then(|reach| self.address(one, &reach, around, census).ok()?);
            let mac = one.mac.map(|mac| MacAddress::new(mac.octets()));
            Some(InstanceInterface { network, private_ip: found.map(|(address, _)| address), mac })
        };
        let mut all: Vec<_> = self.about.interfaces.iter().filter_map(interface).collect();
        // Its metadata may say what nobody else does.
        if !all.iter().any(|one| one.private_ip == private_ip)
            && let Some(one) = all.iter_mut().find(|one| vpc == Some(&one.network))
        {
            one.private_ip = private_ip;
        }
        all
    }

    /// Looks for an address at each of its interfaces, or at those on the network wished for.
    fn search<'a>(
        &self,
        network: Option<&str>,
        around: &'a Surroundings,
        census: &Census,
    ) -> Search<'a> {
        let mut search = Search::default();
        let wished = |one: &&Interface| network.is_none_or(|name| one.plug.name() == Some(name));
        for interface in self.about.interfaces.iter().filter(wished) {
            let reach = match around.reach(&interface.plug) {
                Ok(reach) => reach,
                Err(why) => {
                    search.trouble.get_or_insert(why);
                    continue;
                }
            };
            let vpc = interface.plug.name().map(str::to_owned);
            let address = self.address(interface, &reach, around, census);
            search.first.get_or_insert(First { mac: interface.mac, reach, vpc: vpc.clone() });
            match address {
                Ok(Some((address, source))) => {
                    search.found = Some((address, source, vpc));
                    break;
                }
                Ok(None) => {}
                Err(TwoHaveIt) => search.ambiguous = true,
            }
        }
        search
    }

    /// Finds the address of one interface: whom the guest asked first, then who gave it, then who
    /// saw it.
    fn address(
        &self,
        interface: &Interface,
        reach: &Reach<'_>,
        around: &Surroundings,
        census: &Census,
    ) -> Result<Option<(Ipv4Addr, AddressSource)>, TwoHaveIt> {
        let Some(mac) = interface.mac else { return Ok(None) };
        let of_it = |all: &[Addressed]| -> Vec<Ipv4Addr> {
            all.iter().filter(|one| one.mac == mac).map(|one| one.address).collect()
        };
        let fits = |address: &Ipv4Addr| {
            is_a_guests(*address)
                && reach.fits(*address)
                && !census.is_anothers(*address, Some(mac))
        };
        let said = of_it(&self.heard.agent).into_iter().find(&fits);
        let said = said.map(|address| (address, AddressSource::Agent));
        if said.is_some() && self.about.agent_connected && !self.heard.agent_is_old {
            return Ok(said);
        }
        let leased = around.leases.in_force.get(&mac).copied().into_iter();
        let leased = leased.chain(of_it(&self.heard.leases)).find(&fits);
        let guessed = self.heard.guesses.get(&mac).copied().filter(fits);
        let lease = leased.map(|address| (address, AddressSource::Lease));
        let guess = guessed.map(|address| (address, AddressSource::Neighbour));
        let found = lease.or(guess);
        // Both go by the hardware address, and two have it.
        if found.is_some() && census.is_ambiguous(mac) {
            return Err(TwoHaveIt);
        }
        // An agent that has gone was right when it spoke, and nobody says otherwise.
        Ok(found.or(said))
    }
}

/// Another domain that runs has the same hardware address.
#[derive(Debug)]
struct TwoHaveIt;

/// What a domain's interfaces have brought.
#[derive(Debug, Default)]
struct Search<'a> {
    found: Option<(Ipv4Addr, AddressSource, Option<String>)>,
    /// The first that can be reached, with an address or without.
    first: Option<First<'a>>,
    ambiguous: bool,
    /// Why the first that cannot be reached cannot be.
    trouble: Option<Unusable>,
}

/// The interface that an address by metadata is meant for.
#[derive(Debug)]
struct First<'a> {
    mac: Option<Mac>,
    reach: Reach<'a>,
    vpc: Option<String>,
}

impl First<'_> {
    /// Whether an address that metadata gives can be its own. Whoever may define a domain writes
    /// metadata, and it is no better than what a guest says of itself.
    fn can_have(&self, address: Ipv4Addr, census: &Census) -> bool {
        is_a_guests(address)
            && self.reach.fits(address)
            && !census.is_anothers(address, self.mac)
            && !census.is_stated_twice(address)
    }
}

/// Which addresses can be those of guests behind an interface.
#[derive(Debug)]
struct Reach<'a> {
    bridge: Option<&'a Bridge>,
    network: Option<&'a NetworkKind>,
}

impl Reach<'_> {
    /// Whether a guest can have this address there. A network whose subnets are not known is
    /// taken at its word.
    fn fits(&self, address: Ipv4Addr) -> bool {
        if let Some(NetworkKind::Managed { own, subnets, .. }) = self.network {
            return !own.contains(&address)
                && (subnets.is_empty() || subnets.iter().any(|one| one.contains(&address)));
        }
        self.bridge.is_none_or(|bridge| {
            bridge.subnets.iter().any(|one| one.contains(&address) && one.addr() != address)
        })
    }
}

impl Plug {
    /// How its network is called.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Network(name) | Self::Bridge(name) | Self::Tap(name) => Some(name),
            Self::User | Self::Past => None,
        }
    }
}

impl Surroundings {
    /// Says what can be reached behind a plug, or why nothing can.
    fn reach(&self, plug: &Plug) -> Result<Reach<'_>, Unusable> {
        let reach = self.reach_there(plug)?;
        let is_routed = matches!(reach.network, Some(NetworkKind::Managed { routed: true, .. }));
        // Behind another host's NAT an address is that host's own matter: here it is somebody else.
        match self.elsewhere && !is_routed {
            true => Err(Unusable::NotRouted),
            false => Ok(reach),
        }
    }

    /// Says what can be reached behind a plug from the host of the domain.
    fn reach_there(&self, plug: &Plug) -> Result<Reach<'_>, Unusable> {
        match plug {
            Plug::User => Err(Unusable::UserNetwork),
            Plug::Past => Err(Unusable::NotRouted),
            Plug::Tap(_) => Ok(Reach { bridge: None, network: None }),
            Plug::Bridge(name) => self.bridge(name),
            Plug::Network(name) => match self.networks.get(name).map(|one| &one.kind) {
                Some(kind @ NetworkKind::Managed { .. }) => {
                    Ok(Reach { bridge: None, network: Some(kind) })
                }
                Some(NetworkKind::Bridge(name)) => self.bridge(name),
                Some(NetworkKind::Past) => Err(Unusable::NotRouted),
                Some(NetworkKind::Isolated) => Err(Unusable::Isolated),
                // It is down, or its daemon does not answer: nothing is known against it.
                None => Ok(Reach { bridge: None, network: None }),
            },
        }
    }

    /// A bridge that others made leads somewhere through this host only where it has an address,
    /// and is not this host's own way out: there, the router is somebody else.
    fn bridge(&self, name: &str) -> Result<Reach<'_>, Unusable> {
        match self.bridges.get(name) {
            Some(bridge) if !bridge.subnets.is_empty() && !bridge.leads_out => {
                Ok(Reach { bridge: Some(bridge), network: None })
            }
            Some(_) | None => Err(Unusable::NotRouted),
        }
    }

    /// Lists the networks that instances are in, as the data plane has to know them.
    pub(super) fn local_networks<'a>(
        &self,
        domains: impl Iterator<Item = &'a Domain>,
    ) -> Vec<LocalNetwork> {
        let mut found = Vec::new();
        let mut add = |name: &str, interface: &str, subnets: &[ipnet::Ipv4Net], routed: bool| {
            found.extend(subnets.iter().map(|subnet| LocalNetwork {
                routed,
                ..LocalNetwork::new(interface, subnet.trunc()).known_as(Backend::Libvirt, name)
            }));
        };
        for (name, network) in &self.networks {
            if let NetworkKind::Managed { bridge, subnets, routed, .. } = &network.kind {
                add(name, bridge, subnets, *routed);
            }
        }
        let plugs = domains.flat_map(|one| one.about.interfaces.iter().map(|one| &one.plug));
        for plug in plugs {
            let Some(interface) = self.foreign_bridge(plug) else { continue };
            if let (Ok(_), Some(bridge)) = (self.bridge(interface), self.bridges.get(interface)) {
                add(plug.name().unwrap_or(interface), interface, &bridge.subnets, false);
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// The bridge behind a plug, where libvirt does not manage it.
    pub(super) fn foreign_bridge<'a>(&'a self, plug: &'a Plug) -> Option<&'a str> {
        match plug {
            Plug::Bridge(name) => Some(name),
            Plug::Network(name) => match &self.networks.get(name)?.kind {
                NetworkKind::Bridge(bridge) => Some(bridge),
                NetworkKind::Managed { .. } | NetworkKind::Isolated | NetworkKind::Past => None,
            },
            Plug::Tap(_) | Plug::User | Plug::Past => None,
        }
    }
}

impl Census {
    /// Counts the domains that run.
    pub(super) fn take<'a>(
        domains: impl Iterator<Item = &'a Domain>,
        leases: &LeaseBook,
        neighbours: &Neighbours,
    ) -> Self {
        let mut census = Self::default();
        for one in domains.filter(|one| one.is_up()) {
            for mac in one.macs() {
                *census.macs.entry(mac).or_default() += 1;
            }
            if let Some(address) = one.about.wishes.as_ref().ok().and_then(|one| one.address) {
                *census.stated.entry(address).or_default() += 1;
            }
        }
        for mac in census.macs.keys() {
            if let Some(address) = neighbours.address_of(*mac) {
                census.holders.insert(address, *mac);
            }
        }
        // Who gives addresses away knows better than who sees packets.
        for mac in census.macs.keys() {
            if let Some(address) = leases.in_force.get(mac) {
                census.holders.insert(*address, *mac);
            }
        }
        census
    }

    fn is_ambiguous(&self, mac: Mac) -> bool {
        self.macs.get(&mac).is_some_and(|count| *count > 1)
    }

    /// An address that DHCP gave to one guest, or that this host sees at one, is not another's,
    /// whatever that one says: it would draw an elastic IP to somebody else.
    fn is_anothers(&self, address: Ipv4Addr, mac: Option<Mac>) -> bool {
        self.holders.get(&address).is_some_and(|one| Some(*one) != mac)
    }

    /// Of two that state one address nobody knows which has it.
    fn is_stated_twice(&self, address: Ipv4Addr) -> bool {
        self.stated.get(&address).is_some_and(|count| *count > 1)
    }
}

/// The leases of all networks.
#[derive(Debug, Default)]
pub(super) struct LeaseBook {
    all: BTreeSet<(Mac, Ipv4Addr)>,
    /// The one that is in force for each interface.
    pub(super) in_force: BTreeMap<Mac, Ipv4Addr>,
}

impl LeaseBook {
    /// Takes in all leases anew.
    ///
    /// Of several of one interface the one that ends last is in force: a guest that calls itself
    /// something else gets another one, and the first stays until its end. Of two that end in the
    /// same second it is the one that is new, or else the one that was in force.
    pub(super) fn take(&mut self, leases: &[Lease]) {
        let mut newest: BTreeMap<Mac, (i64, bool, bool, Ipv4Addr)> = BTreeMap::new();
        for Lease { mac, address, expires } in leases {
            let ends = if *expires <= 0 { i64::MAX } else { *expires };
            let is_new = !self.all.contains(&(*mac, *address));
            let was_in_force = self.in_force.get(mac) == Some(address);
            let rank = (ends, is_new, was_in_force, *address);
            newest.entry(*mac).and_modify(|one| *one = rank.max(*one)).or_insert(rank);
        }
        self.all = leases.iter().map(|one| (one.mac, one.address)).collect();
        self.in_force = newest.into_iter().map(|(mac, rank)| (mac, rank.3)).collect();
    }
}

fn is_a_guests(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast())
}

#[cfg(test)]
#[path = "domain_tests.rs"]
mod tests;

//! [`resolve`](crate::resolve) by what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::agent::Attachment;
use crate::desired::{Desired, differing};
use crate::ids::InstanceId;
use crate::mode::Mode;
use crate::plan::{Instances, Resolution, Rivals, Surroundings, claim, lead};

/// What is in the way of a resolution, and what it came from.
///
/// An update costs what has changed since the last one, in the desired set or in the host, and the
/// logarithm of the whole. It comes to exactly what [`resolve`](crate::resolve) comes to.
#[derive(Debug, Default)]
pub struct Resolver {
    attachments: OrdMap<Ipv4Addr, Attachment>,
    host: Surroundings,
    /// Every private address that an attachment's instance has, and the elastic IP: a private address
    /// leads to the first of them that it can.
    claims: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
    /// The claims, by elastic IP, of those that lead nowhere all the same.
    stray: BTreeMap<Ipv4Addr, Ipv4Addr>,
    found: Resolution,
}

impl Resolver {
    /// Takes in what is desired and what the host is like now.
    pub fn update(&mut self, desired: &Desired, host: &Surroundings) {
        if self.attachments.is_empty() {
            // All of it is news: there is nothing to compare it with.
            return self.begin(desired, host);
        }
        let (mut due, in_one) = differing(&self.attachments, desired.attachments());
        let of = |id: InstanceId| desired.address_of(id);
        due.extend(changed(&self.host.known, &host.known).filter_map(of));
        let networks_changed = self.host.networks != host.networks;
        let silence_changed = self.host.silent != host.silent;
        if networks_changed || silence_changed {
            let all = desired.attachments().values();
            let concerned = all.filter(|one| silence_changed || one.mode == Mode::Alias);
            due.extend(concerned.map(|one| one.public_ip));
        }
        if due.len() * 2 > desired.attachments().len() {
            return self.begin(desired, host);
        }
        self.attachments = desired.attachments().clone();
        self.host = host.clone();
        // An elastic IP that came or went makes a difference to whoever is pointed at its address.
        let mut contested = in_one;
        for public_ip in due {
            contested.extend(self.withdraw(public_ip));
            contested.extend(self.claim(public_ip));
        }
        for private_ip in contested {
            self.settle(private_ip);
        }
    }

    /// Takes in all of them anew, in one walk: where most are concerned, that is less than one by one.
    fn begin(&mut self, desired: &Desired, host: &Surroundings) {
        self.stray.clear();
        let attachments = desired.attachments().clone();
        let mut found = Resolution::default();
        let mut claims = Vec::with_capacity(attachments.len());
        let mut taken = BTreeMap::new();
        for (public_ip, attachment) in &attachments {
            let lead = claim(attachment, &host.known).and_then(|(instance, target)| {
                claims.push((target, *public_ip));
                let holder = taken.get(&target).copied();
                let itself = attachments.contains_key(&target);
                let lead = lead(attachment, instance, target, Rivals { holder, itself }, host);
                match &lead {
                    Ok(_) => drop(taken.insert(target, *public_ip)),
                    Err(_) => drop(self.stray.insert(*public_ip, target)),
                }
                lead
            });
            found.put(*public_ip, lead);
        }
        (self.attachments, self.host, self.found) = (attachments, host.clone(), found);
        self.claims = claims.into_iter().collect();
    }

    /// What all of it comes to.
    #[must_use]
    pub const fn found(&self) -> &Resolution {
        &self.found
    }

    /// Forgets what an elastic IP came to. Returns the private address that it had claimed.
    fn withdraw(&mut self, public_ip: Ipv4Addr) -> Option<Ipv4Addr> {
        let target = self.found.targets.remove(&public_ip);
        let alias = self.found.aliases.remove(&public_ip).map(|alias| alias.private_ip);
        let stray = self.stray.remove(&public_ip);
        self.found.problems.remove(&public_ip);
        let private_ip = target.or(alias).or(stray)?;
        self.claims.remove(&(private_ip, public_ip));
        Some(private_ip)
    }

    /// Has an elastic IP claim the private address that its instance has now, and returns that.
    fn claim(&mut self, public_ip: Ipv4Addr) -> Option<Ipv4Addr> {
        let attachment = self.attachments.get(&public_ip)?;
        match claim(attachment, &self.host.known) {
            Ok((_, private_ip)) => {
                self.claims.insert((private_ip, public_ip));
                self.stray.insert(public_ip, private_ip);
                Some(private_ip)
            }
            Err(reason) => {
                self.found.put(public_ip, Err(reason));
                None
            }
        }
    }

    /// Gives a private address to the first that can have it, and tells the others why they cannot.
    fn settle(&mut self, private_ip: Ipv4Addr) {
        let claims = (private_ip, Ipv4Addr::UNSPECIFIED)..=(private_ip, Ipv4Addr::BROADCAST);
        let rivals: Vec<Ipv4Addr> = self.claims.range(claims).map(|claim| claim.1).collect();
        let itself = self.attachments.contains_key(&private_ip);
        let mut holder = None;
        for public_ip in rivals {
            self.withdraw(public_ip);
            let Some(attachment) = self.attachments.get(&public_ip) else { continue };
            let found = claim(attachment, &self.host.known).and_then(|(instance, target)| {
                lead(attachment, instance, target, Rivals { holder, itself }, &self.host)
            });
            self.claims.insert((private_ip, public_ip));
            match &found {
                Ok(_) => holder = Some(public_ip),
                Err(_) => drop(self.stray.insert(public_ip, private_ip)),
            }
            self.found.put(public_ip, found);
        }
    }
}

/// Returns the instances that differ.
fn changed<'i>(before: &'i Instances, after: &'i Instances) -> impl Iterator<Item = InstanceId> {
    before.diff(after).map(|item| match item {
        DiffItem::Add(id, _) | DiffItem::Update { new: (id, _), .. } | DiffItem::Remove(id, _) => {
            *id
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::agent::DesiredSet;
    use crate::ids::{ClusterId, ElasticIpId, Generation};
    use crate::instance::{Backend, InstanceReport, InstanceState};
    use crate::mode::{InstanceInterface, MacAddress};
    use crate::network::LocalNetwork;
    use crate::plan::resolve;
    use proptest::prelude::*;
    use uuid::Uuid;

    /// Few of everything, so that all gets in each other's way.
    const PUBLIC: u8 = 8;
    const INSTANCES: u8 = 8;

    #[derive(Debug, Clone)]
    enum Step {
        Attach { public: u8, instance: u8, mode: Mode, network: Option<&'static str> },
        Detach { public: u8 },
        Report { instance: u8, report: Option<Seen> },
        Silence(Option<Backend>),
        Networks(bool),
    }

    /// What an instance may look like.
    #[derive(Debug, Clone)]
    struct Seen {
        backend: Backend,
        running: bool,
        private: Option<Ipv4Addr>,
        mac: bool,
        alias: bool,
    }

    fn seen() -> impl Strategy<Value = Seen> {
        // Private addresses that others have, too, and some that are elastic IPs.
        let private = prop_oneof![
            4 => (0..4_u8).prop_map(|last| Some(Ipv4Addr::new(10, 0, 0, last))),
            1 => (0..PUBLIC).prop_map(|last| Some(Ipv4Addr::new(100, 64, 0, last))),
            1 => Just(None),
        ];
        let backend = prop_oneof![Just(Backend::Docker), Just(Backend::Libvirt)];
        let all = (backend, prop::bool::weighted(0.8), private, any::<bool>(), any::<bool>());
        all.prop_map(|(backend, running, private, mac, alias)| Seen {
            backend,
            running,
            private,
            mac,
            alias,
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        let network =
            prop_oneof![3 => Just(None), 1 => Just(Some("front")), 1 => Just(Some("back"))];
        let mode = prop_oneof![Just(Mode::Nat), Just(Mode::Alias)];
        prop_oneof![
            6 => (0..PUBLIC, 0..INSTANCES, mode, network).prop_map(
                |(public, instance, mode, network)| Step::Attach { public, instance, mode, network }
            ),
            2 => (0..PUBLIC).prop_map(|public| Step::Detach { public }),
            6 => (0..INSTANCES, prop::option::weighted(0.9, seen()))
                .prop_map(|(instance, report)| Step::Report { instance, report }),
            1 => prop::option::of(Just(Backend::Docker)).prop_map(Step::Silence),
            1 => any::<bool>().prop_map(Step::Networks),
        ]
    }

    fn id(instance: u8) -> InstanceId {
        InstanceId::new(Uuid::from_u128(u128::from(instance)))
    }

    fn report(instance: u8, seen: &Seen) -> InstanceReport {
        let state = if seen.running { InstanceState::Running } else { InstanceState::Stopped };
        let mac = seen.mac.then(|| MacAddress::new([2, 0, 0, 0, 0, instance]));
        let front = InstanceInterface { network: "front".into(), private_ip: seen.private, mac };
        InstanceReport {
            id: id(instance),
            backend: seen.backend,
            name: format!("web-{instance}"),
            project: None,
            state,
            private_ip: seen.private,
            address_source: None,
            vpc_id: None,
            unusable: None,
            modes: if seen.alias { Mode::ALL.to_vec() } else { Mode::nat_alone() },
            interfaces: vec![front],
        }
    }

    /// The story so far, from which all is made anew at every step.
    #[derive(Debug, Default)]
    struct Story {
        attached: BTreeMap<u8, (u8, Mode, Option<&'static str>)>,
        host: Surroundings,
    }

    impl Story {
        fn go_on(&mut self, step: &Step) {
            match step {
                Step::Attach { public, instance, mode, network } => {
                    // An instance has one at most.
                    self.attached.retain(|_, other| other.0 != *instance);
                    self.attached.insert(*public, (*instance, *mode, *network));
                }
                Step::Detach { public } => drop(self.attached.remove(public)),
                Step::Report { instance, report: None } => {
                    self.host.known.remove(&id(*instance));
                }
                Step::Report { instance, report: Some(seen) } => {
                    self.host.known.insert(id(*instance), Arc::new(report(*instance, seen)));
                }
                Step::Silence(which) => {
                    self.host.silent = which.iter().map(|one| (*one, "silent".into())).collect();
                }
                Step::Networks(there) => {
                    let network = LocalNetwork::new("br0", "10.0.0.0/24".parse().unwrap());
                    self.host.networks = if *there { vec![network] } else { Vec::new() };
                }
            }
        }

        fn desired(&self) -> Desired {
            let attachment =
                |(public, (instance, mode, network)): (&u8, &(u8, Mode, Option<&str>))| {
                    Attachment {
                        public_ip: Ipv4Addr::new(100, 64, 0, *public),
                        elastic_ip_id: ElasticIpId::new(Uuid::from_u128(1)),
                        instance_id: id(*instance),
                        mode: *mode,
                        network: network.map(str::to_owned),
                    }
                };
            Desired::new(DesiredSet {
                cluster_id: ClusterId::new(Uuid::from_u128(1)),
                host: "hv1".parse().unwrap(),
                generation: Generation::new(1),
                replaces: None,
                ranges: vec!["100.64.0.0/24".parse().unwrap()],
                attachments: self.attached.iter().map(attachment).collect(),
            })
            .unwrap()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
        /// Several steps may pass between two looks.
        #[test]
        fn what_has_changed_leads_to_what_all_of_it_comes_to(
            steps in prop::collection::vec((step(), prop::bool::weighted(0.7)), 1..60)
        ) {
            let mut story = Story::default();
            let mut resolver = Resolver::default();
            let mut desired = story.desired();
            for (step, look) in &steps {
                story.go_on(step);
                if !look {
                    continue;
                }
                // Along the way that an agent takes: changes, not a new set.
                let mut next = story.desired();
                next.generation = Generation::new(desired.generation.value() + 1);
                desired = desired.with(&next.since(&desired)).unwrap();
                prop_assert_eq!(&desired, &next);
                resolver.update(&desired, &story.host);
                let all = resolve(desired.attachments(), &story.host);
                prop_assert_eq!(resolver.found(), &all);
                let found = all.targets.len() + all.aliases.len() + resolver.stray.len();
                prop_assert_eq!(resolver.claims.len(), found);
            }
        }
    }

    #[test]
    fn an_update_touches_what_has_changed_and_nothing_else() {
        let mut host = Surroundings::default();
        let mut attachments = Vec::new();
        for n in 0..5_000_u32 {
            let id = InstanceId::new(Uuid::from_u128(u128::from(n)));
            let private = Ipv4Addr::from_bits(0x0a00_0000 + n);
            let seen = Seen {
                backend: Backend::Docker,
                running: true,
                private: Some(private),
                mac: true,
                alias: true,
            };
            host.known.insert(id, Arc::new(InstanceReport { id, ..report(1, &seen) }));
            attachments.push(Attachment {
                public_ip: Ipv4Addr::from_bits(0x6440_0000 + n),
                elastic_ip_id: ElasticIpId::new(Uuid::from_u128(1)),
                instance_id: id,
                mode: Mode::Nat,
                network: None,
            });
        }
        let mut story = Story::default().desired();
        story.ranges = vec!["100.64.0.0/10".parse().unwrap()];
        let desired = Desired::new(DesiredSet {
            cluster_id: story.cluster_id,
            host: story.host.clone(),
            generation: story.generation,
            replaces: None,
            ranges: story.ranges,
            attachments,
        })
        .unwrap();
        let mut resolver = Resolver::default();
        resolver.update(&desired, &host);
        let before = resolver.found().clone();
        assert_eq!(before.targets.len(), 5_000);
        let id = InstanceId::new(Uuid::from_u128(77));
        let mut dead = (*host.known[&id]).clone();
        dead.state = InstanceState::Stopped;
        host.known.insert(id, Arc::new(dead));
        resolver.update(&desired, &host);
        assert_eq!(resolver.found().targets.len(), 4_999);
        // What did not change is shared: it is not even looked at by whoever compares the two.
        let differ = before.targets.diff(&resolver.found().targets).count();
        assert_eq!((differ, resolver.found().problems.len()), (1, 1));
    }
}

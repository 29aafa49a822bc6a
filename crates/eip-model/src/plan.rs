//! From what is desired and what runs here to what must be in force, and the steps that lead there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::agent::{Attachment, AttachmentProblem, BackendInventory, BackendListing, ProblemKind};
use crate::ids::InstanceId;
use crate::instance::{InstanceReport, InstanceState};

/// What must be in force on a host now: each elastic IP's private address, and what is in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolution {
    pub targets: BTreeMap<Ipv4Addr, Ipv4Addr>,
    pub problems: Vec<AttachmentProblem>,
}

/// Finds for each attachment the private address of its instance, as it is on this host now.
///
/// `attachments` are sorted by address, as [`crate::DesiredSet`] has them. `known` is the last full list of every backend; `backends` say which do not answer at
/// present, whose instances are taken to be where they were. An instance that does not run has no
/// target: another may have inherited its private address. Two attachments never share a target,
/// and a target is never itself an elastic IP: the later one is a problem instead.
#[must_use]
pub fn resolve(
    attachments: &[Attachment],
    known: &BTreeMap<InstanceId, InstanceReport>,
    backends: &[BackendInventory],
) -> Resolution {
    let mut resolution = Resolution::default();
    let mut taken: BTreeMap<Ipv4Addr, Ipv4Addr> = BTreeMap::new();
    for attachment in attachments {
        let public_ip = attachment.public_ip;
        let mut problem = |kind, reason: String| {
            resolution.problems.push(AttachmentProblem { public_ip, kind, reason });
        };
        let Some(instance) = known.get(&attachment.instance_id) else {
            let reason = format!("no instance {} on this host", attachment.instance_id);
            problem(ProblemKind::Failing, reason);
            continue;
        };
        let Some(target) = instance.target() else {
            problem(ProblemKind::Failing, why_no_target(instance));
            continue;
        };
        if let Some(other) = taken.get(&target) {
            let reason = format!("{other} is already pointed at the private address {target}");
            problem(ProblemKind::Failing, reason);
            continue;
        }
        if attachments.binary_search_by_key(&target, |other| other.public_ip).is_ok() {
            let reason = format!("the private address {target} is itself an elastic IP");
            problem(ProblemKind::Failing, reason);
            continue;
        }
        if let Some(reason) = silence(instance, backends) {
            problem(ProblemKind::Unknown, reason);
        }
        taken.insert(target, public_ip);
        resolution.targets.insert(public_ip, target);
    }
    resolution
}

fn why_no_target(instance: &InstanceReport) -> String {
    let InstanceReport { backend, name, state, unusable, .. } = instance;
    match (state, unusable) {
        (InstanceState::Paused | InstanceState::Stopped, _) => {
            format!("{backend}:{name} is {state}")
        }
        (InstanceState::Running, Some(why)) => {
            format!("{backend}:{name} cannot take an elastic IP: {}", why.sentence())
        }
        (InstanceState::Running, None) => format!("{backend}:{name} has no IPv4 address"),
    }
}

fn silence(instance: &InstanceReport, backends: &[BackendInventory]) -> Option<String> {
    backends.iter().find_map(|one| match &one.listing {
        BackendListing::Unreachable { reason } if one.backend == instance.backend => {
            Some(format!("{} does not answer ({reason}); its rules stay as they were", one.backend))
        }
        BackendListing::Unreachable { .. } | BackendListing::Listed { .. } => None,
    })
}

/// One reversible act on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Detach { public_ip: Ipv4Addr, private_ip: Ipv4Addr },
    Attach { public_ip: Ipv4Addr, private_ip: Ipv4Addr },
}

/// Returns the changes that turn what is in force into what must be.
///
/// Everything that goes comes first: two holders of one private address are worse than none.
#[must_use]
pub fn changes(
    in_force: &BTreeMap<Ipv4Addr, Ipv4Addr>,
    wanted: &BTreeMap<Ipv4Addr, Ipv4Addr>,
) -> Vec<Change> {
    let gone = in_force.iter().filter(|(public, private)| wanted.get(public) != Some(private));
    let new = wanted.iter().filter(|(public, private)| in_force.get(public) != Some(private));
    gone.map(|(public, private)| Change::Detach { public_ip: *public, private_ip: *private })
        .chain(
            new.map(|(public, private)| Change::Attach {
                public_ip: *public,
                private_ip: *private,
            }),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ElasticIpId;
    use crate::instance::{Backend, Unusable};
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
        }
    }

    fn attachment(last: u8, instance: u128) -> Attachment {
        Attachment {
            public_ip: Ipv4Addr::new(100, 64, 0, last),
            elastic_ip_id: ElasticIpId::new(Uuid::from_u128(1000 + u128::from(last))),
            instance_id: InstanceId::new(Uuid::from_u128(instance)),
        }
    }

    fn known(list: Vec<InstanceReport>) -> BTreeMap<InstanceId, InstanceReport> {
        list.into_iter().map(|one| (one.id, one)).collect()
    }

    #[test]
    fn a_running_instance_is_followed_to_its_private_address_of_now() {
        let found =
            resolve(&[attachment(1, 1)], &known(vec![instance(1, Some([10, 0, 0, 2]))]), &[]);
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
        let found = resolve(&wanted, &known(vec![stopped, on_host]), &[]);
        assert!(found.targets.is_empty());
        let reasons: Vec<_> = found.problems.iter().map(|p| p.reason.as_str()).collect();
        assert_eq!(reasons[0], "docker:web-1 is stopped");
        assert!(reasons[1].contains("shares the network of its host"));
        assert!(reasons[2].starts_with("no instance"));
    }

    #[test]
    fn a_silent_backend_keeps_its_rules_and_says_that_it_does_not_know() {
        let silent = [BackendInventory {
            backend: Backend::Docker,
            listing: BackendListing::Unreachable { reason: "timed out".into() },
        }];
        let world = known(vec![instance(1, Some([10, 0, 0, 2]))]);
        let found = resolve(&[attachment(1, 1)], &world, &silent);
        assert_eq!(found.targets.len(), 1);
        assert_eq!(found.problems[0].kind, ProblemKind::Unknown);
    }

    #[test]
    fn two_elastic_ips_never_share_a_private_address() {
        let world = known(vec![instance(1, Some([10, 0, 0, 2])), instance(2, Some([10, 0, 0, 2]))]);
        let found = resolve(&[attachment(1, 1), attachment(2, 2)], &world, &[]);
        assert_eq!(found.targets.len(), 1);
        assert_eq!(found.problems.len(), 1);
    }

    #[test]
    fn an_elastic_ip_is_never_a_target() {
        let world = known(vec![instance(1, Some([100, 64, 0, 1]))]);
        let found = resolve(&[attachment(1, 1)], &world, &[]);
        assert!(found.targets.is_empty());
    }

    #[test]
    fn a_move_detaches_before_it_attaches() {
        let ip = |last| Ipv4Addr::new(100, 64, 0, last);
        let private = |last| Ipv4Addr::new(10, 0, 0, last);
        let before = BTreeMap::from([(ip(1), private(1)), (ip(2), private(2))]);
        let after = BTreeMap::from([(ip(1), private(3)), (ip(2), private(2)), (ip(3), private(1))]);
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

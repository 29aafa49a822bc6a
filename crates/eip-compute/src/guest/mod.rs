//! The one thing that a backend changes in an instance: the elastic IP on its own interface, where it
//! is to be there.
//!
//! What is there is looked at and mended, whatever was done before: an instance may have been started
//! anew, or have changed its routes by itself. The address is put there for itself alone (`/32`), and
//! the instance's default routes are told to prefer it as their source; what it says to its
//! neighbours carries its private address as before.

mod namespace;

use std::net::Ipv4Addr;

use eip_model::{InstanceId, Ipv4Range};

pub(crate) use namespace::{Memory, may_enter, settle_namespace};

/// What is to be on the interfaces of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestTask {
    pub instance_id: InstanceId,
    /// Without, any elastic IP that is there is taken off.
    pub alias: Option<Alias>,
    /// The addresses that are ours to put there and to take off.
    pub ranges: Vec<Ipv4Range>,
}

/// An elastic IP that is to be on the interface that has a private address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    pub public_ip: Ipv4Addr,
    pub private_ip: Ipv4Addr,
}

/// Why an instance does not have on its interfaces what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// It does not run: nothing is on its interfaces.
    #[error("it does not run")]
    Gone,
    #[error("{0}")]
    Failed(String),
}

impl GuestError {
    pub(crate) fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Failed(eip_model::chain(error))
    }
}

/// An address of a guest's interface, where `D` is how an interface is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held<D> {
    pub(crate) device: D,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
}

/// A default route, where `R` is the route as it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DefaultRoute<R> {
    pub(crate) route: R,
    pub(crate) source: Option<Ipv4Addr>,
}

/// What a guest's network looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen<D, R> {
    pub(crate) addresses: Vec<Held<D>>,
    pub(crate) defaults: Vec<DefaultRoute<R>>,
}

/// One change of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step<D, R> {
    PutOn {
        device: D,
        address: Ipv4Addr,
    },
    /// Has a route prefer a source, or none.
    Prefer {
        route: R,
        source: Option<Ipv4Addr>,
    },
    TakeOff {
        device: D,
        address: Ipv4Addr,
    },
}

/// Returns the changes that lead from what was seen to what is wanted.
///
/// With an address the kernel removes the routes that prefer it, so a route is changed before what it
/// preferred goes, and after what it is to prefer has come.
pub(crate) fn steps<D: Clone + PartialEq, R: Clone>(
    seen: &Seen<D, R>,
    task: &GuestTask,
) -> Result<Vec<Step<D, R>>, GuestError> {
    let private = task.alias.map(|alias| alias.private_ip);
    let in_ranges = |address: Ipv4Addr| task.ranges.iter().any(|range| range.contains(address));
    let is_ours = |held: &&Held<D>| {
        held.prefix == 32 && in_ranges(held.address) && Some(held.address) != private
    };
    let mut steps = Vec::new();
    let wanted = match task.alias {
        None => None,
        Some(Alias { public_ip, private_ip }) => {
            let device = seen.addresses.iter().find(|held| held.address == private_ip);
            let device = device.map(|held| held.device.clone()).ok_or_else(|| {
                GuestError::Failed(format!("none of its interfaces has the address {private_ip}"))
            })?;
            Some(Held { device, address: public_ip, prefix: 32 })
        }
    };
    if let Some(held) = wanted.as_ref().filter(|held| !seen.addresses.contains(held)) {
        steps.push(Step::PutOn { device: held.device.clone(), address: held.address });
    }
    let ours = || seen.addresses.iter().filter(is_ours);
    for DefaultRoute { route, source } in &seen.defaults {
        let wanted = wanted.as_ref().map(|held| held.address);
        let is_ours = source.is_some_and(|source| ours().any(|held| held.address == source));
        if *source != wanted && (wanted.is_some() || is_ours) {
            steps.push(Step::Prefer { route: route.clone(), source: wanted });
        }
    }
    for held in ours().filter(|held| wanted.as_ref() != Some(held)) {
        steps.push(Step::TakeOff { device: held.device.clone(), address: held.address });
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const ONE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
    const TWO: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);

    fn held(device: &'static str, address: Ipv4Addr, prefix: u8) -> Held<&'static str> {
        Held { device, address, prefix }
    }

    fn seen(
        addresses: Vec<Held<&'static str>>,
        source: Option<Ipv4Addr>,
    ) -> Seen<&'static str, &'static str> {
        Seen { addresses, defaults: vec![DefaultRoute { route: "via .1", source }] }
    }

    fn task(public_ip: Option<Ipv4Addr>) -> GuestTask {
        GuestTask {
            instance_id: InstanceId::new(uuid::Uuid::nil()),
            alias: public_ip.map(|public_ip| Alias { public_ip, private_ip: PRIVATE }),
            ranges: vec!["100.64.0.0/10".parse().unwrap()],
        }
    }

    #[test]
    fn an_alias_comes_before_it_is_preferred_and_goes_after() {
        let bare = vec![held("lo", Ipv4Addr::LOCALHOST, 8), held("eth0", PRIVATE, 24)];
        let with = |address| [bare.clone(), vec![held("eth0", address, 32)]].concat();
        let put = Step::PutOn { device: "eth0", address: ONE };
        let prefer = |source| Step::Prefer { route: "via .1", source };
        let off = |address| Step::TakeOff { device: "eth0", address };
        let come = steps(&seen(bare.clone(), Some(PRIVATE)), &task(Some(ONE)));
        assert_eq!(come, Ok(vec![put.clone(), prefer(Some(ONE))]));
        assert_eq!(steps(&seen(with(ONE), Some(ONE)), &task(Some(ONE))), Ok(vec![]));
        let renewed = steps(&seen(with(ONE), None), &task(Some(ONE)));
        assert_eq!(renewed, Ok(vec![prefer(Some(ONE))]), "its DHCP client changed the route");
        let other = steps(&seen(with(TWO), Some(TWO)), &task(Some(ONE)));
        assert_eq!(other, Ok(vec![put, prefer(Some(ONE)), off(TWO)]));
        let gone = steps(&seen(with(ONE), Some(ONE)), &task(None));
        assert_eq!(gone, Ok(vec![prefer(None), off(ONE)]));
        assert_eq!(steps(&seen(bare, Some(PRIVATE)), &task(None)), Ok(vec![]));
    }

    #[test]
    fn what_is_not_ours_stays() {
        // A private network within the pool, and a /32 of the instance's own.
        let own = held("lo", Ipv4Addr::new(192, 0, 2, 1), 32);
        let within = held("eth0", Ipv4Addr::new(100, 64, 9, 9), 24);
        assert_eq!(steps(&seen(vec![own, within], None), &task(None)), Ok(vec![]));
    }

    #[test]
    fn an_alias_follows_to_another_interface() {
        let both = vec![held("eth0", ONE, 32), held("eth1", PRIVATE, 24)];
        let moved = steps(&seen(both, Some(ONE)), &task(Some(ONE))).unwrap();
        let put = Step::PutOn { device: "eth1", address: ONE };
        assert_eq!(moved, [put, Step::TakeOff { device: "eth0", address: ONE }]);
    }

    #[test]
    fn an_interface_that_is_not_there_is_said() {
        let error = steps(&seen(vec![], None), &task(Some(ONE))).unwrap_err();
        assert_eq!(error.to_string(), "none of its interfaces has the address 10.0.0.2");
    }
}

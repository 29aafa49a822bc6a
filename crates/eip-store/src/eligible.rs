//! Whether an elastic IP can be pointed at an instance.

use std::net::Ipv4Addr;

use eip_model::{InstanceState, Unusable};

use crate::error::Refusal;

/// What decides about an instance, as its host last reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) state: InstanceState,
    pub(crate) private_ip: Option<Ipv4Addr>,
    pub(crate) unusable: Option<Unusable>,
}

impl Standing {
    /// Makes sure that it runs.
    pub(crate) fn runs(&self) -> Result<(), Refusal> {
        match self.state {
            InstanceState::Running => Ok(()),
            state @ (InstanceState::Paused | InstanceState::Stopped) => {
                Err(Refusal::InstanceNotRunning { state })
            }
        }
    }

    /// Makes sure that there is an address to point at now.
    pub(crate) fn usable(&self) -> Result<(), Refusal> {
        self.runs()?;
        match (self.private_ip, self.unusable) {
            (Some(_), None) => Ok(()),
            (_, unusable) => Err(Refusal::InstanceHasNoNetwork { unusable }),
        }
    }
}

/// Says to a person why no elastic IP could be associated with the instance now.
pub(crate) fn reason_against(standing: &Standing, public_ip: Option<Ipv4Addr>) -> Option<String> {
    if let Some(public_ip) = public_ip {
        return Some(format!("it has elastic IP {public_ip}"));
    }
    match (standing.state, standing.unusable, standing.private_ip) {
        (state @ (InstanceState::Paused | InstanceState::Stopped), _, _) => {
            Some(format!("it is {state}"))
        }
        (InstanceState::Running, Some(why), _) => Some(why.sentence().to_owned()),
        (InstanceState::Running, None, None) => Some(Unusable::NoAddress.sentence().to_owned()),
        (InstanceState::Running, None, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: Standing = Standing {
        state: InstanceState::Running,
        private_ip: Some(Ipv4Addr::new(10, 0, 0, 2)),
        unusable: None,
    };

    #[test]
    fn what_is_refused_is_never_called_eligible() {
        let states = [InstanceState::Running, InstanceState::Paused, InstanceState::Stopped];
        for state in states {
            for private_ip in [None, RUNNING.private_ip] {
                for unusable in [None, Some(Unusable::HostNetwork)] {
                    let standing = Standing { state, private_ip, unusable };
                    let said = reason_against(&standing, None);
                    assert_eq!(standing.usable().is_ok(), said.is_none(), "{standing:?}: {said:?}");
                }
            }
        }
    }

    #[test]
    fn the_reason_is_a_short_sentence() {
        let address = Ipv4Addr::new(100, 64, 0, 1);
        assert_eq!(
            reason_against(&RUNNING, Some(address)).unwrap(),
            "it has elastic IP 100.64.0.1"
        );
        let stopped = Standing { state: InstanceState::Stopped, private_ip: None, ..RUNNING };
        assert_eq!(reason_against(&stopped, None).unwrap(), "it is stopped");
        let bare = Standing { private_ip: None, ..RUNNING };
        assert_eq!(reason_against(&bare, None).unwrap(), "it has no IPv4 address");
    }
}

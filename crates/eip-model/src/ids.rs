//! The ids of things, each a type of its own, and the ways in which people name things.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::instance::Backend;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            #[must_use]
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }

            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
    };
}

uuid_id!(
    /// An elastic IP: a project's hold on one address, from allocation to release.
    ElasticIpId
);
uuid_id!(
    /// A container or virtual machine.
    InstanceId
);
impl InstanceId {
    /// The ends of every range of ids.
    pub const FIRST: Self = Self(Uuid::nil());
    pub const LAST: Self = Self(Uuid::max());

    /// Returns the id that comes next; of the last, itself.
    #[must_use]
    pub const fn following(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128().saturating_add(1)))
    }
}

uuid_id!(
    /// A webhook: a place that events are sent to.
    WebhookId
);
uuid_id!(
    /// One record: made when a database is first used, and told to every agent, so that an agent
    /// never applies the desired set of another record.
    ClusterId
);

/// A host's counter of its desired set, bumped in the transaction that changes the set.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(u64);

impl Generation {
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a caller names an elastic IP in a path: by its id or by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElasticIpRef {
    Id(ElasticIpId),
    Address(Ipv4Addr),
}

impl fmt::Display for ElasticIpRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// The text is neither a UUID nor an IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is neither the UUID of an elastic IP nor an IPv4 address")]
pub struct InvalidElasticIpRef(pub String);

impl FromStr for ElasticIpRef {
    type Err = InvalidElasticIpRef;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match Uuid::try_parse(text) {
            Ok(id) => Ok(Self::Id(ElasticIpId::new(id))),
            Err(_) => Err(InvalidElasticIpRef(text.to_owned())),
        }
    }
}

/// How a caller names an instance: by its UUID, its unique name, or `backend:name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceRef {
    Id(InstanceId),
    Name { backend: Option<Backend>, name: String },
}

impl InstanceRef {
    /// Reads what a caller wrote. Every text names something, if only something that is not there.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if let Ok(id) = Uuid::try_parse(text) {
            return Self::Id(InstanceId::new(id));
        }
        if let Some((backend, name)) = text.split_once(':')
            && let Ok(backend) = backend.parse()
        {
            return Self::Name { backend: Some(backend), name: name.to_owned() };
        }
        Self::Name { backend: None, name: text.to_owned() }
    }
}

impl fmt::Display for InstanceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name { backend: Some(backend), name } => write!(f, "{backend}:{name}"),
            Self::Name { backend: None, name } => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_elastic_ip_is_named_by_id_or_address_and_by_nothing_else() {
        assert_eq!("100.64.1.2".parse(), Ok(ElasticIpRef::Address(Ipv4Addr::new(100, 64, 1, 2))));
        assert!(matches!("f47ac10b-58cc-4372-a567-0e02c7d2e3f4".parse(), Ok(ElasticIpRef::Id(_))));
        assert!("web".parse::<ElasticIpRef>().is_err());
        assert!("".parse::<ElasticIpRef>().is_err());
    }

    #[test]
    fn a_colon_behind_a_backend_says_where_to_look_and_any_other_is_part_of_the_name() {
        let named = |backend, name: &str| InstanceRef::Name { backend, name: name.to_owned() };
        assert_eq!(InstanceRef::parse("docker:web"), named(Some(Backend::Docker), "web"));
        assert_eq!(InstanceRef::parse("web"), named(None, "web"));
        assert_eq!(InstanceRef::parse("a:b"), named(None, "a:b"));
    }
}

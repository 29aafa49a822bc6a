//! Containers and virtual machines, as a host's agent reports them and as callers see them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::InstanceId;
use crate::mode::{InstanceInterface, Mode};
use crate::names::{HostName, ProjectName};

/// The kinds of thing that can run an instance.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    Docker,
    Libvirt,
    Sandbox,
}

impl Backend {
    pub const ALL: [Self; 3] = [Self::Docker, Self::Libvirt, Self::Sandbox];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Libvirt => "libvirt",
            Self::Sandbox => "sandbox",
        }
    }

    /// Says why one of its instances cannot be in mode `alias` that can take an elastic IP.
    #[must_use]
    pub const fn why_no_alias(self) -> &'static str {
        match self {
            Self::Libvirt => "its QEMU guest agent does not answer",
            Self::Docker | Self::Sandbox => {
                "its host's agent may not enter its network namespace (that takes the capabilities \
                 CAP_SYS_ADMIN and CAP_SYS_PTRACE)"
            }
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Backend {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| UnknownWord { text: text.to_owned(), known: "docker, libvirt, sandbox" })
    }
}

/// A word that is none of a closed list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is none of {known}")]
pub struct UnknownWord {
    pub text: String,
    pub known: &'static str,
}

/// Whether an instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    Running,
    Paused,
    Stopped,
}

impl InstanceState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for InstanceState {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        [Self::Running, Self::Paused, Self::Stopped]
            .into_iter()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| UnknownWord { text: text.to_owned(), known: "running, paused, stopped" })
    }
}

/// One instance as its host's agent sees it.
///
/// `private_ip` is present while the instance has an address that an elastic IP can be pointed at;
/// a stopped container has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    pub id: InstanceId,
    pub backend: Backend,
    pub name: String,
    /// `None` when the host's default project owns it.
    pub project: Option<ProjectName>,
    pub state: InstanceState,
    pub private_ip: Option<Ipv4Addr>,
    /// How `private_ip` is known, where the backend does not give addresses itself.
    #[serde(default)]
    pub address_source: Option<AddressSource>,
    /// The network of the instance, by the name that its backend gives it.
    pub vpc_id: Option<String>,
    /// Why no elastic IP can be pointed at it even while it runs.
    pub unusable: Option<Unusable>,
    /// How elastic IPs can reach it, sorted; of one that can take none, none.
    #[serde(default = "Mode::nat_alone")]
    pub modes: Vec<Mode>,
    /// Its interfaces, in the order of its backend.
    #[serde(default)]
    pub interfaces: Vec<InstanceInterface>,
}

impl InstanceReport {
    /// Returns the address that an elastic IP may be pointed at now.
    #[must_use]
    pub fn target(&self) -> Option<Ipv4Addr> {
        match (self.state, &self.unusable) {
            (InstanceState::Running, None) => self.private_ip,
            (InstanceState::Running, Some(_))
            | (InstanceState::Paused | InstanceState::Stopped, _) => None,
        }
    }

    /// Returns the address that an elastic IP may be pointed at now on one of its networks.
    #[must_use]
    pub fn target_on(&self, network: &str) -> Option<Ipv4Addr> {
        self.target()?;
        self.interfaces.iter().find(|one| one.network == network)?.private_ip
    }
}

/// How the private address of a virtual machine is known.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum AddressSource {
    /// Its guest agent says so.
    Agent,
    /// The DHCP server of its network gave it.
    Lease,
    /// Its host has seen it there: a guess.
    Neighbour,
    /// Its metadata says so.
    Metadata,
}

impl AddressSource {
    pub const ALL: [Self; 4] = [Self::Agent, Self::Lease, Self::Neighbour, Self::Metadata];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Lease => "lease",
            Self::Neighbour => "neighbour",
            Self::Metadata => "metadata",
        }
    }

    /// Whether nobody who ought to know has said it.
    #[must_use]
    pub const fn is_a_guess(self) -> bool {
        match self {
            Self::Neighbour => true,
            Self::Agent | Self::Lease | Self::Metadata => false,
        }
    }
}

impl fmt::Display for AddressSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AddressSource {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|one| one.as_str() == text).ok_or_else(|| UnknownWord {
            text: text.to_owned(),
            known: "agent, lease, neighbour, metadata",
        })
    }
}

/// Why an instance cannot take an elastic IP, whatever its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unusable {
    /// It shares the network of its host.
    HostNetwork,
    /// It shares the network of another instance.
    SharedNetwork,
    /// It has no network, or no IPv4 address on any.
    NoAddress,
    /// Its label or metadata names a project that no project can be called.
    BadProject,
    /// It has no network interface.
    NoInterface,
    /// Its network is inside its emulator.
    UserNetwork,
    /// Its network leads past this host.
    NotRouted,
    /// Its network leads nowhere.
    Isolated,
    /// It is known by its hardware address alone, and another running instance has the same.
    AmbiguousMac,
    /// What its definition says of it cannot be understood, or cannot be.
    BadMetadata,
}

impl Unusable {
    pub const ALL: [Self; 10] = [
        Self::HostNetwork,
        Self::SharedNetwork,
        Self::NoAddress,
        Self::BadProject,
        Self::NoInterface,
        Self::UserNetwork,
        Self::NotRouted,
        Self::Isolated,
        Self::AmbiguousMac,
        Self::BadMetadata,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network",
            Self::SharedNetwork => "shared_network",
            Self::NoAddress => "no_address",
            Self::BadProject => "bad_project",
            Self::NoInterface => "no_interface",
            Self::UserNetwork => "user_network",
            Self::NotRouted => "not_routed",
            Self::Isolated => "isolated",
            Self::AmbiguousMac => "ambiguous_mac",
            Self::BadMetadata => "bad_metadata",
        }
    }

    /// Says it to a person.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::HostNetwork => "it shares the network of its host",
            Self::SharedNetwork => "it shares the network of another instance",
            Self::NoAddress => "it has no IPv4 address",
            Self::BadProject => "its label or metadata for the project is not a valid project name",
            Self::NoInterface => "it has no network interface",
            Self::UserNetwork => {
                "its network is inside its emulator (user mode, passt), where nothing can come in"
            }
            Self::NotRouted => {
                "its network leads past this host (macvtap, a device of its own, or a bridge \
                 whose router is another machine)"
            }
            Self::Isolated => "its network is isolated: nothing that it answers would leave it",
            Self::AmbiguousMac => {
                "another running instance has the same MAC address, and nothing else says which \
                 address is its own"
            }
            Self::BadMetadata => {
                "its metadata of urn:eip:instance cannot be understood, or gives it a network that \
                 it is not in, or an address that cannot be its own"
            }
        }
    }
}

impl FromStr for Unusable {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|one| one.as_str() == text).ok_or_else(|| UnknownWord {
            text: text.to_owned(),
            known: "host_network, shared_network, no_address, bad_project, no_interface, \
                    user_network, not_routed, ambiguous_mac, bad_metadata",
        })
    }
}

/// One instance as callers of the API see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    #[schema(value_type = uuid::Uuid)]
    pub id: InstanceId,
    pub name: String,
    pub backend: Backend,
    pub project: ProjectName,
    pub state: InstanceState,
    pub host: HostName,
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub private_ip: Option<Ipv4Addr>,
    /// How the private address of a virtual machine is known; null where its backend gave it.
    pub address_source: Option<AddressSource>,
    /// Whether the private address is a guess: seen by the host, and said by nobody.
    pub address_is_guess: bool,
    pub vpc_id: Option<String>,
    /// How elastic IPs can reach it.
    pub modes: Vec<Mode>,
    pub interfaces: Vec<InstanceInterface>,
    /// Whether an elastic IP could be associated with it now.
    pub eligible: bool,
    /// Why not, when it could not.
    pub reason: Option<String>,
    /// The address of the elastic IP that is associated with it.
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub public_ip: Option<Ipv4Addr>,
    /// When the host last reported a change of it.
    #[schema(value_type = String, format = "date-time")]
    pub updated_at: Timestamp,
}

/// A list of instances. `next_cursor` is for pages to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceList {
    pub items: Vec<Instance>,
    pub next_cursor: Option<String>,
}

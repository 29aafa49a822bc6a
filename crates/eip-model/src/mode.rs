//! How an elastic IP reaches its instance, and what an instance's interfaces are.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::instance::UnknownWord;

/// How an elastic IP reaches its instance.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The host rewrites it to the private address and back. The instance knows nothing of it.
    #[default]
    Nat,
    /// It is on the instance's own interface, and routed there as it is.
    Alias,
}

impl Mode {
    pub const ALL: [Self; 2] = [Self::Nat, Self::Alias];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Alias => "alias",
        }
    }

    /// What an instance can do whose agent is of a version that knew one mode.
    #[must_use]
    pub fn nat_alone() -> Vec<Self> {
        vec![Self::Nat]
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// By hand, because what is derived says of a number that it expects a value.
impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = Mode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"nat\" or \"alias\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Mode, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Word)
    }
}

impl FromStr for Mode {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| UnknownWord { text: text.to_owned(), known: "nat, alias" })
    }
}

/// The hardware address of an Ethernet interface, written as `02:42:ac:11:00:02`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no MAC address")]
pub struct InvalidMac(String);

impl FromStr for MacAddress {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let is_octet =
                |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(is_octet);
            let read = part.and_then(|part| u8::from_str_radix(part, 16).ok());
            *octet = read.ok_or_else(|| InvalidMac(text.to_owned()))?;
        }
        if parts.next().is_some() {
            return Err(InvalidMac(text.to_owned()));
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = InvalidMac;

    fn try_from(text: String) -> Result<Self, InvalidMac> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

/// One interface of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct InstanceInterface {
    /// The network that it is plugged into, by the name that the backend gives it.
    pub network: String,
    /// The address that an elastic IP can be pointed at there, while there is one.
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub private_ip: Option<Ipv4Addr>,
    #[schema(value_type = Option<String>)]
    pub mac: Option<MacAddress>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_is_read_as_it_is_written() {
        let mac: MacAddress = "02:42:AC:11:00:0f".parse().unwrap();
        assert_eq!(mac.octets(), [2, 0x42, 0xac, 0x11, 0, 15]);
        assert_eq!(mac.to_string(), "02:42:ac:11:00:0f");
        for wrong in
            ["", "02:42:ac:11:00", "02:42:ac:11:00:0f:01", "2:42:ac:11:0:f", "+2:00:00:00:00:00"]
        {
            assert!(wrong.parse::<MacAddress>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mode_is_named_in_json_as_everywhere() {
        for mode in Mode::ALL {
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.as_str());
            assert_eq!(mode.as_str().parse(), Ok(mode));
            assert_eq!(serde_json::from_value::<Mode>(mode.as_str().into()).unwrap(), mode);
        }
        for (wrong, why) in
            [("7", "integer `7`"), ("null", "null"), ("{}", "map"), ("\"x\"", "\"x\"")]
        {
            let error = serde_json::from_str::<Mode>(wrong).unwrap_err();
            assert!(error.is_data(), "what it says is wrong, not how: {error}");
            let said = error.to_string();
            assert!(said.contains(why) && said.contains("nat") && said.contains("alias"), "{said}");
        }
    }
}

//! Ranges of addresses, and the function from an elastic IP's id to its address.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The number of offsets that the three address bytes of an id can say: 2^24.
pub const OFFSET_SPACE: u32 = 1 << 24;

/// Returns the offset in a range of `size` addresses that `id` stands for.
///
/// Bytes 12, 13 and 14 of the id, big-endian, modulo the size of the range.
#[must_use]
pub fn derive_offset(id: Uuid, size: u32) -> u32 {
    let b = id.as_bytes();
    u32::from_be_bytes([0, b[12], b[13], b[14]]) % size
}

/// Makes the `UUIDv4` (RFC 9562, section 5.4) whose address in a range of `size` addresses is `offset`.
///
/// `random` supplies every bit that is free to choose. Where the size of the range is below 2^24
/// several values of the three bytes stand for one offset; `random`'s own bytes choose among them,
/// so that an id whose own address is free keeps its bytes untouched.
///
/// # Errors
/// [`CraftError`] when `offset` does not lie inside the range.
pub fn craft_id(random: [u8; 16], offset: u32, size: u32) -> Result<Uuid, CraftError> {
    if size == 0 || size > OFFSET_SPACE || offset >= size {
        return Err(CraftError { offset, size });
    }
    let mut bytes = *uuid::Builder::from_random_bytes(random).as_uuid().as_bytes();
    let drawn = u32::from_be_bytes([0, bytes[12], bytes[13], bytes[14]]);
    let rounds = (OFFSET_SPACE - offset).div_ceil(size);
    let chosen = (drawn / size % rounds) * size + offset;
    let [_, b12, b13, b14] = chosen.to_be_bytes();
    bytes[12] = b12;
    bytes[13] = b13;
    bytes[14] = b14;
    Ok(Uuid::from_bytes(bytes))
}

/// The offset asked for does not lie inside the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("offset {offset} does not lie in a range of {size} addresses")]
pub struct CraftError {
    pub offset: u32,
    pub size: u32,
}

/// A stretch of 1 to 2^24 consecutive IPv4 addresses, written as a prefix or as `first-last`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Range {
    first: u32,
    size: u32,
}

impl Ipv4Range {
    /// Makes the range of `size` addresses that begins at `first`.
    ///
    /// # Errors
    /// [`RangeError`] when it is empty, larger than 2^24 addresses or runs past 255.255.255.255.
    pub fn new(first: Ipv4Addr, size: u32) -> Result<Self, RangeError> {
        let first = first.to_bits();
        if size == 0 || size > OFFSET_SPACE {
            return Err(RangeError::Size(u64::from(size)));
        }
        if first.checked_add(size - 1).is_none() {
            return Err(RangeError::PastTheEnd);
        }
        Ok(Self { first, size })
    }

    #[must_use]
    pub fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first)
    }

    #[must_use]
    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first + (self.size - 1))
    }

    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Says what the range has a part of that no host but one, or no host at all, may be reached by
    /// (RFC 6890).
    #[must_use]
    pub fn set_apart(&self) -> Option<&'static str> {
        const SET_APART: [(u32, u32, &str); 4] = [
            (0x0000_0000, 0x00ff_ffff, "0.0.0.0/8, this host"),
            (0x7f00_0000, 0x7fff_ffff, "127.0.0.0/8, loopback"),
            (0xa9fe_0000, 0xa9fe_ffff, "169.254.0.0/16, link-local"),
            (0xe000_0000, 0xffff_ffff, "224.0.0.0/3, multicast, reserved and broadcast"),
        ];
        let last = self.last().to_bits();
        let within = |(from, to, _): &&(u32, u32, &str)| self.first <= *to && last >= *from;
        SET_APART.iter().find(within).map(|(_, _, what)| *what)
    }

    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.offset_of(address).is_some()
    }

    /// Returns how far `address` lies behind the first address of the range, if it lies inside.
    #[must_use]
    pub fn offset_of(&self, address: Ipv4Addr) -> Option<u32> {
        address.to_bits().checked_sub(self.first).filter(|offset| *offset < self.size)
    }

    /// Returns the address at `offset`, if the range is that long.
    #[must_use]
    pub fn at(&self, offset: u32) -> Option<Ipv4Addr> {
        (offset < self.size).then(|| Ipv4Addr::from_bits(self.first + offset))
    }

    /// Returns the address that `id` stands for in this range.
    #[must_use]
    pub fn derive(&self, id: Uuid) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first + derive_offset(id, self.size))
    }

    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first() <= other.last() && other.first() <= self.last()
    }

    /// Returns the fewest prefixes that cover exactly this range, in order.
    #[must_use]
    pub fn prefixes(&self) -> Vec<Ipv4Net> {
        ipnet::Ipv4Subnets::new(self.first(), self.last(), 0).collect()
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefixes().as_slice() {
            [only] => write!(f, "{only}"),
            _ => write!(f, "{}-{}", self.first(), self.last()),
        }
    }
}

impl fmt::Debug for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Ipv4Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let syntax = || RangeError::Syntax(text.to_owned());
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (
                first.trim().parse::<Ipv4Addr>().map_err(|_| syntax())?,
                last.trim().parse::<Ipv4Addr>().map_err(|_| syntax())?,
            ),
            None => {
                let net = text.parse::<Ipv4Net>().map_err(|_| syntax())?;
                if net.trunc() != net {
                    return Err(RangeError::HostBits(net.trunc().to_string()));
                }
                (net.network(), net.broadcast())
            }
        };
        let span = i64::from(last.to_bits()) - i64::from(first.to_bits()) + 1;
        let size = u32::try_from(span).map_err(|_| syntax())?;
        Self::new(first, size)
    }
}

impl TryFrom<String> for Ipv4Range {
    type Error = RangeError;

    fn try_from(text: String) -> Result<Self, RangeError> {
        text.parse()
    }
}

impl From<Ipv4Range> for String {
    fn from(range: Ipv4Range) -> Self {
        range.to_string()
    }
}

/// The text or the numbers do not make a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error(
        "\"{0}\" is not an IPv4 prefix like 203.0.113.0/24 or a range like 203.0.113.4-203.0.113.9"
    )]
    Syntax(String),
    #[error("the prefix has bits set behind its length; did you mean {0}?")]
    HostBits(String),
    #[error("a range holds 1 to 16777216 addresses, this one {0}")]
    Size(u64),
    #[error("the range runs past 255.255.255.255")]
    PastTheEnd,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_pool_puts_the_low_six_bits_of_byte_12_behind_100_64() {
        let pool: Ipv4Range = "100.64.0.0/10".parse().unwrap();
        let id: Uuid = "f47ac10b-58cc-4372-a567-0e02c7d2e3f4".parse().unwrap();
        // Bytes 12, 13, 14 are c7 d2 e3.
        assert_eq!(pool.derive(id), Ipv4Addr::new(100, 64 + 0xc7 % 64, 0xd2, 0xe3));
    }

    #[test]
    fn an_id_whose_own_address_is_wanted_is_left_alone() {
        let id = Uuid::from_u128(0xdead_beef_0000_4000_8000_1234_c7d2_e3f4);
        let size = 4_194_304;
        let crafted = craft_id(*id.as_bytes(), derive_offset(id, size), size).unwrap();
        assert_eq!(crafted, id);
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused_with_the_reason() {
        let range = |text: &str| text.parse::<Ipv4Range>();
        assert_eq!(range("100.64.0.1/10"), Err(RangeError::HostBits("100.64.0.0/10".into())));
        assert!(matches!(range("10.0.0.9-10.0.0.1"), Err(RangeError::Syntax(_))));
        assert!(matches!(range("0.0.0.0/7"), Err(RangeError::Size(33_554_432))));
        assert!(matches!(range("web"), Err(RangeError::Syntax(_))));
        assert_eq!(range("10.0.0.1-10.0.0.9").unwrap().to_string(), "10.0.0.1-10.0.0.9");
        assert_eq!(range("10.0.0.0-10.0.0.255").unwrap().to_string(), "10.0.0.0/24");
        assert_eq!(
            Ipv4Range::new(Ipv4Addr::new(255, 255, 255, 255), 2),
            Err(RangeError::PastTheEnd)
        );
    }

    proptest! {
        #[test]
        fn every_offset_of_every_range_is_reached_by_a_version_4_id(
            random: [u8; 16], size in 1..=OFFSET_SPACE, part: u32,
        ) {
            let offset = part % size;
            let id = craft_id(random, offset, size).unwrap();
            prop_assert_eq!(derive_offset(id, size), offset);
            prop_assert_eq!(id.get_version_num(), 4);
            prop_assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
        }

        #[test]
        fn a_range_survives_being_written_and_read(first: u32, size in 1..=OFFSET_SPACE) {
            if let Ok(range) = Ipv4Range::new(Ipv4Addr::from_bits(first), size) {
                prop_assert_eq!(range.to_string().parse::<Ipv4Range>().unwrap(), range);
            }
        }
    }
}

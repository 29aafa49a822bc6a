//! The hardware addresses by which a domain's interfaces are recognised.

use std::fmt;

/// The hardware address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Mac([u8; 6]);

impl Mac {
    /// Reads `52:54:00:12:34:56`, in upper or lower case.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = text.split(|byte| *byte == b':');
        let mut mac = [0; 6];
        for byte in &mut mac {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len()))?;
            let digits = std::str::from_utf8(part).ok().filter(|text| !text.starts_with('+'))?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(mac))
    }

    pub(super) const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Takes one from the kernel; an interface of another kind has a longer or shorter one.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_read_in_either_case_and_nothing_else_is() {
        let mac = Mac::parse(b"52:54:00:AB:cd:0f").unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
        for wrong in ["", "52:54:00:ab:cd", "52:54:00:ab:cd:0f:1", "52:54:00:ab:cd:+f", "a:::::"] {
            assert_eq!(Mac::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}

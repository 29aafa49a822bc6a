//! Netlink messages as bytes: a header, a fixed part, and attributes that may nest.
//!
//! Sources: `linux/netlink.h`, `linux/nfnetlink.h`; RFC 3549.

use std::net::Ipv4Addr;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;

const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
pub(crate) const HEADER: usize = 16;

/// Appends one message to `buf`; `body` writes what follows the header.
pub(crate) fn message(
    buf: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = buf.len();
    buf.extend_from_slice(&[0; 4]);
    buf.extend_from_slice(&kind.to_ne_bytes());
    buf.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    buf.extend_from_slice(&sequence.to_ne_bytes());
    buf.extend_from_slice(&[0; 4]);
    body(buf);
    let length = u32::try_from(buf.len() - start).expect("a message is far below 4 GiB");
    buf[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Sets flags of the message that begins at `start`.
pub(crate) fn add_flags(buf: &mut [u8], start: usize, flags: u16) {
    let at = start + 6;
    let old = u16::from_ne_bytes([buf[at], buf[at + 1]]);
    buf[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
}

/// Appends an attribute with its padding.
pub(crate) fn attr(buf: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("an attribute is below 64 KiB");
    buf.extend_from_slice(&length.to_ne_bytes());
    buf.extend_from_slice(&kind.to_ne_bytes());
    buf.extend_from_slice(value);
    buf.resize(buf.len().next_multiple_of(4), 0);
}

/// Appends a string attribute, ended by a zero byte as `nf_tables` wants it.
pub(crate) fn attr_str(buf: &mut Vec<u8>, kind: u16, value: &str) {
    let length = u16::try_from(5 + value.len()).expect("a name is below 64 KiB");
    buf.extend_from_slice(&length.to_ne_bytes());
    buf.extend_from_slice(&kind.to_ne_bytes());
    buf.extend_from_slice(value.as_bytes());
    buf.push(0);
    buf.resize(buf.len().next_multiple_of(4), 0);
}

/// Appends a number in network byte order, as netfilter wants it.
pub(crate) fn attr_be32(buf: &mut Vec<u8>, kind: u16, value: u32) {
    attr(buf, kind, &value.to_be_bytes());
}

/// Appends a nested attribute whose content `body` writes.
pub(crate) fn nest(buf: &mut Vec<u8>, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let start = buf.len();
    buf.extend_from_slice(&[0; 2]);
    buf.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
    body(buf);
    let length = u16::try_from(buf.len() - start).expect("a nest is below 64 KiB");
    buf[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

/// One message as it was received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The port of the socket that caused it, where the kernel says so.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

impl Received<'_> {
    /// Returns the error number of an error message: 0 is an acknowledgement.
    pub(crate) fn errno(&self) -> Option<i32> {
        let ends = matches!(self.kind, NLMSG_ERROR | NLMSG_DONE);
        let code = self.body.first_chunk::<4>().filter(|_| ends)?;
        Some(-i32::from_ne_bytes(*code))
    }
}

/// Splits what one read returned into its messages; stops at the first that is cut short.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let head = bytes.first_chunk::<HEADER>()?;
        let number =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = usize::try_from(number(0)).ok()?;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            sequence: number(8),
            port: number(12),
            body,
        })
    })
}

/// Splits a run of attributes into kind and value.
pub(crate) fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([head[2], head[3]]) & NLA_TYPE_MASK, value))
    })
}

/// Finds the first attribute of a kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Reads an IPv4 address attribute.
pub(crate) fn address(value: &[u8]) -> Option<Ipv4Addr> {
    value.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

/// Reads a name that may be ended by a zero byte.
pub(crate) fn name(value: &[u8]) -> &str {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut buf = Vec::new();
        message(&mut buf, 7, NLM_F_ACK, 42, |m| {
            attr_str(m, 1, "eip");
            nest(m, 2, |m| attr(m, 3, &[10, 0, 0, 1]));
        });
        message(&mut buf, NLMSG_ERROR, 0, 43, |m| m.extend_from_slice(&(-2_i32).to_ne_bytes()));
        let all: Vec<_> = messages(&buf).collect();
        assert_eq!((all[0].kind, all[0].flags, all[0].sequence), (7, 5, 42));
        assert_eq!(name(find(all[0].body, 1).unwrap()), "eip");
        let inner = find(find(all[0].body, 2).unwrap(), 3).unwrap();
        assert_eq!(address(inner), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(all[1].errno(), Some(2));
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn what_is_cut_short_ends_the_reading_and_never_panics() {
        let mut buf = Vec::new();
        message(&mut buf, 7, 0, 1, |m| attr_str(m, 1, "eip"));
        for end in 0..buf.len() {
            assert_eq!(messages(&buf[..end]).count(), 0);
            assert!(attrs(&buf[..end]).count() < 20);
        }
    }
}

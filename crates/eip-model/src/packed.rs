//! A whole desired set as bytes, for hosts that have very many attachments: a sixth of what it is as JSON, and
//! read in a twentieth of the time.
//!
//! `eipset1`, a line feed, the length of a JSON object in four bytes, the object (a [`DesiredSet`] without its
//! attachments), how many attachments follow in eight bytes, and these. An attachment is its address in
//! four bytes, the ids of its elastic IP and its instance in sixteen each, a byte for its mode, and the
//! name of its network behind its length in two bytes: [`NO_NETWORK`] where none is named. Numbers begin
//! with the highest byte.

use std::net::Ipv4Addr;

use uuid::Uuid;

use crate::agent::{Attachment, DesiredSet};
use crate::ids::{ElasticIpId, InstanceId};
use crate::mode::Mode;

/// The media type of a set in this form.
pub const PACKED: &str = "application/vnd.eip.desired-set";

const MAGIC: &[u8] = b"eipset1\n";
const NO_NETWORK: u16 = u16::MAX;
/// What an attachment takes at least.
const LEAST: usize = 4 + 16 + 16 + 1 + 2;

impl DesiredSet {
    /// Writes it as bytes.
    ///
    /// # Errors
    /// In words, when it has what no set has: the name of a network that is longer than any.
    pub fn pack(&self) -> Result<Vec<u8>, String> {
        let Self { cluster_id, host, generation, replaces, ranges, attachments } = self;
        let head = Self {
            cluster_id: *cluster_id,
            host: host.clone(),
            generation: *generation,
            replaces: *replaces,
            ranges: ranges.clone(),
            attachments: Vec::new(),
        };
        let head = serde_json::to_vec(&head).map_err(|error| error.to_string())?;
        let length = u32::try_from(head.len()).map_err(|_| "it has too many ranges")?;
        let mut bytes = Vec::with_capacity(head.len() + attachments.len() * LEAST + 32);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&head);
        let count = u64::try_from(attachments.len()).unwrap_or(u64::MAX);
        bytes.extend_from_slice(&count.to_be_bytes());
        for one in attachments {
            let Attachment { public_ip, elastic_ip_id, instance_id, mode, network } = one;
            bytes.extend_from_slice(&public_ip.octets());
            bytes.extend_from_slice(elastic_ip_id.uuid().as_bytes());
            bytes.extend_from_slice(instance_id.uuid().as_bytes());
            bytes.push(match mode {
                Mode::Nat => 0,
                Mode::Alias => 1,
            });
            let Some(network) = network else {
                bytes.extend_from_slice(&NO_NETWORK.to_be_bytes());
                continue;
            };
            let length = u16::try_from(network.len()).ok().filter(|length| *length != NO_NETWORK);
            let length = length.ok_or_else(|| format!("the network of {public_ip} has no end"))?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(network.as_bytes());
        }
        Ok(bytes)
    }

    /// Reads what [`Self::pack`] has written.
    ///
    /// # Errors
    /// In words, for people: what shows that this is not such a set, or not all of it.
    pub fn unpack(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = Rest(bytes);
        if rest.take(MAGIC.len())? != MAGIC {
            return Err("it is no desired set of this version".to_owned());
        }
        let length = usize::try_from(u32::from_be_bytes(rest.array()?)).unwrap_or(usize::MAX);
        let head = rest.take(length)?;
        let mut set: Self = serde_json::from_slice(head).map_err(|error| error.to_string())?;
        let count = usize::try_from(u64::from_be_bytes(rest.array()?)).unwrap_or(usize::MAX);
        // It may say anything.
        set.attachments = Vec::with_capacity(count.min(rest.0.len() / LEAST));
        for _ in 0..count {
            set.attachments.push(rest.attachment()?);
        }
        match rest.0 {
            [] => Ok(set),
            [..] => Err("it goes on behind its end".to_owned()),
        }
    }
}

/// What is still to be read.
#[derive(Debug)]
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], String> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("it is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or("it is cut short")?;
        self.0 = rest;
        Ok(*taken)
    }

    fn attachment(&mut self) -> Result<Attachment, String> {
        Ok(Attachment {
            public_ip: Ipv4Addr::from(self.array::<4>()?),
            elastic_ip_id: ElasticIpId::new(Uuid::from_bytes(self.array()?)),
            instance_id: InstanceId::new(Uuid::from_bytes(self.array()?)),
            mode: match self.array::<1>()? {
                [0] => Mode::Nat,
                [1] => Mode::Alias,
                [other] => return Err(format!("it has a mode {other}, which is none")),
            },
            network: match u16::from_be_bytes(self.array()?) {
                NO_NETWORK => None,
                length => {
                    let name = self.take(usize::from(length))?.to_vec();
                    Some(String::from_utf8(name).map_err(|error| error.to_string())?)
                }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, Generation};
    use proptest::prelude::*;

    fn attachment() -> impl Strategy<Value = Attachment> {
        let network = prop::option::of(prop_oneof!["", "front", "\\PC{1,40}"]);
        let all = (any::<u32>(), any::<u128>(), any::<u128>(), any::<bool>(), network);
        all.prop_map(|(public, elastic_ip, instance, alias, network)| Attachment {
            public_ip: Ipv4Addr::from_bits(public),
            elastic_ip_id: ElasticIpId::new(Uuid::from_u128(elastic_ip)),
            instance_id: InstanceId::new(Uuid::from_u128(instance)),
            mode: if alias { Mode::Alias } else { Mode::Nat },
            network,
        })
    }

    fn set(attachments: Vec<Attachment>) -> DesiredSet {
        DesiredSet {
            cluster_id: ClusterId::new(Uuid::from_u128(1)),
            host: "hv1".parse().unwrap(),
            generation: Generation::new(u64::MAX / 2),
            replaces: Some(ClusterId::new(Uuid::from_u128(2))),
            ranges: vec!["100.64.0.0/10".parse().unwrap()],
            attachments,
        }
    }

    proptest! {
        #[test]
        fn what_was_packed_is_what_is_unpacked(
            attachments in prop::collection::vec(attachment(), 0..20)
        ) {
            let set = set(attachments);
            prop_assert_eq!(DesiredSet::unpack(&set.pack().unwrap()), Ok(set));
        }

        #[test]
        fn what_is_cut_or_changed_is_told_and_never_a_panic(
            attachments in prop::collection::vec(attachment(), 1..4),
            cut in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let bytes = set(attachments).pack().unwrap();
            let at = cut.index(bytes.len());
            prop_assert!(DesiredSet::unpack(&bytes[..at]).is_err());
            prop_assert!(DesiredSet::unpack(&[&bytes[..], &[0]].concat()).is_err());
            let mut other = bytes;
            other[at] = byte;
            // It may well be another set.
            drop(DesiredSet::unpack(&other));
        }
    }

    #[test]
    fn its_form_stays_what_it_is() {
        let one = Attachment {
            public_ip: Ipv4Addr::new(100, 64, 0, 1),
            elastic_ip_id: ElasticIpId::new(Uuid::from_u128(0x0a)),
            instance_id: InstanceId::new(Uuid::from_u128(0x0b)),
            mode: Mode::Alias,
            network: Some("ab".to_owned()),
        };
        let bytes = set(vec![one]).pack().unwrap();
        assert!(bytes.starts_with(b"eipset1\n\x00\x00\x00"));
        let mut tail = vec![0, 0, 0, 0, 0, 0, 0, 1, 100, 64, 0, 1];
        tail.extend(Uuid::from_u128(0x0a).as_bytes());
        tail.extend(Uuid::from_u128(0x0b).as_bytes());
        tail.extend([1, 0, 2, b'a', b'b']);
        assert!(bytes.ends_with(&tail), "{bytes:?}");
    }
}

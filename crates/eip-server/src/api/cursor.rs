//! Where the next page begins: opaque to callers, and good only for the list it came from.

use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use eip_model::ClusterId;
use eip_store::ListPlace;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::service::Error;

const SEAL: usize = 8;

/// How many items a page has unless told otherwise, and at most.
const PAGE: u32 = 50;
const LONGEST_PAGE: u32 = 500;

/// Returns how many items a page is to have.
///
/// # Errors
/// When it is none or too many; `hint` says how else all of them are read.
pub(crate) fn limit(asked: Option<u32>, hint: &str) -> Result<u32, Error> {
    let limit = asked.unwrap_or(PAGE);
    if (1..=LONGEST_PAGE).contains(&limit) {
        return Ok(limit);
    }
    Err(Error::invalid(format!("limit is 1 to {LONGEST_PAGE}, not {limit}"), hint))
}

/// Makes the cursor of the page behind `last`, for the list that `list` describes.
pub(crate) fn seal(last: ListPlace, list: &str, cluster: ClusterId) -> String {
    let place = bytes(last);
    let mut bytes = place.to_vec();
    bytes.extend(&digest(place, list, cluster)[..SEAL]);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a cursor back.
///
/// # Errors
/// When it was not made for this very list.
pub(crate) fn open(text: &str, list: &str, cluster: ClusterId) -> Result<ListPlace, Error> {
    let not_ours = || {
        let detail = "the cursor is not one of this list";
        Error::invalid(detail, "send next_cursor as it was given, with the same filters")
    };
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| not_ours())?;
    let (place, seal) = bytes.split_first_chunk::<PLACE>().ok_or_else(not_ours)?;
    if digest(*place, list, cluster)[..SEAL] != *seal {
        return Err(not_ours());
    }
    let (micros, address) = place.split_first_chunk::<8>().ok_or_else(not_ours)?;
    let address = address.first_chunk::<4>().ok_or_else(not_ours)?;
    let allocated_at = Timestamp::from_microsecond(i64::from_be_bytes(*micros));
    Ok(ListPlace {
        allocated_at: allocated_at.map_err(|_| not_ours())?,
        address: Ipv4Addr::from(*address),
    })
}

/// Microseconds since 1970 and an address.
const PLACE: usize = 12;

fn bytes(place: ListPlace) -> [u8; PLACE] {
    let mut bytes = [0; PLACE];
    bytes[..8].copy_from_slice(&place.allocated_at.as_microsecond().to_be_bytes());
    bytes[8..].copy_from_slice(&place.address.octets());
    bytes
}

fn digest(place: [u8; PLACE], list: &str, cluster: ClusterId) -> [u8; 32] {
    let hash = Sha256::new().chain_update(cluster.uuid().as_bytes()).chain_update(place);
    hash.chain_update(list.as_bytes()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_list_only() {
        let cluster = ClusterId::new(uuid::Uuid::from_u128(1));
        let allocated_at = Timestamp::from_microsecond(1_700_000_000_123_456).unwrap();
        let last = ListPlace { allocated_at, address: Ipv4Addr::new(100, 64, 0, 9) };
        let text = seal(last, "status=allocated", cluster);
        assert_eq!(open(&text, "status=allocated", cluster).unwrap(), last);
        assert!(open(&text, "", cluster).is_err());
        for wrong in ["", "x", "////", &text[1..], &format!("{text}A")] {
            assert!(open(wrong, "status=allocated", cluster).is_err(), "{wrong}");
        }
        let mut flipped = text.into_bytes();
        flipped[3] = if flipped[3] == b'A' { b'B' } else { b'A' };
        let flipped = String::from_utf8(flipped).unwrap();
        assert!(open(&flipped, "status=allocated", cluster).is_err());
    }
}

//! Pages: how many items one has, and where the next begins. That is opaque to callers, and good only for the list it came from.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use eip_model::ClusterId;
use eip_store::Page;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::IntoParams;

use super::ApiState;
use crate::service::Error;

const SEAL: usize = 8;

/// How many items a page has unless told otherwise, and at most.
const PAGE: u32 = 50;
const LONGEST_PAGE: u32 = 500;

/// What stands behind the `?` of a list without filters.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParams {
    /// How many items at most; by default 50.
    #[param(nullable = false, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    #[param(nullable = false)]
    cursor: Option<String>,
}

impl PageParams {
    /// Begins to read a page of the list of this name.
    ///
    /// # Errors
    /// When the limit is out of its range, or the cursor was not made for this list.
    pub(crate) fn of<P: Serialize + DeserializeOwned>(
        self,
        list: &str,
        state: &ApiState,
    ) -> Result<(Page<P>, Turn), Error> {
        let limit = limit(self.limit, "read the list page by page")?;
        let turn = Turn::of(list.to_owned(), limit, state);
        Ok((turn.page(self.cursor.as_deref())?, turn))
    }
}

/// One page of one list.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Which list it is, with its filters: what its cursors are bound to.
    list: String,
    cluster: ClusterId,
    limit: u32,
}

impl Turn {
    pub(crate) fn of(list: String, limit: u32, state: &ApiState) -> Self {
        Self { list, cluster: state.service.repository().cluster_id(), limit }
    }

    /// Returns what to ask for: one more than the page has tells whether there is another.
    ///
    /// # Errors
    /// When the cursor was not made for this list.
    pub(crate) fn page<P: DeserializeOwned>(&self, cursor: Option<&str>) -> Result<Page<P>, Error> {
        let after = cursor.map(|text| open(text, &self.list, self.cluster)).transpose()?;
        Ok(Page { after, limit: self.limit + 1 })
    }

    /// Cuts what was found to the page, and returns the cursor of the next one if there is one.
    pub(crate) fn end<T, P: Serialize>(
        &self,
        found: &mut Vec<T>,
        place: impl Fn(&T) -> P,
    ) -> Option<String> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        if found.len() <= limit {
            return None;
        }
        found.truncate(limit);
        found.last().map(|last| seal(&place(last), &self.list, self.cluster))
    }
}

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
fn seal(last: &impl Serialize, list: &str, cluster: ClusterId) -> String {
    // Places are a few fields of text and numbers, which can be written.
    let place = serde_json::to_vec(last).unwrap_or_default();
    let mut bytes = digest(&place, list, cluster)[..SEAL].to_vec();
    bytes.extend(place);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a cursor back.
///
/// # Errors
/// When it was not made for this very list.
fn open<P: DeserializeOwned>(text: &str, list: &str, cluster: ClusterId) -> Result<P, Error> {
    let not_ours = || {
        let detail = "the cursor is not one of this list";
        Error::invalid(detail, "send next_cursor as it was given, with the same filters")
    };
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| not_ours())?;
    let (seal, place) = bytes.split_first_chunk::<SEAL>().ok_or_else(not_ours)?;
    if digest(place, list, cluster)[..SEAL] != *seal {
        return Err(not_ours());
    }
    serde_json::from_slice(place).map_err(|_| not_ours())
}

fn digest(place: &[u8], list: &str, cluster: ClusterId) -> [u8; 32] {
    let length = list.len().to_be_bytes();
    let hash = Sha256::new().chain_update(cluster.uuid().as_bytes()).chain_update(length);
    hash.chain_update(list.as_bytes()).chain_update(place).finalize().into()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use eip_store::ListPlace;
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_list_only() {
        let cluster = ClusterId::new(uuid::Uuid::from_u128(1));
        let allocated_at = Timestamp::from_microsecond(1_700_000_000_123_456).unwrap();
        let last = ListPlace { allocated_at, address: Ipv4Addr::new(100, 64, 0, 9) };
        let open = |text: &str, list: &str| super::open::<ListPlace>(text, list, cluster);
        let text = seal(&last, "status=allocated", cluster);
        assert_eq!(open(&text, "status=allocated").unwrap(), last);
        assert!(open(&text, "").is_err());
        for wrong in ["", "x", "////", &text[1..], &format!("{text}A")] {
            assert!(open(wrong, "status=allocated").is_err(), "{wrong}");
        }
        for at in 0..text.len() {
            let mut flipped = text.clone().into_bytes();
            flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
            let flipped = String::from_utf8(flipped).unwrap();
            assert!(open(&flipped, "status=allocated").is_err(), "{flipped}");
        }
    }
}

//! Noting since when associations are in force, some at a time.

use eip_model::HostName;
use jiff::Timestamp;

use crate::given::Given;
use crate::rows;
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

/// A report marks no more than these itself: whoever waits for what it says waits for that, too.
pub(super) const AT_REPORT: i64 = 200;
/// So many go into one transaction: others wait for it no longer than they notice.
const AT_ONCE: i64 = 5_000;

#[derive(Debug)]
pub(super) struct MarkApplied {
    pub(super) host: HostName,
    pub(super) now: Timestamp,
}

impl UseCase for MarkApplied {
    /// Whether there may be more.
    type Answer = bool;
    const DOING: &'static str = "note since when associations are in force";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<bool, Failure> {
        // In the order in which everyone locks them.
        let found = tx
            .rows(
                "SELECT a.address FROM association a JOIN host h ON h.name = a.host
                  WHERE a.host = $1 AND a.generation <= h.observed_generation
                    AND a.applied_at IS NULL
                    AND NOT EXISTS (SELECT 1 FROM letting_go l
                                     WHERE l.address = a.address AND l.host <> a.host)
                  ORDER BY a.address LIMIT $2 FOR UPDATE OF a",
                values![&self.host, AT_ONCE],
            )
            .await?;
        let addresses = found.iter().map(|row| rows::address(row, "association"));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let full = i64::try_from(addresses.len()).is_ok_and(|found| found >= AT_ONCE);
        let now = self.now;
        tx.each(
            "UPDATE association SET applied_at = given.now
               FROM {given} WHERE association.address = given.address",
            Given::of(&addresses).with("address", |one| *one).with("now", move |_| now),
        )
        .await?;
        Ok(full)
    }
}

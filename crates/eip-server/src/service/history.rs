//! Who had an address, and when.

use std::net::Ipv4Addr;

use eip_model::AllocationPeriod;
use eip_store::HistoryFilter;
use jiff::Timestamp;

use super::{Caller, Error, Service};

impl Service {
    /// Returns the periods of an address that the caller may see, the newest first: an administrator
    /// all, others their own.
    pub(crate) async fn history(
        &self,
        caller: &Caller,
        address: Ipv4Addr,
        at: Option<Timestamp>,
        before: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<AllocationPeriod>, Error> {
        let scope = caller.may_read()?;
        let filter = HistoryFilter { address, scope, at, before, limit };
        self.repository().history(&filter).await.map_err(Error::Store)
    }
}

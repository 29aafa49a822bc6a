//! What there is to know of pools, hosts and the record, for whoever watches the service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eip_model::{Host, Pool};
use tokio::sync::Mutex;

use super::{Error, Service};

/// For how long what was found is told again: anybody may ask, and counting costs the record.
const FRESH: Duration = Duration::from_secs(1);

/// How long the record may take to say it.
const DEADLINE: Duration = Duration::from_secs(5);

/// What was found last, and the turn of finding out.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Option<(Instant, Arc<Measured>)>>);

/// What the API lists of them, at one moment.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) pools: Vec<Pool>,
    pub(crate) hosts: Vec<Host>,
}

impl Service {
    /// Returns what the API would list, at most a second old.
    ///
    /// However many ask, one at a time asks the record.
    pub(crate) async fn measure(&self) -> Result<Arc<Measured>, Error> {
        let mut last = self.health.0.lock().await;
        if let Some((at, measured)) = &*last
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(measured));
        }
        let found = async {
            let (pools, hosts) = tokio::try_join!(self.every_pool(), self.every_host())?;
            Ok(Arc::new(Measured { pools, hosts }))
        };
        let found = tokio::time::timeout(DEADLINE, found).await.unwrap_or(Err(Error::Busy))?;
        *last = Some((Instant::now(), Arc::clone(&found)));
        Ok(found)
    }
}

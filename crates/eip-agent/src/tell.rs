//! Telling the server what is true here.

use eip_model::{BackendInventory, BackendListing, InventoryReport, chain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::server::LinkError;
use crate::world::{Inventory, Told};
use crate::{FIRST_RETRY, REPORT_INTERVAL};

/// Returns all of it as it is told.
pub(crate) fn whole(inventory: &Inventory) -> InventoryReport {
    let backend = |(backend, told): (&_, &Told)| {
        let listing = match told {
            Told::Listed(instances) => {
                let instances = instances.values().map(|one| (**one).clone()).collect();
                BackendListing::Listed { instances }
            }
            Told::Unreachable(reason) => BackendListing::Unreachable { reason: reason.clone() },
        };
        BackendInventory { backend: *backend, listing }
    };
    InventoryReport { backends: inventory.iter().map(backend).collect() }
}

/// Sends the newest report by `put`, when there is news and again in its time: a server that has not
/// heard of this host, or whose record was replaced, learns it anew.
pub(crate) async fn tell<T: Clone, F: Future<Output = Result<(), LinkError>>>(
    put: impl Fn(T) -> F,
    mut news: watch::Receiver<Option<T>>,
    stop: CancellationToken,
) {
    loop {
        let report = news.borrow_and_update().clone();
        let sent = async {
            match report {
                Some(report) => put(report).await,
                None => Ok(()),
            }
        };
        let Some(outcome) = stop.run_until_cancelled(sent).await else { return };
        if !pause(outcome, &mut news, &stop).await {
            return;
        }
    }
}

/// Waits for news or for the time to report anyway, less when the last report did not arrive.
/// Returns whether to go on.
async fn pause<T>(
    outcome: Result<(), LinkError>,
    news: &mut watch::Receiver<Option<T>>,
    stop: &CancellationToken,
) -> bool {
    let wait = match outcome {
        Ok(()) => REPORT_INTERVAL,
        Err(error) => {
            tracing::debug!(error = %chain(&error), "A report did not arrive; will retry");
            FIRST_RETRY * 5
        }
    };
    match stop.run_until_cancelled(tokio::time::timeout(wait, news.changed())).await {
        Some(Ok(Err(_))) | None => false,
        Some(Ok(Ok(())) | Err(_)) => true,
    }
}

//! Telling the server what is in force here.

use eip_model::{AppliedReport, chain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::server::{LinkError, ServerLink};
use crate::{FIRST_RETRY, REPORT_INTERVAL};

/// Sends the newest report when there is news and again in its time: what keeps the host from counting as
/// silent. Until told to stop.
pub(crate) async fn tell_applied(
    server: ServerLink,
    mut news: watch::Receiver<Option<AppliedReport>>,
    stop: CancellationToken,
) {
    let mut trouble = Trouble::about("what is in force here");
    loop {
        let report = news.borrow_and_update().clone();
        let sent = async {
            match report {
                Some(report) => server.put_applied(&report).await,
                None => Ok(()),
            }
        };
        let Some(outcome) = stop.run_until_cancelled(sent).await else { return };
        let pause = trouble.judge(&outcome);
        if !wait(pause, &mut news, &stop).await {
            return;
        }
    }
}

/// Waits for news, or until it is time anyway. Returns whether to go on.
pub(crate) async fn wait<T>(
    time: std::time::Duration,
    news: &mut watch::Receiver<T>,
    stop: &CancellationToken,
) -> bool {
    match stop.run_until_cancelled(tokio::time::timeout(time, news.changed())).await {
        Some(Ok(Err(_))) | None => false,
        Some(Ok(Ok(())) | Err(_)) => true,
    }
}

/// Reports that do not arrive. One alone is no news; one that fails again for the same reason is a warning, once.
#[derive(Debug)]
pub(crate) struct Trouble {
    what: &'static str,
    reason: Option<String>,
    warned: bool,
}

impl Trouble {
    pub(crate) const fn about(what: &'static str) -> Self {
        Self { what, reason: None, warned: false }
    }

    /// Says what is to be said of an outcome, and returns how long to wait before the next report.
    pub(crate) fn judge(&mut self, outcome: &Result<(), LinkError>) -> std::time::Duration {
        let what = self.what;
        let Err(error) = outcome else {
            if self.warned {
                info!(what, "The server takes reports again");
            }
            *self = Self::about(what);
            return REPORT_INTERVAL;
        };
        let reason = chain(error);
        let again = self.reason.as_ref() == Some(&reason);
        if again && !self.warned {
            let hint = error.hint();
            warn!(
                what,
                error = reason,
                hint,
                "The server does not take a report; will go on trying"
            );
        } else {
            debug!(what, error = reason, "A report did not arrive; will retry");
        }
        self.warned = again;
        self.reason = Some(reason);
        FIRST_RETRY * 5
    }
}

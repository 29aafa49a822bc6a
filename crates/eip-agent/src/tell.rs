//! Telling the server what is in force here.

use eip_model::{AppliedReport, DataPlaneHealth, chain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::server::{LinkError, ServerLink};
use crate::{FIRST_RETRY, REPORT_INTERVAL};

/// So many bytes of problems go into one report, each with so many beside its reason: well below the
/// 64 MB that a server takes.
const ROOM: usize = 48 << 20;
const BESIDE: usize = 80;

/// Returns the report as it can be sent. Where its problems have no room, the host says so and tells
/// none: nothing of it counts as active, which is less than the truth, and never more.
pub(crate) fn sendable(mut report: AppliedReport) -> AppliedReport {
    let bytes: usize = report.problems.iter().map(|one| one.reason.len() + BESIDE).sum();
    if bytes <= ROOM {
        return report;
    }
    if let (DataPlaneHealth::Ready, Some(first)) = (&report.data_plane, report.problems.first()) {
        let reason = format!(
            "too many attachments to tell one by one are not in force or not known to be; the first, \
             {}: {}",
            first.public_ip, first.reason
        );
        report.data_plane = DataPlaneHealth::Failing { reason };
    }
    report.problems.clear();
    report
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use eip_model::{AttachmentProblem, ClusterId, Generation, ProblemKind};
    use std::net::Ipv4Addr;

    /// As much as a server takes from an agent at once, in bytes.
    const TAKEN: usize = 64 << 20;

    fn report(problems: usize, data_plane: DataPlaneHealth) -> AppliedReport {
        let problem = |n: usize| AttachmentProblem {
            public_ip: Ipv4Addr::from_bits(0x6440_0000 + u32::try_from(n).unwrap()),
            kind: ProblemKind::Failing,
            reason: "x".repeat(1000),
        };
        AppliedReport {
            cluster_id: ClusterId::new(uuid::Uuid::from_u128(1)),
            generation: Generation::new(7),
            data_plane,
            problems: (0..problems).map(problem).collect(),
        }
    }

    #[test]
    fn a_report_is_never_larger_than_a_server_takes_and_never_better_than_the_truth() {
        let fit = ROOM / (1000 + BESIDE);
        let most = report(fit, DataPlaneHealth::Ready);
        let bytes = serde_json::to_vec(&most).unwrap().len();
        assert!(bytes < ROOM + 1000 && ROOM + 1000 < TAKEN, "{bytes}");
        assert_eq!(sendable(most.clone()), most);
        let sent = sendable(report(fit + 1, DataPlaneHealth::Ready));
        assert!(sent.problems.is_empty());
        assert_eq!(sent.generation, Generation::new(7));
        let DataPlaneHealth::Failing { reason } = sent.data_plane else { panic!("{sent:?}") };
        assert!(reason.starts_with("too many") && reason.contains("100.64.0.0: xxx"), "{reason}");
        let absent = DataPlaneHealth::Absent { reason: "no rights".into() };
        let sent = sendable(report(fit + 1, absent.clone()));
        assert_eq!((sent.problems.len(), sent.data_plane), (0, absent));
    }
}

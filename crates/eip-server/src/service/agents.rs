//! What the agents of hosts ask and tell.

use std::time::Duration;

use eip_model::{
    AppliedReport, DataPlaneHealth, DesiredSet, Generation, HostName, InventoryReport,
};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Caller, Error, Service};

/// How often a waiting agent's desired set is looked at without a wake-up: another server may have
/// changed it.
const SLOW_POLL: Duration = Duration::from_millis(500);

impl Service {
    /// Takes in the instances of the caller's host.
    pub(crate) async fn take_inventory(
        &self,
        caller: &Caller,
        report: &InventoryReport,
    ) -> Result<(), Error> {
        let host = caller.host()?;
        let outcome = self
            .repository()
            .record_inventory(host, &self.default_project, &report.backends, Timestamp::now())
            .await
            .map_err(Error::Store)?;
        for instance in &outcome.refused {
            warn!(%host, instance.id = %instance, "Another host has an instance of this id; left out");
        }
        if !outcome.ended.is_empty() {
            info!(%host, count = outcome.ended.len(), "Instances were removed, their associations ended");
            self.signals.desired_changed(host);
        }
        self.signals.observed_changed(host);
        self.signals.inventory_changed();
        Ok(())
    }

    /// Takes in what the caller's host has in force.
    pub(crate) async fn take_report(
        &self,
        caller: &Caller,
        report: &AppliedReport,
    ) -> Result<(), Error> {
        let host = caller.host()?;
        let (desired, _) = self.repository().generations(host).await.map_err(Error::Store)?;
        let foreign = if report.cluster_id != self.repository().cluster_id() {
            Some("the host holds the desired set of another record")
        } else if report.generation > desired {
            Some("the host holds a newer desired set than this record, which may be an old copy")
        } else {
            None
        };
        if let Some(reason) = foreign {
            return self.turn_down(host, reason).await;
        }
        let freed = self
            .repository()
            .record_applied(host, report, Timestamp::now())
            .await
            .map_err(Error::Store)?;
        self.signals.observed_changed(host);
        for other in freed {
            self.signals.desired_changed(&other);
            self.signals.observed_changed(&other);
        }
        Ok(())
    }

    /// Records that the host will not apply what is wished here, and why, so that callers are told.
    async fn turn_down(&self, host: &HostName, reason: &str) -> Result<(), Error> {
        let hint = "remove agent.json on the host and restart its agent to accept this record";
        let report = AppliedReport {
            cluster_id: self.repository().cluster_id(),
            generation: Generation::default(),
            data_plane: DataPlaneHealth::Failing { reason: format!("{reason}; {hint}") },
            problems: Vec::new(),
        };
        let recorded = self.repository().record_applied(host, &report, Timestamp::now()).await;
        recorded.map_err(Error::Store)?;
        self.signals.observed_changed(host);
        Err(Error::invalid(reason, hint))
    }

    /// Returns the desired set of the caller's host as soon as it is not `known`, or nothing when
    /// `wait` has passed.
    pub(crate) async fn await_desired(
        &self,
        caller: &Caller,
        known: Option<Generation>,
        wait: Duration,
    ) -> Result<Option<DesiredSet>, Error> {
        let host = caller.host()?;
        let deadline = Instant::now() + wait;
        let mut changes = self.signals.watch_desired(host);
        loop {
            changes.borrow_and_update();
            let (desired, _) = self.repository().generations(host).await.map_err(Error::Store)?;
            if known != Some(desired) {
                return self.repository().desired_set(host).await.map(Some).map_err(Error::Store);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // Either outcome leads to another look.
            tokio::time::timeout(left.min(SLOW_POLL), changes.changed()).await.ok();
        }
    }
}

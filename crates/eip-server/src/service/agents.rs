//! What the agents of hosts ask and tell.

use std::collections::BTreeMap;
use std::time::Duration;

use eip_model::{
    AppliedReport, ClusterId, DesiredNews, Generation, Host, HostName, InventoryPart, MENDS_KEPT,
    MendReport, TrafficReport,
};
use eip_store::{Acceptance, Ahead, HostProgress, Reported};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::error::About;
use super::signals::Waiting;
use super::terms::{Asked, Done};
use super::{Caller, Error, Service};
use crate::metrics;

/// How often a waiting agent's desired set is looked at without a wake-up: another server may have
/// changed it.
const SLOW_POLL: Duration = Duration::from_millis(500);

/// What a host says it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holds {
    /// The record that its desired set is of.
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) known: Option<Generation>,
    /// The newest generation of which a server took its report.
    pub(crate) acknowledged: Generation,
    /// Whether it understands what has changed; else it is told all.
    pub(crate) changes: bool,
}

impl Holds {
    /// Returns what the host holds that this record never gave it.
    ///
    /// Comparing with the newest generation is not enough: an old copy may have been changed often
    /// enough to have caught up. But what a report was acknowledged for is in the record for ever,
    /// unless it is an old copy.
    fn ahead_of(&self, record: &HostProgress, ours: ClusterId) -> Option<Ahead> {
        match self.cluster {
            Some(other) if other != ours => {
                let accepted = record.accepted == Some(other);
                let cluster = Some(other);
                (!accepted).then_some(Ahead { generation: Generation::default(), cluster })
            }
            Some(_) | None => {
                let known = self.known.unwrap_or_default();
                let behind = known > record.desired || self.acknowledged > record.reported;
                let generation = known.max(self.acknowledged);
                behind.then_some(Ahead { generation, cluster: None })
            }
        }
    }
}

impl Service {
    /// Takes in the instances of the caller's host, or some of them.
    pub(crate) async fn take_inventory(
        &self,
        caller: &Caller,
        part: &InventoryPart,
    ) -> Result<(), Error> {
        let host = caller.host()?;
        part.check().map_err(|why| Error::invalid(why, "send what is in the scope"))?;
        let outcome = self
            .repository()
            .record_inventory(host, &self.default_project, part, Timestamp::now())
            .await
            .map_err(|error| About { target: &"the inventory", named: host }.explain(error))?;
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
        acknowledged: Generation,
    ) -> Result<(), Error> {
        let host = caller.host()?;
        let holds = Holds {
            cluster: Some(report.cluster_id),
            known: Some(report.generation),
            acknowledged,
            changes: false,
        };
        let progress = self.trusted(host, &holds).await?;
        if report.cluster_id != self.repository().cluster_id() {
            // It was accepted that this record takes the other's place; the host has yet to hear.
            let reason = "the report is about another record".to_owned();
            return Err(Error::HostAhead { host: host.clone(), reason });
        }
        debug_assert!(progress.ahead.is_none(), "nothing is taken from a host that is ahead");
        let now = Timestamp::now();
        let recorded = self.repository().record_applied(host, report, now).await;
        let Reported { freed, more } = recorded.map_err(Error::Store)?;
        self.signals.observed_changed(host);
        for other in freed {
            self.signals.desired_changed(&other);
            self.signals.observed_changed(&other);
        }
        if more {
            self.unmarked.add(host, now);
        }
        Ok(())
    }

    /// Returns how far the host has come, unless it holds what this record never gave it: then
    /// nothing that is said or wished here is to be believed of it before an operator looked.
    async fn trusted(&self, host: &HostName, holds: &Holds) -> Result<HostProgress, Error> {
        let progress = self.repository().host_progress(host).await.map_err(Error::Store)?;
        let ours = self.repository().cluster_id();
        let found = holds.ahead_of(&progress, ours);
        let Some(ahead) = found.or(progress.ahead) else { return Ok(progress) };
        let reason = match ahead.cluster {
            Some(_) => "the host holds the desired set of another record".to_owned(),
            None => format!(
                "the host has had desired set {}, and this record gave it no newer one than {}: it \
                 may be an old copy",
                ahead.generation,
                progress.reported.min(progress.desired)
            ),
        };
        if progress.ahead.is_none() {
            error!(%host, reason, "A host is given no desired set any more");
        }
        // Once: it asks again every few seconds.
        if !progress.ahead.is_some_and(|noted| noted.covers(&ahead)) {
            let said = format!("{reason}; eip host accept {host} gives it what is wished here");
            let marked = self.repository().mark_ahead(host, ahead, &said, Timestamp::now()).await;
            marked.map_err(Error::Store)?;
            self.signals.observed_changed(host);
        }
        Err(Error::HostAhead { host: host.clone(), reason })
    }

    /// Takes in what elastic IPs of the caller's host have carried.
    pub(crate) async fn take_traffic(
        &self,
        caller: &Caller,
        report: TrafficReport,
    ) -> Result<(), Error> {
        let host = caller.host()?;
        metrics::count_traffic(host.as_str(), report.total);
        let unique: BTreeMap<_, _> =
            report.counted.into_iter().map(|one| (one.public_ip, one)).collect();
        let counted: Vec<_> = unique.into_values().collect();
        let taken = self.repository().record_traffic(host, &counted, Timestamp::now()).await;
        taken.map_err(Error::Store)
    }

    /// Takes in what was put right on the caller's host. It is believed whatever record the host
    /// follows: nothing else depends on it.
    pub(crate) async fn take_mends(
        &self,
        caller: &Caller,
        report: MendReport,
    ) -> Result<(), Error> {
        let host = caller.host()?;
        let MendReport { mut mends } = report;
        if mends.len() > MENDS_KEPT {
            let detail = format!("a report has at most {MENDS_KEPT} mends, not {}", mends.len());
            return Err(Error::invalid(detail, "send the rest in another report"));
        }
        for mend in &mut mends {
            mend.check().map_err(|why| Error::invalid(why, "send what the host has mended"))?;
            // A host whose clock has not been set.
            mend.at = mend.at.max(Timestamp::UNIX_EPOCH);
        }
        self.repository().record_mends(host, &mends).await.map_err(Error::Store)
    }

    /// Has a host that is ahead of this record take what is wished here.
    pub(crate) async fn accept_host(
        &self,
        caller: &Caller,
        named: &str,
        asked: &Asked,
    ) -> Result<Done<Host>, Error> {
        caller.may_administer()?;
        let terms = asked.no_version()?.terms(caller, &("accept", named));
        let unknown = || Error::HostNotFound { named: named.to_owned() };
        let host: HostName = named.parse().map_err(|_| unknown())?;
        let accepted = self.repository().accept_host(&terms, &host, &caller.by()).await;
        let about = About { target: &"", named: &named };
        let accepted = accepted.map_err(|error| about.explain(error))?;
        match accepted.answer {
            Acceptance::NoSuchHost => return Err(unknown()),
            Acceptance::Accepted if !asked.dry_run && !accepted.repeated => {
                warn!(%host, by = caller.actor(), "A host is to take what this record has");
                self.signals.desired_changed(&host);
            }
            Acceptance::Accepted | Acceptance::NotAhead => {}
        }
        let hosts = self.every_host().await?;
        let host = hosts.into_iter().find(|one| one.name == host).ok_or_else(unknown)?;
        Ok(asked.done(host, accepted.repeated))
    }

    /// Returns the desired set of the caller's host as soon as it is not the one that it holds, or
    /// nothing when `wait` has passed.
    pub(crate) async fn await_desired(
        &self,
        caller: &Caller,
        holds: &Holds,
        wait: Duration,
    ) -> Result<Option<DesiredNews>, Error> {
        let host = caller.host()?;
        let changes = self.signals.watch_desired(host);
        let mut waiting = Waiting::until(Instant::now() + wait, changes, SLOW_POLL);
        let foreign = holds.cluster.is_some_and(|held| held != self.repository().cluster_id());
        loop {
            let progress = self.trusted(host, holds).await?;
            if foreign || holds.known != Some(progress.desired) {
                let since = holds.known.filter(|_| holds.changes && !foreign);
                return self.desired_since(host, since).await.map(Some);
            }
            if !waiting.again().await {
                return Ok(None);
            }
        }
    }

    /// Returns what has changed since, where that is known, or all.
    async fn desired_since(
        &self,
        host: &HostName,
        since: Option<Generation>,
    ) -> Result<DesiredNews, Error> {
        if let Some(since) = since {
            let changes = self.repository().desired_changes(host, since).await;
            if let Some(changes) = changes.map_err(Error::Store)? {
                return Ok(DesiredNews::Changes(changes));
            }
        }
        self.repository().desired_set(host).await.map(DesiredNews::Whole).map_err(Error::Store)
    }
}

//! What is asked, and when.

use std::collections::BTreeSet;
use std::ops::Bound;

use tokio::time::Instant;
use uuid::Uuid;

use super::{ANSWER, Done, Engine, LOOK_ANYWAY, LOOKS, Stage};
use crate::libvirt::domain::Domain;
use crate::libvirt::looks::Asker;
use crate::libvirt::rpc::link::CallError;
use crate::libvirt::rpc::messages::NetworkRef;

impl Engine<'_> {
    pub(super) fn pulse(&mut self) {
        if self.stage != Stage::Settled {
            return;
        }
        self.networks_due = true;
        if !self.listing {
            self.list();
        }
        self.look_at_bridges();
        for (uuid, named) in std::mem::take(&mut self.again) {
            self.queue.entry(uuid).or_insert(named);
        }
        let count = self.memory.domains.len().div_ceil(LOOK_ANYWAY);
        let after =
            self.memory.domains.range((Bound::Excluded(self.last_anyway), Bound::Unbounded));
        let next: Vec<_> =
            after.take(count).map(|(uuid, one)| (*uuid, one.named.clone())).collect();
        self.last_anyway = next.last().map_or(Uuid::nil(), |(uuid, _)| *uuid);
        for (uuid, named) in next {
            self.queue.entry(uuid).or_insert(named);
        }
    }

    pub(super) fn list(&mut self) {
        self.listing = true;
        self.newer.clear();
        let asker = self.asker.clone();
        self.ask(async move { Done::Listed(asker.domains().await) });
    }

    /// Asks something that a daemon answers by itself.
    pub(super) fn ask(&mut self, question: impl Future<Output = Done> + Send + 'static) {
        if self.open == 0 {
            self.open_since = Instant::now();
        }
        self.open += 1;
        self.running.push(Box::pin(question));
    }

    /// Tells that the daemon does not answer, when it has not for too long.
    ///
    /// Whatever holds it up, it is there, or its pings would have ended the connection; so it still
    /// tells its news, which are worth more than a new connection that would hang like this one.
    pub(super) fn notice_silence(&mut self) -> Result<(), CallError> {
        if self.open == 0 || self.unresponsive || self.open_since.elapsed() < ANSWER {
            return Ok(());
        }
        if self.stage != Stage::Settled {
            return Err(CallError::Silent { doing: "list what it has", after: ANSWER });
        }
        self.unresponsive = true;
        self.dirty = true;
        Ok(())
    }

    pub(super) fn start_what_is_due(&mut self) {
        while self.looking.len() < LOOKS {
            let free = |uuid: &&Uuid| !self.looking.contains(uuid);
            let Some(uuid) = self.queue.keys().find(free).copied() else { break };
            let Some(named) = self.queue.remove(&uuid) else { break };
            self.looking.insert(uuid);
            let (asker, ask_leases) = (self.asker.clone(), self.no_lease_lists);
            self.ask(async move {
                let looked = asker.look(&named, ask_leases).await;
                Done::Looked(named, looked)
            });
        }
        while let Some(uuid) = self.agents.next(self.agents_busy, Instant::now()) {
            let Some(domain) = self.memory.domains.get(&uuid) else {
                self.agents.is_gone(uuid);
                continue;
            };
            self.agents_busy += 1;
            let (asker, named) = (self.asker.clone(), domain.named.clone());
            self.running.push(Box::pin(async move {
                let answer = asker.agent(&named).await;
                Done::Agent(named, answer)
            }));
        }
        if self.networks_due && !self.networks_busy {
            self.ask_for_networks();
        }
        if self.leases_due.is_some_and(|due| due <= Instant::now()) && !self.leases_busy {
            self.ask_for_leases();
        }
    }

    pub(super) fn network_asker(&self) -> Asker {
        self.network_asker.as_ref().unwrap_or(&self.asker).clone()
    }

    pub(super) fn ask_for_networks(&mut self) {
        self.networks_busy = true;
        self.networks_due = false;
        let known = match std::mem::take(&mut self.networks_anew) {
            true => Vec::new(),
            false => self.memory.networks.clone(),
        };
        let asker = self.network_asker();
        self.ask(async move { Done::Networks(asker.networks(&known).await) });
    }

    /// Asks for the leases of those networks in which they can matter.
    pub(super) fn ask_for_leases(&mut self) {
        if self.no_lease_lists || !matches!(self.stage, Stage::Leases | Stage::Settled) {
            self.leases_due = None;
            return;
        }
        let first = self.stage == Stage::Leases;
        let domains = self.memory.domains.values().filter(|one| one.is_up());
        let used: BTreeSet<&str> = domains.flat_map(Domain::networks).collect();
        let around = &self.memory.around;
        let asked = |one: &&NetworkRef| {
            let name = String::from_utf8_lossy(&one.name);
            around.networks.get(&*name).is_some_and(|network| network.has_dhcp)
                && (first || used.contains(&*name))
        };
        let networks: Vec<_> = self.memory.networks.iter().filter(asked).cloned().collect();
        self.leases_due = None;
        self.leases_busy = true;
        self.leases_asked = Some(Instant::now());
        let asker = self.network_asker();
        self.ask(async move { Done::Leases(asker.leases(&networks).await) });
    }
}

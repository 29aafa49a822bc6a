//! Taking in what questions have brought, and telling what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use eip_model::{InstanceId, InstanceState};
use tokio::time::Instant;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{Done, Engine, SETTLE, Stage, WAITING};
use crate::libvirt::agents::Worth;
use crate::libvirt::bridges;
use crate::libvirt::dial::{self, DialError, Dialled};
use crate::libvirt::domain::{Census, Domain, Heard};
use crate::libvirt::looks::{Asker, Looked};
use crate::libvirt::mac::Mac;
use crate::libvirt::rpc::calls::RawLeases;
use crate::libvirt::rpc::link::CallError;
use crate::libvirt::rpc::messages::{Addressed, DomainRef, NetworkRef, code, printable};
use crate::libvirt::uri::Way;
use crate::libvirt::xml::Network;
use crate::sight::{Listing, Sight};

/// What is told of a daemon whose connection stands.
const UNRESPONSIVE: &str = "it is there, but has answered no question for 5 s";

impl Engine<'_> {
    pub(super) fn take_in(&mut self, done: Done) -> Result<(), CallError> {
        if !matches!(done, Done::Agent(..)) {
            self.open -= 1;
            self.open_since = Instant::now();
            self.dirty |= std::mem::take(&mut self.unresponsive);
        }
        match done {
            Done::Listed(listed) => {
                self.listing = false;
                self.compare(listed?);
            }
            Done::Looked(named, looked) => {
                self.looking.remove(&named.uuid);
                // What was told meanwhile is newer, and has it looked at again.
                if !self.queue.contains_key(&named.uuid) {
                    self.see(named, looked)?;
                }
            }
            Done::Agent(named, answer) => self.listen(&named, answer)?,
            Done::Networks(found) => self.take_networks(found)?,
            Done::NetworkDaemon(dialled) => self.take_network_daemon(dialled),
            Done::Leases(found) => self.take_leases(found)?,
        }
        Ok(())
    }

    /// Compares the whole list with what is known. Of whom was heard since it was asked for, it may
    /// not know yet.
    fn compare(&mut self, listed: Vec<DomainRef>) {
        let there: BTreeSet<Uuid> = listed.iter().map(|one| one.uuid).collect();
        let count = self.memory.domains.len();
        let newer = std::mem::take(&mut self.newer);
        self.memory.domains.retain(|uuid, _| there.contains(uuid) || newer.contains(uuid));
        self.dirty |= self.memory.domains.len() != count;
        let first = self.stage == Stage::Domains;
        for one in listed {
            let known = self.memory.domains.get(&one.uuid);
            let same = known.is_some_and(|known| known.named == one);
            if first || !same {
                self.queue.entry(one.uuid).or_insert(one);
            }
        }
    }

    /// Takes in a look at one domain.
    fn see(
        &mut self,
        mut named: DomainRef,
        looked: Result<Option<Looked>, CallError>,
    ) -> Result<(), CallError> {
        let uuid = named.uuid;
        let looked = match looked {
            Err(error) if error.is_loss() => return Err(error),
            Err(error) => {
                // It may be forbidden to us, or be busy: whoever works on it holds a lock.
                let name = printable(&named.name, 100);
                debug!(name, %error, "Could not look at a domain");
                if self.again.len() < WAITING {
                    self.again.insert(uuid, named);
                }
                return Ok(());
            }
            Ok(None) => {
                self.agents.is_gone(uuid);
                self.dirty |= self.memory.domains.remove(&uuid).is_some();
                return Ok(());
            }
            Ok(Some(looked)) => looked,
        };
        let Looked { state, about, leases } = looked;
        named.id = about.id.unwrap_or(-1);
        let before = self.memory.domains.remove(&uuid);
        let goes_on = |before: &Domain| before.about.id == about.id && before.is_up();
        let stays = state != InstanceState::Stopped && before.as_ref().is_some_and(goes_on);
        let connects = before.as_ref().map_or(0, |before| before.connects);
        let mut heard = match before {
            Some(before) if stays => before.heard,
            Some(_) | None => Heard::default(),
        };
        if let Some(leases) = leases {
            heard.leases = leases;
        }
        if !stays {
            self.agents.is_gone(uuid);
        }
        let mut domain = Domain { named, state, about, heard, connects };
        domain.look_around(&self.neighbours.borrow());
        if domain.is_up() && domain.about.agent_connected {
            self.agents.is_there(uuid, Instant::now());
        } else {
            self.agents.is_gone(uuid);
        }
        self.memory.domains.insert(uuid, domain);
        if self.listing {
            self.newer.insert(uuid);
        }
        self.dirty = true;
        Ok(())
    }

    /// Takes in what a guest agent said.
    fn listen(
        &mut self,
        named: &DomainRef,
        answer: Result<Vec<Addressed>, CallError>,
    ) -> Result<(), CallError> {
        self.agents_busy -= 1;
        let now = Instant::now();
        let worth = match answer {
            Err(error) if error.is_loss() => return Err(error),
            Err(error) => {
                let name = printable(&named.name, 100);
                debug!(name, %error, "A guest agent does not answer");
                Worth::Failure
            }
            Ok(said) => {
                let domain = self.memory.domains.get_mut(&named.uuid);
                // What an earlier run of it said is of no use.
                let domain = domain.filter(|one| one.is_up() && one.named.id == named.id);
                let Some(domain) = domain else {
                    self.agents.answered(named.uuid, Worth::Nothing, now);
                    return Ok(());
                };
                let macs: BTreeSet<Mac> = domain.macs().collect();
                let is_useful =
                    |one: &Addressed| macs.contains(&one.mac) && !one.address.is_link_local();
                let worth = match said.iter().any(is_useful) {
                    true => Worth::Address,
                    false => Worth::Nothing,
                };
                domain.heard.agent = said;
                domain.heard.agent_is_old = false;
                self.dirty = true;
                worth
            }
        };
        self.agents.answered(named.uuid, worth, now);
        Ok(())
    }

    fn take_networks(
        &mut self,
        found: Result<Option<Vec<(NetworkRef, Network)>>, CallError>,
    ) -> Result<(), CallError> {
        self.networks_busy = false;
        match found {
            Ok(found) => {
                self.networks_missed = false;
                if let Some(found) = found {
                    self.memory.networks = found.iter().map(|(named, _)| named.clone()).collect();
                    let by_name = |(_, one): (NetworkRef, Network)| (one.name.clone(), one);
                    self.memory.around.networks = found.into_iter().map(by_name).collect();
                    self.look_at_bridges();
                    self.dirty = true;
                }
                self.after_networks();
            }
            // The one that is lost is not the one that is followed.
            Err(error) if error.is_loss() && self.network_asker.is_some() => {
                self.network_asker = None;
                self.network_news = None;
                self.networks_anew = true;
                self.miss_networks(&error.to_string());
            }
            Err(error) if error.is_loss() => return Err(error),
            Err(error) => {
                self.networks_anew = true;
                match (&self.uri.way, &self.network_asker) {
                    (Way::Unix { networks: Some(socket), .. }, None) => {
                        let (socket, driver) = (socket.clone(), self.uri.driver.clone());
                        debug!(%error, "Networks are asked for elsewhere");
                        self.networks_busy = true;
                        self.ask(async move {
                            let dialled = dial::dial_networks(&socket, &driver).await;
                            if let Ok(dialled) = &dialled {
                                dialled.link.subscribe_to_networks().await.ok();
                            }
                            Done::NetworkDaemon(dialled)
                        });
                    }
                    _ => self.miss_networks(&error.to_string()),
                }
            }
        }
        Ok(())
    }

    fn take_network_daemon(&mut self, dialled: Result<Dialled, DialError>) {
        self.networks_busy = false;
        match dialled {
            Ok(Dialled { link, news }) => {
                self.network_asker = Some(Asker::new(link));
                self.network_news = Some(news);
                self.networks_due = true;
            }
            Err(error) => self.miss_networks(&error.to_string()),
        }
    }

    /// Goes on with the networks that are known. They are asked for again at the next pulse.
    fn miss_networks(&mut self, reason: &str) {
        if !self.networks_missed {
            warn!(reason, "libvirt does not tell its networks; those known before are kept");
        }
        self.networks_missed = true;
        self.after_networks();
    }

    fn after_networks(&mut self) {
        if self.stage == Stage::Networks {
            self.stage = Stage::Leases;
            self.leases_due = Some(Instant::now());
        }
    }

    fn take_leases(
        &mut self,
        found: Vec<(NetworkRef, Result<RawLeases, CallError>)>,
    ) -> Result<(), CallError> {
        self.leases_busy = false;
        let mut changed = false;
        for (network, leases) in found {
            match leases {
                Ok(leases) => {
                    let before = self.memory.leases.insert(network, leases.clone());
                    changed |= before.as_ref() != Some(&leases);
                }
                Err(error) if error.is(code::NO_SUPPORT) => self.no_lease_lists = true,
                Err(error) if error.is_loss() && self.network_asker.is_none() => {
                    return Err(error);
                }
                Err(error) => {
                    debug!(%error, "The leases of a network are not told");
                    self.networks_due = true;
                    self.networks_anew = true;
                }
            }
        }
        let there = &self.memory.networks;
        let count = self.memory.leases.len();
        self.memory.leases.retain(|network, _| there.contains(network));
        if changed || self.memory.leases.len() != count {
            self.read_leases()?;
        }
        if self.stage == Stage::Leases {
            self.stage = Stage::Domains;
            self.list();
        }
        Ok(())
    }

    fn read_leases(&mut self) -> Result<(), CallError> {
        let mut all = Vec::new();
        for raw in self.memory.leases.values() {
            all.extend(raw.read()?);
        }
        let before = self.memory.around.leases.in_force.clone();
        self.memory.around.leases.take(&all);
        let leases = &self.memory.around.leases.in_force;
        let new = leases.iter().filter(|(mac, address)| before.get(mac) != Some(address));
        let new: BTreeMap<_, _> = new.map(|(mac, address)| (*mac, *address)).collect();
        let now = Instant::now();
        for (uuid, domain) in &mut self.memory.domains {
            if domain.doubt_agent(&new) {
                self.agents.hint(*uuid, now);
            }
        }
        self.dirty |= before != self.memory.around.leases.in_force;
        Ok(())
    }

    /// Looks at the bridges of domains that libvirt does not manage, if there are any.
    pub(super) fn look_at_bridges(&mut self) {
        let around = &self.memory.around;
        let interfaces = self.memory.domains.values().flat_map(|one| &one.about.interfaces);
        let names = interfaces.filter_map(|one| around.foreign_bridge(&one.plug));
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        let here = self.uri.is_here();
        let found = if here { bridges::look_at(&names) } else { BTreeMap::new() };
        if found != self.memory.around.bridges {
            self.memory.around.bridges = found;
            self.dirty = true;
        }
    }

    /// Goes on with the first list as far as it has come.
    pub(super) fn advance(&mut self) {
        let idle = !self.listing && self.queue.is_empty() && self.looking.is_empty();
        let now = Instant::now();
        if self.stage == Stage::Domains && idle {
            self.look_at_bridges();
            self.stage = Stage::Agents(now + SETTLE);
        }
        if let Stage::Agents(until) = self.stage
            && idle
            && (self.agents.all_heard() || until <= now)
        {
            self.stage = Stage::Settled;
            self.dirty = true;
            info!(backend = "libvirt", instances = self.memory.domains.len(), "Listed");
        }
    }

    /// Tells the whole truth, if it is another one.
    pub(super) fn tell(&mut self) {
        self.dirty = false;
        if self.stage == Stage::Settled && self.has_new_bridges() {
            self.look_at_bridges();
        }
        let domains = || self.memory.domains.values();
        let around = &self.memory.around;
        let census = Census::take(domains(), &around.leases, &self.neighbours.borrow());
        let reports = domains().map(|one| one.report(around, &census));
        let instances = reports.map(|one| (one.id, Arc::new(one))).collect();
        let networks = match self.uri.is_here() {
            true => around.local_networks(domains()),
            false => Vec::new(),
        };
        let lives = domains().map(|one| (InstanceId::new(one.named.uuid), one.life())).collect();
        let listing = Listing { instances, networks, lives };
        let told = match self.unresponsive {
            false => Sight::Listed(listing),
            true => Sight::Unreachable { reason: UNRESPONSIVE.to_owned(), known: Some(listing) },
        };
        told.tell(self.sight);
    }

    /// Whether a domain is plugged into a bridge that was not looked at yet.
    fn has_new_bridges(&self) -> bool {
        let around = &self.memory.around;
        let interfaces = self.memory.domains.values().flat_map(|one| &one.about.interfaces);
        let mut names = interfaces.filter_map(|one| around.foreign_bridge(&one.plug));
        names.any(|name| !around.bridges.contains_key(name))
    }
}

//! Taking in what a daemon and the kernel tell by themselves.

use eip_model::InstanceState;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Engine, LEASES_IN_A_ROW};
use crate::libvirt::domain::Heard;
use crate::libvirt::rpc::messages::{DomainRef, Life, News};

impl Engine<'_> {
    /// Takes in what the news itself proves, and has what it is about looked at.
    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Networks => {
                self.networks_due = true;
                self.networks_anew = true;
            }
            News::Changed { domain } => {
                self.agents.hint(domain.uuid, Instant::now());
                self.have_looked_at(domain);
            }
            News::Agent { domain, connected } => {
                if let Some(known) = self.memory.domains.get_mut(&domain.uuid) {
                    known.about.agent_connected = connected;
                    known.connects = known.connects.wrapping_add(u32::from(connected));
                    self.dirty = true;
                }
                self.agents.is_gone(domain.uuid);
                if connected {
                    self.agents.is_there(domain.uuid, Instant::now());
                }
                self.have_looked_at(domain);
            }
            News::Life { domain, life } => {
                self.believe(domain.uuid, life);
                self.have_looked_at(domain);
            }
        }
    }

    fn have_looked_at(&mut self, domain: DomainRef) {
        if self.listing {
            self.newer.insert(domain.uuid);
        }
        self.queue.insert(domain.uuid, domain);
    }

    pub(super) fn believe(&mut self, uuid: Uuid, life: Life) {
        let Some(domain) = self.memory.domains.get_mut(&uuid) else { return };
        match life {
            Life::Stopped | Life::Crashed => {
                domain.state = InstanceState::Stopped;
                domain.about.id = None;
                domain.about.agent_connected = false;
                domain.heard = Heard::default();
                self.agents.is_gone(uuid);
            }
            Life::Suspended | Life::PmSuspended => domain.state = InstanceState::Paused,
            // What has begun is looked at: nothing is lost by a moment's wait.
            Life::Started | Life::Resumed | Life::ShutDown | Life::Defined | Life::Undefined => {}
            Life::Other(_) => {}
        }
        self.dirty = true;
    }

    pub(super) fn look_around(&mut self) {
        let now = Instant::now();
        let table = self.neighbours.borrow_and_update();
        for (uuid, domain) in &mut self.memory.domains {
            if domain.look_around(&table) {
                self.dirty = true;
                self.agents.hint(*uuid, now);
                // Who has just come to an address may have it by a lease.
                let rested =
                    self.leases_asked.map_or(now, |asked| now.max(asked + LEASES_IN_A_ROW));
                self.leases_due.get_or_insert(rested);
            }
        }
    }
}

//! Events to be written, and the news that something was committed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use eip_model::{ElasticIpId, EventKind, HostName, InstanceId, ProjectName};
use jiff::Timestamp;
use tokio::sync::broadcast;

use crate::given::Given;
use crate::records::By;

/// How many commits a follower may be behind before it is told to look at everything.
const BEHIND: usize = 256;

/// That something was committed: a hint to look, never the thing itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Events were written, and these hosts have something else to apply, or have applied something.
    Of(BTreeSet<HostName>),
    /// Anything may have changed: the way to the database was interrupted.
    Anything,
}

pub(crate) fn channel() -> broadcast::Sender<News> {
    broadcast::channel(BEHIND).0
}

/// A change that a transaction tells of.
#[derive(Debug, Clone)]
pub(crate) struct NewEvent {
    pub(crate) at: Timestamp,
    pub(crate) kind: EventKind,
    /// With the next two, unless it is about no elastic IP.
    pub(crate) project: Option<ProjectName>,
    pub(crate) elastic_ip: Option<ElasticIpId>,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) instance_name: Option<String>,
    pub(crate) host: Option<HostName>,
    pub(crate) actor: String,
    pub(crate) subject: Option<String>,
    pub(crate) detail: Option<String>,
}

impl NewEvent {
    /// Of something that is no elastic IP.
    pub(crate) fn about(kind: EventKind, by: &By, detail: String) -> Self {
        Self {
            at: by.at,
            kind,
            project: None,
            elastic_ip: None,
            address: None,
            instance_id: None,
            instance_name: None,
            host: None,
            actor: by.actor.clone(),
            subject: None,
            detail: Some(detail),
        }
    }

    pub(crate) fn named(self, subject: &impl ToString) -> Self {
        Self { subject: Some(subject.to_string()), ..self }
    }

    pub(crate) fn of(self, project: Option<&ProjectName>) -> Self {
        Self { project: project.cloned(), ..self }
    }
}

/// What a transaction has to say when it commits.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    pub(crate) events: Vec<NewEvent>,
    pub(crate) hosts: BTreeSet<HostName>,
}

impl Telling {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.hosts.is_empty()
    }

    /// The rows of the events, in the order in which they were told.
    pub(crate) fn rows(&self) -> Given {
        Given::of(&self.events)
            .with("at", |e| e.at)
            .with("kind", |e| e.kind.as_str())
            .with("project", |e| e.project.as_ref())
            .with("elastic_ip_id", |e| e.elastic_ip)
            .with("address", |e| e.address)
            .with("instance_id", |e| e.instance_id)
            .with("instance_name", |e| e.instance_name.as_deref())
            .with("host", |e| e.host.as_ref())
            .with("actor", |e| e.actor.as_str())
            .with("subject", |e| e.subject.as_deref())
            .with("detail", |e| e.detail.as_deref())
            .into()
    }
}

//! An elastic IP as callers see it, and the rule for what its data plane does.

use std::net::Ipv4Addr;

use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::agent::{AttachmentProblem, DataPlaneHealth, ProblemKind, REPORT_SILENCE_SECONDS};
use crate::ids::{ElasticIpId, Generation, InstanceId};
use crate::mode::Mode;
use crate::names::{HostName, Label, PoolName, ProjectName, Tags};

/// An elastic IP. A field that has no value is `null`, never left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ElasticIp {
    #[schema(value_type = uuid::Uuid)]
    pub id: ElasticIpId,
    #[schema(value_type = String, format = "ipv4")]
    pub public_ip: Ipv4Addr,
    pub status: ElasticIpStatus,
    pub data_plane: DataPlane,
    pub project: ProjectName,
    pub pool: PoolName,
    pub name: Option<Label>,
    pub tags: Tags,
    /// Whether its release is refused.
    #[serde(default)]
    pub protected: bool,
    /// Grows with every change of the elastic IP or its association; its `ETag` goes by it.
    #[serde(default)]
    pub revision: u64,
    #[schema(value_type = Option<uuid::Uuid>)]
    pub instance_id: Option<InstanceId>,
    pub instance_name: Option<String>,
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub private_ip: Option<Ipv4Addr>,
    pub vpc_id: Option<String>,
    /// How it reaches the instance.
    pub mode: Option<Mode>,
    /// The network of the instance that was named when it was associated.
    pub network: Option<String>,
    pub host: Option<HostName>,
    #[schema(value_type = String, format = "date-time")]
    pub allocated_at: Timestamp,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub associated_at: Option<Timestamp>,
    #[schema(value_type = String, format = "date-time")]
    pub updated_at: Timestamp,
}

/// A page of elastic IPs, ordered by address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ElasticIpPage {
    pub items: Vec<ElasticIp>,
    /// Where the next page begins; `null` on the last.
    pub next_cursor: Option<String>,
}

/// What is recorded of an elastic IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ElasticIpStatus {
    Allocated,
    Associated,
}

/// What the data plane does for an elastic IP, computed from what is desired and what was reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DataPlane {
    pub state: DataPlaneState,
    pub reason: Option<String>,
    /// Since when it has been so, as far as the record knows.
    #[schema(value_type = String, format = "date-time")]
    pub since: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DataPlaneState {
    /// Nothing is to be carried, or the host was told to do without a data plane.
    None,
    /// The host has not yet reported the newest wish.
    Pending,
    /// The host reported it in force.
    Active,
    /// The host reported that it is not in force, and why.
    Failing,
    /// The host is silent, or cannot tell.
    Unknown,
}

impl DataPlaneState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Failing => "failing",
            Self::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for DataPlaneState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the record holds of one association and its host, as [`data_plane`] needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssociationView {
    pub associated_at: Timestamp,
    /// The desired set of the host that first held this association.
    pub generation: Generation,
    /// When the host reported that set; cleared by a change.
    pub applied_at: Option<Timestamp>,
    /// The host that must let go of the address before this one may have it.
    pub fenced_by: Option<HostName>,
    /// The newest desired set that the host reported.
    pub observed: Generation,
    pub health: DataPlaneHealth,
    pub last_seen_at: Timestamp,
    pub problem: Option<(AttachmentProblem, Timestamp)>,
}

/// Says what the data plane does for an association at `now`.
///
/// The order of the questions is the order of trust: a host that was told to have no data plane
/// never carries anything; a silent host's last word is not the truth any more; an older report
/// says nothing of a newer wish; only then does what the host reported count.
#[must_use]
pub fn data_plane(view: &AssociationView, now: Timestamp) -> DataPlane {
    let say = |state, reason: Option<String>, since| DataPlane { state, reason, since };
    if let DataPlaneHealth::Absent { reason } = &view.health {
        return say(DataPlaneState::None, Some(reason.clone()), view.associated_at);
    }
    if let Some(other) = &view.fenced_by {
        let reason = format!("waiting for host {other} to let go of the address");
        return say(DataPlaneState::Pending, Some(reason), view.associated_at);
    }
    if now > view.last_seen_at + REPORT_SILENCE_SECONDS.seconds() {
        let reason = "the host's agent is silent; its rules stay as they were".to_owned();
        return say(DataPlaneState::Unknown, Some(reason), view.last_seen_at);
    }
    if let DataPlaneHealth::Failing { reason } = &view.health {
        return say(DataPlaneState::Failing, Some(reason.clone()), view.associated_at);
    }
    if view.observed < view.generation {
        let reason = "the host has not applied it yet".to_owned();
        return say(DataPlaneState::Pending, Some(reason), view.associated_at);
    }
    match &view.problem {
        Some((problem, since)) => {
            let state = match problem.kind {
                ProblemKind::Pending => DataPlaneState::Pending,
                ProblemKind::Failing => DataPlaneState::Failing,
                ProblemKind::Unknown => DataPlaneState::Unknown,
            };
            say(state, Some(problem.reason.clone()), *since)
        }
        None => say(DataPlaneState::Active, None, view.applied_at.unwrap_or(view.associated_at)),
    }
}

/// A host that may still carry an address whose association has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LettingGo {
    pub host: HostName,
    pub last_seen_at: Timestamp,
}

/// Says what the data plane does at `now` for an elastic IP that is pointed at nothing since `since`.
#[must_use]
pub fn idle_data_plane(
    letting_go: Option<&LettingGo>,
    since: Timestamp,
    now: Timestamp,
) -> DataPlane {
    let Some(LettingGo { host, last_seen_at }) = letting_go else {
        return DataPlane { state: DataPlaneState::None, reason: None, since };
    };
    if now > *last_seen_at + REPORT_SILENCE_SECONDS.seconds() {
        let reason = Some(format!("host {host} is silent and may still carry the address"));
        return DataPlane { state: DataPlaneState::Unknown, reason, since: *last_seen_at };
    }
    let reason = Some(format!("waiting for host {host} to let go of the address"));
    DataPlane { state: DataPlaneState::Pending, reason, since }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn applied() -> AssociationView {
        AssociationView {
            associated_at: at(100),
            generation: Generation::new(7),
            applied_at: Some(at(101)),
            fenced_by: None,
            observed: Generation::new(7),
            health: DataPlaneHealth::Ready,
            last_seen_at: at(200),
            problem: None,
        }
    }

    #[test]
    fn what_the_host_applied_is_active_since_it_said_so() {
        let told = data_plane(&applied(), at(201));
        assert_eq!(told, DataPlane { state: DataPlaneState::Active, reason: None, since: at(101) });
    }

    #[test]
    fn an_older_report_never_makes_a_newer_wish_active() {
        let view = AssociationView { observed: Generation::new(6), ..applied() };
        assert_eq!(data_plane(&view, at(201)).state, DataPlaneState::Pending);
    }

    #[test]
    fn a_silent_host_is_unknown_whatever_it_said_before() {
        let silent = at(200 + REPORT_SILENCE_SECONDS + 1);
        assert_eq!(data_plane(&applied(), silent).state, DataPlaneState::Unknown);
        assert_eq!(data_plane(&applied(), silent).since, at(200));
    }

    #[test]
    fn a_problem_is_told_with_its_reason() {
        let problem = AttachmentProblem {
            public_ip: Ipv4Addr::new(100, 64, 0, 1),
            kind: ProblemKind::Failing,
            reason: "docker:web is stopped".into(),
        };
        let view = AssociationView { problem: Some((problem, at(150))), ..applied() };
        let told = data_plane(&view, at(201));
        assert_eq!(told.state, DataPlaneState::Failing);
        assert_eq!(told.reason.as_deref(), Some("docker:web is stopped"));
        assert_eq!(told.since, at(150));
    }

    #[test]
    fn a_move_between_hosts_waits_for_the_old_one() {
        let view = AssociationView { fenced_by: Some("hv1".parse().unwrap()), ..applied() };
        assert_eq!(data_plane(&view, at(201)).state, DataPlaneState::Pending);
    }

    #[test]
    fn an_address_is_idle_only_when_its_last_host_has_let_go() {
        let host = LettingGo { host: "hv1".parse().unwrap(), last_seen_at: at(100) };
        assert_eq!(idle_data_plane(None, at(90), at(101)).state, DataPlaneState::None);
        assert_eq!(idle_data_plane(Some(&host), at(90), at(101)).state, DataPlaneState::Pending);
        assert_eq!(idle_data_plane(Some(&host), at(90), at(999)).state, DataPlaneState::Unknown);
    }

    #[test]
    fn a_host_without_a_data_plane_is_none_even_when_silent() {
        let health = DataPlaneHealth::Absent { reason: "no rights".into() };
        let view = AssociationView { health, ..applied() };
        assert_eq!(data_plane(&view, at(9999)).state, DataPlaneState::None);
    }
}

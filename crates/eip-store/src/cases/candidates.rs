//! The instances that elastic IPs are to be pointed at.

use std::net::Ipv4Addr;

use eip_model::{Backend, HostName, InstanceId, InstanceInterface, InstanceRef, Mode, ProjectName};

use super::held::{Held, place};
use crate::eligible::Standing;
use crate::error::Refusal;
use crate::given::Given;
use crate::records::AssociateCommand;
use crate::rows::{self, Cells, Wrong};
use crate::transaction::{Failure, Tx};

/// An instance of the elastic IP's project.
///
/// It is not locked: the foreign key of the association holds it when it is pointed at, and what it
/// becomes after that is followed anyway.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) id: InstanceId,
    pub(super) name: String,
    pub(super) host: HostName,
    pub(super) vpc_id: Option<String>,
    pub(super) standing: Standing,
    /// The elastic IP that it has.
    pub(super) public_ip: Option<Ipv4Addr>,
    backend: Backend,
    project: ProjectName,
    modes: Vec<Mode>,
    interfaces: Vec<InstanceInterface>,
}

/// Where an elastic IP reaches an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) private_ip: Option<Ipv4Addr>,
    pub(super) vpc_id: Option<String>,
}

impl Candidate {
    /// Makes sure that an elastic IP can reach it in this mode, and on the network that is named if
    /// one is; says where.
    pub(super) fn fit(&self, mode: Mode, network: Option<&str>) -> Result<Place, Refusal> {
        let mut standing = self.standing;
        let mut vpc_id = self.vpc_id.clone();
        if let Some(network) = network {
            let Some(found) = self.interfaces.iter().find(|one| one.network == network) else {
                self.standing.runs()?;
                let known = self.interfaces.iter().map(|one| one.network.clone()).collect();
                let network = network.to_owned();
                return Err(Refusal::InstanceNotOnNetwork { network, known });
            };
            standing.private_ip = found.private_ip;
            vpc_id = Some(found.network.clone());
        }
        standing.usable()?;
        if !self.modes.contains(&mode) {
            let (supported, backend) = (self.modes.clone(), self.backend);
            return Err(Refusal::ModeNotSupported { mode, supported, backend });
        }
        Ok(Place { private_ip: standing.private_ip, vpc_id })
    }
}

const CANDIDATE: &str = "
    SELECT given.n, i.id, i.name, i.host, i.backend, i.project, i.state, i.private_ip, i.vpc_id,
           i.unusable, i.modes, CAST(i.interfaces AS text) AS interfaces, a.address AS public_ip
      FROM {given}";

/// Finds for every command whose elastic IP is held the one instance of its project that is meant.
pub(super) async fn candidates<T: Tx>(
    tx: &mut T,
    commands: &[AssociateCommand],
    held: &[Option<Held>],
) -> Result<Vec<Result<Candidate, Refusal>>, Failure> {
    let (mut ids, mut names) = (Vec::new(), Vec::new());
    for (n, command) in (0_i64..).zip(commands) {
        match &command.instance {
            InstanceRef::Id(id) => ids.push((n, *id)),
            InstanceRef::Name { name, .. } => names.push((n, name.as_str())),
        }
    }
    let other = "LEFT JOIN association a ON a.instance_id = i.id";
    let by_id = format!("{CANDIDATE} JOIN instance i ON i.id = given.id {other}");
    let by_name = format!("{CANDIDATE} JOIN instance i ON i.name = given.name {other}");
    let mut found =
        tx.each(&by_id, Given::of(&ids).with("n", |(n, _)| *n).with("id", |(_, id)| *id)).await?;
    let named = Given::of(&names).with("n", |(n, _)| *n).with("name", |(_, name)| *name);
    found.extend(tx.each(&by_name, named).await?);
    let mut meant: Vec<Vec<Candidate>> = commands.iter().map(|_| Vec::new()).collect();
    for row in &found {
        let at = place(row)?;
        let candidate = read(row).map_err(|e| e.within("instance"))?;
        let ours = held.get(at).and_then(Option::as_ref).map(|held| &held.project);
        if ours == Some(&candidate.project) && fits(&commands[at].instance, &candidate) {
            meant[at].push(candidate);
        }
    }
    Ok(meant.into_iter().map(the_one).collect())
}

fn fits(named: &InstanceRef, candidate: &Candidate) -> bool {
    match named {
        InstanceRef::Id(_) | InstanceRef::Name { backend: None, .. } => true,
        InstanceRef::Name { backend: Some(backend), .. } => *backend == candidate.backend,
    }
}

fn the_one(mut meant: Vec<Candidate>) -> Result<Candidate, Refusal> {
    match (meant.pop(), meant.is_empty()) {
        (None, _) => Err(Refusal::InstanceNotFound),
        (Some(one), true) => Ok(one),
        (Some(one), false) => {
            meant.push(one);
            let describe = |one: &Candidate| {
                format!("{} ({}:{} on {})", one.id, one.backend, one.name, one.host)
            };
            let mut candidates: Vec<String> = meant.iter().map(describe).collect();
            candidates.sort();
            Err(Refusal::InstanceAmbiguous { candidates })
        }
    }
}

fn read(row: &impl Cells) -> Result<Candidate, Wrong> {
    Ok(Candidate {
        id: InstanceId::new(row.id("id")?),
        name: row.words("name")?,
        host: row.parsed("host")?,
        vpc_id: row.text("vpc_id")?,
        standing: rows::standing(row)?,
        public_ip: row.maybe_address("public_ip")?,
        backend: row.parsed("backend")?,
        project: row.parsed("project")?,
        modes: rows::modes(row)?,
        interfaces: rows::interfaces(row)?,
    })
}

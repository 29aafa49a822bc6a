//! Pointing elastic IPs at instances, and moving them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use eip_model::{ElasticIpRef, EventKind, HostName, InstanceId, InstanceRef, Mode, PoolName};
use jiff::Timestamp;

use super::candidates::{Candidate, Place, candidates};
use super::held::{
    Aims, Held, Party, Pointed, aims, lock_all, numbered, pointed, read_held, touch,
};
use super::hosts::{Bumped, Ending, LettingGo, bump, end_associations, letting_go};
use crate::error::{Refusal, StoreError};
use crate::given::Given;
use crate::news::NewEvent;
use crate::records::{
    AssociateCommand, AssociationRecord, ElasticIpRecord, NetworkWish, Scope, Wish,
};
use crate::rows::{self, Cells, Wrong};
use crate::transaction::{Batch, Failure, Outcome, Tx};

impl Aims for AssociateCommand {
    fn target(&self) -> ElasticIpRef {
        self.target
    }

    fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// Points elastic IPs that no host is letting go of at instances that are named by their ids, in mode
/// `nat` and wherever the instance would have it: those that are pointed at nothing, and those that may
/// be moved, to instances that have none.
///
/// Every instance that can take an elastic IP can be reached so.
///
/// What decides is asked of the rows that were looked up, not while they are looked up: a condition
/// that seems to leave few rows makes a planner begin with the whole table.
///
/// What it reads is of the moment at which it began, and it may have waited for locks after that. An
/// elastic IP that has changed meanwhile has another revision and drops out, and every change of an
/// association or of what is letting go of an address counts the revision up. An instance that somebody
/// else has got an elastic IP for meanwhile is passed over by the insert, and ends all of it at the update:
/// then nothing has changed, and each is settled as everywhere.
///
/// What a CTE has is not joined with what another has by address: a planner that takes a batch for ten rows
/// would compare each with each.
const SWIFT: &str = "
    WITH wanted AS MATERIALIZED (
        SELECT given.*, r.first,
               CASE WHEN given.address >= 0 THEN given.address
                    ELSE r.first + given.number % r.size END AS place
          FROM {given} CROSS JOIN pool_range r),
    asked AS MATERIALIZED (
        SELECT wanted.n, wanted.now, wanted.actor, wanted.scope, wanted.mode, e.address,
               e.id AS elastic_ip_id, e.project, e.pool, e.name, CAST(e.tags AS text) AS tags,
               e.allocated_at, e.released_at, e.revision, e.protected, i.id AS instance_id,
               i.name AS instance_name, i.project AS instance_project, i.host, i.state,
               i.private_ip, i.unusable, i.vpc_id, wanted.may_move, a.instance_id AS left_id,
               a.host AS left_host, other.address AS other_address
          FROM wanted
          JOIN elastic_ip e
            ON e.address = wanted.place AND e.range_first = wanted.first
           AND (wanted.address >= 0 OR e.id = wanted.id)
          JOIN elastic_ip begun ON begun.address = e.address AND begun.revision = e.revision
          JOIN instance i ON i.id = wanted.instance_id
          LEFT JOIN association a ON a.address = e.address
          LEFT JOIN association other ON other.instance_id = i.id
         WHERE NOT EXISTS (SELECT 1 FROM letting_go l WHERE l.address = e.address)
         ORDER BY e.address FOR UPDATE OF e),
    fit AS MATERIALIZED (
        SELECT * FROM (SELECT *, count(*) OVER (PARTITION BY address) AS same_address,
                              count(*) OVER (PARTITION BY instance_id) AS same_instance
                         FROM asked) all_asked
         WHERE same_address = 1 AND same_instance = 1 AND other_address IS NULL
           AND (left_id IS NULL OR may_move)
           AND released_at IS NULL AND (scope IS NULL OR scope = project)
           AND instance_project = project AND state = 'running' AND private_ip IS NOT NULL
           AND unusable IS NULL
           AND coalesce(mode, (SELECT p.mode FROM pool p WHERE p.name = pool)) = 'nat'),
    bumped AS (
        UPDATE host SET generation = host.generation + 1
          FROM (SELECT host FROM fit UNION SELECT left_host FROM fit ORDER BY host) f
         WHERE host.name = f.host
        RETURNING host.name AS host, host.generation, host.observed_generation, host.health,
                  host.health_reason, host.last_seen_at),
    made AS (
        INSERT INTO association (address, instance_id, host, generation, associated_at)
        SELECT fit.address, fit.instance_id, fit.host, bumped.generation, fit.now
          FROM fit JOIN bumped ON bumped.host = fit.host WHERE fit.left_id IS NULL
        ON CONFLICT DO NOTHING
        RETURNING address),
    moved AS (
        UPDATE association
           SET instance_id = fit.instance_id, host = fit.host, generation = bumped.generation,
               associated_at = fit.now, applied_at = NULL, mode = 'nat', network = NULL
          FROM fit JOIN bumped ON bumped.host = fit.host
         WHERE association.address = fit.address AND association.instance_id = fit.left_id
        RETURNING fit.*, bumped.generation, bumped.observed_generation, bumped.health,
                  bumped.health_reason, bumped.last_seen_at),
    done AS MATERIALIZED (
        SELECT fit.*, bumped.generation, bumped.observed_generation, bumped.health,
               bumped.health_reason, bumped.last_seen_at
          FROM fit JOIN bumped ON bumped.host = fit.host
         WHERE fit.address = ANY (ARRAY(SELECT address FROM made))
        UNION ALL SELECT * FROM moved),
    turn AS MATERIALIZED (
        SELECT count(*) AS count, {lock}, {tell}((
               SELECT CASE WHEN sum(length(host) + 1) > 7900 THEN '*'
                           ELSE coalesce(string_agg(host, ' '), '') END FROM bumped))
          FROM done HAVING count(*) > 0),
    leaving AS (
        INSERT INTO letting_go (address, host, generation)
        SELECT moved.address, moved.left_host, bumped.generation
          FROM moved JOIN bumped ON bumped.host = moved.left_host
         WHERE moved.left_host <> moved.host
        ON CONFLICT (address, host) DO UPDATE SET generation = excluded.generation),
    mended AS (
        DELETE FROM attachment_problem USING moved WHERE attachment_problem.address = moved.address),
    touched AS (
        UPDATE elastic_ip SET revision = elastic_ip.revision + 1, updated_at = done.now
          FROM done WHERE elastic_ip.address = done.address),
    told AS (
        INSERT INTO event (at, kind, project, elastic_ip_id, address, instance_id, instance_name,
                           host, actor)
        SELECT done.now, CASE WHEN done.left_id IS NULL THEN 'associated' ELSE 'moved' END,
               done.project, done.elastic_ip_id, done.address, done.instance_id,
               done.instance_name, done.host, done.actor
          FROM turn CROSS JOIN done)
    SELECT done.n, done.address, done.elastic_ip_id AS id, done.project, done.pool, done.name,
           done.tags, done.allocated_at, done.revision, done.protected, done.instance_id,
           done.instance_name, done.private_ip, done.vpc_id, done.host, done.left_host,
           done.generation, done.observed_generation, done.health, done.health_reason,
           done.last_seen_at
      FROM turn CROSS JOIN done";

impl Batch for AssociateCommand {
    type Answer = Wish;
    const DOING: &'static str = "associate an elastic IP";
    const SWIFT: Option<&'static str> = Some(SWIFT);
    /// As many as one request may be about: its hosts hear of them at once.
    const MOST: usize = eip_model::MOST_AT_ONCE;

    fn about(&self) -> Option<String> {
        Some(format!("{:?}", self.target))
    }

    fn swift_rows(commands: &[Self]) -> Given {
        aims(&numbered(commands))
            .with("scope", |(_, one)| one.scope.project())
            .with("instance_id", |(_, one)| match one.instance {
                InstanceRef::Id(id) if one.is_usual() => Some(id),
                InstanceRef::Id(_) | InstanceRef::Name { .. } => None,
            })
            .with("mode", |(_, one)| one.mode.map(|mode| mode.as_str()))
            .with("may_move", |(_, one)| one.allow_reassociation)
            .with("now", |(_, one)| one.now)
            .with("actor", |(_, one)| one.actor.as_str())
            .into()
    }

    fn swift_answer(&self, row: &impl Cells) -> Result<Wish, StoreError> {
        let read = || -> Result<_, Wrong> {
            let (held, at) = (read_held(row)?, Bumped::read(row)?);
            let host: HostName = row.parsed("host")?;
            let left: Option<HostName> = row.maybe("left_host")?;
            let left = left.filter(|left| *left != host);
            let association = AssociationRecord {
                instance_id: InstanceId::new(row.id("instance_id")?),
                instance_name: row.words("instance_name")?,
                private_ip: row.maybe_address("private_ip")?,
                vpc_id: row.text("vpc_id")?,
                mode: Mode::Nat,
                network: None,
                host,
                view: at.view(self.now, left.clone()),
            };
            Ok((held, at.generation, left, association))
        };
        let (held, generation, left, association) = read().map_err(|e| e.within("elastic_ip"))?;
        Ok(Wish {
            elastic_ip: held.id,
            host: association.host.clone(),
            generation,
            previous_host: left,
            changed: true,
            record: Some(held.changed(self.now, Some(association))),
        })
    }

    async fn settle<T: Tx>(tx: &mut T, commands: &[Self]) -> Result<Vec<Outcome<Wish>>, Failure> {
        let held = lock_all(tx, commands).await?;
        let addresses: Vec<Ipv4Addr> = held.iter().flatten().map(|one| one.address).collect();
        let candidates = candidates(tx, commands, &held).await?;
        let pointed = pointed(tx, &addresses).await?;
        let modes = pool_modes(tx, commands).await?;
        // Also when nothing is to be ended: a report that lifts the fence on an address either is in
        // force before this transaction looks, or sees the association that it makes.
        let letting_go = letting_go(tx, &addresses).await?;
        let mut changes = Changes::default();
        let decisions: Vec<Decision<'_>> = commands
            .iter()
            .zip(held)
            .zip(candidates)
            .map(|((command, held), candidate)| {
                changes.decide(command, held, candidate, &pointed, &modes)
            })
            .collect();
        let made = changes.make(tx, &decisions, &letting_go).await?;
        Ok(decisions.into_iter().zip(made).map(|(decision, wish)| decision.outcome(wish)).collect())
    }
}

/// What is to become of one command.
#[derive(Debug)]
enum Decision<'b> {
    Settled(Box<Outcome<Wish>>),
    Point(Box<Link<'b>>),
}

impl Decision<'_> {
    fn outcome(self, wish: Option<Wish>) -> Outcome<Wish> {
        match self {
            Self::Settled(outcome) => *outcome,
            Self::Point(_) => wish.map_or(Outcome::Again, Outcome::Done),
        }
    }

    const fn link(&self) -> Option<&Link<'_>> {
        match self {
            Self::Settled(_) => None,
            Self::Point(link) => Some(link),
        }
    }
}

/// An association to be made.
#[derive(Debug)]
struct Link<'b> {
    command: &'b AssociateCommand,
    held: Held,
    candidate: Candidate,
    current: Option<&'b Pointed>,
    mode: Mode,
    network: Option<String>,
    place: Place,
}

/// The addresses and instances that commands of the batch change. A second command for one of them
/// is left to the next batch, which sees what the first has made of it.
#[derive(Debug, Default)]
struct Changes {
    addresses: BTreeSet<Ipv4Addr>,
    instances: BTreeSet<InstanceId>,
}

impl Changes {
    fn decide<'b>(
        &mut self,
        command: &'b AssociateCommand,
        held: Option<Held>,
        candidate: Result<Candidate, Refusal>,
        pointed: &'b BTreeMap<Ipv4Addr, Pointed>,
        modes: &BTreeMap<PoolName, Mode>,
    ) -> Decision<'b> {
        let settled = |outcome| Decision::Settled(Box::new(outcome));
        let refused = |refusal| settled(Outcome::Refused(refusal));
        let Some(held) = held else {
            return refused(Refusal::ElasticIpNotFound);
        };
        let candidate = match candidate {
            Ok(candidate) => candidate,
            Err(refusal) => return refused(refusal),
        };
        if self.addresses.contains(&held.address) || self.instances.contains(&candidate.id) {
            return settled(Outcome::Again);
        }
        let current = pointed.get(&held.address);
        let stays = current.filter(|at| at.instance_id == candidate.id);
        let (mode, network) = command.aim(&held, stays, modes);
        if let Some(current) = stays.filter(|at| (at.mode, &at.network) == (mode, &network)) {
            return settled(Outcome::Done(unchanged(&held, current)));
        }
        let fits = candidate.fit(mode, network.as_deref());
        let place =
            match fits.and_then(|place| command.may_point(&candidate, current).map(|()| place)) {
                Ok(place) => place,
                Err(refusal) => return refused(refusal),
            };
        self.addresses.insert(held.address);
        self.instances.insert(candidate.id);
        // What it leaves is free only when this is committed.
        self.instances.extend(current.map(|at| at.instance_id));
        Decision::Point(Box::new(Link { command, held, candidate, current, mode, network, place }))
    }

    /// Makes the associations, and returns the wish of each decision that made one.
    async fn make<T: Tx>(
        &self,
        tx: &mut T,
        decisions: &[Decision<'_>],
        letting_go: &BTreeMap<Ipv4Addr, LettingGo>,
    ) -> Result<Vec<Option<Wish>>, Failure> {
        let links: Vec<&Link<'_>> = decisions.iter().filter_map(Decision::link).collect();
        let hosts = |link: &&Link<'_>| {
            let before = link.current.map(|at| at.host.clone());
            [before, Some(link.candidate.host.clone())].into_iter().flatten()
        };
        let bumped = bump(tx, &links.iter().flat_map(hosts).collect()).await?;
        let nobody = LettingGo::default();
        let fences =
            |link: &Link<'_>| letting_go.get(&link.held.address).unwrap_or(&nobody).clone();
        end_associations(tx, &endings(&links, &bumped, &fences)).await?;
        let made = insert(tx, &links, &bumped).await?;
        let mut touched = Vec::new();
        for link in &links {
            if made.contains(&link.held.address) {
                tx.tell(link.event());
                touched.push(link.held.address);
            } else if link.current.is_some() {
                // It has lost its instance to nobody yet: all of it is undone and tried again.
                return Err(Failure::Again("another elastic IP got the instance".into()));
            }
        }
        if let Some(link) = links.first() {
            touch(tx, &touched, link.command.now).await?;
        }
        let wish = |decision: &Decision<'_>| {
            let link = decision.link().filter(|link| made.contains(&link.held.address))?;
            link.wish(&bumped, fences(link))
        };
        Ok(decisions.iter().map(wish).collect())
    }
}

impl AssociateCommand {
    /// How the elastic IP is to reach the instance, and on which of its networks; `stays` is the
    /// association with the instance that there is already.
    fn aim(
        &self,
        held: &Held,
        stays: Option<&Pointed>,
        modes: &BTreeMap<PoolName, Mode>,
    ) -> (Mode, Option<String>) {
        let mode = self.mode.or_else(|| match stays {
            Some(at) => Some(at.mode),
            None => modes.get(&held.pool).copied(),
        });
        let network = match &self.network {
            NetworkWish::AsItIs => stays.and_then(|at| at.network.clone()),
            NetworkWish::FirstChoice => None,
            NetworkWish::Named(name) => Some(name.clone()),
        };
        (mode.unwrap_or_default(), network)
    }

    /// Makes sure that neither the elastic IP nor the instance is associated with another.
    fn may_point(&self, to: &Candidate, current: Option<&Pointed>) -> Result<(), Refusal> {
        if current.is_some_and(|at| at.instance_id == to.id) {
            return Ok(());
        }
        if let Some(current) = current.filter(|_| !self.allow_reassociation) {
            let instance_name = current.instance_name.clone();
            return Err(Refusal::AlreadyAssociated { instance_name });
        }
        match to.public_ip {
            Some(public_ip) => Err(Refusal::InstanceHasElasticIp { public_ip }),
            None => Ok(()),
        }
    }

    /// Whether it asks for nothing but what most do, if its pool is like most.
    fn is_usual(&self) -> bool {
        self.mode.is_none_or(|mode| mode == Mode::Nat)
            && !matches!(self.network, NetworkWish::Named(_))
    }
}

/// Returns the modes of pools, if any of the commands needs to know one.
async fn pool_modes<T: Tx>(
    tx: &mut T,
    commands: &[AssociateCommand],
) -> Result<BTreeMap<PoolName, Mode>, Failure> {
    if commands.iter().all(|one| one.mode.is_some()) {
        return Ok(BTreeMap::new());
    }
    let found = tx.rows("SELECT name, mode FROM pool", crate::value::values![]).await?;
    let read =
        |row: &T::Row| -> Result<_, Wrong> { Ok((row.parsed("name")?, row.parsed("mode")?)) };
    let modes = found.iter().map(read).collect::<Result<_, _>>();
    Ok(modes.map_err(|e| e.within("pool"))?)
}

fn unchanged(held: &Held, current: &Pointed) -> Wish {
    Wish {
        elastic_ip: held.id,
        host: current.host.clone(),
        generation: current.generation,
        previous_host: None,
        changed: false,
        record: None,
    }
}

/// The associations that are in the way of a move.
fn endings<'l>(
    links: &[&'l Link<'_>],
    bumped: &BTreeMap<HostName, Bumped>,
    fences: &impl Fn(&Link<'_>) -> LettingGo,
) -> Vec<Ending<'l>> {
    let ending = |link: &&'l Link<'_>| {
        let pointed = link.current?;
        let leaves = pointed.host != link.candidate.host;
        Some(Ending {
            address: link.held.address,
            pointed,
            without: bumped.get(&pointed.host)?.generation,
            had: leaves && !fences(link).fences(&pointed.host),
        })
    };
    links.iter().filter_map(ending).collect()
}

/// Links elastic IPs and instances, unless an instance has another elastic IP: the constraint
/// decides. Returns those that were linked.
async fn insert<T: Tx>(
    tx: &mut T,
    links: &[&Link<'_>],
    bumped: &BTreeMap<HostName, Bumped>,
) -> Result<BTreeSet<Ipv4Addr>, Failure> {
    let generation = |host| bumped.get(host).map_or_else(Default::default, |host| host.generation);
    let made = tx
        .each(
            "INSERT INTO association (address, instance_id, host, generation, associated_at, mode,
                                      network)
             SELECT given.address, given.instance_id, given.host, given.generation, given.since,
                    given.mode, given.network
               FROM {given} WHERE true
             ON CONFLICT DO NOTHING
             RETURNING address",
            Given::of(links)
                .with("address", |link| link.held.address)
                .with("instance_id", |link| link.candidate.id)
                .with("host", |link| &link.candidate.host)
                .with("generation", |link| generation(&link.candidate.host))
                .with("since", |link| link.since())
                .with("mode", |link| link.mode.as_str())
                .with("network", |link| link.network.as_deref()),
        )
        .await?;
    let addresses = made.iter().map(|row| rows::address(row, "association"));
    Ok(addresses.collect::<Result<_, _>>()?)
}

impl Link<'_> {
    /// The association that it only changes, if it does.
    fn stays(&self) -> Option<&Pointed> {
        self.current.filter(|at| at.instance_id == self.candidate.id)
    }

    /// Since when it has been associated with the instance.
    fn since(&self) -> Timestamp {
        self.stays().map_or(self.command.now, |at| at.associated_at)
    }

    fn event(&self) -> NewEvent {
        let kind = match (self.current, self.stays()) {
            (None, _) => EventKind::Associated,
            (Some(_), None) => EventKind::Moved,
            (Some(_), Some(_)) => EventKind::Reconfigured,
        };
        let party = Party {
            instance_id: Some(self.candidate.id),
            instance_name: Some(&self.candidate.name),
            host: Some(&self.candidate.host),
        };
        let event = self.held.event(kind, &self.command.actor, self.command.now, party);
        NewEvent { detail: self.detail(kind), ..event }
    }

    /// Says how the elastic IP reaches the instance, but where that is as it is with most.
    fn detail(&self, kind: EventKind) -> Option<String> {
        let usual = (self.mode, &self.network) == (Mode::Nat, &None);
        if usual && kind != EventKind::Reconfigured {
            return None;
        }
        let network = self.network.as_ref().map(|name| format!(", network {name}"));
        Some(format!("mode {}{}", self.mode, network.unwrap_or_default()))
    }

    fn wish(&self, bumped: &BTreeMap<HostName, Bumped>, fences: LettingGo) -> Option<Wish> {
        let host = &self.candidate.host;
        let at = bumped.get(host)?;
        let before = self.current.map(|at| &at.host).filter(|before| *before != host);
        let mut fences = fences;
        if let Some(before) = before.filter(|before| !fences.fences(before)) {
            fences.0.insert(before.clone());
        }
        let view = at.view(self.since(), fences.first_but(host).cloned());
        let association = AssociationRecord {
            instance_id: self.candidate.id,
            instance_name: self.candidate.name.clone(),
            private_ip: self.place.private_ip,
            vpc_id: self.place.vpc_id.clone(),
            mode: self.mode,
            network: self.network.clone(),
            host: host.clone(),
            view,
        };
        Some(Wish {
            elastic_ip: self.held.id,
            host: host.clone(),
            generation: at.generation,
            previous_host: before.cloned(),
            changed: true,
            record: Some(self.held.changed(self.command.now, Some(association))),
        })
    }
}

impl Held {
    /// What is recorded once its association has changed.
    pub(super) fn changed(
        &self,
        now: Timestamp,
        association: Option<AssociationRecord>,
    ) -> ElasticIpRecord {
        ElasticIpRecord {
            id: self.id,
            address: self.address,
            project: self.project.clone(),
            pool: self.pool.clone(),
            name: self.name.clone(),
            tags: self.tags.clone(),
            protected: self.protected,
            allocated_at: self.allocated_at,
            updated_at: now,
            revision: self.revision + 1,
            association,
            letting_go: None,
        }
    }
}

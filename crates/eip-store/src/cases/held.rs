//! What every change of an elastic IP is made of: finding it, locking it, telling of it.
//!
//! Every transaction locks in this order, so that no two wait for each other: the elastic IPs by
//! address, the instances, what hosts are letting go of, the hosts by name, the associations.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use eip_model::{
    ElasticIpId, ElasticIpRef, EventKind, Generation, HostName, InstanceId, Label, Mode, PoolName,
    ProjectName, Tags, derive_offset,
};
use jiff::Timestamp;

use crate::error::{Refusal, StoreError};
use crate::given::{Given, Rows};
use crate::news::NewEvent;
use crate::records::Scope;
use crate::rows::{self, Cells, Wrong};
use crate::transaction::{Failure, Tx};

/// The three address bytes of an id as a number.
pub(super) fn offset_of(id: ElasticIpId) -> u32 {
    derive_offset(id.uuid(), eip_model::OFFSET_SPACE)
}

/// Which elastic IP a command is about, and who may see it.
pub(super) trait Aims {
    fn target(&self) -> ElasticIpRef;
    fn scope(&self) -> &Scope;
}

/// The rows that [`AMONG`] looks up: one for each command, by its place.
pub(super) fn aims<C: Aims>(commands: &[(i64, C)]) -> Rows<'_, (i64, C)> {
    let id = |aim: &C| match aim.target() {
        ElasticIpRef::Id(id) => Some(id),
        ElasticIpRef::Address(_) => None,
    };
    Given::of(commands)
        .with("n", |(n, _)| *n)
        .with("address", |(_, aim)| match aim.target() {
            ElasticIpRef::Id(_) => -1,
            ElasticIpRef::Address(address) => i64::from(address.to_bits()),
        })
        .with("id", move |(_, aim)| id(aim).map(ElasticIpId::uuid).unwrap_or_default())
        .with("number", move |(_, aim)| id(aim).map_or(0, offset_of))
}

impl<A: Aims> Aims for &A {
    fn target(&self) -> ElasticIpRef {
        (**self).target()
    }

    fn scope(&self) -> &Scope {
        (**self).scope()
    }
}

/// Numbers commands by their places.
pub(super) fn numbered<C>(commands: &[C]) -> Vec<(i64, &C)> {
    (0_i64..).zip(commands).collect()
}

/// Reads the place of the command that a row is about.
pub(super) fn place(row: &impl Cells) -> Result<usize, StoreError> {
    row.number("n").map_err(|e| e.within("given"))
}

/// Joins what [`aims`] gives with the elastic IPs `e`; other tables and [`MEANT`] go behind it.
///
/// `CROSS JOIN` is how SQLite is told to go through the tables in this order.
pub(super) const AMONG: &str = "
      FROM {given} CROSS JOIN pool_range r CROSS JOIN elastic_ip e";

/// Whether `e` is the elastic IP that is meant.
///
/// There is no index on the id: an id says at which address of each range it can be. Whether the
/// row is held, and seen by the caller, is asked afterwards.
pub(super) const MEANT: &str = "
     WHERE e.address = CASE WHEN given.address >= 0 THEN given.address
                            ELSE r.first + given.number % r.size END
       AND e.range_first = r.first
       AND (given.address >= 0 OR e.id = given.id)";

/// Whether a scope has what a project owns.
pub(super) fn sees(scope: &Scope, project: &ProjectName) -> bool {
    scope.project().is_none_or(|only| only == project)
}

/// An elastic IP that is held, and locked until the transaction ends.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) id: ElasticIpId,
    pub(super) address: Ipv4Addr,
    pub(super) project: ProjectName,
    pub(super) pool: PoolName,
    pub(super) name: Option<Label>,
    pub(super) tags: Tags,
    pub(super) allocated_at: Timestamp,
    pub(super) revision: u64,
    pub(super) protected: bool,
}

const HELD: &str = "
    SELECT given.n, e.id, e.address, e.project, e.pool, e.name, CAST(e.tags AS text) AS tags,
           e.allocated_at, e.released_at, e.revision, e.protected";

/// Locks the elastic IPs that the commands mean; `None` where there is none that the caller sees.
pub(super) async fn lock_all<T: Tx, C: Aims + Sync>(
    tx: &mut T,
    commands: &[C],
) -> Result<Vec<Option<Held>>, Failure> {
    let numbered = numbered(commands);
    let sql = [HELD, AMONG, MEANT, " ORDER BY e.address FOR UPDATE OF e"].concat();
    let found = tx.each(&sql, aims(&numbered)).await?;
    let mut held: Vec<Option<Held>> = commands.iter().map(|_| None).collect();
    for row in &found {
        let at = place(row)?;
        let one = read_held(row).map_err(|e| e.within("elastic_ip"))?;
        if rows::is_held(row)? && commands.get(at).is_some_and(|c| sees(c.scope(), &one.project)) {
            held[at] = Some(one);
        }
    }
    Ok(held)
}

pub(super) fn read_held(row: &impl Cells) -> Result<Held, Wrong> {
    Ok(Held {
        id: ElasticIpId::new(row.id("id")?),
        address: row.address("address")?,
        project: row.parsed("project")?,
        pool: row.parsed("pool")?,
        name: row.maybe("name")?,
        tags: rows::tags(row)?,
        allocated_at: row.moment("allocated_at")?,
        revision: row.number("revision")?,
        protected: row.flag("protected")?,
    })
}

/// Locks the elastic IP that is meant, or refuses.
pub(super) async fn lock<T: Tx>(
    tx: &mut T,
    target: ElasticIpRef,
    scope: &Scope,
) -> Result<Held, Failure> {
    let aim = Aim { target, scope };
    let mut found = lock_all(tx, &[aim]).await?;
    found.pop().flatten().ok_or_else(|| Refusal::ElasticIpNotFound.into())
}

/// An elastic IP that is meant, and who means it.
#[derive(Debug)]
pub(super) struct Aim<'s> {
    pub(super) target: ElasticIpRef,
    pub(super) scope: &'s Scope,
}

impl Aims for Aim<'_> {
    fn target(&self) -> ElasticIpRef {
        self.target
    }

    fn scope(&self) -> &Scope {
        self.scope
    }
}

/// Notes that elastic IPs or their associations have changed.
pub(super) async fn touch<T: Tx>(
    tx: &mut T,
    addresses: &[Ipv4Addr],
    now: Timestamp,
) -> Result<(), Failure> {
    tx.later(
        "UPDATE elastic_ip SET revision = elastic_ip.revision + 1, updated_at = given.now
           FROM {given} WHERE elastic_ip.address = given.address",
        Given::of(addresses).with("address", |a| *a).with("now", move |_| now),
    )
    .await
}

/// What an elastic IP is pointed at.
#[derive(Debug, Clone)]
pub(super) struct Pointed {
    pub(super) instance_id: InstanceId,
    pub(super) instance_name: String,
    pub(super) host: HostName,
    pub(super) generation: Generation,
    pub(super) associated_at: Timestamp,
    pub(super) mode: Mode,
    pub(super) network: Option<String>,
}

/// Returns what elastic IPs that are locked are pointed at.
pub(super) async fn pointed<T: Tx>(
    tx: &mut T,
    addresses: &[Ipv4Addr],
) -> Result<BTreeMap<Ipv4Addr, Pointed>, Failure> {
    let found = tx
        .each(
            "SELECT a.address, a.instance_id, i.name AS instance_name, a.host, a.generation,
                    a.associated_at, a.mode, a.network
               FROM {given}
               JOIN association a ON a.address = given.address
               JOIN instance i ON i.id = a.instance_id",
            Given::of(addresses).with("address", |a| *a),
        )
        .await?;
    let read = |row: &T::Row| -> Result<_, Wrong> {
        let pointed = Pointed {
            instance_id: InstanceId::new(row.id("instance_id")?),
            instance_name: row.words("instance_name")?,
            host: row.parsed("host")?,
            generation: row.generation("generation")?,
            associated_at: row.moment("associated_at")?,
            mode: row.parsed("mode")?,
            network: row.text("network")?,
        };
        Ok((row.address("address")?, pointed))
    };
    let pointed = found.iter().map(read).collect::<Result<_, _>>();
    Ok(pointed.map_err(|e| e.within("association"))?)
}

/// Who is in an event, besides the elastic IP.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Party<'a> {
    pub(super) instance_id: Option<InstanceId>,
    pub(super) instance_name: Option<&'a str>,
    pub(super) host: Option<&'a HostName>,
}

impl Pointed {
    pub(super) fn party(&self) -> Party<'_> {
        Party {
            instance_id: Some(self.instance_id),
            instance_name: Some(&self.instance_name),
            host: Some(&self.host),
        }
    }
}

impl Held {
    /// The event of a change of this elastic IP.
    pub(super) fn event(
        &self,
        kind: EventKind,
        actor: &str,
        at: Timestamp,
        party: Party<'_>,
    ) -> NewEvent {
        NewEvent {
            at,
            kind,
            project: Some(self.project.clone()),
            elastic_ip: Some(self.id),
            address: Some(self.address),
            instance_id: party.instance_id,
            instance_name: party.instance_name.map(str::to_owned),
            host: party.host.cloned(),
            actor: actor.to_owned(),
            subject: None,
            detail: None,
        }
    }
}

/// Says that a row which must be there is not.
pub(super) fn gone(table: &'static str, what: impl std::fmt::Display) -> Failure {
    StoreError::Corrupt { table, what: format!("{what} is not there") }.into()
}

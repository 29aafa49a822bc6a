//! What every change of an elastic IP is made of: finding it, locking it, telling of it.
//!
//! Every transaction locks in this order, so that no two wait for each other: the elastic IP, the
//! instance, what hosts are letting go of, the hosts by name, the association.

use std::net::Ipv4Addr;

use eip_model::{
    ElasticIpId, ElasticIpRef, EventKind, Generation, HostName, InstanceId, Label, PoolName,
    ProjectName, Tags, derive_offset,
};
use jiff::Timestamp;

use crate::error::{Refusal, StoreError};
use crate::records::Scope;
use crate::rows::{self, Cells, Wrong};
use crate::transaction::{Dialect, Failure, Tx};
use crate::value::{Statement, values};

/// Adds the condition that it is the elastic IP that is meant, and that the scope may see it.
///
/// There is no index on the id: an id says at which address of each range it can be. Whether the
/// row is held is for the caller to ask ([`rows::is_held`]): a planner that has not yet counted the
/// table would rather read the whole index of what is held, or of a project, than look one up.
pub(super) fn meant<'a>(
    dialect: Dialect,
    statement: &mut Statement<'a>,
    target: ElasticIpRef,
    scope: &'a Scope,
) {
    match target {
        ElasticIpRef::Address(address) => statement.add(" WHERE e.address = ?", values![address]),
        ElasticIpRef::Id(id) => {
            statement.add(" WHERE e.address", values![]);
            statement.add(dialect.stands_for, values![offset_of(id)]);
            statement.add(" AND e.id = ?", values![id]);
        }
    }
    if let Scope::Project(project) = scope {
        statement.add(" AND (e.project = ?) IS TRUE", values![project]);
    }
}

/// The three address bytes of an id as a number.
pub(super) fn offset_of(id: ElasticIpId) -> u32 {
    derive_offset(id.uuid(), eip_model::OFFSET_SPACE)
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
}

const HELD: &str = "
    SELECT e.id, e.address, e.project, e.pool, e.name, CAST(e.tags AS text) AS tags,
           e.allocated_at, e.released_at
      FROM elastic_ip e";

/// Locks the elastic IP that is meant, or refuses.
pub(super) async fn lock<T: Tx>(
    tx: &mut T,
    target: ElasticIpRef,
    scope: &Scope,
) -> Result<Held, Failure> {
    let mut statement = Statement::new(HELD, values![]);
    meant(T::DIALECT, &mut statement, target, scope);
    statement.add(" FOR UPDATE", values![]);
    let row = tx.row(&statement.text, &statement.values).await?;
    let row = row.ok_or(Refusal::ElasticIpNotFound)?;
    if !rows::is_held(&row)? {
        return Err(Refusal::ElasticIpNotFound.into());
    }
    let read = || -> Result<_, Wrong> {
        Ok(Held {
            id: ElasticIpId::new(row.id("id")?),
            address: row.address("address")?,
            project: row.parsed("project")?,
            pool: row.parsed("pool")?,
            name: row.maybe("name")?,
            tags: rows::tags(&row)?,
            allocated_at: row.moment("allocated_at")?,
        })
    };
    Ok(read().map_err(|e| e.within("elastic_ip"))?)
}

/// Notes that the elastic IP or its association has changed.
pub(super) async fn touch<T: Tx>(tx: &mut T, held: &Held, now: Timestamp) -> Result<(), Failure> {
    tx.run(
        "UPDATE elastic_ip SET revision = revision + 1, updated_at = $2 WHERE address = $1",
        values![held.address, now],
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
}

/// Returns what an elastic IP that is locked is pointed at.
pub(super) async fn pointed<T: Tx>(
    tx: &mut T,
    address: Ipv4Addr,
) -> Result<Option<Pointed>, Failure> {
    let row = tx
        .row(
            "SELECT a.instance_id, i.name AS instance_name, a.host, a.generation
               FROM association a
               JOIN instance i ON i.id = a.instance_id
              WHERE a.address = $1",
            values![address],
        )
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let read = || -> Result<_, Wrong> {
        Ok(Pointed {
            instance_id: InstanceId::new(row.id("instance_id")?),
            instance_name: row.words("instance_name")?,
            host: row.parsed("host")?,
            generation: row.generation("generation")?,
        })
    };
    Ok(Some(read().map_err(|e| e.within("association"))?))
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

/// What an event is about, and who made it happen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) id: ElasticIpId,
    pub(super) address: Ipv4Addr,
    pub(super) project: &'a ProjectName,
    pub(super) actor: &'a str,
    pub(super) now: Timestamp,
}

impl Held {
    pub(super) fn told<'a>(&'a self, actor: &'a str, now: Timestamp) -> Told<'a> {
        Told { id: self.id, address: self.address, project: &self.project, actor, now }
    }
}

/// Writes the event of a change.
pub(super) async fn tell<T: Tx>(
    tx: &mut T,
    kind: EventKind,
    told: Told<'_>,
    party: Party<'_>,
) -> Result<(), Failure> {
    tx.run(
        "INSERT INTO event (at, kind, project, elastic_ip_id, address,
                            instance_id, instance_name, host, actor)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        values![
            told.now,
            kind.as_str(),
            told.project,
            told.id,
            told.address,
            party.instance_id,
            party.instance_name,
            party.host,
            told.actor,
        ],
    )
    .await
}

/// Says that a row which must be there is not.
pub(super) fn gone(table: &'static str, what: impl std::fmt::Display) -> Failure {
    StoreError::Corrupt { table, what: format!("{what} is not there") }.into()
}

//! Taking in the instances of a host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use eip_model::{
    AddressSource, ElasticIpRef, EventKind, HostName, InstanceId, InstanceReport, InventoryPart,
    InventoryScope, ProjectName,
};
use jiff::Timestamp;

use super::held::{Aim, Held, lock_all, pointed, touch};
use super::hosts::{Ending, bump, end_associations, ensure, letting_go};
use super::inventory_diff::{Changes, changes, statuses};
use crate::error::{Refusal, StoreError};
use crate::given::Given;
use crate::records::{InventoryOutcome, Scope};
use crate::rows::{self, Cells, Wrong};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

#[derive(Debug)]
pub(super) struct RecordInventory {
    pub(super) host: HostName,
    pub(super) default_project: ProjectName,
    pub(super) part: InventoryPart,
    pub(super) now: Timestamp,
}

/// Gives the ids of those that are this host's.
///
/// `WHERE true` is how SQLite is told that `ON` belongs to no join.
const WRITE: &str = "
    INSERT INTO instance AS was
           (id, host, backend, name, project, state, private_ip, vpc_id, unusable, updated_at,
            address_source, modes, interfaces)
    SELECT given.id, given.host, given.backend, given.name, given.project, given.state,
           given.private_ip, given.vpc_id, given.unusable, given.now, given.address_source,
           given.modes, given.interfaces
      FROM {given} WHERE true ORDER BY given.id
        ON CONFLICT (id) DO UPDATE
       SET backend = excluded.backend, name = excluded.name, project = excluded.project,
           state = excluded.state, private_ip = excluded.private_ip, vpc_id = excluded.vpc_id,
           unusable = excluded.unusable, updated_at = excluded.updated_at,
           address_source = excluded.address_source, modes = excluded.modes,
           interfaces = excluded.interfaces
     WHERE was.host = excluded.host
    RETURNING id";

const KNOWN: &str = "
    SELECT i.id, i.backend, i.name, i.project, i.state, i.private_ip, i.address_source, i.vpc_id,
           i.unusable, i.modes, CAST(i.interfaces AS text) AS interfaces
      FROM instance i";

impl UseCase for RecordInventory {
    type Answer = InventoryOutcome;
    const DOING: &'static str = "take in the instances of a host";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<InventoryOutcome, Failure> {
        // Two reports of one host, compared with the same record, would undo each other.
        tx.alone(&format!("inventory of {}", self.host)).await?;
        ensure(tx, &[&self.host], self.now).await?;
        self.refuse_late(tx).await?;
        let known = self.known(tx).await?;
        let backends = &self.part.backends;
        let Changes { written, removed } = changes(&known, backends, &self.default_project);
        let held = self.lock_held(tx, &removed).await?;
        let refused = self.write(tx, &written).await?;
        let ended = self.end(tx, &removed, &held).await?;
        tx.each(
            "DELETE FROM instance WHERE id IN (SELECT given.id FROM {given})",
            Given::of(&removed).with("id", |id| *id),
        )
        .await?;
        let statuses = serde_json::to_value(statuses(backends))
            .map_err(|e| StoreError::Corrupt { table: "host", what: e.to_string() })?;
        tx.run(
            "UPDATE host SET backends = $2, last_seen_at = $3 WHERE name = $1",
            values![&self.host, statuses, self.now],
        )
        .await?;
        if let Some((run, number)) = self.order() {
            tx.run(
                "UPDATE host SET inventory_run = $2, inventory_number = $3 WHERE name = $1",
                values![&self.host, run, number],
            )
            .await?;
        }
        Ok(InventoryOutcome { ended, refused })
    }
}

impl RecordInventory {
    /// No record comes near the end of i64, but a part may say anything.
    fn order(&self) -> Option<(i64, i64)> {
        let number = |of: u64| i64::try_from(of).unwrap_or(i64::MAX);
        self.part.order.map(|order| (number(order.run), number(order.number)))
    }

    /// Refuses what was sent before something that has been taken in. What it is compared with cannot change
    /// meanwhile: a host's inventories are taken in one by one.
    async fn refuse_late<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        let Some(order) = self.order() else { return Ok(()) };
        let last = tx
            .row(
                "SELECT inventory_run, inventory_number FROM host WHERE name = $1",
                values![&self.host],
            )
            .await?;
        let read = |row: &T::Row| -> Result<_, Wrong> {
            let number = |column| row.int(column).map(Option::unwrap_or_default);
            Ok((number("inventory_run")?, number("inventory_number")?))
        };
        let last = last.as_ref().map(read).transpose().map_err(|e| e.within("host"))?;
        match last {
            Some(last) if last >= order => Err(Refusal::PreconditionFailed.into()),
            Some(_) | None => Ok(()),
        }
    }

    async fn known<T: Tx>(
        &self,
        tx: &mut T,
    ) -> Result<BTreeMap<InstanceId, InstanceReport>, Failure> {
        let known = match &self.part.scope {
            InventoryScope::All => {
                tx.rows(&format!("{KNOWN} WHERE i.host = $1"), values![&self.host]).await?
            }
            InventoryScope::Range { first, last } => {
                let within = format!("{KNOWN} WHERE i.host = $1 AND i.id >= $2 AND i.id <= $3");
                tx.rows(&within, values![&self.host, *first, *last]).await?
            }
            InventoryScope::These { ids } => {
                let these =
                    format!("{KNOWN} JOIN {{given}} ON i.id = given.id AND i.host = given.host");
                let host = &self.host;
                let given = Given::of(ids).with("id", |id| *id).with("host", move |_| host);
                tx.each(&these, given).await?
            }
        };
        let read = |row: &T::Row| -> Result<_, Wrong> {
            let id = InstanceId::new(row.id("id")?);
            let report = InstanceReport {
                id,
                backend: row.parsed("backend")?,
                name: row.words("name")?,
                project: Some(row.parsed("project")?),
                state: row.parsed("state")?,
                private_ip: row.maybe_address("private_ip")?,
                address_source: row.maybe("address_source")?,
                vpc_id: row.text("vpc_id")?,
                unusable: row.maybe("unusable")?,
                modes: rows::modes(row)?,
                interfaces: rows::interfaces(row)?,
            };
            Ok((id, report))
        };
        let known = known.iter().map(read).collect::<Result<_, _>>();
        Ok(known.map_err(|e| e.within("instance"))?)
    }

    /// Locks the elastic IPs that point at instances which are gone, by address.
    async fn lock_held<T: Tx>(
        &self,
        tx: &mut T,
        removed: &[InstanceId],
    ) -> Result<BTreeMap<Ipv4Addr, Held>, Failure> {
        let pointing = self.associations_of(tx, removed).await?;
        let aims: Vec<Aim<'_>> = pointing
            .keys()
            .map(|address| Aim {
                target: ElasticIpRef::Address(*address),
                scope: &Scope::Everything,
            })
            .collect();
        // One that is not there was disassociated and released in the meantime.
        let held = lock_all(tx, &aims).await?;
        Ok(held.into_iter().flatten().map(|one| (one.address, one)).collect())
    }

    async fn associations_of<T: Tx>(
        &self,
        tx: &mut T,
        removed: &[InstanceId],
    ) -> Result<BTreeMap<Ipv4Addr, InstanceId>, Failure> {
        let host = &self.host;
        let found = tx
            .each(
                "SELECT a.address, a.instance_id FROM {given}
                   JOIN association a ON a.instance_id = given.id AND a.host = given.host",
                Given::of(removed).with("id", |id| *id).with("host", move |_| host),
            )
            .await?;
        let read = |row: &T::Row| -> Result<_, Wrong> {
            Ok((row.address("address")?, InstanceId::new(row.id("instance_id")?)))
        };
        let found = found.iter().map(read).collect::<Result<BTreeMap<_, _>, _>>();
        Ok(found.map_err(|e| e.within("association"))?)
    }

    /// Writes what is new or different, and returns what belongs to another host.
    async fn write<T: Tx>(
        &self,
        tx: &mut T,
        written: &[InstanceReport],
    ) -> Result<Vec<InstanceId>, Failure> {
        let (host, now) = (&self.host, self.now);
        let rows = Given::of(written)
            .with("id", |one| one.id)
            .with("host", move |_| host.as_str())
            .with("backend", |one| one.backend.as_str())
            .with("name", |one| one.name.as_str())
            .with("project", |one| one.project.as_ref())
            .with("state", |one| one.state.as_str())
            .with("private_ip", |one| one.private_ip)
            .with("vpc_id", |one| one.vpc_id.as_deref())
            .with("unusable", |one| one.unusable.map(eip_model::Unusable::as_str))
            .with("now", move |_| now)
            .with("address_source", |one| one.address_source.map(AddressSource::as_str))
            .with("modes", |one| {
                one.modes.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(" ")
            })
            .with("interfaces", |one| serde_json::to_value(&one.interfaces).unwrap_or_default());
        let ours = tx.each(WRITE, rows).await?;
        let ours = ours.iter().map(|row| row.id("id")).collect::<Result<BTreeSet<_>, _>>();
        let ours = ours.map_err(|e| e.within("instance"))?;
        let ids = written.iter().map(|one| one.id);
        Ok(ids.filter(|id| !ours.contains(&id.uuid())).collect())
    }

    /// Ends the associations of instances that are gone, and bumps the host once if there are any.
    async fn end<T: Tx>(
        &self,
        tx: &mut T,
        removed: &[InstanceId],
        held: &BTreeMap<Ipv4Addr, Held>,
    ) -> Result<Vec<Ipv4Addr>, Failure> {
        tx.each(
            "SELECT i.id FROM {given} JOIN instance i ON i.id = given.id
              ORDER BY i.id FOR UPDATE OF i",
            Given::of(removed).with("id", |id| *id),
        )
        .await?;
        // Nobody can point at these instances any more: what there is now is all.
        let associations = self.associations_of(tx, removed).await?;
        if associations.is_empty() {
            return Ok(Vec::new());
        }
        let addresses: Vec<Ipv4Addr> = associations.keys().copied().collect();
        // One that is not held was made after the elastic IPs were locked, whose locks come first.
        let new = || Failure::Again("an instance was associated while it was removed".into());
        let pointed = pointed(tx, &addresses).await?;
        let letting_go = letting_go(tx, &addresses).await?;
        let bumped = bump(tx, &BTreeSet::from([self.host.clone()])).await?;
        let without = bumped.get(&self.host).map(|host| host.generation).unwrap_or_default();
        let actor = format!("agent:{}", self.host);
        let mut ending = Vec::new();
        for address in &addresses {
            let held = held.get(address).ok_or_else(new)?;
            let pointed = pointed.get(address).ok_or_else(new)?;
            let fenced = letting_go.get(address).is_some_and(|all| all.fences(&self.host));
            ending.push(Ending { address: *address, pointed, without, had: !fenced });
            tx.tell(held.event(EventKind::InstanceRemoved, &actor, self.now, pointed.party()));
        }
        end_associations(tx, &ending).await?;
        touch(tx, &addresses, self.now).await?;
        Ok(addresses)
    }
}

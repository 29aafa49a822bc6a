//! Holding addresses.

use std::collections::{BTreeMap, BTreeSet};

use eip_model::{EventKind, ProjectName};
use uuid::Uuid;

use super::answers;
use super::counts::{Counts, Limit};
use crate::error::{Refusal, StoreError};
use crate::given::Given;
use crate::news::NewEvent;
use crate::records::{Allocated, ElasticIpRecord, NewAllocation};
use crate::rows::{self, Cells};
use crate::transaction::{Batch, Failure, Outcome, Tx};
use crate::value::values;

/// Takes addresses that no row is about, and leaves alone what somebody else has, or calls so.
const TAKE: &str = "
    INSERT INTO elastic_ip
           (address, id, range_first, range_size, pool, project, name, tags,
            allocated_at, updated_at, revision, protected)
    SELECT given.address, given.id, given.range_first, given.range_size, given.pool,
           given.project, given.name, given.tags, given.now, given.now, 1, given.protected
      FROM {given}
      JOIN pool_range r ON r.first = given.range_first AND r.size = given.range_size
                       AND r.pool = given.pool AND r.open = 1
     WHERE true
    ON CONFLICT DO NOTHING
    RETURNING id";

/// Takes one address that a row is about, if it may be woken from its quarantine. The primary key
/// decides between two at once.
const WAKE: &str = "
    UPDATE elastic_ip
       SET id = given.id, range_first = given.range_first, range_size = given.range_size,
           pool = given.pool, project = given.project, name = given.name, tags = given.tags,
           allocated_at = given.now, updated_at = given.now, revision = 1,
           released_at = NULL, quarantine_until = NULL, protected = given.protected
      FROM {given}
     WHERE elastic_ip.address = given.address
       AND EXISTS (SELECT 1 FROM pool_range r
                    WHERE r.first = given.range_first AND r.size = given.range_size
                      AND r.pool = given.pool AND r.open = 1)
       AND elastic_ip.released_at IS NOT NULL
       AND (elastic_ip.quarantine_until <= given.now
            OR (given.asked_for AND elastic_ip.project = given.project))
    RETURNING elastic_ip.address";

/// Takes all addresses that are free, as far as the quotas reach, and counts and tells it.
const SWIFT: &str = "
    WITH given AS MATERIALIZED (SELECT * FROM {given}),
    room AS MATERIALIZED (
        SELECT p.name, p.quota - p.held AS left_over FROM project p
         WHERE p.name = ANY (ARRAY(SELECT project FROM given)) ORDER BY p.name FOR UPDATE OF p),
    taken AS (
        INSERT INTO elastic_ip
               (address, id, range_first, range_size, pool, project, name, tags,
                allocated_at, updated_at, revision, protected)
        SELECT g.address, g.id, g.range_first, g.range_size, g.pool, g.project, g.name, g.tags,
               g.now, g.now, 1, g.protected
          FROM (SELECT *, row_number() OVER (PARTITION BY project) AS rank FROM given) g
          JOIN room ON room.name = g.project
          JOIN pool_range r
            ON r.first = g.range_first AND r.size = g.range_size AND r.pool = g.pool
           AND r.open = 1
         WHERE room.left_over IS NULL OR g.rank <= room.left_over
        ON CONFLICT DO NOTHING
        RETURNING id, project, pool),
    counted AS (
        UPDATE project SET held = project.held + t.count
          FROM (SELECT project, count(*) AS count FROM taken GROUP BY project) t
         WHERE project.name = t.project),
    filled AS (
        UPDATE pool SET held = pool.held + t.count
          FROM (SELECT pool, count(*) AS count FROM taken GROUP BY pool) t
         WHERE pool.name = t.pool),
    turn AS MATERIALIZED (SELECT array_agg(id) AS ids, {lock}, {tell}('')
          FROM taken HAVING count(*) > 0),
    told AS (
        INSERT INTO event (at, kind, project, elastic_ip_id, address, actor)
        SELECT given.now, 'allocated', given.project, given.id, given.address, given.actor
          FROM turn CROSS JOIN given WHERE given.id = ANY (turn.ids))
    SELECT given.n FROM turn CROSS JOIN given WHERE given.id = ANY (turn.ids)";

impl Batch for NewAllocation {
    type Answer = Allocated;
    const DOING: &'static str = "allocate an address";
    const SWIFT: Option<&'static str> = Some(SWIFT);

    fn about(&self) -> Option<String> {
        Some(self.project.to_string())
    }

    fn swift_rows(commands: &[Self]) -> Given {
        let plain = commands.iter().enumerate().filter(|(_, one)| one.once.is_none());
        let mut numbered: Vec<(usize, &Self)> = plain.collect();
        sort(&mut numbered);
        new_rows(&numbered)
    }

    fn swift_answer(&self, _row: &impl Cells) -> Result<Allocated, StoreError> {
        Ok(self.allocated())
    }

    /// Quotas are asked once for the whole batch: what a project may take is read before, and the
    /// counter, which goes up by all that was taken, decides whether that was still so.
    async fn settle<T: Tx>(
        tx: &mut T,
        commands: &[Self],
    ) -> Result<Vec<Outcome<Allocated>>, Failure> {
        let mut rooms = rooms(tx, commands).await?;
        let mut answered = answers::enter(tx, commands).await?;
        let mut outcomes: Vec<Option<Outcome<Allocated>>> = Vec::new();
        let mut entitled = Vec::new();
        for (place, command) in commands.iter().enumerate() {
            if let Some(outcome) = answered.remove(&place) {
                outcomes.push(Some(outcome));
                continue;
            }
            // It was deleted since the caller was let in.
            let room = rooms.get_mut(&command.project).ok_or(Refusal::ProjectNotFound);
            match room.and_then(Room::take_one) {
                Ok(()) => {
                    entitled.push((place, command));
                    outcomes.push(None);
                }
                Err(refusal) => outcomes.push(Some(Outcome::Refused(refusal))),
            }
        }
        let taken = take(tx, &mut entitled).await?;
        let mut counts = Counts::default();
        for (place, command) in entitled {
            let was_free = taken.contains(&command.id.uuid());
            let outcome = if was_free {
                Outcome::Done(command.allocated())
            } else {
                second_try(tx, command).await?
            };
            if matches!(outcome, Outcome::Done(_)) {
                tx.tell(command.event());
                counts.taken(command, !was_free);
            }
            outcomes[place] = Some(outcome);
        }
        counts.enter(tx, Limit::Quota).await?;
        let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Again));
        let outcomes: Vec<Outcome<Allocated>> = outcomes.collect();
        answers::withdraw(tx, commands, &outcomes).await?;
        Ok(outcomes)
    }
}

/// How many addresses a project may still take.
#[derive(Debug)]
struct Room {
    quota: Option<u64>,
    held: u64,
    taken: u64,
}

impl Room {
    fn take_one(&mut self) -> Result<(), Refusal> {
        match self.quota {
            Some(quota) if self.held + self.taken >= quota => Err(Refusal::QuotaExceeded { quota }),
            Some(_) | None => {
                self.taken += 1;
                Ok(())
            }
        }
    }
}

/// Returns how much room each project has by now.
async fn rooms<T: Tx>(
    tx: &mut T,
    commands: &[NewAllocation],
) -> Result<BTreeMap<ProjectName, Room>, Failure> {
    let names: BTreeSet<&ProjectName> = commands.iter().map(|command| &command.project).collect();
    let names: Vec<&ProjectName> = names.into_iter().collect();
    let found = tx
        .each(
            "SELECT p.name, p.quota, p.held FROM {given} JOIN project p ON p.name = given.name",
            Given::of(&names).with("name", |name| *name),
        )
        .await?;
    let read = |row: &T::Row| -> Result<_, rows::Wrong> {
        let quota = row.int("quota")?.map(u64::try_from).transpose();
        let quota = quota.map_err(|e| rows::Wrong(format!("quota: {e}")))?;
        Ok((row.parsed("name")?, Room { quota, held: row.number("held")?, taken: 0 }))
    };
    let rooms = found.iter().map(read).collect::<Result<_, _>>();
    Ok(rooms.map_err(|e| e.within("project"))?)
}

/// In the order of names and addresses, so that two batches that want the same do not wait for each
/// other.
fn sort(numbered: &mut [(usize, &NewAllocation)]) {
    numbered.sort_by(|(_, one), (_, other)| {
        (&one.name, one.address).cmp(&(&other.name, other.address))
    });
}

/// Takes all that are free.
async fn take<T: Tx>(
    tx: &mut T,
    entitled: &mut [(usize, &NewAllocation)],
) -> Result<BTreeSet<Uuid>, Failure> {
    sort(entitled);
    let taken = tx.each(TAKE, new_rows(entitled)).await?;
    let ids = taken.iter().map(|row| row.id("id")).collect::<Result<_, _>>();
    Ok(ids.map_err(|e| e.within("elastic_ip"))?)
}

fn new_rows(entitled: &[(usize, &NewAllocation)]) -> Given {
    Given::of(entitled)
        .with("n", |(n, _)| i64::try_from(*n).unwrap_or(-1))
        .with("address", |(_, one)| one.address)
        .with("id", |(_, one)| one.id)
        .with("range_first", |(_, one)| one.range.first())
        .with("range_size", |(_, one)| one.range.size())
        .with("pool", |(_, one)| &one.pool)
        .with("project", |(_, one)| &one.project)
        .with("name", |(_, one)| one.name.as_ref())
        .with("tags", |(_, one)| &one.tags)
        .with("now", |(_, one)| one.now)
        .with("asked_for", |(_, one)| one.asked_for)
        .with("actor", |(_, one)| one.actor.as_str())
        .with("protected", |(_, one)| i64::from(one.protected))
        .into()
}

/// Tries what was not simply free: the name may be taken, or the address asleep.
async fn second_try<T: Tx>(
    tx: &mut T,
    command: &NewAllocation,
) -> Result<Outcome<Allocated>, Failure> {
    let named = tx
        .row(
            "SELECT address FROM elastic_ip
              WHERE project = $1 AND name = $2 AND released_at IS NULL",
            values![&command.project, command.name.as_ref()],
        )
        .await?;
    if named.is_some() {
        return Ok(Outcome::Refused(Refusal::NameInUse));
    }
    let woken = tx.each(WAKE, new_rows(&[(0, command)])).await?;
    if !woken.is_empty() {
        return Ok(Outcome::Done(command.allocated()));
    }
    let there = tx
        .row("SELECT address FROM elastic_ip WHERE address = $1", values![command.address])
        .await?;
    if there.is_some() {
        return Ok(Outcome::Refused(Refusal::AddressInUse));
    }
    let (first, size) = (command.range.first(), command.range.size());
    let range = "SELECT open FROM pool_range WHERE first = $1 AND size = $2 AND pool = $3";
    match tx.row(range, values![first, size, &command.pool]).await? {
        Some(row) => match row.int("open").map_err(|e| e.within("pool_range"))? {
            Some(0) => Ok(Outcome::Refused(Refusal::PoolDraining)),
            // What was in the way is gone: the next batch takes it.
            Some(_) | None => Ok(Outcome::Again),
        },
        None => Ok(Outcome::Refused(Refusal::PoolNotFound)),
    }
}

impl NewAllocation {
    fn event(&self) -> NewEvent {
        NewEvent {
            at: self.now,
            kind: EventKind::Allocated,
            project: Some(self.project.clone()),
            elastic_ip: Some(self.id),
            address: Some(self.address),
            instance_id: None,
            instance_name: None,
            host: None,
            actor: self.actor.clone(),
            subject: None,
            detail: None,
        }
    }

    /// What is recorded once it is held.
    fn allocated(&self) -> Allocated {
        let record = ElasticIpRecord {
            id: self.id,
            address: self.address,
            project: self.project.clone(),
            pool: self.pool.clone(),
            name: self.name.clone(),
            tags: self.tags.clone(),
            protected: self.protected,
            allocated_at: self.now,
            updated_at: self.now,
            revision: 1,
            association: None,
            letting_go: None,
        };
        Allocated { record, repeated: false }
    }
}

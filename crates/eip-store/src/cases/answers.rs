//! Answers that are given again to whoever repeats a request under the same Idempotency-Key.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use eip_model::{ElasticIpId, Label, PoolName, ProjectName, Tags};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Refusal, StoreError};
use crate::given::Given;
use crate::records::{Allocated, ElasticIpRecord, NewAllocation, OnceKey};
use crate::rows::{Cells, Wrong};
use crate::transaction::{Failure, Outcome, Tx, UseCase};
use crate::value::values;

/// What was answered: the elastic IP as it was when it was allocated.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    id: ElasticIpId,
    address: Ipv4Addr,
    project: ProjectName,
    pool: PoolName,
    name: Option<Label>,
    tags: Tags,
    #[serde(default)]
    protected: bool,
    allocated_at: Timestamp,
}

impl Kept {
    fn of(new: &NewAllocation) -> Self {
        Self {
            id: new.id,
            address: new.address,
            project: new.project.clone(),
            pool: new.pool.clone(),
            name: new.name.clone(),
            tags: new.tags.clone(),
            protected: new.protected,
            allocated_at: new.now,
        }
    }

    fn record(self) -> ElasticIpRecord {
        ElasticIpRecord {
            id: self.id,
            address: self.address,
            project: self.project,
            pool: self.pool,
            name: self.name,
            tags: self.tags,
            protected: self.protected,
            allocated_at: self.allocated_at,
            updated_at: self.allocated_at,
            revision: 1,
            association: None,
            letting_go: None,
        }
    }
}

/// Whose key it is, and the key.
type Name<'k> = (&'k str, &'k str);

fn name(once: &OnceKey) -> Name<'_> {
    (once.owner.as_str(), once.key.as_str())
}

/// Enters an answer for every command that names a key, or says what was answered before.
///
/// What was answered before is written to all the same, so that the answer waits for the disk and
/// for standbys like the first one. A command that is not carried out must be taken out again by
/// [`withdraw`].
pub(super) async fn enter<T: Tx>(
    tx: &mut T,
    commands: &[NewAllocation],
) -> Result<BTreeMap<usize, Outcome<Allocated>>, Failure> {
    let mut outcomes = BTreeMap::new();
    let mut entering: BTreeMap<Name<'_>, (usize, &NewAllocation, &OnceKey)> = BTreeMap::new();
    for (place, command) in commands.iter().enumerate() {
        let Some(once) = &command.once else { continue };
        match entering.entry(name(once)) {
            Entry::Occupied(_) => drop(outcomes.insert(place, Outcome::Again)),
            Entry::Vacant(free) => drop(free.insert((place, command, once))),
        }
    }
    let rows: Vec<_> = entering.values().copied().collect();
    let outcome = |command: &NewAllocation| serde_json::to_value(Kept::of(command));
    let entered = tx
        .each(
            "INSERT INTO answer (owner, key, fingerprint, outcome, answered_at, repeated)
             SELECT given.owner, given.key, given.fingerprint, given.outcome, given.now, 0
               FROM {given} WHERE true
             ON CONFLICT (owner, key) DO UPDATE SET repeated = answer.repeated + 1
             RETURNING owner, key, fingerprint, CAST(outcome AS text) AS outcome, repeated",
            Given::of(&rows)
                .with("owner", |(_, _, once)| once.owner.as_str())
                .with("key", |(_, _, once)| once.key.as_str())
                .with("fingerprint", |(_, _, once)| &once.fingerprint[..])
                .with("outcome", move |(_, command, _)| outcome(command).unwrap_or_default())
                .with("now", |(_, command, _)| command.now),
        )
        .await?;
    for row in &entered {
        let (name, answered) = answered(row).map_err(|e| e.within("answer"))?;
        let (owner, key) = (name.0.as_str(), name.1.as_str());
        let asked = entering.get(&(owner, key));
        if let (Some((place, _, once)), Some(fingerprint)) = (asked, answered) {
            let outcome = if fingerprint == once.fingerprint {
                let record = kept(row).map_err(|e| e.within("answer"))?;
                Outcome::Done(Allocated { record, repeated: true })
            } else {
                // It may not even have been an allocation.
                Outcome::Refused(Refusal::IdempotencyConflict)
            };
            outcomes.insert(*place, outcome);
        }
    }
    Ok(outcomes)
}

type Answered = ((String, String), Option<Vec<u8>>);

/// Reads whose answer it is, and what it was an answer to unless it was entered just now.
fn answered(row: &impl Cells) -> Result<Answered, Wrong> {
    let name = (row.words("owner")?, row.words("key")?);
    if row.number::<u64>("repeated")? == 0 {
        return Ok((name, None));
    }
    Ok((name, Some(row.bytes("fingerprint")?.unwrap_or_default())))
}

fn kept(row: &impl Cells) -> Result<ElasticIpRecord, Wrong> {
    let kept: Kept =
        serde_json::from_str(&row.words("outcome")?).map_err(|e| Wrong(format!("outcome: {e}")))?;
    Ok(kept.record())
}

/// What was answered to an allocation under this key.
#[derive(Debug)]
pub(super) struct AllocatedBefore(pub(super) OnceKey);

impl UseCase for AllocatedBefore {
    type Answer = Option<Allocated>;
    const DOING: &'static str = "look up an answer";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Option<Allocated>, Failure> {
        let (owner, key) = name(&self.0);
        let sql = "SELECT fingerprint, CAST(outcome AS text) AS outcome FROM answer
                    WHERE owner = $1 AND key = $2";
        let Some(row) = tx.row(sql, values![owner, key]).await? else { return Ok(None) };
        let fingerprint = row.bytes("fingerprint").map_err(|e| e.within("answer"))?;
        if fingerprint.unwrap_or_default() != self.0.fingerprint {
            return Err(Refusal::IdempotencyConflict.into());
        }
        let record = kept(&row).map_err(|e| e.within("answer"))?;
        Ok(Some(Allocated { record, repeated: true }))
    }
}

/// Takes out the answers of commands that were not carried out.
pub(super) async fn withdraw<T: Tx>(
    tx: &mut T,
    commands: &[NewAllocation],
    outcomes: &[Outcome<Allocated>],
) -> Result<(), Failure> {
    let mut done = BTreeSet::new();
    let mut not_done = BTreeSet::new();
    for (command, outcome) in commands.iter().zip(outcomes) {
        let Some(once) = &command.once else { continue };
        match outcome {
            Outcome::Done(_) | Outcome::Refused(Refusal::IdempotencyConflict) => {
                done.insert(name(once));
            }
            Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Again => {
                not_done.insert(name(once));
            }
        }
    }
    let withdrawn: Vec<Name<'_>> = not_done.difference(&done).copied().collect();
    tx.later(
        "DELETE FROM answer
          WHERE (owner, key) IN (SELECT given.owner, given.key FROM {given})",
        Given::of(&withdrawn).with("owner", |(owner, _)| *owner).with("key", |(_, key)| *key),
    )
    .await
}

/// How many answers one transaction forgets at most.
const AT_ONCE: i64 = 4_096;

#[derive(Debug)]
pub(super) struct ForgetAnswers {
    pub(super) before: Timestamp,
}

impl UseCase for ForgetAnswers {
    /// How many were forgotten; none when there are no more.
    type Answer = u64;
    const DOING: &'static str = "forget old answers";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<u64, Failure> {
        let forgotten = tx
            .rows(
                "DELETE FROM answer
                  WHERE (owner, key) IN (SELECT owner, key FROM answer WHERE answered_at < $1
                                          ORDER BY answered_at LIMIT $2)
                 RETURNING key",
                values![self.before, AT_ONCE],
            )
            .await?;
        u64::try_from(forgotten.len())
            .map_err(|e| StoreError::Corrupt { table: "answer", what: e.to_string() }.into())
    }
}

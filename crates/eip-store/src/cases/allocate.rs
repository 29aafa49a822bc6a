//! Holding an address.

use eip_model::EventKind;

use super::held::{Party, Told, tell};
use crate::error::Refusal;
use crate::records::{ElasticIpRecord, NewAllocation};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::Value;

/// Takes the address unless a row says that it is held or asleep; the primary key decides between
/// two at once. A row that may be woken becomes the new elastic IP.
pub(crate) const ALLOCATE: &str = "
    INSERT INTO elastic_ip AS was
           (address, id, range_first, range_size, pool, project, name, tags,
            allocated_at, updated_at, revision)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, 1)
    ON CONFLICT (address) DO UPDATE
       SET id = excluded.id, range_first = excluded.range_first,
           range_size = excluded.range_size, pool = excluded.pool, project = excluded.project,
           name = excluded.name, tags = excluded.tags, allocated_at = excluded.allocated_at,
           updated_at = excluded.updated_at, revision = excluded.revision,
           released_at = NULL, quarantine_until = NULL
     WHERE was.released_at IS NOT NULL
       AND (was.quarantine_until <= excluded.allocated_at
            OR ($10 AND was.project = excluded.project))
    RETURNING address, id, project, allocated_at";

impl UseCase for NewAllocation {
    type Answer = ElasticIpRecord;
    const DOING: &'static str = "allocate an address";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<ElasticIpRecord, Failure> {
        let taken = tx.row(ALLOCATE, &self.values()).await?;
        if taken.is_none() {
            return Err(Refusal::AddressInUse.into());
        }
        let told = Told {
            id: self.id,
            address: self.address,
            project: &self.project,
            actor: &self.actor,
            now: self.now,
        };
        tell(tx, EventKind::Allocated, told, Party::default()).await?;
        Ok(self.record())
    }
}

impl NewAllocation {
    /// The parameters of [`ALLOCATE`].
    pub(crate) fn values(&self) -> [Value<'_>; 10] {
        [
            self.address.into(),
            self.id.into(),
            self.range.first().into(),
            self.range.size().into(),
            (&self.pool).into(),
            (&self.project).into(),
            self.name.as_ref().into(),
            Value::Json(pairs(&self.tags)),
            self.now.into(),
            self.asked_for.into(),
        ]
    }

    /// What is recorded once it is held.
    pub(crate) fn record(&self) -> ElasticIpRecord {
        ElasticIpRecord {
            id: self.id,
            address: self.address,
            project: self.project.clone(),
            pool: self.pool.clone(),
            name: self.name.clone(),
            tags: self.tags.clone(),
            allocated_at: self.now,
            updated_at: self.now,
            revision: 1,
            association: None,
            letting_go: None,
        }
    }
}

/// The tags as a JSON object of texts.
pub(super) fn pairs(tags: &eip_model::Tags) -> serde_json::Value {
    let pairs = tags.as_map().iter();
    pairs.map(|(key, value)| (key.clone(), serde_json::Value::from(value.as_str()))).collect()
}

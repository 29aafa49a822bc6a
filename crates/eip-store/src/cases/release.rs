//! Ending a hold, and ending the quarantine that follows.

use std::net::Ipv4Addr;

use eip_model::EventKind;
use jiff::{Timestamp, ToSpan};

use super::held::{Held, Party, gone, lock, pointed, tell};
use crate::error::{Refusal, StoreError};
use crate::records::ReleaseCommand;
use crate::rows::{self, Cells};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

impl UseCase for ReleaseCommand {
    type Answer = ();
    const DOING: &'static str = "release an elastic IP";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        let held = lock(tx, self.target, &self.scope).await?;
        // An association is made only by who holds this lock, and the statement sees every one
        // that was made before: nobody can point a released elastic IP at anything.
        if let Some(pointed) = pointed(tx, held.address).await? {
            return Err(Refusal::StillAssociated { instance_name: pointed.instance_name }.into());
        }
        let until = sleeps_until(tx, &held, self.now).await?;
        tx.run(
            "UPDATE elastic_ip
                SET revision = revision + 1, updated_at = $2, released_at = $2,
                    quarantine_until = $3
              WHERE address = $1",
            values![held.address, self.now, until],
        )
        .await?;
        tx.run(
            "INSERT INTO past_allocation
                    (address, allocated_at, elastic_ip_id, project, pool, name, released_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            values![
                held.address,
                held.allocated_at,
                held.id,
                &held.project,
                &held.pool,
                held.name.as_ref(),
                self.now,
            ],
        )
        .await?;
        tell(tx, EventKind::Released, held.told(&self.actor, self.now), Party::default()).await
    }
}

async fn sleeps_until<T: Tx>(
    tx: &mut T,
    held: &Held,
    now: Timestamp,
) -> Result<Timestamp, Failure> {
    let row =
        tx.row("SELECT quarantine_seconds FROM pool WHERE name = $1", values![&held.pool]).await?;
    let row = row.ok_or_else(|| gone("pool", &held.pool))?;
    let seconds: u32 = row.number("quarantine_seconds").map_err(|e| e.within("pool"))?;
    let until = now.checked_add(i64::from(seconds).seconds());
    Ok(until.map_err(|e| StoreError::Corrupt { table: "pool", what: e.to_string() })?)
}

#[derive(Debug)]
pub(super) struct EndQuarantines {
    pub(super) now: Timestamp,
}

impl UseCase for EndQuarantines {
    type Answer = Vec<Ipv4Addr>;
    const DOING: &'static str = "end quarantines";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<Ipv4Addr>, Failure> {
        let freed = tx
            .rows(
                "DELETE FROM elastic_ip
                  WHERE released_at IS NOT NULL AND quarantine_until <= $1
                 RETURNING address",
                values![self.now],
            )
            .await?;
        let addresses = freed.iter().map(|row| rows::address(row, "elastic_ip"));
        let mut addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        addresses.sort_unstable();
        Ok(addresses)
    }
}

//! The generations of hosts, and what hosts are letting go of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use eip_model::{Generation, HostName};
use jiff::Timestamp;

use super::held::{Pointed, gone};
use crate::rows::{self, Cells};
use crate::transaction::{Failure, Tx};
use crate::value::values;

/// Makes a host known that may be new.
///
/// A new host counts as able to carry traffic and has observed nothing: what is pointed at it is
/// pending until its first report.
pub(super) async fn ensure<T: Tx>(
    tx: &mut T,
    host: &HostName,
    now: Timestamp,
) -> Result<(), Failure> {
    tx.run(
        "INSERT INTO host (name, generation, observed_generation, health, backends,
                           first_seen_at, last_seen_at)
         VALUES ($1, 0, 0, 'ready', '[]', $2, $2)
         ON CONFLICT DO NOTHING",
        values![host, now],
    )
    .await
}

/// Bumps the desired set of one host.
pub(super) async fn bump<T: Tx>(tx: &mut T, host: &HostName) -> Result<Generation, Failure> {
    let row = tx
        .row(
            "UPDATE host SET generation = generation + 1 WHERE name = $1 RETURNING generation",
            values![host],
        )
        .await?;
    let row = row.ok_or_else(|| gone("host", host))?;
    Ok(row.generation("generation").map_err(|e| e.within("host"))?)
}

/// Bumps the desired sets of several hosts, in the order of their names.
pub(super) async fn bump_all<'h, T: Tx>(
    tx: &mut T,
    hosts: BTreeSet<&'h HostName>,
) -> Result<BTreeMap<&'h HostName, Generation>, Failure> {
    let mut generations = BTreeMap::new();
    for host in hosts {
        generations.insert(host, bump(tx, host).await?);
    }
    Ok(generations)
}

/// The hosts that may still answer for an address that is no longer theirs; locked.
///
/// While the lock is held, no report can lift a fence on this address.
#[derive(Debug)]
pub(super) struct LettingGo(Vec<HostName>);

impl LettingGo {
    /// Whether an association on `host` waits for another host. Then `host` never had the address.
    pub(super) fn fences(&self, host: &HostName) -> bool {
        self.0.iter().any(|other| other != host)
    }
}

/// Locks what hosts are letting go of the address. The elastic IP is locked before.
pub(super) async fn letting_go<T: Tx>(tx: &mut T, address: Ipv4Addr) -> Result<LettingGo, Failure> {
    let found = tx
        .rows(
            "SELECT host FROM letting_go WHERE address = $1 ORDER BY host FOR UPDATE",
            values![address],
        )
        .await?;
    let hosts = found.iter().map(|row| rows::host_name(row, "letting_go"));
    Ok(LettingGo(hosts.collect::<Result<_, _>>()?))
}

/// Ends an association. `without` is the generation of its host that lacks it.
///
/// Remembers that the host may answer for the address until it has reported that generation,
/// unless it never had the address because it was waiting for another host itself.
pub(super) async fn end_association<T: Tx>(
    tx: &mut T,
    address: Ipv4Addr,
    ended: &Pointed,
    letting_go: &LettingGo,
    without: Generation,
) -> Result<(), Failure> {
    tx.run("DELETE FROM association WHERE address = $1", values![address]).await?;
    if letting_go.fences(&ended.host) {
        return Ok(());
    }
    tx.run(
        "INSERT INTO letting_go (address, host, generation) VALUES ($1, $2, $3)
         ON CONFLICT (address, host) DO UPDATE SET generation = excluded.generation",
        values![address, &ended.host, without],
    )
    .await
}

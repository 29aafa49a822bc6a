//! The generations of hosts, and what hosts are letting go of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use eip_model::{AssociationView, DataPlaneHealth, Generation, HostName};
use jiff::Timestamp;

use super::held::{Pointed, gone};
use crate::given::Given;
use crate::rows::{self, Cells, Wrong};
use crate::transaction::{Failure, Tx};

/// Makes hosts known that may be new.
///
/// A new host counts as able to carry traffic and has observed nothing: what is pointed at it is
/// pending until its first report.
pub(super) async fn ensure<T: Tx>(
    tx: &mut T,
    hosts: &[&HostName],
    now: Timestamp,
) -> Result<(), Failure> {
    tx.each(
        "INSERT INTO host (name, generation, observed_generation, health, backends,
                           first_seen_at, last_seen_at)
         SELECT given.name, 0, 0, 'ready', '[]', given.now, given.now FROM {given} WHERE true
         ON CONFLICT DO NOTHING",
        Given::of(hosts).with("name", |name| *name).with("now", move |_| now),
    )
    .await
    .map(drop)
}

/// A host whose desired set has changed, as it has been reporting.
#[derive(Debug, Clone)]
pub(super) struct Bumped {
    pub(super) generation: Generation,
    pub(super) observed: Generation,
    pub(super) health: DataPlaneHealth,
    pub(super) last_seen_at: Timestamp,
}

impl Bumped {
    pub(super) fn read(row: &impl Cells) -> Result<Self, Wrong> {
        Ok(Self {
            generation: row.generation("generation")?,
            observed: row.generation("observed_generation")?,
            health: rows::health(row)?,
            last_seen_at: row.moment("last_seen_at")?,
        })
    }

    /// How an association on this host stands that was made just now.
    pub(super) fn view(&self, now: Timestamp, fenced_by: Option<HostName>) -> AssociationView {
        AssociationView {
            associated_at: now,
            generation: self.generation,
            applied_at: None,
            fenced_by,
            observed: self.observed,
            health: self.health.clone(),
            last_seen_at: self.last_seen_at,
            problem: None,
        }
    }
}

/// Bumps the desired sets of hosts, in the order of their names. Whoever changes something on one of
/// them waits from here on for the commit.
pub(super) async fn bump<T: Tx>(
    tx: &mut T,
    hosts: &BTreeSet<HostName>,
) -> Result<BTreeMap<HostName, Bumped>, Failure> {
    let names: Vec<&HostName> = hosts.iter().collect();
    if names.len() > 1 {
        tx.each(
            "SELECT h.name FROM {given} JOIN host h ON h.name = given.name
              ORDER BY h.name FOR UPDATE OF h",
            Given::of(&names).with("name", |name| *name),
        )
        .await?;
    }
    let bumped = tx
        .each(
            "UPDATE host SET generation = host.generation + 1
               FROM {given} WHERE host.name = given.name
             RETURNING host.name AS host, generation, observed_generation, health, health_reason,
                       last_seen_at",
            Given::of(&names).with("name", |name| *name),
        )
        .await?;
    let read = |row: &T::Row| -> Result<_, Wrong> { Ok((row.parsed("host")?, Bumped::read(row)?)) };
    let bumped = bumped.iter().map(read).collect::<Result<BTreeMap<HostName, Bumped>, _>>();
    let bumped = bumped.map_err(|e| e.within("host"))?;
    for host in hosts {
        if !bumped.contains_key(host) {
            return Err(gone("host", host));
        }
        tx.wake(host);
    }
    Ok(bumped)
}

/// The hosts that may still answer for an address that is no longer theirs; locked.
///
/// While the lock is held, no report can lift a fence on this address.
#[derive(Debug, Clone, Default)]
pub(super) struct LettingGo(pub(super) BTreeSet<HostName>);

impl LettingGo {
    /// Whether an association on `host` waits for another host. Then `host` never had the address.
    pub(super) fn fences(&self, host: &HostName) -> bool {
        self.first_but(host).is_some()
    }

    /// The first host, by name, that an association on `host` waits for.
    pub(super) fn first_but(&self, host: &HostName) -> Option<&HostName> {
        self.0.iter().find(|other| *other != host)
    }
}

/// Locks what hosts are letting go of the addresses. The elastic IPs are locked before.
pub(super) async fn letting_go<T: Tx>(
    tx: &mut T,
    addresses: &[Ipv4Addr],
) -> Result<BTreeMap<Ipv4Addr, LettingGo>, Failure> {
    let found = tx
        .each(
            "SELECT l.address, l.host FROM {given} JOIN letting_go l ON l.address = given.address
              ORDER BY l.address, l.host FOR UPDATE OF l",
            Given::of(addresses).with("address", |a| *a),
        )
        .await?;
    let mut letting_go: BTreeMap<Ipv4Addr, LettingGo> = BTreeMap::new();
    for row in &found {
        let address = rows::address(row, "letting_go")?;
        let host = rows::host_name(row, "letting_go")?;
        letting_go.entry(address).or_default().0.insert(host);
    }
    Ok(letting_go)
}

/// An association that ends, and the generation of its host that lacks it.
#[derive(Debug)]
pub(super) struct Ending<'p> {
    pub(super) address: Ipv4Addr,
    pub(super) pointed: &'p Pointed,
    pub(super) without: Generation,
    /// Whether the host may have the address, and so has to say when it let go.
    pub(super) had: bool,
}

/// Ends associations.
///
/// Remembers that a host may answer for an address until it has reported the generation that lacks
/// it, unless it never had the address because it was waiting for another host itself.
pub(super) async fn end_associations<T: Tx>(
    tx: &mut T,
    ending: &[Ending<'_>],
) -> Result<(), Failure> {
    tx.each(
        "DELETE FROM association WHERE address IN (SELECT given.address FROM {given})",
        Given::of(ending).with("address", |one| one.address),
    )
    .await?;
    let had: Vec<&Ending<'_>> = ending.iter().filter(|one| one.had).collect();
    tx.later(
        "INSERT INTO letting_go (address, host, generation)
         SELECT given.address, given.host, given.generation FROM {given} WHERE true
         ON CONFLICT (address, host) DO UPDATE SET generation = excluded.generation",
        Given::of(&had)
            .with("address", |one| one.address)
            .with("host", |one| &one.pointed.host)
            .with("generation", |one| one.without),
    )
    .await
}

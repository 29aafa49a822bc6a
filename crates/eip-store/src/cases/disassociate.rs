//! Pointing elastic IPs at nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use eip_model::{ElasticIpRef, EventKind, HostName};

use super::held::{Aims, Held, Pointed, aims, lock_all, numbered, pointed, read_held, touch};
use super::hosts::{Bumped, Ending, LettingGo, bump, end_associations, letting_go};
use crate::error::{Refusal, StoreError};
use crate::given::Given;
use crate::records::{DisassociateCommand, ElasticIpRecord, Scope, Wish};
use crate::rows::{Cells, Wrong};
use crate::transaction::{Batch, Failure, Outcome, Tx};

impl Aims for DisassociateCommand {
    fn target(&self) -> ElasticIpRef {
        self.target
    }

    fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// Points elastic IPs at nothing that no other host is letting go of. See the one of associate for
/// what keeps it right while others change the same.
const SWIFT: &str = "
    WITH wanted AS MATERIALIZED (
        SELECT given.*, r.first,
               CASE WHEN given.address >= 0 THEN given.address
                    ELSE r.first + given.number % r.size END AS place
          FROM {given} CROSS JOIN pool_range r),
    asked AS MATERIALIZED (
        SELECT wanted.n, wanted.now, wanted.actor, wanted.scope, e.address,
               e.id AS elastic_ip_id, e.project, e.pool, e.name, CAST(e.tags AS text) AS tags,
               e.allocated_at, e.released_at, e.revision, e.protected,
               a.instance_id, i.name AS instance_name, a.host
          FROM wanted
          JOIN elastic_ip e
            ON e.address = wanted.place AND e.range_first = wanted.first
           AND (wanted.address >= 0 OR e.id = wanted.id)
          JOIN elastic_ip begun ON begun.address = e.address AND begun.revision = e.revision
          JOIN association a ON a.address = e.address
          JOIN instance i ON i.id = a.instance_id
         WHERE NOT EXISTS (SELECT 1 FROM letting_go l WHERE l.address = e.address)
         ORDER BY e.address FOR UPDATE OF e),
    fit AS MATERIALIZED (
        SELECT * FROM (SELECT *, count(*) OVER (PARTITION BY address) AS same_address
                         FROM asked) all_asked
         WHERE same_address = 1 AND released_at IS NULL AND (scope IS NULL OR scope = project)),
    bumped AS (
        UPDATE host SET generation = host.generation + 1
          FROM (SELECT DISTINCT host FROM fit ORDER BY host) f WHERE host.name = f.host
        RETURNING host.name AS host, host.generation, host.last_seen_at),
    ended AS (
        DELETE FROM association USING fit WHERE association.address = fit.address
        RETURNING association.address),
    leaving AS (
        INSERT INTO letting_go (address, host, generation)
        SELECT fit.address, fit.host, bumped.generation
          FROM fit JOIN bumped ON bumped.host = fit.host
        ON CONFLICT (address, host) DO UPDATE SET generation = excluded.generation),
    turn AS MATERIALIZED (
        SELECT count(*) AS count, {lock}, {tell}((
               SELECT CASE WHEN sum(length(host) + 1) > 7900 THEN '*'
                           ELSE coalesce(string_agg(host, ' '), '') END FROM bumped))
          FROM ended HAVING count(*) > 0),
    touched AS (
        UPDATE elastic_ip SET revision = elastic_ip.revision + 1, updated_at = fit.now
          FROM fit WHERE elastic_ip.address = fit.address),
    told AS (
        INSERT INTO event (at, kind, project, elastic_ip_id, address, instance_id, instance_name,
                           host, actor)
        SELECT fit.now, 'disassociated', fit.project, fit.elastic_ip_id, fit.address,
               fit.instance_id, fit.instance_name, fit.host, fit.actor
          FROM turn CROSS JOIN fit)
    SELECT fit.n, fit.address, fit.elastic_ip_id AS id, fit.project, fit.pool, fit.name, fit.tags,
           fit.allocated_at, fit.revision, fit.protected, fit.host, bumped.generation, bumped.last_seen_at
      FROM turn CROSS JOIN fit JOIN bumped ON bumped.host = fit.host";

impl Batch for DisassociateCommand {
    type Answer = Wish;
    const DOING: &'static str = "disassociate an elastic IP";
    const SWIFT: Option<&'static str> = Some(SWIFT);

    fn about(&self) -> Option<String> {
        Some(format!("{:?}", self.target))
    }

    fn swift_rows(commands: &[Self]) -> Given {
        aims(&numbered(commands))
            .with("scope", |(_, one)| one.scope.project())
            .with("now", |(_, one)| one.now)
            .with("actor", |(_, one)| one.actor.as_str())
            .into()
    }

    fn swift_answer(&self, row: &impl Cells) -> Result<Wish, StoreError> {
        let read = || -> Result<_, Wrong> {
            let host: HostName = row.parsed("host")?;
            let last_seen_at = row.moment("last_seen_at")?;
            Ok((read_held(row)?, host, row.generation("generation")?, last_seen_at))
        };
        let (held, host, generation, seen) = read().map_err(|e| e.within("elastic_ip"))?;
        let letting_go = eip_model::LettingGo { host: host.clone(), last_seen_at: seen };
        let record = held.changed(self.now, None);
        Ok(Wish {
            elastic_ip: held.id,
            host,
            generation,
            previous_host: None,
            changed: true,
            record: Some(ElasticIpRecord { letting_go: Some(letting_go), ..record }),
        })
    }

    async fn settle<T: Tx>(tx: &mut T, commands: &[Self]) -> Result<Vec<Outcome<Wish>>, Failure> {
        let held = lock_all(tx, commands).await?;
        let addresses: Vec<Ipv4Addr> = held.iter().flatten().map(|one| one.address).collect();
        let pointed = pointed(tx, &addresses).await?;
        let letting_go = letting_go(tx, &addresses).await?;
        let mut parted = BTreeSet::new();
        let mut part = |held: &Held| match pointed.get(&held.address) {
            // Whoever comes second finds nothing to end.
            Some(at) if parted.insert(held.address) => Ok(at),
            Some(_) | None => Err(Refusal::NotAssociated),
        };
        let parts: Vec<Result<(&Self, Held, &Pointed), Refusal>> = commands
            .iter()
            .zip(held)
            .map(|(command, held)| {
                let held = held.ok_or(Refusal::ElasticIpNotFound)?;
                let at = part(&held)?;
                Ok((command, held, at))
            })
            .collect();
        let bumped = end(tx, &parts, &letting_go).await?;
        let outcome = |part| match part {
            Ok((command, held, at)) => wish(command, &held, at, &bumped, &letting_go),
            Err(refusal) => Outcome::Refused(refusal),
        };
        Ok(parts.into_iter().map(outcome).collect())
    }
}

type Part<'b> = Result<(&'b DisassociateCommand, Held, &'b Pointed), Refusal>;

async fn end<T: Tx>(
    tx: &mut T,
    parts: &[Part<'_>],
    letting_go: &BTreeMap<Ipv4Addr, LettingGo>,
) -> Result<BTreeMap<HostName, Bumped>, Failure> {
    let ending = || parts.iter().flatten();
    let bumped = bump(tx, &ending().map(|(_, _, at)| at.host.clone()).collect()).await?;
    let endings: Vec<Ending<'_>> = ending()
        .filter_map(|(_, held, at)| {
            let fenced = letting_go.get(&held.address).is_some_and(|all| all.fences(&at.host));
            let without = bumped.get(&at.host)?.generation;
            Some(Ending { address: held.address, pointed: at, without, had: !fenced })
        })
        .collect();
    end_associations(tx, &endings).await?;
    for (command, held, at) in ending() {
        let (actor, now) = (&command.actor, command.now);
        tx.tell(held.event(EventKind::Disassociated, actor, now, at.party()));
    }
    if let Some((command, ..)) = ending().next() {
        let addresses: Vec<Ipv4Addr> = ending().map(|(_, held, _)| held.address).collect();
        touch(tx, &addresses, command.now).await?;
    }
    Ok(bumped)
}

fn wish(
    command: &DisassociateCommand,
    held: &Held,
    at: &Pointed,
    bumped: &BTreeMap<HostName, Bumped>,
    letting_go: &BTreeMap<Ipv4Addr, LettingGo>,
) -> Outcome<Wish> {
    let Some(host) = bumped.get(&at.host) else {
        return Outcome::Again;
    };
    // Of another host that is letting go it is not known here when it was seen: the caller looks.
    let record = (!letting_go.contains_key(&held.address)).then(|| {
        let letting_go =
            eip_model::LettingGo { host: at.host.clone(), last_seen_at: host.last_seen_at };
        let record = held.changed(command.now, None);
        ElasticIpRecord { letting_go: Some(letting_go), ..record }
    });
    Outcome::Done(Wish {
        elastic_ip: held.id,
        host: at.host.clone(),
        generation: host.generation,
        previous_host: None,
        changed: true,
        record,
    })
}

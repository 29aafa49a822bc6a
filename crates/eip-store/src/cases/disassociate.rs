//! Pointing elastic IPs at nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use eip_model::{ElasticIpRef, EventKind, HostName};

use super::held::{Aims, Held, Pointed, lock_all, pointed, touch};
use super::hosts::{Bumped, Ending, LettingGo, bump, end_associations, letting_go};
use crate::error::Refusal;
use crate::records::{DisassociateCommand, ElasticIpRecord, Scope, Wish};
use crate::transaction::{Batch, Failure, Outcome, Tx};

impl Aims for DisassociateCommand {
    fn target(&self) -> ElasticIpRef {
        self.target
    }

    fn scope(&self) -> &Scope {
        &self.scope
    }
}

impl Batch for DisassociateCommand {
    type Answer = Wish;
    const DOING: &'static str = "disassociate an elastic IP";

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

//! Pointing an elastic IP at an instance, moving it, and pointing it at nothing.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use eip_model::{EventKind, Generation, HostName, InstanceId, ProjectName};

use super::held::{Held, Party, Pointed, gone, lock, pointed, tell, touch};
use super::hosts::{bump, bump_all, end_association, letting_go};
use crate::eligible::Standing;
use crate::error::Refusal;
use crate::records::{AssociateCommand, DisassociateCommand, Wish};
use crate::rows::{self, Cells, Wrong};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

impl UseCase for AssociateCommand {
    type Answer = Wish;
    const DOING: &'static str = "associate an elastic IP";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Wish, Failure> {
        let held = lock(tx, self.target, &self.scope).await?;
        let candidate = candidate(tx, self.instance_id, &held.project).await?;
        let current = pointed(tx, held.address).await?;
        if let Some(current) = current.as_ref().filter(|at| at.instance_id == self.instance_id) {
            return Ok(unchanged(&held, current));
        }
        candidate.standing.usable()?;
        if let Some(current) = current.as_ref().filter(|_| !self.allow_reassociation) {
            let instance_name = current.instance_name.clone();
            return Err(Refusal::AlreadyAssociated { instance_name }.into());
        }
        self.point(tx, &held, &candidate, current.as_ref()).await
    }
}

/// The instance that is to have the elastic IP; locked against being changed.
#[derive(Debug)]
struct Candidate {
    name: String,
    host: HostName,
    standing: Standing,
}

async fn candidate<T: Tx>(
    tx: &mut T,
    id: InstanceId,
    project: &ProjectName,
) -> Result<Candidate, Failure> {
    let row = tx
        .row(
            "SELECT name, host, state, private_ip, unusable
               FROM instance
              WHERE id = $1 AND project = $2 FOR SHARE",
            values![id, project],
        )
        .await?;
    let row = row.ok_or(Refusal::InstanceNotFound)?;
    let read = || -> Result<_, Wrong> {
        let standing = rows::standing(&row)?;
        Ok(Candidate { name: row.words("name")?, host: row.parsed("host")?, standing })
    };
    Ok(read().map_err(|e| e.within("instance"))?)
}

fn unchanged(held: &Held, current: &Pointed) -> Wish {
    Wish {
        elastic_ip: held.id,
        host: current.host.clone(),
        generation: current.generation,
        previous_host: None,
        changed: false,
    }
}

impl AssociateCommand {
    async fn point<T: Tx>(
        &self,
        tx: &mut T,
        held: &Held,
        candidate: &Candidate,
        current: Option<&Pointed>,
    ) -> Result<Wish, Failure> {
        // Also when nothing is to be ended: a report that lifts the fence on this address either
        // is in force before this transaction looks, or sees the association that it makes.
        let letting_go = letting_go(tx, held.address).await?;
        let kind = if current.is_some() { EventKind::Moved } else { EventKind::Associated };
        let party = Party {
            instance_id: Some(self.instance_id),
            instance_name: Some(&candidate.name),
            host: Some(&candidate.host),
        };
        tell(tx, kind, held.told(&self.actor, self.now), party).await?;
        touch(tx, held, self.now).await?;
        // From here on everyone who changes something on these hosts waits for the commit.
        let before = current.map(|at| &at.host);
        let concerned: BTreeSet<&HostName> = before.into_iter().chain([&candidate.host]).collect();
        let generations = bump_all(tx, concerned).await?;
        let generation =
            |host: &HostName| generations.get(host).copied().ok_or_else(|| gone("host", host));
        if let Some(current) = current {
            let without = generation(&current.host)?;
            if current.host == candidate.host {
                tx.run("DELETE FROM association WHERE address = $1", values![held.address]).await?;
            } else {
                end_association(tx, held.address, current, &letting_go, without).await?;
            }
        }
        let new = generation(&candidate.host)?;
        self.insert(tx, held.address, &candidate.host, new).await?;
        Ok(Wish {
            elastic_ip: held.id,
            host: candidate.host.clone(),
            generation: new,
            previous_host: before.filter(|host| **host != candidate.host).cloned(),
            changed: true,
        })
    }

    /// Links the two unless the instance has another elastic IP; the constraint decides.
    async fn insert<T: Tx>(
        &self,
        tx: &mut T,
        address: Ipv4Addr,
        host: &HostName,
        generation: Generation,
    ) -> Result<(), Failure> {
        let made = tx
            .row(
                "INSERT INTO association (address, instance_id, host, generation, associated_at)
                 VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT DO NOTHING
                 RETURNING address",
                values![address, self.instance_id, host, generation, self.now],
            )
            .await?;
        if made.is_some() {
            return Ok(());
        }
        let other = tx
            .row(
                "SELECT address FROM association WHERE instance_id = $1",
                values![self.instance_id],
            )
            .await?;
        match other {
            Some(row) => {
                let public_ip = rows::address(&row, "association")?;
                Err(Refusal::InstanceHasElasticIp { public_ip }.into())
            }
            None => Err(Failure::Again("the association in the way has just ended".into())),
        }
    }
}

impl UseCase for DisassociateCommand {
    type Answer = Wish;
    const DOING: &'static str = "disassociate an elastic IP";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Wish, Failure> {
        let held = lock(tx, self.target, &self.scope).await?;
        let current = pointed(tx, held.address).await?.ok_or(Refusal::NotAssociated)?;
        let letting_go = letting_go(tx, held.address).await?;
        let told = held.told(&self.actor, self.now);
        tell(tx, EventKind::Disassociated, told, current.party()).await?;
        touch(tx, &held, self.now).await?;
        let generation = bump(tx, &current.host).await?;
        end_association(tx, held.address, &current, &letting_go, generation).await?;
        Ok(Wish {
            elastic_ip: held.id,
            host: current.host,
            generation,
            previous_host: None,
            changed: true,
        })
    }
}

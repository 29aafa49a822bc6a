//! Who had an address, and when.

use std::net::Ipv4Addr;

use eip_model::{AllocationPeriod, AssociationPeriod, ElasticIpId, Event, EventKind, ProjectName};
use jiff::Timestamp;

use crate::records::Scope;
use crate::rows::{self, Cells, Wrong};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::{Statement, values};

/// Which periods of an address, the newest first.
#[derive(Debug, Clone)]
pub struct HistoryFilter {
    pub address: Ipv4Addr,
    pub scope: Scope,
    /// Only the one that was then.
    pub at: Option<Timestamp>,
    /// Only those that began before this.
    pub before: Option<Timestamp>,
    pub limit: u32,
}

impl UseCase for HistoryFilter {
    type Answer = Vec<AllocationPeriod>;
    const DOING: &'static str = "read the history of an address";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<AllocationPeriod>, Failure> {
        let list = self.statement();
        let found = tx.rows(&list.text, &list.values).await?;
        let periods = found.iter().map(period).collect::<Result<Vec<_>, _>>();
        let mut periods = periods.map_err(|e| e.within("past_allocation"))?;
        let (Some(first), Some(last)) = (periods.last(), periods.first()) else {
            return Ok(periods);
        };
        let events = match self.at {
            Some(at) => self.around(tx, at).await?,
            None => self.events(tx, first.from, last.to).await?,
        };
        for period in &mut periods {
            tell(period, &events);
            if let Some(at) = self.at {
                period.associations.retain(|one| one.from <= at && one.to.is_none_or(|to| at < to));
            }
        }
        Ok(periods)
    }
}

impl HistoryFilter {
    fn statement(&self) -> Statement<'_> {
        // Who allocated it is in its event, which is found by its time.
        let mut list = Statement::new(
            "SELECT period.*,
                    (SELECT min(v.actor) FROM event v
                      WHERE v.at = period.allocated_at AND v.kind = 'allocated'
                        AND v.elastic_ip_id = period.id) AS actor
               FROM (SELECT id, project, pool, name, allocated_at, released_at FROM elastic_ip
                      WHERE released_at IS NULL AND address = ?
                     UNION ALL
                     SELECT elastic_ip_id, project, pool, name, allocated_at, released_at
                       FROM past_allocation WHERE address = ?) period
              WHERE project IS NOT NULL",
            values![self.address, self.address],
        );
        if let Scope::Project(project) = &self.scope {
            list.add(" AND project = ?", values![project]);
        }
        if let Some(at) = self.at {
            list.add(
                " AND allocated_at <= ? AND (released_at IS NULL OR released_at > ?)",
                values![at, at],
            );
        }
        if let Some(before) = self.before {
            list.add(" AND allocated_at < ?", values![before]);
        }
        list.add(" ORDER BY allocated_at DESC LIMIT ?", values![self.limit]);
        list
    }

    /// The events of the address in a time, the oldest first. Those that begin a hold are found by their
    /// time, the others by the address.
    async fn events<T: Tx>(
        &self,
        tx: &mut T,
        from: Timestamp,
        to: Option<Timestamp>,
    ) -> Result<Vec<Event>, Failure> {
        let mut list = Statement::new(rows::EVENT, values![]);
        list.add(
            " WHERE kind <> 'allocated' AND address = ? AND at >= ?",
            values![self.address, from],
        );
        if let Some(to) = to {
            list.add(" AND at <= ?", values![to]);
        }
        // The newest are told.
        list.add(" ORDER BY seq DESC LIMIT ?", values![MOST_EVENTS]);
        let found = tx.rows(&list.text, &list.values).await?;
        let mut events = found.iter().map(rows::event).collect::<Result<Vec<_>, _>>()?;
        events.reverse();
        Ok(events)
    }

    /// The last event before a time that tells what the address leads to, and the next one.
    async fn around<T: Tx>(&self, tx: &mut T, at: Timestamp) -> Result<Vec<Event>, Failure> {
        let mut events = Vec::new();
        for side in [" AND at <= ? ORDER BY seq DESC LIMIT 1", " AND at > ? ORDER BY seq LIMIT 1"] {
            let mut list = Statement::new(rows::EVENT, values![]);
            list.add(
                " WHERE kind <> 'allocated' AND address = ?
                    AND kind IN ('associated', 'moved', 'disassociated', 'instance_removed',
                                 'released')",
                values![self.address],
            );
            list.add(side, values![at]);
            let row = tx.row(&list.text, &list.values).await?;
            events.extend(row.as_ref().map(rows::event).transpose()?);
        }
        Ok(events)
    }
}

/// How many events of the periods of a page are read at most.
const MOST_EVENTS: i64 = 10_000;

fn period(row: &impl Cells) -> Result<AllocationPeriod, Wrong> {
    Ok(AllocationPeriod {
        elastic_ip_id: ElasticIpId::new(row.id("id")?),
        project: row.parsed::<ProjectName>("project")?,
        pool: row.parsed("pool")?,
        name: row.maybe("name")?,
        actor: row.text("actor")?,
        from: row.moment("allocated_at")?,
        to: row.time("released_at")?,
        associations: Vec::new(),
    })
}

/// Puts the associations of a period together from its events.
fn tell(period: &mut AllocationPeriod, events: &[Event]) {
    let own = events.iter().filter(|event| event.elastic_ip_id == Some(period.elastic_ip_id));
    for event in own {
        let ends = matches!(
            event.kind,
            EventKind::Associated
                | EventKind::Moved
                | EventKind::Disassociated
                | EventKind::InstanceRemoved
        );
        if let Some(last) = period.associations.last_mut().filter(|one| ends && one.to.is_none()) {
            last.to = Some(event.at);
        }
        if matches!(event.kind, EventKind::Associated | EventKind::Moved) {
            period.associations.push(AssociationPeriod {
                instance_id: event.instance_id,
                instance_name: event.instance_name.clone(),
                host: event.host.clone(),
                actor: event.actor.clone(),
                from: event.at,
                to: None,
            });
        }
    }
    period.associations.reverse();
}

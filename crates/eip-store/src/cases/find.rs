//! Finding and listing.

use eip_model::{
    ElasticIpId, ElasticIpRef, ElasticIpStatus, Event, Instance, InstanceRef, ProjectName,
};

use super::held::{AMONG, Aims, MEANT, aims, numbered, offset_of, place, sees};
use crate::pages::InstancePlace;
use crate::records::{ElasticIpFilter, ElasticIpRecord, InstanceFilter, Scope};
use crate::rows::{self, Cells};
use crate::transaction::{Batch, Failure, Outcome, Tx, UseCase};
use crate::value::{Statement, values};

#[derive(Debug, Clone)]
pub(crate) struct FindElasticIp {
    pub(super) target: ElasticIpRef,
    pub(super) scope: Scope,
}

impl Aims for FindElasticIp {
    fn target(&self) -> ElasticIpRef {
        self.target
    }

    fn scope(&self) -> &Scope {
        &self.scope
    }
}

impl Batch for FindElasticIp {
    type Answer = Option<ElasticIpRecord>;
    const DOING: &'static str = "find an elastic IP";
    const LOOKS: bool = true;
    /// As many as one request may be about.
    const MOST: usize = eip_model::MOST_AT_ONCE;

    async fn settle<T: Tx>(
        tx: &mut T,
        commands: &[Self],
    ) -> Result<Vec<Outcome<Option<ElasticIpRecord>>>, Failure> {
        let numbered = numbered(commands);
        let sql = ["SELECT given.n, ", rows::ELASTIC_IP, AMONG, rows::AROUND_IT, MEANT].concat();
        let rows = tx.each(&sql, aims(&numbered)).await?;
        let mut found: Vec<Option<ElasticIpRecord>> = commands.iter().map(|_| None).collect();
        for row in &rows {
            let at = place(row)?;
            if rows::is_held(row)? {
                let record = rows::elastic_ip(row)?;
                let seen = commands.get(at).is_some_and(|c| sees(&c.scope, &record.project));
                found[at] = Some(record).filter(|_| seen);
            }
        }
        Ok(found.into_iter().map(Outcome::Done).collect())
    }
}

impl UseCase for ElasticIpFilter {
    type Answer = Vec<ElasticIpRecord>;
    const DOING: &'static str = "list elastic IPs";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<ElasticIpRecord>, Failure> {
        let statement = self.statement(T::DIALECT.has_tag);
        let found = tx.rows(&statement.text, &statement.values).await?;
        Ok(found.iter().map(rows::elastic_ip).collect::<Result<_, _>>()?)
    }
}

impl ElasticIpFilter {
    /// Only the conditions that are asked for are in the statement, so that each can use its index.
    fn statement(&self, has_tag: &str) -> Statement<'_> {
        let all = ["SELECT ", rows::ELASTIC_IP, " FROM elastic_ip e", rows::AROUND_IT].concat();
        let mut list = Statement::new(&all, values![]);
        list.add(" WHERE e.released_at IS NULL", values![]);
        if let Scope::Project(project) = &self.scope {
            list.add(" AND e.project = ?", values![project]);
        }
        match self.status {
            None => {}
            Some(ElasticIpStatus::Allocated) => list.add(" AND a.address IS NULL", values![]),
            Some(ElasticIpStatus::Associated) => list.add(" AND a.address IS NOT NULL", values![]),
        }
        if let Some(instance_id) = self.instance_id {
            list.add(" AND a.instance_id = ?", values![instance_id]);
        }
        if let Some(public_ip) = self.public_ip {
            list.add(" AND e.address = ?", values![public_ip]);
        }
        if let Some(name) = &self.name {
            list.add(" AND e.name = ?", values![Some(name)]);
            if self.scope == Scope::Everything {
                // The index on names begins with the project: one look for each of them.
                list.add(" AND e.project IN (SELECT name FROM project)", values![]);
            }
        }
        if let Some(pool) = &self.pool {
            list.add(" AND e.pool = ?", values![pool]);
        }
        if let Some((key, value)) = &self.tag {
            list.add(has_tag, values![key.as_str(), value.as_str()]);
        }
        if let Some(after) = self.after {
            let place = values![after.allocated_at, after.address];
            list.add(" AND (e.allocated_at, e.address) > (?, ?)", place);
        }
        list.add(" ORDER BY e.allocated_at, e.address LIMIT ?", values![self.limit]);
        list
    }
}

impl UseCase for InstanceFilter {
    type Answer = Vec<Instance>;
    const DOING: &'static str = "list instances";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<Instance>, Failure> {
        let mut list = Statement::new(rows::INSTANCE, values![]);
        list.add(" WHERE i.name IS NOT NULL", values![]);
        if let Scope::Project(project) = &self.scope {
            list.add(" AND i.project = ?", values![project]);
        }
        match &self.named {
            None => {}
            Some(InstanceRef::Id(id)) => list.add(" AND i.id = ?", values![*id]),
            Some(InstanceRef::Name { backend, name }) => {
                list.add(" AND i.name = ?", values![name.as_str()]);
                if let Some(backend) = backend {
                    list.add(" AND i.backend = ?", values![backend.as_str()]);
                }
            }
        }
        if let Some(InstancePlace { host, backend, name, id }) = &self.page.after {
            // The first condition is for the index, which does not have the id.
            let (backend, name) = (backend.as_str(), name.as_str());
            let begin = values![host, backend, name];
            list.add(" AND (i.host, i.backend, i.name) >= (?, ?, ?)", begin);
            let behind = values![host, backend, name, *id];
            list.add(" AND (i.host, i.backend, i.name, i.id) > (?, ?, ?, ?)", behind);
        }
        let limit = values![self.page.limit];
        list.add(" ORDER BY i.host, i.backend, i.name, i.id LIMIT ?", limit);
        let found = tx.rows(&list.text, &list.values).await?;
        Ok(found.iter().map(rows::instance).collect::<Result<_, _>>()?)
    }
}

/// The event that began the hold is looked up by its time, the others by the address.
#[derive(Debug)]
pub(super) struct EventsOf {
    pub(super) id: ElasticIpId,
    pub(super) scope: Scope,
    pub(super) after: u64,
    pub(super) limit: u32,
}

impl UseCase for EventsOf {
    type Answer = Vec<Event>;
    const DOING: &'static str = "read the events of an elastic IP";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<Event>, Failure> {
        let stands_for = T::DIALECT.stands_for;
        let number = offset_of(self.id);
        let after = i64::try_from(self.after).unwrap_or(i64::MAX);
        let mut list = Statement::new("SELECT * FROM (", values![]);
        list.add(rows::EVENT, values![]);
        list.add(" WHERE kind <> 'allocated' AND elastic_ip_id = ? AND address", values![self.id]);
        list.add(stands_for, values![number]);
        list.add(" AND seq > ? UNION ALL ", values![after]);
        list.add(rows::EVENT, values![]);
        list.add(
            " WHERE kind = 'allocated' AND elastic_ip_id = ?
                AND at IN (SELECT allocated_at FROM elastic_ip WHERE id = ? AND address",
            values![self.id, self.id],
        );
        list.add(stands_for, values![number]);
        list.add(
            " UNION ALL SELECT allocated_at FROM past_allocation
                         WHERE elastic_ip_id = ? AND address",
            values![self.id],
        );
        list.add(stands_for, values![number]);
        list.add(")) told WHERE seq > ?", values![after]);
        if let Some(project) = self.scope.project() {
            list.add(" AND project = ?", values![project]);
        }
        list.add(" ORDER BY seq LIMIT ?", values![self.limit]);
        let found = tx.rows(&list.text, &list.values).await?;
        Ok(found.iter().map(rows::event).collect::<Result<_, _>>()?)
    }
}

/// The events behind a place in the order in which they were committed.
#[derive(Debug)]
pub(super) struct EventsAfter {
    pub(super) after: u64,
    pub(super) limit: u32,
}

/// How many events are looked through for those of one project: what one look costs does not grow with
/// what others do.
const WINDOW: i64 = 20_000;

/// The events of a project behind a place, and how far was looked; `None` when nothing is behind it.
#[derive(Debug)]
pub(super) struct EventsOfProject {
    pub(super) after: u64,
    pub(super) limit: u32,
    pub(super) project: ProjectName,
}

impl UseCase for EventsOfProject {
    type Answer = (Vec<Event>, Option<u64>);
    const DOING: &'static str = "follow the events of a project";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Self::Answer, Failure> {
        let last = LastEvent.run(tx).await?;
        if last <= self.after {
            return Ok((Vec::new(), None));
        }
        let after = i64::try_from(self.after).unwrap_or(i64::MAX);
        let end = after.saturating_add(WINDOW).min(i64::try_from(last).unwrap_or(i64::MAX));
        let mut list = Statement::new(rows::EVENT, values![]);
        list.add(" WHERE seq > ? AND seq <= ? AND project = ?", values![after, end, &self.project]);
        list.add(" ORDER BY seq LIMIT ?", values![self.limit]);
        let found = tx.rows(&list.text, &list.values).await?;
        let events = found.iter().map(rows::event).collect::<Result<Vec<_>, _>>()?;
        let full = events.len() >= usize::try_from(self.limit).unwrap_or(usize::MAX);
        let reached = match events.last().filter(|_| full) {
            Some(last) => last.id.parse().unwrap_or(self.after),
            None => u64::try_from(end).unwrap_or(last),
        };
        Ok((events, Some(reached)))
    }
}

impl UseCase for EventsAfter {
    type Answer = Vec<Event>;
    const DOING: &'static str = "follow the events";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<Event>, Failure> {
        let after = i64::try_from(self.after).unwrap_or(i64::MAX);
        let mut list = Statement::new(rows::EVENT, values![]);
        list.add(" WHERE seq > ? ORDER BY seq LIMIT ?", values![after, self.limit]);
        let found = tx.rows(&list.text, &list.values).await?;
        Ok(found.iter().map(rows::event).collect::<Result<_, _>>()?)
    }
}

#[derive(Debug)]
pub(super) struct LastEvent;

impl UseCase for LastEvent {
    /// The number of the newest event; 0 when there is none.
    type Answer = u64;
    const DOING: &'static str = "find the newest event";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<u64, Failure> {
        let row = tx.row("SELECT max(seq) AS seq FROM event", values![]).await?;
        let seq = row.map(|row| row.int("seq")).transpose().map_err(|e| e.within("event"))?;
        Ok(seq.flatten().and_then(|seq| u64::try_from(seq).ok()).unwrap_or_default())
    }
}

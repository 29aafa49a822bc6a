//! Finding and listing.

use eip_model::{ElasticIpId, ElasticIpRef, ElasticIpStatus, Event, Instance, InstanceRef};

use super::held::{meant, offset_of};
use crate::records::{ElasticIpFilter, ElasticIpRecord, InstanceFilter, Scope};
use crate::rows;
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::{Statement, values};

#[derive(Debug)]
pub(super) struct FindElasticIp {
    pub(super) target: ElasticIpRef,
    pub(super) scope: Scope,
}

impl UseCase for FindElasticIp {
    type Answer = Option<ElasticIpRecord>;
    const DOING: &'static str = "find an elastic IP";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Option<ElasticIpRecord>, Failure> {
        let mut statement = Statement::new(rows::ELASTIC_IP, values![]);
        meant(T::DIALECT, &mut statement, self.target, &self.scope);
        let row = tx.row(&statement.text, &statement.values).await?;
        match row {
            Some(row) if rows::is_held(&row)? => Ok(Some(rows::elastic_ip(&row)?)),
            Some(_) | None => Ok(None),
        }
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
        let mut list = Statement::new(rows::ELASTIC_IP, values![]);
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
        }
        if let Some(pool) = &self.pool {
            list.add(" AND e.pool = ?", values![pool]);
        }
        if let Some((key, value)) = &self.tag {
            list.add(has_tag, values![key.as_str(), value.as_str()]);
        }
        if let Some(after) = self.after {
            list.add(" AND e.address > ?", values![after]);
        }
        list.add(" ORDER BY e.address LIMIT ?", values![self.limit]);
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
        list.add(" ORDER BY i.host, i.backend, i.name, i.id", values![]);
        let found = tx.rows(&list.text, &list.values).await?;
        Ok(found.iter().map(rows::instance).collect::<Result<_, _>>()?)
    }
}

#[derive(Debug)]
pub(super) struct EventsOf {
    pub(super) id: ElasticIpId,
    pub(super) scope: Scope,
}

impl UseCase for EventsOf {
    type Answer = Vec<Event>;
    const DOING: &'static str = "read the events of an elastic IP";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<Event>, Failure> {
        let mut list = Statement::new("SELECT ", values![]);
        list.add(T::DIALECT.event_xid, values![]);
        list.add(
            " AS xid, seq, at, kind, project, elastic_ip_id, address,
                 instance_id, instance_name, host, actor
              FROM event
             WHERE address",
            values![],
        );
        list.add(T::DIALECT.stands_for, values![offset_of(self.id)]);
        list.add(" AND elastic_ip_id = ?", values![self.id]);
        if let Scope::Project(project) = &self.scope {
            list.add(" AND project = ?", values![project]);
        }
        list.add(" ORDER BY seq", values![]);
        let found = tx.rows(&list.text, &list.values).await?;
        Ok(found.iter().map(rows::event).collect::<Result<_, _>>()?)
    }
}

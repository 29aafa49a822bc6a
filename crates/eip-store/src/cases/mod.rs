//! The use cases, written once for every database.

mod allocate;
mod applied;
mod associate;
mod desired;
mod find;
mod held;
mod hosts;
mod inventory;
mod inventory_diff;
mod release;
mod setup;
mod update;

use std::net::Ipv4Addr;

use async_trait::async_trait;
use eip_model::{
    AppliedReport, BackendInventory, ClusterId, DesiredSet, ElasticIpId, ElasticIpRef, Event,
    Generation, HostName, Instance, PoolConfig, PoolName, ProjectName,
};
use jiff::Timestamp;

use crate::error::StoreError;
use crate::records::{
    ApiKeyRecord, AssociateCommand, DisassociateCommand, ElasticIpFilter, ElasticIpRecord,
    HostRecord, InstanceFilter, InventoryOutcome, NewAllocation, NewApiKey, PoolCounts,
    ReleaseCommand, Scope, UpdateCommand, Wish,
};
use crate::repository::Repository;
use crate::transaction::Database;

pub(crate) use allocate::ALLOCATE;

/// Cuts to what every database can keep, so that what is read is what was written.
fn micros(now: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

#[async_trait]
impl<D: Database> Repository for D {
    fn cluster_id(&self) -> ClusterId {
        Database::cluster_id(self)
    }

    fn describe(&self) -> String {
        Database::describe(self)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.look(setup::Ping).await
    }

    async fn ensure_project(&self, name: &ProjectName, now: Timestamp) -> Result<(), StoreError> {
        self.change(setup::EnsureProject { name: name.clone(), now: micros(now) }).await
    }

    async fn ensure_pool(&self, pool: &PoolConfig, now: Timestamp) -> Result<(), StoreError> {
        self.change(setup::EnsurePool { pool: pool.clone(), now: micros(now) }).await
    }

    async fn pools(&self) -> Result<Vec<PoolConfig>, StoreError> {
        self.look(setup::Pools).await
    }

    async fn pool_counts(&self, pool: &PoolName) -> Result<PoolCounts, StoreError> {
        self.look(setup::CountPool { pool: pool.clone() }).await
    }

    async fn put_api_key(&self, key: &NewApiKey) -> Result<(), StoreError> {
        self.change(NewApiKey { now: micros(key.now), ..key.clone() }).await
    }

    async fn find_api_key(&self, digest: &[u8; 32]) -> Result<Option<ApiKeyRecord>, StoreError> {
        self.look(setup::FindApiKey { digest: *digest }).await
    }

    async fn addresses_in_use(&self) -> Result<Vec<Ipv4Addr>, StoreError> {
        self.addresses().await
    }

    async fn allocate(&self, new: &NewAllocation) -> Result<ElasticIpRecord, StoreError> {
        Database::allocate(self, NewAllocation { now: micros(new.now), ..new.clone() }).await
    }

    async fn release(&self, command: &ReleaseCommand) -> Result<(), StoreError> {
        self.change(ReleaseCommand { now: micros(command.now), ..command.clone() }).await
    }

    async fn associate(&self, command: &AssociateCommand) -> Result<Wish, StoreError> {
        self.change(AssociateCommand { now: micros(command.now), ..command.clone() }).await
    }

    async fn disassociate(&self, command: &DisassociateCommand) -> Result<Wish, StoreError> {
        self.change(DisassociateCommand { now: micros(command.now), ..command.clone() }).await
    }

    async fn update(&self, command: &UpdateCommand) -> Result<ElasticIpRecord, StoreError> {
        self.change(UpdateCommand { now: micros(command.now), ..command.clone() }).await
    }

    async fn find_elastic_ip(
        &self,
        target: ElasticIpRef,
        scope: &Scope,
    ) -> Result<Option<ElasticIpRecord>, StoreError> {
        self.look(find::FindElasticIp { target, scope: scope.clone() }).await
    }

    async fn list_elastic_ips(
        &self,
        filter: &ElasticIpFilter,
    ) -> Result<Vec<ElasticIpRecord>, StoreError> {
        self.look(filter.clone()).await
    }

    async fn end_quarantines(&self, now: Timestamp) -> Result<Vec<Ipv4Addr>, StoreError> {
        self.change(release::EndQuarantines { now: micros(now) }).await
    }

    async fn events_of(&self, id: ElasticIpId, scope: &Scope) -> Result<Vec<Event>, StoreError> {
        self.look(find::EventsOf { id, scope: scope.clone() }).await
    }

    async fn list_instances(&self, filter: &InstanceFilter) -> Result<Vec<Instance>, StoreError> {
        self.look(filter.clone()).await
    }

    async fn list_hosts(&self) -> Result<Vec<HostRecord>, StoreError> {
        self.look(desired::ListHosts).await
    }

    async fn record_inventory(
        &self,
        host: &HostName,
        default_project: &ProjectName,
        backends: &[BackendInventory],
        now: Timestamp,
    ) -> Result<InventoryOutcome, StoreError> {
        self.change(inventory::RecordInventory {
            host: host.clone(),
            default_project: default_project.clone(),
            backends: backends.to_vec(),
            now: micros(now),
        })
        .await
    }

    async fn record_applied(
        &self,
        host: &HostName,
        report: &AppliedReport,
        now: Timestamp,
    ) -> Result<Vec<HostName>, StoreError> {
        self.change(applied::RecordApplied {
            host: host.clone(),
            report: report.clone(),
            now: micros(now),
        })
        .await
    }

    async fn desired_set(&self, host: &HostName) -> Result<DesiredSet, StoreError> {
        let cluster_id = Database::cluster_id(self);
        self.read(desired::ReadDesiredSet { cluster_id, host: host.clone() }).await
    }

    async fn generations(&self, host: &HostName) -> Result<(Generation, Generation), StoreError> {
        self.look(desired::Generations { host: host.clone() }).await
    }
}

//! The use cases, written once for every database.

mod allocate;
mod answers;
mod applied;
mod associate;
mod candidates;
mod counts;
mod desired;
mod disassociate;
mod find;
mod held;
pub(crate) mod history;
mod hosts;
mod inventory;
mod inventory_diff;
mod keys;
mod mark_applied;
mod mends;
mod pool_map;
pub(crate) mod pools;
mod projects;
mod release;
mod setup;
mod terms;
mod traffic;
mod trust;
mod update;
mod webhooks;

use std::net::Ipv4Addr;
use std::sync::Arc;

use self::history::HistoryFilter;
use self::pools::PoolChange;
use async_trait::async_trait;
use eip_model::{
    AllocationPeriod, AppliedReport, ClusterId, Counted, DesiredChanges, DesiredSet, ElasticIpId,
    ElasticIpRef, Event, Generation, HostName, Instance, InventoryPart, KeyId, Mend, PoolCell,
    PoolConfig, PoolName, Project, ProjectName, Traffic,
};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;

use crate::error::StoreError;
use crate::home::Home;
use crate::lane::Lane;
use crate::news::News;
use crate::pages::{KeyPlace, Page};
use crate::records::{
    Acceptance, Ahead, Allocated, ApiKeyRecord, AssociateCommand, By, DisassociateCommand,
    ElasticIpFilter, ElasticIpRecord, HostProgress, HostRecord, InstanceFilter, InventoryOutcome,
    MadeApiKey, NewAllocation, NewApiKey, OnceKey, PoolCounts, PoolLoad, ReleaseCommand, Released,
    Reported, Scope, Settled, Terms, UpdateCommand, Wish,
};
use crate::repository::Repository;

use crate::transaction::{Database, UseCase};

/// The record in a database: what comes in bursts goes through lanes, where it is settled together.
#[derive(Debug)]
pub(crate) struct Record<D> {
    database: Arc<D>,
    allocating: Lane<NewAllocation>,
    releasing: Lane<ReleaseCommand>,
    associating: Lane<AssociateCommand>,
    disassociating: Lane<DisassociateCommand>,
    applying: Lane<applied::RecordApplied>,
    finding: Lane<find::FindElasticIp>,
}

impl<D: Database> Record<D> {
    pub(crate) fn of(database: D, home: &Home) -> Self {
        Self {
            database: Arc::new(database),
            allocating: Lane::on(home),
            releasing: Lane::on(home),
            associating: Lane::on(home),
            disassociating: Lane::on(home),
            applying: Lane::on(home),
            finding: Lane::on(home),
        }
    }

    /// Makes a change that is about no elastic IP under its terms.
    async fn carry_out<U>(
        &self,
        terms: &Terms,
        by: &By,
        case: impl FnOnce(By) -> U,
    ) -> Result<Settled<U::Answer>, StoreError>
    where
        U: UseCase<Answer: Serialize + DeserializeOwned>,
    {
        let by = By { at: micros(by.at), ..by.clone() };
        terms::carry_out(&*self.database, terms, by.at, case(by)).await
    }
}

/// Cuts to what every database can keep, so that what is read is what was written.
fn micros(now: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

#[async_trait]
impl<D: Database> Repository for Record<D> {
    fn cluster_id(&self) -> ClusterId {
        self.database.cluster_id()
    }

    fn describe(&self) -> String {
        self.database.describe()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.database.look(setup::Ping).await
    }

    async fn ensure_project(
        &self,
        name: &ProjectName,
        quota: Option<u32>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (name, now) = (name.clone(), micros(now));
        self.database.change(setup::EnsureProject { name, quota, now }).await
    }

    async fn ensure_pool(&self, pool: &PoolConfig, now: Timestamp) -> Result<(), StoreError> {
        self.database.change(setup::EnsurePool { pool: pool.clone(), now: micros(now) }).await
    }

    async fn pools(&self) -> Result<Vec<PoolConfig>, StoreError> {
        self.database.look(setup::Pools).await
    }

    async fn pool_load(&self, pool: &PoolName) -> Result<PoolLoad, StoreError> {
        self.database.look(setup::LoadOfPool { pool: pool.clone() }).await
    }

    async fn pool_counts(&self, pool: &PoolName) -> Result<PoolCounts, StoreError> {
        self.database.look(setup::CountPool { pool: pool.clone() }).await
    }

    async fn put_api_key(&self, key: &NewApiKey) -> Result<(), StoreError> {
        self.database.change(NewApiKey { now: micros(key.now), ..key.clone() }).await
    }

    async fn find_api_key(&self, digest: &[u8; 32]) -> Result<Option<ApiKeyRecord>, StoreError> {
        self.database.look(keys::FindApiKey { digest: *digest }).await
    }

    async fn api_keys(&self, page: &Page<KeyPlace>) -> Result<Vec<ApiKeyRecord>, StoreError> {
        self.database.look(keys::ListApiKeys { id: None, page: page.clone() }).await
    }

    async fn api_key(&self, id: &KeyId) -> Result<Option<ApiKeyRecord>, StoreError> {
        let only = keys::ListApiKeys { id: Some(id.clone()), page: Page::WHOLE };
        self.database.look(only).await.map(|found| found.into_iter().next())
    }

    async fn make_api_key(
        &self,
        terms: &Terms,
        key: &NewApiKey,
        note: &str,
        quota: Option<u32>,
        actor: &str,
    ) -> Result<Settled<MadeApiKey>, StoreError> {
        let by = By { actor: actor.to_owned(), at: key.now };
        let (key, note) = (key.clone(), note.to_owned());
        self.carry_out(terms, &by, |by| keys::MakeApiKey { key, note, quota, by }).await
    }

    async fn revoke_api_key(&self, terms: &Terms, id: &KeyId, by: &By) -> Result<(), StoreError> {
        let id = id.clone();
        let done = self.carry_out(terms, by, |by| keys::RevokeApiKey { id, by }).await;
        done.map(|done| done.answer)
    }

    async fn note_key_use(&self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        let used = used.iter().map(|(id, at)| (id.clone(), micros(*at))).collect();
        self.database.change(keys::NoteKeyUse { used }).await
    }

    async fn projects(&self, page: &Page<ProjectName>) -> Result<Vec<Project>, StoreError> {
        self.database.look(projects::ListProjects { page: page.clone() }).await
    }

    async fn project(&self, name: &ProjectName) -> Result<Option<Project>, StoreError> {
        self.database.look(projects::FindProject { name: name.clone() }).await
    }

    async fn make_project(
        &self,
        terms: &Terms,
        name: &ProjectName,
        quota: Option<u32>,
        by: &By,
    ) -> Result<Settled<Project>, StoreError> {
        let name = name.clone();
        self.carry_out(terms, by, |by| projects::CreateProject { name, quota, by }).await
    }

    async fn set_quota(
        &self,
        terms: &Terms,
        name: &ProjectName,
        quota: Option<Option<u32>>,
        by: &By,
    ) -> Result<Project, StoreError> {
        let name = name.clone();
        let done = self.carry_out(terms, by, |by| projects::SetQuota { name, quota, by }).await;
        done.map(|done| done.answer)
    }

    async fn delete_project(
        &self,
        terms: &Terms,
        name: &ProjectName,
        by: &By,
    ) -> Result<(), StoreError> {
        let name = name.clone();
        let done = self.carry_out(terms, by, |by| projects::DeleteProject { name, by }).await;
        done.map(|done| done.answer)
    }

    async fn make_pool(
        &self,
        terms: &Terms,
        pool: &PoolConfig,
        by: &By,
    ) -> Result<Settled<PoolConfig>, StoreError> {
        let pool = pool.clone();
        self.carry_out(terms, by, |by| pools::CreatePool { pool, by }).await
    }

    async fn change_pool(
        &self,
        terms: &Terms,
        name: &PoolName,
        change: &PoolChange,
        by: &By,
    ) -> Result<PoolConfig, StoreError> {
        let (name, change) = (name.clone(), change.clone());
        let done = self.carry_out(terms, by, |by| pools::UpdatePool { name, change, by }).await;
        done.map(|done| done.answer)
    }

    async fn delete_pool(&self, terms: &Terms, name: &PoolName, by: &By) -> Result<(), StoreError> {
        let name = name.clone();
        let done = self.carry_out(terms, by, |by| pools::DeletePool { name, by }).await;
        done.map(|done| done.answer)
    }

    async fn map_pool(
        &self,
        pool: &PoolName,
        blocks: &[(Ipv4Addr, u32)],
    ) -> Result<Vec<PoolCell>, StoreError> {
        let (pool, blocks) = (pool.clone(), blocks.to_vec());
        self.database.read(pool_map::MapPool { pool, blocks }).await
    }

    async fn next_waking(&self, pool: &PoolName) -> Result<Option<Timestamp>, StoreError> {
        self.database.look(setup::NextWaking { pool: pool.clone() }).await
    }

    async fn history(&self, filter: &HistoryFilter) -> Result<Vec<AllocationPeriod>, StoreError> {
        self.database.read(filter.clone()).await
    }

    async fn allocated_before(&self, once: &OnceKey) -> Result<Option<Allocated>, StoreError> {
        self.database.look(answers::AllocatedBefore(once.clone())).await
    }

    async fn rehearse_allocation(&self, new: &NewAllocation) -> Result<Allocated, StoreError> {
        let new = NewAllocation { now: micros(new.now), once: None, ..new.clone() };
        terms::rehearse(&*self.database, terms::Alone(new)).await
    }

    async fn associate_all(&self, commands: &[AssociateCommand]) -> Vec<Result<Wish, StoreError>> {
        let cut = |one: &AssociateCommand| AssociateCommand { now: micros(one.now), ..one.clone() };
        let commands = commands.iter().map(cut).collect();
        self.associating.settle_all(&self.database, commands).await
    }

    async fn associate_under(
        &self,
        terms: &Terms,
        command: &AssociateCommand,
    ) -> Result<Settled<Wish>, StoreError> {
        if terms.is_none() {
            return self.associate(command).await.map(Settled::first);
        }
        let now = micros(command.now);
        let command = AssociateCommand { now, ..command.clone() };
        terms::under(&*self.database, terms, now, terms::Alone(command)).await
    }

    async fn disassociate_under(
        &self,
        terms: &Terms,
        command: &DisassociateCommand,
    ) -> Result<Settled<Wish>, StoreError> {
        if terms.is_none() {
            return self.disassociate(command).await.map(Settled::first);
        }
        let now = micros(command.now);
        let command = DisassociateCommand { now, ..command.clone() };
        terms::under(&*self.database, terms, now, terms::Alone(command)).await
    }

    async fn release_under(
        &self,
        terms: &Terms,
        command: &ReleaseCommand,
    ) -> Result<Released, StoreError> {
        if terms.is_none() {
            return self.release(command).await;
        }
        let now = micros(command.now);
        let command = ReleaseCommand { now, ..command.clone() };
        terms::each_time(&*self.database, terms, terms::Alone(command)).await
    }

    async fn update_under(
        &self,
        terms: &Terms,
        command: &UpdateCommand,
    ) -> Result<ElasticIpRecord, StoreError> {
        let command = UpdateCommand { now: micros(command.now), ..command.clone() };
        terms::each_time(&*self.database, terms, command).await
    }

    async fn note_answer(
        &self,
        once: &OnceKey,
        body: &serde_json::Value,
    ) -> Result<(), StoreError> {
        self.database.change(terms::NoteBody { once: once.clone(), body: body.clone() }).await
    }

    async fn addresses_in_use(&self) -> Result<Vec<Ipv4Addr>, StoreError> {
        self.database.addresses().await
    }

    async fn allocate(&self, new: &NewAllocation) -> Result<Allocated, StoreError> {
        let new = NewAllocation { now: micros(new.now), ..new.clone() };
        self.allocating.settle(&self.database, new).await
    }

    async fn forget_answers(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.database.change(answers::ForgetAnswers { before: micros(before) }).await
    }

    async fn release(&self, command: &ReleaseCommand) -> Result<Released, StoreError> {
        let command = ReleaseCommand { now: micros(command.now), ..command.clone() };
        self.releasing.settle(&self.database, command).await
    }

    async fn associate(&self, command: &AssociateCommand) -> Result<Wish, StoreError> {
        let command = AssociateCommand { now: micros(command.now), ..command.clone() };
        self.associating.settle(&self.database, command).await
    }

    async fn disassociate(&self, command: &DisassociateCommand) -> Result<Wish, StoreError> {
        let command = DisassociateCommand { now: micros(command.now), ..command.clone() };
        self.disassociating.settle(&self.database, command).await
    }

    async fn update(&self, command: &UpdateCommand) -> Result<ElasticIpRecord, StoreError> {
        self.database.change(UpdateCommand { now: micros(command.now), ..command.clone() }).await
    }

    async fn find_elastic_ip(
        &self,
        target: ElasticIpRef,
        scope: &Scope,
    ) -> Result<Option<ElasticIpRecord>, StoreError> {
        let aim = find::FindElasticIp { target, scope: scope.clone() };
        self.finding.settle(&self.database, aim).await
    }

    async fn list_elastic_ips(
        &self,
        filter: &ElasticIpFilter,
    ) -> Result<Vec<ElasticIpRecord>, StoreError> {
        self.database.look(filter.clone()).await
    }

    async fn end_quarantines(&self, now: Timestamp) -> Result<Vec<Ipv4Addr>, StoreError> {
        self.database.change(release::EndQuarantines { now: micros(now) }).await
    }

    async fn events_of(
        &self,
        id: ElasticIpId,
        scope: &Scope,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        self.database.look(find::EventsOf { id, scope: scope.clone(), after, limit }).await
    }

    async fn events_after(&self, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.database.look(find::EventsAfter { after, limit }).await
    }

    async fn events_of_project(
        &self,
        project: &ProjectName,
        after: u64,
        limit: u32,
    ) -> Result<(Vec<Event>, Option<u64>), StoreError> {
        let project = project.clone();
        self.database.read(find::EventsOfProject { after, limit, project }).await
    }

    async fn last_event(&self) -> Result<u64, StoreError> {
        self.database.look(find::LastEvent).await
    }

    fn news(&self) -> broadcast::Receiver<News> {
        self.database.news()
    }

    async fn list_instances(&self, filter: &InstanceFilter) -> Result<Vec<Instance>, StoreError> {
        self.database.look(filter.clone()).await
    }

    async fn list_hosts(&self) -> Result<Vec<HostRecord>, StoreError> {
        self.database.look(desired::ListHosts).await
    }

    async fn record_inventory(
        &self,
        host: &HostName,
        default_project: &ProjectName,
        part: &InventoryPart,
        now: Timestamp,
    ) -> Result<InventoryOutcome, StoreError> {
        self.database
            .change(inventory::RecordInventory {
                host: host.clone(),
                default_project: default_project.clone(),
                part: part.clone(),
                now: micros(now),
            })
            .await
    }

    async fn record_applied(
        &self,
        host: &HostName,
        report: &AppliedReport,
        now: Timestamp,
    ) -> Result<Reported, StoreError> {
        let (host, report) = (host.clone(), report.clone());
        let said = applied::RecordApplied { host, report, now: micros(now) };
        self.applying.settle(&self.database, said).await
    }

    async fn mark_applied(&self, host: &HostName, now: Timestamp) -> Result<bool, StoreError> {
        let (host, now) = (host.clone(), micros(now));
        self.database.change(mark_applied::MarkApplied { host, now }).await
    }

    async fn desired_set(&self, host: &HostName) -> Result<DesiredSet, StoreError> {
        let cluster_id = self.database.cluster_id();
        self.database.read(desired::ReadDesiredSet { cluster_id, host: host.clone() }).await
    }

    async fn desired_changes(
        &self,
        host: &HostName,
        since: Generation,
    ) -> Result<Option<DesiredChanges>, StoreError> {
        let (cluster_id, host) = (self.cluster_id(), host.clone());
        self.database.read(desired::ReadDesiredChanges { cluster_id, host, since }).await
    }

    async fn generations(&self, host: &HostName) -> Result<(Generation, Generation), StoreError> {
        self.database.look(desired::Generations { host: host.clone() }).await
    }

    async fn host_progress(&self, host: &HostName) -> Result<HostProgress, StoreError> {
        self.database.look(trust::ReadProgress { host: host.clone() }).await
    }

    async fn mark_ahead(
        &self,
        host: &HostName,
        ahead: Ahead,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (host, reason, now) = (host.clone(), reason.to_owned(), micros(now));
        self.database.change(trust::MarkAhead { host, ahead, reason, now }).await
    }

    async fn record_mends(&self, host: &HostName, mends: &[Mend]) -> Result<(), StoreError> {
        let precise = |one: &Mend| Mend { at: micros(one.at), ..one.clone() };
        let (host, mends) = (host.clone(), mends.iter().map(precise).collect());
        self.database.change(mends::RecordMends { host, mends }).await
    }

    async fn record_traffic(
        &self,
        host: &HostName,
        counted: &[Counted],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (host, counted, now) = (host.clone(), counted.to_vec(), micros(now));
        self.database.change(traffic::RecordTraffic { host, counted, now }).await
    }

    async fn traffic(
        &self,
        address: Ipv4Addr,
        id: ElasticIpId,
    ) -> Result<Option<Traffic>, StoreError> {
        self.database.look(traffic::ReadTraffic { address, id }).await
    }

    async fn accept_host(
        &self,
        terms: &Terms,
        host: &HostName,
        by: &By,
    ) -> Result<Settled<Acceptance>, StoreError> {
        let host = host.clone();
        self.carry_out(terms, by, |by| trust::AcceptHost { host, by }).await
    }
}

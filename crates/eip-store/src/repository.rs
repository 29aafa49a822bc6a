//! The transactions of the service.

use std::net::Ipv4Addr;

use async_trait::async_trait;
use eip_model::{
    AllocationPeriod, AppliedReport, ClusterId, Counted, DesiredChanges, DesiredSet, ElasticIpId,
    ElasticIpRef, Event, Generation, HostName, Instance, InventoryPart, KeyId, Mend, PoolCell,
    PoolConfig, PoolName, Project, ProjectName, Traffic,
};
use jiff::Timestamp;
use tokio::sync::broadcast;

use crate::cases::history::HistoryFilter;
use crate::cases::pools::PoolChange;
use crate::error::StoreError;
use crate::news::News;
use crate::pages::{KeyPlace, Page};
use crate::records::{
    Acceptance, Ahead, Allocated, ApiKeyRecord, AssociateCommand, By, DisassociateCommand,
    ElasticIpFilter, ElasticIpRecord, HostProgress, HostRecord, InstanceFilter, InventoryOutcome,
    MadeApiKey, NewAllocation, NewApiKey, OnceKey, PoolCounts, PoolLoad, ReleaseCommand, Released,
    Reported, Scope, Settled, Terms, UpdateCommand, Wish,
};
use crate::webhooks::Webhooks;

/// The record of the service, whatever database keeps it.
///
/// Every method that changes something is one transaction: when it returns `Ok` the change and its
/// event are durable, when it returns [`StoreError::Refused`] nothing changed. Time comes in as an
/// argument. Every method may fail with [`StoreError::Unavailable`] and [`StoreError::Corrupt`].
#[async_trait]
pub trait Repository: Webhooks + std::fmt::Debug + Send + Sync + 'static {
    /// The id of this record, made when the database was first used.
    fn cluster_id(&self) -> ClusterId;

    /// What kind of database this is and where, without secrets, for logs and `/readyz`.
    fn describe(&self) -> String;

    /// Makes sure that the database answers.
    async fn ping(&self) -> Result<(), StoreError>;

    // Set-up

    /// Makes the project unless it is there. It may hold `quota` addresses; without, as many as there
    /// are.
    async fn ensure_project(
        &self,
        name: &ProjectName,
        quota: Option<u32>,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Makes the pool unless one of this name is there, in which case the one that is there stays.
    /// A new pool bumps every host: its ranges are in every desired set.
    async fn ensure_pool(&self, pool: &PoolConfig, now: Timestamp) -> Result<(), StoreError>;

    /// Returns all pools by name.
    async fn pools(&self) -> Result<Vec<PoolConfig>, StoreError>;

    /// Returns how full the pool is; one that is not there is empty.
    async fn pool_load(&self, pool: &PoolName) -> Result<PoolLoad, StoreError>;

    async fn pool_counts(&self, pool: &PoolName) -> Result<PoolCounts, StoreError>;

    /// Makes the key known; the same id again replaces its digest and role.
    async fn put_api_key(&self, key: &NewApiKey) -> Result<(), StoreError>;

    async fn find_api_key(&self, digest: &[u8; 32]) -> Result<Option<ApiKeyRecord>, StoreError>;

    /// Makes a new key known, under terms, and its project with this quota if there is none. `note` is
    /// kept with the answer, for those who repeat it.
    async fn make_api_key(
        &self,
        terms: &Terms,
        key: &NewApiKey,
        note: &str,
        quota: Option<u32>,
        actor: &str,
    ) -> Result<Settled<MadeApiKey>, StoreError>;

    /// Returns keys, the oldest first.
    async fn api_keys(&self, page: &Page<KeyPlace>) -> Result<Vec<ApiKeyRecord>, StoreError>;

    async fn api_key(&self, id: &KeyId) -> Result<Option<ApiKeyRecord>, StoreError>;

    /// Makes the key good for nothing. Refuses with `ApiKeyNotFound`.
    async fn revoke_api_key(&self, terms: &Terms, id: &KeyId, by: &By) -> Result<(), StoreError>;

    /// Notes when keys were used last.
    async fn note_key_use(&self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError>;

    /// Returns projects by name.
    async fn projects(&self, page: &Page<ProjectName>) -> Result<Vec<Project>, StoreError>;

    async fn project(&self, name: &ProjectName) -> Result<Option<Project>, StoreError>;

    /// Makes a project. Refuses with `Exists`.
    async fn make_project(
        &self,
        terms: &Terms,
        name: &ProjectName,
        quota: Option<u32>,
        by: &By,
    ) -> Result<Settled<Project>, StoreError>;

    /// Changes how many addresses a project may hold, if a quota is given. Refuses with
    /// `ProjectNotFound`.
    async fn set_quota(
        &self,
        terms: &Terms,
        name: &ProjectName,
        quota: Option<Option<u32>>,
        by: &By,
    ) -> Result<Project, StoreError>;

    /// Deletes a project that holds nothing and has no good key. Refuses with `ProjectNotFound` and
    /// `ProjectInUse`.
    async fn delete_project(
        &self,
        terms: &Terms,
        name: &ProjectName,
        by: &By,
    ) -> Result<(), StoreError>;

    /// Makes a pool and bumps every host. Refuses with `Exists` and `PoolOverlaps`.
    async fn make_pool(
        &self,
        terms: &Terms,
        pool: &PoolConfig,
        by: &By,
    ) -> Result<Settled<PoolConfig>, StoreError>;

    /// Changes a pool. Refuses with `PoolNotFound`, `PoolOverlaps`, and with `AddressInUse` when
    /// somebody holds an address that is to be reserved.
    async fn change_pool(
        &self,
        terms: &Terms,
        name: &PoolName,
        change: &PoolChange,
        by: &By,
    ) -> Result<PoolConfig, StoreError>;

    /// Deletes a pool of which no address is held or asleep. Refuses with `PoolNotFound` and
    /// `PoolInUse`.
    async fn delete_pool(&self, terms: &Terms, name: &PoolName, by: &By) -> Result<(), StoreError>;

    /// Returns when the next quarantine of a pool ends, if any address of it sleeps.
    async fn next_waking(&self, pool: &PoolName) -> Result<Option<Timestamp>, StoreError>;

    /// Counts what there is in blocks of a pool, as of one moment: so many addresses from one on, and all
    /// as many but for the last of each range.
    async fn map_pool(
        &self,
        pool: &PoolName,
        blocks: &[(Ipv4Addr, u32)],
    ) -> Result<Vec<PoolCell>, StoreError>;

    /// Returns who had an address, the newest first, with what it was associated with.
    async fn history(&self, filter: &HistoryFilter) -> Result<Vec<AllocationPeriod>, StoreError>;

    // Elastic IPs

    /// Returns what was answered to an allocation under this key, if there was one. Refuses with
    /// `IdempotencyConflict`.
    async fn allocated_before(&self, once: &OnceKey) -> Result<Option<Allocated>, StoreError>;

    /// Says what [`Self::allocate`] would come to, and changes nothing.
    async fn rehearse_allocation(&self, new: &NewAllocation) -> Result<Allocated, StoreError>;

    /// [`Self::associate`] for each of them, as one transaction where that can be. Returns what became of
    /// each, in their order.
    async fn associate_all(&self, commands: &[AssociateCommand]) -> Vec<Result<Wish, StoreError>>;

    /// [`Self::associate`] under terms. Refuses also with `PreconditionFailed` and
    /// `IdempotencyConflict`.
    async fn associate_under(
        &self,
        terms: &Terms,
        command: &AssociateCommand,
    ) -> Result<Settled<Wish>, StoreError>;

    /// [`Self::disassociate`] under terms. Refuses also with `PreconditionFailed` and
    /// `IdempotencyConflict`.
    async fn disassociate_under(
        &self,
        terms: &Terms,
        command: &DisassociateCommand,
    ) -> Result<Settled<Wish>, StoreError>;

    /// [`Self::release`] under terms, of which the key is not looked at. Refuses also with
    /// `PreconditionFailed`.
    async fn release_under(
        &self,
        terms: &Terms,
        command: &ReleaseCommand,
    ) -> Result<Released, StoreError>;

    /// [`Self::update`] under terms, of which the key is not looked at. Refuses also with
    /// `PreconditionFailed`.
    async fn update_under(
        &self,
        terms: &Terms,
        command: &UpdateCommand,
    ) -> Result<ElasticIpRecord, StoreError>;

    /// Notes what was answered to a change under a key: whoever repeats it is answered so.
    async fn note_answer(&self, once: &OnceKey, body: &serde_json::Value)
    -> Result<(), StoreError>;

    /// Returns every address that is held or asleep, in any order.
    async fn addresses_in_use(&self) -> Result<Vec<Ipv4Addr>, StoreError>;

    /// Holds the address for the project.
    ///
    /// Refuses with `QuotaExceeded` when the project holds as many as it may, with `AddressInUse` when it is held, or asleep and not to be woken by this caller,
    /// and with `NameInUse`. An address whose quarantine has ended counts as free.
    ///
    /// With a key it is carried out once. What a key was used for before is answered again as it was
    /// then, or refused with `IdempotencyConflict` when something else was asked for.
    async fn allocate(&self, new: &NewAllocation) -> Result<Allocated, StoreError>;

    /// Forgets answers to keys that were first given before this, a few thousand at a time, and
    /// returns how many: none when there are no more.
    async fn forget_answers(&self, before: Timestamp) -> Result<u64, StoreError>;

    /// Ends the hold and starts the quarantine that the pool asks for.
    ///
    /// Refuses with `ElasticIpNotFound` and `StillAssociated`.
    async fn release(&self, command: &ReleaseCommand) -> Result<Released, StoreError>;

    /// Points the elastic IP at the instance, or with `allow_reassociation` moves it there.
    ///
    /// In one transaction: the elastic IP is held and in scope, the instance is of the same
    /// project, runs and has a private address, neither is associated otherwise; links the two,
    /// writes the event and bumps the generation of every host concerned. A host that had the
    /// address fences, whether it lost it to a move, a disassociate or the end of its instance, and
    /// whoever held it: another host gets the address in its desired set only once that one has
    /// reported the generation that lacks it.
    ///
    /// Refuses with what stands against it, asked in this order: `ElasticIpNotFound`,
    /// `InstanceNotFound`, `InstanceAmbiguous`, `InstanceNotRunning`, `InstanceNotOnNetwork`,
    /// `InstanceHasNoNetwork`, `ModeNotSupported`, `AlreadyAssociated`, `InstanceHasElasticIp`.
    /// Associating where it already is, in the mode and on the network that it is, is no change,
    /// whatever the state of the instance; the wish is then the one that stands. Otherwise it is
    /// changed in place, as a change of the host's desired set with an event of its own.
    async fn associate(&self, command: &AssociateCommand) -> Result<Wish, StoreError>;

    /// Ends the association. Refuses with `ElasticIpNotFound` and `NotAssociated`.
    async fn disassociate(&self, command: &DisassociateCommand) -> Result<Wish, StoreError>;

    /// Changes name and tags; what is so already is no change and no event. Refuses with `ElasticIpNotFound` and `NameInUse`.
    async fn update(&self, command: &UpdateCommand) -> Result<ElasticIpRecord, StoreError>;

    /// Returns the elastic IP that is held under this id or address, if the scope may see it.
    async fn find_elastic_ip(
        &self,
        target: ElasticIpRef,
        scope: &Scope,
    ) -> Result<Option<ElasticIpRecord>, StoreError>;

    /// Returns at most `limit` elastic IPs, the oldest allocation first.
    async fn list_elastic_ips(
        &self,
        filter: &ElasticIpFilter,
    ) -> Result<Vec<ElasticIpRecord>, StoreError>;

    /// Frees addresses whose quarantine has ended by `now`, and returns them: a few thousand at a
    /// time, and none when there are no more.
    async fn end_quarantines(&self, now: Timestamp) -> Result<Vec<Ipv4Addr>, StoreError>;

    /// Returns at most `limit` events of one elastic IP behind the one whose number is `after`, oldest
    /// first, also after its release.
    async fn events_of(
        &self,
        id: ElasticIpId,
        scope: &Scope,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError>;

    /// Returns at most `limit` events behind the one whose number is `after`, in the order in which
    /// they were committed. The number of an event is its id.
    ///
    /// Whoever goes on from the last one that it got misses none and sees none twice, however many
    /// write: the number is drawn under a lock that is held until the commit.
    async fn events_after(&self, after: u64, limit: u32) -> Result<Vec<Event>, StoreError>;

    /// Returns at most `limit` events of a project behind the one whose number is `after`, oldest first,
    /// and up to which number was looked; `None` when there is nothing behind it. One look ends after
    /// a number of events, whoever they are of.
    async fn events_of_project(
        &self,
        project: &ProjectName,
        after: u64,
        limit: u32,
    ) -> Result<(Vec<Event>, Option<u64>), StoreError>;

    /// Returns the number of the newest event; 0 when there is none.
    async fn last_event(&self) -> Result<u64, StoreError>;

    /// Follows what is committed, here or by another server on the same database. A hint: it may
    /// come late or not at all, so whoever follows looks now and then without it.
    fn news(&self) -> broadcast::Receiver<News>;

    // Hosts and instances

    /// Returns instances ordered by host, backend and name. An instance whose host names no project
    /// for it was given the host's default when it was reported.
    async fn list_instances(&self, filter: &InstanceFilter) -> Result<Vec<Instance>, StoreError>;

    async fn list_hosts(&self) -> Result<Vec<HostRecord>, StoreError>;

    /// Takes in the instances of a host, or the part of them that is in a scope: nothing is said of
    /// others. Costs what is in the scope.
    ///
    /// What a listed backend no longer has is removed, and its association ends with an event; what
    /// an unreachable backend had stays. A host that is new is made known. An instance whose id
    /// belongs to another host is left out. `default_project` owns what names no project. Refuses with
    /// `PreconditionFailed` a part that was sent before one that has been taken in.
    async fn record_inventory(
        &self,
        host: &HostName,
        default_project: &ProjectName,
        part: &InventoryPart,
        now: Timestamp,
    ) -> Result<InventoryOutcome, StoreError>;

    /// Takes in what a host has in force, and lifts the fences that were waiting for it.
    ///
    /// A generation that this record never reached (a backup was restored since) counts as none.
    async fn record_applied(
        &self,
        host: &HostName,
        report: &AppliedReport,
        now: Timestamp,
    ) -> Result<Reported, StoreError>;

    /// Notes of some associations of a host since when they are in force, if it has reported them and that
    /// was not noted. Returns whether there may be more.
    async fn mark_applied(&self, host: &HostName, now: Timestamp) -> Result<bool, StoreError>;

    /// Returns everything that should be in force on the host, as of one moment. A host that is not
    /// known has generation 0 and nothing.
    async fn desired_set(&self, host: &HostName) -> Result<DesiredSet, StoreError>;

    /// Returns what has changed in the host's desired set since a generation of it, or nothing when
    /// that is not known any more, or not yet. Costs what has changed, whatever the size of the set.
    async fn desired_changes(
        &self,
        host: &HostName,
        since: Generation,
    ) -> Result<Option<DesiredChanges>, StoreError>;

    /// Returns the generation of the host's desired set and the newest one it reported.
    async fn generations(&self, host: &HostName) -> Result<(Generation, Generation), StoreError>;

    /// Returns how far the host has come. One that is not known has come nowhere.
    async fn host_progress(&self, host: &HostName) -> Result<HostProgress, StoreError>;

    /// Notes that a host holds what this record never gave it, and what to tell callers of that. It
    /// stays so until [`Self::accept_host`].
    async fn mark_ahead(
        &self,
        host: &HostName,
        ahead: Ahead,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Writes an event for each thing that a host has put right. What is in the record already, of the
    /// same time and in the same words, is left out.
    async fn record_mends(&self, host: &HostName, mends: &[Mend]) -> Result<(), StoreError>;

    /// Adds what elastic IPs on a host have carried since its last report. Each address comes once,
    /// with its counter as it stands, so that repeating a report changes nothing.
    async fn record_traffic(
        &self,
        host: &HostName,
        counted: &[Counted],
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Returns what this holder of the address has carried, if any host has told of it.
    async fn traffic(
        &self,
        address: Ipv4Addr,
        id: ElasticIpId,
    ) -> Result<Option<Traffic>, StoreError>;

    /// Makes the desired set of a host that is ahead the successor of what it holds. For one that is
    /// not ahead nothing changes.
    async fn accept_host(
        &self,
        terms: &Terms,
        host: &HostName,
        by: &By,
    ) -> Result<Settled<Acceptance>, StoreError>;
}

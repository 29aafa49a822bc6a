//! A record of either kind, and short words for what is done to it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use eip_model::{
    AppliedReport, AttachmentProblem, Backend, BackendInventory, BackendListing, DataPlaneHealth,
    DesiredSet, ElasticIpId, ElasticIpRef, Generation, HostName, InstanceId, InstanceRef,
    InstanceReport, InstanceState, InventoryPart, InventoryScope, Ipv4Range, Mode, PoolConfig,
    ProjectName, Tags, craft_id,
};
use eip_store::{
    AssociateCommand, By, DisassociateCommand, ElasticIpFilter, ElasticIpRecord, InventoryOutcome,
    NetworkWish, NewAllocation, Refusal, ReleaseCommand, Released, Repository, Scope, StoreError,
    Wish, open,
};
use eip_testkit::pgbouncer::TestBouncer;
use eip_testkit::postgres::TestCluster;
use jiff::Timestamp;
use tempfile::TempDir;
use uuid::Uuid;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    /// PostgreSQL by way of a pgbouncer that gives every transaction another connection.
    Bouncer,
}

pub(crate) struct World {
    pub(crate) repo: Arc<dyn Repository>,
    pub(crate) url: String,
    pub(crate) folder: TempDir,
}

/// The default pool. Released addresses sleep for ten minutes.
pub(crate) const QUARANTINE: i64 = 600;

pub(crate) fn range() -> Ipv4Range {
    "100.64.0.0/10".parse().unwrap()
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// An administrator, then.
pub(crate) fn by(second: i64) -> By {
    By { actor: "key:k1".to_owned(), at: at(second) }
}

pub(crate) fn project(name: &str) -> ProjectName {
    name.parse().unwrap()
}

pub(crate) fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

pub(crate) fn scope(name: &str) -> Scope {
    Scope::Project(project(name))
}

pub(crate) fn address(offset: u32) -> Ipv4Addr {
    range().at(offset).unwrap()
}

pub(crate) fn instance_id(n: u128) -> InstanceId {
    InstanceId::new(Uuid::from_u128(n))
}

/// A container that an elastic IP can be pointed at.
pub(crate) fn instance(n: u128) -> InstanceReport {
    InstanceReport {
        id: instance_id(n),
        backend: Backend::Docker,
        name: format!("web-{n}"),
        project: None,
        state: InstanceState::Running,
        private_ip: Some(Ipv4Addr::new(172, 17, 0, u8::try_from(n % 250).unwrap() + 2)),
        vpc_id: Some("bridge".into()),
        address_source: None,
        unusable: None,
        modes: Mode::ALL.to_vec(),
        interfaces: Vec::new(),
    }
}

pub(crate) fn docker(instances: Vec<InstanceReport>) -> BackendInventory {
    BackendInventory { backend: Backend::Docker, listing: BackendListing::Listed { instances } }
}

pub(crate) fn new_allocation(offset: u32, owner: &str) -> NewAllocation {
    let id = craft_id(*Uuid::new_v4().as_bytes(), offset, range().size()).unwrap();
    NewAllocation {
        id: ElasticIpId::new(id),
        address: address(offset),
        range: range(),
        pool: "public".parse().unwrap(),
        project: project(owner),
        name: None,
        tags: Tags::default(),
        protected: false,
        asked_for: false,
        actor: "key-1".into(),
        now: at(0),
        once: None,
    }
}

pub(crate) fn associate(target: ElasticIpRef, instance: u128) -> AssociateCommand {
    AssociateCommand {
        target,
        scope: scope("default"),
        instance: InstanceRef::Id(instance_id(instance)),
        allow_reassociation: false,
        mode: None,
        network: NetworkWish::AsItIs,
        actor: "key-1".into(),
        now: at(10),
    }
}

pub(crate) fn list_all() -> ElasticIpFilter {
    ElasticIpFilter {
        scope: Scope::Everything,
        status: None,
        instance_id: None,
        public_ip: None,
        name: None,
        pool: None,
        tag: None,
        after: None,
        limit: 500,
    }
}

/// The way through pgbouncer to the database with this URL.
pub(crate) fn bouncer_url(bouncer: &TestBouncer, direct: &str) -> String {
    let name = direct.trim_start_matches("postgres:///").split('?').next().unwrap();
    format!("{}&pgbouncer=true", bouncer.url(name))
}

/// Holds an address.
pub(crate) async fn take(
    repo: &Arc<dyn Repository>,
    new: &NewAllocation,
) -> Result<ElasticIpRecord, StoreError> {
    repo.allocate(new).await.map(|made| made.record)
}

/// Returns what the record refused with.
pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> Refusal {
    match answer {
        Err(StoreError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

impl World {
    pub(crate) async fn new(kind: Kind) -> Self {
        Self::with_quarantine(kind, u32::try_from(QUARANTINE).unwrap()).await
    }

    /// Projects `default` and `other`, and the default pool.
    pub(crate) async fn with_quarantine(kind: Kind, quarantine_seconds: u32) -> Self {
        Self::empty(kind).await.furnished(quarantine_seconds).await
    }

    pub(crate) async fn empty(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = match kind {
            Kind::Sqlite => format!("sqlite:{}", folder.path().join("deep/eip.db").display()),
            Kind::Postgres => TestCluster::shared().fresh_database().await,
            Kind::Bouncer => {
                bouncer_url(TestBouncer::shared(), &TestCluster::shared().fresh_database().await)
            }
        };
        let repo = open(&url).await.unwrap();
        Self { repo, url, folder }
    }

    /// The same as [`World::new`], in an empty database.
    pub(crate) async fn on(url: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repo = open(&url).await.unwrap();
        Self { repo, url, folder }.furnished(u32::try_from(QUARANTINE).unwrap()).await
    }

    async fn furnished(self, quarantine_seconds: u32) -> Self {
        let repo = &self.repo;
        repo.ensure_project(&project("default"), None, at(0)).await.unwrap();
        repo.ensure_project(&project("other"), None, at(0)).await.unwrap();
        let pool = PoolConfig {
            name: "public".parse().unwrap(),
            ranges: vec![range()],
            quarantine_seconds,
            mode: eip_model::Mode::Nat,
            reserved: Vec::new(),
            projects: None,
            draining: false,
        };
        repo.ensure_pool(&pool, at(0)).await.unwrap();
        self
    }

    pub(crate) async fn hold(&self, offset: u32) -> ElasticIpRecord {
        take(&self.repo, &new_allocation(offset, "default")).await.unwrap()
    }

    pub(crate) async fn report(&self, name: &str, instances: &[u128]) -> InventoryOutcome {
        let instances = instances.iter().map(|n| instance(*n)).collect();
        self.report_backends(name, &[docker(instances)]).await
    }

    pub(crate) async fn report_backends(
        &self,
        name: &str,
        backends: &[BackendInventory],
    ) -> InventoryOutcome {
        let owner = project("default");
        self.repo.record_inventory(&host(name), &owner, &whole(backends), at(5)).await.unwrap()
    }

    pub(crate) async fn point(&self, eip: &ElasticIpRecord, instance: u128) -> Wish {
        self.repo.associate(&associate(ElasticIpRef::Id(eip.id), instance)).await.unwrap()
    }

    pub(crate) async fn shift(&self, eip: &ElasticIpRecord, instance: u128) -> Wish {
        let command = AssociateCommand {
            allow_reassociation: true,
            ..associate(ElasticIpRef::Id(eip.id), instance)
        };
        self.repo.associate(&command).await.unwrap()
    }

    pub(crate) async fn part(&self, eip: &ElasticIpRecord) -> Result<Wish, StoreError> {
        self.repo
            .disassociate(&DisassociateCommand {
                target: ElasticIpRef::Id(eip.id),
                scope: scope("default"),
                actor: "key-1".into(),
                now: at(20),
            })
            .await
    }

    pub(crate) async fn release(&self, eip: &ElasticIpRecord) -> Result<Released, StoreError> {
        self.release_at(eip, at(30)).await
    }

    pub(crate) async fn release_at(
        &self,
        eip: &ElasticIpRecord,
        now: Timestamp,
    ) -> Result<Released, StoreError> {
        self.repo
            .release(&ReleaseCommand {
                target: ElasticIpRef::Id(eip.id),
                scope: scope("default"),
                actor: "key-1".into(),
                now,
            })
            .await
    }

    /// Reports a generation as in force, and returns the hosts that were waiting for it.
    pub(crate) async fn applied(&self, name: &str, generation: Generation) -> Vec<HostName> {
        self.applied_with(name, generation, &[]).await
    }

    pub(crate) async fn applied_with(
        &self,
        name: &str,
        generation: Generation,
        problems: &[AttachmentProblem],
    ) -> Vec<HostName> {
        let report = AppliedReport {
            cluster_id: self.repo.cluster_id(),
            generation,
            data_plane: DataPlaneHealth::Ready,
            problems: problems.to_vec(),
        };
        self.repo.record_applied(&host(name), &report, at(15)).await.unwrap().freed
    }

    pub(crate) async fn desired(&self, name: &str) -> DesiredSet {
        self.repo.desired_set(&host(name)).await.unwrap()
    }

    /// The addresses in the desired set of a host.
    pub(crate) async fn wanted(&self, name: &str) -> Vec<Ipv4Addr> {
        self.desired(name).await.attachments.iter().map(|one| one.public_ip).collect()
    }

    pub(crate) async fn generation(&self, name: &str) -> Generation {
        self.repo.generations(&host(name)).await.unwrap().0
    }

    pub(crate) async fn show(&self, eip: &ElasticIpRecord) -> ElasticIpRecord {
        let found = self.repo.find_elastic_ip(ElasticIpRef::Id(eip.id), &Scope::Everything).await;
        found.unwrap().unwrap()
    }

    /// The kinds of the events of an elastic IP, oldest first.
    /// The same, with what the events say besides.
    pub(crate) async fn told_in_full(&self, eip: &ElasticIpRecord) -> Vec<String> {
        let events = self.repo.events_of(eip.id, &Scope::Everything, 0, 10_000).await.unwrap();
        let text = |event: &eip_model::Event| {
            let detail = event.detail.as_ref().map(|detail| format!(": {detail}"));
            format!("{}{}", event.kind.as_str(), detail.unwrap_or_default())
        };
        events.iter().map(text).collect()
    }

    pub(crate) async fn told(&self, eip: &ElasticIpRecord) -> Vec<&'static str> {
        let events = self.repo.events_of(eip.id, &Scope::Everything, 0, 10_000).await.unwrap();
        events.iter().map(|event| event.kind.as_str()).collect()
    }
}

/// All instances of a host.
pub(crate) fn whole(backends: &[BackendInventory]) -> InventoryPart {
    let (scope, backends) = (InventoryScope::All, backends.to_vec());
    InventoryPart { order: None, scope, backends }
}

//! A server on a free port of loopback, and whoever talks to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use eip_model::{
    AppliedReport, Backend, BackendInventory, BackendListing, ClusterId, DataPlaneHealth,
    DesiredSet, Generation, HostName, InstanceId, InstanceReport, InstanceState, InventoryReport,
    PoolConfig,
};
use eip_server::{ApiKey, ApiState, Guard, Limits, Listener, Sender, Service, ServiceConfig, Tls};
use eip_testkit::postgres::TestCluster;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// Which database keeps the record.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Store {
    Sqlite,
    Postgres,
}

impl Store {
    /// An empty database, and a folder that lasts as long as it.
    async fn fresh(self) -> (String, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let url = match self {
            Self::Sqlite => format!("sqlite:{}/eip.db", folder.path().display()),
            Self::Postgres => TestCluster::shared().fresh_database().await,
        };
        (url, folder)
    }
}

/// What an answer says: its status and its JSON, which is null where there was no body.
pub(crate) type Answer = (StatusCode, Value);

pub(crate) struct World {
    pub(crate) base: String,
    /// Of its record.
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) stop: CancellationToken,
    service: Arc<Service>,
    client: reqwest::Client,
    serving: Option<AbortOnDropHandle<()>>,
    _folder: Option<tempfile::TempDir>,
}

/// What sends to receivers of tests.
fn sender() -> Sender {
    Sender::new(Guard::allowing(vec!["127.0.0.0/8".parse().unwrap()]))
}

impl World {
    pub(crate) async fn new(store: Store) -> Self {
        Self::with_pool(store, "100.64.0.0/10").await
    }

    pub(crate) async fn with_pool(store: Store, range: &str) -> Self {
        let (url, folder) = store.fresh().await;
        Self::serving(&url, range, folder, Limits::default(), None, None).await
    }

    pub(crate) async fn with_limits(store: Store, limits: Limits) -> Self {
        let (url, folder) = store.fresh().await;
        Self::serving(&url, "100.64.0.0/10", folder, limits, None, None).await
    }

    /// A server that is spoken to by TLS.
    pub(crate) async fn secured(store: Store, tls: Arc<Tls>, limits: Limits) -> Self {
        let (url, folder) = store.fresh().await;
        Self::serving(&url, "100.64.0.0/10", folder, limits, Some(tls), None).await
    }

    /// A server for whose answers the system has room for so many bytes only while nobody reads them.
    pub(crate) async fn cramped(store: Store, limits: Limits, room: u32) -> Self {
        let (url, folder) = store.fresh().await;
        Self::serving(&url, "100.64.0.0/10", folder, limits, None, Some(room)).await
    }

    /// A server whose record is at this URL.
    pub(crate) async fn on(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::serving(url, "100.64.0.0/10", folder, Limits::default(), None, None).await
    }

    async fn serving(
        url: &str,
        range: &str,
        folder: tempfile::TempDir,
        limits: Limits,
        tls: Option<Arc<Tls>>,
        room: Option<u32>,
    ) -> Self {
        let repository = eip_store::open(url).await.unwrap();
        let default_pool = PoolConfig {
            name: "public".parse().unwrap(),
            ranges: vec![range.parse().unwrap()],
            quarantine_seconds: 600,
            mode: eip_model::Mode::Nat,
            reserved: Vec::new(),
            projects: None,
            draining: false,
        };
        let default_project = "default".parse().unwrap();
        let config = ServiceConfig { default_pool, default_project, sender: sender() };
        let service = Service::start(repository, config).await.unwrap();
        let key = ApiKey::generate();
        service.admit_admin(&key).await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = room {
            socket.set_send_buffer_size(bytes).unwrap();
        }
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let router = eip_server::router(ApiState::new(service.clone(), &limits, stop.clone()));
        let listeners = vec![match tls {
            Some(tls) => Listener::secured(listener, tls),
            None => Listener::plain(listener),
        }];
        let serving = tokio::spawn(eip_server::serve(listeners, router, limits, stop.clone()));
        Self {
            base,
            url: url.to_owned(),
            key: key.expose().to_owned(),
            stop,
            service,
            client: plain_client(),
            serving: Some(AbortOnDropHandle::new(serving)),
            _folder: Some(folder),
        }
    }

    pub(crate) async fn ended(self) {
        if let Some(serving) = self.serving {
            serving.await.unwrap();
        }
    }

    /// Has the service follow what is committed, until the task is dropped.
    pub(crate) fn tend(&self) -> AbortOnDropHandle<()> {
        self.tend_until(self.stop.clone())
    }

    /// The same, or until it is told to stop.
    pub(crate) fn tend_until(&self, stop: CancellationToken) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(self.service.clone().tend(stop)))
    }

    /// The same service, seen by somebody else.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self {
            base: self.base.clone(),
            url: self.url.clone(),
            key: key.to_owned(),
            stop: self.stop.clone(),
            service: self.service.clone(),
            client: self.client.clone(),
            serving: None,
            _folder: None,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.base.strip_prefix("http://").unwrap().parse().unwrap()
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).header("X-API-Key", &self.key)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        read(self.request(Method::GET, path)).await
    }

    /// Posts as `curl -d` does: whatever the text is, and a type that says form.
    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let form = ("content-type", "application/x-www-form-urlencoded");
        read(self.request(Method::POST, path).header(form.0, form.1).body(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        read(self.request(Method::DELETE, path)).await
    }

    /// Allocates an address, and returns the id of the elastic IP.
    pub(crate) async fn allocate(&self) -> String {
        let (status, body) = self.post("/elastic-ips", "").await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        body["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn associate(&self, id: &str, instance: &str) -> Answer {
        let body = format!(r#"{{"instance_id": "{instance}", "wait_seconds": 0}}"#);
        self.post(&format!("/elastic-ips/{id}/associate"), body).await
    }

    /// Makes a host known, with the key of its agent.
    pub(crate) async fn host(&self, name: &str) -> Host {
        let name: HostName = name.parse().unwrap();
        let key = ApiKey::generate();
        self.service.admit_agent(&key, name.clone()).await.unwrap();
        let key = key.expose().to_owned();
        Host { base: self.base.clone(), key, client: self.client.clone() }
    }
}

/// A client that speaks in the clear. It knows of TLS, since agents do, and trusts nobody.
pub(crate) fn plain_client() -> reqwest::Client {
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

pub(crate) async fn read(request: RequestBuilder) -> Answer {
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    let value = serde_json::from_str(&text).unwrap_or(Value::Null);
    (status, value)
}

/// What an agent says, said by hand.
#[derive(Clone)]
pub(crate) struct Host {
    base: String,
    key: String,
    client: reqwest::Client,
}

impl Host {
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/agent/v1/{path}", self.base);
        self.client.request(method, url).header("X-API-Key", &self.key)
    }

    /// Reports these instances as all that Docker has.
    pub(crate) async fn has(&self, instances: Vec<InstanceReport>) {
        let listing = BackendListing::Listed { instances };
        let backends = vec![BackendInventory { backend: Backend::Docker, listing }];
        let report = InventoryReport { backends };
        let (status, body) = read(self.request(Method::PUT, "inventory").json(&report)).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    }

    /// Asks for the desired set, waiting up to 5 s for one that is not the known one.
    pub(crate) async fn desired(&self, known: Option<Generation>) -> Option<DesiredSet> {
        let mut query = vec![("wait_seconds", "5".to_owned())];
        query.extend(known.map(|known| ("known", known.to_string())));
        let answer = self.request(Method::GET, "desired").query(&query).send().await.unwrap();
        match answer.status() {
            StatusCode::OK => Some(answer.json().await.unwrap()),
            StatusCode::NO_CONTENT => None,
            other => panic!("{other}: {}", answer.text().await.unwrap()),
        }
    }

    /// Reports a desired set as in force.
    pub(crate) async fn applied(&self, set: &DesiredSet) {
        let (status, body) = self.report(set.cluster_id, set.generation).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    }

    pub(crate) async fn report(&self, cluster_id: ClusterId, generation: Generation) -> Answer {
        let data_plane = DataPlaneHealth::Ready;
        let report = AppliedReport { cluster_id, generation, data_plane, problems: Vec::new() };
        read(self.request(Method::PUT, "applied").json(&report)).await
    }

    /// Reports counters, and returns the status.
    pub(crate) async fn counted(&self, report: &Value) -> StatusCode {
        self.request(Method::PUT, "traffic").json(report).send().await.unwrap().status()
    }

    /// Reports what was mended.
    pub(crate) async fn mended(&self, report: &Value) -> Answer {
        read(self.request(Method::PUT, "mends").json(report)).await
    }

    /// Applies whatever is desired, at once, until the task is dropped.
    pub(crate) fn obey(&self) -> AbortOnDropHandle<()> {
        let host = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut known = None;
            loop {
                if let Some(set) = host.desired(known).await {
                    host.applied(&set).await;
                    known = Some(set.generation);
                }
            }
        }))
    }
}

/// A running container at 172.17.0.`last`.
pub(crate) fn container(last: u8) -> InstanceReport {
    InstanceReport {
        id: InstanceId::new(Uuid::from_u128(u128::from(last))),
        backend: Backend::Docker,
        name: format!("web-{last}"),
        project: None,
        state: InstanceState::Running,
        private_ip: Some(Ipv4Addr::new(172, 17, 0, last)),
        vpc_id: Some("bridge".to_owned()),
        address_source: None,
        unusable: None,
        modes: vec![eip_model::Mode::Nat],
        interfaces: Vec::new(),
    }
}

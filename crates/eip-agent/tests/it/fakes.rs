//! The scene of a test: one server, one host.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use eip_agent::{AgentConfig, Kernel, KernelError, ServerAddress, ServerLink};
use eip_compute::{Alias, ComputeBackend, GuestError, GuestTask, Listing, Sight};
use eip_dataplane::DesiredState;
use eip_model::{
    AliasTarget, AttachmentProblem, Backend, InstanceId, InstanceInterface, InstanceReport,
    InstanceState, LocalNetwork, MacAddress, PoolConfig,
};
use eip_server::{ApiKey, ApiState, Limits, Listener, Sender, Service, ServiceConfig};
use eip_testkit::eventually_async;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(10);
const LATER: Duration = Duration::from_secs(60);

/// A kernel in memory: it remembers what is in force, and fails as often as it is told to.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeKernel(Arc<Mutex<KernelState>>);

#[derive(Debug, Default)]
struct KernelState {
    in_force: DesiredState,
    applied: usize,
    failures: usize,
    disturbed: bool,
    problems: Vec<AttachmentProblem>,
}

impl FakeKernel {
    pub(crate) fn fail(&self, times: usize) {
        self.0.lock().unwrap().failures = times;
    }

    pub(crate) fn disturb(&self) {
        let mut state = self.0.lock().unwrap();
        state.disturbed = true;
        state.in_force = DesiredState::default();
    }

    pub(crate) fn targets(&self) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
        self.0.lock().unwrap().in_force.targets.clone().into_iter().collect()
    }

    pub(crate) fn aliases(&self) -> BTreeMap<Ipv4Addr, AliasTarget> {
        self.0.lock().unwrap().in_force.aliases.clone().into_iter().collect()
    }

    /// Has the kernel refuse what one elastic IP needs, or nothing any more.
    pub(crate) fn refuse(&self, problems: Vec<AttachmentProblem>) {
        self.0.lock().unwrap().problems = problems;
    }

    pub(crate) fn applied(&self) -> usize {
        self.0.lock().unwrap().applied
    }
}

impl Kernel for FakeKernel {
    fn problems(&self) -> Vec<AttachmentProblem> {
        self.0.lock().unwrap().problems.clone()
    }

    fn apply(&mut self, wanted: &DesiredState) -> Result<(), KernelError> {
        let mut state = self.0.lock().unwrap();
        if state.failures > 0 {
            state.failures -= 1;
            return Err(KernelError("cannot load the table: no buffer space".to_owned()));
        }
        state.in_force = wanted.clone();
        state.applied += 1;
        Ok(())
    }

    fn mend(&mut self, wanted: &DesiredState) -> Result<Vec<&'static str>, KernelError> {
        let mut state = self.0.lock().unwrap();
        if !std::mem::take(&mut state.disturbed) {
            return Ok(Vec::new());
        }
        state.in_force = wanted.clone();
        Ok(vec!["the table was gone"])
    }
}

/// The interfaces of instances, in memory. What is done to them waits until it may, and fails when it
/// is to.
#[derive(Debug, Clone)]
pub(crate) struct FakeGuests {
    on: Arc<Mutex<BTreeMap<InstanceId, Alias>>>,
    failure: Arc<Mutex<Option<&'static str>>>,
    pub(crate) may_go_on: Arc<watch::Sender<bool>>,
}

impl FakeGuests {
    fn new() -> Self {
        let may_go_on = Arc::new(watch::Sender::new(true));
        Self { on: Arc::default(), failure: Arc::default(), may_go_on }
    }

    /// The elastic IPs that are on interfaces, with the private addresses there.
    pub(crate) fn on(&self) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        let on = self.on.lock().unwrap();
        on.values().map(|alias| (alias.public_ip, alias.private_ip)).collect()
    }

    /// What an earlier run, or nobody, has put there.
    pub(crate) fn put(&self, container: u8, alias: Option<Alias>) {
        let id = InstanceId::new(Uuid::from_u128(u128::from(container)));
        let mut on = self.on.lock().unwrap();
        match alias {
            Some(alias) => drop(on.insert(id, alias)),
            None => drop(on.remove(&id)),
        }
    }

    pub(crate) fn fail(&self, why: Option<&'static str>) {
        *self.failure.lock().unwrap() = why;
    }

    async fn settle(&self, task: &GuestTask) -> Result<(), GuestError> {
        self.may_go_on.subscribe().wait_for(|may| *may).await.unwrap();
        if let Some(why) = *self.failure.lock().unwrap() {
            return Err(GuestError::Failed(why.to_owned()));
        }
        let mut on = self.on.lock().unwrap();
        match task.alias {
            Some(alias) => drop(on.insert(task.instance_id, alias)),
            None => drop(on.remove(&task.instance_id)),
        }
        Ok(())
    }
}

/// A compute backend that says what it is told.
#[derive(Debug)]
struct FakeBackend(watch::Receiver<Sight>, FakeGuests);

#[async_trait]
impl ComputeBackend for FakeBackend {
    fn backend(&self) -> Backend {
        Backend::Docker
    }

    fn place(&self) -> String {
        "the test".to_owned()
    }

    async fn watch(&self, sight: watch::Sender<Sight>, stop: CancellationToken) {
        let mut told = self.0.clone();
        loop {
            sight.send_replace(told.borrow_and_update().clone());
            match stop.run_until_cancelled(told.changed()).await {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return,
            }
        }
    }

    async fn settle(&self, task: &GuestTask) -> Result<(), GuestError> {
        self.1.settle(task).await
    }

    fn looks_freely(&self) -> bool {
        true
    }
}

pub(crate) struct Scene {
    pub(crate) kernel: FakeKernel,
    pub(crate) guests: FakeGuests,
    life: u64,
    pub(crate) folder: tempfile::TempDir,
    sight: watch::Sender<Sight>,
    server: Option<Server>,
    agent: Option<RunningAgent>,
    client: reqwest::Client,
    admin: String,
    agent_key: String,
    pub(crate) base: String,
}

struct Server {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

struct RunningAgent {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (sight, _) = watch::channel(Sight::Unseen);
        let mut scene = Self {
            kernel: FakeKernel::default(),
            guests: FakeGuests::new(),
            life: 1,
            folder,
            sight,
            server: None,
            agent: None,
            client: plain_client(),
            admin: ApiKey::generate().expose().to_owned(),
            agent_key: ApiKey::generate().expose().to_owned(),
            base: "http://127.0.0.1:0".to_owned(),
        };
        scene.start_server("eip.db").await;
        scene
    }

    /// Starts a server at the address that the first one got.
    pub(crate) async fn start_server(&mut self, database: &str) {
        let path = self.folder.path().join(database);
        let repository = eip_store::open(&format!("sqlite:{}", path.display())).await.unwrap();
        let ranges = vec!["100.64.0.0/10".parse().unwrap()];
        let default_pool = PoolConfig::of("public".parse().unwrap(), ranges);
        let default_project = "default".parse().unwrap();
        let sender = Sender::default();
        let config = ServiceConfig { default_pool, default_project, sender };
        let service = Service::start(repository, config).await;
        let service = service.unwrap();
        service.admit_admin(&ApiKey::chosen(&self.admin).unwrap()).await.unwrap();
        let host = "hv1".parse().unwrap();
        service.admit_agent(&ApiKey::chosen(&self.agent_key).unwrap(), host).await.unwrap();
        let at = self.base.strip_prefix("http://").unwrap().to_owned();
        let listener = eventually_async("the port to be free", SOON, || async {
            TcpListener::bind(&at).await.ok()
        });
        let listener = listener.await;
        self.base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let limits = Limits::default();
        let router = eip_server::router(ApiState::new(service, &limits, stop.clone()));
        let listeners = vec![Listener::plain(listener)];
        let serving = tokio::spawn(eip_server::serve(listeners, router, limits, stop.clone()));
        self.server = Some(Server { stop, task: AbortOnDropHandle::new(serving) });
    }

    pub(crate) async fn stop_server(&mut self) {
        let Server { stop, task } = self.server.take().unwrap();
        stop.cancel();
        task.await.unwrap();
    }

    pub(crate) fn start_agent(&mut self) {
        let kernel: Box<dyn Kernel> = Box::new(self.kernel.clone());
        self.start_agent_with(Ok(kernel));
    }

    pub(crate) fn start_agent_with(&mut self, kernel: Result<Box<dyn Kernel>, String>) {
        self.run_agent(
            kernel,
            vec![Arc::new(FakeBackend(self.sight.subscribe(), self.guests.clone()))],
        );
    }

    pub(crate) fn start_agent_without_backends(&mut self) {
        self.run_agent(Ok(Box::new(self.kernel.clone())), Vec::new());
    }

    fn run_agent(
        &mut self,
        kernel: Result<Box<dyn Kernel>, String>,
        backends: Vec<Arc<dyn ComputeBackend>>,
    ) {
        let data_dir = self.folder.path().to_owned();
        let config = AgentConfig { host: "hv1".parse().unwrap(), data_dir, backends, kernel };
        let address = ServerAddress::new(&self.base, None).unwrap();
        let link = ServerLink::new(address, &self.agent_key).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(eip_agent::run(config, link, stop.clone()));
        self.agent = Some(RunningAgent { stop, task: AbortOnDropHandle::new(running) });
    }

    pub(crate) async fn stop_agent(&mut self) {
        let RunningAgent { stop, task } = self.agent.take().unwrap();
        stop.cancel();
        task.await.unwrap();
    }

    /// Lets the backend say that it has exactly these.
    pub(crate) fn runs(&self, instances: Vec<InstanceReport>) {
        let listing = self.listing(instances);
        self.sight.send_replace(Sight::Listed(listing));
    }

    /// The same, each in a new life: with nothing on its interfaces.
    pub(crate) fn runs_anew(&mut self, instances: Vec<InstanceReport>) {
        self.life += 1;
        self.runs(instances);
    }

    fn listing(&self, instances: Vec<InstanceReport>) -> Listing {
        let networks = vec![LocalNetwork::new("docker0", "172.17.0.0/16".parse().unwrap())];
        let lives = instances.iter().map(|one| (one.id, self.life)).collect();
        let instances = instances.into_iter().map(|one| (one.id, Arc::new(one))).collect();
        Listing { instances, networks, lives }
    }

    pub(crate) fn falls_silent(&self) {
        self.sight.send_replace(Sight::Unreachable { reason: "timed out".to_owned(), known: None });
    }

    /// The backend answers no question any more, but tells what happens.
    pub(crate) fn tells_only(&self, instances: Vec<InstanceReport>) {
        let known = Some(self.listing(instances));
        self.sight.send_replace(Sight::Unreachable { reason: "timed out".to_owned(), known });
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Value {
        let request = self.client.post(format!("{}{path}", self.base)).body(body.to_owned());
        let answer = request.header("X-API-Key", &self.admin).send().await.unwrap();
        answer.json().await.unwrap()
    }

    /// Waits for so many events of something that was mended, and returns all that are told.
    pub(crate) async fn mended(&self, count: usize) -> Vec<Value> {
        let told = || async {
            let request = self.client.get(format!("{}/events?limit=500", self.base));
            let request = request.header("X-API-Key", &self.admin);
            let list: Value = request.send().await.ok()?.json().await.ok()?;
            let mended = |event: &&Value| event["kind"] == "data_plane_mended";
            let all: Vec<_> = list["items"].as_array()?.iter().filter(mended).cloned().collect();
            (all.len() >= count).then_some(all)
        };
        eventually_async("what was mended to be told", LATER, told).await
    }

    pub(crate) async fn show(&self, address: &str) -> Value {
        let request = self.client.get(format!("{}/elastic-ips/{address}", self.base));
        request.header("X-API-Key", &self.admin).send().await.unwrap().json().await.unwrap()
    }

    /// Holds 100.64.0.`last` and points it at the container of this number, when that is known.
    pub(crate) async fn associate(&self, last: u8, container: u8) -> Value {
        let body = format!(r#"{{"address": "100.64.0.{last}"}}"#);
        self.post("/elastic-ips", &body).await;
        let path = format!("/elastic-ips/100.64.0.{last}/associate");
        let body = format!(r#"{{"instance_id": "web-{container}"}}"#);
        let tried = || async {
            let answer = self.post(&path, &body).await;
            (answer["code"] != "instance_not_found").then_some(answer)
        };
        eventually_async("the server to know the container", SOON, tried).await
    }

    /// Waits until exactly these are in force: the last parts of elastic IP and private address.
    pub(crate) async fn in_force(&self, pairs: &[(u8, u8)]) {
        let wanted: BTreeMap<_, _> = pairs
            .iter()
            .map(|(public, private)| {
                (Ipv4Addr::new(100, 64, 0, *public), Ipv4Addr::new(172, 17, 0, *private))
            })
            .collect();
        let reached = || async { (self.kernel.targets() == wanted).then_some(()) };
        eventually_async("the kernel to have what is wanted", SOON, reached).await;
    }

    /// Waits until the API tells this state of the data plane, and returns the reason.
    pub(crate) async fn told(&self, address: &str, state: &str) -> String {
        let told = || async {
            let plane = &self.show(address).await["data_plane"];
            let reason = plane["reason"].as_str().unwrap_or_default().to_owned();
            (plane["state"] == state).then_some(reason)
        };
        eventually_async(&format!("the API to say {state}"), SOON, told).await
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.folder.path()
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
        modes: eip_model::Mode::ALL.to_vec(),
        interfaces: vec![InstanceInterface {
            network: "bridge".to_owned(),
            private_ip: Some(Ipv4Addr::new(172, 17, 0, last)),
            mac: Some(MacAddress::new([2, 0x42, 172, 17, 0, last])),
        }],
    }
}

/// A client that speaks in the clear.
fn plain_client() -> reqwest::Client {
    ServerAddress::new("http://localhost", None).unwrap().client().build().unwrap()
}

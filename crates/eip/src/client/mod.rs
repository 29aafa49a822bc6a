//! The client commands: each one or two calls of the API, and a way to show what came back.

mod admin;
mod api;
mod find;
pub(crate) mod output;
mod webhooks;

use std::path::Path;
use std::time::Duration;

use eip_model::{
    AllocateRequest, AssociateRequest, DataPlaneState, DisassociateRequest, ElasticIp,
    ElasticIpPage, Host, HostList, Instance, InstanceId, InstanceList, Tags, UpdateRequest,
};

use crate::args::{self, Client, Global, Hosts, How, Instances};
use crate::exit::{Exit, Failure};
use crate::settings::{Settings, read_key};
use api::Api;
use output::Shown;

/// How long the service may take to know a sandbox that was just started.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(
    command: Client,
    global: &Global,
    settings: &Settings,
) -> Result<(), Failure> {
    let key = settings.api_key(global.api_key_file.as_deref())?;
    let api = connect(global, settings, &key)?;
    let shown = Shown { output: global.output, quiet: global.quiet };
    match command {
        Client::Allocate(args) => shown.elastic_ip(&allocate(&api, args).await?),
        Client::List(args) => shown.elastic_ips(&list(&api, args).await?),
        Client::Show { elastic_ip } => show(&api, shown, &elastic_ip).await,
        Client::Associate(args) => {
            let found = find::elastic_ip(&api, &args.elastic_ip).await?;
            let wait = args.wait.seconds();
            let after = associate(&api, &found, Wish::of(args)).await?;
            shown.elastic_ip(&after)?;
            in_force(&after, wait)
        }
        Client::Move { elastic_ip, instance, how, wait } => {
            let found = find::elastic_ip(&api, &elastic_ip).await?;
            let wish = Wish { instance, take: true, how, wait: wait.seconds() };
            let after = associate(&api, &found, wish).await?;
            shown.elastic_ip(&after)?;
            in_force(&after, wait.seconds())
        }
        Client::Disassociate { elastic_ip, wait } => {
            let found = find::elastic_ip(&api, &elastic_ip).await?;
            let request = DisassociateRequest { wait_seconds: wait.seconds() };
            let path = format!("/elastic-ips/{}/disassociate", found.id);
            let after: ElasticIp = api.post(&path, &request).await?;
            shown.elastic_ip(&after)?;
            in_force(&after, wait.seconds())
        }
        Client::Release { elastic_ip } => {
            let found = find::elastic_ip(&api, &elastic_ip).await?;
            api.delete(&format!("/elastic-ips/{}", found.id)).await?;
            shown.released(&found)
        }
        Client::Up { instance, name, wait } => {
            let after = up(&api, instance, name, wait.seconds()).await?;
            shown.elastic_ip(&after)?;
            in_force(&after, wait.seconds())
        }
        Client::Instance(command) => instances(&api, shown, command).await,
        Client::Host(command) => hosts(&api, shown, command).await,
        Client::Protect { elastic_ip } => protect(&api, shown, &elastic_ip, true).await,
        Client::Unprotect { elastic_ip } => protect(&api, shown, &elastic_ip, false).await,
        Client::History { address, at } => admin::history(&api, shown, address, at).await,
        Client::Webhook(command) => webhooks::webhooks(&api, shown, command).await,
        Client::Key(command) => admin::keys(&api, shown, command).await,
        Client::Pool(command) => admin::pools(&api, shown, command).await,
        Client::Project(command) => admin::projects(&api, shown, command).await,
    }
}

fn connect(global: &Global, settings: &Settings, key: &str) -> Result<Api, Failure> {
    Api::new(settings.server(global.url.as_deref(), global.ca_file.as_deref())?, key)
}

async fn show(api: &Api, shown: Shown, named: &str) -> Result<(), Failure> {
    let found = find::elastic_ip(api, named).await?;
    // A server of an earlier version does not know it.
    let traffic = api.get(&format!("/elastic-ips/{}/traffic", found.id), &[]).await.ok();
    shown.one(&found, traffic)
}

async fn protect(api: &Api, shown: Shown, named: &str, protected: bool) -> Result<(), Failure> {
    let found = find::elastic_ip(api, named).await?;
    let request = UpdateRequest { protected: Some(protected), ..UpdateRequest::default() };
    shown.elastic_ip(&api.patch(&format!("/elastic-ips/{}", found.id), &request).await?)
}

async fn instances(api: &Api, shown: Shown, command: Instances) -> Result<(), Failure> {
    match command {
        Instances::List => {
            let items = api.all("/instances", &[]).await?;
            shown.instances(&InstanceList { items, next_cursor: None })
        }
        Instances::Show { instance } => shown.instance(&find::instance(api, &instance).await?),
    }
}

async fn hosts(api: &Api, shown: Shown, command: Hosts) -> Result<(), Failure> {
    let items = match command {
        Hosts::List => api.all("/hosts", &[]).await?,
        Hosts::Accept { host } => {
            let path = format!("/hosts/{host}/accept");
            vec![api.post::<Host>(&path, &serde_json::json!({})).await?]
        }
    };
    shown.hosts(&HostList { items, next_cursor: None })
}

/// Waits a moment until the service on this machine knows an instance, so that the next command can
/// name it. Without a service, or without its key, there is nothing to wait for.
pub(crate) fn until_known(id: &InstanceId, data_dir: &Path, global: &Global, settings: &Settings) {
    let Ok(key) = read_key(&data_dir.join("admin.key")) else { return };
    let Ok(api) = connect(global, settings, &key) else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    let path = format!("/instances/{id}");
    runtime.block_on(async {
        let deadline = tokio::time::Instant::now() + KNOWN_WITHIN;
        while let Err(Failure::Problem(_)) = api.get::<Instance>(&path, &[]).await
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(KNOWN_WITHIN / 100).await;
        }
    });
}

async fn allocate(api: &Api, args: args::Allocate) -> Result<ElasticIp, Failure> {
    let tags = Tags::try_from(args.tags.into_iter().collect::<std::collections::BTreeMap<_, _>>());
    let tags = tags.map_err(|error| Failure::usage(error.to_string(), ""))?;
    let args::Allocate { address, pool, name, protected, .. } = args;
    api.post("/elastic-ips", &AllocateRequest { address, pool, name, tags, protected }).await
}

async fn list(api: &Api, args: args::List) -> Result<ElasticIpPage, Failure> {
    let mut filters = Vec::new();
    filters.extend(args.status.map(|status| ("status", status)));
    filters.extend(args.pool.map(|pool| ("pool", pool.to_string())));
    filters.extend(args.tag.map(|(key, value)| ("tag", format!("{key}:{value}"))));
    Ok(ElasticIpPage { items: api.all("/elastic-ips", &filters).await?, next_cursor: None })
}

/// What an elastic IP is to be pointed at.
struct Wish {
    instance: String,
    /// From whoever has it.
    take: bool,
    how: How,
    wait: Option<i64>,
}

impl Wish {
    fn of(args: args::Associate) -> Self {
        let args::Associate { instance, allow_reassociation: take, how, wait, .. } = args;
        Self { instance, take, how, wait: wait.seconds() }
    }

    /// The instance as it would have it.
    fn plain(instance: String, wait: Option<i64>) -> Self {
        Self { instance, take: false, how: How::default(), wait }
    }
}

async fn associate(api: &Api, elastic_ip: &ElasticIp, wish: Wish) -> Result<ElasticIp, Failure> {
    let Wish { instance: instance_id, take: allow_reassociation, how, wait: wait_seconds } = wish;
    let How { mode, network, any_network } = how;
    let network = if any_network { Some(None) } else { network.map(Some) };
    let request =
        AssociateRequest { instance_id, allow_reassociation, mode, network, wait_seconds };
    api.post(&format!("/elastic-ips/{}/associate", elastic_ip.id), &request).await
}

/// Allocates unless there is one of this name, and points it at the instance.
async fn up(
    api: &Api,
    instance: String,
    name: Option<eip_model::Label>,
    wait: Option<i64>,
) -> Result<ElasticIp, Failure> {
    let target: Instance = find::instance(api, &instance).await?;
    let held = match target.public_ip {
        Some(address) => Some(find::elastic_ip(api, &address.to_string()).await?),
        None => None,
    };
    if let Some(held) = held {
        return associate(api, &held, Wish::plain(target.id.to_string(), wait)).await;
    }
    let name = match name {
        Some(name) => name,
        None => target.name.parse().map_err(|error: eip_model::InvalidName| {
            Failure::usage(error.to_string(), "give one with --name")
        })?,
    };
    let elastic_ip = match find::by_name(api, name.as_str()).await? {
        Some(found) => found,
        None => {
            let request = AllocateRequest { name: Some(name), ..AllocateRequest::default() };
            api.post("/elastic-ips", &request).await?
        }
    };
    associate(api, &elastic_ip, Wish::plain(target.id.to_string(), wait)).await
}

/// Fails when the host did not make the change true, unless nobody wanted to wait for it.
fn in_force(elastic_ip: &ElasticIp, wait: Option<i64>) -> Result<(), Failure> {
    let plane = &elastic_ip.data_plane;
    let reason = plane.reason.clone().unwrap_or_default();
    if wait == Some(0) {
        return Ok(());
    }
    let say = |exit, code| {
        let detail = format!("the change of {} is recorded, but {reason}", elastic_ip.public_ip);
        Err(Failure::here(exit, code, detail, format!("eip show {}", elastic_ip.public_ip)))
    };
    match plane.state {
        DataPlaneState::None | DataPlaneState::Active => Ok(()),
        DataPlaneState::Pending => say(Exit::WaitedTooLong, "waited_too_long"),
        DataPlaneState::Failing | DataPlaneState::Unknown => {
            say(Exit::DataPlane, "data_plane_failed")
        }
    }
}

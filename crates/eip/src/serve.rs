//! `eip serve` and `eip agent`: reading what is asked, and putting the parts together.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eip_agent::{
    AgentConfig, Announce, Counters, Kernel, KernelOptions, ServerAddress, ServerLink,
};
use eip_compute::ComputeBackend;
use eip_model::{HostName, Ipv4Range, PoolConfig, chain};
use eip_server::{ApiKey, ApiState, Service, ServiceConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::args;
use crate::backends::backends;
use crate::client::output::print_line;
use crate::doors::{DEFAULT_LISTEN, Doors, limits, open_doors, tls, webhook_sender};
use crate::exit::{Exit, Failure};
use crate::settings::{Settings, address, read_key};

const DEFAULT_RANGE: &str = "100.64.0.0/10";

pub(crate) async fn serve(command: args::Serve, settings: &Settings) -> Result<(), Failure> {
    let data_dir = settings.data_dir(command.host.data_dir.as_deref());
    // What was asked is understood before anything is made of it.
    let default_pool = default_pool(&command, settings)?;
    let host = host_name(&command.host, settings)?;
    let backends = backends(&command.host, settings, &data_dir)?;
    let tls = tls(&command, settings)?;
    private_folder(&data_dir)?;
    let database = settings.database(command.database.as_deref(), &data_dir);
    let repository = eip_store::open(&database).await;
    let repository = repository.map_err(|error| cannot_open(&error))?;
    let record = repository.describe();
    let sender = webhook_sender(&command, settings);
    let config = ServiceConfig { default_pool, default_project: well_known("default")?, sender };
    let unusable = |error: eip_store::StoreError| Failure::other("cannot use the record", &error);
    let service = Service::start(repository, config).await.map_err(unusable)?;
    let admin = admin_key(&data_dir)?;
    service.admit_admin(&admin).await.map_err(unusable)?;

    let listen = command.listen.or(settings.listen).unwrap_or(DEFAULT_LISTEN);
    let Doors { listeners, mut said, local } = open_doors(listen, tls).await?;
    let stop = stop_on_signal()?;
    let limits = limits(&command, settings);
    let router = eip_server::router(ApiState::new(service.clone(), &limits, stop.clone()));
    let serving = tokio::spawn(eip_server::serve(listeners, router, limits, stop.clone()));
    let tending = tokio::spawn(service.clone().tend(stop.clone()));

    said.extend([("key", data_dir.join("admin.key").display().to_string()), ("record", record)]);
    let agent = if command.no_agent {
        said.push(("agent", "none, as asked with --no-agent".to_owned()));
        None
    } else {
        let key = agent_key(&data_dir)?;
        service.admit_agent(&key, host.clone()).await.map_err(unusable)?;
        let link = server_link(address(&format!("http://{local}"), None)?, key.expose())?;
        let config = agent_config(&command.host, settings, host, backends, &data_dir);
        said.extend(introduce(&config));
        Some(tokio::spawn(eip_agent::run(config, link, stop.clone())))
    };
    announce(&said, &data_dir, settings);
    finish(serving).await;
    finish(tending).await;
    if let Some(agent) = agent {
        finish(agent).await;
    }
    Ok(())
}

pub(crate) async fn agent(
    command: args::Agent,
    ca_file: Option<&Path>,
    settings: &Settings,
) -> Result<(), Failure> {
    let data_dir = settings.data_dir(command.host.data_dir.as_deref());
    private_folder(&data_dir)?;
    let key_file = command.key_file.clone().unwrap_or_else(|| data_dir.join("agent.key"));
    let key = read_key(&key_file).map_err(|detail| {
        let hint = "an agent needs the key of its host; name its file with --key-file";
        Failure::here(Exit::Auth, "unauthenticated", detail, hint)
    })?;
    let server = settings.server(command.server.as_deref(), ca_file)?;
    let mut said = vec![("server", server.to_string())];
    let link = server_link(server, &key)?;
    let host = host_name(&command.host, settings)?;
    let backends = backends(&command.host, settings, &data_dir)?;
    let config = agent_config(&command.host, settings, host, backends, &data_dir);
    said.extend(introduce(&config));
    for (name, value) in said {
        print_line(&format!("{name:<11}{value}"));
    }
    eip_agent::run(config, link, stop_on_signal()?).await;
    Ok(())
}

fn agent_config(
    asked: &args::Host,
    settings: &Settings,
    host: HostName,
    backends: Vec<Arc<dyn ComputeBackend>>,
    data_dir: &Path,
) -> AgentConfig {
    let kernel: Result<Box<dyn Kernel>, String> = if asked.no_data_plane {
        Err("this host was told to carry no traffic".to_owned())
    } else {
        eip_agent::open_kernel(options(asked, settings))
    };
    AgentConfig { host, data_dir: data_dir.to_owned(), backends, kernel }
}

fn options(asked: &args::Host, settings: &Settings) -> KernelOptions {
    let announce = match asked.announce.or(settings.announce) {
        Some(args::Announce::Arp) | None => Announce::Arp,
        Some(args::Announce::None) => Announce::None,
    };
    let counters = match asked.counters.or(settings.counters) {
        Some(args::Counters::On) | None => Counters::On,
        Some(args::Counters::Off) => Counters::Off,
    };
    KernelOptions { announce, counters }
}

pub(crate) fn cannot_open(error: &eip_store::OpenError) -> Failure {
    let doing = format!("cannot open the record: {}", chain(error));
    match error {
        eip_store::OpenError::UnknownScheme { .. }
        | eip_store::OpenError::InvalidUrl(_)
        | eip_store::OpenError::InvalidParameter { .. }
        | eip_store::OpenError::Contradiction { .. } => {
            Failure::usage(doing, "write it as sqlite:PATH or postgres://USER@HOST/NAME")
        }
        eip_store::OpenError::TlsFile { .. } => {
            let hint = "it must be a PEM file which this user may read";
            Failure::here(Exit::Other, "record", doing, hint)
        }
        eip_store::OpenError::ServerWithoutTls { .. } => {
            let hint = "set ssl = on there, or write sslmode=prefer if nobody else is on the way";
            Failure::here(Exit::Other, "record", doing, hint)
        }
        eip_store::OpenError::Untrusted { .. } => {
            let hint = "sslrootcert must name the certificate of whoever signed the server's";
            Failure::here(Exit::Other, "record", doing, hint)
        }
        eip_store::OpenError::WrongHost { .. } => {
            let hint =
                "write the host as the certificate has it, or sslmode=verify-ca to take any host";
            Failure::here(Exit::Other, "record", doing, hint)
        }
        eip_store::OpenError::InUse { .. } => {
            let hint = "stop the other process, or give this one a --data-dir of its own";
            Failure::here(Exit::Other, "record_in_use", doing, hint)
        }
        eip_store::OpenError::File { .. } | eip_store::OpenError::Sqlite { .. } => {
            let hint = "see that the folder is there, may be written, and has space";
            Failure::here(Exit::Other, "record", doing, hint)
        }
        eip_store::OpenError::Damaged { .. } => {
            let hint = "the file was left as it is; keep it, and put a backup in its place";
            Failure::here(Exit::Other, "record_damaged", doing, hint)
        }
        eip_store::OpenError::Database { .. } => {
            let hint = "see that the database answers, and lets this user in";
            Failure::here(Exit::Other, "record", doing, hint)
        }
        eip_store::OpenError::Upgrade { .. } => {
            let hint =
                "remove what is in its way and start again; the version before can still use it";
            Failure::here(Exit::Other, "record", doing, hint)
        }
        eip_store::OpenError::Newer { .. } => {
            Failure::here(Exit::Other, "record", doing, "nothing was changed")
        }
    }
}

fn introduce(config: &AgentConfig) -> Vec<(&'static str, String)> {
    let describe = |one: &Arc<dyn ComputeBackend>| format!("{} ({})", one.backend(), one.place());
    let backends: Vec<String> = config.backends.iter().map(describe).collect();
    let plane = match &config.kernel {
        Ok(kernel) => match kernel.caveat() {
            Some(caveat) => format!("ready, but {caveat}"),
            None => "ready".to_owned(),
        },
        Err(reason) => format!("none: {reason}"),
    };
    vec![("host", config.host.to_string()), ("compute", backends.join(", ")), ("data plane", plane)]
}

fn announce(said: &[(&str, String)], data_dir: &Path, settings: &Settings) {
    print_line(&format!("eip {}", env!("CARGO_PKG_VERSION")));
    for (name, value) in said {
        print_line(&format!("  {name:<11}{value}"));
    }
    print_line("next, in another terminal:");
    if data_dir != settings.data_dir(None) {
        print_line(&format!("  export EIP_DATA_DIR={}", data_dir.display()));
    }
    print_line("  eip allocate --name web && eip instance list");
}

fn default_pool(command: &args::Serve, settings: &Settings) -> Result<PoolConfig, Failure> {
    let mut texts = command.pool.clone();
    if texts.is_empty() {
        texts = settings.pool.clone().unwrap_or_else(|| vec![DEFAULT_RANGE.to_owned()]);
    }
    let mut ranges: Vec<Ipv4Range> = Vec::new();
    for text in &texts {
        let range: Ipv4Range = text.trim().parse().map_err(|error: eip_model::RangeError| {
            Failure::usage(error.to_string(), "write a pool as 203.0.113.0/24")
        })?;
        if let Some(what) = range.set_apart() {
            let detail = format!("{range} has a part of {what}");
            return Err(Failure::usage(detail, "name addresses that are routed to your hosts"));
        }
        if let Some(other) = ranges.iter().find(|other| other.overlaps(&range)) {
            let detail = format!("the ranges {other} and {range} overlap");
            return Err(Failure::usage(detail, "name every address once"));
        }
        ranges.push(range);
    }
    let name = well_known("public")?;
    let mode = command.pool_mode.or(settings.pool_mode).unwrap_or_default();
    let pool = PoolConfig::of(name, ranges);
    Ok(PoolConfig { quarantine_seconds: command.quarantine, mode, ..pool })
}

fn well_known<T: std::str::FromStr>(name: &str) -> Result<T, Failure> {
    let wrong = |_| Failure::usage(format!("\"{name}\" cannot be a name"), "");
    name.parse().map_err(wrong)
}

fn host_name(asked: &args::Host, settings: &Settings) -> Result<HostName, Failure> {
    if let Some(name) = asked.host_name.clone().or_else(|| settings.host_name.clone()) {
        return Ok(name);
    }
    let own = nix::unistd::gethostname().unwrap_or_default();
    own.to_string_lossy().parse().map_err(|error: eip_model::InvalidName| {
        Failure::usage(error.to_string(), "give this host a name with --host-name")
    })
}

fn server_link(server: ServerAddress, key: &str) -> Result<ServerLink, Failure> {
    ServerLink::new(server, key).map_err(|error| Failure::usage(error.to_string(), "copy it again"))
}

/// The key of the first start: the operator's own if `EIP_BOOTSTRAP_KEY` is set, else a random one.
fn admin_key(data_dir: &Path) -> Result<ApiKey, Failure> {
    let path = data_dir.join("admin.key");
    if let Ok(chosen) = std::env::var("EIP_BOOTSTRAP_KEY") {
        let key = ApiKey::chosen(&chosen).map_err(|error| {
            Failure::usage(format!("EIP_BOOTSTRAP_KEY is not usable: {error}"), "choose another")
        })?;
        write_private(&path, key.expose())?;
        return Ok(key);
    }
    kept_or_new(&path)
}

fn agent_key(data_dir: &Path) -> Result<ApiKey, Failure> {
    kept_or_new(&data_dir.join("agent.key"))
}

fn kept_or_new(path: &Path) -> Result<ApiKey, Failure> {
    if path.exists() {
        let text =
            read_key(path).map_err(|detail| Failure::here(Exit::Other, "other", detail, ""))?;
        return ApiKey::chosen(&text).map_err(|error| {
            let detail = format!("{} holds no key: {error}", path.display());
            Failure::usage(detail, "remove the file to have a new key made")
        });
    }
    let key = ApiKey::generate();
    write_private(path, key.expose())?;
    Ok(key)
}

fn private_folder(path: &PathBuf) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Failure::other(&format!("cannot make {}", path.display()), &error))
}

/// Writes a file that only its owner can read, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    let draft = path.with_extension("draft");
    let write = || {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // A file of its own: what lay in its place, or where a link there led, is not written to.
        let mut open = fs::OpenOptions::new();
        let mut file = open.write(true).create_new(true).mode(0o600).open(&draft)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|error: std::io::Error| {
        Failure::other(&format!("cannot write {}", path.display()), &error)
    })
}

fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let stop = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let listening = signal(kind);
        let mut signals =
            listening.map_err(|error| Failure::other("cannot listen for signals", &error))?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(stop)
}

async fn finish(task: tokio::task::JoinHandle<()>) {
    if let Err(error) = task.await {
        warn!(%error, "A part of the service ended in a way it should not");
    }
}

//! Throw-away instances: a network namespace with a veth pair, a private address and a small HTTP
//! responder that says its name. For people and tests that have no Docker at hand.
//!
//! A sandbox is one process that owns its namespace: when the process ends, by whatever cause, the
//! kernel takes the namespace and the veth pair with it. What is left is a file that remembers its
//! name and id, as a stopped container is remembered.

mod backend;
mod link;
mod record;
mod responder;

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use eip_model::{InstanceId, ProjectName};
use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, setns};

pub use backend::SandboxBackend;
pub use record::{InvalidSandboxName, SandboxName, SandboxRecord};

/// The bridge that all sandboxes of a host are plugged into.
pub const BRIDGE: &str = "eip-sandbox";
/// The network of the sandboxes; its first address is the host's.
pub const SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 213, 0, 0), 16);

/// Why a sandbox could not be made, found or ended.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("sandbox {0} runs already")]
    Running(SandboxName),
    #[error("there is no sandbox {0}")]
    NotFound(SandboxName),
    #[error("sandbox {0} does not run")]
    NotRunning(SandboxName),
    #[error("all addresses of {SUBNET} are taken by sandboxes")]
    Full,
    #[error("could not {doing}")]
    Io {
        doing: String,
        #[source]
        source: std::io::Error,
    },
    #[error("could not {doing}")]
    Netlink {
        doing: &'static str,
        #[source]
        source: rtnetlink::Error,
    },
    /// What the sandbox's own process said before it gave up.
    #[error("{0}")]
    Said(String),
}

impl SandboxError {
    fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

/// The sandboxes that are remembered in one folder.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    dir: PathBuf,
}

impl Sandboxes {
    /// The sandboxes of the service whose data lies in `data_dir`.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("sandbox") }
    }

    /// Starts a sandbox in the background; one that was stopped keeps its id.
    ///
    /// The program itself is run again as `sandbox run NAME`, in a session of its own.
    ///
    /// # Errors
    /// When it runs already, or the kernel refuses a part of it (it takes `CAP_NET_ADMIN` and
    /// `CAP_SYS_ADMIN`).
    pub fn add(
        &self,
        name: &SandboxName,
        project: Option<&ProjectName>,
    ) -> Result<SandboxRecord, SandboxError> {
        if record::read(&self.dir, name)?.is_some_and(|record| record.is_process()) {
            return Err(SandboxError::Running(name.clone()));
        }
        let program = std::env::current_exe().map_err(SandboxError::io("find this program"))?;
        let data_dir = self.dir.parent().unwrap_or(&self.dir);
        let mut command = Command::new(program);
        command.args(["sandbox", "run", name.as_str(), "--detach", "--data-dir"]).arg(data_dir);
        if let Some(project) = project {
            command.args(["--project", project.as_str()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(SandboxError::io("start the sandbox"))?;
        let mut said = String::new();
        if let Some(pipe) = child.stdout.take() {
            let read = BufReader::new(pipe).read_line(&mut said);
            read.map_err(SandboxError::io("hear from the sandbox"))?;
        }
        if said.trim_end() != responder::READY {
            child.wait().map_err(SandboxError::io("wait for the sandbox to end"))?;
            let nothing = "the sandbox ended without a word";
            let said = if said.is_empty() { nothing } else { said.trim_end() };
            return Err(SandboxError::Said(said.to_owned()));
        }
        record::read(&self.dir, name)?.ok_or_else(|| SandboxError::NotFound(name.clone()))
    }

    /// Is the sandbox: makes its namespace, says that it is ready, and answers until it is ended.
    ///
    /// Must be called before the process has a second thread, since it moves the whole process
    /// into the new namespace.
    ///
    /// # Errors
    /// As [`Sandboxes::add`].
    pub fn run(
        &self,
        name: &SandboxName,
        project: Option<&ProjectName>,
        detach: bool,
    ) -> Result<(), SandboxError> {
        if detach {
            // Fails only for the leader of a group, which is detached enough.
            rustix::process::setsid().ok();
        }
        responder::run(&self.dir, name, project)
    }

    /// Ends the process of a sandbox and remembers it as stopped.
    ///
    /// # Errors
    /// When it is not there or does not run.
    pub fn stop(&self, name: &SandboxName) -> Result<(), SandboxError> {
        let record = self.get(name)?;
        record.kill()?.ok_or_else(|| SandboxError::NotRunning(name.clone()))
    }

    /// Ends a sandbox and forgets it; with the last one goes the bridge.
    ///
    /// # Errors
    /// When it is not there, or the kernel refuses.
    pub fn remove(&self, name: &SandboxName) -> Result<(), SandboxError> {
        let record = self.get(name)?;
        let _guard = record::lock(&self.dir)?;
        record.kill()?;
        record::delete(&self.dir, name)?;
        if record::read_all(&self.dir)?.is_empty() {
            link::block_on(link::remove_bridge(BRIDGE))??;
        }
        Ok(())
    }

    /// Returns every sandbox that is remembered, by name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<SandboxRecord>, SandboxError> {
        record::read_all(&self.dir)
    }

    /// Becomes `command`, inside the network of the sandbox.
    ///
    /// # Errors
    /// When it does not run, or the command cannot be started. It does not return otherwise.
    pub fn exec(&self, name: &SandboxName, command: &[String]) -> Result<(), SandboxError> {
        let record = self.get(name)?;
        let Some((program, args)) = command.split_first() else { return Ok(()) };
        if !record.runs() {
            return Err(SandboxError::NotRunning(name.clone()));
        }
        let path = format!("/proc/{}/ns/net", record.pid);
        let namespace = File::open(path).map_err(SandboxError::io("open its namespace"))?;
        let entered = setns(namespace, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from);
        entered.map_err(SandboxError::io("enter its namespace"))?;
        let error = Command::new(program).args(args).exec();
        Err(SandboxError::Io { doing: format!("run {program}"), source: error })
    }

    fn get(&self, name: &SandboxName) -> Result<SandboxRecord, SandboxError> {
        record::read(&self.dir, name)?.ok_or_else(|| SandboxError::NotFound(name.clone()))
    }
}

/// The id of a new sandbox.
fn new_id() -> InstanceId {
    InstanceId::new(uuid::Uuid::new_v4())
}

//! `eip agent` as a child process, beside a server that runs without one.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::server::{HOST, Server, mortal};

/// How to start the agent of the host, again and again.
#[derive(Debug)]
pub(crate) struct AgentProgram {
    eip: PathBuf,
    server: String,
    /// Its data folder, in which sandboxes are, too.
    pub(crate) folder: PathBuf,
    compute: String,
}

impl AgentProgram {
    /// Makes the folder, with a key for the host in it.
    pub(crate) async fn prepare(
        eip: &Path,
        server: &Server,
        folder: PathBuf,
        compute: String,
    ) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let key = server.make_key(&json!({ "role": "agent", "host": HOST })).await?;
        fs::write(folder.join("agent.key"), key)?;
        Ok(Self { eip: eip.to_owned(), server: format!("http://{}", server.at), folder, compute })
    }

    pub(crate) fn start(&self) -> Result<Agent> {
        self.start_by(&self.server)
    }

    /// Starts it as one that has never run, and that finds the server at another address.
    pub(crate) fn start_afresh(&self, server: SocketAddr) -> Result<Agent> {
        for kept in ["agent.json", "agent.log"] {
            fs::remove_file(self.folder.join(kept)).ok();
        }
        self.start_by(&format!("http://{server}"))
    }

    fn start_by(&self, server: &str) -> Result<Agent> {
        let mut command = mortal(&self.eip);
        command.args(["agent", "--log-format", "json", "--host-name", HOST]);
        command.args(["--server", server, "--compute", &self.compute, "--data-dir"]);
        command.arg(&self.folder).arg("--key-file").arg(self.folder.join("agent.key"));
        let log = File::options().create(true).append(true).open(self.log())?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(Agent { child: command.spawn().context("cannot start the agent")? })
    }

    /// How often it has listed all instances, this time and before.
    pub(crate) fn listed(&self) -> usize {
        fs::read_to_string(self.log()).unwrap_or_default().matches(r#""Listed""#).count()
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// An agent that runs until this is dropped: then it is killed, as by `kill -9`.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
}

impl Agent {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already; that is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

//! `eip serve` as a child process, with everything on that is on for its users: keys, events,
//! metrics, and a log in JSON to a file.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::http::{self, Connection};
use crate::world::Record;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);
/// The key of the administrator, and of whoever else is not named.
const KEY: &str = "eip_bench_5d1f0c6b8a7e43f29c0b1d2e3f4a5b6c";

/// What the host of these benchmarks is called.
pub(crate) const HOST: &str = "bench";

/// How to start a server.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// The addresses to hand out. Counts at the first start on a record, as does `quarantine`.
    pub(crate) pool: &'static str,
    /// How long a released address sleeps, in seconds.
    pub(crate) quarantine: u32,
    /// The backends that an agent in the same process follows; without any there is none.
    pub(crate) compute: Option<String>,
    /// What is logged, if not what is logged unless told otherwise.
    pub(crate) log: Option<&'static str>,
    /// How many requests a second a key of a project may make; 0 for any number, without counting them.
    pub(crate) rate_limit: u32,
}

/// A server that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) at: SocketAddr,
    /// From the start of the process until it was ready.
    pub(crate) ready_after: Duration,
}

impl Server {
    /// Starts it on a record and waits until it is ready.
    pub(crate) async fn start(program: &Program, record: &Record) -> Result<Self> {
        let at = free_port()?;
        let mut command = mortal(&program.path);
        command
            .args(["serve", "--log-format", "json", "--pool", program.pool])
            .args(["--quarantine", &program.quarantine.to_string()])
            .args(["--rate-limit", &program.rate_limit.to_string()])
            .args(["--listen", &at.to_string(), "--database", &record.url, "--data-dir"])
            .arg(&record.folder)
            .env("EIP_BOOTSTRAP_KEY", KEY)
            .env_remove("EIP_LOG")
            .envs(program.log.map(|log| ("EIP_LOG", log)));
        match &program.compute {
            Some(backends) => command.args(["--host-name", HOST, "--compute", backends]),
            None => command.arg("--no-agent"),
        };
        Self::get_ready(command, at, &record.folder).await
    }

    /// Starts the program that answers `/healthz` and `/readyz` and does nothing else.
    pub(crate) async fn bare(program: &Path, folder: &Path) -> Result<Self> {
        let at = free_port()?;
        let mut command = mortal(program);
        command.arg(at.to_string());
        Self::get_ready(command, at, folder).await
    }

    async fn get_ready(mut command: Command, at: SocketAddr, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let log = folder.join("log");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log)?);
        let begun = Instant::now();
        let child = command.spawn().context("cannot start the server")?;
        let mut server = Self { child, at, ready_after: Duration::ZERO };
        while !server.is_ready().await {
            let over = server.child.try_wait()?.is_some() || begun.elapsed() > PATIENCE;
            ensure!(!over, "the server does not get ready: {}", end_of(&log));
            tokio::time::sleep(POLL).await;
        }
        server.ready_after = begun.elapsed();
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A request in the name of the administrator.
    #[expect(
        clippy::unused_self,
        reason = "every server has the same key, which callers need not know"
    )]
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        http::request(method, path, KEY, body)
    }

    /// Asks once in the name of the administrator.
    pub(crate) async fn call(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        self.call_as(KEY, method, path, body).await
    }

    /// Asks once, and fails unless the answer is a success.
    pub(crate) async fn call_as(
        &self,
        key: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Value> {
        self.timed(key, method, path, body).await.map(|(answer, _)| answer)
    }

    /// The same in the name of the administrator, and how long it took until the answer was there.
    pub(crate) async fn timed_call(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(Value, Duration)> {
        self.timed(KEY, method, path, body).await
    }

    async fn timed(
        &self,
        key: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(Value, Duration)> {
        let mut connection = Connection::open(self.at).await?;
        let request = http::request(method, path, key, body);
        let begun = Instant::now();
        let answer = connection.ask(&request).await?;
        let took = begun.elapsed();
        if !answer.is_success() {
            bail!("{method} {path}: {} {}", answer.status, answer.text());
        }
        if answer.body.is_empty() {
            return Ok((Value::Null, took));
        }
        let value = serde_json::from_slice(answer.body);
        Ok((value.with_context(|| format!("{method} {path}: no JSON"))?, took))
    }

    /// Makes a key, and returns it.
    pub(crate) async fn make_key(&self, request: &Value) -> Result<String> {
        let made = self.call("POST", "/api-keys", &request.to_string()).await?;
        let key = made["key"].as_str().context("a key that was made has no key")?;
        Ok(key.to_owned())
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, Signal::SIGTERM).context("cannot ask the server to end")?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(begun.elapsed() < PATIENCE, "the server does not end");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn is_ready(&self) -> bool {
        let Ok(mut connection) = Connection::open(self.at).await else {
            return false;
        };
        let request = self.request("GET", "/readyz", "");
        connection.ask(&request).await.is_ok_and(|answer| answer.is_success())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; that is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A program that the kernel ends with this process, however that ends.
pub(crate) fn mortal(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// What a program said last.
pub(crate) fn end_of(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

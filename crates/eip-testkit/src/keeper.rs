//! A shell that keeps servers for as long as the test process lives.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

/// A shell with a folder. It reads orders from a pipe; the end of the pipe, which comes however the
/// test process ends, is the order to take everything down.
///
/// Its script says `ready FOLDER` when it is, and `done` to every order; what else it says is why not.
#[derive(Debug)]
pub(crate) struct Keeper {
    folder: PathBuf,
    shell: Child,
    orders: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

impl Keeper {
    pub(crate) fn start(script: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = if nix::unistd::geteuid().is_root() {
            // PostgreSQL and pgbouncer refuse to run as root.
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        let mut shell = command
            .args(["-c", script, "keeper"])
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // An interrupt at the terminal is for the tests; this one has to clean up after them.
            .process_group(0)
            .spawn()
            .context("cannot start a shell")?;
        let orders = shell.stdin.take().context("the shell has no input")?;
        let mut said = BufReader::new(shell.stdout.take().context("the shell has no output")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        let Some(folder) = line.trim_end().strip_prefix("ready ") else {
            said.read_to_string(&mut line)?;
            bail!("it does not start: {line}");
        };
        Ok(Self { folder: folder.into(), shell, orders: Mutex::new(Some((orders, said))) })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Has an order carried out.
    pub(crate) fn order(&self, what: &str) -> Result<()> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let (orders, answers) = orders.as_mut().context("it is gone")?;
        let mut said = String::new();
        writeln!(orders, "{what}")?;
        answers.read_line(&mut said)?;
        if said.trim_end() != "done" {
            answers.read_to_string(&mut said)?;
            bail!("cannot {what}: {said}");
        }
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        self.shell.wait().ok();
    }
}

//! Whole machines for tests: a network, mount and process namespace each, with no way out.
//!
//! Everything that runs on a machine dies with it, daemons included, because its first process is
//! the `init` of a process namespace; and that dies with the test, because the kernel is asked to
//! see to it. Nothing is left behind, however a test ends.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::wait::eventually;

const SOON: Duration = Duration::from_secs(10);

/// What the first process of a machine does before it waits for the end. It stays a shell, because
/// that reaps what daemons leave behind, as an `init` has to: libvirt waits for it.
const BOOT: &str = "
    mount -t sysfs sysfs /sys &&
    mount -t tmpfs tmpfs /run &&
    { ! [ -d /etc/docker ] || mount -t tmpfs tmpfs /etc/docker; } &&
    mkdir -p /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
    ip link set lo up && echo ready && { sleep infinity & wait; }";

/// A machine of a test.
#[derive(Debug)]
pub struct Machine {
    boot: Child,
    init: u32,
}

impl Machine {
    /// Starts a machine with a loopback interface and nothing else.
    ///
    /// # Panics
    /// When the kernel refuses: it takes the rights of root.
    #[must_use]
    pub fn start() -> Self {
        let mut boot = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork"])
            .args(["--kill-child=KILL", "--mount-proc", "sh", "-c", BOOT])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux is installed");
        let mut said = String::new();
        let pipe = boot.stdout.take().expect("its output is a pipe");
        BufReader::new(pipe).read_line(&mut said).expect("its output can be read");
        assert_eq!(said, "ready\n", "a machine for tests takes the rights of root");
        let init = eventually("the first process of the machine", SOON, || child_of(boot.id()));
        Self { boot, init }
    }

    /// Returns a command that will run on this machine.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.init.to_string();
        command.args(["-t", target.as_str(), "-n", "-m", "-p", "--", program]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a line of shell to its end and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn sh(&self, line: &str) -> String {
        let output = self.try_sh(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {}\n{said}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a line of shell to its end, whatever that is.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_sh(&self, line: &str) -> Output {
        self.command("sh").args(["-c", line]).output().expect("nsenter is installed")
    }

    /// Starts a daemon on this machine.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn daemon(&self, mut command: Command) -> Daemon {
        let runner = command.spawn().expect("nsenter is installed");
        let pid = eventually("the daemon to be there", SOON, || child_of(runner.id()));
        Daemon { runner, pid }
    }

    /// Returns the file that stands for the network of this machine.
    pub(crate) fn network(&self) -> String {
        format!("/proc/{}/ns/net", self.init)
    }

    /// Returns where this machine's file of that absolute path is for whoever is not on it.
    #[must_use]
    pub fn file(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.init).into()
    }

    /// Lays a cable between two machines: `eth0` there and here, with these addresses.
    pub fn cable(&self, address: &str, other: &Self, other_address: &str) {
        let (one, two) = (self.init, other.init);
        let line = format!("ip link add eth0 netns {one} type veth peer name eth0 netns {two}");
        let made = Command::new("sh").args(["-c", &line]).status();
        assert!(made.is_ok_and(|status| status.success()), "{line}");
        self.sh(&format!("ip addr add {address} dev eth0 && ip link set eth0 up"));
        other.sh(&format!("ip addr add {other_address} dev eth0 && ip link set eth0 up"));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its child, and with that everything on the machine, goes with it.
        self.boot.kill().ok();
        self.boot.wait().ok();
    }
}

/// A process that runs on a machine until it is ended.
#[derive(Debug)]
pub struct Daemon {
    runner: Child,
    pid: u32,
}

impl Daemon {
    /// Ends it as a power cut would: `kill -9`.
    ///
    /// # Panics
    /// When it has ended before.
    pub fn kill(mut self) {
        self.signal("KILL");
        // nsenter stops itself when what it runs is stopped, and must not end before that has.
        send("CONT", self.runner.id());
        self.runner.wait().expect("nsenter is our child");
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    /// When it has ended before, or does not end.
    pub fn stop(mut self) {
        self.signal("TERM");
        eventually("the daemon to end", SOON, || self.runner.try_wait().ok().flatten());
    }

    /// Sends it a signal by name.
    ///
    /// # Panics
    /// When it has ended before.
    pub fn signal(&self, name: &str) {
        assert!(send(name, self.pid), "the daemon has ended before");
        if name == "CONT" {
            send(name, self.runner.id());
        }
    }
}

fn send(signal: &str, pid: u32) -> bool {
    let pid = pid.to_string();
    let sent = Command::new("kill").args(["-s", signal, pid.as_str()]).status();
    sent.is_ok_and(|status| status.success())
}

/// Returns the first child of a process, by proc(5).
fn child_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_ascii_whitespace().next()?.parse().ok()
}

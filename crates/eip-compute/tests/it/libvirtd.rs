//! libvirtd on a machine of the test's own.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;

use eip_testkit::eventually;
use eip_testkit::machine::{Daemon, Machine};
use tempfile::TempDir;

use crate::follow::SOON;

/// QEMU as root, and without what a namespace does not have.
const QEMU_CONF: &str = r#"
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
remember_owner = 0
stdio_handler = "file"
"#;

pub(crate) struct Libvirtd {
    pub(crate) machine: Machine,
    pub(crate) folder: TempDir,
    daemon: Option<Daemon>,
    options: Vec<String>,
}

impl Libvirtd {
    pub(crate) fn start() -> Self {
        Self::start_with("", &[])
    }

    /// Starts it with more lines in its settings, and more options.
    pub(crate) fn start_with(settings: &str, options: &[&str]) -> Self {
        let machine = Machine::start();
        let folder = tempfile::tempdir().unwrap();
        eip_testkit::vm::settle_in(&machine);
        let sockets = folder.path().join("sockets");
        fs::create_dir(&sockets).unwrap();
        let settings = format!("unix_sock_dir = \"{}\"\n{settings}", sockets.display());
        fs::write(folder.path().join("libvirtd.conf"), settings).unwrap();
        fs::write(folder.path().join("qemu.conf"), QEMU_CONF).unwrap();
        machine.sh(&format!("cp {}/qemu.conf /etc/libvirt/", folder.path().display()));
        let options = options.iter().map(|one| (*one).to_owned()).collect();
        let mut libvirtd = Self { machine, folder, daemon: None, options };
        libvirtd.start_again();
        libvirtd
    }

    pub(crate) fn start_again(&mut self) {
        let log = self.folder.path().join("libvirtd.log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.machine.command("libvirtd");
        command.arg("--config").arg(self.folder.path().join("libvirtd.conf"));
        command.args(&self.options).stdout(log.try_clone().unwrap()).stderr(log);
        self.daemon = Some(self.machine.daemon(command));
        eventually("libvirtd to answer", SOON, || UnixStream::connect(self.socket()).ok());
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it was started")
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.daemon.take().expect("it was started").kill();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("sockets/libvirt-sock")
    }

    /// The URI of a driver, through this libvirtd: `qemu:///system` by its socket.
    pub(crate) fn uri(&self, driver: &str) -> String {
        let (scheme, path) = driver.split_once("://").expect("a URI");
        format!("{scheme}+unix://{path}?socket={}", self.socket().display())
    }

    pub(crate) fn try_virsh(&self, driver: &str, words: &str) -> Output {
        self.machine.try_sh(&format!("virsh -q -c '{}' {words}", self.uri(driver)))
    }

    #[track_caller]
    pub(crate) fn virsh(&self, driver: &str, words: &str) -> String {
        let output = self.try_virsh(driver, words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "virsh {words}: {said}{}", self.log());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Writes a file that virsh can read, and returns its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("libvirtd.log")).unwrap_or_default()
    }

    /// The network namespace of the machine, as a path that a thread of the test can enter.
    pub(crate) fn namespace(&self) -> PathBuf {
        let wanted = self.machine.sh("readlink /proc/self/ns/net");
        let wanted = Path::new(wanted.trim());
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|one| one.path());
        let mut namespaces = processes.map(|process| process.join("ns/net"));
        let is_it = |path: &PathBuf| fs::read_link(path).is_ok_and(|link| link == wanted);
        namespaces.find(is_it).expect("a machine has a first process")
    }
}

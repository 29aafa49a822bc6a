//! Virtual machines for tests: a libvirt of the test's own on a [`Machine`], and guests that boot
//! in seconds, by emulation where there is no KVM.
//!
//! Everything that libvirt writes is hidden in the machine's own mounts, and its processes, guests and
//! bridges end with the machine. Guests have a Linux of Debian's, busybox, and a folder of pages;
//! see [`Guest`] for what they do.

mod fetched;
mod guest;
mod initramfs;

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use crate::machine::{Daemon, Machine};
use crate::wait::eventually;
pub use guest::Guest;

/// Long enough for two guests that boot at once on a busy machine.
const BOOTED: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(30);

const SETTLE_IN: &str = "
for folder in /etc/libvirt /var/lib /var/cache /var/log; do
    mount -t tmpfs tmpfs $folder || exit 1
done
for list in passwd group; do
    getent $list libvirt-qemu >/dev/null && continue
    { cat /etc/$list; echo libvirt-qemu:x:64055:64055::/nonexistent:/bin/false; } >/run/$list &&
        mount --bind /run/$list /etc/$list || exit 1
done";

/// No groups, no polkit: whoever reaches the socket may do everything.
const LIBVIRTD_CONF: &str = r#"unix_sock_group = "root"
auth_unix_ro = "none"
auth_unix_rw = "none"
"#;

/// Guests run as root and in the machine's own namespaces, with no trace of them in any cgroup.
const QEMU_CONF: &str = r#"user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
"#;

/// The machine's folder for what belongs to guests; it ends with the machine.
const FOLDER: &str = "/run/eip-guests";

/// Makes a machine ready for a libvirt.
///
/// Hides the folders that it and its helpers write to, each by an empty one, and adds the user and the
/// group without which it does not start, though it has no use for them here.
///
/// # Panics
/// When the kernel refuses.
pub fn settle_in(machine: &Machine) {
    machine.sh(SETTLE_IN);
}

/// A libvirt daemon on a machine.
#[derive(Debug)]
pub struct Libvirt<'m> {
    machine: &'m Machine,
    daemon: Option<Daemon>,
}

impl<'m> Libvirt<'m> {
    /// Starts libvirt, with no network and no guest, and waits until it answers.
    ///
    /// # Panics
    /// When it does not start; the message says why.
    #[must_use]
    pub fn start(machine: &'m Machine) -> Self {
        machine.sh(&format!("mkdir {FOLDER}"));
        settle_in(machine);
        for (name, text) in [("libvirtd.conf", LIBVIRTD_CONF), ("qemu.conf", QEMU_CONF)] {
            let file = machine.file(&format!("/etc/libvirt/{name}"));
            std::fs::write(file, text).expect("a file of a test");
        }
        let mut libvirt = Self { machine, daemon: None };
        libvirt.resume();
        libvirt
    }

    /// Where clients find it, on its machine.
    #[must_use]
    pub fn uri(&self) -> &'static str {
        "qemu:///system"
    }

    /// Ends the daemon as a crash would. Guests run on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.daemon.take().expect("libvirt runs").kill();
    }

    /// Stops or continues the daemon, with `STOP` and `CONT`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, name: &str) {
        self.daemon.as_ref().expect("libvirt runs").signal(name);
    }

    /// Starts the daemon (again), and waits until it answers.
    ///
    /// # Panics
    /// When it does not; the message says what it wrote.
    pub fn resume(&mut self) {
        let path = self.file("libvirtd.log");
        let log = File::options().create(true).append(true).open(&path).expect("a log file");
        let mut command = self.machine.command("libvirtd");
        command.stdout(log.try_clone().expect("a log file")).stderr(log);
        self.daemon = Some(self.machine.daemon(command));
        let deadline = std::time::Instant::now() + SOON;
        while !self.try_virsh("version").status.success() {
            let said = || std::fs::read_to_string(&path).unwrap_or_default();
            assert!(std::time::Instant::now() < deadline, "libvirt does not answer: {}", said());
        }
    }

    /// Runs a command of `virsh` that must succeed, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn virsh(&self, args: &str) -> String {
        let output = self.try_virsh(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "virsh {args}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs a command of `virsh`, whatever comes of it.
    pub fn try_virsh(&self, args: &str) -> Output {
        // A home of its own: virsh keeps a history there.
        self.machine.try_sh(&format!("HOME=/run virsh -q -c {} {args}", self.uri()))
    }

    /// Makes and starts a network that is given in libvirt's XML.
    pub fn network(&self, xml: &str) {
        let file = self.describe("network", xml);
        self.virsh(&format!("net-define {file}"));
        let name = xml.split_once("<name>").and_then(|(_, rest)| rest.split_once("</name>"));
        let (name, _) = name.expect("a network has a name");
        self.virsh(&format!("net-start {name}"));
    }

    /// Makes the network that a fresh libvirt has: NAT, DHCP, `virbr0`, 192.168.122.0/24.
    pub fn default_network(&self) {
        self.dhcp_network("default", "<forward mode='nat'/>", "virbr0", "192.168.122");
    }

    /// Makes a network with DHCP, where `prefix` is the first three numbers of its addresses.
    pub fn dhcp_network(&self, name: &str, forward: &str, bridge: &str, prefix: &str) {
        // Without the three seconds for which dnsmasq pings an address before it gives it away.
        self.network(&format!(
            "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
               <name>{name}</name>{forward}<bridge name='{bridge}' stp='off' delay='0'/>
               <ip address='{prefix}.1' netmask='255.255.255.0'>
                 <dhcp><range start='{prefix}.2' end='{prefix}.254'/></dhcp>
               </ip>
               <dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options>
             </network>"
        ));
    }

    /// Makes a guest known, without starting it. Returns its UUID.
    pub fn define(&self, guest: &Guest) -> String {
        let initramfs = self.file(guest.initramfs());
        if !initramfs.exists() {
            initramfs::write(&initramfs, guest.has_agent());
        }
        let file = self.describe("domain", &guest.xml(FOLDER));
        self.virsh(&format!("define {file}"));
        self.virsh(&format!("domuuid '{}'", guest.name()))
    }

    /// Makes guests and starts them all, and then waits until each serves its page.
    pub fn boot(&self, guests: &[Guest]) {
        for guest in guests {
            self.define(guest);
            self.virsh(&format!("start '{}'", guest.name()));
        }
        for guest in guests {
            self.wait_for(guest.name());
        }
    }

    /// Waits until a guest that was started serves its page, and returns its private address.
    ///
    /// # Panics
    /// When it does not in a minute and a half; the message shows its console.
    pub fn wait_for(&self, name: &str) -> Ipv4Addr {
        let deadline = std::time::Instant::now() + BOOTED;
        loop {
            if let Some(address) = self.address(name)
                && self.machine.try_sh(&page(address)).status.success()
            {
                return address;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{name} does not come up: {}",
                self.console(name)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the address that a guest said last that it has.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<Ipv4Addr> {
        let console = self.console(name);
        let (_, last) = console.rsplit_once(guest::HAS_ADDRESS)?;
        // A whole line, or it may be half an address.
        last.split_once(['\r', '\n'])?.0.trim().parse().ok()
    }

    /// What a guest has written on its console since it was started.
    #[must_use]
    pub fn console(&self, name: &str) -> String {
        let text = std::fs::read(self.file(&guest::console(name))).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Runs a line of shell in a guest, by way of its private address, and returns what it printed.
    /// Nothing when the guest does not answer within five seconds.
    pub fn try_sh(&self, name: &str, line: &str) -> Option<String> {
        let address = self.address(name)?;
        let mut curl = self.machine.command("curl");
        curl.args(["-sf", "-m", "5", "-G", "--data-urlencode", line]);
        curl.arg(format!("http://{address}/cgi-bin/sh")).stderr(Stdio::null());
        let output = curl.output().expect("nsenter is installed");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same, until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn sh(&self, name: &str, line: &str) -> String {
        eventually(&format!("{name} to answer"), SOON, || self.try_sh(name, line))
    }

    /// Writes XML to a file that `virsh` can read, and returns its path on the machine.
    fn describe(&self, what: &str, xml: &str) -> String {
        let name = format!("{what}.xml");
        std::fs::write(self.file(&name), xml).expect("a file of a test");
        format!("{FOLDER}/{name}")
    }

    /// Returns where a file of the folder is for the test, which is not on the machine.
    fn file(&self, name: &str) -> PathBuf {
        self.machine.file(&format!("{FOLDER}/{name}"))
    }
}

fn page(address: Ipv4Addr) -> String {
    format!("curl -sf -m 1 http://{address}/")
}

//! Hosts of a benchmark's own: network namespaces with a cable between them and no way out.
//!
//! ```text
//! client 192.0.2.2 ── 192.0.2.1 host ── instances
//! ```
//!
//! While a lab is there, this program's first thread and every process that it starts are on the
//! host. The namespaces go with their threads, so nothing is left however the program ends.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eip_testkit::netns::{Namespace, link};
use nix::sched::{CloneFlags, setns};

use crate::server::mortal;

/// Where a responder answers datagrams.
pub(crate) const UDP: u16 = 9;
/// Where it answers lines.
pub(crate) const TCP: u16 = 7;
/// How long a responder waits before it looks whether it is still wanted.
const PATIENCE: Duration = Duration::from_millis(50);

pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A host and a client.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) client: Namespace,
    pub(crate) host: Namespace,
    home: File,
}

impl Lab {
    /// Makes the namespaces, and moves this thread to the host.
    pub(crate) fn enter() -> Result<Self> {
        let [client, host] = pair()?;
        let home = host.enter().context("cannot enter a network namespace")?;
        Ok(Self { client, host, home })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Nothing is left to be done on the host, whatever it says.
        setns(&self.home, CloneFlags::CLONE_NEWNET).ok();
    }
}

/// Makes a client and a host that is the client's router.
pub(crate) fn pair() -> Result<[Namespace; 2]> {
    ensure!(nix::unistd::geteuid().is_root(), "only root may make network namespaces");
    let (client, host) = (Namespace::new("client"), Namespace::new("host"));
    link(&client, &host, "eth0", "u0");
    client
        .ip(&[&format!("addr add {CLIENT}/24 dev eth0"), &format!("route add default via {HOST}")]);
    host.ip(&[&format!("addr add {HOST}/24 dev u0"), &format!("route add default via {CLIENT}")]);
    Ok([client, host])
}

/// A sandbox, which is a process, and a responder in it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    child: Child,
    pub(crate) name: String,
    /// What the responder marks its answers with.
    pub(crate) mark: u8,
    _answering: Responder,
}

impl Sandbox {
    /// Starts one that the service with this data folder will see.
    pub(crate) fn start(eip: &Path, data_dir: &Path, name: &str, mark: u8) -> Result<Self> {
        let mut command = mortal(eip);
        command.args(["sandbox", "run", name, "--data-dir"]).arg(data_dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().context("cannot start a sandbox")?;
        let mut said = String::new();
        let pipe = child.stdout.take().context("a sandbox has no output")?;
        BufReader::new(pipe).read_line(&mut said)?;
        ensure!(said.trim_end() == "ready", "a sandbox does not start: {said}");
        let inside = Namespace::at(name, &PathBuf::from(format!("/proc/{}/ns/net", child.id())));
        inside.serve_tcp(TCP);
        let answering = Responder::start(inside, &[Ipv4Addr::UNSPECIFIED], mark);
        Ok(Self { child, name: name.to_owned(), mark, _answering: answering })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // It may have ended already; that is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Sends every datagram back, with a mark behind it that says who did.
#[derive(Debug)]
pub(crate) struct Responder {
    over: Arc<AtomicBool>,
    /// What else answers there ends with it.
    inside: Namespace,
}

impl Responder {
    /// Answers at each of these addresses of a namespace, a thread each.
    pub(crate) fn start(inside: Namespace, at: &[Ipv4Addr], mark: u8) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        for address in at {
            let address = SocketAddrV4::new(*address, UDP);
            let socket = inside.run(move || UdpSocket::bind(address).expect("a free port"));
            socket.set_read_timeout(Some(PATIENCE)).expect("more than nothing");
            let over = over.clone();
            inside.spawn(move || send_back(&socket, mark, &over));
        }
        Self { over, inside }
    }

    /// How many datagrams its threads were too slow for.
    pub(crate) fn overflowed(&self) -> Result<u64> {
        overflowed(&self.inside)
    }
}

/// How many datagrams found the receive buffer of a socket full, in a namespace: whoever should have read
/// them was kept from running.
pub(crate) fn overflowed(inside: &Namespace) -> Result<u64> {
    let text = inside.sh("cat /proc/net/snmp");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let found = pairs.find(|(name, _)| *name == "RcvbufErrors");
    found.context("the kernel does not count overflows")?.1.parse().context("a count")
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn send_back(socket: &UdpSocket, mark: u8, over: &AtomicBool) {
    let mut buffer = [0; 64];
    while !over.load(Ordering::Relaxed) {
        if let Ok((length @ ..64, peer)) = socket.recv_from(&mut buffer) {
            buffer[length] = mark;
            // A client that has gone is no concern of the responder's.
            socket.send_to(&buffer[..=length], peer).ok();
        }
    }
}

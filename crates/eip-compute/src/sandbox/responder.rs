//! The process that is a sandbox.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use eip_model::ProjectName;
use nix::sched::{CloneFlags, unshare};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::record::{SandboxName, SandboxRecord, claim, write};
use super::{BRIDGE, SandboxError, link};

/// What the process says when it answers.
pub(super) const READY: &str = "ready";

const PORT: u16 = 80;
/// How long a client may take to send its request.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a request may be, in bytes.
const LONGEST: usize = 16 * 1024;

pub(super) fn run(
    dir: &Path,
    name: &SandboxName,
    project: Option<&ProjectName>,
) -> Result<(), SandboxError> {
    let mut record = claim(dir, name, project)?;
    link::block_on(async {
        let listener = settle(&record).await?;
        record.ready = true;
        write(dir, &record)?;
        let mut out = std::io::stdout().lock();
        // Nobody may be listening any more; the sandbox runs all the same.
        writeln!(out, "{READY}").and_then(|()| out.flush()).ok();
        drop(out);
        answer(&listener, &record).await
    })?
}

/// Moves this process into a namespace of its own, and opens its port there.
async fn settle(record: &SandboxRecord) -> Result<TcpListener, SandboxError> {
    let outside = link::connect()?;
    let here = File::open("/proc/self/ns/net").map_err(SandboxError::io("find this namespace"))?;
    let bridge = link::ensure_bridge(&outside, BRIDGE).await?;
    let moved = unshare(CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from);
    moved.map_err(SandboxError::io("make a network namespace"))?;
    let host_name = format!("es{}", record.pid);
    let here = OwnedFd::from(here);
    link::plug_in(&outside, &here, bridge, &host_name, record.private_ip, record.mac).await?;
    let listening = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await;
    listening.map_err(SandboxError::io("open port 80 in the sandbox"))
}

async fn answer(listener: &TcpListener, record: &SandboxRecord) -> Result<(), SandboxError> {
    loop {
        let (stream, peer) =
            listener.accept().await.map_err(SandboxError::io("accept a connection"))?;
        let name = record.name.to_string();
        tokio::spawn(async move {
            // A client that goes away or dawdles loses its answer, and nobody else does.
            tokio::time::timeout(DEADLINE, greet(stream, peer, &name)).await.ok();
        });
    }
}

/// Answers any request with the sandbox's name and the address that the client was seen with.
async fn greet(mut stream: TcpStream, peer: SocketAddr, name: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") && head.len() < LONGEST {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let body = format!("{name}\nyou are {}\n", peer.ip());
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

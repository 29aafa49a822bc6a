//! Clients of a TCP service: one that opens a connection for every request, one that keeps its own.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use eip_testkit::netns::{Conversation, Namespace};
use nix::poll::ppoll;

use crate::lab::TCP;

/// The sandbox's own responder.
const HTTP: u16 = 80;
/// How long a client waits before it gives a request up.
const PATIENCE: Duration = Duration::from_secs(1);

/// A request, and who answered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visit {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// The name of the instance, or why there was no answer.
    pub(crate) answer: Result<String, String>,
}

/// A client that asks until it is told to end.
#[derive(Debug)]
pub(crate) struct Visitor {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Visit>>,
}

impl Visitor {
    /// Sends a GET over a new connection, reads the page to its end, and does so again.
    pub(crate) fn afresh(from: &Namespace, target: Ipv4Addr, pause: Duration) -> Self {
        let at = SocketAddrV4::new(target, HTTP);
        Self::start(from, pause, move || page(at).map_err(|error| error.to_string()))
    }

    /// Asks over one connection as long as it lasts; the request after its end opens another.
    pub(crate) fn keeping(from: &Namespace, target: Ipv4Addr, pause: Duration) -> Self {
        let at = SocketAddrV4::new(target, TCP);
        let mut kept = None;
        Self::start(from, pause, move || {
            let conversation = match &mut kept {
                Some(conversation) => conversation,
                none => none.insert(Conversation::open(at, PATIENCE).map_err(|e| e.to_string())?),
            };
            // It says: NAME saw ADDRESS.
            let answer = conversation.ask();
            let answer = answer.map(|text| text.split(' ').next().unwrap_or_default().to_owned());
            answer.map_err(|error| {
                kept = None;
                error.to_string()
            })
        })
    }

    fn start(
        from: &Namespace,
        pause: Duration,
        mut ask: impl FnMut() -> Result<String, String> + Send + 'static,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let thread = from.spawn(move || {
            let mut visits = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let began = Instant::now();
                let answer = ask();
                visits.push(Visit { began, ended: Instant::now(), answer });
                let left = (began + pause).saturating_duration_since(Instant::now());
                // Nothing to wait for but the time of the next.
                ppoll(&mut [], Some(left.into()), None).ok();
            }
            visits
        });
        Self { over, thread }
    }

    pub(crate) fn finish(self) -> Result<Vec<Visit>> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client gave up"))
    }
}

/// Returns the first line of the page: the sandbox's name.
fn page(at: SocketAddrV4) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").filter(|_| text.starts_with("HTTP/1.1 200 "));
    let name = body.and_then(|(_, body)| body.lines().next());
    name.map(str::to_owned).ok_or_else(|| std::io::Error::other("not a page of a sandbox"))
}

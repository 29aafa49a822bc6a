//! A client that asks by datagrams at a steady rate, whatever becomes of them.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use eip_testkit::netns::Namespace;
use nix::poll::{PollFd, PollFlags, ppoll};

use crate::lab::UDP;

/// How long an answer to the last datagrams is waited for.
const GRACE: Duration = Duration::from_millis(500);

/// A datagram that was sent, and what came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) sent: Instant,
    pub(crate) answer: Option<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) at: Instant,
    /// Who answered.
    pub(crate) mark: u8,
}

/// A client that asks until it is told to end.
#[derive(Debug)]
pub(crate) struct Probe {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Vec<Packet>>>>,
}

impl Probe {
    /// Asks each of the targets so many times in a second, each in one flow that goes on.
    pub(crate) fn start(from: &Namespace, targets: &[Ipv4Addr], rate: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (ended, targets) = (over.clone(), targets.to_vec());
        let pause = Duration::from_secs(1) / rate;
        let thread = from.spawn(move || ask(&targets, pause, &ended));
        Self { over, thread }
    }

    /// Ends it, and returns what became of the datagrams to each target, in the order of sending.
    pub(crate) fn finish(self) -> Result<Vec<Vec<Packet>>> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client gave up"))?
    }
}

/// How many of the datagrams nobody answered.
pub(crate) fn lost(packets: &[Packet]) -> u64 {
    packets.iter().filter(|packet| packet.answer.is_none()).count() as u64
}

/// The longest time between two datagrams: how long the client itself stood still, or how exact it is.
pub(crate) fn widest_gap(packets: &[Packet]) -> Duration {
    let gaps = packets.windows(2).map(|two| two[1].sent - two[0].sent);
    gaps.max().unwrap_or_default()
}

fn ask(targets: &[Ipv4Addr], pause: Duration, over: &AtomicBool) -> Result<Vec<Vec<Packet>>> {
    let sockets = targets.iter().map(|target| connected(*target)).collect::<Result<Vec<_>>>()?;
    let mut seen = vec![Vec::new(); targets.len()];
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        for (socket, seen) in sockets.iter().zip(&mut seen) {
            let number = seen.len() as u64;
            seen.push(Packet { sent: Instant::now(), answer: None });
            // Refused is as good as lost: whether an answer comes is what counts.
            socket.send(&number.to_be_bytes()).ok();
        }
        next += pause;
        // One that was kept from running does not make up for it all at once.
        next = next.max(Instant::now());
        hear_until(next, &sockets, &mut seen)?;
    }
    hear_until(Instant::now() + GRACE, &sockets, &mut seen)?;
    Ok(seen)
}

fn connected(target: Ipv4Addr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddrV4::new(target, UDP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn hear_until(until: Instant, sockets: &[UdpSocket], seen: &mut [Vec<Packet>]) -> Result<()> {
    let mut ready: Vec<PollFd<'_>> =
        sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        ppoll(&mut ready, Some(left.into()), None).context("cannot wait for answers")?;
        for (socket, seen) in sockets.iter().zip(&mut *seen) {
            hear(socket, seen);
        }
        if left.is_zero() {
            return Ok(());
        }
    }
}

/// Takes in what has come. The first answer to a datagram is the one that counts.
fn hear(socket: &UdpSocket, seen: &mut [Packet]) {
    let mut buffer = [0; 16];
    while let Ok(length) = socket.recv(&mut buffer) {
        let at = Instant::now();
        if let [number @ .., mark] = &buffer[..length]
            && let Ok(number) = <[u8; 8]>::try_from(number)
            && let Ok(number) = usize::try_from(u64::from_be_bytes(number))
            && let Some(packet) = seen.get_mut(number)
        {
            packet.answer.get_or_insert(Answer { at, mark: *mark });
        }
    }
}

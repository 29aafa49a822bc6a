//! Traffic through a host, made and taken in by one thread on one processor.
//!
//! Between network namespaces the kernel carries a packet to its end within the call that sends it,
//! so everything that a packet costs (client, host and instance) is this thread's time. That time
//! is what the clock says, less what the thread was kept waiting for its processor.

use std::fs;
use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eip_testkit::netns::Namespace;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg, setsockopt, sockopt};
use nix::unistd::Pid;

use crate::lab::CLIENT;

/// How many flows the datagrams belong to.
pub(crate) const FLOWS: u32 = 256;
/// How many datagrams are sent in one call.
const BATCH: usize = 16;
/// As many bytes as in measurements that others have published.
const PAYLOAD: [u8; 22] = [0x5a; 22];
/// How much of a stream is written before it is read.
static CHUNK: [u8; 65_536] = [0x5a; 65_536];
/// How long a datagram that has not arrived within its call is waited for.
const LATE: Duration = Duration::from_millis(5);

const CLIENT_PORTS: u16 = 20_000;
const PORTS: u16 = 10_000;
const CONNECTIONS: u16 = 6_000;
const STREAM: u16 = 6_001;

/// One end of a flow, and the address that the client uses for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) asked: Ipv4Addr,
    pub(crate) private: Ipv4Addr,
}

/// How much was carried, and what it cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Carried {
    /// Packets, connections or bytes.
    pub(crate) count: u64,
    /// Nanoseconds on the processor.
    pub(crate) nanos: u64,
}

impl Carried {
    /// Nanoseconds for each.
    pub(crate) fn cost(self) -> f64 {
        self.nanos as f64 / self.count.max(1) as f64
    }
}

/// The sockets at both ends.
#[derive(Debug)]
pub(crate) struct Traffic {
    flows: Vec<[UdpSocket; 2]>,
    targets: Vec<Target>,
    client: Namespace,
    listener: TcpListener,
    stream: [TcpStream; 2],
    clock: BusyClock,
}

impl Traffic {
    /// Opens the sockets and sends something through each, so that the flows are known on the way.
    ///
    /// The calling thread stays on the last processor from then on.
    pub(crate) fn open(client: Namespace, inside: &Namespace, targets: &[Target]) -> Result<Self> {
        let clock = BusyClock::pinned()?;
        let mut flows = Vec::new();
        for (number, target) in (0_u16..).zip(targets) {
            let target = *target;
            let (from, to) = (CLIENT_PORTS + number, PORTS + number);
            let here = SocketAddrV4::new(CLIENT, from);
            let one = client.run(move || udp(here, SocketAddrV4::new(target.asked, to)))?;
            let other = inside.run(move || udp(SocketAddrV4::new(target.private, to), here))?;
            flows.push([one, other]);
        }
        let listen = |port| inside.run(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let (listener, streams) = (listen(CONNECTIONS)?, listen(STREAM)?);
        let first = targets.first().context("there is no target")?.asked;
        let one = client.run(move || TcpStream::connect((first, STREAM)));
        let stream = [one.context("there is no way through")?, streams.accept()?.0];
        for end in &stream {
            end.set_nonblocking(true)?;
            end.set_nodelay(true)?;
        }
        let mut traffic =
            Self { flows, targets: targets.to_vec(), client, listener, stream, clock };
        traffic.datagrams(Duration::ZERO)?;
        Ok(traffic)
    }

    /// Sends datagrams through each of the flows, to and fro, for about so long. Counts both ways.
    pub(crate) fn datagrams(&mut self, time: Duration) -> Result<Carried> {
        let begun = Instant::now();
        let busy = self.clock.now()?;
        let mut count = 0;
        loop {
            for [one, other] in &self.flows {
                for (from, to) in [(one, other), (other, one)] {
                    send_batch(from)?;
                    take_batch(to)?;
                    count += BATCH as u64;
                }
            }
            if begun.elapsed() >= time {
                return Ok(Carried { count, nanos: self.clock.now()? - busy });
            }
        }
    }

    /// Opens connections to each of the targets in turn, sends a byte over each, and resets it.
    pub(crate) fn connections(&mut self, time: Duration) -> Result<Carried> {
        let (targets, listener) = (self.targets.clone(), self.listener.try_clone()?);
        let mut clock = self.clock.clone();
        // From the client's own thread: a socket belongs to where it was made.
        self.client.run(move || {
            clock.pin()?;
            let begun = Instant::now();
            let busy = clock.now()?;
            let mut count = 0;
            for target in targets.iter().cycle() {
                connect_once(target.asked, &listener)?;
                count += 1;
                if begun.elapsed() >= time {
                    break;
                }
            }
            Ok(Carried { count, nanos: clock.now()? - busy })
        })
    }

    /// Writes to one connection and reads at its other end.
    pub(crate) fn stream(&mut self, time: Duration) -> Result<Carried> {
        let begun = Instant::now();
        let busy = self.clock.now()?;
        let [from, to] = &mut self.stream;
        let mut buffer = vec![0; 4 * CHUNK.len()];
        let mut count = 0;
        while begun.elapsed() < time {
            unless_blocked(from.write(&CHUNK))?;
            loop {
                match unless_blocked(to.read(&mut buffer))? {
                    0 => break,
                    read => count += read as u64,
                }
            }
        }
        Ok(Carried { count, nanos: self.clock.now()? - busy })
    }
}

fn udp(here: SocketAddrV4, there: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(here)?;
    socket.connect(there)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn send_batch(from: &UdpSocket) -> Result<()> {
    let slices = [[IoSlice::new(&PAYLOAD)]; BATCH];
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let none = [None::<()>; BATCH];
    let sent = sendmmsg(from.as_raw_fd(), &mut headers, &slices, none, [], MsgFlags::empty());
    ensure!(sent?.count() == BATCH, "not all datagrams were sent");
    Ok(())
}

fn take_batch(at: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 64];
    let mut late = None;
    for _ in 0..BATCH {
        while let Err(error) = at.recv(&mut buffer) {
            ensure!(error.kind() == ErrorKind::WouldBlock, "a datagram came to nothing: {error}");
            let since = late.get_or_insert_with(Instant::now);
            ensure!(since.elapsed() < LATE, "a datagram was lost on its way");
        }
    }
    Ok(())
}

fn connect_once(target: Ipv4Addr, listener: &TcpListener) -> Result<()> {
    let mut one = TcpStream::connect((target, CONNECTIONS)).context("cannot connect")?;
    let (mut other, _) = listener.accept()?;
    one.write_all(&[1])?;
    other.read_exact(&mut [0])?;
    // Closed by a reset, so that the client does not run out of ports.
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&one, sockopt::Linger, &at_once)?;
    Ok(())
}

fn unless_blocked(done: io::Result<usize>) -> io::Result<usize> {
    match done {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        done => done,
    }
}

/// What a processor has done for one thread, and for the network when it was too much for that.
#[derive(Debug, Clone)]
struct BusyClock {
    processor: usize,
    began: Instant,
    /// The kernel's thread that goes on with packets where a call would have taken too long.
    helper: String,
}

impl BusyClock {
    /// Keeps the calling thread on the last processor.
    fn pinned() -> Result<Self> {
        let processor = std::thread::available_parallelism()?.get() - 1;
        let helper = format!("ksoftirqd/{processor}");
        let named = |entry: io::Result<fs::DirEntry>| {
            let path = entry.ok()?.path();
            let name = fs::read_to_string(path.join("comm")).ok()?;
            (name.trim_end() == helper).then(|| path.join("schedstat").display().to_string())
        };
        let helper = fs::read_dir("/proc")?.find_map(named);
        let helper = helper.with_context(|| format!("there is no ksoftirqd/{processor}"))?;
        let clock = Self { processor, began: Instant::now(), helper };
        clock.pin()?;
        Ok(clock)
    }

    fn pin(&self) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(self.processor)?;
        sched_setaffinity(Pid::from_raw(0), &set).context("cannot stay on one processor")
    }

    /// In nanoseconds; only differences mean something, and only on one thread.
    fn now(&mut self) -> Result<u64> {
        let [_, waited] = schedstat("/proc/thread-self/schedstat")?;
        let [helped, _] = schedstat(&self.helper)?;
        let wall = u64::try_from(self.began.elapsed().as_nanos())?;
        Ok((wall + helped).saturating_sub(waited))
    }
}

/// How long a thread ran, and how long it could have run and did not, in nanoseconds.
fn schedstat(path: &str) -> Result<[u64; 2]> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    next().zip(next()).map(|(ran, waited)| [ran, waited]).context("the kernel tells no times")
}

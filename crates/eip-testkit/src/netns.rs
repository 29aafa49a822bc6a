//! Hosts for tests: network namespaces with no way out.
//!
//! A [`Namespace`] is a thread that left for a network namespace of its own. Nothing names the
//! namespace in `/run/netns`, so it is gone when its threads are, however the test ends.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// How long a responder waits before it looks whether it is still wanted.
const PATIENCE_MS: i64 = 50;

use crate::machine::Machine;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, alive as long as this value and the threads it started.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    jobs: Sender<Job>,
    path: PathBuf,
    over: Arc<AtomicBool>,
}

impl Namespace {
    /// Makes a namespace with nothing in it but a loopback interface that is up.
    ///
    /// # Panics
    /// When the caller is not root.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let namespace = Self::reached_by(name, || unshare(CloneFlags::CLONE_NEWNET));
        namespace.ip(&["link set lo up"]);
        namespace
    }

    /// The network of a machine, for rooms that are a library and are tested beside its daemons.
    ///
    /// # Panics
    /// When the machine is gone.
    #[must_use]
    pub fn of(name: &str, machine: &Machine) -> Self {
        let network = File::open(machine.network()).expect("the network of a machine");
        Self::reached_by(name, move || setns(network, CloneFlags::CLONE_NEWNET))
    }

    /// A namespace that somebody else made, such as `/proc/PID/ns/net`.
    ///
    /// # Panics
    /// When there is no such file, or the caller is not root.
    #[must_use]
    pub fn at(name: &str, path: &Path) -> Self {
        let network = File::open(path).expect("a file that stands for a network namespace");
        Self::reached_by(name, move || setns(network, CloneFlags::CLONE_NEWNET))
    }

    /// Moves the calling thread, and what it will start, into the namespace. The file that is
    /// returned stands for the one that it left.
    ///
    /// # Errors
    /// When the caller is not root.
    pub fn enter(&self) -> io::Result<File> {
        let left = File::open("/proc/thread-self/ns/net")?;
        setns(File::open(&self.path)?, CloneFlags::CLONE_NEWNET)?;
        Ok(left)
    }

    fn reached_by(name: &str, leave: impl FnOnce() -> nix::Result<()> + Send + 'static) -> Self {
        let (jobs, inbox) = channel::<Job>();
        let (ready, born) = channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                ready.send(leave().map(|()| nix::unistd::gettid())).expect("the test waits");
                inbox.into_iter().for_each(|job| job());
            })
            .expect("a thread");
        let thread = born
            .recv()
            .expect("the thread says whether it left")
            .expect("a network namespace (the tests of the data plane must run as root)");
        let path = format!("/proc/{}/task/{thread}/ns/net", std::process::id()).into();
        Self { name: name.to_owned(), jobs, path, over: Arc::new(AtomicBool::new(false)) }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a closure on the namespace's thread and returns what it returns; panics pass through.
    ///
    /// # Panics
    /// When the closure does.
    pub fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (answer, waiting) = channel();
        let job = move || {
            let outcome = catch_unwind(AssertUnwindSafe(job));
            answer.send(outcome).expect("the caller waits");
        };
        self.jobs.send(Box::new(job)).expect("the thread lives as long as the namespace");
        match waiting.recv().expect("every job answers") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Starts a thread in the namespace: a thread begins where the one that starts it is.
    pub fn spawn<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> std::thread::JoinHandle<R> {
        let name = self.name.clone();
        self.run(move || std::thread::Builder::new().name(name).spawn(job).expect("a thread"))
    }

    /// Makes a command that runs in the namespace.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg("--").arg(program);
        command
    }

    /// Runs a command line (words apart by spaces) in the namespace and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn sh(&self, line: &str) -> String {
        let (ok, out) = self.try_sh(line);
        assert!(ok, "{}: {line}: {out}", self.name);
        out
    }

    /// The same, but says whether it succeeded instead of panicking.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_sh(&self, line: &str) -> (bool, String) {
        let output =
            self.command("sh").args(["-c", line]).output().expect("a shell in the namespace");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    }

    /// Runs lines of the `ip` tool, in one process.
    ///
    /// # Panics
    /// When one of them fails.
    pub fn ip(&self, lines: &[&str]) {
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip in the namespace");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(lines.join("\n").as_bytes()).expect("ip reads");
        drop(stdin);
        let output = child.wait_with_output().expect("ip ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: ip {lines:?}: {said}", self.name);
    }

    /// Makes a bridge that is up, with an address like `10.0.0.1/24`.
    pub fn bridge(&self, name: &str, address: &str) {
        self.ip(&[
            &format!("link add {name} type bridge"),
            &format!("addr add {address} dev {name}"),
            &format!("link set {name} up"),
        ]);
    }

    /// Answers every datagram on a UDP port with [`answer`].
    ///
    /// # Panics
    /// When the port is taken.
    pub fn serve_udp(&self, port: u16) {
        let (name, over) = (self.name.clone(), Arc::clone(&self.over));
        let socket =
            self.run(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port"));
        give_up_after(&socket);
        self.spawn(move || {
            let mut buffer = [0; 2048];
            while !over.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    // A client that has gone is no concern of the responder's.
                    let _sent = socket.send_to(answer(&name, peer).as_bytes(), peer);
                }
            }
        });
    }

    /// Answers every line on every connection to a TCP port with [`answer`] and a line break.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn serve_tcp(&self, port: u16) {
        let (name, over) = (self.name.clone(), Arc::clone(&self.over));
        let listener =
            self.run(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port"));
        give_up_after(&listener);
        self.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Ok((stream, peer)) = listener.accept() {
                    let (name, over) = (name.clone(), Arc::clone(&over));
                    std::thread::spawn(move || answer_lines(stream, &answer(&name, peer), &over));
                }
            }
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// What a responder says: who it is, and from which address it was asked.
#[must_use]
pub fn answer(name: &str, peer: SocketAddr) -> String {
    format!("{name} saw {}", peer.ip())
}

/// Connects two namespaces with a pair of interfaces that are up.
///
/// # Panics
/// When a name is taken or too long.
pub fn link(a: &Namespace, b: &Namespace, name_a: &str, name_b: &str) {
    let there = b.path.display();
    a.ip(&[
        &format!("link add {name_a} type veth peer name {name_b} netns {there}"),
        &format!("link set {name_a} up"),
    ]);
    b.ip(&[&format!("link set {name_b} up")]);
}

/// Asks a TCP responder one question from the thread's own namespace.
///
/// # Errors
/// When there is no connection or no answer in time.
pub fn fetch(from: SocketAddrV4, timeout: Duration) -> io::Result<String> {
    Conversation::open(from, timeout)?.ask()
}

/// Asks a UDP responder one question from the thread's own namespace.
///
/// # Errors
/// When there is no answer in time.
pub fn fetch_udp(from: SocketAddrV4, timeout: Duration) -> io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(from)?;
    ask_udp(&socket, timeout)
}

/// Asks once more over a socket that is connected, so that the flow stays the same.
///
/// # Errors
/// When there is no answer in time.
pub fn ask_udp(socket: &UdpSocket, timeout: Duration) -> io::Result<String> {
    socket.set_read_timeout(Some(timeout))?;
    socket.send(b"who are you?")?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A TCP connection that stays open between questions.
#[derive(Debug)]
pub struct Conversation {
    stream: BufReader<TcpStream>,
}

impl Conversation {
    /// # Errors
    /// When there is no connection in time.
    pub fn open(with: SocketAddrV4, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&with.into(), timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Waits for an answer this long from now on.
    ///
    /// # Panics
    /// When `timeout` is zero.
    pub fn wait_at_most(&mut self, timeout: Duration) {
        self.stream.get_mut().set_read_timeout(Some(timeout)).expect("more than nothing");
    }

    /// # Errors
    /// When there is no answer in time.
    pub fn ask(&mut self) -> io::Result<String> {
        self.stream.get_mut().write_all(b"who are you?\n")?;
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

fn answer_lines(mut stream: TcpStream, answer: &str, over: &AtomicBool) {
    give_up_after(&stream);
    let mut buffer = [0; 2048];
    while !over.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                for _ in buffer[..length].iter().filter(|byte| **byte == b'\n') {
                    if writeln!(stream, "{answer}").is_err() {
                        return;
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Err(_) => return,
        }
    }
}

fn give_up_after(socket: &impl std::os::fd::AsFd) {
    let patience = TimeVal::milliseconds(PATIENCE_MS);
    setsockopt(socket, sockopt::ReceiveTimeout, &patience).expect("a timeout on a socket");
}

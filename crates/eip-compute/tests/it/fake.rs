//! A daemon that says what a test has it say.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use tempfile::TempDir;

/// The number of a procedure.
pub(crate) mod procedure {
    pub(crate) const OPEN: u32 = 1;
    pub(crate) const DOMAIN_XML: u32 = 14;
    pub(crate) const NETWORK_XML: u32 = 43;
    pub(crate) const AUTHS: u32 = 66;
    pub(crate) const POLKIT: u32 = 70;
    pub(crate) const STATE: u32 = 212;
    pub(crate) const DOMAINS: u32 = 273;
    pub(crate) const NETWORKS: u32 = 283;
    pub(crate) const LIFE: u32 = 318;
    pub(crate) const REBOOT: u32 = 319;
    pub(crate) const LEASES: u32 = 341;
    pub(crate) const AGENT_CAME_OR_WENT: u32 = 348;
    pub(crate) const ADDRESSES: u32 = 353;
}

const REMOTE: u32 = 0x2000_8086;
const KEEPALIVE: u32 = 0x6b65_6570;

/// What it says to a question.
pub(crate) enum Answer {
    Body(Vec<u8>),
    Refused(i32, &'static str),
    Never,
    /// An answer of before, that is given when the gate is opened.
    Held(Gate, Vec<u8>),
    /// Bytes that are no answer; then it hangs.
    Raw(Vec<u8>),
    /// The same; then it closes the connection.
    RawAndGone(Vec<u8>),
}

/// Holds answers back.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let closed = self.0.1.wait_while(self.0.0.lock().unwrap(), |open| !*open);
        drop(closed.unwrap());
    }
}

/// What the daemon knows. A test changes it while it is followed.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) domains: Vec<Domain>,
    /// Networks with their XML.
    pub(crate) networks: Vec<(&'static str, String)>,
    /// Hardware addresses with what they have by DHCP.
    pub(crate) leases: Vec<(&'static str, &'static str)>,
    /// Hardware addresses with what the agent of each domain says; nothing when it hangs.
    pub(crate) agents: Vec<(u8, Option<(&'static str, &'static str)>)>,
    /// How often a ping of its own was answered.
    pub(crate) pongs: usize,
    /// How often an agent was asked.
    pub(crate) agent_questions: usize,
}

#[derive(Clone)]
pub(crate) struct Domain {
    pub(crate) number: u8,
    pub(crate) state: i32,
    pub(crate) xml: String,
}

/// Where answers and news are written, one at a time.
type Writer = Arc<Mutex<UnixStream>>;

type Handler = dyn Fn(u32, &[u8], &mut World) -> Option<Answer> + Send + Sync;

pub(crate) struct Fake {
    pub(crate) folder: TempDir,
    pub(crate) world: Arc<Mutex<World>>,
    callers: Arc<Mutex<Vec<Writer>>>,
}

impl Fake {
    /// An honest daemon, but where `handler` says otherwise.
    pub(crate) fn start(
        world: World,
        handler: impl Fn(u32, &[u8], &mut World) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("sock");
        let fake = Self { folder, world: Arc::new(Mutex::new(world)), callers: Arc::default() };
        fake.listen(&socket, handler);
        fake
    }

    /// Listens on one more socket.
    pub(crate) fn listen(
        &self,
        socket: &Path,
        handler: impl Fn(u32, &[u8], &mut World) -> Option<Answer> + Send + Sync + 'static,
    ) {
        let listener = UnixListener::bind(socket).unwrap();
        let (world, callers) = (Arc::clone(&self.world), Arc::clone(&self.callers));
        let handler: Arc<Handler> = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let writer = Arc::new(Mutex::new(stream.try_clone().unwrap()));
                callers.lock().unwrap().push(Arc::clone(&writer));
                let (world, handler) = (Arc::clone(&world), Arc::clone(&handler));
                std::thread::spawn(move || serve(stream, &writer, &world, &handler));
            }
        });
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    pub(crate) fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    pub(crate) fn ping(&self) {
        self.send(&frame(KEEPALIVE, 1, 2, 0, 0, &[]));
    }

    /// Tells all callers something by itself.
    pub(crate) fn tell(&self, procedure: u32, body: &[u8]) {
        let frame = frame(REMOTE, procedure, 2, 1, 0, body);
        self.send(&frame);
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        for caller in self.callers.lock().unwrap().iter() {
            // One that has gone is not told.
            caller.lock().unwrap().write_all(bytes).ok();
        }
    }

    /// Changes the state of a domain, and tells so.
    pub(crate) fn lives(&self, number: u8, state: i32, event: i32) {
        self.world
            .lock()
            .unwrap()
            .domains
            .iter_mut()
            .find(|one| one.number == number)
            .unwrap()
            .state = state;
        self.tell(procedure::LIFE, &life(number, event));
    }
}

/// The body of an event of a domain's life.
pub(crate) fn life(number: u8, event: i32) -> Vec<u8> {
    let body = [uint(0), reference(number), uint(event.cast_unsigned()), uint(0)];
    body.concat()
}

pub(crate) fn agent_came_or_went(number: u8, connected: bool) -> Vec<u8> {
    let state = if connected { 1 } else { 2 };
    [uint(0), reference(number), uint(state), uint(1)].concat()
}

fn serve(
    mut stream: UnixStream,
    writer: &Writer,
    world: &Arc<Mutex<World>>,
    handler: &Arc<Handler>,
) {
    let mut word = [0; 4];
    while stream.read_exact(&mut word).is_ok() {
        let mut rest = vec![0; usize::try_from(u32::from_be_bytes(word)).unwrap() - 4];
        if stream.read_exact(&mut rest).is_err() {
            return;
        }
        let at =
            |place: usize| u32::from_be_bytes(rest[place * 4..place * 4 + 4].try_into().unwrap());
        let (program, number, serial) = (at(0), at(2), at(4));
        if program == KEEPALIVE {
            // A ping is answered, an answer is not.
            match number {
                1 => {
                    let pong = frame(KEEPALIVE, 2, 2, 0, 0, &[]);
                    writer.lock().unwrap().write_all(&pong).ok();
                }
                _ => world.lock().unwrap().pongs += 1,
            }
            continue;
        }
        // Questions are answered beside each other, and beside pings, as libvirtd does it.
        let (world, handler, writer) = (Arc::clone(world), Arc::clone(handler), Arc::clone(writer));
        std::thread::spawn(move || {
            let mut world = world.lock().unwrap();
            let answer = handler(number, &rest[24..], &mut world);
            let answer = answer.unwrap_or_else(|| honest(number, &rest[24..], &mut world));
            drop(world);
            if let Answer::Held(gate, _) = &answer {
                gate.wait();
            }
            let mut stream = writer.lock().unwrap();
            let whole = |status: u32, body: &[u8]| frame(REMOTE, number, 1, serial, status, body);
            let (bytes, goes) = match answer {
                Answer::Body(body) | Answer::Held(_, body) => (whole(0, &body), false),
                Answer::Refused(code, why) => {
                    let body = [uint(code.cast_unsigned()), uint(0), uint(1), text(why)];
                    (whole(1, &body.concat()), false)
                }
                Answer::Never => return,
                Answer::Raw(bytes) => (bytes, false),
                Answer::RawAndGone(bytes) => (bytes, true),
            };
            stream.write_all(&bytes).ok();
            if goes {
                stream.shutdown(std::net::Shutdown::Both).ok();
            }
        });
    }
}

/// What libvirtd would say.
fn honest(number: u32, body: &[u8], world: &mut World) -> Answer {
    let named =
        || world.domains.iter().find(|one| body.starts_with(&reference(one.number))).cloned();
    let gone = Answer::Refused(42, "Domain not found");
    let list = |all: Vec<Vec<u8>>| {
        let count = u32::try_from(all.len()).unwrap();
        Answer::Body([uint(count), all.concat(), uint(count)].concat())
    };
    match number {
        procedure::AUTHS => Answer::Body([uint(1), uint(0)].concat()),
        procedure::OPEN | 2 => Answer::Body(Vec::new()),
        procedure::DOMAINS => list(world.domains.iter().map(|one| reference(one.number)).collect()),
        procedure::STATE => match named() {
            Some(one) => Answer::Body([uint(one.state.cast_unsigned()), uint(0)].concat()),
            None => gone,
        },
        procedure::DOMAIN_XML => match named() {
            Some(one) => Answer::Body(text(&one.xml)),
            None => gone,
        },
        procedure::NETWORKS => list(
            world.networks.iter().map(|(name, _)| [text(name), vec![7; 16]].concat()).collect(),
        ),
        procedure::NETWORK_XML => Answer::Body(text(&world.networks[0].1)),
        procedure::LEASES => {
            let lease = |(mac, address): &(&str, &str)| {
                let head = [text("virbr0"), vec![0; 12], uint(1), text(mac), uint(0)];
                [head.concat(), text(address), uint(24), uint(0), uint(0)].concat()
            };
            list(world.leases.iter().map(lease).collect())
        }
        procedure::ADDRESSES => {
            world.agent_questions += 1;
            let number = body[7] - b'0';
            let said = world.agents.iter().find(|(one, _)| *one == number);
            match said.map(|(_, said)| *said) {
                Some(Some((mac, address))) => {
                    let interface = [text("eth0"), uint(1), text(mac), uint(1), uint(0)];
                    Answer::Body([uint(1), interface.concat(), text(address), uint(24)].concat())
                }
                Some(None) => Answer::Never,
                None => Answer::Refused(86, "Guest agent is not responding"),
            }
        }
        _ => Answer::Body(uint(0)),
    }
}

/// How messages name the domain of a number.
pub(crate) fn reference(number: u8) -> Vec<u8> {
    [text(&format!("vm-{number}")), vec![number; 16], uint(u32::from(number))].concat()
}

pub(crate) fn frame(
    program: u32,
    number: u32,
    kind: u32,
    serial: u32,
    status: u32,
    body: &[u8],
) -> Vec<u8> {
    let length = u32::try_from(28 + body.len()).unwrap();
    let words = [length, program, 1, number, kind, serial, status];
    [words.map(u32::to_be_bytes).concat(), body.to_vec()].concat()
}

pub(crate) fn uint(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut bytes = uint(u32::try_from(text.len()).unwrap());
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

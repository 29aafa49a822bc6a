//! A daemon that says what a test has it say.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

/// The number of a procedure.
pub mod procedure {
    pub const OPEN: u32 = 1;
    pub const DOMAIN_XML: u32 = 14;
    pub const NETWORK_XML: u32 = 43;
    pub const AUTHS: u32 = 66;
    pub const POLKIT: u32 = 70;
    pub const STATE: u32 = 212;
    pub const DOMAINS: u32 = 273;
    pub const NETWORKS: u32 = 283;
    pub const LIFE: u32 = 318;
    pub const LEASES: u32 = 341;
    pub const AGENT_CAME_OR_WENT: u32 = 348;
    pub const ADDRESSES: u32 = 353;
}

const REMOTE: u32 = 0x2000_8086;
const KEEPALIVE: u32 = 0x6b65_6570;

/// What it says to a question.
pub enum Answer {
    Body(Vec<u8>),
    Refused(i32, &'static str),
    Never,
    /// Bytes that are no answer; then it hangs.
    Raw(Vec<u8>),
    /// The same; then it closes the connection.
    RawAndGone(Vec<u8>),
}

/// What the daemon knows. A test changes it while it is followed.
#[derive(Default)]
pub struct World {
    pub domains: Vec<Domain>,
    /// Networks with their XML.
    pub networks: Vec<(&'static str, String)>,
    /// Hardware addresses with what they have by DHCP.
    pub leases: Vec<(&'static str, &'static str)>,
    /// Hardware addresses with what the agent of each domain says; nothing when it hangs.
    pub agents: Vec<(u8, Option<(&'static str, &'static str)>)>,
    /// How often an agent was asked.
    pub agent_questions: usize,
}

#[derive(Clone)]
pub struct Domain {
    pub number: u8,
    pub state: i32,
    pub xml: String,
}

type Handler = dyn Fn(u32, &[u8], &mut World) -> Option<Answer> + Send + Sync;

pub struct Fake {
    pub folder: TempDir,
    pub world: Arc<Mutex<World>>,
    callers: Arc<Mutex<Vec<UnixStream>>>,
}

impl Fake {
    /// An honest daemon, but where `handler` says otherwise.
    pub fn start(
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
    pub fn listen(
        &self,
        socket: &Path,
        handler: impl Fn(u32, &[u8], &mut World) -> Option<Answer> + Send + Sync + 'static,
    ) {
        let listener = UnixListener::bind(socket).unwrap();
        let (world, callers) = (Arc::clone(&self.world), Arc::clone(&self.callers));
        let handler: Arc<Handler> = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                callers.lock().unwrap().push(stream.try_clone().unwrap());
                let (world, handler) = (Arc::clone(&world), Arc::clone(&handler));
                std::thread::spawn(move || serve(stream, &world, &*handler));
            }
        });
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    /// Tells all callers something by itself.
    pub fn tell(&self, procedure: u32, body: &[u8]) {
        let frame = frame(REMOTE, procedure, 2, 1, 0, body);
        self.send(&frame);
    }

    pub fn send(&self, bytes: &[u8]) {
        for caller in self.callers.lock().unwrap().iter_mut() {
            // One that has gone is not told.
            caller.write_all(bytes).ok();
        }
    }

    /// Changes the state of a domain, and tells so.
    pub fn lives(&self, number: u8, state: i32, event: i32) {
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
pub fn life(number: u8, event: i32) -> Vec<u8> {
    let body = [uint(0), reference(number), uint(event.cast_unsigned()), uint(0)];
    body.concat()
}

pub fn agent_came_or_went(number: u8, connected: bool) -> Vec<u8> {
    let state = if connected { 1 } else { 2 };
    [uint(0), reference(number), uint(state), uint(1)].concat()
}

fn serve(mut stream: UnixStream, world: &Mutex<World>, handler: &Handler) {
    let mut word = [0; 4];
    while stream.read_exact(&mut word).is_ok() {
        let mut rest = vec![0; usize::try_from(u32::from_be_bytes(word)).unwrap() - 4];
        stream.read_exact(&mut rest).unwrap();
        let at =
            |place: usize| u32::from_be_bytes(rest[place * 4..place * 4 + 4].try_into().unwrap());
        let (program, number, serial) = (at(0), at(2), at(4));
        let reply = if program == KEEPALIVE {
            // A ping is answered, an answer is not.
            (number == 1).then(|| frame(KEEPALIVE, 2, 2, 0, 0, &[]))
        } else {
            let mut world = world.lock().unwrap();
            let answer = handler(number, &rest[24..], &mut world);
            let answer = answer.unwrap_or_else(|| honest(number, &rest[24..], &mut world));
            drop(world);
            match answer {
                Answer::Body(body) => Some(frame(REMOTE, number, 1, serial, 0, &body)),
                Answer::Refused(code, why) => {
                    let body = [uint(code.cast_unsigned()), uint(0), uint(1), text(why)];
                    Some(frame(REMOTE, number, 1, serial, 1, &body.concat()))
                }
                Answer::Never => None,
                Answer::Raw(bytes) => Some(bytes),
                Answer::RawAndGone(bytes) => {
                    stream.write_all(&bytes).ok();
                    stream.shutdown(std::net::Shutdown::Both).ok();
                    return;
                }
            }
        };
        if reply.is_some_and(|reply| stream.write_all(&reply).is_err()) {
            return;
        }
    }
}

/// What libvirtd would say.
fn honest(number: u32, body: &[u8], world: &mut World) -> Answer {
    let named = || {
        // The name is `vm-` and a number of one digit.
        let number = body.get(7).copied().unwrap_or_default() - b'0';
        world.domains.iter().find(|one| one.number == number).cloned()
    };
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

/// How messages name the domain of a number from 0 to 9.
pub fn reference(number: u8) -> Vec<u8> {
    [text(&format!("vm-{number}")), vec![number; 16], uint(u32::from(number))].concat()
}

pub fn frame(
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

pub fn uint(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

pub fn text(text: &str) -> Vec<u8> {
    let mut bytes = uint(u32::try_from(text.len()).unwrap());
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

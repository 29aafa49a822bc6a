//! One connection to a daemon: questions and answers, news, and pings both ways.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::frame::{self, ERROR, Frame, FrameError, KEEPALIVE, MESSAGE, OK, QEMU, REMOTE, REPLY};
use super::messages::{self, Complaint, News};
use super::xdr::XdrError;

/// How often a daemon is pinged that has nothing to say.
const PING_EVERY: Duration = Duration::from_secs(2);
/// A daemon that has not said anything for so long is lost.
const SILENCE: Duration = Duration::from_secs(6);
/// How long writing one message may take.
const WRITE: Duration = Duration::from_secs(5);
/// How long what a daemon said last is waited for, when it cannot be written to.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// So many messages may wait to be written.
const OUTBOX: usize = 64;
/// So much news may wait to be taken in. When it comes faster, the connection is given up, and the
/// next one begins with a list.
pub(in crate::libvirt) const NEWS: usize = 4_096;

const PING: u32 = 1;
const PONG: u32 = 2;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::libvirt) enum CallError {
    /// The daemon is there and will not.
    #[error("it would not {doing}: {complaint}")]
    Refused { doing: &'static str, complaint: Complaint },
    #[error("no answer within {} s when asked to {doing}", .after.as_secs())]
    Silent { doing: &'static str, after: Duration },
    #[error("its answer when asked to {doing} makes no sense: {source}")]
    Garbage { doing: &'static str, source: XdrError },
    /// The connection is gone.
    #[error("{0}")]
    Lost(String),
}

impl CallError {
    /// Whether the daemon, asked properly, said no with this code.
    pub(in crate::libvirt) fn is(&self, code: i32) -> bool {
        match self {
            Self::Refused { complaint, .. } => complaint.code == code,
            Self::Silent { .. } | Self::Garbage { .. } | Self::Lost(_) => false,
        }
    }

    /// Whether nothing more can be expected of the connection.
    pub(in crate::libvirt) const fn is_loss(&self) -> bool {
        match self {
            Self::Refused { .. } => false,
            Self::Silent { .. } | Self::Garbage { .. } | Self::Lost(_) => true,
        }
    }
}

type Answer = Result<Vec<u8>, AnswerError>;

/// What an answer may be instead of one.
#[derive(Debug)]
enum AnswerError {
    Refused(Complaint),
    Garbage(XdrError),
}

/// A connection; dropping it closes it.
#[derive(Debug)]
pub(in crate::libvirt) struct Link {
    shared: Arc<Shared>,
    outbox: mpsc::Sender<Frame>,
    serial: AtomicU32,
    _close: DropGuard,
}

#[derive(Debug)]
struct Shared {
    /// Who waits for an answer, by serial number. Whoever gave up is still here until it comes.
    waiting: Mutex<HashMap<u32, oneshot::Sender<Answer>>>,
    /// Why the connection is gone, once it is.
    over: watch::Sender<Option<String>>,
    born: Instant,
    /// When the daemon was last heard, in milliseconds after `born`.
    heard: AtomicU64,
}

impl Link {
    /// Takes a connection that is made, and returns what the daemon tells by itself with it.
    pub(in crate::libvirt) fn start<S>(stream: S) -> (Self, mpsc::Receiver<News>)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reading, writing) = tokio::io::split(stream);
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            over: watch::Sender::new(None),
            born: Instant::now(),
            heard: AtomicU64::new(0),
        });
        let close = CancellationToken::new();
        let (outbox, to_write) = mpsc::channel(OUTBOX);
        let (tell, news) = mpsc::channel(NEWS);
        let read = take_in(BufReader::new(reading), Arc::clone(&shared), outbox.clone(), tell);
        let write = give_out(writing, Arc::clone(&shared), to_write);
        let (told, ended) = (Arc::clone(&shared), close.clone());
        tokio::spawn(async move {
            tokio::pin!(read);
            let why = tokio::select! {
                error = &mut read => lost(&error),
                // What it said before it went says more than that it takes nothing any more.
                why = write => match tokio::time::timeout(LAST_WORDS, &mut read).await {
                    Ok(error) => lost(&error),
                    Err(_) => why,
                },
                () = ended.cancelled() => "it was closed".to_owned(),
            };
            told.end(why);
        });
        let serial = AtomicU32::new(1);
        (Self { shared, outbox, serial, _close: close.drop_guard() }, news)
    }

    /// Waits until the connection is gone, and says why.
    pub(in crate::libvirt) async fn lost(&self) -> String {
        let mut over = self.shared.over.subscribe();
        let gone = || "it is gone".to_owned();
        match over.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }

    pub(in crate::libvirt) async fn call(
        &self,
        doing: &'static str,
        procedure: u32,
        body: Vec<u8>,
        deadline: Option<Duration>,
    ) -> Result<Vec<u8>, CallError> {
        self.call_of(REMOTE, doing, procedure, body, deadline).await
    }

    /// Calls what libvirt has for QEMU alone.
    pub(in crate::libvirt) async fn call_qemu(
        &self,
        doing: &'static str,
        procedure: u32,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        self.call_of(QEMU, doing, procedure, body, None).await
    }

    async fn call_of(
        &self,
        program: u32,
        doing: &'static str,
        procedure: u32,
        body: Vec<u8>,
        deadline: Option<Duration>,
    ) -> Result<Vec<u8>, CallError> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.shared.waiting().insert(serial, answer);
        let asked = async {
            // A connection that ends while this is on its way takes the waiting with it.
            self.outbox.send(Frame::call(program, procedure, serial, body)).await.ok()?;
            answered.await.ok()
        };
        let asked = async {
            tokio::select! {
                answer = asked => answer,
                _ = self.lost() => None,
            }
        };
        let outcome = match deadline {
            None => asked.await,
            Some(after) => match tokio::time::timeout(after, asked).await {
                Ok(outcome) => outcome,
                Err(_) => return Err(CallError::Silent { doing, after }),
            },
        };
        match outcome {
            Some(Ok(body)) => Ok(body),
            Some(Err(AnswerError::Refused(complaint))) => {
                Err(CallError::Refused { doing, complaint })
            }
            Some(Err(AnswerError::Garbage(source))) => Err(CallError::Garbage { doing, source }),
            None => Err(CallError::Lost(self.lost().await)),
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: String) {
        self.over.send_if_modified(|over| {
            let first = over.is_none();
            if first {
                *over = Some(why);
            }
            first
        });
        self.waiting().clear();
    }

    fn hear(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.born.elapsed().saturating_sub(heard)
    }
}

/// Says why reading ended, with the cause behind it.
fn lost(error: &Lost) -> String {
    eip_model::chain(error)
}

#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("it told something that makes no sense")]
    News(#[source] XdrError),
    #[error("it tells news faster than they can be taken in")]
    Flood,
}

/// Reads until the connection is gone.
async fn take_in<R: AsyncRead + Unpin>(
    mut from: R,
    shared: Arc<Shared>,
    outbox: mpsc::Sender<Frame>,
    tell: mpsc::Sender<News>,
) -> Lost {
    loop {
        let frame = match frame::read(&mut from).await {
            Ok(frame) => frame,
            Err(error) => return Lost::Frame(error),
        };
        shared.hear();
        match (frame.program, frame.kind) {
            (KEEPALIVE, MESSAGE) if frame.procedure == PING => {
                // When so much waits to be written, that it is written will be sign enough.
                outbox.try_send(Frame::keepalive(PONG)).ok();
            }
            (REMOTE | QEMU, REPLY) => answer(&shared, frame),
            (REMOTE, MESSAGE) => match messages::news(frame.procedure, &frame.body) {
                Ok(None) => {}
                // Nobody listens any more on a connection that is for questions alone.
                Ok(Some(news)) => match tell.try_send(news) {
                    Err(mpsc::error::TrySendError::Full(_)) => return Lost::Flood,
                    Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                },
                Err(error) => return Lost::News(error),
            },
            // Streams, and what later versions think of: nobody asked for it.
            _ => {}
        }
    }
}

fn answer(shared: &Shared, frame: Frame) {
    let Some(waiting) = shared.waiting().remove(&frame.serial) else { return };
    let answer = match frame.status {
        OK => Ok(frame.body),
        ERROR => Err(match messages::complaint(&frame.body) {
            Ok(complaint) => AnswerError::Refused(complaint),
            Err(error) => AnswerError::Garbage(error),
        }),
        other => Err(AnswerError::Garbage(XdrError::NotBoolean(other))),
    };
    // Who has given up needs no answer.
    waiting.send(answer).ok();
}

/// Writes until the connection is gone, and says why it is; sends pings in between.
async fn give_out<W: AsyncWrite + Unpin>(
    mut to: W,
    shared: Arc<Shared>,
    mut outbox: mpsc::Receiver<Frame>,
) -> String {
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let frame = tokio::select! {
            frame = outbox.recv() => match frame {
                Some(frame) => frame,
                None => return "it was closed".to_owned(),
            },
            _ = ping.tick() => {
                let silent = shared.silent_for();
                if silent >= SILENCE {
                    return format!("it has said nothing for {} s", SILENCE.as_secs());
                }
                if silent < PING_EVERY / 2 {
                    continue;
                }
                Frame::keepalive(PING)
            }
        };
        let bytes = frame.encode();
        let written = async {
            to.write_all(&bytes).await?;
            to.flush().await
        };
        match tokio::time::timeout(WRITE, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return format!("it cannot be written to: {error}"),
            Err(_) => return format!("it has taken nothing in for {} s", WRITE.as_secs()),
        }
    }
}

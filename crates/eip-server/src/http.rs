//! Accepting connections, with the deadlines and the limits that `axum::serve` does not have.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::api::{not_in_the_clear, too_many_connections};
use crate::limits::Limits;
use crate::patience::Patient;
use crate::tls::Tls;

/// How long requests in flight may take to end after the order to stop.
const DRAIN: Duration = Duration::from_secs(2);
/// How long to wait when the system has no file descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How many of the connections that are one too many are being told so at a time.
const TURNED_AWAY: usize = 64;
/// What a TLS connection begins with: the type of a handshake record (RFC 8446, 5.1).
const TLS_HANDSHAKE: [u8; 1] = [22];

/// Where connections come from, and whether they are spoken to by TLS.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
}

impl Listener {
    #[must_use]
    pub fn plain(socket: TcpListener) -> Self {
        Self { socket, tls: None }
    }

    #[must_use]
    pub fn secured(socket: TcpListener, tls: Arc<Tls>) -> Self {
        Self { socket, tls: Some(tls) }
    }
}

/// Serves the router on every listener until told to stop, then lets requests in flight end.
pub async fn serve(
    listeners: Vec<Listener>,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    tokio::spawn(crate::metrics::keep_up(stop.clone()));
    let edge = Arc::new(Edge {
        room: Arc::new(Semaphore::new(limits.connections)),
        door: Arc::new(Semaphore::new(TURNED_AWAY)),
        head: limits.head,
        patience: limits.write,
        router,
    });
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        if let Some(tls) = &listener.tls {
            let (tls, stop) = (Arc::clone(tls), stop.clone());
            tokio::spawn(async move { tls.keep_up(stop).await });
        }
        accepting.spawn(accept(listener, Arc::clone(&edge), stop.clone()));
    }
    // Each acceptor hands back its connections' watcher when it ends; they drain together.
    let mut watchers = Vec::new();
    while let Some(ended) = accepting.join_next().await {
        if let Ok(watcher) = ended {
            watchers.push(watcher);
        }
    }
    let drained = async {
        for watcher in watchers {
            watcher.shutdown().await;
        }
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        debug!("Requests were still in flight when the time to end them was up");
    }
}

/// What all connections share.
struct Edge {
    room: Arc<Semaphore>,
    door: Arc<Semaphore>,
    head: Duration,
    patience: Duration,
    router: Router,
}

impl Edge {
    fn patient(&self, stream: TcpStream) -> Patient<TcpStream> {
        Patient::new(stream, self.patience)
    }
}

async fn accept(listener: Listener, edge: Arc<Edge>, stop: CancellationToken) -> GracefulShutdown {
    let open = GracefulShutdown::new();
    loop {
        let Some(accepted) = stop.run_until_cancelled(listener.socket.accept()).await else {
            return open;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "Could not accept a connection; will retry");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small and whole; waiting to fill a segment only delays them.
        stream.set_nodelay(true).ok();
        let Ok(permit) = Arc::clone(&edge.room).try_acquire_owned() else {
            turn_away(stream, &listener, &edge);
            continue;
        };
        let (edge, tls, watcher) = (Arc::clone(&edge), listener.tls.clone(), open.watcher());
        tokio::spawn(async move {
            match tls {
                Some(tls) => handshake(stream, &tls, &edge, watcher).await,
                None => speak(edge.patient(stream), &edge, watcher).await,
            }
            drop(permit);
        });
    }
}

/// Says that there are too many connections, as far as that can be said in the clear.
fn turn_away(stream: TcpStream, listener: &Listener, edge: &Edge) {
    let Ok(permit) = Arc::clone(&edge.door).try_acquire_owned() else { return };
    if listener.tls.is_some() {
        return;
    }
    tokio::spawn(async move {
        answer_and_end(stream, &too_many_connections()).await;
        drop(permit);
    });
}

/// Gives a connection an answer in the clear, and ends it. Whoever does not listen is not waited for.
async fn answer_and_end(mut stream: TcpStream, answer: &str) {
    let told = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // What was sent and is not read would have the system take the answer back.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    tokio::time::timeout(DRAIN, told).await.ok();
}

async fn handshake(stream: TcpStream, tls: &Tls, edge: &Edge, watcher: Watcher) {
    let greeted = async {
        let mut first = [0];
        let waiting = stream.peek(&mut first).await?;
        if waiting > 0 && first != TLS_HANDSHAKE {
            return Ok(Err(stream));
        }
        tls.acceptor().accept(edge.patient(stream)).await.map(Ok)
    };
    match tokio::time::timeout(edge.head, greeted).await {
        Ok(Ok(Ok(stream))) => speak(stream, edge, watcher).await,
        Ok(Ok(Err(stream))) => answer_and_end(stream, &not_in_the_clear()).await,
        Ok(Err(error)) => debug!(%error, "A TLS handshake failed"),
        Err(_) => debug!("A TLS handshake took too long"),
    }
}

async fn speak<S>(stream: S, edge: &Edge, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(edge.head)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(edge.router.clone()));
    if let Err(error) = watcher.watch(connection).await {
        debug!(%error, "A connection ended early");
    }
}

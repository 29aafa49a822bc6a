//! Accepting connections, with the deadlines that `axum::serve` does not have.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long a client may take to send the head of a request, also the next one on its connection.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// How many connections are open at most; more wait to be accepted.
const CONNECTIONS: usize = 4096;
/// How long requests in flight may take to end after the order to stop.
const DRAIN: Duration = Duration::from_secs(2);
/// How long to wait when the system has no file descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the router on every listener until told to stop, then lets requests in flight end.
pub async fn serve(listeners: Vec<TcpListener>, router: Router, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::spawn(crate::metrics::keep_up(stop.clone()));
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        let accept = accept(listener, router.clone(), room.clone(), stop.clone());
        accepting.spawn(accept);
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

async fn accept(
    listener: TcpListener,
    router: Router,
    room: Arc<Semaphore>,
    stop: CancellationToken,
) -> GracefulShutdown {
    let open = GracefulShutdown::new();
    loop {
        let next = async {
            let permit = room.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await, permit))
        };
        let Some(Some((accepted, permit))) = stop.run_until_cancelled(next).await else {
            return open;
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = open.watch(connection(stream, router.clone()));
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        debug!(%error, "A connection ended early");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "Could not accept a connection; will retry");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn connection(
    stream: TcpStream,
    router: Router,
) -> http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
    // Answers are small and whole; waiting to fill a segment only delays them.
    stream.set_nodelay(true).ok();
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}

//! What is left of a server without keys, log and metrics: the same HTTP libraries, set up in the
//! same way, on the same allocator, with two routes that answer at once.
//!
//! `eip-bench overhead` measures the real one against it. It is a program beside the product so that
//! the product needs no switch that turns its metrics off.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<()> {
    let at = std::env::args().nth(1).context("it is told where to listen")?;
    let listener = TcpListener::bind(at.parse::<SocketAddr>()?).await?;
    let router: Router =
        Router::new().route("/healthz", get(ok)).route("/readyz", get(ok)).with_state(());
    let open = GracefulShutdown::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(15))
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        // Whoever hangs up in the middle is no business of a benchmark.
        let connection = open.watch(connection);
        tokio::spawn(async move { drop(connection.await) });
    }
}

async fn ok() -> &'static str {
    "ok\n"
}

//! Where `eip serve` is spoken to: in the clear or by TLS, and how much it takes on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use eip_model::chain;
use eip_server::{Guard, Limits, Listener, Sender, Tls};
use tokio::net::TcpListener;

use crate::args;
use crate::exit::{Exit, Failure};
use crate::settings::Settings;

pub(crate) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// How many requests a second a key of a project may make unless told otherwise.
const DEFAULT_RATE: u32 = 100;

/// The sockets that the API is served on.
#[derive(Debug)]
pub(crate) struct Doors {
    pub(crate) listeners: Vec<Listener>,
    /// What to tell of them, line by line.
    pub(crate) said: Vec<(&'static str, String)>,
    /// Where this machine's own agent and commands reach the API, in the clear.
    pub(crate) local: SocketAddr,
}

/// Listens where it was asked to; with TLS, on loopback in the clear as well, for the agent and the
/// commands of this machine.
pub(crate) async fn open_doors(
    listen: SocketAddr,
    tls: Option<Arc<Tls>>,
) -> Result<Doors, Failure> {
    let (socket, bound) = bind(listen).await?;
    let Some(tls) = tls else {
        let said = vec![("api", format!("http://{bound}"))];
        return Ok(Doors {
            listeners: vec![Listener::plain(socket)],
            said,
            local: reachable(bound),
        });
    };
    let mut beside = DEFAULT_LISTEN;
    if bound.port() == beside.port() {
        beside.set_port(0);
    }
    let (local_socket, local) = bind(beside).await?;
    let said = vec![("api", format!("https://{bound}")), ("local api", format!("http://{local}"))];
    let listeners = vec![Listener::secured(socket, tls), Listener::plain(local_socket)];
    Ok(Doors { listeners, said, local })
}

async fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let socket = TcpListener::bind(listen).await.map_err(|error| {
        let hint = "is another one running? choose another address with --listen";
        Failure::here(Exit::Other, "listen", format!("cannot listen on {listen}: {error}"), hint)
    })?;
    let bound = socket.local_addr().unwrap_or(listen);
    Ok((socket, bound))
}

/// An address that listens everywhere is reached on loopback.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let mut at = bound;
    if at.ip().is_unspecified() {
        at.set_ip(match bound {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    at
}

/// Reads the certificate and the key, if there are to be any.
pub(crate) fn tls(command: &args::Serve, settings: &Settings) -> Result<Option<Arc<Tls>>, Failure> {
    let certificate = command.tls_cert.as_ref().or(settings.tls_cert.as_ref());
    let key = command.tls_key.as_ref().or(settings.tls_key.as_ref());
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Tls::open(certificate, key).map(Some).map_err(|error| {
            let hint = "both files must be PEM, belong together, and be readable for this user";
            let detail = format!("cannot serve by TLS: {}", chain(&error));
            Failure::here(Exit::Other, "tls", detail, hint)
        }),
        (Some(_), None) | (None, Some(_)) => {
            let detail = "TLS takes a certificate and its key, and there is one of the two";
            Err(Failure::usage(detail, "give both --tls-cert and --tls-key"))
        }
    }
}

pub(crate) fn limits(command: &args::Serve, settings: &Settings) -> Limits {
    let rate = command.rate_limit.or(settings.rate_limit).unwrap_or(DEFAULT_RATE);
    Limits { rate: NonZeroU32::new(rate), ..Limits::default() }
}

/// What sends to webhooks, and not where it may not.
pub(crate) fn webhook_sender(command: &args::Serve, settings: &Settings) -> Sender {
    let allowed = match &command.webhook_allow[..] {
        [] => settings.webhook_allow.clone().unwrap_or_default(),
        given => given.to_vec(),
    };
    Sender::new(Guard::allowing(allowed))
}

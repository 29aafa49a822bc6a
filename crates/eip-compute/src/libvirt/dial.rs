//! Reaching a daemon, and being let in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use super::rpc::link::{CallError, Link};
use super::rpc::messages::{Auth, News, code};
use super::uri::{LibvirtUri, Pki, Way};

/// How long it may take to be connected.
const CONNECT: Duration = Duration::from_secs(5);

/// Why a daemon cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("cannot reach {place}: {source}{}", hint_for(source))]
    Socket { place: String, source: io::Error },
    #[error("{place} does not take the connection within {} s", CONNECT.as_secs())]
    Slow { place: String },
    #[error("cannot use {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("\"{host}\" cannot be the name of a TLS server")]
    Host { host: String },
    #[error("cannot set up TLS: {0}")]
    Tls(rustls::Error),
    #[error("{place} does not trust our certificate")]
    NotTrusted { place: String },
    #[error(
        "{place} asks for SASL, a user and a password, which are not spoken here: follow it by its \
         unix socket, or set auth_unix_rw or auth_tls to \"none\" there"
    )]
    Sasl { place: String },
    #[error("{place} asks for a way to log in that is not known here")]
    UnknownAuth { place: String },
    #[error("{place} did not let us in: {source}. Run as root, or as a user in the group libvirt")]
    NotLetIn { place: String, source: CallError },
    #[error("{place}: {source}")]
    Asking { place: String, source: CallError },
}

fn hint_for(error: &io::Error) -> &'static str {
    let kind = error.kind();
    if kind == io::ErrorKind::PermissionDenied {
        ". Run as root, or as a user in the group libvirt"
    } else if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&kind) {
        ". Is the daemon running?"
    } else {
        ""
    }
}

/// A daemon that has let us in, and what it tells by itself.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) link: Link,
    pub(super) news: mpsc::Receiver<News>,
}

/// Connects to the daemon that a URI names, and opens the driver.
pub(super) async fn dial(uri: &LibvirtUri) -> Result<Dialled, DialError> {
    match &uri.way {
        Way::Unix { sockets, .. } => {
            let (stream, place) = first_that_answers(sockets).await?;
            let (link, news) = Link::start(stream);
            enter(Dialled { link, news }, &place, &uri.driver).await
        }
        Way::Tls { host, port, pki } => {
            let place = format!("{host}:{port}");
            let stream = within(&place, tls(host, *port, pki)).await?;
            let (link, news) = Link::start(stream);
            enter(Dialled { link, news }, &place, &uri.driver).await
        }
    }
}

/// Connects to the daemon for networks alone.
pub(super) async fn dial_networks(socket: &Path, driver: &str) -> Result<Dialled, DialError> {
    let place = socket.display().to_string();
    let stream = within(&place, unix(socket)).await?;
    let (link, news) = Link::start(stream);
    let part = if driver.ends_with("/session") { "session" } else { "system" };
    enter(Dialled { link, news }, &place, &format!("network:///{part}")).await
}

async fn unix(socket: &Path) -> Result<UnixStream, DialError> {
    let place = || socket.display().to_string();
    UnixStream::connect(socket).await.map_err(|source| DialError::Socket { place: place(), source })
}

/// A socket may be left of a daemon that is not run any more. When none answers, the last counts:
/// the one that every installation has.
async fn first_that_answers(sockets: &[PathBuf]) -> Result<(UnixStream, String), DialError> {
    let mut failure = None;
    for socket in sockets {
        let place = socket.display().to_string();
        match within(&place, unix(socket)).await {
            Ok(stream) => return Ok((stream, place)),
            Err(error) => {
                debug!(%place, %error, "No daemon there");
                // That we may not is more to the point than that there is none.
                let forbidden = |error: &DialError| {
                    matches!(error, DialError::Socket { source, .. }
                        if source.kind() == io::ErrorKind::PermissionDenied)
                };
                if !failure.as_ref().is_some_and(forbidden) {
                    failure = Some(error);
                }
            }
        }
    }
    let nowhere = || DialError::Socket {
        place: "any socket".to_owned(),
        source: io::ErrorKind::NotFound.into(),
    };
    Err(failure.unwrap_or_else(nowhere))
}

async fn within<T>(
    place: &str,
    connecting: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    let slow = Err(DialError::Slow { place: place.to_owned() });
    tokio::time::timeout(CONNECT, connecting).await.unwrap_or(slow)
}

/// A TLS connection whose server has accepted us: libvirt says so with one byte.
async fn tls(host: &str, port: u16, pki: &[Pki]) -> Result<TlsStream<TcpStream>, DialError> {
    let place = || format!("{host}:{port}");
    let socket = |source| DialError::Socket { place: place(), source };
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| DialError::Host { host: host.to_owned() })?;
    let config = tls_config(pki)?;
    let stream = TcpStream::connect((host, port)).await.map_err(socket)?;
    stream.set_nodelay(true).map_err(socket)?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let mut stream = connecting.await.map_err(socket)?;
    match stream.read_u8().await {
        Ok(1) => Ok(stream),
        Ok(_) | Err(_) => Err(DialError::NotTrusted { place: place() }),
    }
}

fn tls_config(places: &[Pki]) -> Result<ClientConfig, DialError> {
    // As libvirt: a user's own files are used when they are all there.
    let complete =
        |pki: &&Pki| [&pki.authority, &pki.certificate, &pki.key].iter().all(|file| file.exists());
    let Some(pki) = places.iter().find(complete).or(places.last()) else {
        return Err(DialError::Host { host: String::new() });
    };
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| DialError::File { path: path.to_owned(), source })
    };
    let bad = |path: &Path, what: String| DialError::File {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, what),
    };
    let certificates = |path: &Path| {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
        let all = all.map_err(|error| bad(path, error.to_string()))?;
        if all.is_empty() {
            return Err(bad(path, "it holds no certificate in PEM".to_owned()));
        }
        Ok(all)
    };
    let mut roots = RootCertStore::empty();
    for one in certificates(&pki.authority)? {
        roots.add(one).map_err(|error| bad(&pki.authority, error.to_string()))?;
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&pki.key)?);
    let key = key.map_err(|error| bad(&pki.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(DialError::Tls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&pki.certificate)?, key)
        .map_err(|error| bad(&pki.certificate, error.to_string()))
}

/// Logs in, opens the driver and asks for pings.
async fn enter(dialled: Dialled, place: &str, driver: &str) -> Result<Dialled, DialError> {
    let place = || place.to_owned();
    let asking = |source| DialError::Asking { place: place(), source };
    let link = &dialled.link;
    let asked = link.auths().await.map_err(asking)?;
    let auth = |one: &Auth| asked.contains(one);
    if asked.is_empty() || auth(&Auth::None) {
    } else if auth(&Auth::Polkit) {
        let not_let_in = |source| DialError::NotLetIn { place: place(), source };
        link.auth_polkit().await.map_err(not_let_in)?;
    } else if auth(&Auth::Sasl) {
        return Err(DialError::Sasl { place: place() });
    } else {
        return Err(DialError::UnknownAuth { place: place() });
    }
    match link.open_driver(driver).await {
        Err(source)
            if [code::AUTH_FAILED, code::AUTH_CANCELLED, code::AUTH_UNAVAILABLE]
                .iter()
                .any(|code| source.is(*code)) =>
        {
            return Err(DialError::NotLetIn { place: place(), source });
        }
        other => other.map_err(asking)?,
    }
    match link.want_pings().await {
        Err(error) if error.is_loss() => return Err(asking(error)),
        Ok(()) | Err(_) => {}
    }
    Ok(dialled)
}

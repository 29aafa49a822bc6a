//! TLS: a real handshake, and certificates that are replaced while the service runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use eip_server::{Limits, Tls, TlsError};
use eip_testkit::eventually_async;
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::world::{Store, World};

const SOON: Duration = Duration::from_secs(30);

/// The two files of a server, in a folder of their own.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("server.crt")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }

    /// Puts a file in its place as those do who renew certificates: whole or not at all.
    fn put(&self, path: &std::path::Path, text: &str) {
        let draft = self.folder.path().join("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(&draft, path).unwrap();
    }

    fn open(&self) -> Result<Arc<Tls>, TlsError> {
        Tls::open(&self.certificate(), &self.key())
    }
}

/// A certificate for `eip.test` that signs itself, and its key.
fn identity() -> (CertificateDer<'static>, String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["eip.test".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.der().clone(), certificate.pem(), key.serialize_pem())
}

/// Connects to the world as somebody who trusts this certificate alone.
async fn connect(
    world: &World,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let plain = TcpStream::connect(world.address()).await?;
    let name = ServerName::try_from("eip.test").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, plain).await
}

/// Asks for the list, on a connection that stays.
async fn list(stream: &mut TlsStream<TcpStream>, key: &str) -> String {
    let head = format!("GET /elastic-ips HTTP/1.1\r\nHost: eip.test\r\nX-API-Key: {key}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let n = tokio::time::timeout(SOON, stream.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..n]).into_owned()
}

#[tokio::test]
async fn a_replaced_certificate_is_taken_up_and_open_connections_go_on() {
    let (first, first_pem, first_key) = identity();
    let (second, second_pem, second_key) = identity();
    let files = Files::new();
    files.put(&files.certificate(), &first_pem);
    files.put(&files.key(), &first_key);
    let world = World::secured(Store::Sqlite, files.open().unwrap(), Limits::default()).await;
    let mut open = connect(&world, &first).await.unwrap();
    assert!(list(&mut open, &world.key).await.starts_with("HTTP/1.1 200"));
    assert!(connect(&world, &second).await.is_err(), "it is not the second one yet");

    // Between the two files they do not fit: the first pair stays in use.
    files.put(&files.certificate(), &second_pem);
    assert!(matches!(files.open(), Err(TlsError::Unusable(_))));
    tokio::time::timeout(Duration::from_secs(3), async {
        loop {
            connect(&world, &first).await.expect("half a replacement changes nothing");
        }
    })
    .await
    .unwrap_err();
    files.put(&files.key(), &second_key);
    let mut new = eventually_async("the second certificate", SOON, async || {
        connect(&world, &second).await.ok()
    })
    .await;
    assert!(list(&mut new, &world.key).await.starts_with("HTTP/1.1 200"));
    assert!(list(&mut open, &world.key).await.starts_with("HTTP/1.1 200"), "it was open before");
    assert!(connect(&world, &first).await.is_err(), "the first one is served no more");

    std::fs::remove_file(files.key()).unwrap();
    files.put(&files.certificate(), "nothing of the sort");
    assert!(connect(&world, &second).await.is_ok(), "the last good pair stays in use");
}

#[tokio::test]
async fn who_speaks_no_tls_or_none_in_time_is_cut_off() {
    let (own, pem, key) = identity();
    let files = Files::new();
    files.put(&files.certificate(), &pem);
    files.put(&files.key(), &key);
    let limits = Limits { head: Duration::from_secs(1), ..Limits::default() };
    let world = World::secured(Store::Sqlite, files.open().unwrap(), limits).await;
    let mut silent = TcpStream::connect(world.address()).await.unwrap();
    let mut plain = TcpStream::connect(world.address()).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: eip.test\r\n\r\n").await.unwrap();
    for (who, stream) in [("plain", &mut plain), ("silent", &mut silent)] {
        let mut got = Vec::new();
        let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut got)).await;
        assert!(ended.is_ok(), "{who} is still connected");
        let got = String::from_utf8_lossy(&got).into_owned();
        match who {
            "plain" => {
                assert!(got.starts_with("HTTP/1.1 400") && got.contains("https://"), "{got}");
            }
            _ => assert_eq!(got, "", "{who}"),
        }
    }
    assert!(connect(&world, &own).await.is_ok());
}

#[test]
fn files_that_cannot_serve_are_refused_with_the_reason() {
    let (_, pem, key) = identity();
    let (_, _, others_key) = identity();
    let files = Files::new();
    assert!(matches!(files.open(), Err(TlsError::Read { .. })));
    for (certificate, private, wanted) in [
        ("", key.as_str(), "holds no certificate"),
        (key.as_str(), key.as_str(), "holds no certificate"),
        (pem.as_str(), "", "holds no private key"),
        (pem.as_str(), pem.as_str(), "holds no private key"),
        (pem.as_str(), others_key.as_str(), "cannot be used together"),
    ] {
        files.put(&files.certificate(), certificate);
        files.put(&files.key(), private);
        let error = files.open().unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

//! TLS for whoever listens: certificate and key from files, read again when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use eip_model::chain;
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error as RustlsError, ServerConfig};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the files are looked at: what renews certificates seldom says that it has.
const LOOK: Duration = Duration::from_secs(1);

/// The certificate that connections are served with, which follows its files.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Loaded>,
}

/// What the files held, and what came of it.
#[derive(Clone)]
struct Loaded {
    digest: [u8; 32],
    config: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The files cannot serve for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds no certificate in PEM", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: PemError,
    },
    #[error("{} holds no private key in PEM", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: PemError,
    },
    #[error("the certificate and the key cannot be used together")]
    Unusable(#[source] RustlsError),
}

impl Tls {
    /// Reads a chain of certificates, the server's own first, and its key; both PEM.
    ///
    /// # Errors
    /// [`TlsError`] when one of them cannot be read, or they do not belong together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
        };
        let current = load((certificate, &read(certificate)?), (key, &read(key)?))?;
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Ok(Arc::new(Self { certificate, key, current: RwLock::new(current) }))
    }

    /// Returns what new connections are accepted with. Those that are open keep what they have.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.loaded().config.into()
    }

    /// Takes up new files until told to stop.
    ///
    /// Two files are never replaced at once: a pair that does not fit leaves the last good one in
    /// use, and is told once, should it stay.
    pub(crate) async fn keep_up(&self, stop: CancellationToken) {
        let mut turn = tokio::time::interval(LOOK);
        let (mut before, mut told) = (None, None);
        while stop.run_until_cancelled(turn.tick()).await.is_some() {
            let found = self.look().await;
            let state =
                found.as_ref().map_or_else(|error| chain(error).to_string(), |_| String::new());
            match found {
                Ok(loaded) if loaded.digest == self.loaded().digest => told = None,
                Ok(loaded) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                    info!(certificate = %self.certificate.display(), "Took up a new certificate");
                    told = None;
                }
                Err(_) if before.as_ref() != Some(&state) || told.as_ref() == Some(&state) => {}
                Err(_) => {
                    warn!(error = state, "Could not take up a new certificate; the old one stays");
                    told = Some(state.clone());
                }
            }
            before = Some(state);
        }
    }

    async fn look(&self) -> Result<Loaded, TlsError> {
        let read = async |path: &Path| {
            let bytes = tokio::fs::read(path).await;
            bytes.map_err(|source| TlsError::Read { path: path.to_owned(), source })
        };
        let (certificate, key) = (read(&self.certificate).await?, read(&self.key).await?);
        let known = self.loaded();
        if known.digest == digest(&certificate, &key) {
            return Ok(known);
        }
        load((&self.certificate, &certificate), (&self.key, &key))
    }

    fn loaded(&self) -> Loaded {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes of two files, each with its name, what connections are served with.
fn load(certificate: (&Path, &[u8]), key: (&Path, &[u8])) -> Result<Loaded, TlsError> {
    let digest = digest(certificate.1, key.1);
    let no_certificate = |source| TlsError::Certificate { path: certificate.0.to_owned(), source };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.1).collect();
    let chain = chain.map_err(no_certificate)?;
    if chain.is_empty() {
        return Err(no_certificate(PemError::NoItemsFound));
    }
    let own = PrivateKeyDer::from_pem_slice(key.1)
        .map_err(|source| TlsError::Key { path: key.0.to_owned(), source })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, own))
        .map_err(TlsError::Unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded { digest, config: Arc::new(config) })
}

fn digest(certificate: &[u8], key: &[u8]) -> [u8; 32] {
    let length = certificate.len().to_be_bytes();
    Sha256::new().chain_update(length).chain_update(certificate).chain_update(key).finalize().into()
}

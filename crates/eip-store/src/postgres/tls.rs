//! TLS to PostgreSQL: what `sslmode` and its fellows mean, as libpq has it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::open::OpenError;

/// How much a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Disable,
    /// Encrypted if the server can; nothing is verified.
    Prefer,
    /// Encrypted; the certificate is verified only if `sslrootcert` is given.
    Require,
    /// The certificate is verified, and may be for any host.
    VerifyCa,
    VerifyFull,
}

impl Mode {
    pub(super) const ALL: [Self; 5] =
        [Self::Disable, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    pub(super) const fn of_driver(self) -> SslMode {
        match self {
            Self::Disable => SslMode::Disable,
            Self::Prefer => SslMode::Prefer,
            Self::Require | Self::VerifyCa | Self::VerifyFull => SslMode::Require,
        }
    }
}

/// Who vouches for certificates.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// Whom this machine trusts.
    System,
    File(PathBuf),
}

/// What the URL asks for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) mode: Option<Mode>,
    pub(super) roots: Option<Roots>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

/// How to speak TLS, and whether to.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) mode: Mode,
    pub(super) connector: MakeRustlsConnect,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads what the files hold.
    ///
    /// # Errors
    /// When the parameters contradict each other, or a file cannot be used.
    pub(super) fn new(wanted: &Wanted) -> Result<Self, OpenError> {
        let system = wanted.roots == Some(Roots::System);
        let mode = wanted.mode.unwrap_or(if system { Mode::VerifyFull } else { Mode::Prefer });
        let contradiction = |what| Err(OpenError::Contradiction { what });
        let verifier: Arc<dyn ServerCertVerifier> = match (mode, &wanted.roots) {
            (Mode::Disable, _) | (Mode::Prefer | Mode::Require, None) => Arc::new(Any(provider())),
            (Mode::Prefer, Some(_)) => {
                return contradiction(
                    "sslrootcert is of no use with sslmode=prefer, which is the default; add sslmode=verify-full",
                );
            }
            // Anybody has a certificate of somebody whom the world trusts.
            (Mode::Require | Mode::VerifyCa, Some(Roots::System)) => {
                return contradiction("sslrootcert=system needs sslmode=verify-full");
            }
            (Mode::VerifyCa | Mode::VerifyFull, None) => {
                return contradiction(
                    "sslmode=verify-ca and sslmode=verify-full need sslrootcert=PATH, or verify-full sslrootcert=system",
                );
            }
            (Mode::Require | Mode::VerifyCa, Some(roots @ Roots::File(_))) => {
                Arc::new(AnyHost(verifier(roots)?))
            }
            (Mode::VerifyFull, Some(roots)) => verifier(roots)?,
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(OpenError::database("set up TLS"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match (&wanted.certificate, &wanted.key) {
            (Some(certificate), Some(key)) => builder
                .with_client_auth_cert(certificates("sslcert", certificate)?, private_key(key)?)
                .map_err(unusable("sslcert", certificate))?,
            (None, None) => builder.with_no_client_auth(),
            (Some(_), None) | (None, Some(_)) => {
                return contradiction("sslcert and sslkey come together");
            }
        };
        // PostgreSQL 17 asks for it when TLS comes without a request, older ones do not mind.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Self { mode, connector: MakeRustlsConnect::new(config) })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn verifier(roots: &Roots) -> Result<Arc<WebPkiServerVerifier>, OpenError> {
    let mut store = RootCertStore::empty();
    let path: &Path = match roots {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::debug!(%error, "Cannot read one of the certificates of this machine");
            }
            store.add_parsable_certificates(found.certs);
            Path::new("system")
        }
        Roots::File(path) => {
            for one in certificates("sslrootcert", path)? {
                store.add(one).map_err(unusable("sslrootcert", path))?;
            }
            path
        }
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider());
    verifier.build().map_err(unusable("sslrootcert", path))
}

fn certificates(
    parameter: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(unusable(parameter, path))?;
    if read.is_empty() {
        return Err(unusable(parameter, path)(io::Error::other("it holds no certificate in PEM")));
    }
    Ok(read)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, OpenError> {
    let failed = unusable("sslkey", path);
    let about = std::fs::metadata(path).map_err(unusable("sslkey", path))?;
    // As libpq has it: a key of root's may be read by a group.
    let others = if about.uid() == 0 { 0o037 } else { 0o077 };
    if about.mode() & others != 0 {
        let told = "others may read it; a private key is for its owner only (chmod 600)";
        return Err(failed(io::Error::other(told)));
    }
    PrivateKeyDer::from_pem_file(path).map_err(unusable("sslkey", path))
}

fn unusable<E>(parameter: &'static str, path: &Path) -> impl FnOnce(E) -> OpenError
where
    E: std::error::Error + Send + Sync + 'static,
{
    let path = path.to_owned();
    move |source| OpenError::TlsFile { parameter, path, source: Box::new(source) }
}

/// Says what a connection failed of, if it was TLS.
pub(super) fn explained(mode: Mode, error: tokio_postgres::Error) -> OpenError {
    let mut causes = std::iter::successors(std::error::Error::source(&error), |one| one.source());
    let handshake = causes.find_map(|cause| {
        // Its own source is that of the error in it.
        cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>()
    });
    if let Some(rustls::Error::InvalidCertificate(why)) = handshake {
        let source = Box::new(rustls::Error::InvalidCertificate(why.clone()));
        return match is_about_the_name(why) {
            true => OpenError::WrongHost { source },
            false => OpenError::Untrusted { source },
        };
    }
    // The driver says so in words only.
    let words = std::error::Error::source(&error).map(ToString::to_string);
    if words.as_deref() == Some("server does not support TLS") {
        return OpenError::ServerWithoutTls { mode: mode.as_str() };
    }
    OpenError::database("connect to PostgreSQL")(error)
}

const fn is_about_the_name(why: &CertificateError) -> bool {
    matches!(
        why,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
    )
}

/// Takes any certificate: it is against those who listen, not against those who pretend.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _host: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Takes a certificate that somebody trusted vouches for, whatever host it is for.
#[derive(Debug)]
struct AnyHost(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.0.verify_server_cert(certificate, intermediates, host, ocsp, now);
        match verified {
            // The name is looked at last, when everything else was right.
            Err(rustls::Error::InvalidCertificate(why)) if is_about_the_name(&why) => {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

//! How a server is reached: in the clear or by TLS, and what it means when it is not.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eip_model::chain;
use reqwest::{ClientBuilder, Url};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, ClientConfig, RootCertStore};

/// What the verifier says of an authority that was to be a server; its type is not ours to name.
const CA_USED_AS_END_ENTITY: &str = "CaUsedAsEndEntity";

/// Where a server answers, and who has to vouch for it.
///
/// `http://` is spoken in the clear. With `https://` the certificate must be for the host of the URL, and
/// signed by one of a file (PEM) if that is named, else by one whom this machine trusts.
#[derive(Clone)]
pub struct ServerAddress {
    url: Url,
    tls: ClientConfig,
}

impl fmt::Debug for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerAddress").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// The address of a server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("\"{0}\" is neither an http nor an https address")]
    Url(String),
    #[error("cannot read the certificates in {}", path.display())]
    CaFile {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{} holds no certificate in PEM", path.display())]
    NoCertificate { path: PathBuf },
    #[error("a certificate in {} vouches for nobody", path.display())]
    UnusableCa {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("this machine trusts nobody who could vouch for an https server")]
    NobodyTrusted,
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
}

impl AddressError {
    /// What whoever reads of it can do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Url(_) => "write it as http://127.0.0.1:8080 or https://eip.example.com",
            Self::CaFile { .. } | Self::NoCertificate { .. } | Self::UnusableCa { .. } => {
                "--ca-file (EIP_CA_FILE) names a PEM file with the certificates of those who sign servers'"
            }
            Self::NobodyTrusted => {
                "install the package ca-certificates, or name who signed with --ca-file (EIP_CA_FILE)"
            }
            Self::Tls(_) => "",
        }
    }
}

impl ServerAddress {
    /// Reads the certificates only where they are needed, and once: those who sign change seldom.
    ///
    /// # Errors
    /// When the URL is none that can be spoken to, or nobody is there to vouch for the server.
    pub fn new(url: &str, ca_file: Option<&Path>) -> Result<Self, AddressError> {
        let parsed = Url::parse(url).ok().filter(|url| url.has_host());
        let secured = match parsed.as_ref().map(Url::scheme) {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(AddressError::Url(url.to_owned())),
        };
        let roots = match (secured, ca_file) {
            (false, _) => RootCertStore::empty(),
            (true, Some(path)) => roots_of_file(path)?,
            (true, None) => roots_of_system()?,
        };
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(AddressError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let url = parsed.ok_or_else(|| AddressError::Url(url.to_owned()))?;
        Ok(Self { url, tls })
    }

    /// Returns the address with another path.
    #[must_use]
    pub fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url
    }

    /// Returns a client of this server, to be built: one that goes by no proxy.
    pub fn client(&self) -> ClientBuilder {
        ClientBuilder::new()
            .tls_backend_preconfigured(self.tls.clone())
            .no_proxy()
            .tcp_nodelay(true)
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, AddressError> {
    let unreadable = |source| AddressError::CaFile { path: path.to_owned(), source };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut roots = RootCertStore::empty();
    for one in read.map_err(unreadable)? {
        let unusable = |source| AddressError::UnusableCa { path: path.to_owned(), source };
        roots.add(one).map_err(unusable)?;
    }
    if roots.is_empty() {
        return Err(AddressError::NoCertificate { path: path.to_owned() });
    }
    Ok(roots)
}

fn roots_of_system() -> Result<RootCertStore, AddressError> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "Cannot read one of the certificates of this machine");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() { Err(AddressError::NobodyTrusted) } else { Ok(roots) }
}

/// Why a server was not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreached {
    /// It took too long.
    Late,
    /// Nobody trusted has signed its certificate.
    UnknownIssuer,
    /// Its certificate is for others; their names, where they are known.
    OtherName { expected: String, presented: Vec<String> },
    /// Its certificate is out of date.
    Expired,
    /// Its certificate is of the future.
    NotYetValid,
    /// Its certificate is that of an authority, as `openssl req -x509` makes it unless told otherwise.
    Authority,
    /// Its certificate is good for nothing for another reason.
    BadCertificate(String),
    /// It was spoken to by TLS, and does not speak it.
    NoTls,
    /// Whatever else.
    Other(String),
}

impl Unreached {
    /// Finds out why a request got no answer.
    #[must_use]
    pub fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Late;
        }
        match handshake_error(error) {
            Some(rustls::Error::InvalidCertificate(why)) => Self::of_certificate(why),
            Some(rustls::Error::InvalidMessage(_)) => Self::NoTls,
            Some(other) => Self::Other(other.to_string()),
            // The error's own words are the address once more; what it was caused by says something.
            None => {
                Self::Other(error.source().map_or_else(|| "the request failed".to_owned(), chain))
            }
        }
    }

    fn of_certificate(why: &CertificateError) -> Self {
        if let CertificateError::NotValidForNameContext { expected, presented } = why {
            let expected = expected.to_str().into_owned();
            return Self::OtherName { expected, presented: presented.clone() };
        }
        if matches!(why, CertificateError::UnknownIssuer | CertificateError::BadSignature) {
            return Self::UnknownIssuer;
        }
        if matches!(why, CertificateError::Expired | CertificateError::ExpiredContext { .. }) {
            return Self::Expired;
        }
        if matches!(
            why,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
        ) {
            return Self::NotYetValid;
        }
        if let CertificateError::Other(other) = why
            && other.0.to_string() == CA_USED_AS_END_ENTITY
        {
            return Self::Authority;
        }
        Self::BadCertificate(rustls::Error::InvalidCertificate(why.clone()).to_string())
    }

    /// What can be done about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Late => "the server takes too long: look at its log, its load and its database",
            Self::UnknownIssuer => {
                "name the certificate of whoever signed the server's with --ca-file (EIP_CA_FILE)"
            }
            Self::OtherName { .. } => {
                "write the host as the certificate has it, or have one made for this name"
            }
            Self::Expired => {
                "renew the certificate of the server: it takes up new files by itself; or see the clock of this machine"
            }
            Self::NotYetValid => "see the clocks of this machine and of who made the certificate",
            Self::Authority | Self::BadCertificate(_) => {
                "have the server serve a certificate for its name, signed by an authority and none itself"
            }
            Self::NoTls => "that port does not speak TLS: write http://, or name the one that does",
            Self::Other(_) => "see that the server runs, and that the address leads to it",
        }
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => write!(f, "no answer in time"),
            Self::UnknownIssuer => write!(f, "its certificate is signed by nobody trusted here"),
            Self::OtherName { expected, presented } => {
                let names = presented.join(", ");
                write!(f, "its certificate is not for {expected}, but for {names}")
            }
            Self::Expired => write!(f, "its certificate has expired"),
            Self::NotYetValid => write!(f, "its certificate is not valid yet"),
            Self::Authority => {
                write!(f, "its certificate is that of an authority, not of a server")
            }
            Self::BadCertificate(why) | Self::Other(why) => write!(f, "{why}"),
            Self::NoTls => write!(f, "it does not speak TLS"),
        }
    }
}

/// Finds what a TLS handshake failed of, however deep it is.
fn handshake_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    // The source of an I/O error is not the error in it, but that one's source.
    match error.downcast_ref().and_then(io::Error::get_ref) {
        Some(within) => handshake_error(within),
        None => handshake_error(error.source()?),
    }
}

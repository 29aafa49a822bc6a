//! Sending a message, and what came of it.

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use eip_model::{SigningSecret, WebhookUrl, chain};
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};

use crate::guard::{Guard, NotAllowed};
use crate::message::Message;

/// How long an attempt may take from the first byte to the last, as the specification advises.
const PATIENCE: Duration = Duration::from_secs(15);
const CONNECTING: Duration = Duration::from_secs(5);

/// How long an idle connection is kept for the next message.
const IDLE: Duration = Duration::from_secs(30);

/// How much of an answer is read, so that its connection can be used again.
const LONGEST_ANSWER: u64 = 16 * 1024;

/// Sends messages. Clones share their connections.
#[derive(Debug, Clone, Default)]
pub struct Sender {
    guard: Guard,
    /// Made for the first message, as most services have none to send; or why it could not be.
    client: Arc<OnceLock<Result<Client, String>>>,
}

/// Messages cannot be sent at all.
#[derive(Debug, thiserror::Error)]
enum Unable {
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("cannot set up an HTTP client")]
    Client(#[source] reqwest::Error),
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It was accepted: the answer was 2xx.
    Accepted,
    /// It was not, and may be later; not before `wait` has passed, where the receiver said so.
    Failed { why: String, wait: Option<Duration> },
    /// The receiver wants nothing any more (410, Gone).
    Gone,
}

impl Sender {
    #[must_use]
    pub fn new(guard: Guard) -> Self {
        Self { guard, client: Arc::default() }
    }

    /// Looks at where a webhook would send to.
    ///
    /// # Errors
    /// When messages may not go there.
    pub fn admit(&self, url: &WebhookUrl) -> Result<(), NotAllowed> {
        self.guard.admit_url(url)
    }

    /// Sends a message once, signed with each of the secrets.
    pub async fn send(
        &self,
        url: &WebhookUrl,
        secrets: &[&SigningSecret],
        message: &Message,
        now: Timestamp,
    ) -> Attempt {
        if let Err(refused) = self.guard.admit_url(url) {
            return Attempt::Failed { why: refused.to_string(), wait: None };
        }
        let client = self.client.get_or_init(|| client(&self.guard).map_err(|error| chain(&error)));
        let client = match client {
            Ok(client) => client,
            Err(why) => return Attempt::Failed { why: why.clone(), wait: None },
        };
        let request = client
            .post(url.as_str())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", now.as_second())
            .header("webhook-signature", message.signatures(secrets, now))
            .body(message.body.clone());
        match request.send().await {
            Ok(response) => judge(response).await,
            Err(error) => Attempt::Failed { why: explained(&error), wait: None },
        }
    }
}

/// Trusts whom this machine trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others). Goes by no proxy and
/// follows no redirect: either would lead where the guard does not look.
fn client(guard: &Guard) -> Result<Client, Unable> {
    let mut roots = RootCertStore::empty();
    // Without any, nothing that is sent by TLS arrives, and each attempt says why.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Unable::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        .dns_resolver(Arc::new(guard.clone()))
        .no_proxy()
        .redirect(Policy::none())
        .timeout(PATIENCE)
        .connect_timeout(CONNECTING)
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true)
        .user_agent(concat!("eip/", env!("CARGO_PKG_VERSION")))
        .build();
    client.map_err(Unable::Client)
}

async fn judge(response: Response) -> Attempt {
    let status = response.status();
    if status == StatusCode::GONE {
        return Attempt::Gone;
    }
    let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let wait = wait.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    drain(response).await;
    if status.is_success() {
        return Attempt::Accepted;
    }
    let why = match status.is_redirection() {
        true => format!("the answer was {status}; redirects are not followed"),
        false => format!("the answer was {status}"),
    };
    Attempt::Failed { why, wait }
}

/// Reads a short answer to its end. A long one costs the receiver its connection.
async fn drain(mut response: Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        if read > LONGEST_ANSWER {
            return;
        }
    }
}

/// Says why no answer came, without the URL, which whoever reads it knows.
fn explained(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("there was no answer within {} s", PATIENCE.as_secs());
    }
    match error.source() {
        Some(source) => chain(source),
        None => "the request could not be sent".to_owned(),
    }
}

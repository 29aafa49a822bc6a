//! The line to the server: HTTP, also inside one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use eip_model::{AppliedReport, ClusterId, DesiredNews, DesiredSet, Generation, PACKED};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;

use crate::dial::{ServerAddress, Unreached};

/// How long a question may take to be answered, and a report to be taken in: it may be about very many.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
pub(crate) const REPORT_DEADLINE: Duration = Duration::from_secs(60);

/// Where the server is, and the key of this host.
#[derive(Debug, Clone)]
pub struct ServerLink {
    client: Client,
    address: ServerAddress,
    acknowledged: Arc<AtomicU64>,
    /// The server did not answer, or is another one: it may not know what it was told before.
    in_doubt: Arc<AtomicBool>,
}

/// The server cannot be spoken to with this key.
#[derive(Debug, thiserror::Error)]
pub enum ServerLinkError {
    #[error("the key of the agent cannot be sent in a header")]
    Key,
    #[error("cannot set up an HTTP client")]
    Client(#[source] reqwest::Error),
}

/// What the server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// What has changed, where it knows.
    ForChanges,
    ForAll,
}

/// What the server said when asked for the desired set.
#[derive(Debug)]
pub(crate) enum Fetched {
    Unchanged,
    News(DesiredNews),
}

/// Why the server was not reached, or did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot reach the server: {0}")]
    Unreached(Unreached),
    #[error("the server answered {status}: {body}")]
    Refused { status: StatusCode, body: String },
    #[error("the desired set that the server answered with cannot be read: {0}")]
    Garbled(String),
}

impl From<reqwest::Error> for LinkError {
    fn from(error: reqwest::Error) -> Self {
        Self::Unreached(Unreached::of(&error))
    }
}

impl LinkError {
    /// Whether the server does not know what it was asked for: it is older.
    pub(crate) fn is_unknown_path(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(status)
            }
            Self::Unreached(_) | Self::Garbled(_) => false,
        }
    }

    /// Whether the server has heard something newer than what it was told.
    pub(crate) fn is_of_the_past(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == StatusCode::PRECONDITION_FAILED,
            Self::Unreached(_) | Self::Garbled(_) => false,
        }
    }

    /// Whether there was no answer in time.
    pub(crate) const fn is_late(&self) -> bool {
        matches!(self, Self::Unreached(Unreached::Late))
    }

    /// What whoever reads of it can do.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Unreached(why) => why.hint(),
            Self::Garbled(_) => "agent and server may be of different versions",
            Self::Refused { status, .. } => match *status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    "the server does not know the key of this agent: make one with eip key create"
                }
                StatusCode::PAYLOAD_TOO_LARGE => {
                    "the server takes no report of this size: bring it to the version of the agent"
                }
                StatusCode::CONFLICT => "eip host list says what an administrator has to decide",
                status if status.is_server_error() => "the log of the server says why",
                _ => "agent and server may be of different versions",
            },
        }
    }
}

impl ServerLink {
    /// # Errors
    /// When the key cannot be sent.
    pub fn new(address: ServerAddress, key: &str) -> Result<Self, ServerLinkError> {
        let mut key = HeaderValue::from_str(key).map_err(|_| ServerLinkError::Key)?;
        key.set_sensitive(true);
        let headers =
            HeaderMap::from_iter([(reqwest::header::HeaderName::from_static("x-api-key"), key)]);
        let client = address
            .client()
            .default_headers(headers)
            .connect_timeout(DEADLINE)
            // Below the server's deadline for the next request on an idle connection.
            .pool_idle_timeout(Duration::from_secs(8))
            .build();
        let client = client.map_err(ServerLinkError::Client)?;
        Ok(Self { client, address, acknowledged: Arc::default(), in_doubt: Arc::default() })
    }

    /// Waits up to `seconds` for a desired set that is not the known one, and for as long as `patience` to
    /// be told it.
    pub(crate) async fn desired(
        &self,
        known: Option<(ClusterId, Generation)>,
        ask: Ask,
        seconds: u64,
        patience: Duration,
    ) -> Result<Fetched, LinkError> {
        let mut query = vec![("wait_seconds", seconds.to_string())];
        if let Some((cluster, known)) = known {
            query.extend([("cluster", cluster.to_string()), ("known", known.to_string())]);
            query.push(("acknowledged", self.acknowledged().to_string()));
        }
        query.push(("changes", (ask == Ask::ForChanges).to_string()));
        query.push(("packed", true.to_string()));
        let request = self.client.get(self.at("desired")).query(&query);
        let deadline = patience + Duration::from_secs(seconds);
        let answer = self.accepted(request.timeout(deadline)).await?;
        let packed = answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == PACKED);
        match answer.status() {
            StatusCode::NO_CONTENT => Ok(Fetched::Unchanged),
            _ if packed => {
                let set = DesiredSet::unpack(&answer.bytes().await?);
                Ok(Fetched::News(DesiredNews::Whole(set.map_err(LinkError::Garbled)?)))
            }
            _ => Ok(Fetched::News(match ask {
                Ask::ForChanges => answer.json().await?,
                Ask::ForAll => DesiredNews::Whole(answer.json().await?),
            })),
        }
    }

    /// Puts a report to one of the agent's paths.
    pub(crate) async fn put(&self, what: &str, report: &impl Serialize) -> Result<(), LinkError> {
        let request = self.client.put(self.at(what)).timeout(REPORT_DEADLINE).json(report);
        self.accepted(request).await.map(drop)
    }

    /// Tells what is in force, and remembers what of that was acknowledged.
    pub(crate) async fn put_applied(&self, report: &AppliedReport) -> Result<(), LinkError> {
        let known = [("acknowledged", self.acknowledged().to_string())];
        let request = self.client.put(self.at("applied")).query(&known);
        self.accepted(request.timeout(REPORT_DEADLINE).json(report)).await?;
        self.acknowledged.fetch_max(report.generation.value(), Ordering::Relaxed);
        Ok(())
    }

    /// The newest generation whose report a server has taken: it is in the record since.
    pub(crate) fn acknowledged(&self) -> Generation {
        Generation::new(self.acknowledged.load(Ordering::Relaxed))
    }

    /// Begins with what an earlier run was acknowledged, or anew with another record.
    pub(crate) fn resume_from(&self, acknowledged: Generation) {
        self.acknowledged.store(acknowledged.value(), Ordering::Relaxed);
        self.in_doubt.store(true, Ordering::Relaxed);
    }

    /// Whether the server may have forgotten what it was told before the last time that this was asked.
    pub(crate) fn was_in_doubt(&self) -> bool {
        self.in_doubt.swap(false, Ordering::Relaxed)
    }

    async fn accepted(&self, request: RequestBuilder) -> Result<Response, LinkError> {
        let answer = request.send().await;
        let lost = answer.as_ref().map_or(true, |answer| answer.status().is_server_error());
        self.in_doubt.fetch_or(lost, Ordering::Relaxed);
        let answer = answer?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        Err(LinkError::Refused { status, body: answer.text().await.unwrap_or_default() })
    }

    fn at(&self, what: &str) -> Url {
        self.address.at(&format!("/agent/v1/{what}"))
    }
}

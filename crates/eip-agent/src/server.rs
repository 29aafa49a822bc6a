//! The line to the server: HTTP, also inside one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use eip_model::{AppliedReport, ClusterId, DesiredNews, Generation};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use serde::Serialize;

/// How long a report may take to be taken in.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where the server is, and the key of this host.
#[derive(Debug, Clone)]
pub struct ServerLink {
    client: Client,
    base: Url,
    acknowledged: Arc<AtomicU64>,
}

/// The address or the key of the server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerUrlError {
    #[error("\"{0}\" is not an http address")]
    Url(String),
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
    #[error("cannot reach the server")]
    Unreached(#[from] reqwest::Error),
    #[error("the server answered {status}: {body}")]
    Refused { status: StatusCode, body: String },
}

impl ServerLink {
    /// # Errors
    /// When the address is none, or the key cannot be sent.
    pub fn new(base: &str, key: &str) -> Result<Self, ServerUrlError> {
        let url = Url::parse(base).ok().filter(|url| url.scheme() == "http");
        let base = url.ok_or_else(|| ServerUrlError::Url(base.to_owned()))?;
        let mut key = HeaderValue::from_str(key).map_err(|_| ServerUrlError::Key)?;
        key.set_sensitive(true);
        let headers =
            HeaderMap::from_iter([(reqwest::header::HeaderName::from_static("x-api-key"), key)]);
        let client = Client::builder()
            .default_headers(headers)
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(DEADLINE)
            // Below the server's deadline for the next request on an idle connection.
            .pool_idle_timeout(Duration::from_secs(8))
            .build();
        let client = client.map_err(ServerUrlError::Client)?;
        Ok(Self { client, base, acknowledged: Arc::default() })
    }

    /// Waits up to `seconds` for a desired set that is not the known one.
    pub(crate) async fn desired(
        &self,
        known: Option<(ClusterId, Generation)>,
        ask: Ask,
        seconds: u64,
    ) -> Result<Fetched, LinkError> {
        let mut query = vec![("wait_seconds", seconds.to_string())];
        if let Some((cluster, known)) = known {
            query.extend([("cluster", cluster.to_string()), ("known", known.to_string())]);
            query.push(("acknowledged", self.acknowledged().to_string()));
        }
        query.push(("changes", (ask == Ask::ForChanges).to_string()));
        let request = self.client.get(self.at("desired")).query(&query);
        let deadline = DEADLINE + Duration::from_secs(seconds);
        let answer = accepted(request.timeout(deadline).send().await?).await?;
        match answer.status() {
            StatusCode::NO_CONTENT => Ok(Fetched::Unchanged),
            _ => Ok(Fetched::News(match ask {
                Ask::ForChanges => answer.json().await?,
                Ask::ForAll => DesiredNews::Whole(answer.json().await?),
            })),
        }
    }

    /// Puts a report to one of the agent's paths.
    pub(crate) async fn put(&self, what: &str, report: &impl Serialize) -> Result<(), LinkError> {
        let request = self.client.put(self.at(what)).timeout(DEADLINE).json(report);
        accepted(request.send().await?).await.map(drop)
    }

    /// Tells what is in force, and remembers what of that was acknowledged.
    pub(crate) async fn put_applied(&self, report: &AppliedReport) -> Result<(), LinkError> {
        let known = [("acknowledged", self.acknowledged().to_string())];
        let request = self.client.put(self.at("applied")).query(&known);
        accepted(request.timeout(DEADLINE).json(report).send().await?).await?;
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
    }

    fn at(&self, what: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/agent/v1/{what}"));
        url
    }
}

async fn accepted(answer: reqwest::Response) -> Result<reqwest::Response, LinkError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    Err(LinkError::Refused { status, body: answer.text().await.unwrap_or_default() })
}

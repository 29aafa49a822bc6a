//! Calling the API.

use std::time::Duration;

use eip_agent::{ServerAddress, Unreached};
use eip_model::Problem;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// Longer than the longest wait for a host.
const DEADLINE: Duration = Duration::from_secs(75);

/// How many items the server gives at a time.
const LONGEST_PAGE: u32 = 500;

/// A part of a list, as every list of the API is told.
#[derive(Debug, Deserialize)]
struct Page<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

/// The service at one address, with one key.
#[derive(Debug)]
pub(crate) struct Api {
    client: Client,
    address: ServerAddress,
}

impl Api {
    pub(crate) fn new(address: ServerAddress, key: &str) -> Result<Self, Failure> {
        let mut key = HeaderValue::from_str(key).map_err(|_| {
            let detail = "the API key holds characters that cannot be sent";
            Failure::here(Exit::Auth, "unauthenticated", detail, "copy it again")
        })?;
        key.set_sensitive(true);
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-api-key"), key)]);
        let client = address.client().default_headers(headers).timeout(DEADLINE).build();
        let client = client.map_err(|error| Failure::other("cannot set up HTTP", &error))?;
        Ok(Self { client, address })
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        self.read(self.client.get(self.at(path)).query(query)).await
    }

    /// Reads a list to its end, page by page.
    pub(crate) async fn all<T: DeserializeOwned>(
        &self,
        path: &str,
        filters: &[(&str, String)],
    ) -> Result<Vec<T>, Failure> {
        let mut query = filters.to_vec();
        query.push(("limit", LONGEST_PAGE.to_string()));
        let mut all = Vec::new();
        loop {
            let page: Page<T> = self.get(path, &query).await?;
            all.extend(page.items);
            let Some(cursor) = page.next_cursor else { return Ok(all) };
            query.truncate(filters.len() + 1);
            query.push(("cursor", cursor));
        }
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.read(self.client.post(self.at(path)).json(body)).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.read(self.client.patch(self.at(path)).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send(self.client.delete(self.at(path))).await.map(drop)
    }

    fn at(&self, path: &str) -> Url {
        self.address.at(path)
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let answer = self.send(request).await?;
        answer.json().await.map_err(|error| {
            Failure::other("the server answered with something else than expected", &error)
        })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.bytes().await.unwrap_or_default();
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(Failure::Problem(Box::new(problem))),
            Err(_) => {
                let detail = format!("{} answered {status}", self.address);
                Err(Failure::here(Exit::Other, "other", detail, "is this an eip server?"))
            }
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let why = Unreached::of(error);
        let hint = if matches!(why, Unreached::Other(_)) {
            "start it with eip serve, or name another with --url or EIP_URL"
        } else {
            why.hint()
        };
        let detail = format!("cannot speak to {}: {why}", self.address);
        Failure::here(Exit::Unreachable, "unreachable", detail, hint)
    }
}

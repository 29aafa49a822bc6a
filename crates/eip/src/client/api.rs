//! Calling the API.

use std::time::Duration;

use eip_model::{Problem, chain};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exit::{Exit, Failure};

/// Longer than the longest wait for a host.
const DEADLINE: Duration = Duration::from_secs(75);

/// The service at one address, with one key.
#[derive(Debug)]
pub(crate) struct Api {
    client: Client,
    base: Url,
}

impl Api {
    pub(crate) fn new(base: &str, key: &str) -> Result<Self, Failure> {
        let url = Url::parse(base).ok().filter(|url| url.scheme() == "http");
        let base = url.ok_or_else(|| {
            let hint = "write it as http://127.0.0.1:8080";
            Failure::usage(format!("\"{base}\" is not an http address"), hint)
        })?;
        let mut key = HeaderValue::from_str(key).map_err(|_| {
            let detail = "the API key holds characters that cannot be sent";
            Failure::here(Exit::Auth, "unauthenticated", detail, "copy it again")
        })?;
        key.set_sensitive(true);
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-api-key"), key)]);
        let client = Client::builder().default_headers(headers).no_proxy().timeout(DEADLINE);
        let client = client.tcp_nodelay(true).build();
        let client = client.map_err(|error| Failure::other("cannot set up HTTP", &error))?;
        Ok(Self { client, base })
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        self.read(self.client.get(self.at(path)).query(query)).await
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
        let mut url = self.base.clone();
        url.set_path(path);
        url
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
                let detail = format!("{} answered {status}", self.base);
                Err(Failure::here(Exit::Other, "other", detail, "is this an eip server?"))
            }
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        // The error's own words are the address once more; what it was caused by says something.
        let why = match std::error::Error::source(error) {
            Some(_) if error.is_timeout() => "no answer in time".to_owned(),
            Some(cause) => chain(cause),
            None => "the request failed".to_owned(),
        };
        let detail = format!("nothing answers at {}: {why}", self.base);
        let hint = "start it with eip serve, or name another with --url or EIP_URL";
        Failure::here(Exit::Unreachable, "unreachable", detail, hint)
    }
}

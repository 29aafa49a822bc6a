//! Webhooks: where events are sent as they happen.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::{Host, Url};
use utoipa::ToSchema;

use crate::event::EventKind;
use crate::given::given;
use crate::ids::WebhookId;
use crate::names::{Label, ProjectName};

/// How long a URL may be, in bytes.
const LONGEST: usize = 2_048;

/// Where a webhook sends to: an absolute `http` or `https` URL (RFC 3986) without a user or a fragment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebhookUrl(Url);

impl WebhookUrl {
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Returns scheme, host and port: what may be told of it to everyone. The rest may be what its
    /// receiver knows senders by.
    #[must_use]
    pub fn place(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// Returns the address that the URL itself names, if it names no host by name.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self.0.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// Returns the name of the host, if the URL names one.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        self.0.domain()
    }
}

/// The text is no URL that events can be sent to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the URL of a webhook {0}")]
pub struct InvalidWebhookUrl(&'static str);

impl FromStr for WebhookUrl {
    type Err = InvalidWebhookUrl;

    fn from_str(text: &str) -> Result<Self, InvalidWebhookUrl> {
        if text.len() > LONGEST {
            return Err(InvalidWebhookUrl("has at most 2048 bytes"));
        }
        let absolute = "is absolute, like https://hooks.example.com/eip";
        let url = Url::parse(text).map_err(|_| InvalidWebhookUrl(absolute))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidWebhookUrl("begins with https:// or http://"));
        }
        if !url.has_host() {
            return Err(InvalidWebhookUrl(absolute));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidWebhookUrl(
                "has no user and no password: check the signature instead",
            ));
        }
        if url.fragment().is_some() {
            return Err(InvalidWebhookUrl("has no fragment: it would not be sent"));
        }
        // Written out, it may be longer than it was.
        if url.as_str().len() > LONGEST {
            return Err(InvalidWebhookUrl("has at most 2048 bytes"));
        }
        Ok(Self(url))
    }
}

impl TryFrom<String> for WebhookUrl {
    type Error = InvalidWebhookUrl;

    fn try_from(text: String) -> Result<Self, InvalidWebhookUrl> {
        text.parse()
    }
}

impl From<WebhookUrl> for String {
    fn from(url: WebhookUrl) -> Self {
        url.0.into()
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What messages are signed with: 256 random bits. `Debug` hides them.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret([u8; 32]);

impl SigningSecret {
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Stands where a secret is not known. Nothing is signed with it.
    #[must_use]
    pub const fn nobodys() -> Self {
        Self([0; 32])
    }

    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret")
    }
}

/// How a webhook fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookState {
    /// What happens is sent as it happens.
    Active,
    /// The last attempt failed; there will be another one.
    Failing,
    /// Nothing is sent until it is enabled again; then everything that happened meanwhile is.
    Disabled,
}

impl fmt::Display for WebhookState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Failing => "failing",
            Self::Disabled => "disabled",
        })
    }
}

/// Where events are sent as they happen, in their order and at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    #[schema(value_type = uuid::Uuid)]
    pub id: WebhookId,
    /// Whose events; `null` for those of all projects and of the service itself.
    pub project: Option<ProjectName>,
    pub name: Option<Label>,
    #[schema(value_type = String, format = "uri")]
    pub url: WebhookUrl,
    /// Which events; `null` for all. It is told in any case what becomes of itself.
    pub kinds: Option<Vec<EventKind>>,
    pub enabled: bool,
    pub state: WebhookState,
    /// The id of the last event that was dealt with.
    pub last_event: String,
    /// When something was accepted last.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub delivered_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub failing_since: Option<Timestamp>,
    /// How many attempts have failed since then.
    pub failures: u64,
    /// Why the last one that failed did.
    pub last_error: Option<String>,
    /// When the next attempt is due, where the last one failed.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub next_attempt_at: Option<Timestamp>,
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = "date-time")]
    pub updated_at: Timestamp,
}

/// A page of webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookList {
    pub items: Vec<Webhook>,
    pub next_cursor: Option<String>,
}

/// `POST /webhooks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhookRequest {
    #[schema(value_type = String, format = "uri", max_length = 2048,
             example = "https://hooks.example.com/eip")]
    pub url: WebhookUrl,
    /// Whose events. By default those that the caller may see: of all projects for an administrator, of
    /// its own for any other key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Label>,
    /// Which events; without, all.
    #[schema(min_items = 1, max_items = 64)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<EventKind>>,
}

/// `PATCH /webhooks/{id}`: what is given is changed, what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateWebhookRequest {
    #[schema(value_type = Option<String>, format = "uri", max_length = 2048)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<WebhookUrl>,
    /// `null` takes the name away.
    #[schema(value_type = Option<Label>)]
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub name: Option<Option<Label>>,
    /// `null` for all.
    #[schema(value_type = Option<Vec<EventKind>>, min_items = 1, max_items = 64)]
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Option<Vec<EventKind>>>,
    /// Whether anything is sent. One that is enabled again tries at once, and goes on where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// A webhook and the secret that its messages are signed with, which is shown this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookWithSecret {
    #[serde(flatten)]
    pub webhook: Webhook,
    /// `whsec_` and 32 bytes in Base64, as the libraries of Standard Webhooks take it.
    #[schema(pattern = "^whsec_[A-Za-z0-9+/]{43}=$")]
    pub secret: String,
}

impl fmt::Debug for WebhookWithSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookWithSecret({})", self.webhook.id)
    }
}

/// What a webhook sends (Standard Webhooks 1.0).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookMessage {
    /// The kind of the event.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// When it happened.
    #[schema(value_type = String, format = "date-time")]
    pub timestamp: Timestamp,
    pub data: crate::Event,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_one_that_events_can_be_sent_to() {
        let good =
            ["https://hooks.example.com/eip?x=1", "http://10.0.0.1:8080/", "https://[fd00::1]/"];
        for url in good {
            assert_eq!(url.parse::<WebhookUrl>().unwrap().as_str(), url);
        }
        let long = format!("https://example.com/{}", "a".repeat(2_048));
        let spread = format!("https://example.com/{}x", " ".repeat(1_000));
        for url in [
            "",
            "hooks.example.com",
            "/eip",
            "ftp://example.com/",
            "https://",
            "file:///etc/passwd",
            "https://me:pw@example.com/",
            "https://me@example.com/",
            "https://example.com/#part",
            "data:text/plain,x",
            &long,
            &spread,
        ] {
            assert!(url.parse::<WebhookUrl>().is_err(), "{url}");
        }
    }

    #[test]
    fn the_many_ways_to_write_an_address_are_all_seen() {
        for url in ["http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f.1/"] {
            let url: WebhookUrl = url.parse().unwrap();
            assert_eq!(url.address(), Some([127, 0, 0, 1].into()), "{url}");
        }
        let url: WebhookUrl = "http://[::ffff:127.0.0.1]/".parse().unwrap();
        assert!(url.address().is_some_and(|one| one.is_ipv6()));
        assert_eq!("http://example.com/".parse::<WebhookUrl>().unwrap().address(), None);
    }
}

//! What callers ask for besides a change itself, and what they are told besides its answer.

use eip_store::{OnceKey, Settled, Terms, Version};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::{Caller, Error, Service};

/// What a request asks for besides the change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// Its `Idempotency-Key`.
    pub(crate) key: Option<String>,
    /// Its `If-Match`.
    pub(crate) if_match: Option<Vec<Version>>,
    pub(crate) dry_run: bool,
}

/// What a request came to.
#[derive(Debug)]
pub(crate) struct Done<T> {
    pub(crate) answer: T,
    /// Whether it was carried out before.
    pub(crate) repeated: bool,
    /// Whether nothing of it stays.
    pub(crate) rehearsed: bool,
}

impl Asked {
    /// `what` is the whole of what is asked for: repeating something else under the same key is refused.
    pub(crate) fn terms(&self, caller: &Caller, what: &impl Serialize) -> Terms {
        Terms {
            once: self.once(caller, what),
            if_match: self.if_match.clone(),
            rehearse: self.dry_run,
        }
    }

    /// Of a change by PATCH or DELETE, which comes to the same however often it is asked for: an
    /// `Idempotency-Key` is for POST.
    pub(crate) fn unkeyed(&self) -> Terms {
        Terms { once: None, if_match: self.if_match.clone(), rehearse: self.dry_run }
    }

    /// Refuses an `If-Match` where there is no `ETag`: it is never left unheeded.
    pub(crate) fn no_version(&self) -> Result<&Self, Error> {
        match self.if_match {
            None => Ok(self),
            Some(_) => {
                let hint = "leave it out; only elastic IPs have an ETag";
                Err(Error::invalid("If-Match is for changes of an elastic IP", hint))
            }
        }
    }

    pub(crate) fn once(&self, caller: &Caller, what: &impl Serialize) -> Option<OnceKey> {
        self.key.as_ref().map(|key| OnceKey {
            owner: caller.key.clone(),
            key: key.clone(),
            fingerprint: fingerprint(what),
        })
    }

    /// What is asked for one of many changes.
    pub(crate) fn of_many(&self, at: usize) -> Self {
        Self { key: self.key.as_ref().map(|key| format!("{key}#{at}")), ..self.clone() }
    }

    pub(crate) fn done<T>(&self, answer: T, repeated: bool) -> Done<T> {
        Done { answer, repeated, rehearsed: self.dry_run }
    }

    pub(crate) fn settled<T>(&self, settled: Settled<T>) -> Done<T> {
        self.done(settled.answer, settled.repeated)
    }
}

/// Tells one request from another.
pub(crate) fn fingerprint(what: &impl Serialize) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(what).unwrap_or_default()).into()
}

impl Service {
    /// Keeps an answer for those who ask again. Should that fail, they are told what is true then.
    pub(super) async fn note<T: Serialize>(&self, terms: &Terms, answer: &T) {
        let (Some(once), Ok(body)) = (&terms.once, serde_json::to_value(answer)) else { return };
        if let Err(error) = self.repository().note_answer(once, &body).await {
            warn!(%error, key.id = %once.owner, "Could not keep an answer for those who ask again");
        }
    }
}

/// Reads an answer that was kept.
pub(crate) fn kept<T: DeserializeOwned>(body: serde_json::Value) -> Result<T, Error> {
    serde_json::from_value(body).map_err(|_| Error::Internal)
}

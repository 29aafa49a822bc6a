//! API keys: making them, recognising them, and remembering for a moment which ones are good.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use eip_model::KeyId;
use eip_store::{ApiKeyRecord, Repository};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Error;

/// For how long a key that was found good is taken as good: the bound on how late a revocation is.
const TRUST: Duration = Duration::from_secs(1);

/// How many keys are remembered at most.
const REMEMBERED: usize = 10_000;

/// An API key in clear. It is shown once and never logged: `Debug` hides it.
#[derive(Clone)]
pub struct ApiKey(SecretString);

impl ApiKey {
    /// Makes a key of 256 random bits: `eip_ID_SECRET`, where the secret ends in a checksum.
    #[must_use]
    pub fn generate() -> Self {
        let id: [u8; 4] = rand::random();
        let secret: [u8; 32] = rand::random();
        Self::of(&id, &secret)
    }

    /// Makes the key that follows from this one, from what a caller calls a request, and from `salt`:
    /// who has not this key, has not the other.
    #[must_use]
    pub fn derive(&self, once: &str, salt: &str) -> Self {
        let part = |what: &str| {
            let hash = Sha256::new().chain_update(what).chain_update([0]);
            let hash = hash.chain_update(self.expose()).chain_update([0]);
            hash.chain_update(once).chain_update([0]).chain_update(salt).finalize()
        };
        Self::of(&part("eip key id")[..4], &part("eip key secret"))
    }

    fn of(id: &[u8], secret: &[u8]) -> Self {
        let body = format!("{}_{}", hex(id), hex(secret));
        Self(format!("eip_{body}{}", checksum(&body)).into())
    }

    /// Takes a key that an operator chose.
    ///
    /// # Errors
    /// [`InvalidApiKey`] when it could not be sent in a header, or is so short that it can be guessed.
    pub fn chosen(text: &str) -> Result<Self, InvalidApiKey> {
        let visible = text.bytes().all(|b| b.is_ascii_graphic());
        if (8..=256).contains(&text.len()) && visible {
            Ok(Self(text.to_owned().into()))
        } else {
            Err(InvalidApiKey)
        }
    }

    /// Takes a key that somebody presented.
    pub(crate) fn presented(text: &str) -> Self {
        Self(text.to_owned().into())
    }

    /// Returns the key in clear, to be written to its file or sent.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Returns the part that may be shown. A key that does not say its own is named by its digest.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let text = self.expose();
        match text.strip_prefix("eip_").and_then(|rest| rest.split_once('_')) {
            Some((id, _)) if well_formed(text) => KeyId::new(id),
            _ => KeyId::new(hex(&self.digest()[..4])),
        }
    }

    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.expose().as_bytes()).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.id())
    }
}

/// The text cannot serve as a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 8 to 256 visible ASCII characters without spaces")]
pub struct InvalidApiKey;

fn well_formed(text: &str) -> bool {
    let Some(body) = text.strip_prefix("eip_") else { return false };
    body.is_ascii()
        && body.len() == 8 + 1 + 64 + 8
        && body.split_at(body.len() - 8).1 == checksum(&body[..body.len() - 8])
}

fn checksum(body: &str) -> String {
    hex(&Sha256::digest(body.as_bytes())[..4])
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// The keys that were found good a moment ago.
#[derive(Debug)]
pub(crate) struct KeyRing {
    good: Mutex<HashMap<[u8; 32], (ApiKeyRecord, Instant)>>,
    /// The keys that were looked up since that was last written down, and when.
    used: Mutex<HashMap<KeyId, Timestamp>>,
}

impl KeyRing {
    pub(crate) fn new() -> Self {
        Self { good: Mutex::default(), used: Mutex::default() }
    }

    /// Finds the record of the key that a caller presented.
    ///
    /// Looked up by the SHA-256 of all of it: with 256 random bits a faster hash gives nothing away
    /// and a slower one only makes floods cheaper.
    pub(crate) async fn recognise(
        &self,
        presented: &str,
        repository: &dyn Repository,
        now: Timestamp,
    ) -> Result<ApiKeyRecord, Error> {
        let digest: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        if let Some(record) = self.remembered(&digest) {
            return Ok(record);
        }
        let found = repository.find_api_key(&digest).await.map_err(Error::Store)?;
        let Some(record) = found.filter(|record| record.digest.ct_eq(&digest).into()) else {
            let detail = if !well_formed(presented) {
                "the API key is malformed: a part of it is missing or mistyped"
            } else {
                "the API key is unknown"
            };
            return Err(Error::Unauthenticated { detail });
        };
        if record.revoked_at.is_some() {
            return Err(Error::Unauthenticated { detail: "the API key was revoked" });
        }
        if record.expires_at.is_some_and(|end| end <= now) {
            return Err(Error::Unauthenticated { detail: "the API key has expired" });
        }
        self.remember(digest, &record);
        // A key in use is looked up every second.
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(record.id.clone(), now);
        Ok(record)
    }

    /// Returns which keys were used since the last call, and when.
    pub(crate) fn used(&self) -> Vec<(KeyId, Timestamp)> {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        used.into_iter().collect()
    }

    /// Has a key looked up again.
    pub(crate) fn forget(&self, id: &KeyId) {
        let mut ring = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        ring.retain(|_, (record, _)| record.id != *id);
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<ApiKeyRecord> {
        let ring = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        ring.get(digest).filter(|(_, seen)| seen.elapsed() < TRUST).map(|(one, _)| one.clone())
    }

    fn remember(&self, digest: [u8; 32], record: &ApiKeyRecord) {
        let mut ring = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= REMEMBERED {
            ring.retain(|_, (_, seen)| seen.elapsed() < TRUST);
        }
        if ring.len() < REMEMBERED {
            ring.insert(digest, (record.clone(), Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_key_is_well_formed_and_a_typo_is_seen() {
        let key = ApiKey::generate();
        assert!(well_formed(key.expose()));
        let mut typo = key.expose().to_owned();
        let last = typo.pop().unwrap();
        typo.push(if last == '0' { '1' } else { '0' });
        assert!(!well_formed(&typo));
        assert_eq!(key.id().as_str().len(), 8);
    }

    #[test]
    fn a_key_never_shows_its_secret() {
        let key = ApiKey::generate();
        let shown = format!("{key:?}");
        assert!(shown.len() < 20, "{shown}");
    }

    #[test]
    fn a_chosen_key_is_named_by_its_digest_and_a_guessable_one_is_refused() {
        let key = ApiKey::chosen("correct-horse").unwrap();
        assert_eq!(key.id().as_str().len(), 8);
        assert_eq!(ApiKey::chosen("short").unwrap_err(), InvalidApiKey);
        assert_eq!(ApiKey::chosen("two words here").unwrap_err(), InvalidApiKey);
    }
}

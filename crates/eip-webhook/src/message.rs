//! What is sent: an event, its headers and its signatures.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use eip_model::{Event, SigningSecret, WebhookMessage};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;

/// Returns a secret as the libraries of Standard Webhooks take it: `whsec_` and Base64.
#[must_use]
pub fn shown(secret: &SigningSecret) -> String {
    format!("whsec_{}", STANDARD.encode(secret.expose()))
}

/// An event as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `webhook-id`: the same however often the event is sent, so that whoever gets it twice can tell.
    pub id: String,
    pub body: String,
}

impl Message {
    /// The time is part of the id: a record that was restored from a copy numbers its events anew from
    /// there on.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        let id = format!("msg_{}_{:x}", event.id, event.at.as_microsecond());
        let message = WebhookMessage { kind: event.kind, timestamp: event.at, data: event.clone() };
        Self { id, body: serde_json::to_string(&message).unwrap_or_default() }
    }

    /// Returns the `webhook-signature` of an attempt at `now`: one for each secret.
    #[must_use]
    pub fn signatures(&self, secrets: &[&SigningSecret], now: Timestamp) -> String {
        let signed = format!("{}.{}.{}", self.id, now.as_second(), self.body);
        let sign = |secret: &&SigningSecret| {
            // Any length of key will do (RFC 2104, section 2).
            let mac = Hmac::<Sha256>::new_from_slice(secret.expose()).ok()?;
            let signature = mac.chain_update(signed.as_bytes()).finalize().into_bytes();
            Some(format!("v1,{}", STANDARD.encode(signature)))
        };
        secrets.iter().filter_map(sign).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification, as its libraries test it.
    #[test]
    fn a_message_is_signed_as_the_specification_has_it() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let message = Message {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned(),
            body: r#"{"test": 2432232314}"#.to_owned(),
        };
        let signed = format!("{}.1614265330.{}", message.id, message.body);
        let mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
        let signature = mac.chain_update(signed.as_bytes()).finalize().into_bytes();
        let expected = "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(STANDARD.encode(signature), expected);
        // The same by way of our own, with a secret of 32 bytes.
        let mut padded = [0; 32];
        padded[..24].copy_from_slice(&secret);
        // A key that is shorter than a block is filled up with zeros (RFC 2104, section 2).
        let at = Timestamp::from_second(1_614_265_330).unwrap();
        assert_eq!(
            message.signatures(&[&SigningSecret::new(padded)], at),
            format!("v1,{expected}")
        );
    }

    #[test]
    fn every_secret_that_is_good_signs() {
        let message = Message { id: "msg_1".to_owned(), body: "{}".to_owned() };
        let (one, other) = (SigningSecret::new([1; 32]), SigningSecret::new([2; 32]));
        let both = message.signatures(&[&one, &other], Timestamp::UNIX_EPOCH);
        let alone = |secret| message.signatures(&[secret], Timestamp::UNIX_EPOCH);
        assert_eq!(both, format!("{} {}", alone(&one), alone(&other)));
        assert_ne!(alone(&one), alone(&other));
        assert!(shown(&one).starts_with("whsec_AQEB"));
    }
}

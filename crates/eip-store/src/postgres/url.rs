//! The parameters of the URL which the driver does not know.

use percent_encoding::percent_decode_str;

use super::tls::{Mode, Roots, Wanted};
use crate::open::OpenError;

/// What the URL says to us, and what is left of it for the driver.
#[derive(Debug)]
pub(super) struct Ours {
    pub(super) url: String,
    pub(super) bouncer: bool,
    pub(super) tls: Wanted,
}

impl Ours {
    pub(super) fn taken_out(url: &str) -> Result<Self, OpenError> {
        let (place, query) = parts(url);
        let mut ours = Self { url: place.to_owned(), bouncer: false, tls: Wanted::default() };
        let mut left = '?';
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            if !ours.take(pair)? {
                ours.url.push(left);
                ours.url.push_str(pair);
                left = '&';
            }
        }
        Ok(ours)
    }

    /// Whether it was for us.
    fn take(&mut self, pair: &str) -> Result<bool, OpenError> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value).decode_utf8_lossy();
        match name {
            "pgbouncer" => self.bouncer = truth("pgbouncer", &value)?,
            "sslmode" => self.tls.mode = Some(mode(&value)?),
            "sslrootcert" if value == "system" => self.tls.roots = Some(Roots::System),
            "sslrootcert" => self.tls.roots = Some(Roots::File(value.as_ref().into())),
            "sslcert" => self.tls.certificate = Some(value.as_ref().into()),
            "sslkey" => self.tls.key = Some(value.as_ref().into()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Splits before the parameters. A password may hold a question mark.
fn parts(url: &str) -> (&str, &str) {
    let behind_user = url.find('@').map_or(0, |at| at + 1);
    match url[behind_user..].find('?') {
        Some(at) => (&url[..behind_user + at], &url[behind_user + at + 1..]),
        None => (url, ""),
    }
}

fn truth(name: &'static str, value: &str) -> Result<bool, OpenError> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(not_understood(name, other, "true or false")),
    }
}

fn mode(value: &str) -> Result<Mode, OpenError> {
    let accepted = "disable, prefer, require, verify-ca or verify-full";
    let known = Mode::ALL.into_iter().find(|mode| mode.as_str() == value);
    known.ok_or_else(|| not_understood("sslmode", value, accepted))
}

fn not_understood(name: &'static str, value: &str, accepted: &'static str) -> OpenError {
    OpenError::InvalidParameter { name, value: value.to_owned(), accepted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_does_not_know_is_taken_out_of_the_url() {
        let url = "postgres://eip:wh?@db/eip?pgbouncer=true&user=a&sslmode=verify-ca\
                   &sslrootcert=%2Fetc%2Fa%20b.crt&port=1";
        let ours = Ours::taken_out(url).unwrap();
        assert_eq!(ours.url, "postgres://eip:wh?@db/eip?user=a&port=1");
        assert!(ours.bouncer);
        assert_eq!(ours.tls.mode, Some(Mode::VerifyCa));
        assert_eq!(ours.tls.roots, Some(Roots::File("/etc/a b.crt".into())));
        assert_eq!(Ours::taken_out("postgres:///e?pgbouncer=false").unwrap().url, "postgres:///e");
    }

    #[test]
    fn what_is_not_understood_is_told_with_what_is() {
        for (wrong, accepted) in
            [("pgbouncer=1", "true or false"), ("sslmode=allow", "verify-full")]
        {
            let error = Ours::taken_out(&format!("postgres:///eip?{wrong}")).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(wrong) && error.contains(accepted), "{error}");
        }
    }
}

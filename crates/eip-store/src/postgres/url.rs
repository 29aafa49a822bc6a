//! The parameters of the URL which the driver does not know.

use crate::open::OpenError;

/// What the URL says to us, and what is left of it for the driver.
#[derive(Debug)]
pub(super) struct Ours {
    pub(super) url: String,
    pub(super) bouncer: bool,
}

impl Ours {
    pub(super) fn taken_out(url: &str) -> Result<Self, OpenError> {
        let (place, query) = parts(url);
        let mut ours = Self { url: String::new(), bouncer: false };
        let mut left = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("pgbouncer", value)) => ours.bouncer = truth("pgbouncer", value)?,
                Some(_) | None => left.push(pair),
            }
        }
        ours.url = place.to_owned();
        if !left.is_empty() {
            ours.url.push('?');
            ours.url.push_str(&left.join("&"));
        }
        Ok(ours)
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
        other => {
            let accepted = "true or false";
            Err(OpenError::InvalidParameter { name, value: other.to_owned(), accepted })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_does_not_know_is_taken_out_of_the_url() {
        let ours = Ours::taken_out("postgres://eip:wh?@db/eip?pgbouncer=true&sslmode=disable");
        let ours = ours.unwrap();
        assert_eq!(ours.url, "postgres://eip:wh?@db/eip?sslmode=disable");
        assert!(ours.bouncer);
        assert_eq!(
            Ours::taken_out("postgres:///eip?pgbouncer=false").unwrap().url,
            "postgres:///eip"
        );
        let error = Ours::taken_out("postgres:///eip?pgbouncer=1").unwrap_err().to_string();
        assert!(error.contains("pgbouncer=1") && error.contains("true or false"), "{error}");
    }
}

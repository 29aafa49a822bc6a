//! Names that people choose, checked once where they come in.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The text cannot be used as this kind of name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" cannot be {kind}: use {rule}")]
pub struct InvalidName {
    pub text: String,
    pub kind: &'static str,
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidName { text: shorten(text), kind: $kind, rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A project: the tenant that owns elastic IPs, keys and quotas.
    ProjectName, "the name of a project",
    "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit",
    is_slug
);
name!(
    /// A pool of addresses.
    PoolName, "the name of a pool",
    "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit",
    is_slug
);
name!(
    /// A machine with an agent, as it calls itself (usually its hostname).
    HostName, "the name of a host",
    "1 to 253 of A-Z, a-z, 0-9, . _ and -, beginning with a letter or digit",
    is_host_name
);
name!(
    /// What a person calls an elastic IP: any text without control characters.
    Label, "a name",
    "1 to 255 characters without control characters, not a UUID and not an address",
    is_label
);

fn is_slug(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_host_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=253).contains(&text.len())
        && text.bytes().all(inner)
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

/// A name that reads as an id or an address would name two things at once.
fn is_label(text: &str) -> bool {
    (1..=255).contains(&text.chars().count())
        && !text.chars().any(char::is_control)
        && text.trim() == text
        && text.parse::<crate::ElasticIpRef>().is_err()
}

/// Keeps an error message readable when the caller sent a novel.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Up to 50 pairs of text that people hang on an elastic IP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Tags(BTreeMap<String, String>);

impl Tags {
    #[must_use]
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// The tags are too many, or one is too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "tags are at most 50 pairs of text, keys of 1 to 128 and values of up to 256 characters without control characters; {0}"
)]
pub struct TagsError(String);

impl TryFrom<BTreeMap<String, String>> for Tags {
    type Error = TagsError;

    fn try_from(map: BTreeMap<String, String>) -> Result<Self, TagsError> {
        if map.len() > 50 {
            return Err(TagsError(format!("these are {}", map.len())));
        }
        let clean = |text: &str| !text.chars().any(char::is_control);
        for (key, value) in &map {
            if !(1..=128).contains(&key.chars().count()) || !clean(key) {
                return Err(TagsError(format!("the key \"{}\" is not one", shorten(key))));
            }
            if value.chars().count() > 256 || !clean(value) {
                return Err(TagsError(format!("the value of \"{key}\" is not one")));
            }
        }
        Ok(Self(map))
    }
}

impl From<Tags> for BTreeMap<String, String> {
    fn from(tags: Tags) -> Self {
        tags.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_named_like_a_dns_label() {
        assert!("team-a1".parse::<ProjectName>().is_ok());
        for wrong in ["", "-a", "a-", "A", "a.b", "ä", &"a".repeat(64)] {
            assert!(wrong.parse::<ProjectName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_label_never_reads_as_an_id_or_an_address() {
        assert!("mail (old)".parse::<Label>().is_ok());
        for wrong in ["", " a", "a\nb", "100.64.0.1", "f47ac10b-58cc-4372-a567-0e02c7d2e3f4"] {
            assert!(wrong.parse::<Label>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn too_many_or_too_long_tags_are_refused() {
        let tags = |n: usize| -> BTreeMap<String, String> {
            (0..n).map(|i| (format!("k{i}"), String::new())).collect()
        };
        assert!(Tags::try_from(tags(50)).is_ok());
        assert!(Tags::try_from(tags(51)).is_err());
        let one = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert!(Tags::try_from(one("", "x")).is_err());
        assert!(Tags::try_from(one("k", &"x".repeat(257))).is_err());
    }
}

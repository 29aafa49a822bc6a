//! Names that people choose, checked once where they come in.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// The text cannot be used as this kind of name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" cannot be {kind}: use {rule}")]
pub struct InvalidName {
    pub text: String,
    pub kind: &'static str,
    pub rule: &'static str,
}

macro_rules! name {
    (
        $(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr,
        $longest:literal, $pattern:expr, $example:literal
    ) => {
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

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String);
                let text = text.min_length(Some(1)).max_length(Some($longest));
                let text = text.pattern(Some($pattern)).examples([$example]);
                text.description(Some(concat!("Of ", $rule, "."))).into()
            }
        }

        impl ToSchema for $name {}

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// What [`is_slug`] takes, as a regular expression of ECMA-262.
const SLUG: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";

/// What [`is_label`] takes: `x00`-`x1f` and `x7f`-`x9f` are the control characters, the others of
/// the first and the last class are Unicode's white space.
const LABEL: &str = concat!(
    r"^(?!(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}",
    r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$)",
    r"(?![0-9A-Fa-f]{32}$)",
    r"(?!(?:[Uu][Rr][Nn]:[Uu][Uu][Ii][Dd]:)?[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$)",
    r"(?!\{[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}$)",
    r"[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
    r"(?:[^\x00-\x1f\x7f-\x9f]*",
    r"[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000])?$",
);

/// Text without control characters.
const PRINTABLE: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";

name!(
    /// A project: the tenant that owns elastic IPs, keys and quotas.
    ProjectName, "the name of a project",
    "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit",
    is_slug, 63, SLUG, "acme"
);
name!(
    /// A pool of addresses.
    PoolName, "the name of a pool",
    "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit",
    is_slug, 63, SLUG, "edge"
);
name!(
    /// A machine with an agent, as it calls itself (usually its hostname).
    HostName, "the name of a host",
    "1 to 253 of A-Z, a-z, 0-9, . _ and -, beginning with a letter or digit",
    is_host_name, 253, "^[A-Za-z0-9][A-Za-z0-9._-]*$", "hv1"
);
name!(
    /// What a person calls an elastic IP: any text without control characters.
    Label, "a name",
    "1 to 255 characters without control characters or space around them, not a UUID and not an address",
    is_label, 255, LABEL, "web"
);

/// A label, or nothing: `null`, or an empty text.
pub(crate) fn label_or_nothing() -> Schema {
    let nothing = ObjectBuilder::new().schema_type(Type::String).max_length(Some(0));
    let null = ObjectBuilder::new().schema_type(Type::Null);
    let label = Ref::from_schema_name("Label");
    Schema::OneOf(OneOfBuilder::new().item(null).item(nothing).item(label).build())
}

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

impl PartialSchema for Tags {
    fn schema() -> RefOr<Schema> {
        let text = |shortest, longest| {
            let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(PRINTABLE));
            text.min_length(shortest).max_length(Some(longest)).build()
        };
        let pairs = ObjectBuilder::new().property_names(Some(text(Some(1), 128)));
        let values = AdditionalProperties::RefOr(RefOr::T(Schema::Object(text(None, 256))));
        pairs.additional_properties(Some(values)).max_properties(Some(50)).into()
    }
}

impl ToSchema for Tags {}

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
    use proptest::prelude::*;

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

    /// Whether a text is what the schema of a name asks for.
    fn fits<T: ToSchema>(text: &str) -> bool {
        let RefOr::T(Schema::Object(schema)) = T::schema() else { panic!("no schema of its own") };
        let (shortest, longest) = (schema.min_length.unwrap(), schema.max_length.unwrap());
        let pattern = fancy_regex::Regex::new(&schema.pattern.unwrap()).unwrap();
        let length = text.chars().count();
        (shortest..=longest).contains(&length) && pattern.is_match(text).unwrap()
    }

    fn schema_and_code_agree(text: &str) {
        assert_eq!(fits::<ProjectName>(text), text.parse::<ProjectName>().is_ok(), "{text:?}");
        assert_eq!(fits::<PoolName>(text), text.parse::<PoolName>().is_ok(), "{text:?}");
        assert_eq!(fits::<HostName>(text), text.parse::<HostName>().is_ok(), "{text:?}");
        assert_eq!(fits::<Label>(text), text.parse::<Label>().is_ok(), "{text:?}");
    }

    #[test]
    fn the_schema_of_a_name_takes_what_the_code_takes() {
        let id = "f47ac10b-58cc-4372-a567-0e02c7d2e3f4";
        let (plain, braced) = (id.replace('-', ""), format!("{{{id}}}"));
        let ids = [id, &plain, &braced, &format!("urn:uuid:{id}"), &format!("urn:uuid:{plain}")];
        for one in ids {
            schema_and_code_agree(one);
            schema_and_code_agree(&one.to_uppercase());
            schema_and_code_agree(&one[1..]);
        }
        for address in ["1.2.3.4", "255.255.255.255", "256.1.1.1", "01.2.3.4", "1.2.3", "1.2.3.4."]
        {
            schema_and_code_agree(address);
        }
        for space in ('\0'..='\u{3100}').filter(|c| c.is_whitespace() || c.is_control()) {
            for text in [format!("{space}a"), format!("a{space}b"), format!("a{space}")] {
                schema_and_code_agree(&text);
            }
        }
        for length in [62, 63, 64, 253, 254, 255, 256] {
            schema_and_code_agree(&"a".repeat(length));
            schema_and_code_agree(&"ä".repeat(length));
        }
    }

    proptest! {
        #[test]
        fn the_schema_of_a_name_takes_what_the_code_takes_whatever_it_is(
            any in "\\PC{0,9}", name in "[a-zA-Z0-9._-]{0,9}", number in "[0-9a-f.{}-]{0,40}",
        ) {
            for text in [any, name, number] {
                schema_and_code_agree(&text);
            }
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

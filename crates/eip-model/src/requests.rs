//! The bodies that callers send.
//!
//! A field that is not known is refused: a misspelt `allow_reassociation` that is silently ignored
//! would do something else than what was asked.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::elastic_ip::ElasticIp;
use crate::key::KeyId;
use crate::mode::Mode;
use crate::names::{HostName, Label, PoolName, ProjectName, Tags, label_or_nothing};
use crate::problem::Problem;

/// `POST /elastic-ips`. Everything is optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AllocateRequest {
    /// This very address, if it is free or the caller's own in quarantine.
    #[schema(value_type = Option<String>, format = "ipv4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Label>,
    pub tags: Tags,
    /// Whether its release is refused until the protection is taken away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
}

/// `POST /elastic-ips/{id}/associate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssociateRequest {
    /// The instance's UUID, its unique name, or `docker:name`, `libvirt:name`, `sandbox:name`.
    #[schema(example = "web-1", pattern = r"^[^\x00]*$")]
    pub instance_id: String,
    /// Take the elastic IP from the instance that has it now, in one step.
    #[serde(default)]
    pub allow_reassociation: bool,
    /// How it is to reach the instance; by default as its pool says, and where it is associated with
    /// this instance already, as it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Which of the instance's networks it is to lead to; `null` for the instance's first choice. Left
    /// out, the one that it leads to where it is associated with this instance already.
    #[serde(default, deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = r"^[^\x00]*$")]
    pub network: Option<Option<String>>,
    /// How long to wait for the host, in seconds: 0 to 60, by default 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 60)]
    pub wait_seconds: Option<i64>,
}

/// How many elastic IPs one request may associate.
pub const MOST_AT_ONCE: usize = 1_000;

/// `POST /elastic-ips/associate`: many at once, each for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssociateManyRequest {
    /// 1 to 1,000.
    #[schema(min_items = 1, max_items = 1000)]
    pub associations: Vec<AssociateOne>,
    /// Take elastic IPs from the instances that have them now.
    #[serde(default)]
    pub allow_reassociation: bool,
    /// How long to wait for the hosts, in seconds: 0 to 60, by default 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 60)]
    pub wait_seconds: Option<i64>,
}

/// One of many: which elastic IP, and the instance that it is to reach. One that cannot be read is refused alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssociateOne {
    /// Its id or its address.
    #[schema(example = "100.64.12.15")]
    pub elastic_ip: String,
    /// As in `POST /elastic-ips/{id}/associate`.
    #[schema(example = "web-1")]
    pub instance_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    #[serde(default, deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub network: Option<Option<String>>,
}

/// What has become of each, in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssociatedMany {
    pub items: Vec<AssociatedOne>,
}

/// The elastic IP as it is then, or why it was not associated: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssociatedOne {
    pub elastic_ip: Option<ElasticIp>,
    pub problem: Option<Problem>,
}

/// `POST /elastic-ips/{id}/disassociate`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DisassociateRequest {
    /// How long to wait for the host, in seconds: 0 to 60, by default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 60)]
    pub wait_seconds: Option<i64>,
}

/// `PATCH /elastic-ips/{id}`: what is given is changed, what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateRequest {
    /// `null` or an empty text takes the name away.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = label_or_nothing)]
    pub name: Option<Option<Label>>,
    /// All tags; the old ones go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Tags>,
    /// Whether its release is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
}

/// `POST /api-keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKeyRequest {
    /// `admin`, `member` and `reader` are of a project, `agent` is of a host.
    #[schema(example = "member", pattern = "^(admin|member|reader|agent)$")]
    pub role: String,
    /// By default the caller's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Label>,
    /// From when on it is no good any more; without, it is good until it is revoked.
    #[schema(value_type = Option<String>, format = "date-time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A key that was just made. It is shown this once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    #[schema(value_type = String)]
    pub id: KeyId,
    pub role: String,
    pub project: Option<ProjectName>,
    pub host: Option<HostName>,
    #[serde(default)]
    pub name: Option<Label>,
    #[schema(value_type = Option<String>, format = "date-time")]
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    pub key: String,
}

/// Tells a field that is `null` from one that is left out.
fn given<'de, D>(deserializer: D) -> Result<Option<Option<Label>>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let text = Option::<String>::deserialize(deserializer)?;
    let label = text
        .filter(|text| !text.is_empty())
        .map(|text| text.parse::<Label>().map_err(serde::de::Error::custom))
        .transpose()?;
    Ok(Some(label))
}

/// Tells a text that is `null` from one that is left out.
fn said<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_field_is_refused_by_name() {
        let text = r#"{"instance_id": "web", "allow_reasociation": true}"#;
        let error = serde_json::from_str::<AssociateRequest>(text).unwrap_err();
        assert!(error.to_string().contains("allow_reasociation"));
    }

    #[test]
    fn a_network_that_is_null_is_another_wish_than_none() {
        let read = |more: &str| {
            let text = format!(r#"{{"instance_id": "web"{more}}}"#);
            let request = serde_json::from_str::<AssociateRequest>(&text).unwrap();
            assert_eq!(
                serde_json::to_value(&request).unwrap().get("network").is_some(),
                !more.is_empty()
            );
            request.network
        };
        assert_eq!(read(""), None);
        assert_eq!(read(r#", "network": null"#), Some(None));
        assert_eq!(read(r#", "network": "back""#), Some(Some("back".to_owned())));
    }

    #[test]
    fn a_name_that_is_null_goes_and_one_left_out_stays() {
        let read = |text| serde_json::from_str::<UpdateRequest>(text).unwrap().name;
        assert_eq!(read("{}"), None);
        assert_eq!(read(r#"{"name": null}"#), Some(None));
        assert_eq!(read(r#"{"name": ""}"#), Some(None));
        assert_eq!(read(r#"{"name": "web"}"#), Some(Some("web".parse().unwrap())));
    }
}

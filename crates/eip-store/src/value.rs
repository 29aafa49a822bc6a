//! What goes into a statement, whatever the database.

use std::net::Ipv4Addr;

use eip_model::{
    ElasticIpId, Generation, HostName, InstanceId, KeyId, Label, PoolName, ProjectName,
};
use jiff::Timestamp;
use uuid::Uuid;

/// One parameter of a statement.
#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    Int(Option<i64>),
    Bool(bool),
    Text(Option<&'a str>),
    Uuid(Option<Uuid>),
    Bytes(&'a [u8]),
    Time(Option<Timestamp>),
    Json(Option<serde_json::Value>),
}

/// Writes the parameters of a statement, each as it is.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::value::Value::from($value)),*] };
}
pub(crate) use values;

macro_rules! from {
    ($($type:ty, $name:ident => $value:expr;)*) => {
        $(impl<'a> From<$type> for Value<'a> {
            fn from($name: $type) -> Self {
                $value
            }
        })*
    };
}

from! {
    i64, one => Self::Int(Some(one));
    u32, one => Self::Int(Some(i64::from(one)));
    Option<u32>, one => Self::Int(one.map(i64::from));
    bool, one => Self::Bool(one);
    &'a str, one => Self::Text(Some(one));
    Option<&'a str>, one => Self::Text(one);
    Uuid, one => Self::Uuid(Some(one));
    Option<Uuid>, one => Self::Uuid(one);
    &'a [u8], one => Self::Bytes(one);
    Timestamp, one => Self::Time(Some(one));
    Option<Timestamp>, one => Self::Time(one);
    serde_json::Value, one => Self::Json(Some(one));
    Option<serde_json::Value>, one => Self::Json(one);
    Ipv4Addr, one => Self::Int(Some(i64::from(one.to_bits())));
    Option<Ipv4Addr>, one => Self::Int(one.map(|one| i64::from(one.to_bits())));
    ElasticIpId, one => Self::Uuid(Some(one.uuid()));
    InstanceId, one => Self::Uuid(Some(one.uuid()));
    Option<InstanceId>, one => Self::Uuid(one.map(InstanceId::uuid));
    // No record comes near the end of i64, but a report may say anything.
    Generation, one => Self::Int(Some(i64::try_from(one.value()).unwrap_or(i64::MAX)));
    &'a HostName, one => Self::Text(Some(one.as_str()));
    Option<&'a HostName>, one => Self::Text(one.map(HostName::as_str));
    &'a ProjectName, one => Self::Text(Some(one.as_str()));
    Option<&'a ProjectName>, one => Self::Text(one.map(ProjectName::as_str));
    &'a PoolName, one => Self::Text(Some(one.as_str()));
    Option<&'a Label>, one => Self::Text(one.map(Label::as_str));
    &'a KeyId, one => Self::Text(Some(one.as_str()));
}

/// A statement that is put together from pieces: every `?` stands for the next parameter.
#[derive(Debug)]
pub(crate) struct Statement<'a> {
    pub(crate) text: String,
    pub(crate) values: Vec<Value<'a>>,
}

impl<'a> Statement<'a> {
    pub(crate) fn new(text: &str, values: &[Value<'a>]) -> Self {
        let mut statement = Self { text: String::with_capacity(1024), values: Vec::new() };
        statement.add(text, values);
        statement
    }

    pub(crate) fn add(&mut self, text: &str, values: &[Value<'a>]) {
        let mut number = self.values.len();
        for (at, piece) in text.split('?').enumerate() {
            if at > 0 {
                number += 1;
                self.text.push('$');
                self.text.push_str(&number.to_string());
            }
            self.text.push_str(piece);
        }
        self.values.extend_from_slice(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_of_a_statement_are_numbered_through() {
        let mut statement = Statement::new("SELECT 1 WHERE a = ?", values![1_i64]);
        statement.add(" AND b % ? = ?", values![2_i64, 3_i64]);
        assert_eq!(statement.text, "SELECT 1 WHERE a = $1 AND b % $2 = $3");
        assert_eq!(statement.values.len(), 3);
    }
}

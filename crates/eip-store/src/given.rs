//! Rows of parameters: what a statement is run for, all at once or one after the other.
//!
//! A statement names them where it says `{given}`, as a table `given` with the columns that were
//! given. PostgreSQL takes them all in one statement, as arrays; SQLite, to which a statement costs
//! next to nothing, runs it once for each row.

use std::net::Ipv4Addr;

use eip_model::{
    ElasticIpId, Generation, HostName, InstanceId, Label, PoolName, ProjectName, Tags,
};
use jiff::Timestamp;
use uuid::Uuid;

use crate::value::Value;

/// Where a statement stands for its rows.
pub(crate) const MARK: &str = "{given}";

/// One parameter of every row.
#[derive(Debug)]
pub(crate) enum List {
    Int(Vec<Option<i64>>),
    Bool(Vec<bool>),
    Text(Vec<Option<String>>),
    Uuid(Vec<Option<Uuid>>),
    Bytes(Vec<Vec<u8>>),
    Time(Vec<Option<Timestamp>>),
    Json(Vec<serde_json::Value>),
}

impl List {
    /// Returns what stands in one row.
    pub(crate) fn at(&self, row: usize) -> Value<'_> {
        match self {
            Self::Int(list) => Value::Int(list[row]),
            Self::Bool(list) => Value::Bool(list[row]),
            Self::Text(list) => Value::Text(list[row].as_deref()),
            Self::Uuid(list) => Value::Uuid(list[row]),
            Self::Bytes(list) => Value::Bytes(&list[row]),
            Self::Time(list) => Value::Time(list[row]),
            Self::Json(list) => Value::Json(Some(list[row].clone())),
        }
    }
}

/// The rows, column by column.
#[derive(Debug)]
pub(crate) struct Given {
    columns: Vec<(&'static str, List)>,
    rows: usize,
}

impl Given {
    /// A row for each of the items; what stands in it comes with [`Rows::with`].
    pub(crate) fn of<I>(items: &[I]) -> Rows<'_, I> {
        Rows { items, columns: Vec::new() }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(crate) fn columns(&self) -> &[(&'static str, List)] {
        &self.columns
    }
}

/// Rows that still get columns.
#[derive(Debug)]
pub(crate) struct Rows<'i, I> {
    items: &'i [I],
    columns: Vec<(&'static str, List)>,
}

impl<'i, I> Rows<'i, I> {
    pub(crate) fn with<C: Cell>(mut self, name: &'static str, cell: impl Fn(&'i I) -> C) -> Self {
        self.columns.push((name, C::list(self.items.iter().map(cell))));
        self
    }
}

impl<I> From<Rows<'_, I>> for Given {
    fn from(rows: Rows<'_, I>) -> Self {
        Self { rows: rows.items.len(), columns: rows.columns }
    }
}

/// What can stand in a row.
pub(crate) trait Cell: Sized {
    fn list(cells: impl Iterator<Item = Self>) -> List;
}

macro_rules! cells {
    ($($type:ty => $kind:ident, $cell:ident => $value:expr;)*) => {
        $(impl Cell for $type {
            fn list(cells: impl Iterator<Item = Self>) -> List {
                List::$kind(cells.map(|$cell| $value).collect())
            }
        })*
    };
}

cells! {
    i64 => Int, cell => Some(cell);
    u32 => Int, cell => Some(i64::from(cell));
    Ipv4Addr => Int, cell => Some(i64::from(cell.to_bits()));
    Option<Ipv4Addr> => Int, cell => cell.map(|address| i64::from(address.to_bits()));
    // No record comes near the end of i64, but a report may say anything.
    Generation => Int, cell => Some(i64::try_from(cell.value()).unwrap_or(i64::MAX));
    bool => Bool, cell => cell;
    &str => Text, cell => Some(cell.to_owned());
    String => Text, cell => Some(cell);
    Option<&str> => Text, cell => cell.map(str::to_owned);
    &HostName => Text, cell => Some(cell.as_str().to_owned());
    Option<&HostName> => Text, cell => cell.map(|name| name.as_str().to_owned());
    &ProjectName => Text, cell => Some(cell.as_str().to_owned());
    Option<&ProjectName> => Text, cell => cell.map(|name| name.as_str().to_owned());
    &PoolName => Text, cell => Some(cell.as_str().to_owned());
    Option<&Label> => Text, cell => cell.map(|name| name.as_str().to_owned());
    Uuid => Uuid, cell => Some(cell);
    ElasticIpId => Uuid, cell => Some(cell.uuid());
    Option<ElasticIpId> => Uuid, cell => cell.map(ElasticIpId::uuid);
    InstanceId => Uuid, cell => Some(cell.uuid());
    Option<InstanceId> => Uuid, cell => cell.map(InstanceId::uuid);
    &[u8] => Bytes, cell => cell.to_vec();
    Timestamp => Time, cell => Some(cell);
    Option<Timestamp> => Time, cell => cell;
    &Tags => Json, cell => pairs(cell);
    serde_json::Value => Json, cell => cell;
}

/// The tags as a JSON object of texts.
pub(crate) fn pairs(tags: &Tags) -> serde_json::Value {
    let pairs = tags.as_map().iter();
    pairs.map(|(key, value)| (key.clone(), serde_json::Value::from(value.as_str()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_a_row_and_every_row_has_every_column() {
        let items = [(1_i64, "one"), (2, "two")];
        let given = Given::from(Given::of(&items).with("n", |i| i.0).with("word", |i| i.1));
        assert_eq!((given.rows(), given.columns().len()), (2, 2));
        assert!(matches!(given.columns()[0].1.at(1), Value::Int(Some(2))));
        assert!(matches!(given.columns()[1].1.at(0), Value::Text(Some("one"))));
    }
}

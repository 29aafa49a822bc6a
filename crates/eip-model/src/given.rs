//! Fields of a body that are `null`, and those that are left out.

use serde::{Deserialize, Deserializer};

/// Reads a field that is there; with `default`, one that is left out is `None`.
pub(crate) fn given<'de, V, D>(deserializer: D) -> Result<Option<Option<V>>, D::Error>
where
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

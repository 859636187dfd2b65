//! Durations in settings: whole milliseconds, by `#[serde(with = "runtime::serde_ms")]` on a field that
//! is named `..._ms` by `rename`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// Reads milliseconds.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    u64::deserialize(from).map(Duration::from_millis)
}

/// Writes milliseconds.
pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

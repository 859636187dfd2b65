//! What can go wrong, and what callers are told of it.

use proto::error::v1::ErrorReason;
use runtime::{shards::ShardsError, status::ApiError};

use crate::store::StoreError;

/// Why the service does not start with this configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The list of replicas is none.
    #[error(transparent)]
    Replicas(#[from] ShardsError),
    /// A replica must know which one it is.
    #[error("name: {0:?} is not among the replicas")]
    Name(String),
}

/// Why the registry refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// A later process announces as this edge, and is there.
    #[error("a later epoch of this edge is there")]
    StaleEpoch,
    /// The edge has opened another stream since.
    #[error("the edge has a newer stream")]
    Replaced,
    /// A stream begins with a snapshot, and a snapshot that continues is continued.
    #[error("a snapshot was expected")]
    SnapshotExpected,
    /// The registry holds as many sessions, edges or watches as it may.
    #[error("the registry is full")]
    Full,
    /// The watcher does not read, or has a newer watch.
    #[error("the watch has ended")]
    WatchEnded,
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        use RegistryError as E;
        let text = error.to_string();
        match error {
            E::StaleEpoch => Self::field(ErrorReason::FieldOutOfRange, "epoch", text),
            E::SnapshotExpected => Self::field(ErrorReason::FieldRequired, "snapshot", text),
            E::Replaced | E::WatchEnded => Self::new(ErrorReason::SessionReplaced, text),
            E::Full => Self::new(ErrorReason::Overloaded, text),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::unavailable(&error)
    }
}

//! What presence keeps: when each user was last seen. Everything else is announced anew.
//!
//! Every adapter passes [`suite`].

use std::collections::HashMap;

use async_trait::async_trait;
use runtime::ids::UserId;

#[cfg(feature = "distributed")]
pub mod postgres;
pub mod sqlite;
pub mod suite;

/// Why the store did not do it; nothing was changed. The same call may work later.
#[derive(Debug, thiserror::Error)]
#[error("the store is not available: {0}")]
pub struct StoreError(pub String);

/// Where last-seen times live.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Notes when users were seen, in milliseconds since 1970. Of several times of one user the
    /// latest stays, whatever the order in which they come. All or nothing.
    async fn note_seen(&self, seen: Vec<(UserId, i64)>) -> Result<(), StoreError>;

    /// When these users were last seen. Users who never were are left out.
    async fn last_seen(&self, users: Vec<UserId>) -> Result<HashMap<UserId, i64>, StoreError>;
}

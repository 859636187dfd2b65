//! What this service keeps. Every adapter passes `suite`.
//!
//! A change that was answered survives a loss of power: a refresh token that is forgotten looks
//! stolen when it comes.

use std::time::Duration;

use async_trait::async_trait;
use runtime::ids::{DeviceId, UserId};

use crate::{
    model::{Account, Device, Fact, ProfileChange, RefreshState, User},
    rate::Quota,
};

#[cfg(feature = "distributed")]
pub mod postgres;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod suite;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// As much work waits as may; nothing was changed.
    #[error("the store is busy")]
    Busy,
    /// The store is away or failed; the change may have been made.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// Something in the store cannot be understood. Never goes away.
    #[error("the store holds something that cannot be read: {0}")]
    Corrupt(String),
}

/// What became of a new account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It is there, with its device.
    Yes,
    /// Another account has the name; nothing was changed.
    UsernameTaken,
}

/// What became of a device that logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoggedIn {
    /// It is there.
    Yes,
    /// The user has as many devices as may be; nothing was changed.
    TooManyDevices,
}

/// One run of the relay of the outbox: another process, and the same one after a restart, has
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayId(pub [u8; 16]);

impl RelayId {
    /// A new one.
    pub fn generate() -> Self {
        Self(rand::random())
    }
}

/// Accounts, devices, search terms and the outbox. All processes of the service share one.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Adds an account and its first device, both or neither.
    async fn create_account(&self, account: Account, device: Device)
    -> Result<Created, StoreError>;

    /// The account with this username.
    async fn account(&self, username: &str) -> Result<Option<Account>, StoreError>;

    /// The account with this username, and what all processes together have noted of failed log-ins
    /// of the name: the time in which all of it will have come back, by the store's clock. A store of
    /// one process notes nothing: that one counts by itself.
    async fn account_to_log_in(
        &self,
        username: &str,
    ) -> Result<(Option<Account>, Duration), StoreError>;

    /// Takes one from the budget that the name has in all processes together. Names may share one.
    async fn note_failed_log_in(&self, username: &str, quota: &Quota) -> Result<(), StoreError>;

    /// Gives all of it back.
    async fn clear_failed_log_ins(&self, username: &str) -> Result<(), StoreError>;

    /// Those of the users that exist, in the order of `user_ids`.
    async fn users(&self, user_ids: Vec<UserId>) -> Result<Vec<User>, StoreError>;

    /// Changes a user. The version grows if anything differs. `None`: there is no such user. A picture
    /// that differs puts [`crate::events::picture_changed`] into the outbox, both or neither;
    /// [`StoreError::Busy`] if about `facts_max` facts wait there.
    async fn update_user(
        &self,
        user_id: UserId,
        change: ProfileChange,
        facts_max: usize,
    ) -> Result<Option<User>, StoreError>;

    /// Up to `limit` users who are found by a prefix in the form of [`crate::search::normalise`],
    /// in the order of usernames, after the username `after`.
    async fn search(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<User>, StoreError>;

    /// Adds a device, or replaces the one with its id except for its creation. Devices whose tokens
    /// have expired at `now_unix_ms` go; those left are at most `devices_max` afterwards.
    async fn log_in_device(
        &self,
        device: Device,
        devices_max: usize,
        now_unix_ms: i64,
    ) -> Result<LoggedIn, StoreError>;

    /// One device.
    async fn device(
        &self,
        user_id: UserId,
        device_id: DeviceId,
    ) -> Result<Option<Device>, StoreError>;

    /// The devices of a user whose tokens have not expired, the newest first.
    async fn devices(&self, user_id: UserId, now_unix_ms: i64) -> Result<Vec<Device>, StoreError>;

    /// Changes the tokens of a device that is still at `revision`; answers whether it was.
    async fn put_refresh(
        &self,
        user_id: UserId,
        device_id: DeviceId,
        revision: u64,
        refresh: RefreshState,
    ) -> Result<bool, StoreError>;

    /// Removes a device (if `revision` is given: only if it is still at that) and puts `fact` into
    /// the outbox, both or neither. Answers whether the device was there; [`StoreError::Busy`] if
    /// about `facts_max` facts wait (counted from the first number to the last).
    async fn log_out_device(
        &self,
        user_id: UserId,
        device_id: DeviceId,
        revision: Option<u64>,
        fact: Vec<u8>,
        facts_max: usize,
    ) -> Result<bool, StoreError>;

    /// Makes `holder` the one that relays the outbox, if nobody is, or lets it go on. Answers whether
    /// it is: then for half of `life` from the beginning of the call at least, by the store's clock;
    /// after `life` without another call it is nobody. All processes name the same `life`.
    async fn hold_relay(&self, holder: RelayId, life: Duration) -> Result<bool, StoreError>;

    /// Ends that early.
    async fn release_relay(&self, holder: RelayId) -> Result<(), StoreError>;

    /// The first facts of the outbox, at most `limit`, in their order. A fact of a user is never seen
    /// here before one that became true earlier.
    async fn facts(&self, limit: usize) -> Result<Vec<Fact>, StoreError>;

    /// Removes the facts with these ids: the log holds them.
    async fn remove_facts(&self, ids: Vec<i64>) -> Result<(), StoreError>;
}

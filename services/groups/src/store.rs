//! What groups keeps.

use async_trait::async_trait;
use runtime::ids::GroupId;

use crate::model::{Sequenced, Stint};

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is away or overloaded; the same call may work later. A write may have taken effect all
    /// the same: by its contract, that changes nothing.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The store follows another log than the reader. Never goes away.
    #[error("the store follows another log: it has {stored}, the log is {actual}")]
    OtherLog {
        /// What the store recorded first.
        stored: String,
        /// What the reader reads.
        actual: String,
    },
    /// The stored position of a reader is below what it has saved before: the store went back. The
    /// reader must start again from the stored position.
    #[error("the store has a position below the one that was saved")]
    PositionBelowSaved,
    /// Something in the store cannot be understood. Never goes away.
    #[error("the store holds something that cannot be read: {0}")]
    Corrupt(String),
}

/// A reader of one partition, whose position the store keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderId {
    /// The role, such as `fanout`.
    pub reader: &'static str,
    /// The topic's name.
    pub topic: &'static str,
    /// The partition.
    pub partition: u32,
}

/// The log that a reader follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIdentity {
    /// See `event_log::TopicIdentity`.
    pub log_id: String,
    /// See `event_log::TopicIdentity`.
    pub topic_id: String,
    /// See `event_log::TopicIdentity`.
    pub partitions: u32,
}

/// How far a reader has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionAdvance {
    /// Which.
    pub reader: ReaderId,
    /// What the store answered, or was told, last.
    pub from: u64,
    /// Everything below is durable.
    pub to: u64,
}

/// What the fan-out needs of the store.
#[async_trait]
pub trait FanoutStore: Send + Sync + 'static {
    /// The stints of a group: all that last, and those that ended and were not forgotten. Empty if there
    /// is no such group.
    async fn stints(&self, group: GroupId) -> Result<Vec<Stint>, StoreError>;

    /// The log has carried out these changes: notes where, and takes them out of the outbox. May come
    /// again.
    async fn note_sequenced(&self, changes: Vec<Sequenced>) -> Result<(), StoreError>;

    /// Nothing is to be fanned out any more to the members of earlier versions of these groups than
    /// these: forgets the stints that ended at or before them.
    async fn forget_stints(&self, groups: Vec<(GroupId, u64)>) -> Result<(), StoreError>;

    /// Claims the reader for this log and answers its position: the offset of the first record whose
    /// outputs are not known to be durable; 0 at first. Records the log's identity on the first call;
    /// fails with `OtherLog` if it is not the recorded one.
    async fn open_reader(&self, reader: ReaderId, log: LogIdentity) -> Result<u64, StoreError>;

    /// Raises the position of a reader that was opened (never lowers it). Call it only when everything
    /// below is durable (I6). Fails with `PositionBelowSaved` if the stored position is below `from`.
    async fn save_position(&self, advance: PositionAdvance) -> Result<(), StoreError>;

    /// Makes everything answered before survive a loss of power, and answers then.
    async fn sync(&self) -> Result<(), StoreError>;
}

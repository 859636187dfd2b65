//! How far readers of the log have got, as a service's store keeps it beside what they have written, so
//! that both change in one transaction.
//!
//! Each service's migrations make the two tables, `readers` and `reader_positions`, since what a
//! migration has made never changes; the statements are here, once for each adapter.

#[cfg(feature = "distributed")]
pub mod postgres;
pub mod sqlite;

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

impl LogIdentity {
    fn in_words(&self) -> String {
        let Self {
            log_id,
            topic_id,
            partitions,
        } = self;
        format!("log {log_id}, topic {topic_id} of {partitions} partitions")
    }

    /// Refuses any log but the one that a store has recorded.
    fn check(&self, stored: &Self) -> Result<(), PositionError> {
        if stored == self {
            return Ok(());
        }
        Err(PositionError::OtherLog {
            stored: stored.in_words(),
            actual: self.in_words(),
        })
    }
}

/// How far a reader has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionAdvance {
    /// Which.
    pub reader: ReaderId,
    /// What the store answered, or was told, last.
    pub from: u64,
    /// Everything below is dealt with.
    pub to: u64,
}

/// Why a position is not answered, or not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// The store follows another log than the reader. Never goes away.
    #[error("the store follows another log: it has {stored}, the log is {actual}")]
    OtherLog {
        /// What the store recorded first.
        stored: String,
        /// What the reader reads.
        actual: String,
    },
    /// The stored position is below what was saved before: the store went back. The reader must start
    /// again from the stored position.
    #[error("the store has a position below the one that was saved")]
    BelowSaved,
    /// A number that a column cannot hold, or that no program of ours has put there.
    #[error("the position {0} is out of its range")]
    OutOfRange(i128),
}

fn to_column(position: u64) -> Result<i64, PositionError> {
    i64::try_from(position).map_err(|_| PositionError::OutOfRange(position.into()))
}

fn from_column<T: TryFrom<i64>>(column: i64) -> Result<T, PositionError> {
    T::try_from(column).map_err(|_| PositionError::OutOfRange(column.into()))
}

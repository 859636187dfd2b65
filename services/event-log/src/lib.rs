//! The event log: the port that everything else is computed from, and its adapters.
//!
//! A log has topics, a topic has partitions, a partition is a sequence of records at growing
//! offsets. A record is durable before its append is answered (I1). Who reads keeps its own
//! position, in its own store, and hands the log a hint of it (I6).

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

pub mod embedded;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod partitioner;
#[cfg(test)]
pub mod suite;

/// A topic of the log. Closed: each has one meaning, documented in `log.proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "kafka", derive(serde::Deserialize))]
#[cfg_attr(feature = "kafka", serde(rename_all = "snake_case"))]
pub enum Topic {
    /// Key = conversation id: what members want to happen in a conversation.
    Messages,
    /// Key = conversation id: events that are to reach the members of a group.
    Fanout,
    /// Key = user id: rows of conversation lists that have changed.
    Inbox,
    /// Key = user id: events that no device of the user has received.
    Offline,
    /// Key = user id: facts about accounts.
    Users,
    /// Key = conversation id: what refers to blobs. Has as many partitions as `Messages`.
    References,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 6] = [
        Self::Messages,
        Self::Fanout,
        Self::Inbox,
        Self::Offline,
        Self::Users,
        Self::References,
    ];

    /// Its name in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Fanout => "fanout",
            Self::Inbox => "inbox",
            Self::Offline => "offline",
            Self::Users => "users",
            Self::References => "references",
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which log a topic belongs to. A store that follows one refuses to follow another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicIdentity {
    /// The cluster (Kafka) or the file (embedded): made once, never changed.
    pub log_id: String,
    /// The topic: a topic that was deleted and made again has another one.
    pub topic_id: String,
    /// Fixed when the topic is made.
    pub partitions: u32,
}

/// A record to append.
#[derive(Debug, Clone, Default)]
pub struct NewRecord {
    /// Decides the partition: records of one key keep the order of their appends.
    pub key: Bytes,
    /// At most [`PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
    /// Metadata that no outcome may depend on, such as a trace context. Usually empty.
    pub headers: Vec<(String, Bytes)>,
}

/// Largest payload. A message has below 4 KiB; the rest is room for coalesced marks.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// Largest key and headers together. Keys are ids of below 100 bytes, headers a trace context.
pub const KEY_AND_HEADERS_BYTES_MAX: usize = 16 * 1024;

/// A record of the log. Its bytes may share memory with the records around it: copy what is kept
/// for longer than it takes to deal with the record.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its place in the partition; grows, perhaps with gaps.
    pub offset: u64,
    /// When the log took it, by the log's clock. May go back; never decides anything.
    pub time_unix_ms: i64,
    /// As appended.
    pub key: Bytes,
    /// As appended.
    pub payload: Bytes,
    /// As appended.
    pub headers: Vec<(String, Bytes)>,
}

/// An append that is in the log, once, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The partition of the key.
    pub partition: u32,
    /// The record's offset in it. Unset if the log has it but cannot say where: a Kafka broker that
    /// became the leader after the append remembers that a batch is there longer than its place.
    pub offset: Option<u64>,
}

/// Why an append was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The log holds as much as it may, or as many appends wait as may. Nothing was written.
    #[error("the log is full")]
    Full,
    /// The record is larger than [`PAYLOAD_BYTES_MAX`] or [`KEY_AND_HEADERS_BYTES_MAX`] allow.
    /// Nothing was written.
    #[error("the record is too large")]
    TooLarge,
    /// The log cannot write now. Nothing was written.
    #[error("the log cannot write: {0}")]
    Failed(String),
    /// The log is closing. Nothing was written.
    #[error("the log is closed")]
    Closed,
    /// The record may or may not be in the log, now or later.
    #[error("the result of the append is unknown: {0}")]
    Unknown(String),
}

/// Why reading does not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Another member of the group reads the partition now.
    #[error("the partition was given to another reader")]
    Revoked,
    /// The log is closing.
    #[error("the log is closed")]
    Closed,
    /// The log does not go back to this offset, or ends before it: it is not the log that the
    /// position belongs to, or its records are gone.
    #[error("offset {offset} is outside of the log, which has {first}..{end}")]
    OutOfRange {
        /// What was asked for.
        offset: u64,
        /// The first offset that can be read.
        first: u64,
        /// The offset that the next record will have at least.
        end: u64,
    },
    /// The log cannot be read now.
    #[error("the log cannot be read: {0}")]
    Failed(String),
}

/// How soon an append is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for it: write at once.
    Now,
    /// Derived from records that are already durable: may wait a few milliseconds, to share a
    /// write.
    Derived,
}

/// Called once with the result of an append, from any thread (the caller's when it is refused at
/// once, otherwise one of the log's own, which writes nothing meanwhile). Must be quick and must
/// not block.
pub type OnAppended = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

/// A partitioned, durable, ordered log.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// Which log the topic belongs to, and how many partitions it has.
    fn identity(&self, topic: Topic) -> TopicIdentity;

    /// The partition of a key.
    fn partition_of(&self, topic: Topic, key: &[u8]) -> u32;

    /// Appends a record. Never blocks: the result comes to `done`, which is called at once if there
    /// is no room to queue. Appends of one key by one caller take their places in the order of the
    /// calls, also when some of them fail.
    fn append(&self, topic: Topic, record: NewRecord, urgency: Urgency, done: OnAppended);

    /// Joins a group of readers: each partition of the topic is read by one member of the group.
    /// Fails if the log was not told of the group when it was opened (embedded).
    async fn join(&self, group: &str, topic: Topic) -> Result<Box<dyn Membership>, LogError>;

    /// Appends records and waits until all are durable. The answer has one result for each.
    async fn append_all(
        &self,
        topic: Topic,
        records: Vec<NewRecord>,
        urgency: Urgency,
    ) -> Vec<Result<Appended, AppendError>> {
        let mut waiting = Vec::with_capacity(records.len());
        for record in records {
            let (done, result) = tokio::sync::oneshot::channel();
            self.append(
                topic,
                record,
                urgency,
                Box::new(move |r| drop(done.send(r))),
            );
            waiting.push(result);
        }
        let mut results = Vec::with_capacity(waiting.len());
        for result in waiting {
            let lost = || Err(AppendError::Unknown("the log went away".to_owned()));
            results.push(result.await.unwrap_or_else(|_| lost()));
        }
        results
    }
}

/// One reader's place in a group. Dropping it leaves the group.
#[async_trait]
pub trait Membership: Send {
    /// The next partition that this member is to read. Waits while there is none. A partition comes
    /// again if it was revoked and given back. Before that, its reader before has answered
    /// [`LogError::Revoked`] or is dropped, or was given time enough to. Cancel safe.
    async fn assigned(&mut self) -> Result<Box<dyn PartitionReader>, LogError>;
}

/// Reads one partition, at first from where its group has committed, or from the first record. Who
/// keeps positions of its own seeks before it reads. Dropping it before it is revoked leaves the
/// partition unread until the member leaves the group.
#[async_trait]
pub trait PartitionReader: Send {
    /// Which partition.
    fn partition(&self) -> u32;

    /// From now on nobody else gets the partition before this reader is dropped, or was given time enough:
    /// for who has something under way when he is told [`LogError::Revoked`], whose end the next reader must
    /// know.
    fn keep_until_dropped(&mut self);

    /// Whether the partition is taken away: for who does not call [`PartitionReader::next`] for a while.
    fn is_revoked(&self) -> bool;

    /// The first offset that can be read, and the offset that the next record will have at least.
    async fn range(&mut self) -> Result<(u64, u64), LogError>;

    /// Reads from `offset` on (from the first record at or above it). Fails with
    /// [`LogError::OutOfRange`] if it is below the first or above the end. This and the range can
    /// find that the partition is revoked, as [`PartitionReader::next`] does.
    async fn seek(&mut self, offset: u64) -> Result<(), LogError>;

    /// The next records, at least one and at most `max`; waits for them. After
    /// [`LogError::Revoked`] there are no more. After [`LogError::Failed`] another call tries the
    /// same records again. Cancel safe: records are lost to no one.
    async fn next(&mut self, max: usize) -> Result<Vec<Record>, LogError>;

    /// Everything below `offset` is durably dealt with by this group. A hint: the embedded log
    /// deletes what all groups have passed, Kafka shows it to operators. Never goes back, never
    /// blocks, and does nothing once another reader may have the partition.
    fn commit(&self, offset: u64);
}

//! What the service keeps besides bytes.

use async_trait::async_trait;
use runtime::ids::{BlobId, UploadId, UserId};

use crate::model::{Blob, Reference, Upload};

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

/// What became of the beginning of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is this one, new or from before; with its blob if it is finished, unless that is gone: then the
    /// upload was made new.
    Upload(Upload, Option<Blob>),
    /// The owner has used the id for something else: another size, hash or purpose.
    Reused,
    /// The owner has as many unfinished uploads as may be.
    TooMany,
}

/// What became of the end of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// The blob is there.
    Kept(Blob),
    /// The owner has uploaded the same before: that one counts, and the bytes of the new one can go.
    Twin(Blob),
    /// The upload is not there any more, or its poster is not: nothing was changed.
    Gone,
}

/// Uploads, blobs, what refers to them, and the positions of readers. All processes of the service share
/// one. Answers are durable as the one-process form's are: after a crash of the process at once, after a
/// loss of power once [`Store::sync`] has answered, if a method says nothing else.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Begins an upload, or finds it. A blob that is answered is kept until `kept_until_unix_ms` at
    /// least.
    async fn begin_upload(
        &self,
        upload: Upload,
        unfinished_max: usize,
        kept_until_unix_ms: i64,
    ) -> Result<Begun, StoreError>;

    /// An upload of the owner, with its blob if it is finished and the blob is there.
    async fn upload(
        &self,
        owner: UserId,
        upload: UploadId,
    ) -> Result<Option<(Upload, Option<Blob>)>, StoreError>;

    /// The blob that the owner has made of the same bytes for the same purpose, if it is there and does
    /// not go; then the upload is finished with it, in one step, and it is kept until
    /// `kept_until_unix_ms` at least.
    async fn finish_with_twin(
        &self,
        upload: &Upload,
        kept_until_unix_ms: i64,
    ) -> Result<Option<Blob>, StoreError>;

    /// The upload has become `blob`, whose bytes are durable; with a poster, the reference to it is made
    /// in the same step. Survives a loss of power when it is answered.
    async fn finish_upload(&self, upload: &Upload, blob: Blob) -> Result<Finished, StoreError>;

    /// Keeps a blob until this time at least; `None` if it is not there or goes.
    async fn keep(&self, blob: BlobId, kept_until_unix_ms: i64)
    -> Result<Option<Blob>, StoreError>;

    /// Those of the blobs that are there, in no order.
    async fn blobs(&self, ids: Vec<BlobId>) -> Result<Vec<Blob>, StoreError>;

    /// Uploads that were begun before this and are not finished, the oldest first; and finished ones whose
    /// blob is gone or that were begun before it too.
    async fn old_uploads(
        &self,
        begun_before_unix_ms: i64,
        limit: usize,
    ) -> Result<Vec<Upload>, StoreError>;

    /// Forgets an upload.
    async fn forget_upload(&self, owner: UserId, upload: UploadId) -> Result<(), StoreError>;

    /// Takes over what records of the log say, and moves the position of their reader, in one step.
    /// Saying the same twice, or in another order, changes nothing: what was removed stays removed, and of
    /// a picture the largest version counts. Answers blobs that are referred to and are not there, or go:
    /// there must never be one. Fails with `PositionBelowSaved` and changes nothing if the stored position
    /// is below `advance.from`.
    async fn apply(
        &self,
        references: Vec<Reference>,
        barriers: Vec<Barrier>,
        advance: PositionAdvance,
    ) -> Result<Vec<BlobId>, StoreError>;

    /// Whether a blob could be removed if barriers of this time were everywhere: nothing refers to it,
    /// and it is kept until `kept_before_unix_ms` at most (pictures: `pictures_kept_before_unix_ms`).
    async fn has_removable(&self, before: KeptBefore) -> Result<bool, StoreError>;

    /// The earliest of the latest barriers of the partitions 0 to `partitions` - 1; `None` if one of them
    /// has none yet.
    async fn barrier(&self, partitions: u32) -> Result<Option<i64>, StoreError>;

    /// Marks blobs as going, at most `limit`: those to which nothing refers, and which are kept until
    /// `before` at most; and answers them, after those that went already. A blob that goes is not answered
    /// by anything else, and never comes back. Survives a loss of power when it is answered.
    async fn take_removable(
        &self,
        before: KeptBefore,
        limit: usize,
    ) -> Result<Vec<BlobId>, StoreError>;

    /// The bytes of a blob that goes are gone: forgets it, and its reference to its poster.
    async fn forget_blob(&self, blob: BlobId) -> Result<(), StoreError>;

    /// Claims the reader for this log and answers its position: the offset of the first record that is not
    /// known to be applied; 0 at first. Records the log's identity on the first call; fails with
    /// `OtherLog` if it is not the recorded one.
    async fn open_reader(&self, reader: ReaderId, log: LogIdentity) -> Result<u64, StoreError>;

    /// Makes everything answered before survive a loss of power, and answers then.
    async fn sync(&self) -> Result<(), StoreError>;
}

/// Until when blobs may be kept that go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptBefore {
    /// Attachments, in Unix milliseconds.
    pub attachments_unix_ms: i64,
    /// Pictures of profiles and groups, in Unix milliseconds.
    pub pictures_unix_ms: i64,
}

/// A barrier that was read in a partition of `references`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barrier {
    /// Of which partition.
    pub partition: u32,
    /// See `messenger.log.v1.ReferenceBarrier`. The latest one of a partition counts.
    pub as_of_unix_ms: i64,
}

/// A reader of one partition, whose position the store keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderId {
    /// The role, such as `references`.
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
    /// Everything below is applied.
    pub to: u64,
}

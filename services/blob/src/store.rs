//! What the service keeps besides bytes.

use async_trait::async_trait;
pub use runtime::positions::{LogIdentity, PositionAdvance, ReaderId};
use runtime::{
    ids::{BlobId, UploadId, UserId},
    positions::PositionError,
};

use crate::model::{Blob, Leftover, Reference, Upload};

mod batch;
#[cfg(feature = "distributed")]
pub mod postgres;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod suite;

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

impl From<PositionError> for StoreError {
    fn from(error: PositionError) -> Self {
        match error {
            PositionError::OtherLog { stored, actual } => Self::OtherLog { stored, actual },
            PositionError::BelowSaved => Self::PositionBelowSaved,
            PositionError::OutOfRange(_) => Self::Corrupt(error.to_string()),
        }
    }
}

/// What became of the beginning of an upload.
#[expect(clippy::large_enum_variant, reason = "one an upload, and not kept")]
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
    /// The upload is not there any more, or its poster is not: nothing was changed. No blob has the bytes
    /// of the new one, and none will have them if it was the upload: they can go.
    Gone,
}

/// Uploads, blobs, what refers to them, and the positions of readers. All processes of the service share
/// one. Answers are durable as the one-process form's are: after a crash of the process at once, after a
/// loss of power once [`Store::sync`] has answered, if a method says nothing else.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Begins an upload, or finds it. A blob that is answered is kept until `kept_until_unix_ms` at
    /// least, also after a loss of power.
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
    /// in the same step. May come again. Survives a loss of power when it is answered. `blob.id` must be
    /// `upload.blob`, as it was answered at the beginning.
    async fn finish_upload(&self, upload: &Upload, blob: Blob) -> Result<Finished, StoreError>;

    /// Keeps a blob until this time at least, also after a loss of power; `None` if it is not there or
    /// goes.
    async fn keep(&self, blob: BlobId, kept_until_unix_ms: i64)
    -> Result<Option<Blob>, StoreError>;

    /// Those of the blobs that are there, in no order.
    async fn blobs(&self, ids: Vec<BlobId>) -> Result<Vec<Blob>, StoreError>;

    /// Ends uploads that were begun before this, at most `limit`, the oldest first, and answers how many:
    /// whether finished or not, they are not there any more, and what is left of them is a [`Leftover`]
    /// since `now_unix_ms`. So nobody finishes an upload whose bytes go: either it is finished first, and
    /// its bytes are a blob's, or it is not there.
    async fn end_uploads(
        &self,
        begun_before_unix_ms: i64,
        now_unix_ms: i64,
        limit: usize,
    ) -> Result<usize, StoreError>;

    /// The bytes of this upload can become nothing: if it is not finished, and has this blob still, it is not
    /// there any more, and what is left of it is a [`Leftover`]. So it does not count among those that are
    /// not finished. May come again.
    async fn give_up(&self, upload: &Upload, now_unix_ms: i64) -> Result<(), StoreError>;

    /// What was left before this, the oldest first, and what of it can go: nothing that a blob has, also
    /// one that goes.
    async fn leftovers(
        &self,
        left_before_unix_ms: i64,
        limit: usize,
    ) -> Result<Vec<Leftover>, StoreError>;

    /// What was left is gone: forgets it.
    async fn forget_leftover(&self, leftover: Leftover) -> Result<(), StoreError>;

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

    /// Whether a blob could be removed if barriers were everywhere: nothing refers to it, and it is kept
    /// until `before` at most.
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

/// Blobs, or references of one, that a transaction looks at or forgets: some milliseconds of work.
const CHECK_MAX: usize = 1_000;

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

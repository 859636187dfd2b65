//! Where bytes are kept: the port, and its adapters (local files, S3).

use std::{ops::Range, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use runtime::ids::{BlobId, UploadId, UserId};

use crate::model::{MediaType, Variant};

mod claims;
pub mod local;
#[cfg(feature = "distributed")]
pub mod s3;
#[cfg(test)]
mod suite;

/// How an object may be kept by whoever has it: what is under a name never changes.
pub const CACHE_CONTROL: &str = "public, max-age=31536000, immutable";

/// Bytes of a part of a [`ByteStream`] at most: large enough that the ways between threads cost little,
/// small enough that a thousand downloads with two parts each fit into memory.
pub const READ_PART_BYTES: usize = 256 * 1024;

/// Names the bytes of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// Of which blob.
    pub blob: BlobId,
    /// Which of its bytes.
    pub variant: Variant,
}

/// Names the bytes of an upload that is not finished. An `UploadId` is the client's, so two users may
/// have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StageKey {
    /// Whose.
    pub owner: UserId,
    /// Named by the client.
    pub upload: UploadId,
}

impl ObjectKey {
    /// The `Content-Disposition` of it: to be shown, and what it is called when it is saved.
    pub fn content_disposition(&self, media_type: MediaType) -> String {
        let (blob, extension) = (self.blob, media_type.extension());
        match self.variant {
            Variant::Original => format!("inline; filename=\"{blob}.{extension}\""),
            other => format!("inline; filename=\"{blob}-{}.{extension}\"", other.name()),
        }
    }
}

/// What bytes must be: checked before they become an object, because between the check of an upload and
/// its end another process may have written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Of all of them.
    pub size_bytes: u64,
    /// Of all of them.
    pub sha256: [u8; 32],
}

/// Why bytes are not there, or not kept.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// There are none of this name.
    #[error("no such object")]
    NotFound,
    /// Somebody else in this process writes this upload, ends it or removes it.
    #[error("the upload is in use")]
    Busy,
    /// The bytes of the upload are not those that were to become an object.
    #[error("the upload has other bytes")]
    Changed,
    /// The store is away, full or overloaded; the same call may work later.
    #[error("the object store is not available: {0}")]
    Unavailable(String),
}

/// Bytes as they are read, in parts of at most 256 KiB.
pub type ByteStream = BoxStream<'static, Result<Bytes, ObjectError>>;

/// Keeps bytes.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// How many bytes of an upload are durable, from its beginning without a gap; 0 if it is not known.
    async fn staged_bytes(&self, key: StageKey) -> Result<u64, ObjectError>;

    /// Opens an upload to append to it, at its [`Objects::staged_bytes`]. [`ObjectError::Busy`] while
    /// another writer of this process is open.
    async fn open_stage(&self, key: StageKey) -> Result<Box<dyn Stage>, ObjectError>;

    /// The durable bytes of an upload, from the beginning.
    async fn read_stage(&self, key: StageKey) -> Result<ByteStream, ObjectError>;

    /// The bytes of an upload become an object, durably, whole or not at all; the upload is forgotten,
    /// perhaps later. May come again, also after a part of it was done, and by another process; then what
    /// is under the name, if it has this size, counts. [`ObjectError::Changed`] if the bytes are not
    /// `content`, [`ObjectError::NotFound`] if there are none, [`ObjectError::Busy`] while a writer is open.
    async fn promote(
        &self,
        stage: StageKey,
        key: ObjectKey,
        content: Content,
        media_type: MediaType,
    ) -> Result<(), ObjectError>;

    /// Forgets the bytes of an upload, if there are any. [`ObjectError::Busy`] while a writer is open.
    async fn discard_stage(&self, key: StageKey) -> Result<(), ObjectError>;

    /// Keeps bytes under a name, durably, whole or not at all; instead of what is there.
    async fn put(
        &self,
        key: ObjectKey,
        content: Bytes,
        media_type: MediaType,
    ) -> Result<(), ObjectError>;

    /// A range of the bytes of an object, inside of its size: a stream of less than that ends with an
    /// error.
    async fn get(&self, key: ObjectKey, range: Range<u64>) -> Result<ByteStream, ObjectError>;

    /// The size of an object.
    async fn size_bytes(&self, key: ObjectKey) -> Result<u64, ObjectError>;

    /// Removes all variants of a blob that are there.
    async fn delete(&self, blob: BlobId) -> Result<(), ObjectError>;

    /// A URL at which the object store itself answers GET for about `life`, with the media type, the
    /// [`ObjectKey::content_disposition`] and [`CACHE_CONTROL`]; `None` if clients do not reach it.
    async fn presign(
        &self,
        key: ObjectKey,
        media_type: MediaType,
        life: Duration,
    ) -> Result<Option<String>, ObjectError>;
}

/// An upload that is open for appending. Dropping it without [`Stage::flush`] may lose what was written
/// since the last one, and never leaves a gap.
#[async_trait]
pub trait Stage: Send {
    /// What was written, durable or not: where the next bytes go.
    fn written_bytes(&self) -> u64;

    /// Appends; holds at most some hundred KiB in memory. After an error, or when it was not waited for,
    /// the stage can only be dropped.
    async fn write(&mut self, data: Bytes) -> Result<(), ObjectError>;

    /// What was written is durable when this answers.
    async fn flush(&mut self) -> Result<(), ObjectError>;
}

//! Uploads that are not finished: objects that are parts of them.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, path::Path};

use super::{ByteStream, Inner, PARTS_MAX, failure};
use crate::objects::{ObjectError, Stage, StageKey, claims::Claim};

/// Bytes of a part, except for the last: 200 uploads at a time hold 100 MiB, and the largest upload has
/// 32 parts, which one request lists.
pub(super) const PART_BYTES: usize = 512 * 1024;

/// A part of an upload, and which of its bytes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Its place, which is its name.
    pub(super) offset: u64,
    /// Of its own bytes, those that the part before has already.
    pub(super) skip: u64,
    /// Where it ends, in the upload.
    pub(super) end: u64,
}

/// What is there of an upload.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// From the beginning without a gap, in order.
    pub(super) whole: Vec<Part>,
    /// Offsets of those that say nothing: behind a gap, or inside of another.
    pub(super) strays: Vec<u64>,
}

impl Parts {
    /// Chooses from parts as (offset, length), in the order of their offsets.
    pub(super) fn choose(parts: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut chosen = Self::default();
        for (offset, len) in parts {
            let (before, end) = (chosen.end(), offset.saturating_add(len));
            if offset > before || end <= before {
                chosen.strays.push(offset);
            } else {
                let skip = before - offset;
                chosen.whole.push(Part { offset, skip, end });
            }
        }
        chosen
    }

    /// How many bytes there are without a gap.
    pub(super) fn end(&self) -> u64 {
        self.whole.last().map_or(0, |part| part.end)
    }
}

impl Inner {
    /// What is there of an upload.
    pub(super) async fn parts(&self, key: StageKey) -> Result<Parts, ObjectError> {
        let prefix = self.stage(key);
        let listed = self.client.list(Some(&prefix)).take(PARTS_MAX);
        let listed: Vec<_> = listed
            .try_collect()
            .await
            .map_err(|error| failure(&error))?;
        let mut parts: Vec<(u64, u64)> = listed
            .iter()
            .filter_map(|meta| Some((offset_of(&meta.location)?, meta.size)))
            .collect();
        parts.sort_unstable();
        Ok(Parts::choose(parts))
    }

    /// The bytes of these parts, one after the other.
    pub(super) fn read_parts(self: Arc<Self>, key: StageKey, parts: Vec<Part>) -> ByteStream {
        stream::iter(parts.into_iter().map(Ok))
            .and_then(move |part| {
                let inner = self.clone();
                async move {
                    let own = part.skip..part.end - part.offset;
                    inner.read(&inner.part(key, part.offset), Some(own)).await
                }
            })
            .try_flatten()
            .boxed()
    }

    pub(super) async fn remove_offsets(
        &self,
        key: StageKey,
        offsets: Vec<u64>,
    ) -> Result<(), ObjectError> {
        let paths = offsets.into_iter().map(|offset| self.part(key, offset));
        self.remove(paths.collect()).await
    }

    /// Removes all parts of an upload, the last ones first: what is left after a failure is a beginning.
    pub(super) async fn remove_parts(&self, key: StageKey) -> Result<(), ObjectError> {
        // What one listing does not show is left to the next time: more than it shows are no upload of
        // this program.
        let parts = self.parts(key).await?;
        let whole = parts.whole.iter().map(|part| part.offset);
        let mut offsets: Vec<_> = whole.chain(parts.strays).collect();
        offsets.sort_unstable();
        offsets.reverse();
        self.remove_offsets(key, offsets).await
    }
}

/// From a part's name; `None` if it is none of ours.
fn offset_of(path: &Path) -> Option<u64> {
    path.filename()?.parse().ok()
}

/// An open upload. A part is put again, longer, until it is full: so flushing often makes no more parts,
/// and what is there is always a beginning.
pub(super) struct S3Stage {
    inner: Arc<Inner>,
    key: StageKey,
    _claim: Claim,
    /// Of the part that is collected.
    offset: u64,
    collected: BytesMut,
    /// Of what is collected, how much is there already.
    kept: usize,
    /// A part was not put, or is being put.
    failed: bool,
}

impl S3Stage {
    /// Goes on where the last writer has come to.
    pub(super) async fn open(
        inner: Arc<Inner>,
        key: StageKey,
        claim: Claim,
    ) -> Result<Self, ObjectError> {
        let parts = inner.parts(key).await?;
        // Or they would count again when the gap before them is filled.
        inner.remove_offsets(key, parts.strays.clone()).await?;
        let (mut offset, mut collected) = (parts.end(), BytesMut::new());
        if let Some(last) = parts.whole.last()
            && last.end - last.offset < PART_BYTES as u64
        {
            let all = Some(0..last.end - last.offset);
            let mut read = inner.read(&inner.part(key, last.offset), all).await?;
            while let Some(bytes) = read.try_next().await? {
                collected.extend_from_slice(&bytes);
            }
            offset = last.offset;
        }
        Ok(Self {
            kept: collected.len(),
            inner,
            key,
            _claim: claim,
            offset,
            collected,
            failed: false,
        })
    }

    async fn put(&mut self, part: Bytes) -> Result<(), ObjectError> {
        // Stays so if this is dropped before there is an answer.
        self.failed = true;
        let path = self.inner.part(self.key, self.offset);
        let put = self.inner.client.put(&path, PutPayload::from(part)).await;
        put.map_err(|error| failure(&error))?;
        self.failed = false;
        Ok(())
    }

    fn usable(&self) -> Result<(), ObjectError> {
        if self.failed {
            let text = "a write before this one failed".to_owned();
            return Err(ObjectError::Unavailable(text));
        }
        Ok(())
    }
}

#[async_trait]
impl Stage for S3Stage {
    fn written_bytes(&self) -> u64 {
        self.offset + self.collected.len() as u64
    }

    async fn write(&mut self, data: Bytes) -> Result<(), ObjectError> {
        self.usable()?;
        let mut pieces = VecDeque::from([data]);
        while let Some(mut piece) = pieces.pop_front() {
            let room = PART_BYTES.saturating_sub(self.collected.len());
            let rest = piece.split_off(room.min(piece.len()));
            self.collected.extend_from_slice(&piece);
            if self.collected.len() >= PART_BYTES {
                let part = self.collected.split().freeze();
                let len = part.len() as u64;
                self.put(part).await?;
                self.offset += len;
                self.kept = 0;
            }
            if !rest.is_empty() {
                pieces.push_back(rest);
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ObjectError> {
        self.usable()?;
        if self.kept < self.collected.len() {
            self.put(Bytes::copy_from_slice(&self.collected)).await?;
            self.kept = self.collected.len();
        }
        Ok(())
    }
}

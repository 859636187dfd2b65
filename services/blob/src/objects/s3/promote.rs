//! An upload becomes an object: its parts are put together, and checked on the way.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use object_store::{
    MultipartUpload, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, path::Path,
};
use sha2::{Digest, Sha256};

use super::{Inner, attributes, failure};
use crate::{
    model::MediaType,
    objects::{ByteStream, Content, ObjectError, ObjectKey, StageKey},
};

/// Bytes of a request at most, and of a part of an object but its last at least: S3 accepts no smaller
/// ones.
const REQUEST_BYTES: usize = 5 * 1024 * 1024;

/// See [`crate::objects::Objects::promote`].
pub(super) async fn promote(
    inner: &Arc<Inner>,
    stage: StageKey,
    key: ObjectKey,
    content: Content,
    media_type: MediaType,
) -> Result<(), ObjectError> {
    let turn = inner.promotes.acquire().await;
    let _turn = turn.map_err(|error| ObjectError::Unavailable(error.to_string()))?;
    let (path, parts) = (inner.object(key), inner.parts(stage).await?);
    if parts.end() == content.size_bytes {
        let bytes = inner.clone().read_parts(stage, parts.whole);
        put_together(inner, &path, bytes, content, key, media_type).await?;
    } else {
        // Done before, by somebody who may not have come to remove all parts: an object is only made of
        // bytes that were checked.
        match inner.size(&path).await {
            Ok(size) if size == content.size_bytes => {}
            Err(ObjectError::NotFound) if parts.whole.is_empty() => {
                return Err(ObjectError::NotFound);
            }
            Ok(_) | Err(ObjectError::NotFound) => return Err(ObjectError::Changed),
            Err(error) => return Err(error),
        }
    }
    // The object is there, whatever becomes of the parts: those of old uploads are removed anyway.
    if let Err(error) = inner.remove_parts(stage).await {
        tracing::warn!(%error, "the parts of a finished upload were not removed");
    }
    Ok(())
}

async fn put_together(
    inner: &Inner,
    path: &Path,
    mut bytes: ByteStream,
    content: Content,
    key: ObjectKey,
    media_type: MediaType,
) -> Result<(), ObjectError> {
    let (mut hash, mut collected) = (Sha256::new(), BytesMut::new());
    let mut upload: Option<Box<dyn MultipartUpload>> = None;
    let result = async {
        while let Some(part) = bytes.try_next().await? {
            hash.update(&part);
            // One that is full is only sent when it is not the last: small objects are one request.
            if collected.len() + part.len() > REQUEST_BYTES {
                let begun = match &mut upload {
                    Some(upload) => upload,
                    none => none.insert(begin(inner, path, key, media_type).await?),
                };
                let full = fill(&mut collected, part);
                send(begun, full).await?;
            } else {
                collected.extend_from_slice(&part);
            }
        }
        if <[u8; 32]>::from(hash.finalize()) != content.sha256 {
            return Err(ObjectError::Changed);
        }
        let last = collected.freeze();
        let Some(upload) = &mut upload else {
            let options = PutOptions {
                attributes: attributes(key, media_type),
                ..PutOptions::default()
            };
            let put = inner.client.put_opts(path, PutPayload::from(last), options);
            return put.await.map(drop).map_err(|error| failure(&error));
        };
        send(upload, last).await?;
        upload
            .complete()
            .await
            .map(drop)
            .map_err(|error| failure(&error))
    }
    .await;
    if let (Err(_), Some(upload)) = (&result, &mut upload)
        && let Err(error) = upload.abort().await
    {
        let error = failure(&error);
        tracing::warn!(%error, "a multipart upload that failed was not removed");
    }
    result
}

async fn begin(
    inner: &Inner,
    path: &Path,
    key: ObjectKey,
    media_type: MediaType,
) -> Result<Box<dyn MultipartUpload>, ObjectError> {
    let options = PutMultipartOptions {
        attributes: attributes(key, media_type),
        ..PutMultipartOptions::default()
    };
    let begun = inner.client.put_multipart_opts(path, options).await;
    begun.map_err(|error| failure(&error))
}

/// Fills what was collected to the size of a request, and leaves the rest there.
fn fill(collected: &mut BytesMut, mut part: Bytes) -> Bytes {
    let rest = part.split_off(
        REQUEST_BYTES
            .saturating_sub(collected.len())
            .min(part.len()),
    );
    collected.extend_from_slice(&part);
    let full = collected.split().freeze();
    collected.extend_from_slice(&rest);
    full
}

async fn send(upload: &mut Box<dyn MultipartUpload>, part: Bytes) -> Result<(), ObjectError> {
    let sent = upload.put_part(PutPayload::from(part)).await;
    sent.map_err(|error| failure(&error))
}

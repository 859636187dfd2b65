//! Uploads: begun, continued after a break, checked, and made a blob.
//!
//! What is durable decides where an upload goes on, and nothing that a process remembers: any replica
//! can go on with it. The blob's id is chosen at the beginning and noted before anything is kept under
//! it, so that whatever a dead process leaves can be found and removed.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use proto::error::v1::ErrorReason;
use runtime::{
    auth::{Receipt, ReceiptError, ReceiptPurpose},
    ids::{BlobId, UploadId, UserId},
    shutdown::CancellationToken,
    status::ApiError,
};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    Service,
    error::{overloaded, upload_not_found},
    limits::{
        BLOB_BYTES_MAX, DETECT_BYTES, RECEIPT_LIFE, UNFINISHED_UPLOADS_MAX, UPLOAD_DATA_BYTES_MAX,
    },
    media::{self, Picture},
    model::{Blob, Look, MediaType, Purpose, Upload, Variant},
    objects::{Content, ObjectError, ObjectKey, Stage, StageKey},
    receipts,
    store::{Begun, Finished},
};

mod active;
#[cfg(test)]
mod tests;

pub(crate) use self::active::Active;
use self::active::ActiveGuard;

/// How long a connection that is replaced may take to give up the upload.
const TAKEOVER_TRIES: u32 = 30;
const TAKEOVER_PAUSE: Duration = Duration::from_millis(100);
/// How long a finished upload may wait until its picture can be read.
const READ_WAIT_MAX: Duration = Duration::from_secs(20);

/// What a client says first.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) upload: UploadId,
    pub(crate) offset: u64,
    pub(crate) size_bytes: u64,
    pub(crate) sha256: [u8; 32],
    pub(crate) purpose: Purpose,
    /// Empty = none.
    pub(crate) poster_receipt: String,
}

/// What a client gets.
#[derive(Debug, Clone)]
pub(crate) struct Uploaded {
    pub(crate) blob: Blob,
    pub(crate) receipt: String,
    pub(crate) receipt_expires_unix_ms: i64,
    pub(crate) existed: bool,
}

/// What is to be done after the header.
pub(crate) enum Beginning {
    /// Nothing: the blob is there.
    There(Box<Uploaded>),
    /// Take the bytes.
    Receive(Box<Receiving>),
}

/// An upload whose bytes are coming.
pub(crate) struct Receiving {
    service: Arc<Service>,
    upload: Upload,
    poster: Option<Poster>,
    /// Open until all bytes have come.
    stage: Option<Box<dyn Stage>>,
    written: u64,
    /// Of all bytes, if they all came by this connection.
    hash: Option<Sha256>,
    /// The first bytes, if they came by this connection.
    head: Option<BytesMut>,
    replaced: CancellationToken,
    _active: ActiveGuard,
    _permit: OwnedSemaphorePermit,
}

#[derive(Clone)]
struct Poster {
    blob: BlobId,
    look: Look,
}

impl Service {
    /// Begins an upload, or goes on with it.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        owner: UserId,
        header: Header,
    ) -> Result<Beginning, ApiError> {
        self.check_rate(&self.uploads_rate, owner)?;
        check_header(&header)?;
        let poster = self.poster(owner, &header).await?;
        let now = self.clock.now_unix_ms();
        let kept_until = kept_until(now);
        let wanted = Upload {
            id: header.upload,
            owner,
            purpose: header.purpose,
            size_bytes: header.size_bytes,
            source_sha256: header.sha256,
            blob: BlobId::generate(),
            begun_unix_ms: now,
            finished: false,
        };
        let begun = self
            .store
            .begin_upload(wanted, UNFINISHED_UPLOADS_MAX, kept_until)
            .await?;
        let upload = match begun {
            Begun::Upload(_, Some(blob)) => return self.there(blob, true),
            Begun::Upload(upload, None) => upload,
            Begun::Reused => {
                return Err(ApiError::field(
                    ErrorReason::RequestIdReused,
                    "upload_id",
                    "the upload_id was begun with another size, sha256 or purpose",
                ));
            }
            Begun::TooMany => {
                return Err(ApiError::new(
                    ErrorReason::LimitReached,
                    format!("at most {UNFINISHED_UPLOADS_MAX} unfinished uploads"),
                ));
            }
        };
        let twin = self.store.finish_with_twin(&upload, kept_until).await?;
        if let Some(blob) = twin {
            self.objects.discard_stage(stage_key(&upload)).await?;
            return self.there(blob, true);
        }
        let permit = self.uploads.clone().try_acquire_owned();
        let permit = permit.map_err(|_| overloaded())?;
        let key = stage_key(&upload);
        let (active, replaced) = self.active.replace(key);
        let stage = self.open_stage(key, &replaced).await?;
        let arrived = stage.written_bytes();
        if header.offset != arrived {
            return Err(offset_wrong(arrived));
        }
        let is_first = arrived == 0;
        Ok(Beginning::Receive(Box::new(Receiving {
            service: self.clone(),
            upload,
            poster,
            stage: Some(stage),
            written: arrived,
            hash: is_first.then(Sha256::new),
            head: is_first.then(BytesMut::new),
            replaced,
            _active: active,
            _permit: permit,
        })))
    }

    /// How far an upload is: what has arrived, or the blob.
    pub(crate) async fn progress(
        &self,
        owner: UserId,
        upload: UploadId,
    ) -> Result<(u64, Option<Uploaded>), ApiError> {
        self.check_rate(&self.urls_rate, owner)?;
        match self.store.upload(owner, upload).await? {
            None => Err(upload_not_found()),
            Some((upload, Some(blob))) => {
                let until = kept_until(self.clock.now_unix_ms());
                let kept = self.store.keep(blob.id, until).await?;
                let blob = kept.ok_or_else(upload_not_found)?;
                Ok((upload.size_bytes, Some(self.receipt_of(blob, true)?)))
            }
            Some((upload, None)) => {
                let bytes = self.objects.staged_bytes(stage_key(&upload)).await?;
                Ok((bytes, None))
            }
        }
    }

    /// Waits a little for the connection that is replaced.
    async fn open_stage(
        &self,
        key: StageKey,
        replaced: &CancellationToken,
    ) -> Result<Box<dyn Stage>, ApiError> {
        for _ in 0..TAKEOVER_TRIES {
            match self.objects.open_stage(key).await {
                Err(ObjectError::Busy) if !replaced.is_cancelled() => {
                    tokio::time::sleep(TAKEOVER_PAUSE).await;
                }
                opened => return Ok(opened?),
            }
        }
        Err(ObjectError::Busy.into())
    }

    fn there(&self, blob: Blob, existed: bool) -> Result<Beginning, ApiError> {
        let uploaded = self.receipt_of(blob, existed)?;
        Ok(Beginning::There(Box::new(uploaded)))
    }

    /// A receipt, for as long as the blob is kept.
    fn receipt_of(&self, blob: Blob, existed: bool) -> Result<Uploaded, ApiError> {
        let receipt = Receipt {
            owner: blob.owner,
            purpose: match blob.purpose {
                Purpose::Attachment => ReceiptPurpose::Attachment,
                Purpose::Picture => ReceiptPurpose::Picture,
            },
            attachment: receipts::attachment(&blob),
            // By full seconds, and never longer than it is kept.
            expires_unix_ms: blob.kept_until_unix_ms.div_euclid(1_000) * 1_000,
        };
        let text = self.signer.sign(&receipt);
        Ok(Uploaded {
            blob,
            receipt: text.map_err(|error| ApiError::internal(&error))?,
            receipt_expires_unix_ms: receipt.expires_unix_ms,
            existed,
        })
    }

    /// What the poster of a video looks like.
    async fn poster(&self, owner: UserId, header: &Header) -> Result<Option<Poster>, ApiError> {
        if header.poster_receipt.is_empty() || header.purpose == Purpose::Picture {
            return Ok(None);
        }
        let verified =
            self.receipts
                .verify(&header.poster_receipt, owner, ReceiptPurpose::Attachment);
        let refused = |reason, why: &str| ApiError::field(reason, "poster_receipt", why);
        let receipt = verified.map_err(|error| match error {
            ReceiptError::Invalid => {
                refused(ErrorReason::ReceiptInvalid, "not a receipt of the caller")
            }
            ReceiptError::Expired(_) => {
                refused(ErrorReason::ReceiptExpired, "the receipt is too old")
            }
        })?;
        let invalid = || refused(ErrorReason::ReceiptInvalid, "not a receipt of a picture");
        let id = receipt.blob_id().map_err(|_| invalid())?;
        let now = self.clock.now_unix_ms();
        let blob = self.store.keep(id, kept_until(now)).await?;
        let blob = blob.filter(|blob| blob.media_type.is_picture());
        let look = blob.and_then(|blob| blob.look).ok_or_else(invalid)?;
        Ok(Some(Poster { blob: id, look }))
    }
}

impl Receiving {
    /// Becomes true when another connection sends to the upload: then give it up.
    pub(crate) fn replaced(&self) -> CancellationToken {
        self.replaced.clone()
    }

    /// Takes some bytes. After an error the upload is to be dropped.
    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), ApiError> {
        let size = self.upload.size_bytes;
        let more = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if self.written.saturating_add(more) > size {
            self.forget().await?;
            return Err(ApiError::new(
                ErrorReason::BlobTooLarge,
                format!("more bytes than size_bytes ({size}) came"),
            ));
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&data);
        }
        let seen = self.head.as_ref().map_or(0, BytesMut::len);
        if let Some(head) = &mut self.head
            && seen < DETECT_BYTES
        {
            head.extend_from_slice(&data[..data.len().min(DETECT_BYTES - seen)]);
            if head.len() == DETECT_BYTES && allowed(head, self.upload.purpose).is_none() {
                self.forget().await?;
                return Err(not_allowed());
            }
        }
        // In parts, whatever size they come in: what is held is bounded.
        let mut data = data;
        while !data.is_empty() {
            let part = data.split_to(data.len().min(UPLOAD_DATA_BYTES_MAX));
            let stage = self.stage.as_mut().ok_or_else(upload_not_found)?;
            stage.write(part).await?;
        }
        self.written += more;
        Ok(())
    }

    /// The connection broke: what came is kept.
    pub(crate) async fn interrupted(mut self) {
        if let Some(mut stage) = self.stage.take()
            && let Err(error) = stage.flush().await
        {
            tracing::debug!(%error, "not all of a broken upload is kept");
        }
    }

    /// All bytes came: they become a blob.
    pub(crate) async fn finish(mut self) -> Result<Uploaded, ApiError> {
        if let Some(mut stage) = self.stage.take() {
            // Closed with it: nobody else adds to what is checked now, in this process.
            stage.flush().await?;
        }
        if self.written < self.upload.size_bytes {
            return Err(offset_wrong(self.written));
        }
        let service = self.service.clone();
        let (actual, head) = match (self.hash.take(), self.head.take()) {
            (Some(hash), Some(head)) => (hash.finalize().into(), head.freeze()),
            _ => service.read_again(&self.upload).await?,
        };
        if actual != self.upload.source_sha256 {
            self.forget().await?;
            return Err(ApiError::field(
                ErrorReason::ChecksumMismatch,
                "sha256",
                "the bytes are not those of sha256; begin again",
            ));
        }
        let Some(media_type) = allowed(&head, self.upload.purpose) else {
            self.forget().await?;
            return Err(not_allowed());
        };
        // What a loss of power leaves can be found only if the upload is known.
        service.store.sync().await?;
        let made = match media_type.is_picture() {
            true => self.make_picture(media_type).await,
            false => self.make_video(media_type).await,
        };
        let blob = match made {
            Ok(blob) => blob,
            Err(error) => {
                if error.retry_after.is_none() && error.reason != ErrorReason::Internal {
                    self.forget().await?;
                }
                return Err(error);
            }
        };
        let key = stage_key(&self.upload);
        let finished = service.store.finish_upload(&self.upload, blob).await?;
        let (blob, existed) = match finished {
            Finished::Kept(blob) => (blob, false),
            Finished::Twin(blob) => {
                service.objects.delete(self.upload.blob).await?;
                (blob, true)
            }
            Finished::Gone => {
                service.objects.delete(self.upload.blob).await?;
                return Err(upload_not_found());
            }
        };
        // It goes by itself when it is old; the upload is finished.
        if let Err(error) = service.objects.discard_stage(key).await {
            tracing::debug!(%error, "the bytes of a finished upload stay for now");
        }
        service.receipt_of(blob, existed)
    }

    async fn make_picture(&mut self, media_type: MediaType) -> Result<Blob, ApiError> {
        let service = self.service.clone();
        let acquire = service.whole.clone().acquire_owned();
        let permit = tokio::time::timeout(READ_WAIT_MAX, acquire).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(overloaded());
        };
        let content = service.read_whole(&self.upload).await?;
        let Picture {
            media_type,
            content,
            look,
            small,
            large,
        } = service.pictures.read(content, media_type).await?;
        let put = |variant, content, media_type| {
            let key = ObjectKey {
                blob: self.upload.blob,
                variant,
            };
            service.objects.put(key, content, media_type)
        };
        let sha256 = Sha256::digest(&content).into();
        let size_bytes = content.len() as u64;
        tokio::try_join!(
            put(Variant::Small, small, look.small.media_type),
            put(Variant::Large, large, look.large.media_type),
            put(Variant::Original, content, media_type),
        )?;
        Ok(self.blob(media_type, size_bytes, sha256, Some(look), None))
    }

    async fn make_video(&mut self, media_type: MediaType) -> Result<Blob, ApiError> {
        let key = ObjectKey {
            blob: self.upload.blob,
            variant: Variant::Original,
        };
        let stage = stage_key(&self.upload);
        let content = Content {
            size_bytes: self.upload.size_bytes,
            sha256: self.upload.source_sha256,
        };
        let objects = &self.service.objects;
        objects.promote(stage, key, content, media_type).await?;
        let (size_bytes, sha256) = (self.upload.size_bytes, self.upload.source_sha256);
        let poster = self.poster.clone();
        let (poster, look) = poster.map_or((None, None), |p| (Some(p.blob), Some(p.look)));
        Ok(self.blob(media_type, size_bytes, sha256, look, poster))
    }

    fn blob(
        &self,
        media_type: MediaType,
        size_bytes: u64,
        sha256: [u8; 32],
        look: Option<Look>,
        poster: Option<BlobId>,
    ) -> Blob {
        let now = self.service.clock.now_unix_ms();
        Blob {
            id: self.upload.blob,
            owner: self.upload.owner,
            purpose: self.upload.purpose,
            media_type,
            size_bytes,
            sha256,
            source_sha256: self.upload.source_sha256,
            look,
            poster,
            created_unix_ms: now,
            kept_until_unix_ms: kept_until(now),
        }
    }

    /// Bytes that can become nothing: the upload can begin again, and until then it is none that its owner has
    /// not finished.
    async fn forget(&mut self) -> Result<(), ApiError> {
        self.stage = None;
        let key = stage_key(&self.upload);
        let now = self.service.clock.now_unix_ms();
        self.service.store.give_up(&self.upload, now).await?;
        Ok(self.service.objects.discard_stage(key).await?)
    }
}

impl Service {
    /// Hash and head of an upload that came in several pieces, if no other process has cut it off since.
    async fn read_again(&self, upload: &Upload) -> Result<([u8; 32], Bytes), ApiError> {
        let (mut hash, mut head, mut size) = (Sha256::new(), BytesMut::new(), 0);
        let mut parts = self.objects.read_stage(stage_key(upload)).await?;
        while let Some(part) = parts.next().await {
            let part = part?;
            let room = DETECT_BYTES - head.len();
            head.extend_from_slice(&part[..part.len().min(room)]);
            hash.update(&part);
            size += part.len() as u64;
        }
        match size == upload.size_bytes {
            true => Ok((hash.finalize().into(), head.freeze())),
            false => Err(ObjectError::Changed.into()),
        }
    }

    /// All bytes, if they are still those that were checked: another process may have written since.
    async fn read_whole(&self, upload: &Upload) -> Result<Bytes, ApiError> {
        let size = usize::try_from(upload.size_bytes).unwrap_or(usize::MAX);
        let (mut whole, mut hash) = (BytesMut::with_capacity(size), Sha256::new());
        let mut parts = self.objects.read_stage(stage_key(upload)).await?;
        while let Some(part) = parts.next().await {
            let part = part?;
            if whole.len() + part.len() > size {
                return Err(ObjectError::Changed.into());
            }
            hash.update(&part);
            whole.extend_from_slice(&part);
        }
        let sha256: [u8; 32] = hash.finalize().into();
        match sha256 == upload.source_sha256 {
            true => Ok(whole.freeze()),
            false => Err(ObjectError::Changed.into()),
        }
    }
}

pub(crate) const fn stage_key(upload: &Upload) -> StageKey {
    StageKey {
        owner: upload.owner,
        upload: upload.id,
    }
}

fn kept_until(now_unix_ms: i64) -> i64 {
    let life = i64::try_from(RECEIPT_LIFE.as_millis()).unwrap_or(i64::MAX);
    now_unix_ms.saturating_add(life)
}

fn check_header(header: &Header) -> Result<(), ApiError> {
    if header.size_bytes == 0 {
        let message = "at least 1 byte";
        return Err(ApiError::field(
            ErrorReason::FieldOutOfRange,
            "size_bytes",
            message,
        ));
    }
    if header.size_bytes > BLOB_BYTES_MAX {
        return Err(ApiError::field(
            ErrorReason::BlobTooLarge,
            "size_bytes",
            format!("at most {BLOB_BYTES_MAX} bytes"),
        ));
    }
    Ok(())
}

/// What the content is, if it may be uploaded for the purpose.
fn allowed(head: &[u8], purpose: Purpose) -> Option<MediaType> {
    media::detect(head).filter(|kind| purpose == Purpose::Attachment || kind.is_picture())
}

fn not_allowed() -> ApiError {
    ApiError::new(
        ErrorReason::MediaTypeNotAllowed,
        "not a JPEG, PNG, GIF or WebP picture, nor (as an attachment) an MP4, QuickTime or WebM video",
    )
}

fn offset_wrong(arrived: u64) -> ApiError {
    ApiError::field(
        ErrorReason::UploadOffsetWrong,
        "offset",
        format!("the upload goes on at {arrived}"),
    )
}

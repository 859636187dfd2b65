//! Pictures and videos: uploaded apart from messages, and where they are.

use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use proto::{
    blob::v1::{
        BatchSignUrlsRequest, Blob, GetUploadRequest, Purpose, SignedUrl, UploadHeader,
        UploadRequest, UploadResponse, UrlRequest, Variant, blob_service_client::BlobServiceClient,
        upload_request::Part,
    },
    messaging::v1::Attachment,
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tonic::{Request, Status};
use uuid::Uuid;

use crate::{
    Client, Draft, Outgoing, Session,
    auth::authorized,
    backoff::Backoff,
    error::{Error, ErrorKind, Result},
    model::{ErrorReason, attachment_of},
};

/// Bytes of a blob that the server takes.
const BLOB_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of one message of an upload.
const PART_BYTES: usize = 64 * 1024;
/// Waits between tries of an upload that broke.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long a whole try may take: 16 MiB over a bad network, and the server's own bound.
const TRY_MAX: Duration = Duration::from_secs(60 * 60);

/// Uploads, and where blobs are. Made by [`Client::blobs`].
#[derive(Debug, Clone)]
pub struct Blobs {
    client: Client,
    patience: Duration,
}

/// What is uploaded.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file, which is read in parts and must stay as it is meanwhile.
    File(PathBuf),
    /// Bytes.
    Bytes(Bytes),
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// An upload that is finished.
#[derive(Clone, PartialEq)]
pub struct Uploaded {
    /// What it has become. What is served may differ from what was uploaded: it has no metadata.
    pub blob: Blob,
    /// What proves it, for 24 hours; keep it to yourself.
    pub receipt: String,
    /// The user had uploaded the same before; nothing was sent.
    pub existed: bool,
}

impl std::fmt::Debug for Uploaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uploaded")
            .field("blob", &self.blob)
            .field("existed", &self.existed)
            .finish_non_exhaustive()
    }
}

impl Uploaded {
    /// As a message has it.
    pub fn attachment(&self) -> Attachment {
        attachment_of(&self.blob)
    }
}

impl Client {
    /// Uploads, and where blobs are.
    pub fn blobs(&self) -> Blobs {
        Blobs {
            client: self.clone(),
            patience: Duration::from_secs(60),
        }
    }
}

impl Session {
    /// Uploads a picture or a video and queues a message with it. `progress` gets bytes sent and bytes
    /// in all.
    pub async fn send_attachment(
        &self,
        blobs: &Blobs,
        conversation_id: &str,
        source: impl Into<Source>,
        text: &str,
        progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<Outgoing> {
        let uploaded = blobs.upload(source, Purpose::Attachment, progress).await?;
        let draft = Draft::from(text).attach(&uploaded);
        self.send(conversation_id, draft).await
    }
}

impl Blobs {
    /// How long an upload is tried while nothing of it gets through; default 60 s.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Uploads. After a break it goes on where the server's bytes end, until the answer is definite or the
    /// patience is over. `progress` gets bytes sent and bytes in all.
    pub async fn upload(
        &self,
        source: impl Into<Source>,
        purpose: Purpose,
        progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<Uploaded> {
        self.upload_with_poster(source, purpose, "", progress).await
    }

    /// The same of a video, with the receipt of a picture that is shown in its place.
    pub async fn upload_with_poster(
        &self,
        source: impl Into<Source>,
        purpose: Purpose,
        poster_receipt: &str,
        progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<Uploaded> {
        let source = source.into();
        let (size_bytes, sha256) = source.measure().await?;
        if size_bytes == 0 || size_bytes > BLOB_BYTES_MAX {
            let message = "must have 1 byte to 16 MiB";
            return Err(Error::argument(
                ErrorReason::BlobTooLarge,
                "header.size_bytes",
                message,
            ));
        }
        let header = UploadHeader {
            upload_id: Uuid::now_v7().to_string(),
            offset: 0,
            size_bytes,
            sha256: sha256.to_vec(),
            purpose: purpose.into(),
            poster_receipt: poster_receipt.to_owned(),
        };
        let progress: Progress = Arc::new(progress);
        let mut backoff = Backoff::new(RETRY_WAIT.0, RETRY_WAIT.1);
        let mut give_up_at = tokio::time::Instant::now() + self.patience;
        let (mut offset, mut furthest) = (0, 0);
        loop {
            let header = UploadHeader {
                offset,
                ..header.clone()
            };
            let error = match self.try_once(&source, header.clone(), &progress).await {
                Ok(answer) => {
                    progress(size_bytes, size_bytes);
                    return uploaded(answer);
                }
                Err(error) => error,
            };
            let wait = backoff.next(error.retry_after());
            let is_definite = error.kind() == ErrorKind::Rejected;
            if is_definite || tokio::time::Instant::now() + wait >= give_up_at {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            if let Ok(arrived) = self.arrived(&header.upload_id).await {
                offset = arrived;
            }
            if offset > furthest {
                // Something gets through.
                furthest = offset;
                backoff.reset();
                give_up_at = tokio::time::Instant::now() + self.patience;
            }
        }
    }

    /// Where blobs can be downloaded: one answer for each request (at most 100), empty for what is not
    /// there or not for the user. Of an attachment, name the conversation and the seq of its message.
    pub async fn urls(&self, requests: Vec<UrlRequest>) -> Result<Vec<SignedUrl>> {
        let request = BatchSignUrlsRequest { urls: requests };
        let answer = self
            .client
            .call(request, async |channel, request| {
                BlobServiceClient::new(channel)
                    .batch_sign_urls(request)
                    .await
            })
            .await?;
        Ok(answer.urls)
    }

    /// Where an attachment of a message can be downloaded; `None` if it is not there.
    pub async fn url_of(
        &self,
        conversation_id: &str,
        seq: u64,
        attachment: &Attachment,
        variant: Variant,
    ) -> Result<Option<SignedUrl>> {
        let request = UrlRequest {
            blob_id: attachment.blob_id.clone(),
            variant: variant.into(),
            conversation_id: conversation_id.to_owned(),
            seq,
        };
        let url = self.urls(vec![request]).await?.pop();
        Ok(url.filter(|url| !url.url.is_empty()))
    }

    async fn arrived(&self, upload_id: &str) -> Result<u64> {
        let request = GetUploadRequest {
            upload_id: upload_id.to_owned(),
        };
        let answer = self
            .client
            .call(request, async |channel, request| {
                BlobServiceClient::new(channel).get_upload(request).await
            })
            .await?;
        Ok(answer.received_bytes)
    }

    async fn try_once(
        &self,
        source: &Source,
        header: UploadHeader,
        progress: &Progress,
    ) -> Result<UploadResponse> {
        let inner = &self.client.inner;
        let held = inner.auth.fresh().await?;
        let token = &held.credentials.access_token;
        let (offset, size) = (header.offset, header.size_bytes);
        let parts = source.open(offset, size).await?;
        let sent = Arc::new(AtomicU64::new(offset));
        let progress = progress.clone();
        let data = parts.map(move |data| {
            let length = data.len() as u64;
            let sent = sent.fetch_add(length, Ordering::Relaxed) + length;
            progress(sent, size);
            UploadRequest {
                part: Some(Part::Data(data)),
            }
        });
        let first = UploadRequest {
            part: Some(Part::Header(header)),
        };
        let messages = Messages(stream::once(async move { first }).chain(data).boxed());
        let mut request = authorized((), token)?.map(|()| messages);
        request.set_timeout(TRY_MAX);
        let way = inner.transport.way();
        let call = upload(way.channel.clone(), request);
        match call.await {
            Ok(answer) => Ok(answer),
            Err(status) => {
                let error = Error::from(status);
                inner.transport.failed(&way, &error);
                if error.reason() == ErrorReason::TokenExpired {
                    inner.auth.refresh(token).await?;
                }
                Err(error)
            }
        }
    }
}

/// What is sent of an upload. A type of its own, without a lifetime that the compiler would have to
/// believe in for an upload to be spawned.
struct Messages(stream::BoxStream<'static, UploadRequest>);

impl Stream for Messages {
    type Item = UploadRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

async fn upload(
    channel: tonic::transport::Channel,
    request: Request<Messages>,
) -> std::result::Result<UploadResponse, Status> {
    let answer = BlobServiceClient::new(channel).upload(request).await;
    answer.map(tonic::Response::into_inner)
}

fn uploaded(answer: UploadResponse) -> Result<Uploaded> {
    let missing = || Error::Protocol("an upload was answered without its blob".to_owned());
    Ok(Uploaded {
        blob: answer.blob.ok_or_else(missing)?,
        receipt: answer.receipt,
        existed: answer.existed,
    })
}

impl Source {
    /// Size and hash, read in parts.
    async fn measure(&self) -> Result<(u64, [u8; 32])> {
        match self {
            Self::Bytes(bytes) => Ok((bytes.len() as u64, Sha256::digest(bytes).into())),
            Self::File(path) => {
                let path = path.clone();
                let measured = tokio::task::spawn_blocking(move || {
                    let mut file = std::fs::File::open(path)?;
                    let mut hash = Sha256::new();
                    let size = std::io::copy(&mut file, &mut HashWriter(&mut hash))?;
                    Ok::<_, std::io::Error>((size, hash.finalize().into()))
                });
                let measured = measured.await.map_err(|error| unreadable(&error))?;
                measured.map_err(|error| unreadable(&error))
            }
        }
    }

    /// The bytes from `offset` to `size`. One that becomes shorter ends early, and the server says so.
    async fn open(&self, offset: u64, size: u64) -> Result<stream::BoxStream<'static, Bytes>> {
        match self {
            Self::Bytes(bytes) => {
                let from = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                let mut rest = bytes.slice(from..);
                let parts = std::iter::from_fn(move || {
                    let length = rest.len().min(PART_BYTES);
                    (length > 0).then(|| rest.split_to(length))
                });
                Ok(stream::iter(parts).boxed())
            }
            Self::File(path) => {
                let file = tokio::fs::File::open(path).await;
                let mut file = file.map_err(|error| unreadable(&error))?;
                let sought = file.seek(SeekFrom::Start(offset)).await;
                sought.map_err(|error| unreadable(&error))?;
                let file = file.take(size.saturating_sub(offset));
                Ok(stream::unfold(file, async |mut file| {
                    let mut part = Vec::with_capacity(PART_BYTES);
                    let read = (&mut file)
                        .take(PART_BYTES as u64)
                        .read_to_end(&mut part)
                        .await;
                    match read {
                        Ok(length) if length > 0 => Some((Bytes::from(part), file)),
                        _ => None,
                    }
                })
                .boxed())
            }
        }
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::Storage(format!("the file cannot be read: {error}"))
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

//! Pictures and videos: [`Client::blobs`].

use std::time::Duration;

use proto::blob::v1::{
    BatchSignUrlsRequest, SignedUrl, UploadResponse, UrlRequest,
    blob_service_client::BlobServiceClient,
};
use tokio::io::AsyncWrite;

use crate::{
    accounts::present,
    client::Client,
    error::{Error, Result},
    model::{Attachment, Blob, Purpose, Variant, attachment_of},
};

mod download;
pub(crate) mod http;
mod send;
mod sink;
mod source;
mod upload;

pub use download::{Download, Downloaded};
pub use source::Source;

/// How long an upload or a download is tried without getting on, unless [`Blobs::patience`] says
/// otherwise: longer than a server takes to be started again, or another to take over.
const PATIENCE: Duration = Duration::from_secs(60);
/// URLs in one request.
const URLS_MAX: usize = 100;

/// The pictures and videos of messages, profiles and groups.
///
/// What is uploaded and downloaded is read and written in parts, never held as a whole. Both go on where
/// they were after a break, until they are done, the answer is definite, or nothing has got on for
/// [`Blobs::patience`].
#[derive(Debug, Clone)]
pub struct Blobs {
    client: Client,
    patience: Duration,
}

/// How far an upload or a download is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have arrived: of an upload, at the server. They become fewer when what arrived had to
    /// be thrown away.
    pub done_bytes: u64,
    /// Of the whole.
    pub total_bytes: u64,
}

/// What is to be uploaded, and what for.
#[derive(Debug, Clone)]
pub struct Upload {
    source: Source,
    purpose: Purpose,
    poster_receipt: String,
}

impl Upload {
    /// A picture or a video of a message.
    pub fn attachment(source: impl Into<Source>) -> Self {
        Self {
            source: source.into(),
            purpose: Purpose::Attachment,
            poster_receipt: String::new(),
        }
    }

    /// The picture of a profile or a group.
    pub fn picture(source: impl Into<Source>) -> Self {
        Self {
            purpose: Purpose::Picture,
            ..Self::attachment(source)
        }
    }

    /// A picture to show in place of the video that is uploaded.
    #[must_use]
    pub fn poster(mut self, poster: &Uploaded) -> Self {
        self.poster_receipt.clone_from(&poster.receipt);
        self
    }
}

/// What was uploaded.
#[derive(Clone, PartialEq)]
pub struct Uploaded {
    /// What is served: not always the bytes that were uploaded.
    pub blob: Blob,
    /// What proves the upload, for [`crate::Draft::attach`], profiles and groups. Good for 24 hours.
    pub receipt: String,
    /// Until when.
    pub receipt_expires_unix_ms: i64,
    /// The user had uploaded the same bytes before for the same purpose.
    pub existed: bool,
}

impl std::fmt::Debug for Uploaded {
    // The receipt lets its owner send the blob: it is nothing for a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uploaded")
            .field("blob", &self.blob)
            .field("existed", &self.existed)
            .finish_non_exhaustive()
    }
}

impl Uploaded {
    fn new(answer: UploadResponse) -> Result<Self> {
        Ok(Self {
            blob: present(answer.blob)?,
            receipt: answer.receipt,
            receipt_expires_unix_ms: answer.receipt_expires_unix_ms,
            existed: answer.existed,
        })
    }

    /// What a message has that is sent with it.
    pub fn attachment(&self) -> Attachment {
        attachment_of(&self.blob)
    }
}

impl Client {
    /// Pictures and videos: upload, download, and where they are.
    pub fn blobs(&self) -> Blobs {
        Blobs {
            client: self.clone(),
            patience: PATIENCE,
        }
    }
}

impl Blobs {
    /// How long something is tried that does not get on; default 60 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Uploads. Refused without asking the server: a source that is empty, or larger than 16 MiB
    /// ([`BlobTooLarge`](crate::ErrorReason::BlobTooLarge)). [`Error::Storage`] if it cannot be read.
    ///
    /// Uploading the same bytes again is cheap: the server has them, and gives a new receipt.
    pub async fn upload(
        &self,
        upload: Upload,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<Uploaded> {
        upload::run(self, upload, progress).await
    }

    /// Downloads into a new file. It is written beside, verified, and put in place: at this path is the
    /// whole or nothing. [`Error::Storage`] if there is a file already, which is left as it is.
    ///
    /// Of an attachment's original, size and SHA-256 are those that the message says, or it is an
    /// [`Error::Protocol`]. Nothing larger than the message says is taken.
    pub async fn download(
        &self,
        download: Download,
        path: impl Into<std::path::PathBuf>,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<Downloaded> {
        let path = path.into();
        let mut file = sink::BesideFile::create(&path).await?;
        let downloaded = download::run(self, &download, &mut file, progress).await?;
        file.put_in_place(&path).await?;
        Ok(downloaded)
    }

    /// Downloads into a writer, such as a pipe. As [`Blobs::download`], but what is wrong is known when it
    /// has been written: nothing of it is to be used before this returns.
    pub async fn download_to(
        &self,
        download: Download,
        writer: &mut (impl AsyncWrite + Unpin + Send),
        progress: impl FnMut(Progress) + Send,
    ) -> Result<Downloaded> {
        let mut sink = sink::Writer(writer);
        download::run(self, &download, &mut sink, progress).await
    }

    /// Downloads into memory: for thumbnails, and for who shows what he gets at once.
    pub async fn read(&self, download: Download) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        download::run(self, &download, &mut bytes, |_| ()).await?;
        Ok(bytes)
    }

    /// A URL, for a system that loads pictures itself: good for everybody who has it, until it expires.
    /// [`BlobNotFound`](crate::ErrorReason::BlobNotFound) if there is no such blob or variant, or the
    /// user may not see it.
    pub async fn url(&self, download: &Download) -> Result<SignedUrl> {
        let mut urls = self.urls(std::slice::from_ref(download)).await?;
        let url = present(urls.pop())?;
        match url.url.is_empty() {
            true => Err(download::not_found()),
            false => Ok(url),
        }
    }

    /// The URLs of many, in the same order; an empty one where [`Blobs::url`] would be an error.
    pub async fn urls(&self, downloads: &[Download]) -> Result<Vec<SignedUrl>> {
        let mut urls = Vec::with_capacity(downloads.len());
        for some in downloads.chunks(URLS_MAX) {
            let request = BatchSignUrlsRequest {
                urls: some.iter().map(Download::url_request).collect(),
            };
            let answer = self
                .client
                .call(request, async |channel, request| {
                    BlobServiceClient::new(channel)
                        .batch_sign_urls(request)
                        .await
                })
                .await?;
            if answer.urls.len() != some.len() {
                let message = "an answer has another number of urls than was asked for";
                return Err(Error::Protocol(message.to_owned()));
            }
            urls.extend(answer.urls);
        }
        Ok(urls)
    }
}

impl Download {
    fn url_request(&self) -> UrlRequest {
        let (conversation_id, seq) = self.place.clone().unwrap_or_default();
        UrlRequest {
            blob_id: self.blob_id.clone(),
            variant: match self.variant {
                Variant::Unspecified => Variant::Original.into(),
                variant => variant.into(),
            },
            conversation_id,
            seq,
        }
    }
}

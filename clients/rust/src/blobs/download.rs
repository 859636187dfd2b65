//! A download, from its URL to its checksum.
//!
//! After a break it goes on where it was, at the same URL; at a new one when the URL is refused, as it is
//! when it has expired, or when the connection breaks again and again.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tonic::Code;

use super::{
    Blobs, Progress,
    http::{From, next},
    sink::Sink,
};
use crate::{
    backoff::Backoff,
    error::{Error, ErrorKind, Result, ServerError},
    model::{Attachment, ErrorReason, Message, Variant},
};

/// Bytes of a blob whose size is not known before: one of 16 MiB that was uploaded may become somewhat
/// larger when it is turned upright.
const UNKNOWN_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The first bound of the wait between tries, and the largest.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Tries at one URL that bring nothing, before a new one is asked for.
const FRUITLESS_MAX: u32 = 3;
/// URLs in a row that are refused: a new one that is refused too says that asking again is useless.
const REFUSED_MAX: u32 = 2;

/// What is to be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    pub(super) blob_id: String,
    pub(super) variant: Variant,
    /// The event that has it as an attachment.
    pub(super) place: Option<(String, u64)>,
    attachment: Option<Attachment>,
}

impl Download {
    /// The original of an attachment of a message.
    pub fn attachment(message: &Message, attachment: &Attachment) -> Self {
        Self::at(&message.conversation_id, message.seq, attachment)
    }

    /// The original of an attachment of the message at this seq of a conversation.
    pub fn at(conversation_id: &str, seq: u64, attachment: &Attachment) -> Self {
        Self {
            place: Some((conversation_id.to_owned(), seq)),
            attachment: Some(attachment.clone()),
            ..Self::blob(&attachment.blob_id)
        }
    }

    /// The original of an own blob, or of the picture of a profile or a group, of which nothing but the
    /// id is known.
    pub fn blob(blob_id: impl Into<String>) -> Self {
        Self {
            blob_id: blob_id.into(),
            variant: Variant::Original,
            place: None,
            attachment: None,
        }
    }

    /// A thumbnail instead of the original.
    #[must_use]
    pub fn variant(mut self, variant: Variant) -> Self {
        self.variant = variant;
        self
    }

    /// The size, if it is known.
    fn size_bytes(&self) -> Result<Option<u64>> {
        let Some(attachment) = &self.attachment else {
            return Ok(None);
        };
        let thumbnail = match self.variant {
            Variant::Unspecified | Variant::Original => return Ok(Some(attachment.size_bytes)),
            Variant::Small => &attachment.small,
            Variant::Large => &attachment.large,
        };
        match thumbnail {
            Some(thumbnail) => Ok(Some(thumbnail.size_bytes)),
            None => Err(not_found()),
        }
    }

    fn sha256(&self) -> Option<&[u8]> {
        match self.variant {
            Variant::Unspecified | Variant::Original => {
                self.attachment.as_ref().map(|a| a.sha256.as_slice())
            }
            Variant::Small | Variant::Large => None,
        }
    }
}

/// What was downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// Its size.
    pub size_bytes: u64,
    /// Of these bytes.
    pub sha256: Vec<u8>,
    /// As the server says; empty if it does not.
    pub media_type: String,
}

pub(super) fn not_found() -> Error {
    Error::Server(ServerError {
        code: Code::NotFound,
        reason: ErrorReason::BlobNotFound,
        message: "no such blob, no such variant, or not for this user".to_owned(),
        field: String::new(),
        retry_after: None,
    })
}

/// Why a try did not bring all.
enum Stop {
    /// It goes on after a while.
    Broken(Error),
    /// The URL is good no longer, or never was.
    Refused(StatusCode),
    /// Trying again is useless.
    Failed(Error),
}

struct Downloading<'a, S: ?Sized, P> {
    blobs: &'a Blobs,
    sink: &'a mut S,
    progress: P,
    size_bytes: Option<u64>,
    done: u64,
    hash: Sha256,
    etag: Option<HeaderValue>,
    media_type: String,
    give_up_at: Instant,
}

pub(super) async fn run<S: Sink + ?Sized, P: FnMut(Progress) + Send>(
    blobs: &Blobs,
    download: &Download,
    sink: &mut S,
    progress: P,
) -> Result<Downloaded> {
    let mut downloading = Downloading {
        blobs,
        sink,
        progress,
        size_bytes: download.size_bytes()?,
        done: 0,
        hash: Sha256::new(),
        etag: None,
        media_type: String::new(),
        give_up_at: Instant::now() + blobs.patience,
    };
    downloading.run(download).await?;
    downloading.sink.end().await?;
    let sha256 = downloading.hash.finalize().to_vec();
    if download.sha256().is_some_and(|known| known != sha256) {
        let message = "what was downloaded is not what the message says";
        return Err(Error::Protocol(message.to_owned()));
    }
    Ok(Downloaded {
        size_bytes: downloading.done,
        sha256,
        media_type: downloading.media_type,
    })
}

impl<S: Sink + ?Sized, P: FnMut(Progress) + Send> Downloading<'_, S, P> {
    async fn run(&mut self, download: &Download) -> Result<()> {
        let mut backoff = Backoff::new(RETRY_WAIT.0, RETRY_WAIT.1);
        let (mut url, mut fruitless, mut refused) = (None, 0, 0);
        loop {
            let done_before = self.done;
            let stop = match self.step(download, &mut url).await {
                Ok(()) => return Ok(()),
                Err(stop) => stop,
            };
            if self.done > done_before {
                backoff.reset();
                (fruitless, refused) = (0, 0);
            }
            let error = match stop {
                Stop::Failed(error) => return Err(error),
                Stop::Refused(status) => {
                    url = None;
                    refused += 1;
                    if refused >= REFUSED_MAX {
                        return Err(Error::Protocol(format!("a new url is refused: {status}")));
                    }
                    continue;
                }
                Stop::Broken(error) => error,
            };
            fruitless += 1;
            if fruitless >= FRUITLESS_MAX {
                (url, fruitless) = (None, 0);
            }
            let wait = backoff.next(error.retry_after());
            if Instant::now() + wait >= self.give_up_at {
                return Err(error);
            }
            tracing::debug!(%error, "a download is tried again");
            tokio::time::sleep(wait).await;
        }
    }

    /// One try, with a URL if there is none.
    async fn step(
        &mut self,
        download: &Download,
        url: &mut Option<String>,
    ) -> std::result::Result<(), Stop> {
        let url = match url {
            Some(url) => url,
            None => {
                let signed = self.blobs.url(download).await.map_err(stop)?;
                url.insert(signed.url)
            }
        };
        let from = From {
            offset: self.done,
            etag: self.etag.as_ref(),
        };
        let http = &self.blobs.client.inner.http;
        let answer = http.get(url, from).await.map_err(stop)?;
        let mut body = self.head(answer).await?;
        while let Some(bytes) = next(&mut body).await.map_err(Stop::Broken)? {
            self.take(&bytes).await.map_err(Stop::Failed)?;
        }
        match self.size_bytes {
            Some(size) if self.done < size => Err(Stop::Broken(Error::Transport(
                "a download ended early".to_owned(),
            ))),
            _ => Ok(()),
        }
    }

    /// Looks whether the answer goes on where this download is.
    async fn head(&mut self, answer: Response<Incoming>) -> std::result::Result<Incoming, Stop> {
        let (head, body) = answer.into_parts();
        let headers = &head.headers;
        let (offset, total) = match head.status {
            StatusCode::OK => (0, number(headers, header::CONTENT_LENGTH)),
            StatusCode::PARTIAL_CONTENT => content_range(headers)
                .ok_or_else(|| failed("an answer does not say which part it is"))?,
            status => return Err(refusal(status, headers)),
        };
        let etag = headers.get(header::ETAG).cloned();
        let is_another = self.etag.is_some() && etag != self.etag;
        if self.done > 0 && (offset == 0 || is_another) {
            self.begin_again().await.map_err(Stop::Failed)?;
        }
        if offset != self.done {
            return Err(failed("an answer is another part than was asked for"));
        }
        if let (Some(known), Some(total)) = (self.size_bytes, total)
            && known != total
        {
            return Err(failed("what is downloaded has another size than it should"));
        }
        let size = self.size_bytes.or(total);
        if size.is_some_and(|size| size > UNKNOWN_BYTES_MAX) {
            return Err(failed("what is downloaded is too large"));
        }
        self.size_bytes = size;
        self.etag = etag;
        let media_type = headers.get(header::CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok());
        self.media_type = media_type.unwrap_or_default().to_owned();
        self.tell();
        Ok(body)
    }

    async fn begin_again(&mut self) -> Result<()> {
        self.sink.begin_again().await?;
        self.hash = Sha256::new();
        self.done = 0;
        Ok(())
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let done = self.done.saturating_add(bytes.len() as u64);
        if done > self.size_bytes.unwrap_or(UNKNOWN_BYTES_MAX) {
            let message = "what is downloaded is larger than it should be";
            return Err(Error::Protocol(message.to_owned()));
        }
        self.sink.write(bytes).await?;
        self.hash.update(bytes);
        self.done = done;
        self.give_up_at = Instant::now() + self.blobs.patience;
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        (self.progress)(Progress {
            done_bytes: self.done,
            total_bytes: self.size_bytes.unwrap_or(self.done),
        });
    }
}

/// What an error of asking means.
fn stop(error: Error) -> Stop {
    match error.kind() {
        ErrorKind::Rejected => Stop::Failed(error),
        ErrorKind::Retryable | ErrorKind::Unknown => Stop::Broken(error),
    }
}

fn failed(message: &str) -> Stop {
    Stop::Failed(Error::Protocol(message.to_owned()))
}

fn refusal(status: StatusCode, headers: &HeaderMap) -> Stop {
    let retry_after = number(headers, header::RETRY_AFTER).map(Duration::from_secs);
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {}
        status if status.is_server_error() => {}
        status if status.is_client_error() => return Stop::Refused(status),
        status => return failed(&format!("a signed url answers with {status}")),
    }
    Stop::Broken(Error::Server(ServerError {
        code: Code::Unavailable,
        reason: ErrorReason::Unspecified,
        message: format!("download: {status}"),
        field: String::new(),
        retry_after,
    }))
}

fn number(headers: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Where the part begins, and the size of the whole: `bytes 5-9/10`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, total.parse().ok()))
}

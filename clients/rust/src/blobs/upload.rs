//! An upload, from its checksum to its receipt.
//!
//! The `upload_id` is chosen once. After a break the server is asked how much it has, and the next try
//! goes on there. What is counted as progress is what the server says that it keeps.

use std::time::Duration;

use proto::blob::v1::{
    GetUploadRequest, GetUploadResponse, UploadHeader, UploadRequest,
    blob_service_client::BlobServiceClient, upload_request::Part,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::{Blobs, Progress, Upload, Uploaded, source::Opened};
use crate::{
    auth::authorized,
    backoff::Backoff,
    error::{Error, ErrorKind, Result},
    model::ErrorReason,
};

/// The first bound of the wait between tries, and the largest.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Parts that are read ahead of what the connection takes: 256 KiB.
const PARTS_AHEAD: usize = 4;
/// How often the server is asked how much it has, while data is sent.
const LOOK: Duration = Duration::from_secs(1);
/// How long a try may go on without anything more at the server: a connection may be half-open. The
/// server reads a picture in that time, too, when it has all of it.
const STALLED_AFTER: Duration = Duration::from_secs(20);

struct Uploading<'a, P> {
    blobs: &'a Blobs,
    upload: &'a Upload,
    source: Opened,
    upload_id: String,
    /// What the server is known to have.
    kept: u64,
    /// The most that it ever had.
    kept_max: u64,
    give_up_at: Instant,
    progress: P,
}

pub(super) async fn run<P: FnMut(Progress) + Send>(
    blobs: &Blobs,
    upload: Upload,
    progress: P,
) -> Result<Uploaded> {
    let source = upload.source.clone().open().await?;
    let uploading = Uploading {
        blobs,
        upload: &upload,
        source,
        upload_id: Uuid::new_v4().to_string(),
        kept: 0,
        kept_max: 0,
        give_up_at: Instant::now() + blobs.patience,
        progress,
    };
    uploading.run().await
}

impl<P: FnMut(Progress) + Send> Uploading<'_, P> {
    async fn run(mut self) -> Result<Uploaded> {
        self.tell();
        let mut backoff = Backoff::new(RETRY_WAIT.0, RETRY_WAIT.1);
        loop {
            let kept_before = self.kept_max;
            let error = match self.send().await {
                Ok(uploaded) => return Ok(self.finished(uploaded)),
                Err(error) => error,
            };
            self.look_at(&error, &mut backoff).await?;
            // Where to go on. It may be finished: then only the answer was lost.
            loop {
                match ask(self.blobs, &self.upload_id).await {
                    Ok(GetUploadResponse {
                        finished: Some(answer),
                        ..
                    }) => {
                        let uploaded = Uploaded::new(answer)?;
                        return Ok(self.finished(uploaded));
                    }
                    Ok(answer) => break self.has(answer.received_bytes),
                    // Nothing of it had arrived, or it was given up.
                    Err(error) if error.reason() == ErrorReason::UploadNotFound => {
                        break self.has(0);
                    }
                    Err(error) => self.look_at(&error, &mut backoff).await?,
                }
            }
            if self.kept_max > kept_before {
                backoff.reset();
            }
        }
    }

    /// Waits before another try, unless there is none.
    async fn look_at(&mut self, error: &Error, backoff: &mut Backoff) -> Result<()> {
        let wait = backoff.next(error.retry_after());
        let is_definite = error.kind() == ErrorKind::Rejected;
        if is_definite || Instant::now() + wait >= self.give_up_at {
            return Err(error.clone());
        }
        tracing::debug!(%error, "an upload is tried again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// One try: all that the server does not have yet.
    async fn send(&mut self) -> Result<Uploaded> {
        let client = &self.blobs.client;
        let held = client.inner.auth.fresh().await?;
        let token = &held.credentials.access_token;
        let way = client.inner.transport.way();
        let (parts, receiver) = mpsc::channel(PARTS_AHEAD);
        let request = authorized(ReceiverStream::new(receiver), token)?;
        let mut service = BlobServiceClient::new(way.channel.clone());
        let answer = service.upload(request);
        let feed = feed(self.source.clone(), self.header(), parts);
        let looking = ask_later(self.blobs, self.upload_id.clone());
        tokio::pin!(answer, feed, looking);
        let mut is_fed = false;
        let mut stalled_at = Instant::now() + STALLED_AFTER;
        let error = loop {
            // The server may answer before all is sent; then nothing more is.
            tokio::select! {
                answer = &mut answer => match answer {
                    Ok(answer) => return Uploaded::new(answer.into_inner()),
                    Err(status) => break Error::from(status),
                },
                fed = &mut feed, if !is_fed => {
                    fed?;
                    is_fed = true;
                }
                looked = &mut looking => {
                    // What cannot be asked for now is asked for again soon.
                    if looked.is_ok_and(|answer| self.has_more(answer.received_bytes)) {
                        stalled_at = Instant::now() + STALLED_AFTER;
                    }
                    looking.set(ask_later(self.blobs, self.upload_id.clone()));
                }
                () = tokio::time::sleep_until(stalled_at) => {
                    client.inner.transport.leave(&way);
                    return Err(Error::Timeout(STALLED_AFTER));
                }
            }
        };
        if error.reason() == ErrorReason::TokenExpired {
            // The error stands, and is one to be tried again.
            client.inner.auth.refresh(token).await?;
        }
        client.inner.transport.failed(&way, &error);
        Err(error)
    }

    fn header(&self) -> UploadHeader {
        UploadHeader {
            upload_id: self.upload_id.clone(),
            offset: self.kept,
            size_bytes: self.source.size_bytes,
            sha256: self.source.sha256.clone(),
            purpose: self.upload.purpose.into(),
            poster_receipt: self.upload.poster_receipt.clone(),
        }
    }

    /// While it is sent: the server has at least so much.
    fn has_more(&mut self, bytes: u64) -> bool {
        let is_more = bytes > self.kept;
        if is_more {
            self.has(bytes);
        }
        is_more
    }

    /// The server has so much.
    fn has(&mut self, bytes: u64) {
        let bytes = bytes.min(self.source.size_bytes);
        if bytes > self.kept_max {
            self.kept_max = bytes;
            self.give_up_at = Instant::now() + self.blobs.patience;
        }
        if bytes != self.kept {
            self.kept = bytes;
            self.tell();
        }
    }

    fn finished(&mut self, uploaded: Uploaded) -> Uploaded {
        self.has(self.source.size_bytes);
        uploaded
    }

    fn tell(&mut self) {
        (self.progress)(Progress {
            done_bytes: self.kept,
            total_bytes: self.source.size_bytes,
        });
    }
}

async fn ask(blobs: &Blobs, upload_id: &str) -> Result<GetUploadResponse> {
    let request = GetUploadRequest {
        upload_id: upload_id.to_owned(),
    };
    let call = async |channel, request| BlobServiceClient::new(channel).get_upload(request).await;
    blobs.client.authorized_once(request, &call).await
}

async fn ask_later(blobs: &Blobs, upload_id: String) -> Result<GetUploadResponse> {
    tokio::time::sleep(LOOK).await;
    ask(blobs, &upload_id).await
}

/// Sends the header and what comes after its offset, until nobody takes it any more.
async fn feed(
    source: Opened,
    header: UploadHeader,
    parts: mpsc::Sender<UploadRequest>,
) -> Result<()> {
    let mut offset = header.offset;
    let mut part = Part::Header(header);
    loop {
        let request = UploadRequest { part: Some(part) };
        if parts.send(request).await.is_err() || offset >= source.size_bytes {
            return Ok(());
        }
        let data = source.part(offset).await?;
        offset += data.len() as u64;
        part = Part::Data(data);
    }
}

//! Uploads by calls: broken, at the same time, silent, and with more than was said.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use harness::{Device, Refusal, TestServer, eventually, refused, within};
use proto::{
    blob::v1::{UploadRequest, UploadResponse},
    error::v1::ErrorReason as R,
};
use runtime::clock::{Clock, ManualClock, SystemClock};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Status;

use super::{
    Content, MIB, PART_BYTES, UNWRITTEN_BYTES, blob, blobs, data, files, own_bytes, png, video,
};

/// An upload whose messages are sent one by one.
struct Slow {
    messages: mpsc::Sender<UploadRequest>,
    call: JoinHandle<Result<UploadResponse, Status>>,
}

impl Slow {
    fn begin(device: &Device) -> Self {
        let (messages, asked) = mpsc::channel(1);
        let mut calls = blobs(device);
        let call = tokio::spawn(async move {
            let answer = calls.upload(ReceiverStream::new(asked)).await?;
            Ok(answer.into_inner())
        });
        Self { messages, call }
    }

    async fn say(&self, messages: impl IntoIterator<Item = UploadRequest>) {
        for message in messages {
            // The server may have answered already.
            let _ = within("room", self.messages.send(message)).await;
        }
    }

    async fn ends(self) -> Result<UploadResponse, Status> {
        within("an answer", self.call).await.unwrap()
    }
}

/// Goes on with an upload until it is finished, as a client does.
async fn go_on(content: &Content, device: &Device) -> UploadResponse {
    eventually("the upload is finished", async || {
        let progress = content.progress(device).await.unwrap();
        let offset = usize::try_from(progress.received_bytes).unwrap();
        match content.send(device, offset).await {
            Ok(uploaded) => Some(uploaded),
            Err(status) => {
                let reason = Refusal::from(&status).reason;
                let is_passing = [R::UploadOffsetWrong, R::UploadBusy].contains(&reason);
                assert!(is_passing, "{status:?}");
                None
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_goes_on_where_it_was() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let content = Content::new(video(1, 6 * MIB));
    let missing = refused(content.progress(&ada).await);
    missing.is(R::UploadNotFound, "");
    let mut offset = 0;
    for _ in 0..2 {
        let slow = Slow::begin(&ada);
        let end = offset + 2 * MIB;
        let mut messages = content.messages(offset);
        messages.truncate(1 + 2 * MIB / PART_BYTES);
        slow.say(messages).await;
        eventually("most of it has arrived", async || {
            let progress = content.progress(&ada).await.ok()?;
            (progress.received_bytes as usize + UNWRITTEN_BYTES >= end).then_some(())
        })
        .await;
        slow.call.abort();
        let _ = slow.call.await;
        // What it says is what it goes on from, though the broken call may have been writing.
        offset = eventually("it is at rest", async || {
            let before = content.progress(&ada).await.unwrap().received_bytes;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = content.progress(&ada).await.unwrap();
            assert_eq!(now.finished, None);
            (now.received_bytes == before).then_some(before as usize)
        })
        .await;
        assert!(offset <= end && offset + UNWRITTEN_BYTES >= end, "{offset}");
    }
    let wrong = refused(content.send(&ada, offset + 1).await);
    wrong.is(R::UploadOffsetWrong, "offset");
    let uploaded = go_on(&content, &ada).await;
    assert!(!uploaded.existed);
    assert!(
        own_bytes(&ada, &uploaded).await == content.bytes,
        "other bytes"
    );
    let finished = content.progress(&ada).await.unwrap();
    assert_eq!(finished.received_bytes, content.bytes.len() as u64);
    assert_eq!(finished.finished.unwrap().blob, uploaded.blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_connections_of_one_upload_the_newer_one_has_it() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let content = Content::new(video(2, 3 * MIB));
    let older = Slow::begin(&ada);
    let mut messages = content.messages(0);
    messages.truncate(1 + MIB / PART_BYTES);
    older.say(messages).await;
    eventually("it has begun", async || {
        let progress = content.progress(&ada).await.ok()?;
        (progress.received_bytes > 0).then_some(())
    })
    .await;
    // The older connection is open, and nobody waits until the server gives it up.
    let uploaded = go_on(&content, &ada).await;
    refused(older.ends().await).is(R::UploadBusy, "");
    assert!(
        own_bytes(&ada, &uploaded).await == content.bytes,
        "other bytes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_send_one_upload_at_once_make_one_blob() {
    let clock = ManualClock::at(SystemClock.now_unix_ms());
    let server = super::removed::server(&clock).await;
    let ada = server.user("ada").await;
    for content in [video(3, 2 * MIB), png(3)] {
        let before = files(&server.data(), "blobs").len();
        let content = Content::new(content);
        let calls = (0..6).map(|_| {
            let (content, ada) = (content.clone(), ada.clone());
            tokio::spawn(async move { content.send(&ada, 0).await })
        });
        let mut made = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            match within("an answer", call).await.unwrap() {
                Ok(uploaded) => made.push(uploaded),
                Err(status) => {
                    let reason = Refusal::from(&status).reason;
                    let is_passing = [R::UploadOffsetWrong, R::UploadBusy].contains(&reason);
                    assert!(is_passing, "{status:?}");
                }
            }
        }
        let uploaded = go_on(&content, &ada).await;
        assert!(made.iter().all(|made| made.blob == uploaded.blob));
        // A picture has two thumbnails.
        let count = if blob(&uploaded).small.is_some() {
            3
        } else {
            1
        };
        assert_eq!(files(&server.data(), "blobs").len(), before + count);
        assert!(
            own_bytes(&ada, &uploaded).await == content.bytes,
            "other bytes"
        );
    }
    // What a connection that was replaced has written last goes with the upload.
    eventually("nothing is left of them", async || {
        clock.advance(60 * 60 * 1_000);
        files(&server.data(), "uploads").is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_falls_silent_is_given_up_and_can_go_on() {
    let builder = TestServer::builder();
    let silence = Duration::from_millis(200);
    let server = builder
        .config(move |config| config.blob.silence_max = silence)
        .start()
        .await;
    let ada = server.user("ada").await;
    // From the beginning.
    let slow = Slow::begin(&ada);
    refused(slow.ends().await).is(R::UploadSilent, "");
    // In the middle: all that came is kept.
    let content = Content::new(video(4, 2 * MIB));
    let slow = Slow::begin(&ada);
    let mut parts = content.messages(0);
    parts.truncate(1 + MIB / PART_BYTES);
    slow.say(parts).await;
    refused(slow.ends().await).is(R::UploadSilent, "");
    let progress = content.progress(&ada).await.unwrap();
    assert_eq!(progress.received_bytes, MIB as u64);
    let uploaded = content.send(&ada, MIB).await.unwrap();
    assert!(
        own_bytes(&ada, &uploaded).await == content.bytes,
        "other bytes"
    );
}

#[tokio::test]
async fn more_bytes_than_were_said_are_noticed_as_they_arrive() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let said = Content::new(video(5, MIB));
    // Without an end: it would be refused at no other moment.
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let header = tokio_stream::once(said.header(0));
    let endless = std::iter::repeat_with(move || {
        counted.fetch_add(PART_BYTES, Ordering::Relaxed);
        data(&[1; PART_BYTES])
    });
    let mut head = said.messages(0);
    head.truncate(2);
    let first = tokio_stream::iter(head.pop());
    let messages = header.chain(first).chain(tokio_stream::iter(endless));
    let mut calls = blobs(&ada);
    let answer = within("an answer", calls.upload(messages)).await;
    refused(answer).is(R::BlobTooLarge, "");
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent <= 8 * MIB, "{sent} bytes went before it");
    // They were none of the upload.
    refused(said.progress(&ada).await).is(R::UploadNotFound, "");
    assert_eq!(files(&server.data(), "uploads"), []);
    let uploaded = said.upload(&ada).await;
    assert!(
        own_bytes(&ada, &uploaded).await == said.bytes,
        "other bytes"
    );

    // Fewer than were said are an upload that is not finished, and no blob.
    let content = Content::new(video(6, MIB));
    let mut fewer = content.messages(0);
    fewer.pop();
    let answer = blobs(&ada).upload(tokio_stream::iter(fewer)).await;
    refused(answer).is(R::UploadOffsetWrong, "offset");
    let progress = content.progress(&ada).await.unwrap();
    assert_eq!(progress.received_bytes as usize, MIB - PART_BYTES);

    // Said at once.
    let content = Content::new(video(7, 16 * MIB + 1));
    refused(content.send(&ada, 0).await).is(R::BlobTooLarge, "size_bytes");
    assert_eq!(
        refused(content.progress(&ada).await).reason,
        R::UploadNotFound
    );
}

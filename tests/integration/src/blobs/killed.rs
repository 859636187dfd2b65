//! Uploads through SIGKILL of the server: what it has said is there, is there.

use std::time::Duration;

use harness::{Device, ServerProcess, StandaloneOptions, eventually, register};
use proto::blob::v1::{UploadResponse, Variant};
use rand::RngExt;
use tokio_stream::StreamExt;

use super::{
    Content, MIB, PART_BYTES, attach, blob, blobs, encoded, files, http::ask, image, own_bytes,
    png, url_in, video,
};

/// How often the server is killed at some moment between the last byte and the answer.
const KILLS: usize = 6;

/// Goes on with an upload until it is answered; a server that is away is waited for.
async fn go_on(content: &Content, device: &Device) -> UploadResponse {
    eventually("the upload is finished", async || {
        let received = match content.progress(device).await {
            Ok(progress) => progress.received_bytes,
            // It may not have been begun.
            Err(_) => 0,
        };
        let offset = usize::try_from(received).unwrap();
        content.send(device, offset).await.ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_arrived_survives_kill_nine_and_the_upload_goes_on() {
    let mut server = ServerProcess::start(StandaloneOptions::default());
    let mut ada = register(&server.url(), "ada").await;
    let content = Content::new(video(1, 6 * MIB));
    // Begins, and does not end.
    let mut messages = content.messages(0);
    messages.truncate(1 + 4 * MIB / PART_BYTES);
    let messages = tokio_stream::iter(messages).chain(tokio_stream::pending());
    let mut calls = blobs(&ada);
    let call = tokio::spawn(async move { calls.upload(messages).await.map(drop) });
    let said = eventually("much of it has arrived", async || {
        let received = content.progress(&ada).await.ok()?.received_bytes;
        (received >= 2 * MIB as u64).then_some(received)
    })
    .await;
    server.kill();
    assert!(call.await.unwrap().is_err());
    server.start_again();
    ada.reconnect();
    let now = content.progress(&ada).await.unwrap();
    assert!(
        now.received_bytes >= said,
        "{} of {said}",
        now.received_bytes
    );
    let offset = usize::try_from(now.received_bytes).unwrap();
    let uploaded = content.send(&ada, offset).await.unwrap();
    assert!(!uploaded.existed);
    assert!(
        own_bytes(&ada, &uploaded).await == content.bytes,
        "other bytes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_kill_nine_and_a_message_has_it() {
    let mut server = ServerProcess::start(StandaloneOptions::default());
    let mut ada = register(&server.url(), "ada").await;
    let mut grace = register(&server.url(), "grace").await;
    let conversation = ada.with(&grace);
    let (clip, picture) = (Content::new(video(2, 3 * MIB)), Content::new(png(2)));
    let mut uploaded = Vec::new();
    for content in [&clip, &picture] {
        uploaded.push(content.upload(&ada).await);
        server.kill();
        server.start_again();
        ada.reconnect();
        let finished = content.progress(&ada).await.unwrap().finished;
        assert_eq!(finished.unwrap().blob, uploaded.last().unwrap().blob);
    }
    let served = own_bytes(&ada, &uploaded[1]).await;
    let receipts: Vec<&str> = uploaded.iter().map(|u| u.receipt.as_str()).collect();
    // The receipt is of the server before.
    let seq = attach(&ada, &conversation, &receipts).await.unwrap();
    server.kill();
    server.start_again();
    grace.reconnect();
    for (uploaded, bytes) in uploaded.iter().zip([&clip.bytes, &served]) {
        let id = &blob(uploaded).blob_id;
        let url = url_in(&grace, id, Variant::Original, &conversation, seq).await;
        let answer = ask("GET", &url.expect("a member sees it"), &[]).await;
        assert!(answer.body == *bytes, "other bytes");
    }
    // And nothing has to be sent a second time.
    ada.reconnect();
    let again = Content::new(clip.bytes.clone()).upload(&ada).await;
    assert!(again.existed);
    assert_eq!(again.blob, uploaded[0].blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_while_it_makes_a_blob_makes_it_once() {
    let mut server = ServerProcess::start(StandaloneOptions::default());
    let mut ada = register(&server.url(), "ada").await;
    let mut made = Vec::new();
    for kill in 0..KILLS {
        // It has something to do: thumbnails of some megapixels.
        let content = match kill % 3 {
            0 => video(kill as u64, 2 * MIB),
            _ => encoded(&image(kill as u64, 1_600, 1_200), image::ImageFormat::Jpeg),
        };
        let content = Content::new(content);
        let (sent, of_call) = (content.clone(), ada.clone());
        let call = tokio::spawn(async move { sent.send(&of_call, 0).await });
        let pause = rand::rng().random_range(0..250);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        server.kill();
        let answered = call.await.unwrap().ok();
        server.start_again();
        ada.reconnect();
        let uploaded = go_on(&content, &ada).await;
        if let Some(answered) = &answered {
            assert_eq!(answered.blob, uploaded.blob, "what was answered is there");
        }
        println!("killed after {pause} ms, answered: {}", answered.is_some());
        made.push(uploaded);
    }
    let mut expected = Vec::new();
    for uploaded in &made {
        let blob = blob(uploaded);
        let small = blob.small.iter().map(|t| ("small", t.size_bytes));
        let large = blob.large.iter().map(|t| ("large", t.size_bytes));
        let all = small.chain(large).chain([("original", blob.size_bytes)]);
        expected.extend(all.map(|(name, size)| (format!("{}.{name}", blob.blob_id), size)));
    }
    expected.sort();
    // Of each blob its bytes, and nothing of the lives before.
    assert_eq!(files(&server.data(), "blobs"), expected);
    assert_eq!(files(&server.data(), "uploads"), []);
    assert_eq!(files(&server.data(), "incoming"), []);
}

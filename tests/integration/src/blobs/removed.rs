//! Removal, from the last reference to the bytes on the disk, by a clock that the test moves.

use std::{path::Path, sync::Arc, time::Duration};

use harness::{TestServer, eventually, refused};
use proto::{
    blob::v1::{UploadResponse, Variant},
    error::v1::ErrorReason as R,
    groups::v1::GroupSettings,
};
use runtime::clock::{Clock, ManualClock, SystemClock};

use super::{
    Content, MIB, PART_BYTES, attach, blob, blobs, files,
    http::ask,
    is_on_disk, jpeg, own_bytes,
    pictures::{set_group_picture, set_picture},
    png, url, url_in, video,
};

const HOUR_MS: i64 = 60 * 60 * 1_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Rounds of removal, of which the second one at the latest would remove what it may.
const ROUND: Duration = Duration::from_millis(20);

pub(super) async fn server(clock: &ManualClock) -> TestServer {
    let clock = clock.clone();
    let builder = TestServer::builder().config(move |config| {
        config.clock = Arc::new(clock.clone());
        config.blob.removal_interval = ROUND;
        // Users stay logged in, whatever the clock does.
        config.profile.access_token_life = Duration::from_secs(365 * 24 * 60 * 60);
    });
    builder.start().await
}

async fn goes(data: &Path, uploaded: &UploadResponse) {
    let id = &blob(uploaded).blob_id;
    eventually("its bytes go", async || {
        (!is_on_disk(data, id)).then_some(())
    })
    .await;
}

fn stays(data: &Path, uploaded: &UploadResponse) -> bool {
    is_on_disk(data, &blob(uploaded).blob_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_refers_to_goes_when_its_receipts_have_expired_and_nothing_else_does() {
    let clock = ManualClock::at(SystemClock.now_unix_ms());
    let server = server(&clock).await;
    let data = server.data();
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let sent = Content::new(jpeg(1)).upload(&ada).await;
    let seq = attach(&ada, &conversation, &[&sent.receipt]).await.unwrap();
    let unsent_content = Content::new(png(2));
    let unsent = unsent_content.upload(&ada).await;
    let asked_again = Content::new(png(3)).upload(&ada).await;
    // Two messages have it, of which the second one comes at the last moment.
    let late = Content::new(video(4, MIB)).upload(&ada).await;
    let unfinished = Content::new(video(5, MIB));
    let mut messages = unfinished.messages(0);
    messages.truncate(1 + MIB / PART_BYTES / 2);
    refused(blobs(&ada).upload(tokio_stream::iter(messages)).await);
    assert_eq!(files(&data, "uploads").len(), 1);
    assert_eq!(files(&data, "blobs").len(), 3 * 3 + 1);
    let bytes = own_bytes(&ada, &sent).await;

    clock.advance(DAY_MS - HOUR_MS / 2);
    let receipt = &late.receipt;
    let late_seq = attach(&ada, &conversation, &[receipt]).await.unwrap();
    // Who uploads it again, without sending a byte, has a new receipt.
    let again = Content::new(png(3)).upload(&ada).await;
    assert!(again.existed && again.receipt != asked_again.receipt);
    clock.advance(HOUR_MS);
    for expired in [&unsent.receipt, &asked_again.receipt, receipt] {
        let refusal = refused(attach(&ada, &conversation, &[expired]).await);
        assert_eq!(refusal.reason, R::ReceiptExpired);
    }
    // Their hour for clocks that differ is not over.
    tokio::time::sleep(10 * ROUND).await;
    assert!(
        [&sent, &unsent, &again, &late]
            .iter()
            .all(|u| stays(&data, u))
    );
    assert_eq!(own_bytes(&ada, &unsent).await, unsent_content.bytes);

    clock.advance(HOUR_MS);
    goes(&data, &unsent).await;
    assert_eq!(
        url(&ada, &blob(&unsent).blob_id, Variant::Original).await,
        None
    );
    assert!([&sent, &again, &late].iter().all(|u| stays(&data, u)));
    // What an upload has left goes an hour after its end.
    clock.advance(2 * HOUR_MS);
    eventually("the unfinished one goes", async || {
        files(&data, "uploads").is_empty().then_some(())
    })
    .await;
    refused(unfinished.progress(&ada).await).is(R::UploadNotFound, "");

    clock.advance(DAY_MS);
    goes(&data, &again).await;
    clock.advance(40 * DAY_MS);
    // Another round has come and gone when this one is gone.
    let other = Content::new(png(6)).upload(&ada).await;
    clock.advance(2 * DAY_MS);
    goes(&data, &other).await;
    assert_eq!(
        files(&data, "blobs").len(),
        3 + 1,
        "the two that messages have"
    );
    for (uploaded, seq) in [(&sent, seq), (&late, late_seq)] {
        let id = &blob(uploaded).blob_id;
        let url = url_in(&grace, id, Variant::Original, &conversation, seq).await;
        let answer = ask("GET", &url.expect("a member sees it"), &[]).await;
        assert_eq!(answer.body.len() as u64, blob(uploaded).size_bytes);
        assert!(
            uploaded.blob != sent.blob || answer.body == bytes,
            "other bytes"
        );
    }
    // What is gone can come again.
    let new = unsent_content.upload(&ada).await;
    assert!(!new.existed);
    assert_ne!(blob(&new).blob_id, blob(&unsent).blob_id);
    attach(&ada, &conversation, &[&new.receipt]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_another_one_replaces_goes_and_the_new_one_stays() {
    let clock = ManualClock::at(SystemClock.now_unix_ms());
    let server = server(&clock).await;
    let data = server.data();
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let settings = GroupSettings::default();
    let (group, _) = ada.create_group("engines", &[&grace], settings).await;
    let mut pictures = Vec::new();
    for seed in 1..=4 {
        pictures.push(Content::picture(jpeg(seed)).upload(&ada).await);
    }
    let [old_face, new_face, old_sign, new_sign] = pictures.as_slice() else {
        panic!("four");
    };
    for face in [old_face, new_face] {
        set_picture(&ada, &face.receipt).await.unwrap();
    }
    for sign in [old_sign, new_sign] {
        set_group_picture(&ada, &group, &sign.receipt)
            .await
            .unwrap();
    }
    // Longer than an attachment would be kept.
    clock.advance(20 * DAY_MS);
    tokio::time::sleep(10 * ROUND).await;
    assert_eq!(files(&data, "blobs").len(), 4 * 3);
    clock.advance(12 * DAY_MS);
    goes(&data, old_face).await;
    goes(&data, old_sign).await;
    clock.advance(40 * DAY_MS);
    let other = Content::new(png(6)).upload(&ada).await;
    clock.advance(2 * DAY_MS);
    goes(&data, &other).await;
    assert_eq!(files(&data, "blobs").len(), 2 * 3);
    for picture in [new_face, new_sign] {
        let url = url(&grace, &blob(picture).blob_id, Variant::Large).await;
        let answer = ask("GET", &url.expect("everybody sees it"), &[]).await;
        assert_eq!(answer.status, 200);
    }
    // One that is taken away goes too.
    set_picture(&ada, "").await.unwrap();
    clock.advance(DAY_MS);
    goes(&data, new_face).await;
    assert!(stays(&data, new_sign));
}

//! A picture from one user to another by the SDK.

use harness::TestServer as Server;
use messenger_client::{
    Client, Download, Draft, ErrorReason, NewAccount, Upload,
    model::{MessageRange, Variant},
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{http::ask, png};

async fn user(server: &Server, name: &str) -> (Client, String) {
    let client = Client::builder(server.url()).build().unwrap();
    let account = NewAccount {
        username: name.to_owned(),
        password: "correct horse".to_owned(),
        ..NewAccount::default()
    };
    client.register(account).await.unwrap();
    let id = client.profile_by_username(name).await.unwrap().user_id;
    (client, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_reaches_the_other_member_byte_for_byte_and_nobody_else() {
    let server = Server::start().await;
    let (ada, _) = user(&server, "ada").await;
    let (grace, grace_id) = user(&server, "grace").await;
    let (mallory, _) = user(&server, "mallory").await;
    let content = png(1);
    let uploaded = ada
        .blobs()
        .upload(Upload::attachment(content.clone()), |_| {})
        .await
        .unwrap();
    assert!(!uploaded.existed);
    let again = ada
        .blobs()
        .upload(Upload::attachment(content), |_| {})
        .await
        .unwrap();
    assert!(again.existed, "the same bytes are sent once");
    assert_eq!(again.blob.blob_id, uploaded.blob.blob_id);

    let conversation = ada.open_direct(&grace_id).await.unwrap().conversation_id;
    let draft = Draft::from("look").attach(&uploaded);
    let id = Uuid::now_v7().to_string();
    let sent = ada.send_message(&conversation, &id, draft).await.unwrap();
    let range = MessageRange {
        conversation_id: conversation.clone(),
        min_seq: sent.seq,
        ..MessageRange::default()
    };
    let pages = grace.list_messages(vec![range]).await.unwrap();
    let message = pages[0].messages.last().unwrap();
    let attachment = &message.attachments[0];
    assert_eq!(*attachment, uploaded.attachment());
    assert_eq!((attachment.width, attachment.height), (400, 300));

    let blobs = grace.blobs();
    let download = Download::at(&conversation, sent.seq, attachment);
    let url = blobs.url(&download).await.expect("a member sees it").url;
    let answer = ask("GET", &url, &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "image/png");
    assert_eq!(answer.body.len() as u64, attachment.size_bytes);
    assert_eq!(Sha256::digest(&answer.body).to_vec(), attachment.sha256);

    let blobs_of_mallory = mallory.blobs();
    let small = download.clone().variant(Variant::Small);
    let seen = blobs_of_mallory.url(&small).await.unwrap_err();
    let nobody = "who is no member sees nothing";
    assert_eq!(seen.reason(), ErrorReason::BlobNotFound, "{nobody}");
    let elsewhere = Download::at(&conversation, sent.seq + 1, attachment);
    // An event that is not there yet is waited for, and is not there.
    assert!(grace.blobs().urls(&[elsewhere]).await.is_err());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    let saved = blobs.download(download.clone(), &path, |_| {}).await;
    assert_eq!(saved.unwrap().sha256, attachment.sha256);
    let there = std::fs::read(&path).unwrap();
    assert_eq!(Sha256::digest(&there).to_vec(), attachment.sha256);
    let again = blobs.download(download, &path, |_| {}).await;
    assert!(again.is_err(), "a file that is there stays as it is");
}

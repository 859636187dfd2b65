//! A picture from one user to another by the SDK.

use harness::TestServer as Server;
use messenger_client::{
    Client, Draft, NewAccount,
    model::{MessageRange, Purpose, Variant},
};
use proto::blob::v1::UrlRequest;
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
        .upload(content.clone(), Purpose::Attachment, |_, _| {})
        .await
        .unwrap();
    assert!(!uploaded.existed);
    let again = ada
        .blobs()
        .upload(content, Purpose::Attachment, |_, _| {})
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
    let seen = blobs.url_of(&conversation, sent.seq, attachment, Variant::Original);
    let url = seen.await.unwrap().expect("a member sees it").url;
    let answer = ask("GET", &url, &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "image/png");
    assert_eq!(answer.body.len() as u64, attachment.size_bytes);
    assert_eq!(Sha256::digest(&answer.body).to_vec(), attachment.sha256);

    let blobs_of_mallory = mallory.blobs();
    let seen = blobs_of_mallory.url_of(&conversation, sent.seq, attachment, Variant::Small);
    assert_eq!(seen.await.unwrap(), None, "who is no member sees nothing");
    let elsewhere = UrlRequest {
        blob_id: attachment.blob_id.clone(),
        variant: Variant::Small.into(),
        conversation_id: conversation,
        seq: sent.seq + 1,
    };
    // An event that is not there yet is waited for, and is not there.
    assert!(grace.blobs().urls(vec![elsewhere]).await.is_err());
}

//! Pictures from one user to another: uploaded, sent, seen by those who may, and by nobody else.

use std::io::Cursor;

use harness::TestServer as Server;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use messenger_client::{
    Client, Download, Draft, ErrorReason, NewAccount, Upload,
    model::{MessageRange, Variant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use uuid::Uuid;

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

pub(crate) fn picture() -> Vec<u8> {
    let pixels = RgbImage::from_fn(400, 300, |x, y| Rgb([x as u8, y as u8, (x ^ y) as u8]));
    let mut content = Vec::new();
    DynamicImage::ImageRgb8(pixels)
        .write_to(&mut Cursor::new(&mut content), ImageFormat::Png)
        .unwrap();
    content
}

/// Status line with headers, and body.
pub(crate) async fn get(url: &str, headers: &str) -> (String, Vec<u8>) {
    let rest = url.strip_prefix("http://").unwrap();
    let (address, path) = rest.split_at(rest.find('/').unwrap());
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    (head.to_lowercase(), answer[end + 4..].to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_reaches_the_other_member_byte_for_byte_and_nobody_else() {
    let server = Server::start().await;
    let (ada, _) = user(&server, "ada").await;
    let (grace, grace_id) = user(&server, "grace").await;
    let (mallory, _) = user(&server, "mallory").await;
    let content = picture();
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
    let (head, body) = get(&url, "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(
        head.contains("content-type: image/png") && head.contains("immutable"),
        "{head}"
    );
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    assert_eq!(body.len() as u64, attachment.size_bytes);
    use sha2::Digest;
    assert_eq!(sha2::Sha256::digest(&body).to_vec(), attachment.sha256);
    let (head, part) = get(&url, "range: bytes=10-19\r\n").await;
    assert!(head.starts_with("http/1.1 206"), "{head}");
    assert_eq!(part, body[10..20]);
    let (head, parts) = get(&url, "range: bytes=0-3,-2\r\n").await;
    assert!(head.contains("multipart/byteranges"), "{head}");
    assert!(parts.windows(4).any(|w| w == &body[..4]));
    let etag = head
        .lines()
        .find_map(|line| line.strip_prefix("etag: "))
        .unwrap();
    let (head, _) = get(&url, &format!("if-none-match: {etag}\r\n")).await;
    assert!(head.starts_with("http/1.1 304"), "{head}");
    let forged = url.replace("original", "small");
    assert!(get(&forged, "").await.0.starts_with("http/1.1 403"));

    let blobs_of_mallory = mallory.blobs();
    let small = download.clone().variant(Variant::Small);
    let seen = blobs_of_mallory.url(&small).await.unwrap_err();
    assert_eq!(
        seen.reason(),
        ErrorReason::BlobNotFound,
        "who is no member sees nothing"
    );
    let elsewhere = Download::at(&conversation, sent.seq + 1, attachment);
    // An event that is not there yet is waited for, and is not there.
    assert!(grace.blobs().urls(&[elsewhere]).await.is_err());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    let saved = blobs
        .download(download.clone(), &path, |_| {})
        .await
        .unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), body);
    assert_eq!(saved.sha256, attachment.sha256);
    let again = blobs.download(download, &path, |_| {}).await;
    assert!(again.is_err(), "a file that is there stays as it is");
}

//! Pictures, while processes of blob die.

use std::{
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cluster::{Cluster, ClusterOptions};
use image::{DynamicImage, ImageFormat, RgbImage};
use messenger_client::{
    Client, Download, Draft, NewAccount, Upload, Uploaded,
    model::{MessageRange, Purpose},
};
use proto::blob::v1::{
    GetUploadRequest, UploadHeader, UploadRequest, UploadResponse,
    blob_service_client::BlobServiceClient, upload_request::Part,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use tokio::{runtime::Handle, task::block_in_place};
use uuid::Uuid;

use super::cluster;
use crate::blobs::http::ask;

/// How long a killed node may take until it serves again.
const BACK_DEADLINE: Duration = Duration::from_secs(60);

/// Bytes of a part.
const PART_BYTES: u64 = 64 * 1024;

/// A picture that no format makes smaller: 5.5 MiB.
fn noise() -> (DynamicImage, Vec<u8>) {
    let (width, height) = (1_600, 1_200);
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    StdRng::seed_from_u64(1).fill_bytes(&mut pixels);
    let image = DynamicImage::ImageRgb8(RgbImage::from_raw(width, height, pixels).unwrap());
    let mut content = Vec::new();
    image
        .write_to(&mut Cursor::new(&mut content), ImageFormat::Png)
        .unwrap();
    (image, content)
}

async fn user(url: &str, name: &str) -> (Client, String) {
    let client = Client::builder(url).build().unwrap();
    let account = NewAccount {
        username: name.to_owned(),
        password: "correct horse".to_owned(),
        ..NewAccount::default()
    };
    client.register(account).await.unwrap();
    let id = client.profile_by_username(name).await.unwrap().user_id;
    (client, id)
}

/// One try of an upload, from where the server's bytes end; `progress` hears of each part that is taken, as
/// soon as it is.
async fn try_upload(
    (ada, url): (&Client, &str),
    (upload_id, is_first): (&str, bool),
    content: &[u8],
    progress: impl Fn(u64, u64) + Send + 'static,
) -> Result<UploadResponse, tonic::Status> {
    let token = ada.credentials().await.unwrap().access_token;
    let bearer: tonic::metadata::MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    let channel = tonic::transport::Endpoint::from_shared(url.to_owned()).unwrap();
    let authorize = move |mut request: tonic::Request<()>| {
        let metadata = request.metadata_mut();
        metadata.insert("authorization", bearer.clone());
        Ok(request)
    };
    let mut client = BlobServiceClient::with_interceptor(channel.connect_lazy(), authorize);
    let upload_id = upload_id.to_owned();
    let asked = GetUploadRequest {
        upload_id: upload_id.clone(),
    };
    let mut offset = 0;
    if !is_first {
        match client.get_upload(asked).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                if let Some(finished) = answer.finished {
                    return Ok(finished);
                }
                offset = answer.received_bytes;
            }
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    let size = content.len() as u64;
    let header = Part::Header(UploadHeader {
        upload_id,
        offset,
        size_bytes: size,
        sha256: Sha256::digest(content).to_vec(),
        purpose: Purpose::Attachment.into(),
        poster_receipt: String::new(),
    });
    let rest = content[offset as usize..].chunks(PART_BYTES as usize);
    let data = rest.map(|data| Part::Data(data.to_vec().into()));
    let parts: Vec<_> = std::iter::once(header).chain(data).collect();
    let mut sent = offset;
    let messages = parts.into_iter().map(move |part| {
        if let Part::Data(data) = &part {
            sent += data.len() as u64;
        }
        progress(sent, size);
        UploadRequest { part: Some(part) }
    });
    let messages = tokio_stream::iter(messages);
    Ok(client.upload(messages).await?.into_inner())
}

/// Uploads through messaging, and goes on after each break.
async fn upload(
    of: (&Client, &str),
    content: &[u8],
    progress: impl Fn(u64, u64) + Clone + Send + 'static,
) -> Uploaded {
    let upload_id = Uuid::now_v7().to_string();
    let (started, mut is_first) = (Instant::now(), true);
    loop {
        let which = (upload_id.as_str(), is_first);
        is_first = false;
        match try_upload(of, which, content, progress.clone()).await {
            Ok(answer) => {
                return Uploaded {
                    blob: answer.blob.unwrap(),
                    receipt: answer.receipt,
                    receipt_expires_unix_ms: answer.receipt_expires_unix_ms,
                    existed: answer.existed,
                };
            }
            Err(status) => assert!(started.elapsed() < BACK_DEADLINE, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Kills both nodes of blob, one after the other, as an upload goes on: so the one that takes it dies, and
/// perhaps the one that took over, too.
struct Killer {
    cluster: Arc<Cluster>,
    runtime: Handle,
    first: AtomicBool,
    is_back: Arc<AtomicBool>,
    second: AtomicBool,
    /// Where the upload was when it was last heard of.
    before: AtomicU64,
    /// Where it went on after its last break.
    went_on_at: AtomicU64,
}

impl Killer {
    fn new(cluster: Arc<Cluster>) -> Self {
        Self {
            cluster,
            runtime: Handle::current(),
            first: AtomicBool::default(),
            is_back: Arc::default(),
            second: AtomicBool::default(),
            before: AtomicU64::default(),
            went_on_at: AtomicU64::default(),
        }
    }

    fn progress(&self, sent: u64, size: u64) {
        let before = self.before.swap(sent, Ordering::SeqCst);
        if !(before..=before + PART_BYTES).contains(&sent) {
            self.went_on_at.store(sent, Ordering::SeqCst);
        }
        if sent > size / 3 && !self.first.swap(true, Ordering::SeqCst) {
            self.kill("blob-0");
        }
        if sent > size / 3 * 2 && !self.second.swap(true, Ordering::SeqCst) {
            block_in_place(|| {
                let started = Instant::now();
                while !self.is_back.load(Ordering::SeqCst) {
                    assert!(started.elapsed() < BACK_DEADLINE, "blob-0 is not back");
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            self.kill("blob-1");
        }
    }

    fn kill(&self, name: &'static str) {
        self.cluster.kill(name).unwrap();
        let (cluster, is_back) = (self.cluster.clone(), self.is_back.clone());
        self.runtime.spawn(async move {
            cluster.start_again(name).await.unwrap();
            is_back.store(true, Ordering::SeqCst);
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pictures_survive_kill_9_of_a_blob_process_in_the_middle_of_an_upload() {
    let cluster = Arc::new(cluster().await);
    let urls = cluster.urls();
    let (ada, _) = user(&urls[0], "ada").await;
    let (grace, grace_id) = user(&urls[1], "grace").await;
    let (image, content) = noise();
    let size = content.len() as u64;
    let killer = Arc::new(Killer::new(cluster.clone()));
    let told = killer.clone();
    let progress = move |sent, size| told.progress(sent, size);
    let uploaded = upload((&ada, &urls[0]), &content, progress).await;
    assert!(killer.second.load(Ordering::SeqCst), "both were killed");
    let went_on_at = killer.went_on_at.load(Ordering::SeqCst);
    assert!(went_on_at > 0, "no node was in the middle of the upload");
    assert!(
        went_on_at > size / 8,
        "it went on at {went_on_at} of {size} bytes, though at least a third had been sent"
    );

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
    let attachment = &pages[0].messages.last().unwrap().attachments[0];
    let blobs = grace.blobs();
    let download = Download::at(&conversation, sent.seq, attachment);
    let url = blobs.url(&download).await.expect("a member sees it").url;
    let path = &url[url.find("/v1/").unwrap()..];
    let nodes = cluster.http_urls();
    assert!(
        nodes.len() == ClusterOptions::default().blob && nodes.iter().any(|n| url.starts_with(n)),
        "{url} is at none of {nodes:?}"
    );
    // By whichever node the URL was signed, and at the other one too.
    for node in nodes {
        let answer = ask("GET", &format!("{node}{path}"), &[]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(Sha256::digest(&answer.body).to_vec(), attachment.sha256);
        let seen = image::load_from_memory(&answer.body).unwrap();
        assert!(seen == image, "other pixels than those that were uploaded");
    }
}

/// What may be under way of an upload: the windows and buffers of both connections, and no more.
const UNDER_WAY_BYTES_MAX: u64 = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_waits_at_its_sender_and_not_in_messaging_while_blob_does_not_read() {
    let cluster = cluster().await;
    let (ada, _) = user(&cluster.urls()[0], "ada").await;
    let (_, content) = noise();
    let size = content.len() as u64;
    // Connected, or it would not be sent at all.
    let small = Upload::attachment(crate::blobs::png(1));
    ada.blobs().upload(small, |_| {}).await.unwrap();
    for node in ["blob-0", "blob-1"] {
        cluster.pause(node).unwrap();
    }
    let furthest = Arc::new(AtomicU64::default());
    let told = furthest.clone();
    let url = cluster.urls()[0].clone();
    let uploading = tokio::spawn(async move {
        let progress = move |sent: u64, _: u64| {
            told.fetch_max(sent, Ordering::SeqCst);
        };
        upload((&ada, &url), &content, progress).await
    });
    // Nothing shows that it will send no more: it has more than enough time for all.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sent = furthest.load(Ordering::SeqCst);
    assert!(
        sent > 0 && sent < UNDER_WAY_BYTES_MAX,
        "{sent} bytes of {size} were sent to nobody"
    );
    for node in ["blob-0", "blob-1"] {
        cluster.resume(node).unwrap();
    }
    let uploaded = uploading.await.unwrap();
    assert_eq!(uploaded.blob.size_bytes, size);
}

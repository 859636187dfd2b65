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
    Client, Draft, NewAccount,
    model::{MessageRange, Purpose, Variant},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use tokio::{runtime::Handle, task::block_in_place};
use uuid::Uuid;

use super::cluster;
use crate::blobs::get;

/// How long a killed node may take until it serves again.
const BACK_DEADLINE: Duration = Duration::from_secs(60);

/// Bytes that the SDK tells of at a time.
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
    let uploaded = ada
        .blobs()
        .upload(content, Purpose::Attachment, move |sent, size| {
            told.progress(sent, size);
        })
        .await
        .unwrap();
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
    let url = blobs.url_of(&conversation, sent.seq, attachment, Variant::Original);
    let url = url.await.unwrap().expect("a member sees it").url;
    let path = &url[url.find("/v1/").unwrap()..];
    let nodes = cluster.http_urls();
    assert!(
        nodes.len() == ClusterOptions::default().blob && nodes.iter().any(|n| url.starts_with(n)),
        "{url} is at none of {nodes:?}"
    );
    // By whichever node the URL was signed, and at the other one too.
    for node in nodes {
        let (head, body) = get(&format!("{node}{path}"), "").await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert_eq!(Sha256::digest(&body).to_vec(), attachment.sha256);
        let seen = image::load_from_memory(&body).unwrap();
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
    let blobs = ada.blobs();
    let small = blobs.upload(crate::blobs::picture(), Purpose::Attachment, |_, _| {});
    small.await.unwrap();
    for node in ["blob-0", "blob-1"] {
        cluster.pause(node).unwrap();
    }
    let furthest = Arc::new(AtomicU64::default());
    let told = furthest.clone();
    let upload = tokio::spawn(async move {
        let progress = move |sent: u64, _: u64| {
            told.fetch_max(sent, Ordering::SeqCst);
        };
        blobs.upload(content, Purpose::Attachment, progress).await
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
    let uploaded = upload.await.unwrap().unwrap();
    assert_eq!(uploaded.blob.size_bytes, size);
}

//! Pictures and video, by clients that break off, lie and attack: what is uploaded is seen by those who
//! may, byte for byte, and by nobody else.

use std::{fs, io::Cursor, path::Path};

use harness::{Bearer, Device};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use proto::{
    blob::v1::{
        BatchSignUrlsRequest, GetUploadRequest, GetUploadResponse, Purpose, UploadHeader,
        UploadRequest, UploadResponse, UrlRequest, Variant, blob_service_client::BlobServiceClient,
        upload_request::Part,
    },
    messaging::v1::SendMessageRequest,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};
use uuid::Uuid;

mod browsers;
mod calls;
mod downloads;
mod hostile;
pub(crate) mod http;
mod killed;
mod pictures;
mod removed;
mod sdk;

const MIB: usize = 1024 * 1024;
/// Bytes of data in a message of an upload.
const PART_BYTES: usize = 64 * 1024;
/// What an upload may lose when its connection breaks: bytes that came and were not written yet.
const UNWRITTEN_BYTES: usize = MIB;

/// The calls of the blob service with a device's token.
type Blobs = BlobServiceClient<InterceptedService<Channel, Bearer>>;

fn blobs(device: &Device) -> Blobs {
    BlobServiceClient::with_interceptor(device.channel(), device.bearer())
}

/// Content, and how it is uploaded.
#[derive(Clone)]
struct Content {
    upload_id: String,
    bytes: Vec<u8>,
    sha256: Vec<u8>,
    purpose: Purpose,
}

impl Content {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            upload_id: Uuid::now_v7().to_string(),
            sha256: Sha256::digest(&bytes).to_vec(),
            purpose: Purpose::Attachment,
            bytes,
        }
    }

    fn picture(bytes: Vec<u8>) -> Self {
        Self {
            purpose: Purpose::Picture,
            ..Self::new(bytes)
        }
    }

    fn header(&self, offset: usize) -> UploadRequest {
        UploadRequest {
            part: Some(Part::Header(UploadHeader {
                upload_id: self.upload_id.clone(),
                offset: offset as u64,
                size_bytes: self.bytes.len() as u64,
                sha256: self.sha256.clone(),
                purpose: self.purpose.into(),
                poster_receipt: String::new(),
            })),
        }
    }

    /// All messages of an upload from an offset on.
    fn messages(&self, offset: usize) -> Vec<UploadRequest> {
        let mut messages = vec![self.header(offset)];
        messages.extend(self.bytes[offset..].chunks(PART_BYTES).map(data));
        messages
    }

    async fn send(&self, device: &Device, offset: usize) -> Result<UploadResponse, Status> {
        let messages = tokio_stream::iter(self.messages(offset));
        let answer = blobs(device).upload(messages).await?;
        Ok(answer.into_inner())
    }

    /// Uploads it without a break.
    async fn upload(&self, device: &Device) -> UploadResponse {
        self.send(device, 0).await.expect("upload")
    }

    async fn progress(&self, device: &Device) -> Result<GetUploadResponse, Status> {
        let upload_id = self.upload_id.clone();
        let request = GetUploadRequest { upload_id };
        Ok(blobs(device).get_upload(request).await?.into_inner())
    }
}

fn data(bytes: &[u8]) -> UploadRequest {
    UploadRequest {
        part: Some(Part::Data(bytes.to_vec().into())),
    }
}

/// A picture like one of a camera: areas, gradients and some noise, other ones for each seed.
fn image(seed: u64, width: u32, height: u32) -> DynamicImage {
    let mut random = StdRng::seed_from_u64(seed);
    let base = random.random::<u32>();
    let pixels = RgbImage::from_fn(width, height, |x, y| {
        let noise = random.random::<u32>();
        let light = |shift: u32| (x * 255 / width) ^ (y >> (3 + shift)) ^ (base >> (8 * shift));
        Rgb([0, 1, 2].map(|n| light(n) as u8 ^ ((noise >> (8 * n)) as u8 & 15)))
    });
    DynamicImage::ImageRgb8(pixels)
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub(crate) fn png(seed: u64) -> Vec<u8> {
    encoded(&image(seed, 400, 300), ImageFormat::Png)
}

fn jpeg(seed: u64) -> Vec<u8> {
    encoded(&image(seed, 400, 300), ImageFormat::Jpeg)
}

/// A video as far as anybody looks into it: the first box says what it is, the rest is noise.
fn video(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00isommp42".to_vec();
    bytes.extend_from_slice(&((size - bytes.len()) as u32).to_be_bytes());
    bytes.extend_from_slice(b"mdat");
    let head = bytes.len();
    bytes.resize(size, 0);
    StdRng::seed_from_u64(seed).fill(&mut bytes[head..]);
    bytes
}

/// Where a blob is, if the device may see it: its own one, or one of a profile or a group.
async fn url(device: &Device, blob_id: &str, variant: Variant) -> Option<String> {
    url_in(device, blob_id, variant, "", 0).await
}

/// The same of an attachment of an event.
async fn url_in(
    device: &Device,
    blob_id: &str,
    variant: Variant,
    conversation_id: &str,
    seq: u64,
) -> Option<String> {
    let request = UrlRequest {
        blob_id: blob_id.to_owned(),
        variant: variant.into(),
        conversation_id: conversation_id.to_owned(),
        seq,
    };
    let request = BatchSignUrlsRequest {
        urls: vec![request],
    };
    let answer = blobs(device).batch_sign_urls(request).await;
    let mut urls = answer.expect("batch sign urls").into_inner().urls;
    let url = urls.pop().expect("one answer for one request").url;
    Some(url).filter(|url| !url.is_empty())
}

/// What is served of a blob of the device's own.
async fn own_bytes(device: &Device, uploaded: &UploadResponse) -> Vec<u8> {
    let blob_id = &blob(uploaded).blob_id;
    let url = url(device, blob_id, Variant::Original).await;
    let answer = http::ask("GET", &url.expect("it is the owner's"), &[]).await;
    assert_eq!(answer.status, 200);
    answer.body
}

fn blob(uploaded: &UploadResponse) -> &proto::blob::v1::Blob {
    uploaded.blob.as_ref().expect("a blob")
}

/// Sends a message that has these and nothing else; answers its seq.
async fn attach(device: &Device, conversation_id: &str, receipts: &[&str]) -> Result<u64, Status> {
    let request = SendMessageRequest {
        conversation_id: conversation_id.to_owned(),
        message_id: Uuid::now_v7().to_string(),
        attachment_receipts: receipts.iter().map(|&receipt| receipt.to_owned()).collect(),
        ..SendMessageRequest::default()
    };
    let answer = device.messaging().send_message(request).await?;
    Ok(answer.into_inner().seq)
}

/// Files below the folder of one kind ("blobs", "uploads", "incoming") with their sizes.
fn files(data: &Path, kind: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![data.join("blobs").join(kind)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            // One that goes meanwhile is not there.
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => {
                    let name = entry.file_name().into_string().unwrap();
                    found.push((name, metadata.len()));
                }
                Err(_) => {}
            }
        }
    }
    found.sort();
    found
}

/// Whether any bytes of a blob are on the disk.
fn is_on_disk(data: &Path, blob_id: &str) -> bool {
    let files = files(data, "blobs");
    files.iter().any(|(name, _)| name.starts_with(blob_id))
}

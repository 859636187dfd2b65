//! The blobs of the fake server: uploads that break, and downloads at URLs of a small HTTP server.

use std::collections::{HashMap, VecDeque};

use messenger_client::ErrorReason;
use proto::{
    blob::v1::{self as blob, blob_service_server as service, upload_request::Part as UploadPart},
    messaging::v1 as pb,
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::{Code, Request, Response, Status, Streaming, transport::server::Router};

use super::{Fake, ME, Service, State, status};

/// Bytes of a message of an upload.
const DATA_BYTES_MAX: usize = 64 * 1024;
const FOREVER_MS: i64 = 4_000_000_000_000;

/// What happens to an upload.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OnUpload {
    /// The stream breaks when so much has arrived in all.
    Break { kept: usize },
    /// It takes everything, and the answer is lost.
    AnswerLost,
    /// The header is answered with an error.
    Refuse(Code, ErrorReason),
    /// What had arrived is thrown away, and the stream breaks.
    Forget,
}

/// What happens to a GET.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OnGet {
    /// The connection breaks after so many bytes of the body.
    Break(usize),
    /// The URL is refused, with this status.
    Status(u16),
    /// It leads elsewhere.
    Redirect,
    /// Other bytes of the same size.
    Corrupt,
    /// More bytes than there are, and no size said.
    Endless,
    /// It is another version, from its beginning, whatever part was asked for.
    Changed,
}

#[derive(Default)]
pub(crate) struct Blobs {
    /// What has arrived, by upload_id.
    arrived: HashMap<String, Vec<u8>>,
    finished: HashMap<String, blob::Blob>,
    /// The bytes of each blob.
    pub(crate) contents: HashMap<String, Vec<u8>>,
    blobs: HashMap<(Vec<u8>, i32), blob::Blob>,
    receipts: HashMap<String, pb::Attachment>,
    /// What is to be done with the next ones; the others go well.
    pub(crate) on_uploads: VecDeque<OnUpload>,
    pub(crate) on_gets: VecDeque<OnGet>,
    /// What the server has seen.
    pub(crate) headers: Vec<blob::UploadHeader>,
    pub(crate) data_bytes: usize,
    pub(crate) signed: Vec<blob::UrlRequest>,
    /// The values of `Range` and `If-Range`.
    pub(crate) gets: Vec<(String, String)>,
    http: String,
}

pub(super) fn add(router: Router, server: &Service) -> Router {
    router.add_service(service::BlobServiceServer::new(server.clone()))
}

impl Blobs {
    fn answer(&mut self, blob: &blob::Blob, existed: bool) -> blob::UploadResponse {
        let receipt = format!("receipt-{}", self.receipts.len());
        let thumbnail = |thumbnail: &blob::Thumbnail| pb::AttachmentThumbnail {
            media_type: thumbnail.media_type.clone(),
            width: thumbnail.width,
            height: thumbnail.height,
            size_bytes: thumbnail.size_bytes,
        };
        let attachment = pb::Attachment {
            blob_id: blob.blob_id.clone(),
            media_type: blob.media_type.clone(),
            size_bytes: blob.size_bytes,
            sha256: blob.sha256.clone(),
            width: blob.width,
            height: blob.height,
            placeholder: blob.placeholder.clone(),
            small: blob.small.as_ref().map(thumbnail),
            large: None,
        };
        self.receipts.insert(receipt.clone(), attachment);
        blob::UploadResponse {
            blob: Some(blob.clone()),
            receipt,
            receipt_expires_unix_ms: FOREVER_MS,
            existed,
        }
    }

    /// The attachments that receipts are of.
    pub(crate) fn attachments(&self, receipts: &[String]) -> Vec<pb::Attachment> {
        let found = receipts.iter().filter_map(|r| self.receipts.get(r));
        found.cloned().collect()
    }

    fn finish(&mut self, header: &blob::UploadHeader, bytes: Vec<u8>) -> blob::Blob {
        let blob_id = format!("blob-{}", self.blobs.len());
        let thumbnail = b"a small picture".to_vec();
        let blob = blob::Blob {
            blob_id: blob_id.clone(),
            owner_id: ME.to_owned(),
            purpose: header.purpose,
            media_type: "image/png".to_owned(),
            size_bytes: bytes.len() as u64,
            sha256: header.sha256.clone(),
            width: 3,
            height: 2,
            placeholder: "LEHV6nWB2yk8pyo0adR*".to_owned(),
            small: Some(blob::Thumbnail {
                media_type: "image/jpeg".to_owned(),
                width: 3,
                height: 2,
                size_bytes: thumbnail.len() as u64,
            }),
            ..blob::Blob::default()
        };
        let key = (header.sha256.clone(), header.purpose);
        self.contents.insert(blob_id.clone(), bytes);
        self.contents.insert(format!("{blob_id}-small"), thumbnail);
        self.blobs.insert(key, blob.clone());
        self.finished.insert(header.upload_id.clone(), blob.clone());
        blob
    }
}

/// As a proxy on the way breaks a stream: no reason of ours.
fn broken() -> Status {
    Status::unavailable("as the test wants")
}

impl Service {
    #[allow(clippy::result_large_err)] // As tonic has it.
    fn begin(
        &self,
        header: &blob::UploadHeader,
    ) -> Result<(Option<OnUpload>, Option<blob::UploadResponse>), Status> {
        let blobs = &mut self.0.lock().blobs;
        blobs.headers.push(header.clone());
        let plan = blobs.on_uploads.pop_front();
        if let Some(OnUpload::Refuse(code, reason)) = plan {
            return Err(status(code, reason));
        }
        let known = blobs.blobs.get(&(header.sha256.clone(), header.purpose));
        if let Some(known) = known.cloned() {
            let existed = !blobs.finished.contains_key(&header.upload_id);
            return Ok((plan, Some(blobs.answer(&known, existed))));
        }
        let arrived = blobs.arrived.entry(header.upload_id.clone()).or_default();
        if arrived.len() as u64 != header.offset {
            return Err(status(Code::Aborted, ErrorReason::UploadOffsetWrong));
        }
        Ok((plan, None))
    }

    /// `true` if the stream is to break now.
    fn arrive(&self, upload_id: &str, data: &[u8], plan: Option<OnUpload>) -> bool {
        assert!(data.len() <= DATA_BYTES_MAX);
        let blobs = &mut self.0.lock().blobs;
        blobs.data_bytes += data.len();
        let arrived = blobs.arrived.get_mut(upload_id).unwrap();
        arrived.extend_from_slice(data);
        match plan {
            Some(OnUpload::Break { kept }) if arrived.len() >= kept => {
                arrived.truncate(kept);
                true
            }
            Some(OnUpload::Forget) => {
                blobs.arrived.remove(upload_id);
                true
            }
            _ => false,
        }
    }
}

#[tonic::async_trait]
impl service::BlobService for Service {
    async fn upload(
        &self,
        request: Request<Streaming<blob::UploadRequest>>,
    ) -> Result<Response<blob::UploadResponse>, Status> {
        self.authorize(&request)?;
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|request| request.part);
        let Some(UploadPart::Header(header)) = first else {
            panic!("an upload begins with its header");
        };
        let (plan, answer) = self.begin(&header)?;
        if let Some(answer) = answer {
            return Ok(Response::new(answer));
        }
        while let Some(request) = parts.message().await? {
            let Some(UploadPart::Data(data)) = request.part else {
                panic!("a header comes first, and once");
            };
            if self.arrive(&header.upload_id, &data, plan) {
                return Err(broken());
            }
        }
        let blobs = &mut self.0.lock().blobs;
        let arrived = blobs.arrived[&header.upload_id].clone();
        if arrived.len() as u64 != header.size_bytes {
            return Err(broken());
        }
        if Sha256::digest(&arrived).as_slice() != header.sha256 {
            blobs.arrived.remove(&header.upload_id);
            return Err(status(Code::InvalidArgument, ErrorReason::ChecksumMismatch));
        }
        let blob = blobs.finish(&header, arrived);
        match plan {
            Some(OnUpload::AnswerLost) => Err(broken()),
            _ => Ok(Response::new(blobs.answer(&blob, false))),
        }
    }

    async fn get_upload(
        &self,
        request: Request<blob::GetUploadRequest>,
    ) -> Result<Response<blob::GetUploadResponse>, Status> {
        self.authorize(&request)?;
        let upload_id = request.into_inner().upload_id;
        let blobs = &mut self.0.lock().blobs;
        let finished = blobs.finished.get(&upload_id).cloned();
        let arrived = blobs.arrived.get(&upload_id).map(Vec::len);
        let Some(arrived) = arrived.or(finished.as_ref().map(|_| 0)) else {
            return Err(status(Code::NotFound, ErrorReason::UploadNotFound));
        };
        Ok(Response::new(blob::GetUploadResponse {
            received_bytes: arrived as u64,
            finished: finished.map(|blob| blobs.answer(&blob, false)),
        }))
    }

    async fn batch_sign_urls(
        &self,
        request: Request<blob::BatchSignUrlsRequest>,
    ) -> Result<Response<blob::BatchSignUrlsResponse>, Status> {
        self.authorize(&request)?;
        let blobs = &mut self.0.lock().blobs;
        let urls = request.into_inner().urls;
        assert!((1..=100).contains(&urls.len()));
        let mut signed = Vec::new();
        for request in urls {
            let name = match request.variant() {
                blob::Variant::Small => format!("{}-small", request.blob_id),
                _ => request.blob_id.clone(),
            };
            blobs.signed.push(request);
            let url = match blobs.contents.contains_key(&name) {
                true => format!("{}/{name}?sig={}", blobs.http, blobs.signed.len()),
                false => String::new(),
            };
            signed.push(blob::SignedUrl {
                url,
                expires_unix_ms: FOREVER_MS,
            });
        }
        Ok(Response::new(blob::BatchSignUrlsResponse { urls: signed }))
    }
}

impl Fake {
    /// Serves what was uploaded, by HTTP. Ends with the fake server.
    pub(crate) async fn serve_http(&self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.state.lock().blobs.http = format!("http://{address}");
        let state = std::sync::Arc::downgrade(&self.state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(state) = state.upgrade() else { return };
                tokio::spawn(async move {
                    // A client that goes away is what some tests are about.
                    let _ = get(stream, &state).await;
                });
            }
        });
    }
}

/// One request, on a connection of its own.
async fn get(mut stream: TcpStream, state: &parking_lot::Mutex<State>) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8(request).unwrap();
    let header = |name: &str| {
        let lines = request.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map_or("", |(_, value)| value).to_owned()
    };
    assert_eq!(header("authorization"), "", "a URL needs no token");
    let path = request.split(' ').nth(1).unwrap();
    let name = path.trim_start_matches('/').split('?').next().unwrap();
    let (range, if_range) = (header("range"), header("if-range"));
    let (plan, mut content) = {
        let blobs = &mut state.lock().blobs;
        blobs.gets.push((range.clone(), if_range.clone()));
        (blobs.on_gets.pop_front(), blobs.contents[name].clone())
    };
    let total = content.len();
    let mut etag = format!("\"{name}\"");
    let mut from = match range.strip_prefix("bytes=") {
        Some(range) if if_range == etag => range.trim_end_matches('-').parse().unwrap(),
        _ => 0,
    };
    let mut size = format!("Content-Length: {}\r\n", total - from);
    match plan {
        Some(OnGet::Status(status)) => {
            let head = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
            return stream.write_all(head.as_bytes()).await;
        }
        Some(OnGet::Redirect) => {
            let head =
                format!("HTTP/1.1 302 Found\r\nLocation: {path}\r\nContent-Length: 0\r\n\r\n");
            return stream.write_all(head.as_bytes()).await;
        }
        Some(OnGet::Corrupt) => content.iter_mut().for_each(|byte| *byte ^= 1),
        Some(OnGet::Endless) => {
            content.extend_from_slice(&[0; 1_000]);
            size = String::new();
        }
        Some(OnGet::Changed) => {
            etag = "\"another\"".to_owned();
            from = 0;
            size = format!("Content-Length: {total}\r\n");
        }
        Some(OnGet::Break(_)) | None => {}
    }
    let last = total - 1;
    let status = match from {
        0 => "200 OK\r\n".to_owned(),
        _ => format!("206 Partial Content\r\nContent-Range: bytes {from}-{last}/{total}\r\n"),
    };
    let head = format!(
        "HTTP/1.1 {status}{size}Content-Type: image/png\r\nETag: {etag}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let body = &content[from..];
    let body = match plan {
        Some(OnGet::Break(bytes)) => &body[..bytes.min(body.len())],
        _ => body,
    };
    stream.write_all(body).await?;
    stream.shutdown().await
}

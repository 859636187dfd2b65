//! `blobs-N`: N uploads of 16 MiB at the same time, by RPC and then by HTTP PUT, and downloads of them;
//! beside what the disk itself does with the same bytes, and nginx with the same file.
//!
//! The bytes are those of a video as far as a server can tell, so they are stored as they are. Each upload
//! has its own, and what is read was just written, so that it comes from memory everywhere.

use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use proto::blob::v1::{
    BatchSignUrlsRequest, Purpose, UploadHeader, UploadRequest, UrlRequest, Variant,
    blob_service_client::BlobServiceClient, upload_request::Part,
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Request, transport::Endpoint};

use crate::{
    account::{self, Device},
    figures::{BlobFigures, CpuMeter, rounded},
    process,
};

/// Of one blob: as large as may be.
const SIZE: usize = 16 * 1024 * 1024;
/// Bytes of a message of an upload, and of a write of an HTTP one.
const PIECE: usize = 64 * 1024;
/// As the disk is written and read.
const BLOCK: usize = 256 * 1024;
/// Uploads of a user: as many unfinished ones as a user may have are more.
const PER_USER: usize = 16;
/// Downloads at a time, and files that the disk writes at a time.
const AT_A_TIME: usize = 8;
/// Downloads, and files of the disk: 1 GB.
const TRANSFERS: usize = 64;
/// How long one upload may take.
const DEADLINE: Duration = Duration::from_secs(600);

/// Measures all of it. `folder` is on the disk of the server's data.
pub(crate) async fn run(
    servers: &[String],
    server_pid: Option<u32>,
    uploads: usize,
    folder: &Path,
) -> anyhow::Result<BlobFigures> {
    let server = servers.first().context("no server")?;
    let users = account::create(servers, uploads.div_ceil(PER_USER), 1).await?;
    let devices: Vec<Device> = users.into_iter().flatten().collect();
    let base = content();
    let rate = |count: usize, from: Instant| {
        let bytes = (count * SIZE) as f64;
        rounded(bytes / 1e6 / from.elapsed().as_secs_f64(), 0)
    };

    let scratch = folder.join(format!("load-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let measured = async {
        let from = Instant::now();
        on_disk(&scratch, &base, write)?;
        let disk_write_mb_s = rate(TRANSFERS, from);
        let from = Instant::now();
        on_disk(&scratch, &base, read)?;
        let disk_read_mb_s = rate(TRANSFERS, from);

        let by_rpc = Arc::new(of_run(&base, uploads, b'r'));
        let memory = Memory::start(server_pid);
        let (from, cpu) = (Instant::now(), CpuMeter::start(server_pid));
        let blobs = upload_by_rpc(server, &devices, &by_rpc).await?;
        let upload_rpc_mb_s = rate(uploads, from);
        let (cpu_rpc, _) = cpu.read();
        let rpc_peak_rss_mb = memory.peak_mb();

        let urls = urls(server, &devices, &blobs).await?;
        let one = urls.first().context("a URL")?;
        let by_put = Arc::new(of_run(&base, uploads, b'p'));
        let memory = Memory::start(server_pid);
        let from = Instant::now();
        upload_by_put(one, &devices, &by_put).await?;
        let upload_put_mb_s = rate(uploads, from);
        let put_peak_rss_mb = memory.peak_mb();

        // Once before, so that all are in the page cache.
        download(&urls).await?;
        let (from, cpu) = (Instant::now(), CpuMeter::start(server_pid));
        download(&urls).await?;
        let download_mb_s = rate(TRANSFERS, from);
        let (cpu_download, _) = cpu.read();

        std::fs::write(scratch.join("blob"), &base)?;
        let nginx_mb_s = match Nginx::start(&scratch).await? {
            Some(nginx) => {
                let same = vec![nginx.url("blob")];
                download(&same).await?;
                let from = Instant::now();
                download(&same).await?;
                Some(rate(TRANSFERS, from))
            }
            None => None,
        };
        let gb = |count: usize| (count * SIZE) as f64 / 1e9;
        anyhow::Ok(BlobFigures {
            workload: format!("blobs-{uploads}"),
            uploads,
            blob_bytes: SIZE,
            disk_write_mb_s,
            upload_rpc_mb_s,
            upload_put_mb_s,
            rpc_peak_rss_mb,
            put_peak_rss_mb,
            cpu_s_per_gb_rpc: cpu_rpc.map(|cpu| rounded(cpu / gb(uploads), 2)),
            disk_read_mb_s,
            download_mb_s,
            nginx_mb_s,
            cpu_s_per_gb_download: cpu_download.map(|cpu| rounded(cpu / gb(TRANSFERS), 2)),
        })
    };
    let measured = measured.await;
    std::fs::remove_dir_all(&scratch)?;
    measured
}

/// An MP4 file as far as its first bytes tell.
fn content() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..SIZE)
        .map(|at| (at.wrapping_mul(0x9E37_79B1) >> 13) as u8)
        .collect();
    let head = b"\0\0\0\x18ftypisom\0\0\x02\0isommp41";
    bytes[..head.len()].copy_from_slice(head);
    bytes
}

/// One upload: the same bytes for all but a few.
struct Content {
    base: Bytes,
    mark: [u8; 8],
    sha256: [u8; 32],
}

/// Where the bytes are that tell uploads apart.
const MARK_AT: usize = 64;

fn of_run(base: &[u8], uploads: usize, phase: u8) -> Vec<Content> {
    let base = Bytes::copy_from_slice(base);
    // Not of the runs before, which the server would have already.
    let run = std::process::id().to_le_bytes();
    let each = |number: usize| {
        let [low, high, ..] = number.to_le_bytes();
        let mark = [run[0], run[1], run[2], run[3], low, high, phase, 1];
        let mut hash = Sha256::new();
        hash.update(&base[..MARK_AT]);
        hash.update(mark);
        hash.update(&base[MARK_AT + mark.len()..]);
        Content {
            base: base.clone(),
            mark,
            sha256: hash.finalize().into(),
        }
    };
    (0..uploads).map(each).collect()
}

impl Content {
    fn piece(&self, at: usize) -> Bytes {
        let end = (at + PIECE).min(SIZE);
        if at > 0 {
            return self.base.slice(at..end);
        }
        let mut first = self.base[..end].to_vec();
        first[MARK_AT..MARK_AT + self.mark.len()].copy_from_slice(&self.mark);
        first.into()
    }
}

/// The memory of the server, and the most of it since this began.
struct Memory(Option<u32>);

impl Memory {
    fn start(pid: Option<u32>) -> Self {
        // 5 = the peak begins anew. Only for processes of the same user.
        let reset = |pid: &u32| std::fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok();
        Self(pid.filter(reset))
    }

    fn peak_mb(&self) -> Option<f64> {
        let kib = process::peak_rss_kib(self.0?)?;
        Some(rounded(kib as f64 / 1e3 * 1.024, 0))
    }
}

fn on_disk(
    folder: &Path,
    content: &[u8],
    what: fn(&Path, &[u8]) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME)
            .map(|worker| {
                scope.spawn(move || {
                    let mut files = (0..TRANSFERS).filter(|file| file % AT_A_TIME == worker);
                    files.try_for_each(|file| what(&folder.join(file.to_string()), content))
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(done) => done?,
                Err(_) => bail!("a thread panicked"),
            }
        }
        Ok(())
    })
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    for block in content.chunks(BLOCK) {
        file.write_all(block)?;
    }
    file.sync_all()
}

fn read(path: &Path, _: &[u8]) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let mut block = vec![0; BLOCK];
    while file.read(&mut block)? > 0 {}
    Ok(())
}

fn authorized<T>(message: T, device: &Device) -> anyhow::Result<Request<T>> {
    let mut request = Request::new(message);
    let token = format!("Bearer {}", device.access_token).parse()?;
    request.metadata_mut().insert("authorization", token);
    request.set_timeout(DEADLINE);
    Ok(request)
}

/// All at the same time, each on a connection of its own. Answers the ids of the blobs.
async fn upload_by_rpc(
    server: &str,
    devices: &[Device],
    contents: &Arc<Vec<Content>>,
) -> anyhow::Result<Vec<String>> {
    let each = (0..contents.len()).map(|number| async move {
        let channel = Endpoint::from_shared(server.to_owned())?.connect().await?;
        let contents = contents.clone();
        let header = UploadHeader {
            upload_id: uuid::Uuid::now_v7().to_string(),
            offset: 0,
            size_bytes: SIZE as u64,
            sha256: contents[number].sha256.to_vec(),
            purpose: Purpose::Attachment.into(),
            poster_receipt: String::new(),
        };
        let header = UploadRequest {
            part: Some(Part::Header(header)),
        };
        let data = stream::iter((0..SIZE).step_by(PIECE)).map(move |at| UploadRequest {
            part: Some(Part::Data(contents[number].piece(at))),
        });
        let messages = stream::iter([header]).chain(data);
        let request = authorized((), &devices[number / PER_USER])?.map(|()| messages);
        let answer = BlobServiceClient::new(channel).upload(request).await?;
        let answer = answer.into_inner();
        ensure!(!answer.existed, "the server has the bytes already");
        anyhow::Ok(answer.blob.context("a blob")?.blob_id)
    });
    let all: Vec<_> = each.collect();
    futures_util::future::try_join_all(all).await
}

/// Where the first ones can be downloaded.
async fn urls(server: &str, devices: &[Device], blobs: &[String]) -> anyhow::Result<Vec<String>> {
    let channel = Endpoint::from_shared(server.to_owned())?.connect().await?;
    let mut client = BlobServiceClient::new(channel);
    let mut urls = Vec::new();
    for (blobs, device) in blobs.chunks(PER_USER).zip(devices).take(4) {
        let url = |blob_id: &String| UrlRequest {
            blob_id: blob_id.clone(),
            variant: Variant::Original.into(),
            ..UrlRequest::default()
        };
        let request = BatchSignUrlsRequest {
            urls: blobs.iter().map(url).collect(),
        };
        let answer = client.batch_sign_urls(authorized(request, device)?).await?;
        urls.extend(answer.into_inner().urls.into_iter().map(|url| url.url));
    }
    Ok(urls)
}

/// `host:port` and the rest of a URL.
fn parts(url: &str) -> anyhow::Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").context("an http:// URL")?;
    Ok(rest.split_at(rest.find('/').unwrap_or(rest.len())))
}

async fn upload_by_put(
    one: &str,
    devices: &[Device],
    contents: &Arc<Vec<Content>>,
) -> anyhow::Result<()> {
    let (authority, _) = parts(one)?;
    let each = (0..contents.len()).map(|number| async move {
        let content = &contents[number];
        let mut connection = TcpStream::connect(authority).await?;
        let id = uuid::Uuid::now_v7();
        let token = &devices[number / PER_USER].access_token;
        let hash: String = content.sha256.iter().map(|b| format!("{b:02x}")).collect();
        let head = format!(
            "PUT /v1/uploads/{id} HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {token}\r\n\
             content-length: {SIZE}\r\nx-content-sha256: {hash}\r\nx-blob-purpose: attachment\r\n\
             connection: close\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).await?;
        for at in (0..SIZE).step_by(PIECE) {
            connection.write_all(&content.piece(at)).await?;
        }
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        let status = String::from_utf8_lossy(&answer[..answer.len().min(64)]).into_owned();
        ensure!(status.starts_with("HTTP/1.1 20"), "an upload got {status:?}");
        anyhow::Ok(())
    });
    futures_util::future::try_join_all(each).await?;
    Ok(())
}

/// Downloads, each URL in turn, over connections that are kept.
async fn download(urls: &[String]) -> anyhow::Result<()> {
    let workers = (0..AT_A_TIME).map(|worker| async move {
        let (authority, _) = parts(urls.first().context("a URL")?)?;
        let mut connection = TcpStream::connect(authority).await?;
        connection.set_nodelay(true)?;
        let mut buffer = vec![0; BLOCK];
        for number in (0..TRANSFERS).filter(|number| number % AT_A_TIME == worker) {
            let (_, path) = parts(&urls[number % urls.len()])?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
            connection.write_all(request.as_bytes()).await?;
            take_answer(&mut connection, &mut buffer).await?;
        }
        anyhow::Ok(())
    });
    stream::iter(workers)
        .buffer_unordered(AT_A_TIME)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

/// Reads a head and SIZE bytes behind it.
async fn take_answer(connection: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut head = Vec::new();
    let mut body = loop {
        let count = connection.read(buffer).await?;
        ensure!(count > 0, "the connection ended in a head");
        head.extend_from_slice(&buffer[..count]);
        if let Some(end) = head.windows(4).position(|part| part == b"\r\n\r\n") {
            ensure!(
                head.starts_with(b"HTTP/1.1 200"),
                "not every download got 200"
            );
            break head.len() - end - 4;
        }
    };
    while body < SIZE {
        let count = connection.read(buffer).await?;
        ensure!(count > 0, "the connection ended after {body} bytes");
        body += count;
    }
    Ok(())
}

/// nginx with one folder; ends with it.
struct Nginx {
    process: std::process::Child,
    config: PathBuf,
    port: u16,
}

impl Nginx {
    /// `None` if there is none on this machine.
    async fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let folder = folder.canonicalize()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let root = folder.display();
        // As its packages ship it: sendfile, and a process a core.
        let config = format!(
            "worker_processes auto;\ndaemon off;\npid {root}/nginx.pid;\nerror_log {root}/error.log;\n\
             user root;\nevents {{}}\nhttp {{ access_log off; sendfile on; tcp_nopush on;\n\
             server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, config)?;
        let started = std::process::Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = match started {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let nginx = Self {
            process,
            config: file,
            port,
        };
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(Some(nginx));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("nginx did not start")
    }

    fn url(&self, file: &str) -> String {
        format!("http://127.0.0.1:{}/{file}", self.port)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // By its own word: workers outlive a master that is killed.
        let mut stop = std::process::Command::new("nginx");
        let told = stop.arg("-c").arg(&self.config).args(["-s", "stop"]);
        if !told.status().is_ok_and(|status| status.success()) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

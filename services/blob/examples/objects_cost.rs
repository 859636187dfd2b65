//! What keeping and reading 16 MiB costs, in files, beside what the disk itself does.
//!
//! ```text
//! cargo run --release -p blob --no-default-features --example objects_cost -- [FOLDER]
//! ```
//!
//! FOLDER must be on the disk to measure (default: the current one). "disk" writes the same bytes with
//! `write` and `fsync`, 256 KiB at a time, and reads them so, in threads of its own. What is read was just
//! written, so that it comes from memory. On two shared cores: see the README of this crate.

use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use blob::{
    model::{MediaType, Variant},
    objects::{Content, ObjectKey, Objects, StageKey, local::LocalObjects},
};
use bytes::Bytes;
use futures_util::{TryStreamExt, future::try_join_all};
use runtime::ids::{BlobId, UploadId, UserId};
use sha2::{Digest, Sha256};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SIZE: usize = 16 * 1024 * 1024;
/// Objects of a measurement, over all that work at a time.
const OBJECTS: usize = 48;
/// As an upload brings them.
const PIECE: usize = 64 * 1024;
const BLOCK: usize = 256 * 1024;

fn main() -> Result<(), Failure> {
    let folder = std::env::args()
        .nth(1)
        .map_or_else(|| ".".into(), PathBuf::from);
    let folder = tempfile::Builder::new()
        .prefix("objects-")
        .tempdir_in(folder)?;
    let content: Bytes = (0..SIZE)
        .map(|at| (at.wrapping_mul(0x9E37_79B1) >> 13) as u8)
        .collect();
    let runtime = tokio::runtime::Runtime::new()?;
    let objects: Arc<dyn Objects> = Arc::new(LocalObjects::open(folder.path().join("objects"))?);
    println!("at a time  what              MB/s");
    for together in [1, 8] {
        let say = |what: &str, from: Instant| {
            let rate = (OBJECTS * SIZE) as f64 / 1e6 / from.elapsed().as_secs_f64();
            println!("{together:9}  {what:16}  {rate:6.0}");
        };
        let from = Instant::now();
        in_threads(together, |n| {
            write(&folder.path().join(n.to_string()), &content)
        })?;
        say("disk: write", from);
        let from = Instant::now();
        in_threads(together, |n| read(&folder.path().join(n.to_string())))?;
        say("disk: read", from);
        for n in 0..OBJECTS {
            std::fs::remove_file(folder.path().join(n.to_string()))?;
        }
        let blobs: Vec<_> = (0..OBJECTS).map(|_| BlobId::generate()).collect();
        let key = |blob| ObjectKey {
            blob,
            variant: Variant::Original,
        };
        runtime.block_on(async {
            let from = Instant::now();
            spread(together, &blobs, |blob| {
                put(objects.clone(), key(blob), content.clone())
            })
            .await?;
            say("put", from);
            let from = Instant::now();
            spread(together, &blobs, |blob| get(objects.clone(), key(blob))).await?;
            say("get", from);
            try_join_all(blobs.iter().map(|blob| objects.delete(*blob))).await?;
            let from = Instant::now();
            spread(together, &blobs, |blob| {
                stage(objects.clone(), key(blob), content.clone())
            })
            .await?;
            say("stage, promote", from);
            try_join_all(blobs.iter().map(|blob| objects.delete(*blob))).await?;
            Ok::<_, Failure>(())
        })?;
    }
    Ok(())
}

/// Does it for all blobs, so many at a time, in tasks.
async fn spread<F>(
    together: usize,
    blobs: &[BlobId],
    work: impl Fn(BlobId) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    for blobs in blobs.chunks(together) {
        let tasks = blobs.iter().map(|blob| tokio::spawn(work(*blob)));
        try_join_all(tasks)
            .await?
            .into_iter()
            .collect::<Result<(), _>>()?;
    }
    Ok(())
}

async fn put(objects: Arc<dyn Objects>, key: ObjectKey, content: Bytes) -> Result<(), Failure> {
    Ok(objects.put(key, content, MediaType::Mp4).await?)
}

async fn get(objects: Arc<dyn Objects>, key: ObjectKey) -> Result<(), Failure> {
    let mut parts = objects.get(key, 0..SIZE as u64).await?;
    let mut read = 0;
    while let Some(part) = parts.try_next().await? {
        read += part.len();
    }
    assert_eq!(read, SIZE);
    Ok(())
}

async fn stage(objects: Arc<dyn Objects>, key: ObjectKey, all: Bytes) -> Result<(), Failure> {
    let (owner, upload) = (UserId::generate(), UploadId::generate());
    let from = StageKey { owner, upload };
    let mut stage = objects.open_stage(from).await?;
    for at in (0..SIZE).step_by(PIECE) {
        stage.write(all.slice(at..at + PIECE)).await?;
    }
    stage.flush().await?;
    drop(stage);
    // Not measured: whoever promotes has the hash, and files do not need it.
    let content = Content {
        size_bytes: SIZE as u64,
        sha256: Sha256::digest(b"").into(),
    };
    Ok(objects.promote(from, key, content, MediaType::Mp4).await?)
}

fn in_threads(
    together: usize,
    work: impl Fn(usize) -> std::io::Result<()> + Sync,
) -> std::io::Result<()> {
    let numbers: Vec<_> = (0..OBJECTS).collect();
    for numbers in numbers.chunks(together) {
        std::thread::scope(|scope| {
            let threads: Vec<_> = numbers.iter().map(|n| scope.spawn(|| work(*n))).collect();
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()))
            })
        })?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    for block in content.chunks(BLOCK) {
        file.write_all(block)?;
    }
    file.sync_all()
}

fn read(path: &Path) -> std::io::Result<()> {
    let (mut file, mut block) = (File::open(path)?, vec![0; BLOCK]);
    while file.read(&mut block)? > 0 {}
    Ok(())
}

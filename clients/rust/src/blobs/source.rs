//! Where the bytes of an upload come from.

use std::{
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result, ServerError},
    model::ErrorReason,
};

/// Bytes of a blob (F8).
const BLOB_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bytes that are read at a time: as many as one message of an upload may have.
pub(super) const PART_BYTES_MAX: usize = 64 * 1024;

/// A file, or bytes in memory.
#[derive(Clone)]
pub struct Source(Kind);

#[derive(Clone)]
enum Kind {
    File(PathBuf),
    Bytes(Bytes),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::File(path) => f.debug_tuple("File").field(path).finish(),
            Kind::Bytes(bytes) => f.debug_tuple("Bytes").field(&bytes.len()).finish(),
        }
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self(Kind::File(path))
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Self(Kind::File(path.to_owned()))
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Kind::Bytes(bytes.into()))
    }
}

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Self {
        Self(Kind::Bytes(bytes))
    }
}

/// A source whose size and checksum are known.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) size_bytes: u64,
    pub(super) sha256: Vec<u8>,
    content: Content,
}

#[derive(Clone)]
enum Content {
    /// The same file until the end, whatever its name stands for meanwhile.
    File(Arc<Mutex<File>>),
    Bytes(Bytes),
}

impl Source {
    /// Its size as it is now, checked.
    pub(super) async fn size_bytes(&self) -> Result<u64> {
        let source = self.0.clone();
        blocking(move || {
            let size_bytes = match source {
                Kind::File(path) => file_size(&path)?,
                Kind::Bytes(bytes) => bytes.len() as u64,
            };
            check_size(size_bytes)?;
            Ok(size_bytes)
        })
        .await
    }

    /// Looks at the whole, on a thread that may wait.
    pub(super) async fn open(self) -> Result<Opened> {
        blocking(move || match self.0 {
            Kind::File(path) => open_file(&path),
            Kind::Bytes(bytes) => {
                check_size(bytes.len() as u64)?;
                Ok(Opened {
                    size_bytes: bytes.len() as u64,
                    sha256: Sha256::digest(&bytes).to_vec(),
                    content: Content::Bytes(bytes),
                })
            }
        })
        .await
    }
}

fn file_size(path: &Path) -> Result<u64> {
    let failed = |error| Error::Storage(format!("{}: {error}", path.display()));
    let metadata = std::fs::metadata(path).map_err(failed)?;
    // What is no file may have no end, and opening it may not come back.
    match metadata.is_file() {
        true => Ok(metadata.len()),
        false => Err(Error::Storage(format!("{}: not a file", path.display()))),
    }
}

fn open_file(path: &Path) -> Result<Opened> {
    let failed = |error| Error::Storage(format!("{}: {error}", path.display()));
    check_size(file_size(path)?)?;
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut part = vec![0; PART_BYTES_MAX];
    let mut size_bytes = 0_u64;
    loop {
        let count = file.read(&mut part).map_err(failed)?;
        if count == 0 {
            break;
        }
        hash.update(part.get(..count).unwrap_or_default());
        size_bytes += count as u64;
        // It may grow while it is read.
        check_size(size_bytes)?;
    }
    check_size(size_bytes)?;
    Ok(Opened {
        size_bytes,
        sha256: hash.finalize().to_vec(),
        content: Content::File(Arc::new(Mutex::new(file))),
    })
}

fn check_size(size_bytes: u64) -> Result<()> {
    let (code, reason, message) = match size_bytes {
        0 => (
            tonic::Code::InvalidArgument,
            ErrorReason::FieldRequired,
            "there is nothing to upload",
        ),
        1..=BLOB_BYTES_MAX => return Ok(()),
        _ => (
            tonic::Code::OutOfRange,
            ErrorReason::BlobTooLarge,
            "more than 16 MiB",
        ),
    };
    Err(Error::Server(ServerError {
        code,
        reason,
        message: message.to_owned(),
        field: "header.size_bytes".to_owned(),
        retry_after: None,
    }))
}

impl Opened {
    /// What comes at an offset; some bytes, unless it is the end.
    pub(super) async fn part(&self, offset: u64) -> Result<Bytes> {
        let left = self.size_bytes.saturating_sub(offset);
        let count = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(PART_BYTES_MAX);
        match &self.content {
            Content::Bytes(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let from = from.min(bytes.len());
                Ok(bytes.slice(from..(from + count).min(bytes.len())))
            }
            Content::File(file) => {
                let file = file.clone();
                blocking(move || {
                    let mut file = file.lock();
                    let mut part = vec![0; count];
                    let read = file
                        .seek(SeekFrom::Start(offset))
                        .and_then(|_| file.read_exact(&mut part));
                    read.map_err(|error| {
                        Error::Storage(format!("the file that is uploaded: {error}"))
                    })?;
                    Ok(part.into())
                })
                .await
            }
        }
    }
}

/// Work that may wait for a disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Storage(error.to_string()))?
}

//! Objects as files, for the one-process form.
//!
//! ```text
//! blobs/XX/BLOB.VARIANT       XX: the last byte of the blob's id, which is random (the first are its time)
//! uploads/XX/OWNER.UPLOAD     XX: the last byte of the owner's id
//! incoming/BLOB.VARIANT.N     what is just being put; whatever a crash left here goes at the next start
//! ```
//!
//! The 256 folders of each kind are made once and stay: nothing has to be created and removed beside
//! each other. A million blobs are some 12,000 files a folder, which file systems with indexed folders
//! (ext4, XFS, Btrfs) do not mind. Everything is for the owner of the process only.
//!
//! Not `object_store`'s local files: those cannot append, are readable by others, and leave unfinished
//! ones beside the finished.
//!
//! One process at a time has the folder; the log beside it is locked.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use runtime::ids::BlobId;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    ByteStream, Content, ObjectError, ObjectKey, Objects, READ_PART_BYTES, Stage, StageKey,
    claims::{Claim, Claims},
};
use crate::model::{MediaType, Variant};

/// Bytes that a stage collects before it writes them: a way to another thread costs as much as writing
/// some ten KiB.
const WRITE_PART_BYTES: usize = 256 * 1024;
/// Files and folders are for their owner only.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Objects in a folder. Clones share it.
#[derive(Debug, Clone)]
pub struct LocalObjects {
    folder: Arc<Path>,
    claims: Claims,
    /// Names what is put at the same time.
    puts: Arc<AtomicU64>,
}

impl LocalObjects {
    /// Opens a folder, and makes it if it is not there. Blocks for some milliseconds.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, ObjectError> {
        let folder: PathBuf = folder.into();
        make_folder(&folder)?;
        for kind in ["blobs", "uploads"] {
            let kind = folder.join(kind);
            make_folder(&kind)?;
            for byte in 0..=u8::MAX {
                make_folder(&kind.join(format!("{byte:02x}")))?;
            }
            sync_folder(&kind)?;
        }
        let incoming = folder.join("incoming");
        make_folder(&incoming)?;
        for left in fs::read_dir(&incoming)? {
            fs::remove_file(left?.path())?;
        }
        sync_folder(&folder)?;
        if let Some(above) = folder.canonicalize()?.parent() {
            sync_folder(above)?;
        }
        Ok(Self {
            folder: folder.into(),
            claims: Claims::default(),
            puts: Arc::default(),
        })
    }

    fn object(&self, key: ObjectKey) -> PathBuf {
        let ObjectKey { blob, variant } = key;
        let [.., last] = *blob.as_bytes();
        let name = format!("blobs/{last:02x}/{blob}.{}", variant.name());
        self.folder.join(name)
    }

    fn stage(&self, key: StageKey) -> PathBuf {
        let StageKey { owner, upload } = key;
        let [.., last] = *owner.as_bytes();
        self.folder
            .join(format!("uploads/{last:02x}/{owner}.{upload}"))
    }

    fn incoming(&self, key: ObjectKey) -> PathBuf {
        let (blob, variant) = (key.blob, key.variant.name());
        let put = self.puts.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("incoming/{blob}.{variant}.{put}"))
    }
}

#[async_trait]
impl Objects for LocalObjects {
    async fn staged_bytes(&self, key: StageKey) -> Result<u64, ObjectError> {
        let path = self.stage(key);
        blocking(move || {
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                file => file?,
            };
            // A writer that is gone may have written more than it flushed.
            file.sync_data()?;
            sync_parent(&path)?;
            Ok(file.metadata()?.len())
        })
        .await
    }

    async fn open_stage(&self, key: StageKey) -> Result<Box<dyn Stage>, ObjectError> {
        let claim = self.claims.claim(key)?;
        let path = self.stage(key);
        let stage = blocking(move || {
            let mut options = OpenOptions::new();
            let file = options
                .append(true)
                .create(true)
                .mode(FILE_MODE)
                .open(&path)?;
            file.sync_data()?;
            // Once: later flushes find the name where it is.
            sync_parent(&path)?;
            let written_bytes = file.metadata()?.len();
            let writer = Writer {
                file,
                _claim: claim,
            };
            Ok(LocalStage {
                writer: Some(writer),
                collected: Vec::new(),
                collected_bytes: 0,
                written_bytes,
            })
        })
        .await?;
        Ok(Box::new(stage))
    }

    async fn read_stage(&self, key: StageKey) -> Result<ByteStream, ObjectError> {
        read(self.stage(key), None).await
    }

    async fn promote(
        &self,
        stage: StageKey,
        key: ObjectKey,
        content: Content,
        _media_type: MediaType,
    ) -> Result<(), ObjectError> {
        let claim = self.claims.claim(stage)?;
        let (from, to) = (self.stage(stage), self.object(key));
        blocking(move || {
            let _claim = claim;
            // Without a writer nothing here changes any more, and what was written never did: by its
            // size it is known whether it is what was checked.
            let is_it = |file: &File| match file.metadata()?.len() {
                size if size == content.size_bytes => Ok(()),
                _ => Err(ObjectError::Changed),
            };
            match File::open(&from) {
                Ok(file) => {
                    is_it(&file)?;
                    file.sync_all()?;
                    fs::rename(&from, &to)?;
                }
                // Renamed before, by somebody who may not have come to the rest of it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => is_it(&File::open(&to)?)?,
                Err(error) => return Err(error.into()),
            }
            sync_parent(&to)?;
            // Or a crash could leave both names, and the next writer change the object.
            sync_parent(&from)?;
            Ok(())
        })
        .await
    }

    async fn discard_stage(&self, key: StageKey) -> Result<(), ObjectError> {
        let claim = self.claims.claim(key)?;
        let path = self.stage(key);
        blocking(move || {
            let _claim = claim;
            remove(&path)?;
            Ok(sync_parent(&path)?)
        })
        .await
    }

    async fn put(
        &self,
        key: ObjectKey,
        content: Bytes,
        _media_type: MediaType,
    ) -> Result<(), ObjectError> {
        let (incoming, path) = (self.incoming(key), self.object(key));
        blocking(move || {
            let written = write_whole(&incoming, &content)
                .and_then(|()| fs::rename(&incoming, &path))
                .and_then(|()| sync_parent(&path));
            if written.is_err() {
                let _ = fs::remove_file(&incoming);
            }
            Ok(written?)
        })
        .await
    }

    async fn get(&self, key: ObjectKey, range: Range<u64>) -> Result<ByteStream, ObjectError> {
        read(self.object(key), Some(range)).await
    }

    async fn size_bytes(&self, key: ObjectKey) -> Result<u64, ObjectError> {
        let path = self.object(key);
        blocking(move || Ok(fs::metadata(path)?.len())).await
    }

    async fn delete(&self, blob: BlobId) -> Result<(), ObjectError> {
        let paths = Variant::ALL.map(|variant| self.object(ObjectKey { blob, variant }));
        blocking(move || {
            paths.iter().try_for_each(|path| remove(path))?;
            // All are in one folder. Also when none was there: the one who removed them may have
            // died before this.
            let [path, ..] = &paths;
            Ok(sync_parent(path)?)
        })
        .await
    }

    async fn presign(
        &self,
        _key: ObjectKey,
        _media_type: MediaType,
        _life: Duration,
    ) -> Result<Option<String>, ObjectError> {
        Ok(None)
    }
}

/// An open upload. The file and its claim go with each write to the thread that does it, so that nobody
/// opens the upload while a write is under way that was not waited for.
struct LocalStage {
    /// `None` after a write that failed, or was not waited for.
    writer: Option<Writer>,
    collected: Vec<Bytes>,
    collected_bytes: usize,
    written_bytes: u64,
}

struct Writer {
    file: File,
    _claim: Claim,
}

impl LocalStage {
    /// Writes what was collected, and syncs it if that is wanted.
    async fn write_out(&mut self, sync: bool) -> Result<(), ObjectError> {
        let Some(mut writer) = self.writer.take() else {
            return Err(failed_before());
        };
        let collected = std::mem::take(&mut self.collected);
        self.collected_bytes = 0;
        let writer = blocking(move || {
            for part in &collected {
                writer.file.write_all(part)?;
            }
            if sync {
                writer.file.sync_data()?;
            }
            Ok(writer)
        });
        self.writer = Some(writer.await?);
        Ok(())
    }
}

fn failed_before() -> ObjectError {
    ObjectError::Unavailable("a write before this one failed".to_owned())
}

#[async_trait]
impl Stage for LocalStage {
    fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    async fn write(&mut self, data: Bytes) -> Result<(), ObjectError> {
        if self.writer.is_none() {
            return Err(failed_before());
        }
        self.written_bytes += data.len() as u64;
        self.collected_bytes += data.len();
        self.collected.push(data);
        if self.collected_bytes >= WRITE_PART_BYTES {
            self.write_out(false).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ObjectError> {
        self.write_out(true).await
    }
}

/// A file that is read in parts, and where the next one begins.
struct Reading {
    file: File,
    left: u64,
}

impl Reading {
    /// The next part, which is not empty unless all was read.
    fn next(mut self) -> io::Result<(Bytes, Self)> {
        let wanted = self.left.min(READ_PART_BYTES as u64);
        let mut part = Vec::with_capacity(usize::try_from(wanted).unwrap_or(READ_PART_BYTES));
        (&self.file).take(wanted).read_to_end(&mut part)?;
        if part.len() as u64 != wanted {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= wanted;
        Ok((Bytes::from(part), self))
    }
}

/// A part that is being read.
type Next = JoinHandle<io::Result<(Bytes, Reading)>>;

/// Reads a file, or a range of it: the next part is read while the last one is on its way. What is small
/// costs one way to another thread.
async fn read(path: PathBuf, range: Option<Range<u64>>) -> Result<ByteStream, ObjectError> {
    let first = blocking(move || {
        let mut file = File::open(path)?;
        let range = match range {
            Some(range) => range,
            None => 0..file.metadata()?.len(),
        };
        file.seek(SeekFrom::Start(range.start))?;
        let left = range.end.saturating_sub(range.start);
        Ok(Reading { file, left }.next()?)
    })
    .await?;
    let (part, reading) = first;
    let next = ahead(reading);
    let first = (!part.is_empty()).then_some(Ok(part));
    let rest = stream::unfold(next, async |next| {
        let read = match next?.await {
            Ok(read) => read.map_err(ObjectError::from),
            Err(error) => Err(ObjectError::Unavailable(error.to_string())),
        };
        Some(match read {
            Ok((part, reading)) => (Ok(part), ahead(reading)),
            Err(error) => (Err(error), None),
        })
    });
    Ok(stream::iter(first).chain(rest).boxed())
}

fn ahead(reading: Reading) -> Option<Next> {
    (reading.left > 0).then(|| spawn_blocking(move || reading.next()))
}

/// Runs what waits for a disk where waiting is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ObjectError> + Send + 'static,
) -> Result<T, ObjectError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ObjectError::Unavailable(error.to_string())),
    }
}

impl From<io::Error> for ObjectError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(FOLDER_MODE).create(path)
}

fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Makes the names in the file's folder durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests;

//! Where the bytes of a download go.

use std::{
    fs,
    io::{ErrorKind, SeekFrom},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use tokio::{
    fs::File,
    io::{AsyncSeekExt, AsyncWrite, AsyncWriteExt},
};
use uuid::Uuid;

use super::source::blocking;
use crate::error::{Error, Result};

#[async_trait]
pub(super) trait Sink: Send {
    async fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Forgets what was written. [`Error::Protocol`] if that cannot be done.
    async fn begin_again(&mut self) -> Result<()>;

    /// All has been written.
    async fn end(&mut self) -> Result<()>;
}

#[async_trait]
impl Sink for Vec<u8> {
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    async fn begin_again(&mut self) -> Result<()> {
        self.clear();
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

pub(super) struct Writer<'a, W>(pub(super) &'a mut W);

#[async_trait]
impl<W: AsyncWrite + Unpin + Send> Sink for Writer<'_, W> {
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).await.map_err(not_written)
    }

    async fn begin_again(&mut self) -> Result<()> {
        let message = "what is downloaded has changed, and a part of it was passed on";
        Err(Error::Protocol(message.to_owned()))
    }

    async fn end(&mut self) -> Result<()> {
        self.0.flush().await.map_err(not_written)
    }
}

fn not_written(error: std::io::Error) -> Error {
    Error::Storage(format!("what is downloaded cannot be written: {error}"))
}

/// A file beside the one that it will be; removed when it is dropped before.
pub(super) struct BesideFile {
    file: File,
    beside: Beside,
}

struct Beside(PathBuf);

impl Drop for Beside {
    fn drop(&mut self) {
        // It is gone if it was put in place, and a leftover harms nobody.
        let _ = fs::remove_file(&self.0);
    }
}

impl BesideFile {
    /// Begins the file that [`BesideFile::put_in_place`] puts at `path`, where none may be yet.
    pub(super) async fn create(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        blocking(move || {
            let failed = |error| failed(&path, error);
            if path.symlink_metadata().is_ok() {
                return Err(failed(ErrorKind::AlreadyExists.into()));
            }
            let Some(name) = path.file_name() else {
                return Err(failed(ErrorKind::InvalidInput.into()));
            };
            let mut beside = std::ffi::OsString::from(".");
            beside.push(name);
            beside.push(format!(".{}.part", Uuid::new_v4().simple()));
            let beside = path.with_file_name(beside);
            let file = fs::File::create_new(&beside).map_err(failed)?;
            Ok(Self {
                file: File::from_std(file),
                beside: Beside(beside),
            })
        })
        .await
    }

    /// Gives it its name, unless somebody has taken that meanwhile.
    pub(super) async fn put_in_place(self, path: &Path) -> Result<()> {
        let (path, beside) = (path.to_owned(), self.beside);
        self.file
            .sync_all()
            .await
            .map_err(|error| failed(&path, error))?;
        blocking(move || {
            // Unlike a rename, a link takes no name that is in use. Not every file system has links.
            let linked = fs::hard_link(&beside.0, &path);
            let placed = match linked {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
                Err(_) if path.symlink_metadata().is_ok() => Err(ErrorKind::AlreadyExists.into()),
                Err(_) => fs::rename(&beside.0, &path),
                Ok(()) => Ok(()),
            };
            placed.map_err(|error| failed(&path, error))
        })
        .await
    }
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::Storage(format!("{}: {error}", path.display()))
}

#[async_trait]
impl Sink for BesideFile {
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).await.map_err(not_written)
    }

    async fn begin_again(&mut self) -> Result<()> {
        self.file.set_len(0).await.map_err(not_written)?;
        let start = self.file.seek(SeekFrom::Start(0)).await;
        start.map(|_| ()).map_err(not_written)
    }

    async fn end(&mut self) -> Result<()> {
        self.file.flush().await.map_err(not_written)
    }
}

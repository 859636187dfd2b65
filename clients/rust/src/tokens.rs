//! Where a device keeps what it is logged in with.

use std::{
    fmt,
    fs::{self, TryLockError},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Bytes of a token file that are read at most: real ones have about 1 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// How long another program may hold the lock of a token file: longer than a refresh takes.
const LOCK_DEADLINE: Duration = Duration::from_secs(30);
/// How often the lock is tried; a refresh takes some milliseconds.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// What a logged-in device holds. `Debug` shows no token.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user_id: String,
    /// The user's name, as it was given to log in.
    pub username: String,
    /// The device.
    pub device_id: String,
    /// For the `authorization` metadata of calls. Secret.
    pub access_token: String,
    /// When the access token ends; milliseconds since 1970, by the server's clock.
    pub access_expires_unix_ms: i64,
    /// For new tokens, once. Secret.
    pub refresh_token: String,
    /// When the refresh token ends.
    pub refresh_expires_unix_ms: i64,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user_id", &self.user_id)
            .field("username", &self.username)
            .field("device_id", &self.device_id)
            .field("access_expires_unix_ms", &self.access_expires_unix_ms)
            .finish_non_exhaustive()
    }
}

/// Keeps the [`Credentials`] of one device, such as in the key chain of a phone.
///
/// A refresh token is good for one use: what [`TokenStore::save`] has confirmed must survive the end
/// of the program, or the device has to log in again.
#[async_trait]
pub trait TokenStore: Send + Sync + 'static {
    /// What was saved last.
    async fn load(&self) -> Result<Option<Credentials>>;
    /// Replaces it, whole or not at all.
    async fn save(&self, credentials: &Credentials) -> Result<()>;
    /// Forgets it.
    async fn clear(&self) -> Result<()>;
    /// Taken while tokens are refreshed, and given back by dropping it. A store that several
    /// programs share must let one at a time have it.
    async fn lock(&self) -> Result<Box<dyn Send>> {
        Ok(Box::new(()))
    }
}

/// Keeps credentials as long as the client lives. The default.
#[derive(Debug, Default)]
pub struct MemoryTokens(Mutex<Option<Credentials>>);

#[async_trait]
impl TokenStore for MemoryTokens {
    async fn load(&self) -> Result<Option<Credentials>> {
        Ok(self.0.lock().clone())
    }

    async fn save(&self, credentials: &Credentials) -> Result<()> {
        *self.0.lock() = Some(credentials.clone());
        Ok(())
    }

    async fn clear(&self) -> Result<()> {
        *self.0.lock() = None;
        Ok(())
    }
}

/// Keeps credentials in a file that only its owner can read, replaced atomically. Several programs
/// may use the same file.
#[derive(Debug, Clone)]
pub struct FileTokens {
    path: PathBuf,
}

impl FileTokens {
    /// In this file; it and its folder need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || {
            work(&path).map_err(|error| Error::Storage(format!("{}: {error}", path.display())))
        })
        .await
        .map_err(|error| Error::Storage(error.to_string()))?
    }
}

#[async_trait]
impl TokenStore for FileTokens {
    async fn load(&self) -> Result<Option<Credentials>> {
        self.blocking(|path| {
            let metadata = match fs::metadata(path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            if metadata.len() > FILE_BYTES_MAX {
                return Err(std::io::Error::other("not a token file: too large"));
            }
            parse(&fs::read_to_string(path)?)
                .map(Some)
                .ok_or_else(|| std::io::Error::other("not a token file"))
        })
        .await
    }

    async fn save(&self, credentials: &Credentials) -> Result<()> {
        let text = format(credentials);
        self.blocking(move |path| replace(path, &text)).await
    }

    async fn clear(&self) -> Result<()> {
        self.blocking(|path| match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    async fn lock(&self) -> Result<Box<dyn Send>> {
        self.blocking(|path| {
            make_parent(path)?;
            let file = options().open(path.with_extension("lock"))?;
            let since = Instant::now();
            while let Err(error) = file.try_lock() {
                match error {
                    TryLockError::WouldBlock if since.elapsed() < LOCK_DEADLINE => {
                        std::thread::sleep(LOCK_POLL);
                    }
                    error => return Err(error.into()),
                }
            }
            // The lock ends when the file is closed.
            Ok(Box::new(file) as Box<dyn Send>)
        })
        .await
    }
}

/// One `name=value` a line.
fn format(credentials: &Credentials) -> String {
    format!(
        "user_id={}\nusername={}\ndevice_id={}\naccess_token={}\naccess_expires_unix_ms={}\n\
         refresh_token={}\nrefresh_expires_unix_ms={}\n",
        credentials.user_id,
        credentials.username,
        credentials.device_id,
        credentials.access_token,
        credentials.access_expires_unix_ms,
        credentials.refresh_token,
        credentials.refresh_expires_unix_ms,
    )
}

fn parse(text: &str) -> Option<Credentials> {
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(str::to_owned)
    };
    Some(Credentials {
        user_id: value("user_id")?,
        username: value("username")?,
        device_id: value("device_id")?,
        access_token: value("access_token")?,
        access_expires_unix_ms: value("access_expires_unix_ms")?.parse().ok()?,
        refresh_token: value("refresh_token")?,
        refresh_expires_unix_ms: value("refresh_expires_unix_ms")?.parse().ok()?,
    })
}

/// Writes beside the file, then puts it in place: a reader sees the old text or the new one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    make_parent(path)?;
    let beside = path.with_extension("new");
    // A leftover of a program that died might have other permissions.
    if let Err(error) = fs::remove_file(&beside)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = options().open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)?;
    sync_parent(path)
}

fn make_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::create_dir_all(parent),
        _ => Ok(()),
    }
}

/// Makes the rename survive a loss of power, where folders can be synced.
#[cfg(unix)]
fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::File::open(parent)?.sync_all(),
        _ => fs::File::open(".")?.sync_all(),
    }
}

#[cfg(not(unix))]
fn sync_parent(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

/// For a file of secrets: nobody but the owner, from the moment it exists.
fn options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(test)]
mod tests;

//! SQLite for the stores of the one-process form: one writer on a thread of its own, a few readers.
//!
//! Writes that wait at the same moment share a transaction: each but the first in a savepoint, so that
//! one that fails takes back its own changes only. A write is answered after the commit. `synchronous` is
//! NORMAL: a commit survives the death of the process, and after a loss of power the file is as it
//! was at some earlier commit. What must not go back even then is written to the event log first,
//! and a reader's position counts as durable only after [`Database::sync`].

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, ffi};
pub use rusqlite_migration::{M, Migrations};
use tokio::sync::{Semaphore, oneshot};

/// Writes that may wait; more are refused with [`SqliteError::Busy`].
const WRITES_WAITING_MAX: usize = 1_024;
/// Writes that share a transaction: enough to spread the cost of a commit, few enough to answer soon.
const WRITES_PER_COMMIT_MAX: usize = 128;
/// Reads at the same time; each needs a connection with a page cache of its own.
const READERS_MAX: usize = 4;
/// Page cache of the writer, in KiB.
const WRITER_CACHE_KIB: i64 = 65_536;
/// Page cache of a reader, in KiB.
const READER_CACHE_KIB: i64 = 16_384;
/// Pages of WAL after which a commit moves them into the file; measured in PERSISTENCE as the best
/// trade between CPU and the longest commit.
const CHECKPOINT_PAGES: i64 = 4_000;
/// Bytes of the write-ahead log above which the writer waits until no reader needs it: four times
/// what it has at a checkpoint. Where somebody always reads, it would never begin again by itself.
const WAL_BYTES_MAX: u64 = 4 * 4_000 * 4_096;

/// Why SQLite did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// The statement or the commit failed; nothing was changed.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The schema is newer than this program, or a migration failed.
    #[error("migration of {path}: {source}")]
    Migration {
        /// The database file.
        path: PathBuf,
        /// What went wrong.
        source: rusqlite_migration::Error,
    },
    /// As many writes wait as may; nothing was changed.
    #[error("too many writes are waiting")]
    Busy,
    /// The database was closed; nothing was changed.
    #[error("the database is closed")]
    Closed,
}

type Job = Box<dyn FnOnce(&Connection) -> Done + Send>;
/// What a write did, before the commit.
struct Done {
    failed: bool,
    answer: Answer,
}
/// Tells the writer's caller how the commit went.
type Answer = Box<dyn FnOnce(Result<(), &rusqlite::Error>) + Send>;

/// An open database. Clones share it; it is closed when the last one goes.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    /// The write-ahead log, held open to sync it. It is there for as long as the writer is.
    wal: File,
    sync_failed: AtomicBool,
    writer: Option<mpsc::SyncSender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    readers: Mutex<Vec<Connection>>,
    reading: Arc<Semaphore>,
    /// One sync at a time, apart from the reads, which must not wait for the disk.
    syncing: Arc<Semaphore>,
}

impl Database {
    /// Opens or makes the file and brings its schema up to date. Refuses a newer schema.
    pub fn open(path: &Path, migrations: &Migrations<'_>) -> Result<Self, SqliteError> {
        let mut connection = Connection::open(path)?;
        configure(&connection, WRITER_CACHE_KIB)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        migrations
            .to_latest(&mut connection)
            .map_err(|source| SqliteError::Migration {
                path: path.to_owned(),
                source,
            })?;
        // Reads, so that the write-ahead log is there.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        let wal = open_wal(path).map_err(sync_error)?;
        let writers_wal = wal.try_clone().map_err(sync_error)?;
        let (writer, jobs) = mpsc::sync_channel::<Job>(WRITES_WAITING_MAX);
        let name = path
            .file_stem()
            .map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        let thread = thread::Builder::new()
            .name(format!("sqlite-{name}"))
            .spawn(move || write_loop(connection, &writers_wal, &jobs))
            .map_err(|_| SqliteError::Closed)?;
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                wal,
                sync_failed: AtomicBool::new(false),
                writer: Some(writer),
                thread: Some(thread),
                readers: Mutex::new(Vec::new()),
                reading: Arc::new(Semaphore::new(READERS_MAX)),
                syncing: Arc::new(Semaphore::new(1)),
            }),
        })
    }

    /// Runs `work` in a transaction and answers after the commit. If `work` fails, its changes are
    /// taken back and the error is the answer.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<SqliteError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Without the transaction around it, a statement would commit by itself.
            let result = if connection.is_autocommit() {
                Err(SqliteError::Closed.into())
            } else {
                work(connection)
            };
            let failed = result.is_err();
            let answer: Answer = Box::new(move |committed| {
                let result = match committed {
                    Ok(()) => result,
                    Err(error) => Err(E::from(copy_of(error).into())),
                };
                // The caller may have gone away; the write stands all the same.
                let _ = answer.send(result);
            });
            Done { failed, answer }
        });
        match self
            .inner
            .writer
            .as_ref()
            .map(|writer| writer.try_send(job))
        {
            Some(Ok(())) => {}
            Some(Err(mpsc::TrySendError::Full(_))) => return Err(SqliteError::Busy.into()),
            Some(Err(mpsc::TrySendError::Disconnected(_))) | None => {
                return Err(SqliteError::Closed.into());
            }
        }
        answered
            .await
            .unwrap_or_else(|_| Err(SqliteError::Closed.into()))
    }

    /// Runs `work` on a read-only connection, in one snapshot of the database. Sees every write that
    /// was answered before.
    pub async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<SqliteError> + Send + 'static,
    {
        let inner = self.inner.clone();
        // Held by the work and not by the caller, who may go away before it is done.
        let Ok(permit) = self.inner.reading.clone().acquire_owned().await else {
            return Err(SqliteError::Closed.into());
        };
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut connection = inner.reader().map_err(E::from)?;
            let result = match connection.transaction() {
                Ok(snapshot) => work(&snapshot),
                Err(error) => Err(E::from(error.into())),
            };
            inner.readers.lock().push(connection);
            result
        });
        done.await
            .unwrap_or_else(|_| Err(SqliteError::Closed.into()))
    }

    /// Makes everything that was answered before survive a loss of power.
    pub async fn sync(&self) -> Result<(), SqliteError> {
        let inner = self.inner.clone();
        let Ok(permit) = self.inner.syncing.clone().acquire_owned().await else {
            return Err(SqliteError::Closed);
        };
        // By hand, and not by a checkpoint: that one syncs nothing while a reader or another one is in
        // its way. What a checkpoint has moved to the database file, it synced there before the log
        // began again.
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            // After a failure the system may have dropped what it could not write, and a sync that
            // succeeds later says nothing about it.
            if inner.sync_failed.load(Ordering::SeqCst) {
                return Err(sync_error(io::Error::other("an earlier sync failed")));
            }
            inner.wal.sync_data().map_err(|error| {
                inner.sync_failed.store(true, Ordering::SeqCst);
                sync_error(error)
            })
        });
        done.await.unwrap_or(Err(SqliteError::Closed))
    }
}

impl Inner {
    fn reader(&self) -> Result<Connection, SqliteError> {
        if let Some(connection) = self.readers.lock().pop() {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        configure(&connection, READER_CACHE_KIB)?;
        Ok(connection)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Lets the thread finish what it holds, then waits for it: the file is closed afterwards.
        self.writer = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn configure(connection: &Connection, cache_kib: i64) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Opens the write-ahead log of a database, and makes its place in the folder durable.
fn open_wal(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let wal = File::open(name)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(wal)
}

fn sync_error(error: io::Error) -> SqliteError {
    let code = ffi::Error::new(ffi::SQLITE_IOERR_FSYNC);
    rusqlite::Error::SqliteFailure(code, Some(error.to_string())).into()
}

fn write_loop(connection: Connection, wal: &File, jobs: &mpsc::Receiver<Job>) {
    let mut wal_bytes_max = WAL_BYTES_MAX;
    while let Ok(first) = jobs.recv() {
        let mut answers: Vec<Answer> = Vec::new();
        let mut begun = connection.execute_batch("BEGIN IMMEDIATE");
        // The first write of a transaction needs no savepoint, whose copies of pages cost CPU: if it
        // fails, there is nothing else to take back.
        let mut empty = true;
        for job in std::iter::once(first).chain(jobs.try_iter().take(WRITES_PER_COMMIT_MAX - 1)) {
            let Done { failed, answer } = if empty {
                job(&connection)
            } else {
                in_savepoint(&connection, job)
            };
            answers.push(answer);
            if empty && failed {
                roll_back(&connection);
                begun = begun.and_then(|()| connection.execute_batch("BEGIN IMMEDIATE"));
            }
            empty = empty && failed;
        }
        let committed = begun.and_then(|()| connection.execute_batch("COMMIT"));
        if committed.is_err() {
            // A commit that failed, on a full disk for example, leaves the transaction open.
            roll_back(&connection);
        }
        for answer in answers {
            answer(committed.as_ref().copied());
        }
        let wal_bytes = wal.metadata().map_or(0, |metadata| metadata.len());
        if wal_bytes > wal_bytes_max {
            let begins_again = restart_wal(&connection);
            // If a reader was in its way for the whole timeout: not after every commit again.
            wal_bytes_max = if begins_again {
                WAL_BYTES_MAX
            } else {
                wal_bytes.saturating_mul(2)
            };
        }
    }
}

/// Moves the whole write-ahead log into the file, waiting for those who read older states.
fn restart_wal(connection: &Connection) -> bool {
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    let blocked = connection.query_row(checkpoint, [], |row| row.get::<_, i64>(0));
    matches!(blocked, Ok(0))
}

/// Takes back the changes of a job that fails, and no others.
fn in_savepoint(connection: &Connection, job: Job) -> Done {
    // Without a transaction, which SQLite may have ended, the job changes nothing by itself.
    let saved = connection.is_autocommit() || connection.execute_batch("SAVEPOINT job").is_ok();
    if !saved {
        // Nothing can be undone by itself any more: everything is, and everybody hears of it.
        roll_back(connection);
    }
    let done = job(connection);
    let end = if done.failed {
        "ROLLBACK TO job; RELEASE job"
    } else {
        "RELEASE job"
    };
    if !connection.is_autocommit() && connection.execute_batch(end).is_err() {
        roll_back(connection);
    }
    done
}

fn roll_back(connection: &Connection) {
    if !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
}

/// `rusqlite::Error` cannot be cloned, and one failed commit answers many writes.
fn copy_of(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => {
            rusqlite::Error::SqliteFailure(*code, text.clone())
        }
        other => rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
            Some(other.to_string()),
        ),
    }
}

#[cfg(test)]
mod tests;

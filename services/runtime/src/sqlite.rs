//! SQLite for the stores of the one-process form: one writer on a thread of its own, a few readers.
//!
//! Writes that wait at the same moment share a transaction: each in a savepoint, so that one that
//! fails takes back its own changes only. A write is answered after the commit. `synchronous` is
//! NORMAL: a commit survives the death of the process, and after a loss of power the file is as it
//! was at some earlier commit. What must not go back even then is written to the event log first,
//! and a reader's position counts as durable only after [`Database::sync`].

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, Savepoint};
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

type Job = Box<dyn FnOnce(&mut Connection) -> Answer + Send>;
/// Tells the writer's caller how the commit went.
type Answer = Box<dyn FnOnce(Result<(), &rusqlite::Error>) + Send>;

/// An open database. Clones share it; it is closed when the last one goes.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    writer: Option<mpsc::SyncSender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    readers: Mutex<Vec<Connection>>,
    reading: Semaphore,
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
        let (writer, jobs) = mpsc::sync_channel::<Job>(WRITES_WAITING_MAX);
        let name = path
            .file_stem()
            .map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        let thread = thread::Builder::new()
            .name(format!("sqlite-{name}"))
            .spawn(move || write_loop(connection, &jobs))
            .map_err(|_| SqliteError::Closed)?;
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                writer: Some(writer),
                thread: Some(thread),
                readers: Mutex::new(Vec::new()),
                reading: Semaphore::new(READERS_MAX),
            }),
        })
    }

    /// Runs `work` in a transaction and answers after the commit. If `work` fails, its changes are
    /// taken back and the error is the answer.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: FnOnce(&Savepoint<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<SqliteError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = in_savepoint(connection, work);
            Box::new(move |committed| {
                let result = match committed {
                    Ok(()) => result,
                    Err(error) => Err(E::from(copy_of(error).into())),
                };
                // The caller may have gone away; the write stands all the same.
                let _ = answer.send(result);
            })
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
        let Ok(_permit) = self.inner.reading.acquire().await else {
            return Err(SqliteError::Closed.into());
        };
        let done = tokio::task::spawn_blocking(move || {
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
        let Ok(_permit) = self.inner.reading.acquire().await else {
            return Err(SqliteError::Closed);
        };
        let done = tokio::task::spawn_blocking(move || {
            // Moves what no reader needs into the file, and syncs the WAL first and the file then;
            // on a connection of its own, so that the writer goes on.
            let connection = Connection::open(&inner.path)?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
            Ok(())
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

fn write_loop(mut connection: Connection, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut answers: Vec<Answer> = Vec::new();
        let begun = connection.execute_batch("BEGIN IMMEDIATE");
        for job in std::iter::once(first).chain(jobs.try_iter().take(WRITES_PER_COMMIT_MAX - 1)) {
            answers.push(job(&mut connection));
        }
        let committed = begun.and_then(|()| connection.execute_batch("COMMIT"));
        if committed.is_err() && !connection.is_autocommit() {
            // A commit that failed, on a full disk for example, leaves the transaction open.
            let _ = connection.execute_batch("ROLLBACK");
        }
        for answer in answers {
            answer(committed.as_ref().copied());
        }
    }
}

fn in_savepoint<T, E: From<SqliteError>>(
    connection: &mut Connection,
    work: impl FnOnce(&Savepoint<'_>) -> Result<T, E>,
) -> Result<T, E> {
    // Without the transaction around it, a savepoint would commit by itself.
    if connection.is_autocommit() {
        return Err(SqliteError::Closed.into());
    }
    let savepoint = connection
        .savepoint()
        .map_err(|error| E::from(error.into()))?;
    let value = work(&savepoint)?;
    savepoint.commit().map_err(|error| E::from(error.into()))?;
    Ok(value)
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

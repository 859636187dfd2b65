//! Reading the file: a few connections, used off the async threads.

use std::path::PathBuf;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::file;

/// Readers of the file at the same time. They are there for those who are behind, and must leave
/// the machine to those who are not.
const READS_MAX: usize = 2;

/// The connections.
pub(super) struct Reads {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Reads {
    /// No connections yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            idle: Mutex::default(),
            permits: Semaphore::new(READS_MAX),
        }
    }

    /// Runs `read` on a thread that may block. Holds no snapshot of the file afterwards.
    pub(super) async fn run<T, F>(self: &std::sync::Arc<Self>, read: F) -> Result<T, String>
    where
        F: FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
        T: Send + 'static,
    {
        let closed = || "the log is closed".to_owned();
        let Ok(_permit) = self.permits.acquire().await else {
            return Err(closed());
        };
        let reads = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let idle = reads.idle.lock().pop();
            let connection = match idle {
                Some(connection) => connection,
                None => file::open_reader(&reads.path)?,
            };
            let result = read(&connection);
            // A connection that failed is not used again.
            if result.is_ok() && !reads.permits.is_closed() {
                reads.idle.lock().push(connection);
            }
            result
        });
        match done.await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(closed()),
        }
    }

    /// Closes the connections and opens no more.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }
}

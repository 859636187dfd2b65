//! One sync of the file for all changes that wait for one.

use std::sync::atomic::{AtomicU64, Ordering};

use runtime::sqlite::{Database, SqliteError};
use tokio::sync::Mutex;

#[derive(Default)]
pub(super) struct GroupSync {
    committed: AtomicU64,
    /// Of the committed changes, those that the last sync covered.
    synced: Mutex<u64>,
}

impl GroupSync {
    /// Makes a change that is committed survive a loss of power, together with those of others.
    pub(super) async fn wait(&self, database: &Database) -> Result<(), SqliteError> {
        let mine = self.committed.fetch_add(1, Ordering::SeqCst) + 1;
        let mut synced = self.synced.lock().await;
        if *synced < mine {
            let covered = self.committed.load(Ordering::SeqCst);
            database.sync().await?;
            *synced = covered;
        }
        Ok(())
    }
}

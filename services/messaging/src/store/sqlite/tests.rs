use std::fs;

use runtime::sqlite::SqliteError;
use rusqlite::Connection;

use super::*;
use crate::store::suite::{self, Fixture};

/// A store in a folder of its own.
struct SqliteFixture {
    folder: tempfile::TempDir,
    store: Option<SqliteStore>,
}

impl SqliteFixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("messaging.db")).unwrap();
        Self {
            folder,
            store: Some(store),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("messaging.db")
    }

    /// Changes the file behind the store's back.
    async fn tamper(&mut self, sql: &str) {
        self.store = None;
        let connection = Connection::open(self.path()).unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        self.reopen().await;
    }
}

#[async_trait]
impl Fixture for SqliteFixture {
    fn store(&self) -> &dyn Store {
        self.store.as_ref().unwrap()
    }

    async fn reopen(&mut self) {
        // Closed first: it was the last one that held the file.
        self.store = None;
        self.store = Some(SqliteStore::open(&self.path()).unwrap());
    }
}

suite::run_suite!(SqliteFixture::new());

//! The SQLite adapter: the store of the one-process form.

use std::{collections::HashMap, path::Path};

use async_trait::async_trait;
use runtime::{
    ids::UserId,
    sqlite::{Database, M, Migrations, SqliteError},
};
use rusqlite::OptionalExtension;

use super::{Store, StoreError};

/// Presence's store in one SQLite file. Clones share it.
#[derive(Clone)]
pub struct SqliteStore {
    database: Database,
}

impl SqliteStore {
    /// Opens or makes the file, and brings its schema up to date. Blocks for as long as that takes.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let initial = M::up(include_str!("../../migrations/sqlite/0001_initial.sql"));
        let database = Database::open(path, &Migrations::new(vec![initial]))?;
        Ok(Self { database })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn note_seen(&self, seen: Vec<(UserId, i64)>) -> Result<(), StoreError> {
        self.database
            .write(move |tx| {
                let mut note = tx.prepare_cached(
                    "INSERT INTO last_seen (user_id, seen_unix_ms) VALUES (?1, ?2)
                     ON CONFLICT (user_id) DO UPDATE SET seen_unix_ms = excluded.seen_unix_ms
                     WHERE excluded.seen_unix_ms > seen_unix_ms",
                )?;
                for (user, unix_ms) in seen {
                    note.execute((user.as_bytes(), unix_ms.max(0)))?;
                }
                Ok(())
            })
            .await
    }

    async fn last_seen(&self, users: Vec<UserId>) -> Result<HashMap<UserId, i64>, StoreError> {
        self.database
            .read(move |snapshot| {
                let mut find = snapshot
                    .prepare_cached("SELECT seen_unix_ms FROM last_seen WHERE user_id = ?1")?;
                let mut found = HashMap::new();
                for user in users {
                    let seen = find
                        .query_row([user.as_bytes()], |row| row.get(0))
                        .optional()?;
                    if let Some(unix_ms) = seen {
                        found.insert(user, unix_ms);
                    }
                }
                Ok(found)
            })
            .await
    }
}

impl From<SqliteError> for StoreError {
    fn from(error: SqliteError) -> Self {
        Self(error.to_string())
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite;

    #[tokio::test]
    async fn keeps_what_every_store_must() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("presence.db");
        suite::run(async || SqliteStore::open(&path).unwrap()).await;
    }
}

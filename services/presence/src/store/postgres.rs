//! The PostgreSQL adapter: the store of the distributed form, shared by all replicas.
//!
//! One statement and one round trip a call.

use std::collections::HashMap;

use async_trait::async_trait;
use runtime::{
    ids::UserId,
    postgres::{Database, OpenError, PostgresConfig, PostgresError},
};
use sqlx::{migrate::Migrator, types::Uuid};

use super::{Store, StoreError};

/// The schema.
static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Each user once, since a statement changes no row twice, and in one order in all processes, so that
/// none waits for another in a circle.
const NOTE_SEEN: &str = "
    INSERT INTO last_seen (user_id, seen_unix_ms)
    SELECT seen.user_id, greatest(max(seen.unix_ms), 0)
    FROM unnest($1::uuid[], $2::bigint[]) AS seen (user_id, unix_ms)
    GROUP BY seen.user_id ORDER BY seen.user_id
    ON CONFLICT (user_id) DO UPDATE SET seen_unix_ms = excluded.seen_unix_ms
    WHERE excluded.seen_unix_ms > last_seen.seen_unix_ms";

const LAST_SEEN: &str = "SELECT user_id, seen_unix_ms FROM last_seen WHERE user_id = ANY ($1)";

/// Presence's store in one PostgreSQL database. Clones share it.
#[derive(Clone)]
pub struct PostgresStore {
    database: Database,
}

impl PostgresStore {
    /// Connects, and brings the schema up to date; one process at a time does.
    pub async fn open(config: &PostgresConfig) -> Result<Self, OpenError> {
        let database = Database::connect(config).await?;
        database.migrate(&MIGRATIONS).await?;
        Ok(Self { database })
    }

    /// The database, for health and to close it.
    pub fn database(&self) -> &Database {
        &self.database
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn note_seen(&self, seen: Vec<(UserId, i64)>) -> Result<(), StoreError> {
        let (users, times): (Vec<Uuid>, Vec<i64>) = seen
            .into_iter()
            .map(|(user, unix_ms)| (Uuid::from_bytes(*user.as_bytes()), unix_ms))
            .unzip();
        let note = sqlx::query(NOTE_SEEN).bind(users).bind(times);
        self.database
            .call("note seen", async |c| note.execute(c).await)
            .await?;
        Ok(())
    }

    async fn last_seen(&self, users: Vec<UserId>) -> Result<HashMap<UserId, i64>, StoreError> {
        let users: Vec<Uuid> = users
            .into_iter()
            .map(|user| Uuid::from_bytes(*user.as_bytes()))
            .collect();
        let find = sqlx::query_as(LAST_SEEN).bind(users);
        let found: Vec<(Uuid, i64)> = self
            .database
            .call("last seen", async |c| find.fetch_all(c).await)
            .await?;
        let found = found
            .into_iter()
            .map(|(user, unix_ms)| (UserId::from_bytes(user.into_bytes()), unix_ms));
        Ok(found.collect())
    }
}

impl From<PostgresError> for StoreError {
    fn from(error: PostgresError) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests;

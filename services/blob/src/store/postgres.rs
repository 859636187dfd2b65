//! The store of the distributed form, shared by all replicas of the service.
//!
//! What it costs, each a look-up by key or a range of an index:
//! - an upload: a transaction of four or five statements at its beginning, and one at its end;
//! - a batch of references: a transaction of three to eight statements, whatever its size;
//! - a blob that is looked at for removal: one look-up in each of three indexes. A blob is looked at
//!   once when its last receipt has expired, and once after each removal of a reference to it, not
//!   in every round.

use async_trait::async_trait;
use runtime::{
    ids::{BlobId, UploadId, UserId},
    positions,
    postgres::{Database, Failure, OpenError, PostgresConfig, PostgresError},
};
use sqlx::{Connection, migrate::Migrator, postgres::PgRow};

use super::{
    Barrier, Begun, CHECK_MAX, Finished, KeptBefore, LogIdentity, PositionAdvance, ReaderId, Store,
    StoreError, batch::Batch,
};
use crate::model::{Blob, Leftover, Reference, Upload};

mod apply;
mod removal;
mod rows;
mod sql;
mod uploads;

use rows::{Columns, Statement, blob_column, to_limit, upload_column, user_column};

/// The schema.
static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// How often a transaction is made again that was in another one's way.
const TRIES_MAX: usize = 4;

impl From<PostgresError> for StoreError {
    fn from(error: PostgresError) -> Self {
        match error.failure() {
            Failure::Lasting => Self::Corrupt(error.to_string()),
            Failure::Unavailable | Failure::Conflict | Failure::Unique => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}

/// Why a transaction was not made.
enum Failed {
    Store(StoreError),
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Does the work in a transaction on the connection that it names, all or nothing; again, if another one
/// was in its way. A macro, because a future that is made by a closure inside of another one's is not known
/// to be `Send`.
macro_rules! transaction {
    ($store:expr, $operation:literal, $c:ident => $work:expr) => {{
        let mut tries = 0;
        loop {
            tries += 1;
            let done = $store.database.call($operation, async |connection| {
                let mut transaction = connection.begin().await?;
                let $c = &mut *transaction;
                match $work.await {
                    Ok(done) => {
                        transaction.commit().await?;
                        Ok(Ok(done))
                    }
                    Err(Failed::Store(error)) => {
                        transaction.rollback().await?;
                        Ok(Err(error))
                    }
                    Err(Failed::Sql(error)) => Err(error),
                }
            });
            match done.await {
                Ok(done) => break done,
                Err(error) if error.failure() == Failure::Conflict && tries < TRIES_MAX => {}
                Err(error) => break Err(StoreError::from(error)),
            }
        }
    }};
}

/// The store in one PostgreSQL database. Clones share it.
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

    async fn rows<T>(
        &self,
        operation: &'static str,
        query: Statement,
        read: impl Fn(&Columns<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self
            .database
            .call(operation, async |c| query.fetch_all(c).await);
        read_all(&rows.await?, read)
    }
}

fn read_all<T>(
    rows: &[PgRow],
    read: impl Fn(&Columns<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    rows.iter().map(|row| read(&Columns(row))).collect()
}

#[async_trait]
impl Store for PostgresStore {
    async fn begin_upload(
        &self,
        upload: Upload,
        unfinished_max: usize,
        kept_until_unix_ms: i64,
    ) -> Result<Begun, StoreError> {
        transaction!(self, "begin upload", c => uploads::begin(c, &upload, unfinished_max, kept_until_unix_ms))
    }

    async fn upload(
        &self,
        owner: UserId,
        upload: UploadId,
    ) -> Result<Option<(Upload, Option<Blob>)>, StoreError> {
        let query = sqlx::query(sql::UPLOAD)
            .bind(user_column(owner))
            .bind(upload_column(upload));
        let found = self.rows("upload", query, |columns| columns.upload());
        let Some(upload) = found.await?.pop() else {
            return Ok(None);
        };
        let blob = match upload.finished {
            true => self.blobs(vec![upload.blob]).await?.pop(),
            false => None,
        };
        Ok(Some((upload, blob)))
    }

    async fn finish_with_twin(
        &self,
        upload: &Upload,
        kept_until_unix_ms: i64,
    ) -> Result<Option<Blob>, StoreError> {
        transaction!(self, "finish with twin", c => uploads::finish_with_twin(c, upload, kept_until_unix_ms))
    }

    async fn finish_upload(&self, upload: &Upload, blob: Blob) -> Result<Finished, StoreError> {
        transaction!(self, "finish upload", c => uploads::finish(c, upload, &blob))
    }

    async fn keep(
        &self,
        blob: BlobId,
        kept_until_unix_ms: i64,
    ) -> Result<Option<Blob>, StoreError> {
        let keep = sqlx::query(sql::KEEP)
            .bind(blob_column(blob))
            .bind(kept_until_unix_ms);
        let mut kept = self.rows("keep", keep, |columns| columns.blob()).await?;
        Ok(kept.pop())
    }

    async fn blobs(&self, ids: Vec<BlobId>) -> Result<Vec<Blob>, StoreError> {
        let ids: Vec<_> = ids.into_iter().map(blob_column).collect();
        let query = sqlx::query(sql::BLOBS).bind(ids);
        self.rows("blobs", query, |columns| columns.blob()).await
    }

    async fn end_uploads(
        &self,
        begun_before_unix_ms: i64,
        now_unix_ms: i64,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let end = sqlx::query(sql::END_UPLOADS)
            .bind(begun_before_unix_ms)
            .bind(now_unix_ms)
            .bind(to_limit(limit));
        let ended = self.rows("end uploads", end, |columns| columns.number(0));
        Ok(ended.await?.pop().unwrap_or(0))
    }

    async fn give_up(&self, upload: &Upload, now_unix_ms: i64) -> Result<(), StoreError> {
        let end = sqlx::query(sql::GIVE_UP)
            .bind(user_column(upload.owner))
            .bind(upload_column(upload.id))
            .bind(blob_column(upload.blob))
            .bind(now_unix_ms);
        self.rows("give up", end, |_| Ok(())).await.map(drop)
    }

    async fn leftovers(
        &self,
        left_before_unix_ms: i64,
        limit: usize,
    ) -> Result<Vec<Leftover>, StoreError> {
        let query = sqlx::query(sql::LEFTOVERS)
            .bind(left_before_unix_ms)
            .bind(to_limit(limit));
        self.rows("leftovers", query, |columns| columns.leftover())
            .await
    }

    async fn forget_leftover(&self, leftover: Leftover) -> Result<(), StoreError> {
        let forget = sqlx::query(sql::FORGET_LEFTOVER)
            .bind(user_column(leftover.owner))
            .bind(upload_column(leftover.upload))
            .bind(blob_column(leftover.blob));
        self.rows("forget leftover", forget, |_| Ok(()))
            .await
            .map(drop)
    }

    async fn apply(
        &self,
        references: Vec<Reference>,
        barriers: Vec<Barrier>,
        advance: PositionAdvance,
    ) -> Result<Vec<BlobId>, StoreError> {
        let batch = Batch::of(references, barriers);
        transaction!(self, "apply", c => apply::apply(c, &batch, &advance))
    }

    async fn has_removable(&self, before: KeptBefore) -> Result<bool, StoreError> {
        loop {
            let checked = transaction!(self, "has removable", c => removal::check(c, before, CHECK_MAX, false))?;
            if !checked.unreferenced.is_empty() {
                return Ok(true);
            }
            if checked.count == 0 {
                return Ok(false);
            }
        }
    }

    async fn barrier(&self, partitions: u32) -> Result<Option<i64>, StoreError> {
        let query = sqlx::query(sql::BARRIER).bind(i64::from(partitions));
        let read = |columns: &Columns<'_>| match columns.number::<u32>(0)? {
            count if count > 0 && count == partitions => columns.get::<i64>(1).map(Some),
            _ => Ok(None),
        };
        Ok(self.rows("barrier", query, read).await?.pop().flatten())
    }

    async fn take_removable(
        &self,
        before: KeptBefore,
        limit: usize,
    ) -> Result<Vec<BlobId>, StoreError> {
        transaction!(self, "take removable", c => removal::take(c, before, limit))
    }

    async fn forget_blob(&self, blob: BlobId) -> Result<(), StoreError> {
        loop {
            let forgotten = transaction!(self, "forget blob", c => removal::forget(c, blob))?;
            if forgotten < CHECK_MAX {
                return Ok(());
            }
        }
    }

    async fn open_reader(&self, reader: ReaderId, log: LogIdentity) -> Result<u64, StoreError> {
        let open = self.database.call("open reader", async |c| {
            positions::postgres::open(c, &reader, &log).await
        });
        Ok(open.await??)
    }

    async fn sync(&self) -> Result<(), StoreError> {
        // Every commit was durable before it was answered.
        Ok(())
    }
}

#[cfg(test)]
mod tests;

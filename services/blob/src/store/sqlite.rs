//! The store of the one-process form.
//!
//! What it costs, each a look-up by key or a range of an index:
//! - an upload: the row at its beginning, twice at its end, and the blob;
//! - a reference: the blob, and its row; a removed one also the mark on the blob to look at it;
//! - a blob that is looked at for removal: one look-up in each of three indexes. A blob is looked at
//!   once when its last receipt has expired, and once after each removal of a reference to it, not
//!   in every round.

use std::{collections::BTreeSet, path::Path};

use async_trait::async_trait;
use runtime::{
    ids::{BlobId, UploadId, UserId},
    positions,
    sqlite::{Database, M, Migrations, SqliteError},
};
use rusqlite::{Connection, params};

use super::{
    Barrier, Begun, CHECK_MAX, Finished, KeptBefore, LogIdentity, PositionAdvance, ReaderId, Store,
    StoreError, batch::Batch,
};
use crate::model::{Blob, Leftover, Purpose, Reference, Upload};

mod rows;

use rows::{execute, put_blob, put_upload, row, rows, to_column, to_limit};

impl From<SqliteError> for StoreError {
    fn from(error: SqliteError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        SqliteError::from(error).into()
    }
}

/// Whether something refers to the blob ?1.
const REFERENCED: &str =
    "(EXISTS (SELECT 1 FROM event_references WHERE blob_id = ?1 AND removed = 0)
    OR EXISTS (SELECT 1 FROM pictures WHERE blob_id = ?1)
    OR EXISTS (SELECT 1 FROM blobs WHERE poster_id = ?1))";

const UPLOAD: &str = "SELECT {upload} FROM uploads WHERE owner_id = ? AND upload_id = ?";

const UNFINISHED: &str = "SELECT count(*) FROM (
    SELECT 1 FROM uploads WHERE owner_id = ? AND finished = 0 LIMIT ?)";

const BLOB: &str = "SELECT {blob} FROM blobs WHERE blob_id = ? AND going = 0";

const TWIN: &str = "SELECT {blob} FROM blobs
    WHERE owner_id = ? AND purpose = ? AND source_sha256 = ? AND going = 0";

const KEEP: &str = "UPDATE blobs SET kept_until_unix_ms = max(kept_until_unix_ms, ?2)
    WHERE blob_id = ?1 AND going = 0";

const OLD_UPLOADS: &str = "SELECT {upload} FROM uploads WHERE begun_unix_ms < ?
    ORDER BY begun_unix_ms LIMIT ?";

const END_UPLOAD: &str = "DELETE FROM uploads WHERE owner_id = ? AND upload_id = ?";

const LEAVE: &str = "INSERT OR IGNORE INTO leftovers (owner_id, upload_id, blob_id, since_unix_ms)
    VALUES (?, ?, ?, ?)";

const LEFTOVERS: &str = "SELECT owner_id, upload_id, blob_id,
        NOT EXISTS (SELECT 1 FROM blobs b WHERE b.blob_id = l.blob_id),
        NOT EXISTS (SELECT 1 FROM uploads u
            WHERE u.owner_id = l.owner_id AND u.upload_id = l.upload_id)
    FROM leftovers l WHERE since_unix_ms < ? ORDER BY since_unix_ms LIMIT ?";

const FORGET_LEFTOVER: &str =
    "DELETE FROM leftovers WHERE owner_id = ? AND upload_id = ? AND blob_id = ?";

const IS_THERE: &str = "SELECT blob_id FROM blobs WHERE blob_id = ? AND going = 0";

/// What was removed stays so.
const PUT_EVENT: &str = "INSERT INTO event_references (referrer, blob_id, removed) VALUES (?, ?, ?)
    ON CONFLICT (referrer, blob_id) DO UPDATE SET removed = 1
    WHERE excluded.removed = 1 AND removed = 0";

const PICTURE: &str = "SELECT version, blob_id FROM pictures WHERE kind = ? AND id = ?";

const PUT_PICTURE: &str = "INSERT INTO pictures (kind, id, version, blob_id) VALUES (?, ?, ?, ?)
    ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, blob_id = excluded.blob_id";

const TO_CHECK: &str = "UPDATE blobs SET to_check = 1 WHERE blob_id = ? AND going = 0";

const PUT_BARRIER: &str = "INSERT INTO reference_barriers (partition, as_of_unix_ms) VALUES (?, ?)
    ON CONFLICT (partition) DO UPDATE SET as_of_unix_ms = max(as_of_unix_ms, excluded.as_of_unix_ms)";

const BARRIER: &str =
    "SELECT count(*), min(as_of_unix_ms) FROM reference_barriers WHERE partition < ?";

const CANDIDATES: &str = "SELECT blob_id FROM blobs
    WHERE to_check = 1 AND purpose = ? AND kept_until_unix_ms <= ?
    ORDER BY kept_until_unix_ms LIMIT ?";

const IS_REFERENCED: &str = "SELECT {referenced}";

const CHECKED: &str = "UPDATE blobs SET to_check = 0, going = ?2 WHERE blob_id = ?1";

const GOING: &str = "SELECT blob_id FROM blobs WHERE going = 1 ORDER BY blob_id LIMIT ?";

const FORGET_REFERENCES: &str = "DELETE FROM event_references WHERE (referrer, blob_id) IN (
    SELECT referrer, blob_id FROM event_references WHERE blob_id = ?1 LIMIT ?2)
    AND EXISTS (SELECT 1 FROM blobs WHERE blob_id = ?1 AND going = 1)";

const FORGET_BLOB: &str = "DELETE FROM blobs WHERE blob_id = ? AND going = 1 RETURNING poster_id";

/// The store in one SQLite file.
pub struct SqliteStore {
    database: Database,
}

impl SqliteStore {
    /// Opens or makes the file.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let steps = [include_str!("../../migrations/sqlite/0001_initial.sql")];
        let migrations = Migrations::new(steps.into_iter().map(M::up).collect());
        let database = Database::open(path, &migrations)?;
        Ok(Self { database })
    }

    /// A write that survives a loss of power when it is answered.
    async fn write_durably<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let value = self.database.write(work).await?;
        self.database.sync().await?;
        Ok(value)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn begin_upload(
        &self,
        upload: Upload,
        unfinished_max: usize,
        kept_until_unix_ms: i64,
    ) -> Result<Begun, StoreError> {
        let work = move |tx: &Connection| begin(tx, upload, unfinished_max, kept_until_unix_ms);
        let begun = self.database.write::<_, StoreError, _>(work).await?;
        if let Begun::Upload(_, Some(_)) = begun {
            self.database.sync().await?;
        }
        Ok(begun)
    }

    async fn upload(
        &self,
        owner: UserId,
        upload: UploadId,
    ) -> Result<Option<(Upload, Option<Blob>)>, StoreError> {
        let read = move |c: &Connection| {
            let Some(upload) = find_upload(c, owner, upload)? else {
                return Ok(None);
            };
            let blob = match upload.finished {
                true => find_blob(c, upload.blob)?,
                false => None,
            };
            Ok(Some((upload, blob)))
        };
        self.database.read(read).await
    }

    async fn finish_with_twin(
        &self,
        upload: &Upload,
        kept_until_unix_ms: i64,
    ) -> Result<Option<Blob>, StoreError> {
        let upload = upload.clone();
        let work = move |tx: &Connection| {
            let Some(stored) = find_upload(tx, upload.owner, upload.id)? else {
                return Ok(None);
            };
            if stored.finished {
                return keep(tx, stored.blob, kept_until_unix_ms);
            }
            if stored.blob != upload.blob {
                return Ok(None);
            }
            finish_as_twin(tx, &stored, kept_until_unix_ms)
        };
        let twin = self.database.write::<_, StoreError, _>(work).await?;
        if twin.is_some() {
            self.database.sync().await?;
        }
        Ok(twin)
    }

    async fn finish_upload(&self, upload: &Upload, blob: Blob) -> Result<Finished, StoreError> {
        let upload = upload.clone();
        self.write_durably(move |tx| finish(tx, &upload, blob))
            .await
    }

    async fn keep(
        &self,
        blob: BlobId,
        kept_until_unix_ms: i64,
    ) -> Result<Option<Blob>, StoreError> {
        self.write_durably(move |tx| keep(tx, blob, kept_until_unix_ms))
            .await
    }

    async fn blobs(&self, ids: Vec<BlobId>) -> Result<Vec<Blob>, StoreError> {
        let read = move |c: &Connection| {
            let mut blobs = Vec::with_capacity(ids.len());
            for id in ids {
                blobs.extend(find_blob(c, id)?);
            }
            Ok(blobs)
        };
        self.database.read(read).await
    }

    async fn end_uploads(
        &self,
        begun_before_unix_ms: i64,
        now_unix_ms: i64,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let work = move |tx: &Connection| {
            let parameters = params![begun_before_unix_ms, to_limit(limit)];
            let old = rows(tx, OLD_UPLOADS, parameters, |columns| columns.upload())?;
            for upload in &old {
                leave(tx, upload, now_unix_ms)?;
                let key = params![upload.owner.as_bytes(), upload.id.as_bytes()];
                execute(tx, END_UPLOAD, key)?;
            }
            Ok(old.len())
        };
        self.database.write(work).await
    }

    async fn give_up(&self, upload: &Upload, now_unix_ms: i64) -> Result<(), StoreError> {
        let upload = upload.clone();
        let work = move |tx: &Connection| {
            let stored = find_upload(tx, upload.owner, upload.id)?;
            let same = |stored: &Upload| !stored.finished && stored.blob == upload.blob;
            if stored.as_ref().is_some_and(same) {
                leave(tx, &upload, now_unix_ms)?;
                let key = params![upload.owner.as_bytes(), upload.id.as_bytes()];
                execute(tx, END_UPLOAD, key)?;
            }
            Ok::<_, StoreError>(())
        };
        self.database.write(work).await
    }

    async fn leftovers(
        &self,
        left_before_unix_ms: i64,
        limit: usize,
    ) -> Result<Vec<Leftover>, StoreError> {
        let read = move |c: &Connection| {
            let parameters = params![left_before_unix_ms, to_limit(limit)];
            rows(c, LEFTOVERS, parameters, |columns| columns.leftover())
        };
        self.database.read(read).await
    }

    async fn forget_leftover(&self, leftover: Leftover) -> Result<(), StoreError> {
        let work = move |tx: &Connection| {
            let (owner, upload) = (leftover.owner.as_bytes(), leftover.upload.as_bytes());
            let key = params![owner, upload, leftover.blob.as_bytes()];
            execute(tx, FORGET_LEFTOVER, key).map(drop)
        };
        self.database.write(work).await
    }

    async fn apply(
        &self,
        references: Vec<Reference>,
        barriers: Vec<Barrier>,
        advance: PositionAdvance,
    ) -> Result<Vec<BlobId>, StoreError> {
        let batch = Batch::of(references, barriers);
        self.database
            .write(move |tx| apply(tx, &batch, &advance))
            .await
    }

    async fn has_removable(&self, before: KeptBefore) -> Result<bool, StoreError> {
        let any = move |c: &Connection| {
            let mut found = false;
            for (purpose, kept_before) in of_purposes(before) {
                found |= !candidates(c, purpose, kept_before, 1)?.is_empty();
            }
            Ok::<_, StoreError>(found)
        };
        // Mostly there is none: a look costs no write.
        while self.database.read(any).await? {
            let look = move |tx: &Connection| check(tx, before, CHECK_MAX, false);
            if !self
                .database
                .write::<_, StoreError, _>(look)
                .await?
                .is_empty()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn barrier(&self, partitions: u32) -> Result<Option<i64>, StoreError> {
        let read = move |c: &Connection| {
            let barrier = row(c, BARRIER, [partitions], |columns| {
                match columns.number::<u32>(0)? {
                    count if count > 0 && count == partitions => columns.integer(1).map(Some),
                    _ => Ok(None),
                }
            })?;
            Ok(barrier.flatten())
        };
        self.database.read(read).await
    }

    async fn take_removable(
        &self,
        before: KeptBefore,
        limit: usize,
    ) -> Result<Vec<BlobId>, StoreError> {
        self.write_durably(move |tx| {
            let going = rows(tx, GOING, [to_limit(limit)], |columns| columns.blob_id(0))?;
            let room = limit.saturating_sub(going.len());
            let marked = check(tx, before, room, true)?;
            Ok(going.into_iter().chain(marked).collect())
        })
        .await
    }

    async fn forget_blob(&self, blob: BlobId) -> Result<(), StoreError> {
        loop {
            let work = move |tx: &Connection| {
                let forgotten = params![blob.as_bytes(), to_limit(CHECK_MAX)];
                if execute(tx, FORGET_REFERENCES, forgotten)? == CHECK_MAX {
                    return Ok(false);
                }
                let poster = row(tx, FORGET_BLOB, [blob.as_bytes()], |columns| {
                    columns.maybe_blob_id(0)
                })?;
                if let Some(poster) = poster.flatten() {
                    execute(tx, TO_CHECK, [poster.as_bytes()])?;
                }
                Ok(true)
            };
            if self.database.write::<_, StoreError, _>(work).await? {
                return Ok(());
            }
        }
    }

    async fn open_reader(&self, reader: ReaderId, log: LogIdentity) -> Result<u64, StoreError> {
        self.database
            .write(move |tx| positions::sqlite::open(tx, &reader, &log))
            .await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        Ok(self.database.sync().await?)
    }
}

fn find_upload(
    c: &Connection,
    owner: UserId,
    upload: UploadId,
) -> Result<Option<Upload>, StoreError> {
    let key = params![owner.as_bytes(), upload.as_bytes()];
    row(c, UPLOAD, key, |columns| columns.upload())
}

fn find_blob(c: &Connection, blob: BlobId) -> Result<Option<Blob>, StoreError> {
    row(c, BLOB, [blob.as_bytes()], |columns| columns.blob())
}

fn keep(tx: &Connection, blob: BlobId, until_unix_ms: i64) -> Result<Option<Blob>, StoreError> {
    execute(tx, KEEP, params![blob.as_bytes(), until_unix_ms])?;
    find_blob(tx, blob)
}

/// Notes under which name bytes of an upload may be left.
fn leave(tx: &Connection, upload: &Upload, since_unix_ms: i64) -> Result<(), StoreError> {
    let (owner, id) = (upload.owner.as_bytes(), upload.id.as_bytes());
    let left = params![owner, id, upload.blob.as_bytes(), since_unix_ms];
    execute(tx, LEAVE, left).map(drop)
}

/// See [`Store::begin_upload`].
fn begin(
    tx: &Connection,
    upload: Upload,
    unfinished_max: usize,
    kept_until_unix_ms: i64,
) -> Result<Begun, StoreError> {
    let stored = find_upload(tx, upload.owner, upload.id)?;
    if let Some(stored) = &stored {
        if !stored.is_same(&upload) {
            return Ok(Begun::Reused);
        }
        if !stored.finished {
            return Ok(Begun::Upload(stored.clone(), None));
        }
        if let Some(blob) = keep(tx, stored.blob, kept_until_unix_ms)? {
            return Ok(Begun::Upload(stored.clone(), Some(blob)));
        }
    }
    let of_owner = params![upload.owner.as_bytes(), to_limit(unfinished_max)];
    let unfinished = row(tx, UNFINISHED, of_owner, |columns| {
        columns.number::<usize>(0)
    })?;
    if unfinished.unwrap_or(0) >= unfinished_max {
        return Ok(Begun::TooMany);
    }
    put_upload(tx, &upload)?;
    Ok(Begun::Upload(upload, None))
}

/// The blob of the same bytes, which the upload has become then.
fn finish_as_twin(
    tx: &Connection,
    upload: &Upload,
    kept_until_unix_ms: i64,
) -> Result<Option<Blob>, StoreError> {
    let key = params![
        upload.owner.as_bytes(),
        upload.purpose as u8,
        upload.source_sha256
    ];
    let Some(twin) = row(tx, TWIN, key, |columns| columns.blob())? else {
        return Ok(None);
    };
    // Not before now, which is all that counts.
    leave(tx, upload, kept_until_unix_ms)?;
    let finished = Upload {
        blob: twin.id,
        finished: true,
        ..upload.clone()
    };
    put_upload(tx, &finished)?;
    keep(tx, twin.id, kept_until_unix_ms)
}

/// See [`Store::finish_upload`].
fn finish(tx: &Connection, upload: &Upload, blob: Blob) -> Result<Finished, StoreError> {
    // It was finished before, whatever became of the upload since.
    if let Some(blob) = keep(tx, blob.id, blob.kept_until_unix_ms)? {
        return Ok(Finished::Kept(blob));
    }
    let stored = match find_upload(tx, upload.owner, upload.id)? {
        Some(stored) if stored.finished => {
            let twin = keep(tx, stored.blob, blob.kept_until_unix_ms)?;
            return Ok(twin.map_or(Finished::Gone, Finished::Twin));
        }
        Some(stored) if stored.blob == blob.id => stored,
        Some(_) | None => return Ok(Finished::Gone),
    };
    if let Some(twin) = finish_as_twin(tx, &stored, blob.kept_until_unix_ms)? {
        return Ok(Finished::Twin(twin));
    }
    if let Some(poster) = blob.poster
        && find_blob(tx, poster)?.is_none()
    {
        return Ok(Finished::Gone);
    }
    put_blob(tx, &blob)?;
    put_upload(
        tx,
        &Upload {
            finished: true,
            ..stored
        },
    )?;
    Ok(Finished::Kept(blob))
}

/// See [`Store::apply`].
fn apply(
    tx: &Connection,
    batch: &Batch,
    advance: &PositionAdvance,
) -> Result<Vec<BlobId>, StoreError> {
    positions::sqlite::save::<StoreError>(tx, advance)?;
    let mut there = BTreeSet::new();
    for blob in batch.blobs() {
        there.extend(row(tx, IS_THERE, [blob.as_bytes()], |columns| {
            columns.blob_id(0)
        })?);
    }
    for ((referrer, blob), removed) in &batch.events {
        if !there.contains(blob) {
            continue;
        }
        let changed = execute(tx, PUT_EVENT, params![referrer, blob.as_bytes(), removed])?;
        if changed > 0 && *removed {
            execute(tx, TO_CHECK, [blob.as_bytes()])?;
        }
    }
    for ((kind, id), (version, blob)) in &batch.pictures {
        let before = row(tx, PICTURE, params![kind, id], |columns| {
            Ok((columns.number::<u64>(0)?, columns.maybe_blob_id(1)?))
        })?;
        let (version_before, blob_before) = match before {
            Some((version, blob)) => (Some(version), blob),
            None => (None, None),
        };
        if version_before >= Some(*version) {
            continue;
        }
        let blob = blob.filter(|blob| there.contains(blob));
        let blob = blob.as_ref().map(BlobId::as_bytes);
        execute(
            tx,
            PUT_PICTURE,
            params![kind, id, to_column(*version)?, blob],
        )?;
        if let Some(blob) = blob_before {
            execute(tx, TO_CHECK, [blob.as_bytes()])?;
        }
    }
    for (partition, as_of_unix_ms) in &batch.barriers {
        execute(tx, PUT_BARRIER, params![partition, as_of_unix_ms])?;
    }
    Ok(batch.missing(&there))
}

fn of_purposes(before: KeptBefore) -> [(Purpose, i64); 2] {
    [
        (Purpose::Attachment, before.attachments_unix_ms),
        (Purpose::Picture, before.pictures_unix_ms),
    ]
}

fn candidates(
    c: &Connection,
    purpose: Purpose,
    kept_before_unix_ms: i64,
    limit: usize,
) -> Result<Vec<BlobId>, StoreError> {
    let parameters = params![purpose as u8, kept_before_unix_ms, to_limit(limit)];
    rows(c, CANDIDATES, parameters, |columns| columns.blob_id(0))
}

/// Looks at up to `limit` blobs to which perhaps nothing refers, and answers those to which nothing does;
/// marks them as going, if they are to be. Those that something refers to need no look any more.
fn check(
    tx: &Connection,
    before: KeptBefore,
    limit: usize,
    they_go: bool,
) -> Result<Vec<BlobId>, StoreError> {
    let mut unreferenced = Vec::new();
    let mut left = limit;
    for (purpose, kept_before_unix_ms) in of_purposes(before) {
        let candidates = candidates(tx, purpose, kept_before_unix_ms, left)?;
        left = left.saturating_sub(candidates.len());
        for blob in candidates {
            let referenced = row(tx, IS_REFERENCED, [blob.as_bytes()], |columns| {
                columns.flag(0)
            })?;
            let referenced = referenced.unwrap_or(true);
            if referenced || they_go {
                execute(tx, CHECKED, params![blob.as_bytes(), !referenced])?;
            }
            if !referenced {
                unreferenced.push(blob);
            }
        }
    }
    Ok(unreferenced)
}

#[cfg(test)]
mod tests;

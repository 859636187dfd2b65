//! The transactions of uploads. See [`sql`] for why they do not miss each other.

use runtime::{ids::BlobId, postgres::PgConnection};

use super::{
    Failed, read_all,
    rows::{
        Columns, blob_column, purpose_column, put_blob, put_upload, to_limit, upload_column,
        user_column,
    },
    sql,
};
use crate::{
    model::{Blob, Upload},
    store::{Begun, Finished},
};

/// See [`crate::store::Store::begin_upload`].
pub(super) async fn begin(
    c: &mut PgConnection,
    upload: &Upload,
    unfinished_max: usize,
    kept_until_unix_ms: i64,
) -> Result<Begun, Failed> {
    let owner = user_column(upload.owner);
    let lock = sqlx::query(sql::LOCK_OWNER).bind(owner);
    lock.execute(&mut *c).await?;
    if let Some(stored) = locked(c, upload).await? {
        if !stored.is_same(upload) {
            return Ok(Begun::Reused);
        }
        if !stored.finished {
            return Ok(Begun::Upload(stored, None));
        }
        if let Some(blob) = keep(c, stored.blob, kept_until_unix_ms).await? {
            return Ok(Begun::Upload(stored, Some(blob)));
        }
    }
    let count = sqlx::query_scalar(sql::UNFINISHED)
        .bind(owner)
        .bind(to_limit(unfinished_max));
    let unfinished: i64 = count.fetch_one(&mut *c).await?;
    if unfinished >= to_limit(unfinished_max) {
        return Ok(Begun::TooMany);
    }
    put_upload(upload)?.execute(c).await?;
    Ok(Begun::Upload(upload.clone(), None))
}

/// See [`crate::store::Store::finish_with_twin`].
pub(super) async fn finish_with_twin(
    c: &mut PgConnection,
    upload: &Upload,
    kept_until_unix_ms: i64,
) -> Result<Option<Blob>, Failed> {
    match locked(c, upload).await? {
        Some(stored) if stored.finished => keep(c, stored.blob, kept_until_unix_ms).await,
        Some(stored) if stored.blob == upload.blob => {
            finish_as_twin(c, &stored, kept_until_unix_ms).await
        }
        Some(_) | None => Ok(None),
    }
}

/// See [`crate::store::Store::finish_upload`].
pub(super) async fn finish(
    c: &mut PgConnection,
    upload: &Upload,
    blob: &Blob,
) -> Result<Finished, Failed> {
    let stored = locked(c, upload).await?;
    // It was finished before, whatever became of the upload since.
    if let Some(blob) = keep(c, blob.id, blob.kept_until_unix_ms).await? {
        return Ok(Finished::Kept(blob));
    }
    let stored = match stored {
        Some(stored) if stored.finished => {
            let twin = keep(c, stored.blob, blob.kept_until_unix_ms).await?;
            return Ok(twin.map_or(Finished::Gone, Finished::Twin));
        }
        Some(stored) if stored.blob == blob.id => stored,
        Some(_) | None => return Ok(Finished::Gone),
    };
    if let Some(twin) = finish_as_twin(c, &stored, blob.kept_until_unix_ms).await? {
        return Ok(Finished::Twin(twin));
    }
    if let Some(poster) = blob.poster {
        let lock = sqlx::query(sql::LOCK_BLOBS).bind(vec![blob_column(poster)]);
        if lock.fetch_optional(&mut *c).await?.is_none() {
            return Ok(Finished::Gone);
        }
    }
    let put = put_blob(blob)?.execute(&mut *c).await?;
    if put.rows_affected() == 0 {
        // A statement that begins now sees who was faster; if that one goes already, all is made again.
        let twin = finish_as_twin(c, &stored, blob.kept_until_unix_ms).await?;
        return twin.map(Finished::Twin).ok_or(Failed::Store(
            crate::store::StoreError::Unavailable(
                "a blob of the same bytes came and went".to_owned(),
            ),
        ));
    }
    let finished = Upload {
        finished: true,
        ..stored
    };
    put_upload(&finished)?.execute(c).await?;
    Ok(Finished::Kept(blob.clone()))
}

async fn locked(c: &mut PgConnection, upload: &Upload) -> Result<Option<Upload>, Failed> {
    let lock = sqlx::query(sql::LOCK_UPLOAD)
        .bind(user_column(upload.owner))
        .bind(upload_column(upload.id));
    let row = lock.fetch_optional(c).await?;
    Ok(row.map(|row| Columns(&row).upload()).transpose()?)
}

async fn keep(
    c: &mut PgConnection,
    blob: BlobId,
    until_unix_ms: i64,
) -> Result<Option<Blob>, Failed> {
    let keep = sqlx::query(sql::KEEP)
        .bind(blob_column(blob))
        .bind(until_unix_ms);
    let rows = keep.fetch_all(c).await?;
    Ok(read_all(&rows, |columns| columns.blob())?.pop())
}

/// The blob of the same bytes, which the upload, whose row is locked, has become then.
async fn finish_as_twin(
    c: &mut PgConnection,
    upload: &Upload,
    kept_until_unix_ms: i64,
) -> Result<Option<Blob>, Failed> {
    let keep = sqlx::query(sql::KEEP_TWIN)
        .bind(user_column(upload.owner))
        .bind(purpose_column(upload.purpose))
        .bind(upload.source_sha256.to_vec())
        .bind(kept_until_unix_ms);
    let rows = keep.fetch_all(&mut *c).await?;
    let Some(twin) = read_all(&rows, |columns| columns.blob())?.pop() else {
        return Ok(None);
    };
    let leave = sqlx::query(sql::LEAVE)
        .bind(user_column(upload.owner))
        .bind(upload_column(upload.id))
        .bind(blob_column(upload.blob))
        // Not before now, which is all that counts.
        .bind(kept_until_unix_ms);
    leave.execute(&mut *c).await?;
    let finished = Upload {
        blob: twin.id,
        finished: true,
        ..upload.clone()
    };
    put_upload(&finished)?.execute(c).await?;
    Ok(Some(twin))
}

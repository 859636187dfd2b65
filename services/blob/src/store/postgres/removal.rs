//! The transactions of removal. See [`sql`] for why they miss no reference.

use runtime::{ids::BlobId, postgres::PgConnection};
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{
    CHECK_MAX, Failed, read_all,
    rows::{blob_column, purpose_column, to_limit},
    sql,
};
use crate::{
    model::Purpose,
    store::{KeptBefore, StoreError},
};

/// What was found.
pub(super) struct Checked {
    /// How many blobs were looked at.
    pub(super) count: usize,
    /// Those to which nothing refers.
    pub(super) unreferenced: Vec<BlobId>,
}

/// Looks at up to `limit` blobs to which perhaps nothing refers; marks those to which nothing does as
/// going, if they are to be. Those that something refers to need no look any more.
pub(super) async fn check(
    c: &mut PgConnection,
    before: KeptBefore,
    limit: usize,
    they_go: bool,
) -> Result<Checked, Failed> {
    let mut candidates = Vec::new();
    for (purpose, kept_before_unix_ms) in [
        (Purpose::Attachment, before.attachments_unix_ms),
        (Purpose::Picture, before.pictures_unix_ms),
    ] {
        let lock = sqlx::query(sql::LOCK_CANDIDATES)
            .bind(purpose_column(purpose))
            .bind(kept_before_unix_ms)
            .bind(to_limit(limit.saturating_sub(candidates.len())));
        candidates.extend(ids(&lock.fetch_all(&mut *c).await?)?);
    }
    let columns =
        |blobs: &[BlobId]| -> Vec<Uuid> { blobs.iter().copied().map(blob_column).collect() };
    let look = sqlx::query(sql::UNREFERENCED).bind(columns(&candidates));
    let unreferenced = ids(&look.fetch_all(&mut *c).await?)?;
    let count = candidates.len();
    candidates.retain(|blob| !unreferenced.contains(blob));
    let referenced = sqlx::query(sql::CHECKED)
        .bind(columns(&candidates))
        .bind(false);
    referenced.execute(&mut *c).await?;
    if they_go {
        let go = sqlx::query(sql::CHECKED)
            .bind(columns(&unreferenced))
            .bind(true);
        go.execute(c).await?;
    }
    Ok(Checked {
        count,
        unreferenced,
    })
}

/// See [`crate::store::Store::take_removable`].
pub(super) async fn take(
    c: &mut PgConnection,
    before: KeptBefore,
    limit: usize,
) -> Result<Vec<BlobId>, Failed> {
    let going = sqlx::query(sql::GOING).bind(to_limit(limit));
    let mut going = ids(&going.fetch_all(&mut *c).await?)?;
    let room = limit.saturating_sub(going.len());
    going.extend(check(c, before, room, true).await?.unreferenced);
    Ok(going)
}

/// Forgets a part of the references to a blob that goes, and answers how many; with the last part, the blob.
pub(super) async fn forget(c: &mut PgConnection, blob: BlobId) -> Result<usize, Failed> {
    let references = sqlx::query(sql::FORGET_REFERENCES)
        .bind(blob_column(blob))
        .bind(to_limit(CHECK_MAX));
    let forgotten = references.execute(&mut *c).await?.rows_affected();
    let forgotten = usize::try_from(forgotten).unwrap_or(CHECK_MAX);
    if forgotten < CHECK_MAX {
        let forget = sqlx::query(sql::FORGET_BLOB).bind(blob_column(blob));
        forget.execute(c).await?;
    }
    Ok(forgotten)
}

fn ids(rows: &[PgRow]) -> Result<Vec<BlobId>, StoreError> {
    read_all(rows, |columns| columns.blob_id(0))
}

//! The transaction of a batch of references. See [`sql`] for why no removal misses it.

use std::collections::BTreeSet;

use runtime::{ids::BlobId, positions, postgres::PgConnection};
use uuid::Uuid;

use super::{
    Failed, read_all,
    rows::{blob_column, to_column},
    sql,
};
use crate::store::{PositionAdvance, StoreError, batch::Batch};

/// See [`crate::store::Store::apply`].
pub(super) async fn apply(
    c: &mut PgConnection,
    batch: &Batch,
    advance: &PositionAdvance,
) -> Result<Vec<BlobId>, Failed> {
    let saved = positions::postgres::save(c, advance).await?;
    saved.map_err(StoreError::from)?;
    let replaced = match batch.pictures.is_empty() {
        true => Vec::new(),
        false => replaced(c, batch).await?,
    };
    let named = batch.blobs().into_iter().chain(replaced.iter().copied());
    let named: BTreeSet<BlobId> = named.collect();
    let mut there = BTreeSet::new();
    if !named.is_empty() {
        let named: Vec<Uuid> = named.into_iter().map(blob_column).collect();
        let rows = sqlx::query(sql::LOCK_BLOBS).bind(named).fetch_all(&mut *c);
        there.extend(read_all(&rows.await?, |columns| columns.blob_id(0))?);
    }
    put_events(c, batch, &there).await?;
    put_pictures(c, batch, &there, &replaced).await?;
    if !batch.barriers.is_empty() {
        let barriers = batch.barriers.iter();
        let (partitions, times): (Vec<i64>, Vec<i64>) = barriers
            .map(|(partition, time)| (i64::from(*partition), *time))
            .unzip();
        let put = sqlx::query(sql::PUT_BARRIERS).bind(partitions).bind(times);
        put.execute(c).await?;
    }
    Ok(batch.missing(&there))
}

/// The blobs of the pictures that the batch may replace; those pictures are locked.
async fn replaced(c: &mut PgConnection, batch: &Batch) -> Result<Vec<BlobId>, Failed> {
    let keys = batch.pictures.keys();
    let (kinds, ids): (Vec<i16>, Vec<Uuid>) = keys
        .map(|(kind, id)| (i16::from(*kind), Uuid::from_bytes(*id)))
        .unzip();
    let lock = sqlx::query(sql::LOCK_PICTURES).bind(kinds).bind(ids);
    let rows = lock.fetch_all(c).await?;
    let blobs = read_all(&rows, |columns| columns.maybe_blob_id(3))?;
    Ok(blobs.into_iter().flatten().collect())
}

async fn put_events(
    c: &mut PgConnection,
    batch: &Batch,
    there: &BTreeSet<BlobId>,
) -> Result<(), Failed> {
    let (mut referrers, mut blobs, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for ((referrer, blob), is_removed) in &batch.events {
        if there.contains(blob) {
            referrers.push(referrer.clone());
            blobs.push(blob_column(*blob));
            removed.push(*is_removed);
        }
    }
    if !blobs.is_empty() {
        let put = sqlx::query(sql::PUT_EVENTS).bind(referrers).bind(blobs);
        put.bind(removed).execute(c).await?;
    }
    Ok(())
}

async fn put_pictures(
    c: &mut PgConnection,
    batch: &Batch,
    there: &BTreeSet<BlobId>,
    replaced: &[BlobId],
) -> Result<(), Failed> {
    if batch.pictures.is_empty() {
        return Ok(());
    }
    let mut rows = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ((kind, id), (version, blob)) in &batch.pictures {
        rows.0.push(i16::from(*kind));
        rows.1.push(Uuid::from_bytes(*id));
        rows.2.push(to_column(*version)?);
        let blob = blob.filter(|blob| there.contains(blob));
        rows.3.push(blob.map(blob_column));
    }
    let put = sqlx::query(sql::PUT_PICTURES).bind(rows.0).bind(rows.1);
    put.bind(rows.2).bind(rows.3).execute(&mut *c).await?;
    // Some may be pictures still: one look too many.
    let replaced: Vec<Uuid> = replaced.iter().copied().map(blob_column).collect();
    let look = sqlx::query(sql::TO_CHECK).bind(replaced);
    look.execute(c).await?;
    Ok(())
}

//! The transaction of what a reader has done: a statement for each kind of it, whatever their number.

use runtime::postgres::PgConnection;

use super::{
    Failed,
    rows::{device_column, to_column, token_hash, user_column},
    sql,
};
use crate::store::{Settled, batch};

/// How much later than it could be something told is forgotten, at most. The time of a row is in an index: it
/// is moved by so much at once, so that a row that is told of all the time mostly changes where it is. Measured:
/// 145,000 such rows a second, and 90,000 without it (`examples/store_cost.rs`).
const TOLD_COARSE_MS: i64 = 60 * 60 * 1_000;

/// See [`crate::store::Store::settle`].
pub(super) async fn settle(
    c: &mut PgConnection,
    settled: &Settled,
    now_unix_ms: i64,
) -> Result<(), Failed> {
    if !settled.told.is_empty() {
        tell(c, settled, now_unix_ms).await?;
    }
    if !settled.held.is_empty() {
        hold(c, settled).await?;
    }
    if !settled.gone.is_empty() {
        forget(c, settled).await?;
    }
    Ok(())
}

async fn tell(c: &mut PgConnection, settled: &Settled, now_unix_ms: i64) -> Result<(), Failed> {
    let (mut users, mut devices, mut conversations) = (Vec::new(), Vec::new(), Vec::new());
    let (mut seqs, mut read_seqs) = (Vec::new(), Vec::new());
    for ((user, device, conversation), told) in batch::told(settled.told.clone()) {
        users.push(user_column(user));
        devices.push(device_column(device));
        conversations.push(conversation.as_bytes().to_vec());
        seqs.push(to_column(told.seq)?);
        read_seqs.push(to_column(told.read_seq)?);
    }
    let tell = sqlx::query(sql::TELL)
        .bind(users)
        .bind(devices)
        .bind(conversations)
        .bind(seqs)
        .bind(read_seqs)
        .bind(now_unix_ms)
        .bind(TOLD_COARSE_MS);
    tell.execute(c).await?;
    Ok(())
}

async fn hold(c: &mut PgConnection, settled: &Settled) -> Result<(), Failed> {
    let (mut users, mut conversations, mut seqs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut due, mut payloads) = (Vec::new(), Vec::new());
    for ((user, conversation), held) in batch::held(settled.held.clone()) {
        users.push(user_column(user));
        conversations.push(conversation.as_bytes().to_vec());
        seqs.push(to_column(held.seq)?);
        due.push(held.due_unix_ms);
        payloads.push(held.payload.to_vec());
    }
    let hold = sqlx::query(sql::HOLD)
        .bind(users)
        .bind(conversations)
        .bind(seqs)
        .bind(due)
        .bind(payloads);
    hold.execute(c).await?;
    Ok(())
}

async fn forget(c: &mut PgConnection, settled: &Settled) -> Result<(), Failed> {
    let (mut hashes, mut users, mut devices) = (Vec::new(), Vec::new(), Vec::new());
    for gone in &settled.gone {
        hashes.push(token_hash(&gone.target));
        users.push(user_column(gone.user));
        devices.push(device_column(gone.device));
    }
    let forget = sqlx::query(sql::FORGET_TARGETS)
        .bind(hashes)
        .bind(users)
        .bind(devices);
    forget.execute(c).await?;
    Ok(())
}

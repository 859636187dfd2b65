//! Rows for which records of `offline` were made.

use std::collections::{BTreeMap, HashMap};

use runtime::{
    ids::{ConversationId, UserId},
    postgres::Database,
};

use super::columns::{Columns, to_column, user_column};
use crate::store::StoreError;

/// In the order of the key, so that two writers do not wait for each other.
pub(super) const NOTE: &str = "
    INSERT INTO offline_rows (user_id, conversation_id, seq)
    SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::bigint[])
    ON CONFLICT (user_id, conversation_id)
    DO UPDATE SET seq = greatest(offline_rows.seq, excluded.seq)";

pub(super) const SEQS: &str = "
    SELECT o.user_id, o.conversation_id, o.seq
    FROM unnest($1::uuid[], $2::bytea[]) AS r (user_id, conversation_id)
    CROSS JOIN LATERAL (
        SELECT user_id, conversation_id, seq FROM offline_rows
        WHERE user_id = r.user_id AND conversation_id = r.conversation_id
        LIMIT 1) o";

pub(super) const FORGET: &str = "
    DELETE FROM offline_rows o
    USING unnest($1::uuid[], $2::bytea[], $3::bigint[]) AS r (user_id, conversation_id, seq)
    WHERE o.user_id = r.user_id AND o.conversation_id = r.conversation_id AND o.seq <= r.seq";

/// See [`crate::store::Store::note_offline`].
pub(super) async fn note(
    database: &Database,
    rows: &[(UserId, ConversationId, u64)],
) -> Result<(), StoreError> {
    execute(database, "note_offline", NOTE, rows).await
}

/// See [`crate::store::Store::forget_offline`].
pub(super) async fn forget(
    database: &Database,
    rows: &[(UserId, ConversationId, u64)],
) -> Result<(), StoreError> {
    execute(database, "forget_offline", FORGET, rows).await
}

async fn execute(
    database: &Database,
    operation: &'static str,
    statement: &'static str,
    rows: &[(UserId, ConversationId, u64)],
) -> Result<(), StoreError> {
    let mut largest: BTreeMap<(UserId, ConversationId), u64> = BTreeMap::new();
    for (user, conversation, seq) in rows {
        let known = largest.entry((*user, *conversation)).or_default();
        *known = (*known).max(*seq);
    }
    let users: Vec<_> = largest.keys().map(|(user, _)| user_column(*user)).collect();
    let conversations: Vec<&[u8]> = largest.keys().map(|(_, id)| id.as_bytes()).collect();
    let seqs = largest.values().map(|seq| to_column(*seq));
    let seqs = seqs.collect::<Result<Vec<_>, _>>()?;
    database
        .call(operation, async |connection| {
            let query = sqlx::query(statement).bind(users).bind(conversations);
            query.bind(seqs).execute(connection).await
        })
        .await?;
    Ok(())
}

/// See [`crate::store::Store::offline_seqs`].
pub(super) async fn seqs(
    database: &Database,
    rows: &[(UserId, ConversationId)],
) -> Result<Vec<u64>, StoreError> {
    let users: Vec<_> = rows.iter().map(|(user, _)| user_column(*user)).collect();
    let conversations: Vec<&[u8]> = rows.iter().map(|(_, id)| id.as_bytes()).collect();
    let found = database
        .call("offline_seqs", async |connection| {
            let query = sqlx::query(SEQS).bind(users).bind(conversations);
            query.fetch_all(connection).await
        })
        .await?;
    let mut known = HashMap::with_capacity(found.len());
    for row in &found {
        let columns = Columns(row);
        let key = (columns.user(0)?, columns.conversation(1)?);
        known.insert(key, columns.number(2)?);
    }
    let seq = |row| known.get(row).copied().unwrap_or(0);
    Ok(rows.iter().map(seq).collect())
}

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

/// One row, since no form with many of them has a plan that stays a look-up while the table grows. What is
/// forgotten was read after others were told of it, which is rare.
pub(super) const FORGET: &str =
    "DELETE FROM offline_rows WHERE user_id = $1 AND conversation_id = $2 AND seq <= $3";

/// See [`crate::store::Store::note_offline`].
pub(super) async fn note(
    database: &Database,
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
        .call("note_offline", async |connection| {
            let query = sqlx::query(NOTE).bind(users).bind(conversations);
            query.bind(seqs).execute(connection).await
        })
        .await?;
    Ok(())
}

/// See [`crate::store::Store::forget_offline`].
pub(super) async fn forget(
    database: &Database,
    rows: &[(UserId, ConversationId, u64)],
) -> Result<(), StoreError> {
    let with_columns = |(user, conversation, seq): &(UserId, ConversationId, u64)| {
        Ok((user_column(*user), *conversation, to_column(*seq)?))
    };
    let rows: Vec<_> = rows
        .iter()
        .map(with_columns)
        .collect::<Result<_, StoreError>>()?;
    database
        .call("forget_offline", async |connection| {
            for (user, conversation, seq) in &rows {
                let query = sqlx::query(FORGET).bind(user).bind(conversation.as_bytes());
                query.bind(seq).execute(&mut *connection).await?;
            }
            Ok(())
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

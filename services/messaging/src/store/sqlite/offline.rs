//! Rows for which records of `offline` were made.

use runtime::ids::{ConversationId, UserId};
use rusqlite::{Connection, OptionalExtension, params};

use super::columns::{Columns, to_column};
use crate::store::StoreError;

const NOTE: &str = "INSERT INTO offline_rows (user_id, conversation_id, seq) VALUES (?1, ?2, ?3)
    ON CONFLICT (user_id, conversation_id) DO UPDATE SET seq = max(seq, excluded.seq)";

const SEQ: &str = "SELECT seq FROM offline_rows WHERE user_id = ?1 AND conversation_id = ?2";

const FORGET: &str =
    "DELETE FROM offline_rows WHERE user_id = ?1 AND conversation_id = ?2 AND seq <= ?3";

/// Every statement that searches, for the test of their plans.
#[cfg(test)]
pub(super) const SEARCHES: &[&str] = &[SEQ, FORGET];

/// See [`crate::store::Store::note_offline`].
pub(super) fn note(
    tx: &Connection,
    rows: &[(UserId, ConversationId, u64)],
) -> Result<(), StoreError> {
    execute(tx, NOTE, rows)
}

/// See [`crate::store::Store::forget_offline`].
pub(super) fn forget(
    tx: &Connection,
    rows: &[(UserId, ConversationId, u64)],
) -> Result<(), StoreError> {
    execute(tx, FORGET, rows)
}

fn execute(
    tx: &Connection,
    statement: &str,
    rows: &[(UserId, ConversationId, u64)],
) -> Result<(), StoreError> {
    let mut statement = tx.prepare_cached(statement)?;
    for (user, conversation, seq) in rows {
        let seq = to_column(*seq)?;
        statement.execute(params![user.as_bytes(), conversation.as_bytes(), seq])?;
    }
    Ok(())
}

/// See [`crate::store::Store::offline_seqs`].
pub(super) fn seqs(
    c: &Connection,
    rows: &[(UserId, ConversationId)],
) -> Result<Vec<u64>, StoreError> {
    let mut select = c.prepare_cached(SEQ)?;
    let mut seqs = Vec::with_capacity(rows.len());
    for (user, conversation) in rows {
        let key = params![user.as_bytes(), conversation.as_bytes()];
        let seq = select.query_row(key, |row| Ok(Columns(row).number(0)));
        seqs.push(seq.optional()?.unwrap_or(Ok(0))?);
    }
    Ok(seqs)
}

//! Inboxes: the rows of conversation lists, and what each user's inbox is at.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
};

use runtime::{
    ids::{ConversationId, UserId},
    postgres::{Database, PostgresError},
};
use sqlx::postgres::PgRow;

use self::{
    merge::{Inbox, merge},
    write::write,
};
use super::columns::{Columns, to_limit, user_column};
use crate::{
    model::{InboxChange, InboxHead, InboxRow, Preview},
    store::{InboxApplied, StoreError},
};

mod merge;
mod write;

#[cfg(test)]
pub(super) use self::write::WRITE;

/// How often a batch is read and merged again, because another writer was faster for some user. A
/// partition has one reader, and for a moment two; each time, one of them gets on.
const TRIES_MAX: usize = 16;

/// What [`read_head`] and [`read_row`] read, in their order. A user without a row in question has
/// nulls.
macro_rules! head_and_row_columns {
    () => {
        "h.user_id, h.version, h.unread_total, i.conversation_id, i.version, i.last_seq,
        i.last_message_index, i.own_delivered_seq, i.own_delivered_message_index, i.own_read_seq,
        i.own_read_message_index, i.peer_delivered_seq, i.peer_delivered_message_index,
        i.peer_read_seq, i.peer_read_message_index, i.joined_seq, i.left_seq, i.preview_sender,
        i.preview_message_id, i.preview_seq, i.preview_time_unix_ms, i.preview_text,
        i.preview_joined, i.deferred_seq, i.preview_attachment_count, i.preview_video_count"
    };
}

/// Heads and some rows of them. Nothing for users without a head: they have no rows either.
pub(super) const ROWS: &str = concat!(
    "SELECT ",
    head_and_row_columns!(),
    " FROM unnest($1::uuid[], $2::bytea[]) AS g(user_id, conversation_id)
    CROSS JOIN LATERAL (
        SELECT * FROM inbox_heads WHERE user_id = g.user_id OFFSET 0
    ) AS h
    LEFT JOIN LATERAL (
        SELECT * FROM inbox
        WHERE user_id = g.user_id AND conversation_id = g.conversation_id OFFSET 0
    ) AS i ON true"
);

pub(super) const HEADS: &str =
    "SELECT user_id, version, unread_total FROM inbox_heads WHERE user_id = ANY($1)";

pub(super) const LIST: &str = concat!(
    "SELECT ",
    head_and_row_columns!(),
    " FROM inbox_heads AS h LEFT JOIN LATERAL (
        SELECT * FROM inbox WHERE user_id = $1 AND preview_time_unix_ms IS NOT NULL
        ORDER BY preview_time_unix_ms DESC, conversation_id DESC LIMIT $2
    ) AS i ON true
    WHERE h.user_id = $1"
);

pub(super) const LIST_BEFORE: &str = concat!(
    "SELECT ",
    head_and_row_columns!(),
    " FROM inbox_heads AS h LEFT JOIN LATERAL (
        SELECT * FROM inbox WHERE user_id = $1 AND preview_time_unix_ms IS NOT NULL
            AND (preview_time_unix_ms, conversation_id) < ($3, $4)
        ORDER BY preview_time_unix_ms DESC, conversation_id DESC LIMIT $2
    ) AS i ON true
    WHERE h.user_id = $1"
);

pub(super) const CHANGES: &str = concat!(
    "SELECT ",
    head_and_row_columns!(),
    " FROM inbox_heads AS h LEFT JOIN LATERAL (
        SELECT * FROM inbox WHERE user_id = $1 AND version > $3 ORDER BY version LIMIT $2
    ) AS i ON true
    WHERE h.user_id = $1"
);

/// By an index that has those rows alone, in its order: a user has any number of others.
pub(super) const DEFERRED_ROWS: &str = concat!(
    "SELECT ",
    head_and_row_columns!(),
    " FROM inbox_heads AS h LEFT JOIN LATERAL (
        SELECT * FROM inbox
        WHERE user_id = $1 AND deferred_seq > 0 AND joined_seq >= left_seq
        ORDER BY deferred_seq, conversation_id LIMIT $2
    ) AS i ON true
    WHERE h.user_id = $1"
);

pub(super) const DEFERRED_CONVERSATIONS: &str =
    "SELECT g.user_id, i.conversation_id FROM unnest($1::uuid[]) AS g(user_id)
    CROSS JOIN LATERAL (
        SELECT conversation_id FROM inbox
        WHERE user_id = g.user_id AND deferred_seq > 0 AND joined_seq >= left_seq
        ORDER BY deferred_seq, conversation_id LIMIT $2
    ) AS i";

/// See [`crate::store::Store::apply_inbox`]. Reads, merges, and writes each user's inbox as a whole
/// if nobody has changed it in between; two round trips, and again for users whom somebody else
/// changed.
pub(super) async fn apply(
    database: &Database,
    changes: &[(u64, InboxChange)],
) -> Result<Vec<InboxApplied>, StoreError> {
    let mut left: Vec<&(u64, InboxChange)> = changes.iter().collect();
    let mut applied = Vec::new();
    for _ in 0..TRIES_MAX {
        let stored = read(database, &left).await?;
        let merged = merge(stored, &left)?;
        if merged.is_empty() {
            return Ok(applied);
        }
        let written = write(database, &merged).await?;
        let mut overtaken = HashSet::new();
        for inbox in merged {
            if written.contains(&inbox.user) {
                applied.push(inbox.into_applied());
            } else {
                overtaken.insert(inbox.user);
            }
        }
        left.retain(|(_, change)| overtaken.contains(&change.user));
        if left.is_empty() {
            return Ok(applied);
        }
    }
    let text = "apply_inbox: others change the same inboxes all the time";
    Err(StoreError::Unavailable(text.to_owned()))
}

/// The heads and rows that the changes touch, as they are stored.
async fn read(
    database: &Database,
    changes: &[&(u64, InboxChange)],
) -> Result<HashMap<UserId, Inbox>, StoreError> {
    let touched: BTreeSet<_> = changes
        .iter()
        .map(|(_, change)| (change.user, change.conversation))
        .collect();
    if touched.is_empty() {
        return Ok(HashMap::new());
    }
    let users: Vec<_> = touched.iter().map(|(user, _)| user_column(*user)).collect();
    let conversations: Vec<&[u8]> = touched.iter().map(|(_, id)| id.as_bytes()).collect();
    let rows = database
        .call("apply_inbox: read", async |connection| {
            let query = sqlx::query(ROWS).bind(users).bind(conversations);
            query.fetch_all(connection).await
        })
        .await?;
    let mut inboxes: HashMap<UserId, Inbox> = HashMap::with_capacity(rows.len());
    for row in &rows {
        let columns = Columns(row);
        let user = columns.user(0)?;
        let head = read_head(&columns)?;
        let inbox = inboxes
            .entry(user)
            .or_insert_with(|| Inbox::new(user, head));
        if let Some(row) = read_row(&columns)? {
            inbox.add_stored(row);
        }
    }
    Ok(inboxes)
}

/// See [`crate::store::Store::inbox_heads`].
pub(super) async fn heads(
    database: &Database,
    users: &[UserId],
) -> Result<Vec<InboxHead>, StoreError> {
    let ids: Vec<_> = users.iter().map(|user| user_column(*user)).collect();
    let rows = database
        .call("inbox_heads", async |connection| {
            sqlx::query(HEADS).bind(ids).fetch_all(connection).await
        })
        .await?;
    let mut heads = HashMap::with_capacity(rows.len());
    for row in &rows {
        let columns = Columns(row);
        heads.insert(columns.user(0)?, read_head(&columns)?);
    }
    let of = |user| heads.get(user).copied().unwrap_or_default();
    Ok(users.iter().map(of).collect())
}

/// See [`crate::store::Store::list_inbox`].
pub(super) async fn list(
    database: &Database,
    user: UserId,
    before: Option<(i64, ConversationId)>,
    limit: usize,
) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
    let rows = database
        .call("list_inbox", async |connection| {
            let query = match &before {
                None => sqlx::query(LIST)
                    .bind(user_column(user))
                    .bind(to_limit(limit)),
                Some((time, conversation)) => {
                    let query = sqlx::query(LIST_BEFORE).bind(user_column(user));
                    let query = query.bind(to_limit(limit));
                    query.bind(time).bind(conversation.as_bytes())
                }
            };
            query.fetch_all(connection).await
        })
        .await;
    let (head, mut rows) = read_page(rows)?;
    // As they come; the statement does not promise that the join keeps their order.
    rows.sort_by_key(|row| {
        let time = row.preview.as_ref().map(|preview| preview.time_unix_ms);
        Reverse((time, row.conversation))
    });
    Ok((head, rows))
}

/// See [`crate::store::Store::inbox_changes`].
pub(super) async fn changes(
    database: &Database,
    user: UserId,
    after_version: u64,
    limit: usize,
) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
    // No row has a version above the largest that a column can hold.
    let after_version = i64::try_from(after_version).unwrap_or(i64::MAX);
    let rows = database
        .call("inbox_changes", async |connection| {
            let query = sqlx::query(CHANGES).bind(user_column(user));
            let query = query.bind(to_limit(limit)).bind(after_version);
            query.fetch_all(connection).await
        })
        .await;
    let (head, mut rows) = read_page(rows)?;
    rows.sort_by_key(|row| row.version);
    Ok((head, rows))
}

/// See [`crate::store::Store::deferred_rows`].
pub(super) async fn deferred_rows(
    database: &Database,
    user: UserId,
    limit: usize,
) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
    let rows = database
        .call("deferred_rows", async |connection| {
            let query = sqlx::query(DEFERRED_ROWS).bind(user_column(user));
            query.bind(to_limit(limit)).fetch_all(connection).await
        })
        .await;
    let (head, mut rows) = read_page(rows)?;
    rows.sort_by_key(|row| (row.deferred_seq, row.conversation));
    Ok((head, rows))
}

/// See [`crate::store::Store::deferred_conversations`].
pub(super) async fn deferred_conversations(
    database: &Database,
    users: &[UserId],
    limit: usize,
) -> Result<Vec<(UserId, ConversationId)>, StoreError> {
    let ids: Vec<_> = users.iter().map(|user| user_column(*user)).collect();
    let rows = database
        .call("deferred_conversations", async |connection| {
            let query = sqlx::query(DEFERRED_CONVERSATIONS).bind(ids);
            query.bind(to_limit(limit)).fetch_all(connection).await
        })
        .await?;
    let read = |row: &PgRow| Ok((Columns(row).user(0)?, Columns(row).conversation(1)?));
    rows.iter().map(read).collect()
}

/// See [`crate::store::Store::inbox_rows`].
pub(super) async fn rows(
    database: &Database,
    asked: &[(UserId, ConversationId)],
) -> Result<Vec<(InboxHead, Option<InboxRow>)>, StoreError> {
    // The answer tells rows apart by what they are of: one question each is enough.
    let distinct: BTreeSet<_> = asked.iter().copied().collect();
    let users: Vec<_> = distinct
        .iter()
        .map(|(user, _)| user_column(*user))
        .collect();
    let conversations: Vec<&[u8]> = distinct.iter().map(|(_, id)| id.as_bytes()).collect();
    let rows = database
        .call("inbox_rows", async |connection| {
            let query = sqlx::query(ROWS).bind(users).bind(conversations);
            query.fetch_all(connection).await
        })
        .await?;
    let mut heads = HashMap::new();
    let mut found = HashMap::with_capacity(rows.len());
    for row in &rows {
        let columns = Columns(row);
        let user = columns.user(0)?;
        heads.insert(user, read_head(&columns)?);
        if let Some(row) = read_row(&columns)? {
            found.insert((user, row.conversation), row);
        }
    }
    let of = |key: &(UserId, ConversationId)| {
        let head = heads.get(&key.0).copied().unwrap_or_default();
        (head, found.get(key).cloned())
    };
    Ok(asked.iter().map(of).collect())
}

/// See [`crate::store::Store::inbox_row`].
pub(super) async fn row(
    database: &Database,
    user: UserId,
    conversation: ConversationId,
) -> Result<Option<InboxRow>, StoreError> {
    let rows = database
        .call("inbox_row", async |connection| {
            let query = sqlx::query(ROWS).bind(vec![user_column(user)]);
            let query = query.bind(vec![conversation.as_bytes()]);
            query.fetch_all(connection).await
        })
        .await;
    let (_, mut rows) = read_page(rows)?;
    Ok(rows.pop())
}

/// The head of one user's inbox and the rows that came with it; nothing if there is none.
fn read_page(
    rows: Result<Vec<PgRow>, PostgresError>,
) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
    let rows = rows?;
    let mut head = InboxHead::default();
    let mut page = Vec::with_capacity(rows.len());
    for row in &rows {
        let columns = Columns(row);
        head = read_head(&columns)?;
        page.extend(read_row(&columns)?);
    }
    Ok((head, page))
}

fn read_head(columns: &Columns<'_>) -> Result<InboxHead, StoreError> {
    Ok(InboxHead {
        version: columns.number(1)?,
        unread_total: columns.number(2)?,
    })
}

fn read_row(columns: &Columns<'_>) -> Result<Option<InboxRow>, StoreError> {
    if columns.is_null(3)? {
        return Ok(None);
    }
    let preview = if columns.is_null(19)? {
        None
    } else {
        let text = str::from_utf8(columns.bytes(21)?);
        Some(Preview {
            sender: columns.user(17)?,
            message_id: columns.message(18)?,
            seq: columns.number(19)?,
            time_unix_ms: columns.integer(20)?,
            text: text
                .map_err(|error| StoreError::Corrupt(error.to_string()))?
                .to_owned(),
            joined: columns.flag(22)?,
            attachment_count: columns.count(24)?,
            video_count: columns.count(25)?,
        })
    };
    Ok(Some(InboxRow {
        conversation: columns.conversation(3)?,
        version: columns.number(4)?,
        last: columns.watermark(5)?,
        own: columns.marks(7)?,
        peer: columns.marks(11)?,
        joined_seq: columns.number(15)?,
        left_seq: columns.number(16)?,
        deferred_seq: columns.number(23)?,
        preview,
    }))
}

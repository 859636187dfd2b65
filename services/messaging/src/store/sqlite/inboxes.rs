//! Inboxes: the rows of conversation lists, and what each user's inbox is at.

use std::collections::HashMap;

use runtime::ids::{ConversationId, UserId};
use rusqlite::{CachedStatement, Connection, params};

use super::columns::{Columns, to_column, to_limit};
use crate::{
    model::{InboxChange, InboxHead, InboxRow, Preview},
    store::{InboxApplied, StoreError},
};

const HEAD: &str = "SELECT user_no, version, unread_total FROM inbox_heads WHERE user_id = ?1";

const INSERT_HEAD: &str =
    "INSERT INTO inbox_heads (user_id, version, unread_total) VALUES (?1, ?2, ?3)";

const UPDATE_HEAD: &str =
    "UPDATE inbox_heads SET version = ?2, unread_total = ?3 WHERE user_no = ?1";

/// Where `row_no` is, after what [`read_row`] reads.
const ROW_NO_AT: usize = 23;

/// What [`read_row`] reads, in its order; `row_no` comes after it where it is wanted.
macro_rules! row_columns {
    () => {
        row_columns!("")
    };
    ($table:literal) => {
        concat!("conversation_id, ", $table, "version, last_seq, last_message_index,
        own_delivered_seq, own_delivered_message_index, own_read_seq, own_read_message_index,
        peer_delivered_seq, peer_delivered_message_index, peer_read_seq, peer_read_message_index,
        joined_seq, left_seq, deferred_seq, preview_sender, preview_message_id, preview_seq,
        preview_time_unix_ms, preview_text, preview_joined, preview_attachment_count,
        preview_video_count")
    };
}

const ROW: &str = concat!(
    "SELECT ",
    row_columns!(),
    ", row_no FROM inbox WHERE user_no = ?1 AND conversation_id = ?2"
);

/// A head and one of its rows in one look-up: most batches change one row of a user. Without the row,
/// its columns are null.
const HEAD_AND_ROW: &str = concat!(
    "SELECT ",
    row_columns!("inbox."),
    ", row_no, inbox_heads.user_no, inbox_heads.version, unread_total
    FROM inbox_heads LEFT JOIN inbox
        ON inbox.user_no = inbox_heads.user_no AND conversation_id = ?2
    WHERE user_id = ?1"
);

const INSERT_ROW: &str = concat!(
    "INSERT INTO inbox (",
    row_columns!(),
    ", user_no) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
        ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)"
);

const UPDATE_ROW: &str = "UPDATE inbox SET version = ?2, last_seq = ?3, last_message_index = ?4,
        own_delivered_seq = ?5, own_delivered_message_index = ?6,
        own_read_seq = ?7, own_read_message_index = ?8,
        peer_delivered_seq = ?9, peer_delivered_message_index = ?10,
        peer_read_seq = ?11, peer_read_message_index = ?12, joined_seq = ?13, left_seq = ?14,
        deferred_seq = ?15, preview_sender = ?16, preview_message_id = ?17, preview_seq = ?18,
        preview_time_unix_ms = ?19, preview_text = ?20, preview_joined = ?21,
        preview_attachment_count = ?22, preview_video_count = ?23
    WHERE row_no = ?1";

/// As [`UPDATE_ROW`] where the preview stays: the list keeps its order, its index is not written.
const UPDATE_MARKS: &str = "UPDATE inbox SET version = ?2, last_seq = ?3, last_message_index = ?4,
        own_delivered_seq = ?5, own_delivered_message_index = ?6,
        own_read_seq = ?7, own_read_message_index = ?8,
        peer_delivered_seq = ?9, peer_delivered_message_index = ?10,
        peer_read_seq = ?11, peer_read_message_index = ?12, joined_seq = ?13, left_seq = ?14,
        deferred_seq = ?15
    WHERE row_no = ?1";

const LIST: &str = concat!(
    "SELECT ",
    row_columns!(),
    " FROM inbox WHERE user_no = ?1 AND preview_time_unix_ms IS NOT NULL
    ORDER BY preview_time_unix_ms DESC, conversation_id DESC LIMIT ?2"
);

const LIST_BEFORE: &str = concat!(
    "SELECT ",
    row_columns!(),
    " FROM inbox WHERE user_no = ?1 AND preview_time_unix_ms IS NOT NULL
        AND (preview_time_unix_ms, conversation_id) < (?3, ?4)
    ORDER BY preview_time_unix_ms DESC, conversation_id DESC LIMIT ?2"
);

const CHANGES: &str = concat!(
    "SELECT ",
    row_columns!(),
    " FROM inbox WHERE user_no = ?1 AND version > ?2 ORDER BY version LIMIT ?3"
);

const DEFERRED_ROWS: &str = concat!(
    "SELECT ",
    row_columns!(),
    " FROM inbox INDEXED BY inbox_deferred
    WHERE user_no = ?1 AND deferred_seq > 0 AND joined_seq >= left_seq
    ORDER BY deferred_seq, conversation_id LIMIT ?2"
);

const DEFERRED_CONVERSATIONS: &str =
    "SELECT inbox.conversation_id FROM inbox_heads CROSS JOIN inbox INDEXED BY inbox_deferred
        ON inbox.user_no = inbox_heads.user_no
    WHERE user_id = ?1 AND deferred_seq > 0 AND joined_seq >= left_seq
    ORDER BY deferred_seq, conversation_id LIMIT ?2";

/// Every statement that searches, for the test of their plans.
#[cfg(test)]
pub(super) const SEARCHES: &[&str] = &[
    HEAD,
    HEAD_AND_ROW,
    UPDATE_HEAD,
    ROW,
    UPDATE_ROW,
    UPDATE_MARKS,
    LIST,
    LIST_BEFORE,
    CHANGES,
    DEFERRED_ROWS,
    DEFERRED_CONVERSATIONS,
];

/// See [`crate::store::Store::apply_inbox`].
pub(super) fn apply(
    tx: &Connection,
    changes: &[(u64, InboxChange)],
) -> Result<Vec<InboxApplied>, StoreError> {
    let mut apply = Apply::prepare(tx, changes.len())?;
    for (version, change) in changes {
        apply.change(*version, change)?;
    }
    apply.finish(tx)
}

/// A user that a batch touches: read once, written once.
struct TouchedUser {
    user: UserId,
    stored: Option<StoredHead>,
    /// As it is after the changes so far.
    head: InboxHead,
}

#[derive(Clone, Copy)]
struct StoredHead {
    user_no: i64,
    head: InboxHead,
}

impl StoredHead {
    /// From three columns, side by side.
    fn read(columns: &Columns<'_>, at: usize) -> Result<Self, StoreError> {
        Ok(Self {
            user_no: columns.integer(at)?,
            head: InboxHead {
                version: columns.number(at + 1)?,
                unread_total: columns.number(at + 2)?,
            },
        })
    }
}

/// A row that a batch touches: read once, written once.
struct TouchedRow {
    /// Its place in `Apply::users`.
    user: usize,
    stored: Option<StoredRow>,
    /// As it is after the changes so far.
    row: InboxRow,
}

#[derive(Clone, Copy)]
struct StoredRow {
    row_no: i64,
    version: u64,
    preview_seq: Option<u64>,
}

impl TouchedRow {
    const fn new(user: usize, conversation: ConversationId) -> Self {
        Self {
            user,
            stored: None,
            row: InboxRow::new(conversation),
        }
    }

    /// Takes over what is stored.
    fn fill(&mut self, columns: &Columns<'_>) -> Result<(), StoreError> {
        self.row = read_row(columns)?;
        self.stored = Some(StoredRow {
            row_no: columns.integer(ROW_NO_AT)?,
            version: self.row.version,
            preview_seq: self.row.preview.as_ref().map(|preview| preview.seq),
        });
        Ok(())
    }
}

/// One batch.
struct Apply<'c> {
    select_head_and_row: CachedStatement<'c>,
    select_row: CachedStatement<'c>,
    users: Vec<TouchedUser>,
    user_places: HashMap<UserId, usize>,
    rows: Vec<TouchedRow>,
    row_places: HashMap<(usize, ConversationId), usize>,
}

impl<'c> Apply<'c> {
    /// Makes room for a row a change: growing by copies costs more than the look-ups.
    fn prepare(tx: &'c Connection, changes: usize) -> Result<Self, StoreError> {
        Ok(Self {
            select_head_and_row: tx.prepare_cached(HEAD_AND_ROW)?,
            select_row: tx.prepare_cached(ROW)?,
            users: Vec::with_capacity(changes),
            user_places: HashMap::with_capacity(changes),
            rows: Vec::with_capacity(changes),
            row_places: HashMap::with_capacity(changes),
        })
    }

    fn change(&mut self, version: u64, change: &InboxChange) -> Result<(), StoreError> {
        let user_place = self.user(change.user, change.conversation)?;
        if version <= self.users[user_place].head.version {
            return Ok(());
        }
        let row_place = self.row(user_place, change.conversation)?;
        let row = &mut self.rows[row_place].row;
        let unread_before = row.counted_unread();
        if !row.merge(change) {
            return Ok(());
        }
        row.version = version;
        let unread_after = row.counted_unread();
        let head = &mut self.users[user_place].head;
        head.version = version;
        head.unread_total = head
            .unread_total
            .checked_sub(unread_before)
            .and_then(|others| others.checked_add(unread_after))
            .ok_or_else(|| StoreError::Corrupt("an unread total is not its rows' sum".into()))?;
        Ok(())
    }

    /// The user's place in `users`. Reads a row of the user together with the head.
    fn user(&mut self, user: UserId, conversation: ConversationId) -> Result<usize, StoreError> {
        if let Some(place) = self.user_places.get(&user) {
            return Ok(*place);
        }
        let place = self.users.len();
        let mut touched = TouchedUser {
            user,
            stored: None,
            head: InboxHead::default(),
        };
        let mut row = TouchedRow::new(place, conversation);
        let parameters = params![user.as_bytes(), conversation.as_bytes()];
        let mut rows = self.select_head_and_row.query(parameters)?;
        if let Some(read) = rows.next()? {
            let columns = Columns(read);
            let stored = StoredHead::read(&columns, ROW_NO_AT + 1)?;
            touched.head = stored.head;
            touched.stored = Some(stored);
            if !columns.is_null(ROW_NO_AT)? {
                row.fill(&columns)?;
            }
        }
        self.users.push(touched);
        self.user_places.insert(user, place);
        self.row_places
            .insert((place, conversation), self.rows.len());
        self.rows.push(row);
        Ok(place)
    }

    /// The row's place in `rows`.
    fn row(&mut self, user: usize, conversation: ConversationId) -> Result<usize, StoreError> {
        let key = (user, conversation);
        if let Some(place) = self.row_places.get(&key) {
            return Ok(*place);
        }
        let mut touched = TouchedRow::new(user, conversation);
        if let Some(head) = self.users[user].stored {
            let parameters = params![head.user_no, conversation.as_bytes()];
            let mut rows = self.select_row.query(parameters)?;
            if let Some(row) = rows.next()? {
                touched.fill(&Columns(row))?;
            }
        }
        let place = self.rows.len();
        self.rows.push(touched);
        self.row_places.insert(key, place);
        Ok(place)
    }

    /// Writes what has changed.
    fn finish(self, tx: &Connection) -> Result<Vec<InboxApplied>, StoreError> {
        let mut write = Write::prepare(tx)?;
        let mut applied = Vec::with_capacity(self.users.len());
        // By place in `users`: the user's number and place in `applied`.
        let mut written = Vec::with_capacity(self.users.len());
        for touched in &self.users {
            let before = touched.stored.map_or_else(InboxHead::default, |s| s.head);
            if touched.head.version == before.version {
                written.push(None);
                continue;
            }
            let user_no = write.head(tx, touched)?;
            written.push(Some((user_no, applied.len())));
            applied.push(InboxApplied {
                user: touched.user,
                previous_version: before.version,
                version: touched.head.version,
                rows: Vec::with_capacity(1),
            });
        }
        for touched in self.rows {
            let before = touched.stored.map_or(0, |stored| stored.version);
            if touched.row.version == before {
                continue;
            }
            let Some((user_no, place)) = written[touched.user] else {
                continue;
            };
            write.row(user_no, &touched)?;
            applied[place].rows.push(touched.row);
        }
        for user in &mut applied {
            user.rows.sort_unstable_by_key(|row| row.version);
        }
        Ok(applied)
    }
}

/// The statements that write.
struct Write<'c> {
    insert_head: CachedStatement<'c>,
    update_head: CachedStatement<'c>,
    insert_row: CachedStatement<'c>,
    update_row: CachedStatement<'c>,
    update_marks: CachedStatement<'c>,
}

impl<'c> Write<'c> {
    fn prepare(tx: &'c Connection) -> Result<Self, StoreError> {
        Ok(Self {
            insert_head: tx.prepare_cached(INSERT_HEAD)?,
            update_head: tx.prepare_cached(UPDATE_HEAD)?,
            insert_row: tx.prepare_cached(INSERT_ROW)?,
            update_row: tx.prepare_cached(UPDATE_ROW)?,
            update_marks: tx.prepare_cached(UPDATE_MARKS)?,
        })
    }

    /// Answers the user's number.
    fn head(&mut self, tx: &Connection, touched: &TouchedUser) -> Result<i64, StoreError> {
        let version = to_column(touched.head.version)?;
        let unread_total = to_column(touched.head.unread_total)?;
        if let Some(stored) = touched.stored {
            self.update_head
                .execute(params![stored.user_no, version, unread_total])?;
            Ok(stored.user_no)
        } else {
            self.insert_head
                .execute(params![touched.user.as_bytes(), version, unread_total])?;
            Ok(tx.last_insert_rowid())
        }
    }

    fn row(&mut self, user_no: i64, touched: &TouchedRow) -> Result<(), StoreError> {
        let row = &touched.row;
        let preview = row.preview.as_ref();
        let preview_seq = preview.map(|preview| preview.seq);
        let statement = match touched.stored {
            None => &mut self.insert_row,
            Some(stored) if stored.preview_seq == preview_seq => &mut self.update_marks,
            Some(_) => &mut self.update_row,
        };
        // The first parameter is the only one that differs between inserting and updating.
        match touched.stored {
            None => statement.raw_bind_parameter(1, row.conversation.as_bytes())?,
            Some(stored) => statement.raw_bind_parameter(1, stored.row_no)?,
        }
        let watermarks = [
            row.last,
            row.own.delivered,
            row.own.read,
            row.peer.delivered,
            row.peer.read,
        ];
        statement.raw_bind_parameter(2, to_column(row.version)?)?;
        for (at, watermark) in watermarks.iter().enumerate() {
            statement.raw_bind_parameter(3 + 2 * at, to_column(watermark.seq)?)?;
            statement.raw_bind_parameter(4 + 2 * at, to_column(watermark.message_index)?)?;
        }
        statement.raw_bind_parameter(13, to_column(row.joined_seq)?)?;
        statement.raw_bind_parameter(14, to_column(row.left_seq)?)?;
        statement.raw_bind_parameter(15, to_column(row.deferred_seq)?)?;
        if statement.parameter_count() > 15 {
            statement.raw_bind_parameter(16, preview.map(|p| *p.sender.as_bytes()))?;
            statement.raw_bind_parameter(17, preview.map(|p| *p.message_id.as_bytes()))?;
            statement.raw_bind_parameter(18, preview_seq.map(to_column).transpose()?)?;
            statement.raw_bind_parameter(19, preview.map(|p| p.time_unix_ms))?;
            statement.raw_bind_parameter(20, preview.map(|p| p.text.as_str()))?;
            statement.raw_bind_parameter(21, preview.is_some_and(|p| p.joined))?;
            statement.raw_bind_parameter(22, preview.map_or(0, |p| p.attachment_count))?;
            statement.raw_bind_parameter(23, preview.map_or(0, |p| p.video_count))?;
        }
        if touched.stored.is_none() {
            statement.raw_bind_parameter(24, user_no)?;
        }
        statement.raw_execute()?;
        Ok(())
    }
}

/// See [`crate::store::Store::inbox_heads`].
pub(super) fn heads(snapshot: &Connection, users: &[UserId]) -> Result<Vec<InboxHead>, StoreError> {
    let mut select = snapshot.prepare_cached(HEAD)?;
    let mut heads = Vec::with_capacity(users.len());
    for user in users {
        let stored = read_head(&mut select, *user)?;
        heads.push(stored.map_or_else(InboxHead::default, |stored| stored.head));
    }
    Ok(heads)
}

/// See [`crate::store::Store::list_inbox`].
pub(super) fn list(
    snapshot: &Connection,
    user: UserId,
    before: Option<(i64, ConversationId)>,
    limit: usize,
) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
    let limit = to_limit(limit);
    in_inbox(snapshot, user, |user_no| match &before {
        None => read_rows(snapshot, LIST, params![user_no, limit]),
        Some((time, conversation)) => read_rows(
            snapshot,
            LIST_BEFORE,
            params![user_no, limit, time, conversation.as_bytes()],
        ),
    })
}

/// See [`crate::store::Store::inbox_changes`].
pub(super) fn changes(
    snapshot: &Connection,
    user: UserId,
    after_version: u64,
    limit: usize,
) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
    // No row has a version above the largest that a column can hold.
    let after_version = i64::try_from(after_version).unwrap_or(i64::MAX);
    in_inbox(snapshot, user, |user_no| {
        let parameters = params![user_no, after_version, to_limit(limit)];
        read_rows(snapshot, CHANGES, parameters)
    })
}

/// See [`crate::store::Store::deferred_rows`].
pub(super) fn deferred_rows(
    snapshot: &Connection,
    user: UserId,
    limit: usize,
) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
    in_inbox(snapshot, user, |user_no| {
        read_rows(snapshot, DEFERRED_ROWS, params![user_no, to_limit(limit)])
    })
}

/// See [`crate::store::Store::deferred_conversations`].
pub(super) fn deferred_conversations(
    snapshot: &Connection,
    users: &[UserId],
    limit: usize,
) -> Result<Vec<(UserId, ConversationId)>, StoreError> {
    let mut select = snapshot.prepare_cached(DEFERRED_CONVERSATIONS)?;
    let mut conversations = Vec::new();
    for user in users {
        let mut rows = select.query(params![user.as_bytes(), to_limit(limit)])?;
        while let Some(row) = rows.next()? {
            conversations.push((*user, Columns(row).conversation(0)?));
        }
    }
    Ok(conversations)
}

/// See [`crate::store::Store::inbox_rows`].
pub(super) fn rows(
    snapshot: &Connection,
    asked: &[(UserId, ConversationId)],
) -> Result<Vec<(InboxHead, Option<InboxRow>)>, StoreError> {
    let mut select = snapshot.prepare_cached(HEAD_AND_ROW)?;
    let mut found = Vec::with_capacity(asked.len());
    for (user, conversation) in asked {
        let mut rows = select.query(params![user.as_bytes(), conversation.as_bytes()])?;
        let Some(read) = rows.next()? else {
            found.push((InboxHead::default(), None));
            continue;
        };
        let columns = Columns(read);
        let head = StoredHead::read(&columns, ROW_NO_AT + 1)?.head;
        let row = match columns.is_null(ROW_NO_AT)? {
            true => None,
            false => Some(read_row(&columns)?),
        };
        found.push((head, row));
    }
    Ok(found)
}

/// See [`crate::store::Store::inbox_row`].
pub(super) fn row(
    snapshot: &Connection,
    user: UserId,
    conversation: ConversationId,
) -> Result<Option<InboxRow>, StoreError> {
    let (_, mut rows) = in_inbox(snapshot, user, |user_no| {
        read_rows(snapshot, ROW, params![user_no, conversation.as_bytes()])
    })?;
    Ok(rows.pop())
}

/// The head of the user's inbox and some of its rows; nothing if the user has none.
fn in_inbox(
    snapshot: &Connection,
    user: UserId,
    rows: impl FnOnce(i64) -> Result<Vec<InboxRow>, StoreError>,
) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
    match read_head(&mut snapshot.prepare_cached(HEAD)?, user)? {
        None => Ok((InboxHead::default(), Vec::new())),
        Some(stored) => Ok((stored.head, rows(stored.user_no)?)),
    }
}

fn read_head(
    select: &mut CachedStatement<'_>,
    user: UserId,
) -> Result<Option<StoredHead>, StoreError> {
    let mut rows = select.query([user.as_bytes()])?;
    match rows.next()? {
        Some(row) => Ok(Some(StoredHead::read(&Columns(row), 0)?)),
        None => Ok(None),
    }
}

fn read_rows(
    snapshot: &Connection,
    sql: &str,
    parameters: &[&dyn rusqlite::ToSql],
) -> Result<Vec<InboxRow>, StoreError> {
    let mut select = snapshot.prepare_cached(sql)?;
    let mut rows = select.query(parameters)?;
    let mut read = Vec::new();
    while let Some(row) = rows.next()? {
        read.push(read_row(&Columns(row))?);
    }
    Ok(read)
}

fn read_row(columns: &Columns<'_>) -> Result<InboxRow, StoreError> {
    let preview = if columns.is_null(17)? {
        None
    } else {
        Some(Preview {
            sender: columns.user(15)?,
            message_id: columns.message(16)?,
            seq: columns.number(17)?,
            time_unix_ms: columns.integer(18)?,
            text: columns.text(19)?.to_owned(),
            joined: columns.flag(20)?,
            attachment_count: columns.count(21)?,
            video_count: columns.count(22)?,
        })
    };
    Ok(InboxRow {
        conversation: columns.conversation(0)?,
        version: columns.number(1)?,
        last: columns.watermark(2)?,
        own: columns.marks(4)?,
        peer: columns.marks(8)?,
        joined_seq: columns.number(12)?,
        left_seq: columns.number(13)?,
        deferred_seq: columns.number(14)?,
        preview,
    })
}

//! Conversations: their events, and the state that their sequencer left.

use std::collections::HashMap;

use bytes::Bytes;
use runtime::{
    ids::{ConversationId, MessageId, UserId},
    postgres::{Database, PostgresError},
};
use sqlx::postgres::{PgDatabaseError, PgRow};

use super::columns::{Columns, message_column, to_limit, user_column};
use crate::{
    model::{ConversationHead, ConversationState, Event, EventKind, MemberState},
    store::{SeqRange, StoreError},
};

mod persist;

#[cfg(test)]
pub(super) use self::persist::PERSIST;
pub(super) use self::persist::persist;

/// SQLSTATE of `refuse_event` and `refuse_head`, see the migrations.
const EVENT_DIFFERS: &str = "ME001";
const HEAD_BELOW_BASE: &str = "ME002";

/// What [`read_state`] and [`read_member`] read, in their order.
macro_rules! conversation_columns {
    () => {
        "c.conversation_id, head_seq, last_message_index, last_time_unix_ms, applied_end,
        group_version, announcement, history_all, user_id, message_id_max, delivered_seq,
        delivered_message_index, read_seq, read_message_index, membership_version, role, windows"
    };
}

/// Where the columns of a member begin in `conversation_columns`.
const MEMBER_AT: usize = 8;

/// One row a member, in the order of conversations and members; one with nulls if there is none
/// yet.
pub(super) const LOAD: &str = concat!(
    "SELECT ",
    conversation_columns!(),
    " FROM conversations AS c LEFT JOIN LATERAL (
        SELECT * FROM members WHERE conversation_id = c.conversation_id OFFSET 0
    ) AS m ON true
    WHERE c.conversation_id = ANY($1)
    ORDER BY c.conversation_id, user_id"
);

/// One row, with one member or nulls.
pub(super) const LOAD_OF: &str = concat!(
    "SELECT ",
    conversation_columns!(),
    " FROM conversations AS c LEFT JOIN LATERAL (
        SELECT * FROM members
        WHERE conversation_id = c.conversation_id AND user_id = $2 OFFSET 0
    ) AS m ON true
    WHERE c.conversation_id = $1"
);

/// What [`read_event`] reads, in its order.
macro_rules! event_columns {
    () => {
        "e.conversation_id, e.seq, e.message_index, e.log_offset, e.time_unix_ms, e.kind, e.sender,
        e.message_id, e.body"
    };
}

/// Every event with one of the names: which is the first is decided here. An order and a limit in
/// the statement would invite a walk through the conversation.
pub(super) const FIND: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM unnest($1::bytea[], $2::uuid[], $3::uuid[]) AS g(conversation_id, sender, message_id)
    CROSS JOIN LATERAL (
        SELECT * FROM events WHERE message_id = g.message_id
            AND conversation_id = g.conversation_id AND sender = g.sender OFFSET 0
    ) AS e"
);

pub(super) const EVENTS_UP: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM events AS e WHERE conversation_id = $1 AND seq BETWEEN $2 AND $3
    ORDER BY seq LIMIT $4"
);

pub(super) const EVENTS_DOWN: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM events AS e WHERE conversation_id = $1 AND seq BETWEEN $2 AND $3
    ORDER BY seq DESC LIMIT $4"
);

/// Halves the stretch (low, high] of places in which the answer is, if there is one, until it is
/// empty. Each step reads one row: the first at or above the probe, since some places may be empty.
/// No event has an index above its seq, so the first probe is the index itself: where every event
/// is a message, it is the answer.
pub(super) const SEQ_OF_INDEX: &str = "WITH RECURSIVE search (low, high, probe, found) AS (
        SELECT greatest($2::bigint, 1) - 1, last.seq, greatest($2::bigint, 1), NULL::bigint
        FROM (
            SELECT seq FROM events WHERE conversation_id = $1 ORDER BY seq DESC LIMIT 1
        ) AS last
    UNION ALL
        SELECT n.low, n.high, n.low + (n.high - n.low) / 2 + (n.high - n.low) % 2, n.found
        FROM search AS s
        LEFT JOIN LATERAL (
            SELECT seq, message_index FROM events
            WHERE conversation_id = $1 AND seq >= s.probe ORDER BY seq LIMIT 1
        ) AS e ON true
        CROSS JOIN LATERAL (
            SELECT
                CASE WHEN e.message_index < $2 THEN e.seq ELSE s.low END AS low,
                CASE WHEN e.message_index < $2 THEN s.high ELSE s.probe - 1 END AS high,
                CASE WHEN e.message_index >= $2 THEN e.seq ELSE s.found END AS found
        ) AS n
        WHERE s.low < s.high
    )
    SELECT found FROM search WHERE low >= high";

pub(super) const ENDS: &str = "SELECT conversation_id, head_seq, last_message_index
    FROM conversations WHERE conversation_id = ANY($1)";

/// Ends and newest messages. A message is found as [`SEQ_OF_INDEX`] does: it is the first event with the
/// last index, after which there may be any number of changes of the group.
pub(super) const ENDS_WITH_MESSAGES: &str = concat!(
    "SELECT ",
    event_columns!(),
    ", c.conversation_id, c.head_seq, c.last_message_index
    FROM unnest($1::bytea[]) AS g(conversation_id)
    CROSS JOIN LATERAL (
        SELECT * FROM conversations WHERE conversation_id = g.conversation_id OFFSET 0
    ) AS c
    LEFT JOIN LATERAL (
        WITH RECURSIVE search (low, high, probe, found) AS (
            SELECT c.last_message_index - 1, c.head_seq, c.last_message_index, NULL::bigint
            WHERE c.last_message_index > 0
        UNION ALL
            SELECT n.low, n.high, n.low + (n.high - n.low) / 2 + (n.high - n.low) % 2, n.found
            FROM search AS s
            LEFT JOIN LATERAL (
                SELECT seq, message_index FROM events
                WHERE conversation_id = c.conversation_id AND seq >= s.probe
                ORDER BY seq LIMIT 1
            ) AS e ON true
            CROSS JOIN LATERAL (
                SELECT
                    CASE WHEN e.message_index < c.last_message_index THEN e.seq
                        ELSE s.low END AS low,
                    CASE WHEN e.message_index < c.last_message_index THEN s.high
                        ELSE s.probe - 1 END AS high,
                    CASE WHEN e.message_index >= c.last_message_index THEN e.seq
                        ELSE s.found END AS found
            ) AS n
            WHERE s.low < s.high
        )
        SELECT found FROM search WHERE low >= high
    ) AS f ON true
    LEFT JOIN LATERAL (
        SELECT * FROM events WHERE conversation_id = c.conversation_id AND seq = f.found OFFSET 0
    ) AS e ON true"
);

/// Which end of a range comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    OldestFirst,
    NewestFirst,
}

/// What a batch was refused for, if it was.
pub(super) fn refused(error: &PostgresError) -> Option<StoreError> {
    let PostgresError::Failed { source, .. } = error else {
        return None;
    };
    let error = source
        .as_database_error()?
        .try_downcast_ref::<PgDatabaseError>()?;
    let mut detail = error.detail()?.split(' ');
    let mut conversation = || ConversationId::from_slice(&from_hex(detail.next()?)?).ok();
    match error.code() {
        EVENT_DIFFERS => Some(StoreError::EventDiffers {
            conversation: conversation()?,
            seq: detail.next()?.parse().ok()?,
        }),
        HEAD_BELOW_BASE => Some(StoreError::HeadBelowBase {
            conversation: conversation()?,
        }),
        _ => None,
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(byte).collect()
}

/// See [`crate::store::Store::load_conversations`].
pub(super) async fn load(
    database: &Database,
    conversations: &[ConversationId],
) -> Result<Vec<ConversationState>, StoreError> {
    let ids: Vec<&[u8]> = conversations.iter().map(ConversationId::as_bytes).collect();
    let rows = database
        .call("load_conversations", async |connection| {
            sqlx::query(LOAD).bind(ids).fetch_all(connection).await
        })
        .await?;
    let mut states: Vec<ConversationState> = Vec::new();
    for row in &rows {
        let columns = Columns(row);
        let conversation = columns.conversation(0)?;
        if states
            .last()
            .is_none_or(|last| last.conversation != conversation)
        {
            states.push(read_state(&columns)?);
        }
        if let Some(state) = states.last_mut() {
            state.members.extend(read_member(&columns)?);
        }
    }
    Ok(states)
}

/// See [`crate::store::Store::load_conversation_of`].
pub(super) async fn load_of(
    database: &Database,
    conversation: ConversationId,
    user: UserId,
) -> Result<Option<ConversationState>, StoreError> {
    let row = database
        .call("load_conversation_of", async |connection| {
            let query = sqlx::query(LOAD_OF).bind(conversation.as_bytes());
            let query = query.bind(user_column(user));
            query.fetch_optional(connection).await
        })
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let columns = Columns(&row);
    let mut state = read_state(&columns)?;
    state.members.extend(read_member(&columns)?);
    Ok(Some(state))
}

/// See [`crate::store::Store::find_events`].
pub(super) async fn find_events(
    database: &Database,
    names: &[(ConversationId, UserId, MessageId)],
) -> Result<Vec<Event>, StoreError> {
    let conversations: Vec<&[u8]> = names.iter().map(|(id, _, _)| id.as_bytes()).collect();
    let senders: Vec<_> = names.iter().map(|(_, id, _)| user_column(*id)).collect();
    let messages: Vec<_> = names.iter().map(|(_, _, id)| message_column(*id)).collect();
    let rows = database
        .call("find_events", async |connection| {
            let query = sqlx::query(FIND).bind(conversations).bind(senders);
            query.bind(messages).fetch_all(connection).await
        })
        .await?;
    let mut found: HashMap<_, Event> = HashMap::with_capacity(rows.len());
    for row in &rows {
        let event = read_event(row)?;
        let name = (event.conversation, event.sender, event.message_id);
        match found.get(&name) {
            Some(first) if first.seq <= event.seq => {}
            _ => drop(found.insert(name, event)),
        }
    }
    Ok(found.into_values().collect())
}

/// See [`crate::store::Store::events`].
pub(super) async fn events(
    database: &Database,
    conversation: ConversationId,
    range: SeqRange,
    order: Order,
    limit: usize,
    bytes_max: usize,
) -> Result<Vec<Event>, StoreError> {
    // Inclusive and within what a column can hold; a range beyond that is empty.
    let first = range.after_seq.checked_add(1).map(i64::try_from);
    let (Some(Ok(first)), Some(last)) = (first, range.before_seq.checked_sub(1)) else {
        return Ok(Vec::new());
    };
    let last = i64::try_from(last).unwrap_or(i64::MAX);
    let statement = match order {
        Order::OldestFirst => EVENTS_UP,
        Order::NewestFirst => EVENTS_DOWN,
    };
    let rows = database
        .call("events", async |connection| {
            let query = sqlx::query(statement).bind(conversation.as_bytes());
            let query = query.bind(first).bind(last).bind(to_limit(limit));
            query.fetch_all(connection).await
        })
        .await?;
    let mut events = Vec::with_capacity(rows.len());
    let mut bytes: usize = 0;
    for row in &rows {
        let event = read_event(row)?;
        bytes = bytes.saturating_add(event.body.len());
        if bytes > bytes_max && !events.is_empty() {
            break;
        }
        events.push(event);
    }
    Ok(events)
}

/// See [`crate::store::Store::seq_of_message_index`].
pub(super) async fn seq_of_message_index(
    database: &Database,
    conversation: ConversationId,
    message_index: u64,
) -> Result<Option<u64>, StoreError> {
    // No event has an index above the largest that a column can hold.
    let Ok(message_index) = i64::try_from(message_index) else {
        return Ok(None);
    };
    let row = database
        .call("seq_of_message_index", async |connection| {
            let query = sqlx::query(SEQ_OF_INDEX).bind(conversation.as_bytes());
            query.bind(message_index).fetch_optional(connection).await
        })
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let columns = Columns(&row);
    if columns.is_null(0)? {
        return Ok(None);
    }
    columns.number(0).map(Some)
}

/// See [`crate::store::Store::conversation_heads`].
pub(super) async fn heads(
    database: &Database,
    conversations: &[ConversationId],
    with_messages: bool,
) -> Result<Vec<ConversationHead>, StoreError> {
    let (statement, at) = match with_messages {
        true => (ENDS_WITH_MESSAGES, 9),
        false => (ENDS, 0),
    };
    let ids: Vec<&[u8]> = conversations.iter().map(|id| id.as_bytes()).collect();
    let rows = database
        .call("conversation_heads", async |connection| {
            sqlx::query(statement).bind(ids).fetch_all(connection).await
        })
        .await?;
    let read = |row: &PgRow| {
        let columns = Columns(row);
        let has_event = with_messages && !columns.is_null(0)?;
        let event = has_event.then(|| read_event(row)).transpose()?;
        Ok(ConversationHead {
            conversation: columns.conversation(at)?,
            last: columns.watermark(at + 1)?,
            message: event.filter(|event| event.kind == EventKind::Message),
        })
    };
    rows.iter().map(read).collect()
}

fn read_state(columns: &Columns<'_>) -> Result<ConversationState, StoreError> {
    Ok(ConversationState {
        conversation: columns.conversation(0)?,
        head_seq: columns.number(1)?,
        last_message_index: columns.number(2)?,
        last_time_unix_ms: columns.integer(3)?,
        applied_end: columns.number(4)?,
        group: columns.group(5)?,
        members: Vec::new(),
    })
}

/// The member of a row, if it has one.
fn read_member(columns: &Columns<'_>) -> Result<Option<MemberState>, StoreError> {
    if columns.is_null(MEMBER_AT)? {
        return Ok(None);
    }
    let message_id_max = if columns.is_null(MEMBER_AT + 1)? {
        None
    } else {
        Some(columns.message(MEMBER_AT + 1)?)
    };
    Ok(Some(MemberState {
        user: columns.user(MEMBER_AT)?,
        message_id_max,
        marks: columns.marks(MEMBER_AT + 2)?,
        membership: columns.membership(MEMBER_AT + 6)?,
    }))
}

fn read_event(row: &PgRow) -> Result<Event, StoreError> {
    let columns = Columns(row);
    let kind = columns.small(5)?;
    let known = u8::try_from(kind).ok().and_then(EventKind::from_number);
    Ok(Event {
        conversation: columns.conversation(0)?,
        seq: columns.number(1)?,
        message_index: columns.number(2)?,
        log_offset: columns.number(3)?,
        time_unix_ms: columns.integer(4)?,
        kind: known.ok_or_else(|| StoreError::Corrupt(format!("unknown kind of event {kind}")))?,
        sender: columns.user(6)?,
        message_id: columns.message(7)?,
        body: Bytes::copy_from_slice(columns.bytes(8)?),
    })
}

//! Conversations: their events, and the state that their sequencer left.

use bytes::Bytes;
use runtime::ids::{ConversationId, MessageId, UserId};
use rusqlite::{CachedStatement, Connection, params};

use super::columns::{Columns, to_column, to_limit};
use crate::{
    model::{ConversationHead, ConversationState, Event, EventKind, MemberState},
    store::{SeqRange, StoreError},
};

/// What [`read_member`] reads, in its order.
macro_rules! member_columns {
    () => {
        "user_id, message_id_max, delivered_seq, delivered_message_index, read_seq,
        read_message_index, membership_version, role, windows"
    };
}

mod persist;

pub(super) use self::persist::persist;
#[cfg(test)]
pub(super) use self::persist::{SEARCHES as PERSIST_SEARCHES, STATEMENTS as PERSIST_STATEMENTS};

/// What [`read_state`] reads, in its order, and the columns of a member after it.
macro_rules! conversation_columns {
    () => {
        concat!(
            "conversations.conversation_no, head_seq, last_message_index, last_time_unix_ms,
        applied_end, group_version, announcement, history_all, ",
            member_columns!()
        )
    };
}

/// Where the columns of a member begin in `conversation_columns`.
const MEMBER_AT: usize = 8;

/// One row a member, in the order of their ids; one with nulls if there is none yet.
const CONVERSATION: &str = concat!(
    "SELECT ",
    conversation_columns!(),
    " FROM conversations LEFT JOIN members
        ON members.conversation_no = conversations.conversation_no
    WHERE conversation_id = ?1 ORDER BY user_id"
);

/// A conversation and one of its members in one look-up; without the member, its columns are null.
const CONVERSATION_OF: &str = concat!(
    "SELECT ",
    conversation_columns!(),
    " FROM conversations LEFT JOIN members
        ON members.conversation_no = conversations.conversation_no AND user_id = ?2
    WHERE conversation_id = ?1"
);

const END: &str =
    "SELECT head_seq, last_message_index FROM conversations WHERE conversation_id = ?1";

const CONVERSATION_NO: &str =
    "SELECT conversation_no FROM conversations WHERE conversation_id = ?1";

const EVENTS_NAMED: &str = "SELECT seq, message_index, log_offset, time_unix_ms, kind, sender,
        message_id, body
    FROM events WHERE message_id = ?1 AND sender = ?2 AND conversation_no =
        (SELECT conversation_no FROM conversations WHERE conversation_id = ?3)";

const EVENTS_UP: &str = "SELECT seq, message_index, log_offset, time_unix_ms, kind, sender,
        message_id, body
    FROM events WHERE seq BETWEEN ?2 AND ?3 AND conversation_no =
        (SELECT conversation_no FROM conversations WHERE conversation_id = ?1)
    ORDER BY seq LIMIT ?4";

const EVENTS_DOWN: &str = "SELECT seq, message_index, log_offset, time_unix_ms, kind, sender,
        message_id, body
    FROM events WHERE seq BETWEEN ?2 AND ?3 AND conversation_no =
        (SELECT conversation_no FROM conversations WHERE conversation_id = ?1)
    ORDER BY seq DESC LIMIT ?4";

const LAST_SEQ: &str = "SELECT seq FROM events WHERE conversation_no = ?1
    ORDER BY seq DESC LIMIT 1";

pub(super) const NEXT_INDEX: &str = "SELECT seq, message_index FROM events
    WHERE conversation_no = ?1 AND seq >= ?2 ORDER BY seq LIMIT 1";

/// Every statement that searches, for the test of their plans.
#[cfg(test)]
pub(super) const SEARCHES: &[&str] = &[
    CONVERSATION,
    CONVERSATION_OF,
    CONVERSATION_NO,
    END,
    EVENTS_NAMED,
    EVENTS_UP,
    EVENTS_DOWN,
    LAST_SEQ,
    NEXT_INDEX,
];

/// Which end of a range comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    OldestFirst,
    NewestFirst,
}

/// See [`crate::store::Store::load_conversations`].
pub(super) fn load(
    snapshot: &Connection,
    mut conversations: Vec<ConversationId>,
) -> Result<Vec<ConversationState>, StoreError> {
    conversations.sort_unstable();
    conversations.dedup();
    let mut select = snapshot.prepare_cached(CONVERSATION)?;
    let mut states = Vec::with_capacity(conversations.len());
    for id in conversations {
        let stored = read_conversation(&mut select, id)?;
        states.extend(stored);
    }
    Ok(states)
}

/// See [`crate::store::Store::load_conversation_of`].
pub(super) fn load_of(
    snapshot: &Connection,
    conversation: ConversationId,
    user: UserId,
) -> Result<Option<ConversationState>, StoreError> {
    let mut select = snapshot.prepare_cached(CONVERSATION_OF)?;
    let stored = read_conversation_of(&mut select, conversation, Some(user))?;
    Ok(stored.map(|(_, state)| state))
}

/// See [`crate::store::Store::find_events`].
pub(super) fn find_events(
    snapshot: &Connection,
    mut names: Vec<(ConversationId, UserId, MessageId)>,
) -> Result<Vec<Event>, StoreError> {
    names.sort_unstable();
    names.dedup();
    let mut select = snapshot.prepare_cached(EVENTS_NAMED)?;
    let mut found = Vec::new();
    for (conversation, sender, message_id) in names {
        let mut rows = select.query(params![
            message_id.as_bytes(),
            sender.as_bytes(),
            conversation.as_bytes()
        ])?;
        let mut first: Option<Event> = None;
        while let Some(row) = rows.next()? {
            let event = read_event(&Columns(row), conversation)?;
            if first.as_ref().is_none_or(|first| event.seq < first.seq) {
                first = Some(event);
            }
        }
        found.extend(first);
    }
    Ok(found)
}

/// See [`crate::store::Store::events`].
pub(super) fn events(
    snapshot: &Connection,
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
    let mut select = snapshot.prepare_cached(match order {
        Order::OldestFirst => EVENTS_UP,
        Order::NewestFirst => EVENTS_DOWN,
    })?;
    let mut rows = select.query(params![
        conversation.as_bytes(),
        first,
        last,
        to_limit(limit)
    ])?;
    let mut events = Vec::new();
    let mut bytes: usize = 0;
    while let Some(row) = rows.next()? {
        let event = read_event(&Columns(row), conversation)?;
        bytes = bytes.saturating_add(event.body.len());
        if bytes > bytes_max && !events.is_empty() {
            break;
        }
        events.push(event);
    }
    Ok(events)
}

/// See [`crate::store::Store::seq_of_message_index`].
pub(super) fn seq_of_message_index(
    snapshot: &Connection,
    conversation: ConversationId,
    message_index: u64,
) -> Result<Option<u64>, StoreError> {
    let mut select = snapshot.prepare_cached(CONVERSATION_NO)?;
    let mut rows = select.query([conversation.as_bytes()])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let number = Columns(row).integer(0)?;
    let mut last = snapshot.prepare_cached(LAST_SEQ)?;
    let mut rows = last.query([number])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let mut high = Columns(row).number(0)?;
    // No event has an index above its seq. Where every event is a message, the first probe finds it.
    let mut low = message_index.max(1);
    let mut probe = low;
    let mut found = None;
    let mut next = snapshot.prepare_cached(NEXT_INDEX)?;
    // The answer, if there is one, is `found` or an event in `low..=high`. Some places may be empty.
    while low <= high {
        let mut rows = next.query(params![number, to_column(probe)?])?;
        let event = match rows.next()? {
            Some(row) => Some(Columns(row).watermark(0)?),
            None => None,
        };
        match event {
            Some(event) if event.message_index < message_index => low = event.seq.saturating_add(1),
            Some(event) => {
                found = Some(event.seq);
                high = probe.saturating_sub(1);
            }
            None => high = probe.saturating_sub(1),
        }
        probe = low.midpoint(high);
    }
    Ok(found)
}

/// See [`crate::store::Store::conversation_heads`].
pub(super) fn heads(
    snapshot: &Connection,
    conversations: &[ConversationId],
    with_messages: bool,
) -> Result<Vec<ConversationHead>, StoreError> {
    let mut select = snapshot.prepare_cached(END)?;
    let mut heads = Vec::with_capacity(conversations.len());
    for conversation in conversations {
        let mut rows = select.query([conversation.as_bytes()])?;
        let Some(row) = rows.next()? else {
            continue;
        };
        let last = Columns(row).watermark(0)?;
        let message = match with_messages && last.message_index > 0 {
            true => message_at(snapshot, *conversation, last.message_index)?,
            false => None,
        };
        heads.push(ConversationHead {
            conversation: *conversation,
            last,
            message,
        });
    }
    Ok(heads)
}

/// The message with this index, if it is there: the first event that has it.
fn message_at(
    snapshot: &Connection,
    conversation: ConversationId,
    message_index: u64,
) -> Result<Option<Event>, StoreError> {
    let Some(seq) = seq_of_message_index(snapshot, conversation, message_index)? else {
        return Ok(None);
    };
    let range = SeqRange {
        after_seq: seq.saturating_sub(1),
        before_seq: seq.saturating_add(1),
    };
    let found = events(
        snapshot,
        conversation,
        range,
        Order::OldestFirst,
        1,
        usize::MAX,
    )?;
    let mut messages = found
        .into_iter()
        .filter(|event| event.kind == EventKind::Message);
    Ok(messages.next())
}

/// With all members.
fn read_conversation(
    select: &mut CachedStatement<'_>,
    conversation: ConversationId,
) -> Result<Option<ConversationState>, StoreError> {
    let mut rows = select.query([conversation.as_bytes()])?;
    let mut read: Option<ConversationState> = None;
    while let Some(row) = rows.next()? {
        let columns = Columns(row);
        let state = match &mut read {
            Some(state) => state,
            None => read.insert(read_state(&columns, conversation)?),
        };
        if !columns.is_null(MEMBER_AT)? {
            state.members.push(read_member(&columns, MEMBER_AT)?);
        }
    }
    Ok(read)
}

/// With the conversation's number, and with the member if there is one.
fn read_conversation_of(
    select: &mut CachedStatement<'_>,
    conversation: ConversationId,
    user: Option<UserId>,
) -> Result<Option<(i64, ConversationState)>, StoreError> {
    let user = user.as_ref().map(UserId::as_bytes);
    let mut rows = select.query(params![conversation.as_bytes(), user])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let columns = Columns(row);
    let mut state = read_state(&columns, conversation)?;
    if !columns.is_null(MEMBER_AT)? {
        state.members.push(read_member(&columns, MEMBER_AT)?);
    }
    Ok(Some((columns.integer(0)?, state)))
}

fn read_state(
    columns: &Columns<'_>,
    conversation: ConversationId,
) -> Result<ConversationState, StoreError> {
    Ok(ConversationState {
        conversation,
        head_seq: columns.number(1)?,
        last_message_index: columns.number(2)?,
        last_time_unix_ms: columns.integer(3)?,
        applied_end: columns.number(4)?,
        group: columns.group(5)?,
        members: Vec::new(),
    })
}

fn read_member(columns: &Columns<'_>, at: usize) -> Result<MemberState, StoreError> {
    let message_id_max = if columns.is_null(at + 1)? {
        None
    } else {
        Some(columns.message(at + 1)?)
    };
    Ok(MemberState {
        user: columns.user(at)?,
        message_id_max,
        marks: columns.marks(at + 2)?,
        membership: columns.membership(at + 6)?,
    })
}

fn read_event(columns: &Columns<'_>, conversation: ConversationId) -> Result<Event, StoreError> {
    let kind = columns.number(4)?;
    let known = u8::try_from(kind).ok().and_then(EventKind::from_number);
    Ok(Event {
        conversation,
        seq: columns.number(0)?,
        message_index: columns.number(1)?,
        log_offset: columns.number(2)?,
        time_unix_ms: columns.integer(3)?,
        kind: known.ok_or_else(|| StoreError::Corrupt(format!("unknown kind of event {kind}")))?,
        sender: columns.user(5)?,
        message_id: columns.message(6)?,
        body: Bytes::copy_from_slice(columns.bytes(7)?),
    })
}

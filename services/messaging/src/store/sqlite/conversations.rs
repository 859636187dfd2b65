//! Conversations: their events, and the state that their sequencer left.

use std::collections::HashMap;

use bytes::Bytes;
use runtime::ids::{ConversationId, MessageId, UserId};
use rusqlite::{CachedStatement, Connection, params};

use super::columns::{Columns, to_column, to_limit};
use crate::{
    model::{ConversationState, Event, EventKind, MemberState},
    store::{ConversationUpdate, SeqRange, SequencedBatch, StoreError},
};

/// One row a member, in the order of their ids; one with nulls if there is none yet.
const CONVERSATION: &str = "SELECT conversations.conversation_no, head_seq, last_message_index,
        last_time_unix_ms, applied_end, user_id, message_id_max, delivered_seq,
        delivered_message_index, read_seq, read_message_index
    FROM conversations LEFT JOIN members
        ON members.conversation_no = conversations.conversation_no
    WHERE conversation_id = ?1 ORDER BY user_id";

const CONVERSATION_NO: &str =
    "SELECT conversation_no FROM conversations WHERE conversation_id = ?1";

const INSERT_CONVERSATION: &str = "INSERT INTO conversations (conversation_id, head_seq,
        last_message_index, last_time_unix_ms, applied_end)
    VALUES (?1, ?2, ?3, ?4, ?5)";

const UPDATE_CONVERSATION: &str = "UPDATE conversations SET head_seq = ?2,
        last_message_index = ?3, last_time_unix_ms = ?4, applied_end = ?5
    WHERE conversation_no = ?1";

const PUT_MEMBER: &str = "INSERT INTO members (conversation_no, user_id, message_id_max,
        delivered_seq, delivered_message_index, read_seq, read_message_index)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
    ON CONFLICT (conversation_no, user_id) DO UPDATE SET
        message_id_max = excluded.message_id_max,
        delivered_seq = excluded.delivered_seq,
        delivered_message_index = excluded.delivered_message_index,
        read_seq = excluded.read_seq,
        read_message_index = excluded.read_message_index";

const INSERT_EVENT: &str = "INSERT INTO events (conversation_no, seq, message_index, log_offset,
        time_unix_ms, kind, sender, message_id, body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
    ON CONFLICT (conversation_no, seq) DO NOTHING";

const EVENT_AT: &str = "SELECT seq, message_index, log_offset, time_unix_ms, kind, sender,
        message_id, body
    FROM events WHERE conversation_no = ?1 AND seq = ?2";

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
    CONVERSATION_NO,
    UPDATE_CONVERSATION,
    EVENT_AT,
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

/// See [`crate::store::Store::persist`].
pub(super) fn persist(tx: &Connection, batch: &SequencedBatch) -> Result<(), StoreError> {
    let mut raise = Raise::prepare(tx)?;
    let mut numbers = HashMap::with_capacity(batch.conversations.len());
    for update in &batch.conversations {
        let number = raise.conversation(tx, update)?;
        numbers.insert(update.state.conversation, number);
    }
    let mut insert = tx.prepare_cached(INSERT_EVENT)?;
    for event in &batch.events {
        let Some(number) = numbers.get(&event.conversation) else {
            let text = format!("a batch lacks the state of {}", event.conversation);
            return Err(StoreError::Corrupt(text));
        };
        let inserted = insert.execute(params![
            number,
            to_column(event.seq)?,
            to_column(event.message_index)?,
            to_column(event.log_offset)?,
            event.time_unix_ms,
            event.kind as u8,
            event.sender.as_bytes(),
            event.message_id.as_bytes(),
            &event.body[..],
        ])?;
        if inserted == 0 {
            expect_same(tx, *number, event)?;
        }
    }
    Ok(())
}

/// An event that is there must be the one that comes again.
fn expect_same(tx: &Connection, number: i64, event: &Event) -> Result<(), StoreError> {
    let mut select = tx.prepare_cached(EVENT_AT)?;
    let mut rows = select.query(params![number, to_column(event.seq)?])?;
    let stored = match rows.next()? {
        Some(row) => Some(read_event(&Columns(row), event.conversation)?),
        None => None,
    };
    if stored.as_ref() == Some(event) {
        Ok(())
    } else {
        Err(StoreError::EventDiffers {
            conversation: event.conversation,
            seq: event.seq,
        })
    }
}

/// The statements that raise the state of conversations. Rows that would not change are not written.
struct Raise<'c> {
    conversation: CachedStatement<'c>,
    insert_conversation: CachedStatement<'c>,
    update_conversation: CachedStatement<'c>,
    put_member: CachedStatement<'c>,
}

impl<'c> Raise<'c> {
    fn prepare(tx: &'c Connection) -> Result<Self, StoreError> {
        Ok(Self {
            conversation: tx.prepare_cached(CONVERSATION)?,
            insert_conversation: tx.prepare_cached(INSERT_CONVERSATION)?,
            update_conversation: tx.prepare_cached(UPDATE_CONVERSATION)?,
            put_member: tx.prepare_cached(PUT_MEMBER)?,
        })
    }

    /// Answers the conversation's number.
    fn conversation(
        &mut self,
        tx: &Connection,
        update: &ConversationUpdate,
    ) -> Result<i64, StoreError> {
        let state = &update.state;
        let id = state.conversation;
        let stored = read_conversation(&mut self.conversation, id)?;
        if stored.as_ref().map_or(0, |(_, stored)| stored.head_seq) < update.base_head_seq {
            return Err(StoreError::HeadBelowBase { conversation: id });
        }
        let Some((number, mut stored)) = stored else {
            self.insert_conversation.execute(params![
                id.as_bytes(),
                to_column(state.head_seq)?,
                to_column(state.last_message_index)?,
                state.last_time_unix_ms,
                to_column(state.applied_end)?,
            ])?;
            let number = tx.last_insert_rowid();
            self.members(number, &[], &state.members)?;
            return Ok(number);
        };
        let members = std::mem::take(&mut stored.members);
        let raised = ConversationState {
            group: crate::model::GroupState::default(),
            conversation: id,
            head_seq: stored.head_seq.max(state.head_seq),
            last_message_index: stored.last_message_index.max(state.last_message_index),
            last_time_unix_ms: stored.last_time_unix_ms.max(state.last_time_unix_ms),
            applied_end: stored.applied_end.max(state.applied_end),
            members: Vec::new(),
        };
        if raised != stored {
            self.update_conversation.execute(params![
                number,
                to_column(raised.head_seq)?,
                to_column(raised.last_message_index)?,
                raised.last_time_unix_ms,
                to_column(raised.applied_end)?,
            ])?;
        }
        self.members(number, &members, &state.members)?;
        Ok(number)
    }

    /// Both are in the order of ids.
    fn members(
        &mut self,
        number: i64,
        stored: &[MemberState],
        members: &[MemberState],
    ) -> Result<(), StoreError> {
        for member in members {
            let old = stored
                .binary_search_by_key(&member.user, |old| old.user)
                .ok()
                .and_then(|at| stored.get(at));
            let raised = old.map_or_else(
                || member.clone(),
                |old| MemberState {
                    membership: None,
                    user: member.user,
                    message_id_max: old.message_id_max.max(member.message_id_max),
                    marks: old.marks.max(member.marks),
                },
            );
            if old == Some(&raised) {
                continue;
            }
            self.put_member.execute(params![
                number,
                raised.user.as_bytes(),
                raised.message_id_max.as_ref().map(MessageId::as_bytes),
                to_column(raised.marks.delivered.seq)?,
                to_column(raised.marks.delivered.message_index)?,
                to_column(raised.marks.read.seq)?,
                to_column(raised.marks.read.message_index)?,
            ])?;
        }
        Ok(())
    }
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
        states.extend(stored.map(|(_, state)| state));
    }
    Ok(states)
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

fn read_conversation(
    select: &mut CachedStatement<'_>,
    conversation: ConversationId,
) -> Result<Option<(i64, ConversationState)>, StoreError> {
    let mut rows = select.query([conversation.as_bytes()])?;
    let mut read: Option<(i64, ConversationState)> = None;
    while let Some(row) = rows.next()? {
        let columns = Columns(row);
        let (_, state) = if let Some(read) = &mut read {
            read
        } else {
            let state = ConversationState {
                group: crate::model::GroupState::default(),
                conversation,
                head_seq: columns.number(1)?,
                last_message_index: columns.number(2)?,
                last_time_unix_ms: columns.integer(3)?,
                applied_end: columns.number(4)?,
                members: Vec::new(),
            };
            read.insert((columns.integer(0)?, state))
        };
        if columns.is_null(5)? {
            continue;
        }
        let message_id_max = if columns.is_null(6)? {
            None
        } else {
            Some(columns.message(6)?)
        };
        state.members.push(MemberState {
            membership: None,
            user: columns.user(5)?,
            message_id_max,
            marks: columns.marks(7)?,
        });
    }
    Ok(read)
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

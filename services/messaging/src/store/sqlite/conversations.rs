//! Conversations: their events, and the state that their sequencer left.

use std::collections::HashMap;

use bytes::Bytes;
use runtime::ids::{ConversationId, MessageId, UserId};
use rusqlite::{CachedStatement, Connection, params};

use super::columns::{Columns, to_column, to_limit};
use crate::{
    model::{ConversationState, Event, EventKind, GroupState, MemberState},
    store::{
        ConversationUpdate, SeqRange, SequencedBatch, StoreError,
        membership::{pack_windows, role_number},
    },
};

/// What [`read_member`] reads, in its order.
macro_rules! member_columns {
    () => {
        "user_id, message_id_max, delivered_seq, delivered_message_index, read_seq,
        read_message_index, membership_version, role, windows"
    };
}

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

const MEMBER: &str = concat!(
    "SELECT ",
    member_columns!(),
    " FROM members WHERE conversation_no = ?1 AND user_id = ?2"
);

const CONVERSATION_NO: &str =
    "SELECT conversation_no FROM conversations WHERE conversation_id = ?1";

const INSERT_CONVERSATION: &str = "INSERT INTO conversations (conversation_id, head_seq,
        last_message_index, last_time_unix_ms, applied_end, group_version, announcement, history_all)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

const UPDATE_CONVERSATION: &str = "UPDATE conversations SET head_seq = ?2,
        last_message_index = ?3, last_time_unix_ms = ?4, applied_end = ?5, group_version = ?6,
        announcement = ?7, history_all = ?8
    WHERE conversation_no = ?1";

const PUT_MEMBER: &str = "INSERT INTO members (conversation_no, user_id, message_id_max,
        delivered_seq, delivered_message_index, read_seq, read_message_index, membership_version,
        role, windows)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
    ON CONFLICT (conversation_no, user_id) DO UPDATE SET
        message_id_max = excluded.message_id_max,
        delivered_seq = excluded.delivered_seq,
        delivered_message_index = excluded.delivered_message_index,
        read_seq = excluded.read_seq,
        read_message_index = excluded.read_message_index,
        membership_version = excluded.membership_version,
        role = excluded.role,
        windows = excluded.windows";

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
    CONVERSATION_OF,
    MEMBER,
    CONVERSATION_NO,
    UPDATE_CONVERSATION,
    EVENT_AT,
    EVENTS_NAMED,
    EVENTS_UP,
    EVENTS_DOWN,
    LAST_SEQ,
    NEXT_INDEX,
];

/// Every statement of a batch without a replayed event, for the test of what it costs.
#[cfg(test)]
pub(super) const PERSISTS: &[&str] = &[
    CONVERSATION,
    CONVERSATION_OF,
    MEMBER,
    INSERT_CONVERSATION,
    UPDATE_CONVERSATION,
    PUT_MEMBER,
    INSERT_EVENT,
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
    conversation_of: CachedStatement<'c>,
    member: CachedStatement<'c>,
    insert_conversation: CachedStatement<'c>,
    update_conversation: CachedStatement<'c>,
    put_member: CachedStatement<'c>,
}

impl<'c> Raise<'c> {
    fn prepare(tx: &'c Connection) -> Result<Self, StoreError> {
        Ok(Self {
            conversation_of: tx.prepare_cached(CONVERSATION_OF)?,
            member: tx.prepare_cached(MEMBER)?,
            insert_conversation: tx.prepare_cached(INSERT_CONVERSATION)?,
            update_conversation: tx.prepare_cached(UPDATE_CONVERSATION)?,
            put_member: tx.prepare_cached(PUT_MEMBER)?,
        })
    }

    /// Answers the conversation's number. Reads the first member that was changed together with the
    /// conversation: most batches change one.
    fn conversation(
        &mut self,
        tx: &Connection,
        update: &ConversationUpdate,
    ) -> Result<i64, StoreError> {
        let state = &update.state;
        let id = state.conversation;
        let first = state.members.first().map(|member| member.user);
        let stored = read_conversation_of(&mut self.conversation_of, id, first)?;
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
                to_column(state.group.version)?,
                state.group.announcement,
                state.group.history_all,
            ])?;
            let number = tx.last_insert_rowid();
            for member in &state.members {
                self.put(number, member)?;
            }
            return Ok(number);
        };
        let first = stored.members.pop();
        let raised = raised(&stored, state);
        if raised != stored {
            self.update_conversation.execute(params![
                number,
                to_column(raised.head_seq)?,
                to_column(raised.last_message_index)?,
                raised.last_time_unix_ms,
                to_column(raised.applied_end)?,
                to_column(raised.group.version)?,
                raised.group.announcement,
                raised.group.history_all,
            ])?;
        }
        let mut members = state.members.iter();
        if let Some(member) = members.next() {
            self.raise(number, first, member)?;
        }
        for member in members {
            let stored = self.stored_member(number, member.user)?;
            self.raise(number, stored, member)?;
        }
        Ok(number)
    }

    fn stored_member(
        &mut self,
        number: i64,
        user: UserId,
    ) -> Result<Option<MemberState>, StoreError> {
        let mut rows = self.member.query(params![number, user.as_bytes()])?;
        match rows.next()? {
            Some(row) => read_member(&Columns(row), 0).map(Some),
            None => Ok(None),
        }
    }

    /// Writes what both know together, unless it is stored.
    fn raise(
        &mut self,
        number: i64,
        stored: Option<MemberState>,
        member: &MemberState,
    ) -> Result<(), StoreError> {
        let Some(stored) = stored else {
            return self.put(number, member);
        };
        let raised = stored.clone().merged(member.clone());
        if raised == stored {
            return Ok(());
        }
        self.put(number, &raised)
    }

    fn put(&mut self, number: i64, member: &MemberState) -> Result<(), StoreError> {
        let membership = member.membership.as_ref();
        self.put_member.execute(params![
            number,
            member.user.as_bytes(),
            member.message_id_max.as_ref().map(MessageId::as_bytes),
            to_column(member.marks.delivered.seq)?,
            to_column(member.marks.delivered.message_index)?,
            to_column(member.marks.read.seq)?,
            to_column(member.marks.read.message_index)?,
            membership.map(|m| to_column(m.version)).transpose()?,
            membership.map(role_number),
            membership.map(|m| pack_windows(&m.windows)).transpose()?,
        ])?;
        Ok(())
    }
}

/// The larger of each, without members.
fn raised(stored: &ConversationState, state: &ConversationState) -> ConversationState {
    ConversationState {
        conversation: stored.conversation,
        head_seq: stored.head_seq.max(state.head_seq),
        last_message_index: stored.last_message_index.max(state.last_message_index),
        last_time_unix_ms: stored.last_time_unix_ms.max(state.last_time_unix_ms),
        applied_end: stored.applied_end.max(state.applied_end),
        group: newer_group(stored.group, state.group),
        members: Vec::new(),
    }
}

/// That of the larger version, as a whole.
const fn newer_group(stored: GroupState, given: GroupState) -> GroupState {
    if given.version > stored.version {
        given
    } else {
        stored
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

//! Keeping a batch, with what was changed and nothing else.

use std::collections::HashMap;

use runtime::ids::{MessageId, UserId};
use rusqlite::{CachedStatement, Connection, params};

use super::{CONVERSATION_OF, read_conversation_of, read_event, read_member};
use crate::{
    model::{ConversationState, Event, GroupState, MemberState},
    store::{
        ConversationUpdate, SequencedBatch, StoreError,
        membership::{pack_windows, role_number},
        sqlite::columns::{Columns, to_column},
    },
};

const MEMBER: &str = concat!(
    "SELECT ",
    member_columns!(),
    " FROM members WHERE conversation_no = ?1 AND user_id = ?2"
);

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

/// Every statement here that searches, for the test of their plans.
#[cfg(test)]
pub(in crate::store::sqlite) const SEARCHES: &[&str] = &[MEMBER, UPDATE_CONVERSATION, EVENT_AT];

/// Every statement of a batch without a replayed event, for the test of what it costs.
#[cfg(test)]
pub(in crate::store::sqlite) const STATEMENTS: &[&str] = &[
    CONVERSATION_OF,
    MEMBER,
    INSERT_CONVERSATION,
    UPDATE_CONVERSATION,
    PUT_MEMBER,
    INSERT_EVENT,
];

/// See [`crate::store::Store::persist`].
pub(in crate::store::sqlite) fn persist(
    tx: &Connection,
    batch: &SequencedBatch,
) -> Result<(), StoreError> {
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

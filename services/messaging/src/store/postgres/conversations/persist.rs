//! Keeping a batch: one statement, one round trip.

use std::collections::HashSet;

use runtime::postgres::Database;
use uuid::Uuid;

use crate::{
    model::{Event, Marks},
    store::{
        ConversationUpdate, SequencedBatch, StoreError,
        membership::{pack_windows, role_number},
        postgres::columns::{message_column, to_column, user_column},
    },
};

/// The parts of one statement see the same snapshot and not each other's changes, and run in an
/// order that only the data between them decides. Hence:
///
/// - `raised` is read by the others, so it is done, and holds its locks, before they begin. It
///   locks the row of every conversation of the batch, in the order of ids: a row that `ON
///   CONFLICT` finds is locked also where `WHERE` then leaves it as it is.
/// - The stored heads are read from the snapshot and not under the lock. That is enough: whoever
///   built on a head has seen it committed before, and heads never fall.
/// - Whether an event differs is asked by `ON CONFLICT`, which sees what is there now, also what
///   another batch has just committed. `refuse_event` and `refuse_head` end the whole statement.
/// - Rows that would stay as they are, are not written again.
/// - A group's state and a membership are each taken over as a whole or not at all. Where there is
///   no membership its version is null: as given it is above nothing, as stored below everything.
pub(in crate::store::postgres) const PERSIST: &str = "WITH raised AS (
        INSERT INTO conversations AS c (conversation_id, head_seq, last_message_index,
            last_time_unix_ms, applied_end, group_version, announcement, history_all)
        SELECT g.conversation_id, g.head_seq, g.last_message_index, g.last_time_unix_ms,
            g.applied_end, g.group_version, g.announcement, g.history_all
        FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
                $6::bigint[], $7::bigint[], $8::boolean[], $9::boolean[]) WITH ORDINALITY
            AS g(conversation_id, head_seq, last_message_index, last_time_unix_ms, applied_end,
                base_head_seq, group_version, announcement, history_all, place)
        WHERE CASE WHEN g.base_head_seq <= coalesce((
                SELECT s.head_seq FROM conversations AS s
                WHERE s.conversation_id = g.conversation_id
            ), 0) THEN true ELSE refuse_head(g.conversation_id) END
        ORDER BY g.place
        ON CONFLICT (conversation_id) DO UPDATE SET
            head_seq = greatest(c.head_seq, excluded.head_seq),
            last_message_index = greatest(c.last_message_index, excluded.last_message_index),
            last_time_unix_ms = greatest(c.last_time_unix_ms, excluded.last_time_unix_ms),
            applied_end = greatest(c.applied_end, excluded.applied_end),
            group_version = greatest(c.group_version, excluded.group_version),
            announcement = CASE WHEN excluded.group_version > c.group_version
                THEN excluded.announcement ELSE c.announcement END,
            history_all = CASE WHEN excluded.group_version > c.group_version
                THEN excluded.history_all ELSE c.history_all END
        WHERE excluded.head_seq > c.head_seq
            OR excluded.last_message_index > c.last_message_index
            OR excluded.last_time_unix_ms > c.last_time_unix_ms
            OR excluded.applied_end > c.applied_end
            OR excluded.group_version > c.group_version
        RETURNING 1
    ), kept AS (
        INSERT INTO events AS e (conversation_id, seq, message_index, log_offset, time_unix_ms,
            kind, sender, message_id, body)
        SELECT * FROM unnest($10::bytea[], $11::bigint[], $12::bigint[], $13::bigint[],
            $14::bigint[], $15::smallint[], $16::uuid[], $17::uuid[], $18::bytea[])
        WHERE (SELECT count(*) FROM raised) >= 0
        ON CONFLICT (conversation_id, seq)
        DO UPDATE SET kind = refuse_event(e.conversation_id, e.seq)
        WHERE (e.message_index, e.log_offset, e.time_unix_ms, e.kind, e.sender, e.message_id,
                e.body)
            <> (excluded.message_index, excluded.log_offset, excluded.time_unix_ms, excluded.kind,
                excluded.sender, excluded.message_id, excluded.body)
    )
    INSERT INTO members AS m (conversation_id, user_id, message_id_max, delivered_seq,
        delivered_message_index, read_seq, read_message_index, membership_version, role, windows)
    SELECT * FROM unnest($19::bytea[], $20::uuid[], $21::uuid[], $22::bigint[], $23::bigint[],
        $24::bigint[], $25::bigint[], $26::bigint[], $27::smallint[], $28::bytea[])
    WHERE (SELECT count(*) FROM raised) >= 0
    ON CONFLICT (conversation_id, user_id) DO UPDATE SET
        message_id_max = greatest(m.message_id_max, excluded.message_id_max),
        delivered_seq = greatest(m.delivered_seq, excluded.delivered_seq),
        delivered_message_index =
            greatest(m.delivered_message_index, excluded.delivered_message_index),
        read_seq = greatest(m.read_seq, excluded.read_seq),
        read_message_index = greatest(m.read_message_index, excluded.read_message_index),
        membership_version = greatest(m.membership_version, excluded.membership_version),
        role = CASE WHEN excluded.membership_version > coalesce(m.membership_version, -1)
            THEN excluded.role ELSE m.role END,
        windows = CASE WHEN excluded.membership_version > coalesce(m.membership_version, -1)
            THEN excluded.windows ELSE m.windows END
    WHERE excluded.message_id_max > m.message_id_max
        OR (m.message_id_max IS NULL AND excluded.message_id_max IS NOT NULL)
        OR excluded.delivered_seq > m.delivered_seq
        OR excluded.delivered_message_index > m.delivered_message_index
        OR excluded.read_seq > m.read_seq
        OR excluded.read_message_index > m.read_message_index
        OR excluded.membership_version > coalesce(m.membership_version, -1)";

/// See [`crate::store::Store::persist`].
pub(in crate::store::postgres) async fn persist(
    database: &Database,
    batch: &SequencedBatch,
) -> Result<(), StoreError> {
    // The order in which rows are locked.
    let mut updates: Vec<&ConversationUpdate> = batch.conversations.iter().collect();
    updates.sort_unstable_by_key(|update| update.state.conversation);
    let known: HashSet<_> = updates
        .iter()
        .map(|update| update.state.conversation)
        .collect();
    if let Some(event) = batch
        .events
        .iter()
        .find(|event| !known.contains(&event.conversation))
    {
        let text = format!("a batch lacks the state of {}", event.conversation);
        return Err(StoreError::Corrupt(text));
    }
    let conversations = ConversationColumns::of(&updates)?;
    let events = EventColumns::of(&batch.events)?;
    let members = MemberColumns::of(&updates)?;
    database
        .call("persist", async |connection| {
            let query = conversations.bind(sqlx::query(PERSIST));
            let query = members.bind(events.bind(query));
            query.execute(connection).await.map(drop)
        })
        .await?;
    Ok(())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// An array a column, as the statement takes them.
#[derive(Default)]
struct ConversationColumns<'b> {
    ids: Vec<&'b [u8]>,
    head_seqs: Vec<i64>,
    last_message_indexes: Vec<i64>,
    last_times: Vec<i64>,
    applied_ends: Vec<i64>,
    base_head_seqs: Vec<i64>,
    group_versions: Vec<i64>,
    announcements: Vec<bool>,
    histories_all: Vec<bool>,
}

impl<'b> ConversationColumns<'b> {
    fn of(updates: &[&'b ConversationUpdate]) -> Result<Self, StoreError> {
        let mut columns = Self::default();
        for update in updates {
            let state = &update.state;
            columns.ids.push(state.conversation.as_bytes());
            columns.head_seqs.push(to_column(state.head_seq)?);
            columns
                .last_message_indexes
                .push(to_column(state.last_message_index)?);
            columns.last_times.push(state.last_time_unix_ms);
            columns.applied_ends.push(to_column(state.applied_end)?);
            columns
                .base_head_seqs
                .push(to_column(update.base_head_seq)?);
            columns.group_versions.push(to_column(state.group.version)?);
            columns.announcements.push(state.group.announcement);
            columns.histories_all.push(state.group.history_all);
        }
        Ok(columns)
    }

    fn bind(self, query: Query<'b>) -> Query<'b> {
        query
            .bind(self.ids)
            .bind(self.head_seqs)
            .bind(self.last_message_indexes)
            .bind(self.last_times)
            .bind(self.applied_ends)
            .bind(self.base_head_seqs)
            .bind(self.group_versions)
            .bind(self.announcements)
            .bind(self.histories_all)
    }
}

#[derive(Default)]
struct EventColumns<'b> {
    conversations: Vec<&'b [u8]>,
    seqs: Vec<i64>,
    message_indexes: Vec<i64>,
    log_offsets: Vec<i64>,
    times: Vec<i64>,
    kinds: Vec<i16>,
    senders: Vec<Uuid>,
    message_ids: Vec<Uuid>,
    bodies: Vec<&'b [u8]>,
}

impl<'b> EventColumns<'b> {
    fn of(events: &'b [Event]) -> Result<Self, StoreError> {
        let mut columns = Self::default();
        for event in events {
            columns.conversations.push(event.conversation.as_bytes());
            columns.seqs.push(to_column(event.seq)?);
            columns
                .message_indexes
                .push(to_column(event.message_index)?);
            columns.log_offsets.push(to_column(event.log_offset)?);
            columns.times.push(event.time_unix_ms);
            columns.kinds.push(i16::from(event.kind as u8));
            columns.senders.push(user_column(event.sender));
            columns.message_ids.push(message_column(event.message_id));
            columns.bodies.push(&event.body);
        }
        Ok(columns)
    }

    fn bind(self, query: Query<'b>) -> Query<'b> {
        query
            .bind(self.conversations)
            .bind(self.seqs)
            .bind(self.message_indexes)
            .bind(self.log_offsets)
            .bind(self.times)
            .bind(self.kinds)
            .bind(self.senders)
            .bind(self.message_ids)
            .bind(self.bodies)
    }
}

#[derive(Default)]
struct MemberColumns<'b> {
    conversations: Vec<&'b [u8]>,
    users: Vec<Uuid>,
    message_id_maxes: Vec<Option<Uuid>>,
    delivered_seqs: Vec<i64>,
    delivered_message_indexes: Vec<i64>,
    read_seqs: Vec<i64>,
    read_message_indexes: Vec<i64>,
    membership_versions: Vec<Option<i64>>,
    roles: Vec<Option<i16>>,
    windows: Vec<Option<Vec<u8>>>,
}

impl<'b> MemberColumns<'b> {
    fn of(updates: &[&'b ConversationUpdate]) -> Result<Self, StoreError> {
        let mut columns = Self::default();
        for update in updates {
            for member in &update.state.members {
                let Marks { delivered, read } = member.marks;
                columns
                    .conversations
                    .push(update.state.conversation.as_bytes());
                columns.users.push(user_column(member.user));
                columns
                    .message_id_maxes
                    .push(member.message_id_max.map(message_column));
                columns.delivered_seqs.push(to_column(delivered.seq)?);
                columns
                    .delivered_message_indexes
                    .push(to_column(delivered.message_index)?);
                columns.read_seqs.push(to_column(read.seq)?);
                columns
                    .read_message_indexes
                    .push(to_column(read.message_index)?);
                let membership = member.membership.as_ref();
                let version = membership.map(|m| to_column(m.version)).transpose()?;
                columns.membership_versions.push(version);
                let role = membership.map(|m| i16::from(role_number(m)));
                columns.roles.push(role);
                let windows = membership.map(|m| pack_windows(&m.windows)).transpose()?;
                columns.windows.push(windows);
            }
        }
        Ok(columns)
    }

    fn bind(self, query: Query<'b>) -> Query<'b> {
        query
            .bind(self.conversations)
            .bind(self.users)
            .bind(self.message_id_maxes)
            .bind(self.delivered_seqs)
            .bind(self.delivered_message_indexes)
            .bind(self.read_seqs)
            .bind(self.read_message_indexes)
            .bind(self.membership_versions)
            .bind(self.roles)
            .bind(self.windows)
    }
}

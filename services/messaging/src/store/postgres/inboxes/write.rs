//! Writing merged inboxes: one statement, one round trip.

use std::collections::HashSet;

use runtime::{ids::UserId, postgres::Database};
use uuid::Uuid;

use super::merge::Inbox;
use crate::{
    model::InboxRow,
    store::{
        StoreError,
        postgres::columns::{Columns, message_column, to_column, to_count, user_column},
    },
};

/// A head is written if its version is the one that was read; rows only with their head. Every
/// change of a row raises its head's version, so that rows are then as they were read, too. Heads
/// are locked in the order of their users, so that no two batches wait for each other.
pub(in crate::store::postgres) const WRITE: &str = "WITH written AS (
        INSERT INTO inbox_heads AS h (user_id, version, previous_version, unread_total)
        SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[])
        ON CONFLICT (user_id) DO UPDATE SET
            version = excluded.version,
            previous_version = excluded.previous_version,
            unread_total = excluded.unread_total
        WHERE h.version = excluded.previous_version
        RETURNING user_id
    ), rows AS (
        INSERT INTO inbox (user_id, conversation_id, version, last_seq, last_message_index,
            own_delivered_seq, own_delivered_message_index, own_read_seq, own_read_message_index,
            peer_delivered_seq, peer_delivered_message_index, peer_read_seq,
            peer_read_message_index, joined_seq, left_seq, deferred_seq, preview_sender,
            preview_message_id, preview_seq, preview_time_unix_ms, preview_text, preview_joined,
            preview_attachment_count, preview_video_count)
        SELECT g.* FROM unnest($5::uuid[], $6::bytea[], $7::bigint[], $8::bigint[], $9::bigint[],
            $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[],
            $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[],
            $20::bigint[], $21::uuid[], $22::uuid[], $23::bigint[], $24::bigint[], $25::bytea[],
            $26::boolean[], $27::integer[], $28::integer[]) AS g(user_id)
        JOIN written ON written.user_id = g.user_id
        ON CONFLICT (user_id, conversation_id) DO UPDATE SET
            version = excluded.version,
            last_seq = excluded.last_seq,
            last_message_index = excluded.last_message_index,
            own_delivered_seq = excluded.own_delivered_seq,
            own_delivered_message_index = excluded.own_delivered_message_index,
            own_read_seq = excluded.own_read_seq,
            own_read_message_index = excluded.own_read_message_index,
            peer_delivered_seq = excluded.peer_delivered_seq,
            peer_delivered_message_index = excluded.peer_delivered_message_index,
            peer_read_seq = excluded.peer_read_seq,
            peer_read_message_index = excluded.peer_read_message_index,
            joined_seq = excluded.joined_seq,
            left_seq = excluded.left_seq,
            deferred_seq = excluded.deferred_seq,
            preview_sender = excluded.preview_sender,
            preview_message_id = excluded.preview_message_id,
            preview_seq = excluded.preview_seq,
            preview_time_unix_ms = excluded.preview_time_unix_ms,
            preview_text = excluded.preview_text,
            preview_joined = excluded.preview_joined,
            preview_attachment_count = excluded.preview_attachment_count,
            preview_video_count = excluded.preview_video_count
    )
    SELECT user_id FROM written";

/// Writes the inboxes, which are in the order of their users. Answers whose were written; the
/// others were changed by somebody else since they were read.
pub(super) async fn write(
    database: &Database,
    inboxes: &[Inbox],
) -> Result<HashSet<UserId>, StoreError> {
    let heads = HeadColumns::of(inboxes)?;
    let rows = RowColumns::of(inboxes)?;
    let written = database
        .call("apply_inbox: write", async |connection| {
            let query = rows.bind(heads.bind(sqlx::query(WRITE)));
            query.fetch_all(connection).await
        })
        .await?;
    written.iter().map(|row| Columns(row).user(0)).collect()
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// An array a column, as the statement takes them.
#[derive(Default)]
struct HeadColumns {
    users: Vec<Uuid>,
    versions: Vec<i64>,
    previous_versions: Vec<i64>,
    unread_totals: Vec<i64>,
}

impl HeadColumns {
    fn of(inboxes: &[Inbox]) -> Result<Self, StoreError> {
        let mut columns = Self::default();
        for inbox in inboxes {
            columns.users.push(user_column(inbox.user));
            columns.versions.push(to_column(inbox.head.version)?);
            columns
                .previous_versions
                .push(to_column(inbox.before.version)?);
            columns
                .unread_totals
                .push(to_column(inbox.head.unread_total)?);
        }
        Ok(columns)
    }

    fn bind(self, query: Query<'_>) -> Query<'_> {
        query
            .bind(self.users)
            .bind(self.versions)
            .bind(self.previous_versions)
            .bind(self.unread_totals)
    }
}

/// How many columns of a row are numbers that are always there.
const NUMBERS: usize = 14;

#[derive(Default)]
struct RowColumns<'b> {
    users: Vec<Uuid>,
    conversations: Vec<&'b [u8]>,
    /// The version, then seq and message index of each watermark, then where the user joined and
    /// left, and where the row was deferred.
    numbers: [Vec<i64>; NUMBERS],
    preview_senders: Vec<Option<Uuid>>,
    preview_message_ids: Vec<Option<Uuid>>,
    preview_seqs: Vec<Option<i64>>,
    preview_times: Vec<Option<i64>>,
    preview_texts: Vec<Option<&'b [u8]>>,
    preview_joineds: Vec<bool>,
    preview_attachment_counts: Vec<i32>,
    preview_video_counts: Vec<i32>,
}

impl<'b> RowColumns<'b> {
    fn of(inboxes: &'b [Inbox]) -> Result<Self, StoreError> {
        let mut columns = Self::default();
        for inbox in inboxes {
            for row in inbox.changed() {
                columns.push(inbox.user, row)?;
            }
        }
        Ok(columns)
    }

    fn push(&mut self, user: UserId, row: &'b InboxRow) -> Result<(), StoreError> {
        self.users.push(user_column(user));
        self.conversations.push(row.conversation.as_bytes());
        let numbers = [
            row.version,
            row.last.seq,
            row.last.message_index,
            row.own.delivered.seq,
            row.own.delivered.message_index,
            row.own.read.seq,
            row.own.read.message_index,
            row.peer.delivered.seq,
            row.peer.delivered.message_index,
            row.peer.read.seq,
            row.peer.read.message_index,
            row.joined_seq,
            row.left_seq,
            row.deferred_seq,
        ];
        for (column, number) in self.numbers.iter_mut().zip(numbers) {
            column.push(to_column(number)?);
        }
        let preview = row.preview.as_ref();
        self.preview_senders
            .push(preview.map(|p| user_column(p.sender)));
        self.preview_message_ids
            .push(preview.map(|p| message_column(p.message_id)));
        let seq = preview.map(|p| to_column(p.seq)).transpose()?;
        self.preview_seqs.push(seq);
        self.preview_times.push(preview.map(|p| p.time_unix_ms));
        self.preview_texts.push(preview.map(|p| p.text.as_bytes()));
        self.preview_joineds.push(preview.is_some_and(|p| p.joined));
        let attachments = preview.map_or(0, |p| p.attachment_count);
        self.preview_attachment_counts.push(to_count(attachments)?);
        let videos = preview.map_or(0, |p| p.video_count);
        self.preview_video_counts.push(to_count(videos)?);
        Ok(())
    }

    fn bind(self, query: Query<'_>) -> Query<'_> {
        let query = query.bind(self.users).bind(self.conversations);
        let query = self.numbers.into_iter().fold(query, Query::bind);
        query
            .bind(self.preview_senders)
            .bind(self.preview_message_ids)
            .bind(self.preview_seqs)
            .bind(self.preview_times)
            .bind(self.preview_texts)
            .bind(self.preview_joineds)
            .bind(self.preview_attachment_counts)
            .bind(self.preview_video_counts)
    }
}

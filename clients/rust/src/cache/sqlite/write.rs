//! The schema, and what changes the tables.

use prost::Message as _;
use rusqlite::{Transaction, params};

use super::{VERSION, attachments, row, set_fact, to_sql};
use crate::{
    cache::{Batch, Unsent},
    model::{Conversation, GroupChange, GroupSnippet, MemberMarks, Message},
};

/// How often old messages are removed: when the head passes a multiple of this.
pub(super) const PRUNE_EVERY: u64 = 256;
pub(super) const SCHEMA: &str = "
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE heads (
    conversation_id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    last_index INTEGER NOT NULL,
    changed INTEGER NOT NULL
);
CREATE INDEX heads_by_change ON heads (changed);
CREATE TABLE messages (
    conversation_id TEXT NOT NULL,
    message_index INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    time_unix_ms INTEGER NOT NULL,
    sender_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (conversation_id, message_index)
) WITHOUT ROWID;
CREATE TABLE conversations (
    conversation_id TEXT PRIMARY KEY,
    time_unix_ms INTEGER NOT NULL,
    conversation BLOB NOT NULL
);
CREATE INDEX conversations_by_time ON conversations (time_unix_ms);
CREATE TABLE marks (
    conversation_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    delivered_seq INTEGER NOT NULL,
    delivered_index INTEGER NOT NULL,
    read_seq INTEGER NOT NULL,
    read_index INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, user_id)
) WITHOUT ROWID;
CREATE TABLE unsent (
    queued INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (conversation_id, message_id)
);
CREATE TABLE last_message_ids (
    conversation_id TEXT PRIMARY KEY,
    message_id TEXT NOT NULL,
    changed INTEGER NOT NULL
);
CREATE TABLE reads (
    conversation_id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    message_index INTEGER NOT NULL
);
";

/// Groups: their changes as encoded events, and who is mentioned (see [`mentions`]).
pub(super) const GROUPS: &str = "
CREATE TABLE group_changes (
    conversation_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    event BLOB NOT NULL,
    PRIMARY KEY (conversation_id, version)
) WITHOUT ROWID;
ALTER TABLE messages ADD COLUMN mentions TEXT;
ALTER TABLE unsent ADD COLUMN mentions TEXT;
";
/// Attachments (see [`attachments`]), and of messages that are not sent yet what proves them.
pub(super) const ATTACHMENTS: &str = "
ALTER TABLE messages ADD COLUMN attachments BLOB;
ALTER TABLE unsent ADD COLUMN attachments BLOB;
ALTER TABLE unsent ADD COLUMN receipts TEXT;
";
/// Stands for all members among the ids of those who are mentioned.
pub(super) const ALL: &str = "*";

pub(super) fn apply(
    transaction: &Transaction<'_>,
    batch: &Batch,
    keep: u64,
) -> rusqlite::Result<()> {
    for message in &batch.messages {
        insert_message(transaction, message)?;
        if message.message_index % PRUNE_EVERY == 0 {
            prune(transaction, message, keep)?;
        }
    }
    for change in &batch.group_changes {
        insert_change(transaction, change, keep)?;
    }
    for head in &batch.heads {
        transaction
            .prepare_cached(
                "INSERT INTO heads (conversation_id, seq, last_seq, last_index, changed)
                 VALUES (?1, ?2, ?3, ?4, (SELECT COALESCE(MAX(changed), 0) + 1 FROM heads))
                 ON CONFLICT (conversation_id) DO UPDATE SET seq = excluded.seq,
                     last_seq = excluded.last_seq, last_index = excluded.last_index,
                     changed = excluded.changed",
            )?
            .execute(params![
                head.conversation_id,
                to_sql(head.seq),
                to_sql(head.last_event.seq),
                to_sql(head.last_event.message_index),
            ])?;
    }
    for conversation in &batch.conversations {
        insert_conversation(transaction, conversation)?;
    }
    for change in &batch.group_changes {
        change_snippet(transaction, change)?;
    }
    for (conversation_id, member) in &batch.marks {
        raise_marks(transaction, conversation_id, member)?;
    }
    for unsent in &batch.queued {
        queue(transaction, unsent)?;
    }
    for (conversation_id, message_id) in &batch.resolved {
        transaction
            .prepare_cached("DELETE FROM unsent WHERE conversation_id = ?1 AND message_id = ?2")?
            .execute([conversation_id, message_id])?;
    }
    for (conversation_id, mark) in &batch.reads {
        transaction
            .prepare_cached(
                "INSERT INTO reads (conversation_id, seq, message_index) VALUES (?1, ?2, ?3)
                 ON CONFLICT (conversation_id) DO UPDATE SET seq = excluded.seq,
                     message_index = excluded.message_index WHERE excluded.seq > seq",
            )?
            .execute(params![
                conversation_id,
                to_sql(mark.seq),
                to_sql(mark.message_index)
            ])?;
    }
    for (conversation_id, mark) in &batch.reads_confirmed {
        transaction
            .prepare_cached("DELETE FROM reads WHERE conversation_id = ?1 AND seq <= ?2")?
            .execute(params![conversation_id, to_sql(mark.seq)])?;
    }
    if let Some(version) = batch.inbox_version {
        set_fact(transaction, VERSION, &version.to_string())?;
    }
    Ok(())
}

fn insert_message(transaction: &Transaction<'_>, message: &Message) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO messages (conversation_id, message_index, seq, time_unix_ms,
                 sender_id, message_id, text, mentions, attachments)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            message.conversation_id,
            to_sql(message.message_index),
            to_sql(message.seq),
            message.time_unix_ms,
            message.sender_id,
            message.message_id,
            message.text,
            mentions(&message.mentioned_user_ids, message.mentions_all),
            attachments::encode(message.attachments.iter()),
        ])?;
    Ok(())
}

/// The ids, and [`ALL`], with blanks between them; NULL = nobody, as in nearly every message.
fn mentions(user_ids: &[String], all: bool) -> Option<String> {
    let all = all.then_some(ALL);
    let words: Vec<&str> = user_ids.iter().map(String::as_str).chain(all).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Keeps a change, and as many of a group as messages are kept of a conversation.
fn insert_change(
    transaction: &Transaction<'_>,
    change: &GroupChange,
    keep: u64,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO group_changes (conversation_id, version, seq, event)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            change.conversation_id,
            to_sql(change.version),
            to_sql(change.seq),
            change.clone().into_event().encode_to_vec(),
        ])?;
    let last_removed = change.version.saturating_sub(keep);
    transaction
        .prepare_cached("DELETE FROM group_changes WHERE conversation_id = ?1 AND version <= ?2")?
        .execute(params![change.conversation_id, to_sql(last_removed)])?;
    Ok(())
}

/// Rows that are pushed have no snippet of the group: the one that is kept goes along with the changes.
fn change_snippet(transaction: &Transaction<'_>, change: &GroupChange) -> rusqlite::Result<()> {
    let Some(mut row) = row(transaction, &change.conversation_id)? else {
        return Ok(());
    };
    let snippet = row.group.get_or_insert_with(|| GroupSnippet {
        group_id: change.group_id().to_owned(),
        ..GroupSnippet::default()
    });
    if snippet.version >= change.version {
        return Ok(());
    }
    snippet.version = change.version;
    snippet.member_count = change.member_count;
    if let Some(name) = &change.name {
        snippet.name.clone_from(name);
    }
    if let Some(picture) = &change.picture {
        snippet.picture.clone_from(picture);
    }
    insert_conversation(transaction, &row)
}

/// Removes what is older than the newest `keep` messages of the conversation.
fn prune(transaction: &Transaction<'_>, newest: &Message, keep: u64) -> rusqlite::Result<()> {
    let last_removed = newest.message_index.saturating_sub(keep);
    transaction
        .prepare_cached("DELETE FROM messages WHERE conversation_id = ?1 AND message_index <= ?2")?
        .execute(params![newest.conversation_id, to_sql(last_removed)])?;
    Ok(())
}

fn insert_conversation(
    transaction: &Transaction<'_>,
    conversation: &Conversation,
) -> rusqlite::Result<()> {
    let mut conversation = conversation.clone();
    if conversation.peer.is_none() || conversation.group.is_none() {
        // Pushed rows have neither; they do not change with them.
        let before = row(transaction, &conversation.conversation_id)?.unwrap_or_default();
        conversation.peer = conversation.peer.or(before.peer);
        conversation.group = conversation.group.or(before.group);
    }
    let time = conversation.preview.as_ref().map_or(0, |p| p.time_unix_ms);
    transaction
        .prepare_cached(
            "INSERT INTO conversations (conversation_id, time_unix_ms, conversation)
             VALUES (?1, ?2, ?3) ON CONFLICT (conversation_id) DO UPDATE SET
                 time_unix_ms = excluded.time_unix_ms, conversation = excluded.conversation",
        )?
        .execute(params![
            conversation.conversation_id,
            time,
            conversation.encode_to_vec()
        ])?;
    let members = [&conversation.own_marks, &conversation.peer_marks];
    for member in members.into_iter().flatten() {
        raise_marks(transaction, &conversation.conversation_id, member)?;
    }
    Ok(())
}

fn raise_marks(
    transaction: &Transaction<'_>,
    conversation_id: &str,
    member: &MemberMarks,
) -> rusqlite::Result<()> {
    let (delivered, read) = (
        member.delivered.unwrap_or_default(),
        member.read.unwrap_or_default(),
    );
    transaction
        .prepare_cached(
            "INSERT INTO marks (conversation_id, user_id, delivered_seq, delivered_index,
                 read_seq, read_index) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (conversation_id, user_id) DO UPDATE SET
                 delivered_seq = MAX(delivered_seq, excluded.delivered_seq),
                 delivered_index = MAX(delivered_index, excluded.delivered_index),
                 read_seq = MAX(read_seq, excluded.read_seq),
                 read_index = MAX(read_index, excluded.read_index)",
        )?
        .execute(params![
            conversation_id,
            member.user_id,
            to_sql(delivered.seq),
            to_sql(delivered.message_index),
            to_sql(read.seq),
            to_sql(read.message_index),
        ])?;
    Ok(())
}

fn queue(transaction: &Transaction<'_>, unsent: &Unsent) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO unsent (conversation_id, message_id, text, mentions, attachments,
                 receipts) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            unsent.conversation_id,
            unsent.message_id,
            unsent.draft.text,
            mentions(&unsent.draft.mentioned_user_ids, unsent.draft.mentions_all),
            attachments::encode(unsent.draft.attachments.iter().map(|held| &held.attachment)),
            attachments::receipts(&unsent.draft.attachments),
        ])?;
    transaction
        .prepare_cached(
            "INSERT INTO last_message_ids (conversation_id, message_id, changed)
             VALUES (?1, ?2, (SELECT COALESCE(MAX(changed), 0) + 1 FROM last_message_ids))
             ON CONFLICT (conversation_id) DO UPDATE SET
                 -- A message that is sent again has an older name than the last.
                 message_id = MAX(message_id, excluded.message_id),
                 changed = excluded.changed",
        )?
        .execute([&unsent.conversation_id, &unsent.message_id])?;
    Ok(())
}

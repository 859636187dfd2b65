//! The cache in a SQLite file.
//!
//! One connection, used by one call at a time on a blocking thread. `synchronous` is NORMAL: what was
//! applied survives the end of the program, and after a loss of power the file is as it was at some
//! earlier batch, from which the session goes on.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use rusqlite_migration::{M, Migrations};

use super::{Batch, Cache, Head, Stored, Unsent};
use crate::{
    error::{Error, Result},
    model::{Conversation, Draft, GroupChange, MemberMarks, Message, RawEvent, Watermark},
};

mod attachments;
mod write;

/// How long a call waits for another program that uses the same file.
const BUSY_DEADLINE: Duration = Duration::from_secs(5);
/// Messages that are kept of one conversation unless [`SqliteCache::keep`] says otherwise: some 5 MiB
/// of the longest, and more than anybody scrolls back; older ones come from the server.
const KEEP_MESSAGES: u64 = 10_000;
/// Largest page of messages or conversations.
const PAGE_MAX: usize = 10_000;

/// The one row of `facts` that says whose cache it is.
const USER: &str = "user_id";
/// The one that says what it is complete up to.
const VERSION: &str = "inbox_version";

/// A cache in a SQLite file. One file is for one device of one user.
#[derive(Debug, Clone)]
pub struct SqliteCache {
    connection: Arc<Mutex<Connection>>,
    keep_messages: u64,
}

impl SqliteCache {
    /// Opens or makes the file, and brings its schema up to date. Refuses a newer one.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let connection = tokio::task::spawn_blocking(move || open(&path))
            .await
            .map_err(|error| Error::Storage(error.to_string()))??;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            keep_messages: KEEP_MESSAGES,
        })
    }

    /// How many messages of a conversation are kept; default 10,000. Older ones come from the server.
    #[must_use]
    pub fn keep(mut self, messages: u64) -> Self {
        self.keep_messages = messages.max(1);
        self
    }

    async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let connection = self.connection.clone();
        tokio::task::spawn_blocking(move || work(&mut connection.lock()))
            .await
            .map_err(|error| Error::Storage(error.to_string()))?
            .map_err(|error| Error::Storage(format!("cache: {error}")))
    }
}

fn open(path: &PathBuf) -> Result<Connection> {
    let failed = |error: rusqlite::Error| Error::Storage(format!("{}: {error}", path.display()));
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(BUSY_DEADLINE).map_err(failed)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .map_err(failed)?;
    connection
        .pragma_update(None, "synchronous", "NORMAL")
        .map_err(failed)?;
    Migrations::new(vec![
        M::up(write::SCHEMA),
        M::up(write::GROUPS),
        M::up(write::ATTACHMENTS),
    ])
    .to_latest(&mut connection)
    .map_err(|error| Error::Storage(format!("{}: {error}", path.display())))?;
    Ok(connection)
}

#[async_trait]
impl Cache for SqliteCache {
    async fn load(&self, user_id: &str, heads_max: usize) -> Result<Stored> {
        let asked = user_id.to_owned();
        let (owner, stored) = self
            .run(move |connection| {
                let transaction =
                    connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let owner = match fact(&transaction, USER)? {
                    Some(owner) => owner,
                    None => {
                        set_fact(&transaction, USER, &asked)?;
                        asked
                    }
                };
                let stored = load(&transaction, heads_max)?;
                transaction.commit()?;
                Ok((owner, stored))
            })
            .await?;
        if owner != user_id {
            return Err(Error::Storage(format!(
                "the cache is of the user {owner}, not of {user_id}"
            )));
        }
        Ok(stored)
    }

    async fn heads(&self, conversation_ids: &[String]) -> Result<Vec<Head>> {
        let ids = conversation_ids.to_vec();
        self.run(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT conversation_id, seq, last_seq, last_index FROM heads
                 WHERE conversation_id = ?1",
            )?;
            let mut heads = Vec::new();
            for id in ids {
                heads.extend(select.query_row([id], head).optional()?);
            }
            Ok(heads)
        })
        .await
    }

    async fn apply(&self, batch: Batch) -> Result<()> {
        let keep = self.keep_messages;
        self.run(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            write::apply(&transaction, &batch, keep)?;
            transaction.commit()
        })
        .await
    }

    async fn messages(
        &self,
        conversation_id: &str,
        before_message_index: u64,
        limit: usize,
    ) -> Result<Vec<Message>> {
        let id = conversation_id.to_owned();
        let before = match before_message_index {
            0 => i64::MAX,
            before => to_sql(before),
        };
        let limit = limit.min(PAGE_MAX);
        self.run(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT seq, message_index, time_unix_ms, sender_id, message_id, text, mentions,
                     attachments
                 FROM messages WHERE conversation_id = ?1 AND message_index < ?2
                 ORDER BY message_index DESC LIMIT ?3",
            )?;
            let rows = select.query_map(params![id, before, limit as i64], |row| {
                let (mentioned_user_ids, mentions_all) = mentions(row.get(6)?);
                Ok(Message {
                    conversation_id: id.clone(),
                    seq: from_sql(row.get(0)?),
                    message_index: from_sql(row.get(1)?),
                    time_unix_ms: row.get(2)?,
                    sender_id: row.get(3)?,
                    message_id: row.get(4)?,
                    text: row.get(5)?,
                    mentioned_user_ids,
                    mentions_all,
                    attachments: attachments::read(row, 7)?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    async fn group_changes(
        &self,
        conversation_id: &str,
        before_seq: u64,
        limit: usize,
    ) -> Result<Vec<GroupChange>> {
        let id = conversation_id.to_owned();
        let before = match before_seq {
            0 => i64::MAX,
            before => to_sql(before),
        };
        let limit = limit.min(PAGE_MAX);
        self.run(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT event FROM group_changes WHERE conversation_id = ?1 AND seq < ?2
                 ORDER BY version DESC LIMIT ?3",
            )?;
            let blobs = select
                .query_map(params![id, before, limit as i64], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<Vec<u8>>>>()?;
            let events = blobs
                .iter()
                .filter_map(|blob| RawEvent::decode(blob.as_slice()).ok());
            Ok(events.filter_map(GroupChange::from_event).collect())
        })
        .await
    }

    async fn conversations(&self, limit: usize) -> Result<Vec<Conversation>> {
        let limit = limit.min(PAGE_MAX);
        self.run(move |connection| conversations(connection, limit))
            .await
    }
}

fn load(transaction: &Transaction<'_>, heads_max: usize) -> rusqlite::Result<Stored> {
    let inbox_version = fact(transaction, VERSION)?.and_then(|version| version.parse().ok());
    let limit = i64::try_from(heads_max).unwrap_or(i64::MAX);
    let heads = transaction
        .prepare(
            "SELECT conversation_id, seq, last_seq, last_index FROM heads
             ORDER BY changed DESC LIMIT ?1",
        )?
        .query_map([limit], head)?
        .collect::<rusqlite::Result<_>>()?;
    let last_message_ids = transaction
        .prepare(
            "SELECT conversation_id, message_id FROM last_message_ids
             ORDER BY changed DESC LIMIT ?1",
        )?
        .query_map([limit], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let unsent = transaction
        .prepare(
            "SELECT conversation_id, message_id, text, mentions, attachments, receipts FROM unsent
             ORDER BY queued",
        )?
        .query_map([], |row| {
            let (mentioned_user_ids, mentions_all) = mentions(row.get(3)?);
            Ok(Unsent {
                conversation_id: row.get(0)?,
                message_id: row.get(1)?,
                draft: Draft {
                    text: row.get(2)?,
                    mentioned_user_ids,
                    mentions_all,
                    attachments: attachments::read_drafted(row, 4, 5)?,
                },
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let reads = transaction
        .prepare("SELECT conversation_id, seq, message_index FROM reads")?
        .query_map([], |row| {
            let mark = watermark(row.get(1)?, row.get(2)?);
            Ok((row.get(0)?, mark))
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Stored {
        inbox_version,
        heads,
        last_message_ids,
        unsent,
        reads,
    })
}

fn row(connection: &Connection, conversation_id: &str) -> rusqlite::Result<Option<Conversation>> {
    let blob: Option<Vec<u8>> = connection
        .prepare_cached("SELECT conversation FROM conversations WHERE conversation_id = ?1")?
        .query_row([conversation_id], |row| row.get(0))
        .optional()?;
    Ok(blob.and_then(|blob| Conversation::decode(blob.as_slice()).ok()))
}

/// Rows, with the marks as they are by now.
fn conversations(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<Conversation>> {
    let blobs: Vec<Vec<u8>> = connection
        .prepare_cached(
            "SELECT conversation FROM conversations ORDER BY time_unix_ms DESC LIMIT ?1",
        )?
        .query_map([limit as i64], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut conversations = Vec::with_capacity(blobs.len());
    for blob in blobs {
        let Ok(mut conversation) = Conversation::decode(blob.as_slice()) else {
            continue;
        };
        let id = &conversation.conversation_id;
        let members = [&mut conversation.own_marks, &mut conversation.peer_marks];
        for member in members.into_iter().flatten() {
            if let Some(newer) = marks_of(connection, id, &member.user_id)? {
                *member = newer;
            }
        }
        conversations.push(conversation);
    }
    Ok(conversations)
}

fn marks_of(
    connection: &Connection,
    conversation_id: &str,
    user_id: &str,
) -> rusqlite::Result<Option<MemberMarks>> {
    connection
        .prepare_cached(
            "SELECT delivered_seq, delivered_index, read_seq, read_index FROM marks
             WHERE conversation_id = ?1 AND user_id = ?2",
        )?
        .query_row([conversation_id, user_id], |row| {
            Ok(MemberMarks {
                user_id: user_id.to_owned(),
                delivered: Some(watermark(row.get(0)?, row.get(1)?)),
                read: Some(watermark(row.get(2)?, row.get(3)?)),
            })
        })
        .optional()
}

fn fact(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT value FROM facts WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

fn set_fact(connection: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO facts (name, value) VALUES (?1, ?2)")?
        .execute([name, value])?;
    Ok(())
}

fn head(row: &rusqlite::Row<'_>) -> rusqlite::Result<Head> {
    Ok(Head {
        conversation_id: row.get(0)?,
        seq: from_sql(row.get(1)?),
        last_event: watermark(row.get(2)?, row.get(3)?),
    })
}

/// What [`write::mentions`] has made of them.
fn mentions(column: Option<String>) -> (Vec<String>, bool) {
    let column = column.unwrap_or_default();
    let words = column.split_whitespace();
    let user_ids = words.filter(|word| *word != write::ALL).map(str::to_owned);
    let all = column.split_whitespace().any(|word| word == write::ALL);
    (user_ids.collect(), all)
}

fn watermark(seq: i64, message_index: i64) -> Watermark {
    Watermark {
        seq: from_sql(seq),
        message_index: from_sql(message_index),
    }
}

/// SQLite has no unsigned integers; no conversation gets near 2^63 events.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;

//! The SQLite adapter: the store of the one-process form.
//!
//! A batch is one transaction, and batches that wait at the same moment share a commit (see
//! [`runtime::sqlite`]). Whatever fails leaves nothing of its batch behind. Numbers are kept as
//! SQLite's signed integers: one above `i64::MAX` is refused, never wrapped.

use std::path::Path;

use async_trait::async_trait;
use runtime::{
    ids::{ConversationId, MessageId, UserId},
    sqlite::{Database, M, Migrations, SqliteError},
};
use rusqlite::ErrorCode;

use super::{
    InboxApplied, LogIdentity, PositionAdvance, ReaderId, SeqRange, SequencedBatch, Store,
    StoreError,
};
use crate::model::{ConversationHead, ConversationState, Event, InboxChange, InboxHead, InboxRow};

mod columns;
mod conversations;
mod inboxes;
mod offline;
mod readers;

/// Messaging's store in one SQLite file. Clones share it.
#[derive(Clone)]
pub struct SqliteStore {
    database: Database,
}

impl SqliteStore {
    /// Opens or makes the file, and brings its schema up to date. Blocks for as long as that takes.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let migrations = vec![
            M::up(include_str!("../../migrations/sqlite/0001_initial.sql")),
            M::up(include_str!("../../migrations/sqlite/0002_groups.sql")),
            M::up(include_str!("../../migrations/sqlite/0003_deferred.sql")),
            M::up(include_str!("../../migrations/sqlite/0004_attachments.sql")),
            M::up(include_str!("../../migrations/sqlite/0005_offline.sql")),
        ];
        let database = Database::open(path, &Migrations::new(migrations))?;
        Ok(Self { database })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn persist(&self, batch: SequencedBatch) -> Result<(), StoreError> {
        self.database
            .write(move |tx| conversations::persist(tx, &batch))
            .await
    }

    async fn load_conversations(
        &self,
        conversations: Vec<ConversationId>,
    ) -> Result<Vec<ConversationState>, StoreError> {
        self.database
            .read(move |snapshot| conversations::load(snapshot, conversations))
            .await
    }

    async fn load_conversation_of(
        &self,
        conversation: ConversationId,
        user: UserId,
    ) -> Result<Option<ConversationState>, StoreError> {
        self.database
            .read(move |snapshot| conversations::load_of(snapshot, conversation, user))
            .await
    }

    async fn find_events(
        &self,
        names: Vec<(ConversationId, UserId, MessageId)>,
    ) -> Result<Vec<Event>, StoreError> {
        self.database
            .read(move |snapshot| conversations::find_events(snapshot, names))
            .await
    }

    async fn events(
        &self,
        conversation: ConversationId,
        range: SeqRange,
        newest_first: bool,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, StoreError> {
        self.database
            .read(move |snapshot| {
                let order = if newest_first {
                    conversations::Order::NewestFirst
                } else {
                    conversations::Order::OldestFirst
                };
                conversations::events(snapshot, conversation, range, order, limit, bytes_max)
            })
            .await
    }

    async fn seq_of_message_index(
        &self,
        conversation: ConversationId,
        message_index: u64,
    ) -> Result<Option<u64>, StoreError> {
        self.database
            .read(move |snapshot| {
                conversations::seq_of_message_index(snapshot, conversation, message_index)
            })
            .await
    }

    async fn conversation_heads(
        &self,
        conversations: Vec<ConversationId>,
        with_messages: bool,
    ) -> Result<Vec<ConversationHead>, StoreError> {
        self.database
            .read(move |snapshot| conversations::heads(snapshot, &conversations, with_messages))
            .await
    }

    async fn apply_inbox(
        &self,
        changes: Vec<(u64, InboxChange)>,
    ) -> Result<Vec<InboxApplied>, StoreError> {
        self.database
            .write(move |tx| inboxes::apply(tx, &changes))
            .await
    }

    async fn inbox_heads(&self, users: Vec<UserId>) -> Result<Vec<InboxHead>, StoreError> {
        self.database
            .read(move |snapshot| inboxes::heads(snapshot, &users))
            .await
    }

    async fn list_inbox(
        &self,
        user: UserId,
        before: Option<(i64, ConversationId)>,
        limit: usize,
    ) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
        self.database
            .read(move |snapshot| inboxes::list(snapshot, user, before, limit))
            .await
    }

    async fn inbox_changes(
        &self,
        user: UserId,
        after_version: u64,
        limit: usize,
    ) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
        self.database
            .read(move |snapshot| inboxes::changes(snapshot, user, after_version, limit))
            .await
    }

    async fn deferred_rows(
        &self,
        user: UserId,
        limit: usize,
    ) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
        self.database
            .read(move |snapshot| inboxes::deferred_rows(snapshot, user, limit))
            .await
    }

    async fn deferred_conversations(
        &self,
        users: Vec<UserId>,
        limit: usize,
    ) -> Result<Vec<(UserId, ConversationId)>, StoreError> {
        self.database
            .read(move |snapshot| inboxes::deferred_conversations(snapshot, &users, limit))
            .await
    }

    async fn inbox_rows(
        &self,
        asked: Vec<(UserId, ConversationId)>,
    ) -> Result<Vec<(InboxHead, Option<InboxRow>)>, StoreError> {
        self.database
            .read(move |snapshot| inboxes::rows(snapshot, &asked))
            .await
    }

    async fn inbox_row(
        &self,
        user: UserId,
        conversation: ConversationId,
    ) -> Result<Option<InboxRow>, StoreError> {
        self.database
            .read(move |snapshot| inboxes::row(snapshot, user, conversation))
            .await
    }

    async fn note_offline(
        &self,
        rows: Vec<(UserId, ConversationId, u64)>,
    ) -> Result<(), StoreError> {
        self.database
            .write(move |tx| offline::note(tx, &rows))
            .await
    }

    async fn offline_seqs(
        &self,
        rows: Vec<(UserId, ConversationId)>,
    ) -> Result<Vec<u64>, StoreError> {
        self.database
            .read(move |snapshot| offline::seqs(snapshot, &rows))
            .await
    }

    async fn forget_offline(
        &self,
        rows: Vec<(UserId, ConversationId, u64)>,
    ) -> Result<(), StoreError> {
        self.database
            .write(move |tx| offline::forget(tx, &rows))
            .await
    }

    async fn open_reader(&self, reader: ReaderId, log: LogIdentity) -> Result<u64, StoreError> {
        self.database
            .write(move |tx| readers::open(tx, &reader, &log))
            .await
    }

    async fn save_position(&self, advance: PositionAdvance) -> Result<(), StoreError> {
        self.database
            .write(move |tx| readers::save_position(tx, &advance))
            .await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        Ok(self.database.sync().await?)
    }
}

impl From<SqliteError> for StoreError {
    fn from(error: SqliteError) -> Self {
        match error {
            SqliteError::Sqlite(error) => error.into(),
            SqliteError::Migration {
                source: rusqlite_migration::Error::RusqliteError { err, .. },
                ..
            } => err.into(),
            // A schema that is newer than this program.
            SqliteError::Migration { .. } => Self::Corrupt(error.to_string()),
            SqliteError::Busy | SqliteError::Closed => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        // What a retry cannot mend: a damaged file, a value of another type than the column's.
        let lasting = match error.sqlite_error_code() {
            Some(code) => matches!(
                code,
                ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::ConstraintViolation
                    | ErrorCode::TypeMismatch
                    | ErrorCode::TooBig
            ),
            None => true,
        };
        if lasting {
            Self::Corrupt(error.to_string())
        } else {
            Self::Unavailable(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests;

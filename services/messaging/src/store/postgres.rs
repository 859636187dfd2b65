//! The PostgreSQL adapter: the store of the distributed form.
//!
//! **Two writers.** A partition has one reader, but the one before may not know yet that it is not
//! the one any more, and a statement that was given up may still be carried out, later than its
//! repetition. So every write here may meet itself, and older ones, at any time, under READ
//! COMMITTED:
//!
//! - `conversations`: a batch is one statement. It first takes the rows of its conversations, in
//!   the order of their ids, changed or not: they are its locks, always taken in that order, so
//!   that no two batches wait for each other. Values are merged with what is there *then*, not with
//!   what the statement's snapshot shows (`ON CONFLICT DO UPDATE` sees the latest version). An
//!   event that differs from what is there ends the statement, with all that it has done.
//! - `inboxes`: rows are read, merged in memory, and written if the version of the user's inbox
//!   is still the one that was read, all rows of a user or none; otherwise they are read again.
//! - `readers`: positions only rise; the one that was saved last is compared in the same statement.
//!
//! Every statement is a transaction of its own: none is ever open while a client thinks, or is
//! stopped, and a batch waits for one round trip (two, for inboxes).
//!
//! **Reads** use the same pool, of the primary: a standby is behind, and an acknowledged message
//! could be missing there (I7). Lists and their head come from one statement, hence from one
//! snapshot.
//!
//! **Plans.** A connection soon keeps one plan for a statement, perhaps from when the tables were
//! empty and reading all of them was cheapest. Therefore look-ups of many keys are written so that
//! the planner can only do them one by one, through an index: `OFFSET 0` keeps a subquery from
//! being made into a join.
//!
//! Numbers are kept as signed integers: one above `i64::MAX` is refused, never wrapped.

use async_trait::async_trait;
use runtime::{
    ids::{ConversationId, MessageId, UserId},
    postgres::{Database, Failure, Migrator, OpenError, PostgresConfig, PostgresError},
};

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

static MIGRATOR: Migrator = sqlx::migrate!("migrations/postgres");

/// Messaging's store in a PostgreSQL database. Clones share it.
#[derive(Clone)]
pub struct PostgresStore {
    database: Database,
}

impl PostgresStore {
    /// Connects, and brings the schema up to date: one of several replicas that start together
    /// does, the others wait.
    pub async fn open(config: &PostgresConfig) -> Result<Self, OpenError> {
        let database = Database::connect(config).await?;
        database.migrate(&MIGRATOR).await?;
        Ok(Self { database })
    }

    /// The database, for its health.
    pub const fn database(&self) -> &Database {
        &self.database
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn persist(&self, batch: SequencedBatch) -> Result<(), StoreError> {
        conversations::persist(&self.database, &batch).await
    }

    async fn load_conversations(
        &self,
        conversations: Vec<ConversationId>,
    ) -> Result<Vec<ConversationState>, StoreError> {
        conversations::load(&self.database, &conversations).await
    }

    async fn load_conversation_of(
        &self,
        conversation: ConversationId,
        user: UserId,
    ) -> Result<Option<ConversationState>, StoreError> {
        conversations::load_of(&self.database, conversation, user).await
    }

    async fn find_events(
        &self,
        names: Vec<(ConversationId, UserId, MessageId)>,
    ) -> Result<Vec<Event>, StoreError> {
        conversations::find_events(&self.database, &names).await
    }

    async fn events(
        &self,
        conversation: ConversationId,
        range: SeqRange,
        newest_first: bool,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let order = if newest_first {
            conversations::Order::NewestFirst
        } else {
            conversations::Order::OldestFirst
        };
        conversations::events(&self.database, conversation, range, order, limit, bytes_max).await
    }

    async fn seq_of_message_index(
        &self,
        conversation: ConversationId,
        message_index: u64,
    ) -> Result<Option<u64>, StoreError> {
        conversations::seq_of_message_index(&self.database, conversation, message_index).await
    }

    async fn conversation_heads(
        &self,
        conversations: Vec<ConversationId>,
        with_messages: bool,
    ) -> Result<Vec<ConversationHead>, StoreError> {
        conversations::heads(&self.database, &conversations, with_messages).await
    }

    async fn apply_inbox(
        &self,
        changes: Vec<(u64, InboxChange)>,
    ) -> Result<Vec<InboxApplied>, StoreError> {
        inboxes::apply(&self.database, &changes).await
    }

    async fn inbox_heads(&self, users: Vec<UserId>) -> Result<Vec<InboxHead>, StoreError> {
        inboxes::heads(&self.database, &users).await
    }

    async fn list_inbox(
        &self,
        user: UserId,
        before: Option<(i64, ConversationId)>,
        limit: usize,
    ) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
        inboxes::list(&self.database, user, before, limit).await
    }

    async fn inbox_changes(
        &self,
        user: UserId,
        after_version: u64,
        limit: usize,
    ) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
        inboxes::changes(&self.database, user, after_version, limit).await
    }

    async fn deferred_rows(
        &self,
        user: UserId,
        limit: usize,
    ) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
        inboxes::deferred_rows(&self.database, user, limit).await
    }

    async fn deferred_conversations(
        &self,
        users: Vec<UserId>,
        limit: usize,
    ) -> Result<Vec<(UserId, ConversationId)>, StoreError> {
        inboxes::deferred_conversations(&self.database, &users, limit).await
    }

    async fn inbox_rows(
        &self,
        asked: Vec<(UserId, ConversationId)>,
    ) -> Result<Vec<(InboxHead, Option<InboxRow>)>, StoreError> {
        inboxes::rows(&self.database, &asked).await
    }

    async fn inbox_row(
        &self,
        user: UserId,
        conversation: ConversationId,
    ) -> Result<Option<InboxRow>, StoreError> {
        inboxes::row(&self.database, user, conversation).await
    }

    async fn note_offline(
        &self,
        rows: Vec<(UserId, ConversationId, u64)>,
    ) -> Result<(), StoreError> {
        offline::note(&self.database, &rows).await
    }

    async fn offline_seqs(
        &self,
        rows: Vec<(UserId, ConversationId)>,
    ) -> Result<Vec<u64>, StoreError> {
        offline::seqs(&self.database, &rows).await
    }

    async fn forget_offline(
        &self,
        rows: Vec<(UserId, ConversationId, u64)>,
    ) -> Result<(), StoreError> {
        offline::forget(&self.database, &rows).await
    }

    async fn open_reader(&self, reader: ReaderId, log: LogIdentity) -> Result<u64, StoreError> {
        readers::open(&self.database, &reader, &log).await
    }

    async fn save_position(&self, advance: PositionAdvance) -> Result<(), StoreError> {
        readers::save_position(&self.database, &advance).await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        // Nothing is left to do: our connections have `synchronous_commit` on, so that whatever was
        // answered is on the server's disk (and on that of a synchronous standby, if there is one).
        Ok(())
    }
}

impl From<PostgresError> for StoreError {
    fn from(error: PostgresError) -> Self {
        if let Some(refused) = conversations::refused(&error) {
            return refused;
        }
        match error.failure() {
            Failure::Unavailable | Failure::Conflict => Self::Unavailable(error.to_string()),
            // No statement here leaves the decision about a key to its caller.
            Failure::Unique | Failure::Lasting => Self::Corrupt(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;

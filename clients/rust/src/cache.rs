//! A durable cache: what a session keeps across restarts of the app.
//!
//! With a cache, what is stored counts as seen: an [`crate::Event`] is handed out after the batch
//! that contains it was applied, and is not handed out again after a restart. An app with a cache
//! shows its screens from the cache ([`crate::Session::history`], [`Cache::conversations`]) and takes
//! events as the news.

use async_trait::async_trait;

use crate::{
    error::Result,
    inbox::Known,
    model::{Conversation, Draft, GroupChange, MemberMarks, Message, Watermark},
};

#[cfg(feature = "cache")]
mod sqlite;

#[cfg(feature = "cache")]
pub use sqlite::SqliteCache;

/// How far a device holds a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// The conversation.
    pub conversation_id: String,
    /// Every event up to this seq is held, or is gone.
    pub seq: u64,
    /// The last event that is held.
    pub last_event: Watermark,
}

impl From<Head> for Known {
    fn from(head: Head) -> Self {
        Self {
            conversation_id: head.conversation_id,
            seq: head.seq,
            last_event: head.last_event,
        }
    }
}

impl From<Known> for Head {
    fn from(known: Known) -> Self {
        Self {
            conversation_id: known.conversation_id,
            seq: known.seq,
            last_event: known.last_event,
        }
    }
}

/// A message that is not known to be in its conversation yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsent {
    /// Where it goes.
    pub conversation_id: String,
    /// Its name, the same in every try.
    pub message_id: String,
    /// What it says, what it has attached, and whom it mentions.
    pub draft: Draft,
}

/// What a cache holds when a session starts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stored {
    /// The inbox version that the rest is complete up to; `None` in a new cache.
    pub inbox_version: Option<u64>,
    /// The heads, most recently changed first, up to the limit asked for.
    pub heads: Vec<Head>,
    /// The last name that this device gave a message, by conversation; the most recent ones.
    pub last_message_ids: Vec<(String, String)>,
    /// In the order in which they were queued.
    pub unsent: Vec<Unsent>,
    /// Own read marks that the server has not confirmed.
    pub reads: Vec<(String, Watermark)>,
}

/// Changes that belong together: a cache holds all of them afterwards, or none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Messages of the server, ascending by seq within a conversation.
    pub messages: Vec<Message>,
    /// Changes of groups, ascending by seq within a conversation.
    pub group_changes: Vec<GroupChange>,
    /// New heads; each replaces the one of its conversation.
    pub heads: Vec<Head>,
    /// New rows; each replaces the one of its conversation.
    pub conversations: Vec<Conversation>,
    /// Marks of members of conversations; they only grow.
    pub marks: Vec<(String, MemberMarks)>,
    /// Everything up to this inbox version is in this batch and those before it.
    pub inbox_version: Option<u64>,
    /// Messages that were queued, in this order.
    pub queued: Vec<Unsent>,
    /// `(conversation_id, message_id)` of messages that are unsent no longer: sent, or refused.
    pub resolved: Vec<(String, String)>,
    /// Own read marks to be told to the server; they only grow.
    pub reads: Vec<(String, Watermark)>,
    /// Own read marks that the server has: those up to here need not be told any more.
    pub reads_confirmed: Vec<(String, Watermark)>,
}

impl Batch {
    /// Whether there is nothing to be applied.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A place for what must survive a restart of the app: [`SqliteCache`], or one of the app's own.
///
/// A cache is of one user. The session calls one method at a time, and waits for it.
#[async_trait]
pub trait Cache: Send + Sync + 'static {
    /// What is held for this user, with at most `heads_max` heads. A cache of another user is refused
    /// with [`crate::Error::Storage`].
    async fn load(&self, user_id: &str, heads_max: usize) -> Result<Stored>;

    /// The heads of these conversations; those without one are left out.
    async fn heads(&self, conversation_ids: &[String]) -> Result<Vec<Head>>;

    /// Makes the changes, atomically. Must survive the end of the program when it returns.
    async fn apply(&self, batch: Batch) -> Result<()>;

    /// The newest messages of a conversation with a message_index below `before_message_index`
    /// (0 = no bound), newest first.
    async fn messages(
        &self,
        conversation_id: &str,
        before_message_index: u64,
        limit: usize,
    ) -> Result<Vec<Message>>;

    /// The newest changes of a group with a seq below `before_seq` (0 = no bound), newest first.
    async fn group_changes(
        &self,
        conversation_id: &str,
        before_seq: u64,
        limit: usize,
    ) -> Result<Vec<GroupChange>>;

    /// The rows of the conversations with the newest messages, most recent first.
    async fn conversations(&self, limit: usize) -> Result<Vec<Conversation>>;
}

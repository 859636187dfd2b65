//! What messaging keeps: events, the state of conversations, inbox rows, and readers' positions.
//!
//! Nothing here needs a transaction across conversations or users: every adapter can keep the contract,
//! a wide-column one too. What must hold is the order in which things become visible, stated at each
//! method. Every adapter passes [`suite`].

use async_trait::async_trait;
use runtime::ids::{ConversationId, MessageId, UserId};

use crate::model::{ConversationHead, ConversationState, Event, InboxChange, InboxHead, InboxRow};

mod membership;
#[cfg(feature = "distributed")]
pub mod postgres;
pub mod sqlite;
pub mod suite;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is away or overloaded; the same call may work later. Nothing that the method does
    /// not allow to be visible is. A write may have taken effect all the same, or may still, even
    /// after a repetition of it: by its contract, that changes nothing.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// An event is already there and differs: two readers of one log disagree (I2). Never goes away.
    #[error("event {seq} of {conversation} is already there and differs")]
    EventDiffers {
        /// Of which conversation.
        conversation: ConversationId,
        /// Its place.
        seq: u64,
    },
    /// The stored head is below the one that the batch was built on: another owner was here, or the
    /// store was restored. The partition must start again from the stored position.
    #[error("the stored head of {conversation} is below the batch's")]
    HeadBelowBase {
        /// Of which conversation.
        conversation: ConversationId,
    },
    /// The store follows another log than the reader. Never goes away.
    #[error("the store follows another log: it has {stored}, the log is {actual}")]
    OtherLog {
        /// What the store recorded first.
        stored: String,
        /// What the reader reads.
        actual: String,
    },
    /// The stored position of a reader is below what it has saved before: the store went back, to a
    /// replica that lacked the end or to a copy. The reader must start again from the stored position.
    #[error("the store has a position below the one that was saved")]
    PositionBelowSaved,
    /// Something in the store cannot be understood. Never goes away.
    #[error("the store holds something that cannot be read: {0}")]
    Corrupt(String),
}

/// A reader of one partition, whose position the store keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderId {
    /// The role, such as `sequencer` or `inbox`.
    pub reader: &'static str,
    /// The topic's name.
    pub topic: &'static str,
    /// The partition.
    pub partition: u32,
}

/// The log that a reader follows, as one comparable text each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIdentity {
    /// See `event_log::TopicIdentity`.
    pub log_id: String,
    /// See `event_log::TopicIdentity`.
    pub topic_id: String,
    /// See `event_log::TopicIdentity`.
    pub partitions: u32,
}

/// What one batch of a sequencer's partition changes.
#[derive(Debug, Clone)]
pub struct SequencedBatch {
    /// New events, ascending by seq within each conversation. May contain events that are already
    /// there (a replay).
    pub events: Vec<Event>,
    /// The state after the batch of each conversation that it touched, once each.
    pub conversations: Vec<ConversationUpdate>,
}

/// How far a reader has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionAdvance {
    /// Which.
    pub reader: ReaderId,
    /// What the store answered, or was told, last.
    pub from: u64,
    /// Everything below is durable.
    pub to: u64,
}

/// The new state of one conversation.
#[derive(Debug, Clone)]
pub struct ConversationUpdate {
    /// After the batch; `members` are those that the batch changed, in the order of their ids, since a
    /// group has many.
    pub state: ConversationState,
    /// The head that the batch was built on: the stored head must be at least this.
    pub base_head_seq: u64,
}

/// What one batch of an inbox reader's partition did to one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxApplied {
    /// Whose inbox.
    pub user: UserId,
    /// The version before the batch.
    pub previous_version: u64,
    /// The version after it.
    pub version: u64,
    /// The rows that changed, as they are now; each once.
    pub rows: Vec<InboxRow>,
}

/// A stretch of events of one conversation, exclusive on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqRange {
    /// Events above this seq.
    pub after_seq: u64,
    /// Events below this seq; `u64::MAX` = to the last.
    pub before_seq: u64,
}

/// The store of messaging.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // --- conversations: events and state -----------------------------------------------------------

    /// Inserts the events that are absent and raises heads, `applied_end`, id watermarks and marks to
    /// the larger value, memberships and the group's state to those of the larger version (at the same
    /// version, what is stored stays); never lowers anything, and leaves members that the update does not
    /// name as they are. Costs what was changed. Per conversation, events become visible before or with
    /// the head. Fails with `EventDiffers` if an event that is there differs in any field, with
    /// `HeadBelowBase` if a stored head (0 if there is no row) is below `base_head_seq`; then nothing of
    /// the batch's failing conversation is visible that contradicts the log.
    async fn persist(&self, batch: SequencedBatch) -> Result<(), StoreError>;

    /// The states of some conversations, in any order; those without a row are left out. One query.
    async fn load_conversations(
        &self,
        conversations: Vec<ConversationId>,
    ) -> Result<Vec<ConversationState>, StoreError>;

    /// The state of one conversation with at most one member, this user, as far as the conversation
    /// knows him. Costs the same whatever the number of members.
    async fn load_conversation_of(
        &self,
        conversation: ConversationId,
        user: UserId,
    ) -> Result<Option<ConversationState>, StoreError>;

    /// The events with these names, at most one each: the one with the lowest seq. One query.
    async fn find_events(
        &self,
        names: Vec<(ConversationId, UserId, MessageId)>,
    ) -> Result<Vec<Event>, StoreError>;

    /// Events of the range in ascending order (descending if `newest_first`), at most `limit`, and
    /// at most `bytes_max` bytes of bodies but at least one if there is any.
    async fn events(
        &self,
        conversation: ConversationId,
        range: SeqRange,
        newest_first: bool,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, StoreError>;

    /// The smallest seq whose event has at least this message index (indexes do not decrease with
    /// seq); `None` if there is none. Costs a logarithmic number of row reads, not a scan.
    async fn seq_of_message_index(
        &self,
        conversation: ConversationId,
        message_index: u64,
    ) -> Result<Option<u64>, StoreError>;

    /// Where some conversations end, in any order, and with `with_messages` their newest messages; those
    /// without a row are left out. One query; a message costs a logarithmic number of row reads.
    async fn conversation_heads(
        &self,
        conversations: Vec<ConversationId>,
        with_messages: bool,
    ) -> Result<Vec<ConversationHead>, StoreError>;

    // --- inboxes -------------------------------------------------------------------------------------

    /// Merges changes into rows, in the order given; `version` is the one that each change gives to a
    /// row that it does change (growing within a user; a row's version never falls). A change at or
    /// below the version that its user's inbox is already at was applied before and does nothing
    /// (I5). Answers what became of each user with an effective change.
    async fn apply_inbox(
        &self,
        changes: Vec<(u64, InboxChange)>,
    ) -> Result<Vec<InboxApplied>, StoreError>;

    /// The heads of some inboxes, in the order asked; zero for users without one. One query.
    async fn inbox_heads(&self, users: Vec<UserId>) -> Result<Vec<InboxHead>, StoreError>;

    /// Rows with a message, the newest message first: by (time of preview, conversation) descending,
    /// strictly below `before` if given. Costs what the page has.
    async fn list_inbox(
        &self,
        user: UserId,
        before: Option<(i64, ConversationId)>,
        limit: usize,
    ) -> Result<(InboxHead, Vec<InboxRow>), StoreError>;

    /// Rows with a version above `after_version`, ascending by version. Costs what the page has.
    async fn inbox_changes(
        &self,
        user: UserId,
        after_version: u64,
        limit: usize,
    ) -> Result<(InboxHead, Vec<InboxRow>), StoreError>;

    /// The rows of a user that are deferred ([`InboxRow::is_deferred`]), those deferred for longest first,
    /// at most `limit`. Costs what it answers.
    async fn deferred_rows(
        &self,
        user: UserId,
        limit: usize,
    ) -> Result<(InboxHead, Vec<InboxRow>), StoreError>;

    /// The conversations of the same rows of some users, at most `limit` of each, in any order. One query;
    /// a user without any costs a look-up.
    async fn deferred_conversations(
        &self,
        users: Vec<UserId>,
        limit: usize,
    ) -> Result<Vec<(UserId, ConversationId)>, StoreError>;

    /// Some rows, each with the head of its user's inbox, in the order asked; without a row, `None`. A head
    /// and its row are of one moment. One query.
    async fn inbox_rows(
        &self,
        asked: Vec<(UserId, ConversationId)>,
    ) -> Result<Vec<(InboxHead, Option<InboxRow>)>, StoreError>;

    /// One row.
    async fn inbox_row(
        &self,
        user: UserId,
        conversation: ConversationId,
    ) -> Result<Option<InboxRow>, StoreError>;

    // --- users who are told of what they have not received -----------------------------------------

    /// A record of `offline` was made for these rows, up to this seq. Never lowers anything.
    async fn note_offline(
        &self,
        rows: Vec<(UserId, ConversationId, u64)>,
    ) -> Result<(), StoreError>;

    /// Up to which seq records of `offline` were made for rows, in the order asked; 0 = there was none, or
    /// it was forgotten. One query.
    async fn offline_seqs(
        &self,
        rows: Vec<(UserId, ConversationId)>,
    ) -> Result<Vec<u64>, StoreError>;

    /// These rows were read up to this seq, and whoever was told of them knows it: forgets what was noted
    /// up to it.
    async fn forget_offline(
        &self,
        rows: Vec<(UserId, ConversationId, u64)>,
    ) -> Result<(), StoreError>;

    // --- positions -----------------------------------------------------------------------------------

    /// Claims the reader for this log and answers its position: the offset of the first record whose
    /// outputs are not known to be durable; 0 at first. Records the log's identity on the first
    /// call; fails with `OtherLog` if it is not the recorded one.
    async fn open_reader(&self, reader: ReaderId, log: LogIdentity) -> Result<u64, StoreError>;

    /// Raises the position of a reader that was opened (never lowers it). Call it only when everything
    /// below is durable (I6). Fails with `PositionBelowSaved` if the stored position is below `from`, and
    /// then changes nothing: what was durable is not any more. A position that is not stored is 0.
    async fn save_position(&self, advance: PositionAdvance) -> Result<(), StoreError>;

    /// Makes everything answered before survive a loss of power, and answers then. Before it, a
    /// position must not be handed to the log as a reason to delete records.
    async fn sync(&self) -> Result<(), StoreError>;
}

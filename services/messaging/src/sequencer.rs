//! The sequencer: one reader per partition of `messages`, which gives every event its place.
//!
//! `core` decides and does no I/O; `partition` drives it; this file finds the partitions that this
//! node is to read, and lets readers of history look into them.

use std::sync::{Arc, OnceLock};

use event_log::{EventLog, LogError, PartitionReader, Topic};
use parking_lot::Mutex;
use runtime::{
    ids::{ConversationId, UserId},
    shutdown::Tasks,
};
use tokio::sync::watch;

use self::{
    core::View,
    partition::{Context, Owned, Stopped},
};
use crate::{
    model::{ConversationState, Event, Watermark},
    readers::for_each_partition,
};

mod barriers;
mod cache;
pub(crate) mod core;
mod derived;
mod io;
pub(crate) mod partition;
mod position;
mod slot;

#[cfg(test)]
mod tests;

/// The name of the group that sequences.
pub const SEQUENCER_GROUP: &str = "sequencer";

/// The partitions that this node sequences.
pub(crate) struct Sequencers {
    context: Context,
    partitions: Vec<Mutex<Option<Arc<Owned>>>>,
    /// Why the first partition stopped that did so because going on would break a promise.
    broken: OnceLock<String>,
}

impl Sequencers {
    /// None yet.
    pub(crate) fn new(context: Context) -> Arc<Self> {
        let count = context.log.identity(Topic::Messages).partitions;
        let partitions = (0..count).map(|_| Mutex::new(None)).collect();
        Arc::new(Self {
            context,
            partitions,
            broken: OnceLock::new(),
        })
    }

    /// Joins the group and sequences what is assigned, until the tasks are stopped.
    pub(crate) async fn start(self: &Arc<Self>, tasks: &Tasks) -> Result<(), LogError> {
        check_partitions(self.context.log.as_ref())?;
        let (this, log) = (self.clone(), self.context.log.clone());
        let read = move |reader| this.clone().sequence(reader);
        for_each_partition(&log, SEQUENCER_GROUP, Topic::Messages, tasks, read).await
    }

    async fn sequence(self: Arc<Self>, reader: Box<dyn PartitionReader>) {
        let partition = reader.partition();
        let Some(place) = usize::try_from(partition)
            .ok()
            .and_then(|at| self.partitions.get(at))
        else {
            return;
        };
        let owned = Arc::new(Owned::new());
        *place.lock() = Some(owned.clone());
        let stopped = partition::run(self.context.clone(), owned.clone(), reader).await;
        if place
            .lock()
            .take_if(|now| Arc::ptr_eq(now, &owned))
            .is_none()
        {
            tracing::debug!(partition, "the partition came back before it was given up");
        }
        if let Stopped::Broken(why) = &stopped {
            tracing::error!(partition, why, "the partition has stopped");
            let _ = self.broken.set(why.clone());
        }
    }

    /// Why a partition has stopped, if going on would break a promise.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    fn owned(&self, conversation: &ConversationId) -> Option<Arc<Owned>> {
        let log = &self.context.log;
        let partition = log.partition_of(Topic::Messages, conversation.as_bytes());
        self.partitions
            .get(usize::try_from(partition).ok()?)?
            .lock()
            .clone()
    }

    /// Whether this node, if it has the conversation's partition, has applied all that was in the log
    /// when it took it over.
    pub(crate) fn is_caught_up(&self, conversation: &ConversationId) -> bool {
        self.owned(conversation)
            .is_none_or(|owned| owned.is_caught_up())
    }

    /// Whether this node has all partitions, and is caught up with each.
    pub(crate) fn all_caught_up(&self) -> bool {
        let is_caught_up = |owned: &Mutex<Option<Arc<Owned>>>| {
            owned
                .lock()
                .as_ref()
                .is_some_and(|owned| owned.is_caught_up())
        };
        self.partitions.iter().all(is_caught_up)
    }

    /// What this node's memory knows of a conversation, for a user who reads it.
    pub(crate) fn view(&self, conversation: &ConversationId, user: UserId) -> Option<View> {
        let owned = self.owned(conversation)?;
        owned.core.lock().view(conversation, user)
    }

    /// The end of a conversation, if this node's memory knows it.
    pub(crate) fn head(&self, conversation: &ConversationId) -> Option<Watermark> {
        let owned = self.owned(conversation)?;
        owned
            .core
            .lock()
            .state(conversation)
            .map(ConversationState::head)
    }

    /// The same, and its newest message if it is among the last events.
    pub(crate) fn newest(
        &self,
        conversation: &ConversationId,
    ) -> Option<(Watermark, Option<Arc<Event>>)> {
        let owned = self.owned(conversation)?;
        owned.core.lock().newest(conversation)
    }

    /// All that this node's memory knows of a conversation and its members.
    pub(crate) fn state(&self, conversation: &ConversationId) -> Option<ConversationState> {
        let owned = self.owned(conversation)?;
        owned.core.lock().state(conversation).cloned()
    }

    /// Tells when the partition of a conversation has gone on; `None` if another node has it.
    pub(crate) fn progress(&self, conversation: &ConversationId) -> Option<watch::Receiver<u64>> {
        Some(self.owned(conversation)?.progress.subscribe())
    }
}

/// A barrier goes from each partition of `messages` into that of `references` with the same number, so
/// there must be one.
fn check_partitions(log: &dyn EventLog) -> Result<(), LogError> {
    let partitions = |topic| log.identity(topic).partitions;
    let (messages, references) = (partitions(Topic::Messages), partitions(Topic::References));
    if messages == references {
        return Ok(());
    }
    Err(LogError::Failed(format!(
        "the topic messages has {messages} partitions and references has {references}: \
         they must have as many"
    )))
}

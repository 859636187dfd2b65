//! One conversation in the memory of its partition.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use runtime::ids::{ConversationId, MessageId, UserId};

use crate::{
    codec::{Action, Send},
    limits::TAIL_EVENTS_MAX,
    model::{ConversationState, Event},
};

/// A record that waits, or is being applied.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) offset: u64,
    pub(super) time_unix_ms: i64,
    pub(super) action: Action,
    /// Of the request that it came from.
    pub(super) trace: Option<Bytes>,
}

/// What a conversation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Nothing: its records are applied at once.
    Nothing,
    /// Its state.
    Load,
    /// Events by their names.
    Find,
}

/// A conversation: its state, its newest events, and the records that wait for something.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: ConversationState,
    pub(super) waiting: Waiting,
    pub(super) queue: VecDeque<Pending>,
    /// The newest events, without a gap, up to the head.
    pub(super) tail: VecDeque<Arc<Event>>,
    /// Events up to here are in the store.
    pub(super) persisted_seq: u64,
    /// What the store answered for names in the queue.
    pub(super) found: HashMap<(UserId, MessageId), Option<Arc<Event>>>,
    /// Part of the next batch, or of the one under way.
    pub(super) unsaved: u8,
    /// Members of a group who have a role.
    pub(super) member_count: usize,
    /// What the cache counts it as.
    pub(super) weight: usize,
}

impl Slot {
    /// A conversation whose state is not known yet.
    pub(super) fn new(conversation: ConversationId) -> Self {
        Self {
            state: ConversationState::new(conversation),
            waiting: Waiting::Load,
            queue: VecDeque::new(),
            tail: VecDeque::new(),
            persisted_seq: 0,
            found: HashMap::new(),
            unsaved: 0,
            member_count: 0,
            weight: 0,
        }
    }

    /// The store has all that this conversation is, so it may be forgotten.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting == Waiting::Nothing && self.unsaved == 0
    }

    /// Takes over what the store has.
    pub(super) fn load(&mut self, state: ConversationState) {
        self.persisted_seq = state.head_seq;
        let members = state.members.iter();
        self.member_count = members.filter(|member| member.role().is_some()).count();
        self.state = state;
        self.waiting = Waiting::Nothing;
    }

    /// Appends an event that was just sequenced.
    pub(super) fn push(&mut self, event: Arc<Event>) {
        self.tail.push_back(event);
        self.trim();
    }

    /// The store has the events up to `seq`.
    pub(super) fn persisted(&mut self, seq: u64) {
        self.persisted_seq = self.persisted_seq.max(seq);
        self.trim();
    }

    fn trim(&mut self) {
        while self.tail.len() > TAIL_EVENTS_MAX
            && self
                .tail
                .front()
                .is_some_and(|event| event.seq <= self.persisted_seq)
        {
            self.tail.pop_front();
        }
    }

    /// Whether this message id was never seen from this member: it is above all that were.
    pub(super) fn is_new(&self, send: &Send) -> bool {
        let max = self
            .state
            .member(send.sender)
            .and_then(|member| member.message_id_max);
        max.is_none_or(|max| send.message_id > max)
    }

    /// The event of this name, if the memory has it.
    pub(super) fn find_in_tail(
        &self,
        sender: UserId,
        message_id: MessageId,
    ) -> Option<&Arc<Event>> {
        self.tail
            .iter()
            .find(|event| event.message_id == message_id && event.sender == sender)
    }

    /// The event of this name: `Err` if the store must be asked.
    pub(super) fn find(
        &self,
        sender: UserId,
        message_id: MessageId,
    ) -> Result<Option<Arc<Event>>, ()> {
        if let Some(event) = self.find_in_tail(sender, message_id) {
            return Ok(Some(event.clone()));
        }
        self.found.get(&(sender, message_id)).cloned().ok_or(())
    }

    /// The names in the queue that the store must be asked for before their records can be applied.
    pub(super) fn names_to_find(&self, max: usize) -> Vec<(UserId, MessageId)> {
        // Each once: a retry may wait behind the message that it repeats.
        let mut names = HashSet::new();
        for pending in &self.queue {
            let replay = pending.offset < self.state.applied_end;
            let (sender, message_id) = match &pending.action {
                Action::Send(send) if replay || !self.is_new(send) => {
                    (send.sender, send.message_id)
                }
                // Whether it was carried out is known by its event alone.
                Action::GroupChange(change) if replay => change.name(),
                _ => continue,
            };
            if self.find_in_tail(sender, message_id).is_none() {
                names.insert((sender, message_id));
                if names.len() == max {
                    break;
                }
            }
        }
        names.into_iter().collect()
    }
}

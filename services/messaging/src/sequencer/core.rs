//! The sequencer of one partition, without I/O: records in, verdicts, pushes and batches out.
//!
//! What becomes of a record depends on the records before it and on nothing else (I2): not on the
//! clock, not on what happens to be in memory, not on who else reads. Memory and store only decide
//! whether a conversation must wait for a load or a look-up; then it waits, and not its partition.
//! The driver in `partition.rs` does what this asks for; the property test drives it through every
//! interleaving of crashes and replays.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use delivery::{Answer, Broadcast};
use event_log::{Record, Topic};
use runtime::{
    ids::{ConversationId, MessageId, UserId},
    trace,
};

use super::{
    barriers::Barrier,
    cache::Cache,
    slot::{Pending, Slot, Waiting},
};
use crate::{
    codec::{self, Action, MessagesRecord, RecordError},
    limits::{CONVERSATIONS_CACHED_MAX, LOOKUPS_MAX, MEMBERS_CACHED_MAX, UNPERSISTED_MAX},
    model::{ConversationState, Event, EventKind, InboxChange, MemberState, Watermark},
    store::SequencedBatch,
};

mod groups;
mod marks;
mod references;
mod rows;
mod sends;

/// Something for others. What is for live sessions is tried once and never awaited (I6).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    /// A verdict, for the edge that waits for it.
    Answer {
        /// The edge's address.
        edge: String,
        /// The verdict.
        answer: Answer,
    },
    /// A frame for all sessions of some users.
    Push(Broadcast),
    /// A record of another topic. The position passes only once it is durable (I6).
    Derived(Derived),
    /// To be passed on once the position has got to it.
    Barrier(Barrier),
}

/// A record that is to be appended: of `fanout`, for the members of a group, or of `references`, for the
/// blob service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Derived {
    /// Where it is to be appended.
    pub(crate) topic: Topic,
    /// Where the record is that it comes of: each has one of a topic at most.
    pub(crate) offset: u64,
    /// The key.
    pub(crate) conversation: ConversationId,
    /// An encoded record of the topic.
    pub(crate) payload: Bytes,
    /// Of the request that it comes of.
    pub(crate) trace: Option<Bytes>,
}

/// The name of a message.
pub(crate) type Name = (ConversationId, UserId, MessageId);

/// What is to be made durable before the position may move.
#[derive(Debug)]
pub(crate) struct Batch {
    /// For the store.
    pub(crate) sequenced: SequencedBatch,
    /// For the topic `inbox`, after the store; with the trace of the newest message.
    pub(crate) inbox: Vec<(InboxChange, Option<Bytes>)>,
    /// The position once both are durable.
    pub(crate) covers: u64,
}

/// A record that this program is too old for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewerRecord {
    /// Its place.
    pub(crate) offset: u64,
    /// Its schema version.
    pub(crate) version: u32,
}

/// What memory knows of a conversation, for readers.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The last event.
    pub(crate) head: Watermark,
    /// The newest events, ascending, without a gap up to the head; all that the store may lack.
    pub(crate) events: Vec<Arc<Event>>,
    /// Of the user who reads.
    pub(crate) member: Option<MemberState>,
}

/// The state of one partition.
pub(crate) struct Core {
    cache: Cache,
    io: Io,
}

/// What was changed since the last batch.
#[derive(Debug, Default)]
struct Touched {
    base_head_seq: u64,
    message: Option<Arc<Event>>,
    trace: Option<Bytes>,
    /// Members whose states are to be stored. A group has many, so the others are left out.
    members: BTreeSet<UserId>,
    /// The rows of both members of a direct conversation are to be published.
    inbox: bool,
    /// Members of a group whose rows are to show how far they have got themselves.
    own_marks: BTreeSet<UserId>,
}

/// Everything of a partition but its conversations.
struct Io {
    next_offset: u64,
    waiting: BTreeSet<u64>,
    to_load: Vec<ConversationId>,
    to_find: Vec<Name>,
    outputs: Vec<Output>,
    events: Vec<Arc<Event>>,
    touched: HashMap<ConversationId, Touched>,
    in_flight: Vec<(ConversationId, u64)>,
    in_flight_events: usize,
    malformed: u64,
}

impl Core {
    /// A partition whose outputs below `position` are durable.
    pub(crate) fn new(position: u64) -> Self {
        Self::with_cache(position, CONVERSATIONS_CACHED_MAX, MEMBERS_CACHED_MAX)
    }

    /// As [`Core::new`], with room for `cached_max` idle conversations, whose groups have
    /// `members_max` members.
    pub(crate) fn with_cache(position: u64, cached_max: usize, members_max: usize) -> Self {
        Self {
            cache: Cache::new(cached_max, members_max),
            io: Io {
                next_offset: position,
                waiting: BTreeSet::new(),
                to_load: Vec::new(),
                to_find: Vec::new(),
                outputs: Vec::new(),
                events: Vec::new(),
                touched: HashMap::new(),
                in_flight: Vec::new(),
                in_flight_events: 0,
                malformed: 0,
            },
        }
    }

    /// The next record that has not come yet.
    #[cfg(test)]
    pub(crate) const fn next_offset(&self) -> u64 {
        self.io.next_offset
    }

    /// Whether more records may come. What is not yet in the store is bounded (I10).
    pub(crate) fn has_room(&self) -> bool {
        // A conversation that changed without an event, by a mark or a retry, is held too.
        let pending = self.io.events.len().max(self.io.touched.len());
        let under_way = self.io.in_flight_events.max(self.io.in_flight.len());
        let held = self.io.waiting.len() + pending + under_way;
        held < UNPERSISTED_MAX
    }

    /// Events that no batch has yet.
    pub(crate) const fn unpersisted(&self) -> usize {
        self.io.events.len()
    }

    /// Records that could not be decoded; each was a no-op, for every reader alike.
    pub(crate) const fn malformed(&self) -> u64 {
        self.io.malformed
    }

    /// Takes the next record. After an error the partition must stop.
    pub(crate) fn ingest(&mut self, record: &Record) -> Result<(), NewerRecord> {
        if record.offset < self.io.next_offset {
            // Below the position: its outputs are durable.
            return Ok(());
        }
        let decoded = codec::decode_messages(&record.payload);
        if let Err(RecordError::Newer(version)) = decoded {
            return Err(NewerRecord {
                offset: record.offset,
                version,
            });
        }
        self.io.next_offset = record.offset + 1;
        let decoded = match decoded {
            Ok(MessagesRecord::Conversation(decoded)) => decoded,
            Ok(MessagesRecord::Barrier { as_of_unix_ms }) => {
                self.io.outputs.push(Output::Barrier(Barrier {
                    offset: record.offset,
                    key: record.key.clone(),
                    as_of_unix_ms,
                }));
                return Ok(());
            }
            Err(_) => {
                self.io.malformed += 1;
                return Ok(());
            }
        };
        let pending = Pending {
            offset: record.offset,
            time_unix_ms: record.time_unix_ms,
            action: decoded.action,
            trace: trace::of_headers(&record.headers),
        };
        let to_load = &mut self.io.to_load;
        let slot = self.cache.get_or_insert_with(decoded.conversation, || {
            to_load.push(decoded.conversation);
            Slot::new(decoded.conversation)
        });
        if slot.waiting == Waiting::Nothing && self.io.apply(slot, &pending) {
            self.cache.weigh(&decoded.conversation);
            return Ok(());
        }
        self.io.waiting.insert(pending.offset);
        slot.queue.push_back(pending);
        if slot.waiting == Waiting::Nothing {
            self.io.ask(slot);
        }
        Ok(())
    }

    /// Conversations to load; each is asked for once, and answered by [`Core::loaded`].
    pub(crate) fn take_loads(&mut self) -> Vec<ConversationId> {
        std::mem::take(&mut self.io.to_load)
    }

    /// The store has these states of the conversations that were asked for, and no others.
    pub(crate) fn loaded(&mut self, asked: &[ConversationId], states: Vec<ConversationState>) {
        let mut states: HashMap<_, _> = states
            .into_iter()
            .map(|state| (state.conversation, state))
            .collect();
        for conversation in asked {
            let Some(slot) = self.cache.get_mut(conversation) else {
                continue;
            };
            if slot.waiting == Waiting::Load {
                let state = states.remove(conversation);
                slot.load(state.unwrap_or_else(|| ConversationState::new(*conversation)));
                self.io.drain(slot);
                self.cache.weigh(conversation);
            }
        }
    }

    /// Names to look up; answered by [`Core::found`].
    pub(crate) fn take_finds(&mut self) -> Vec<Name> {
        std::mem::take(&mut self.io.to_find)
    }

    /// The store has these events of the names that were asked for, and no others.
    pub(crate) fn found(&mut self, asked: &[Name], events: Vec<Event>) {
        let mut events: HashMap<Name, Arc<Event>> = events
            .into_iter()
            .map(|event| {
                (
                    (event.conversation, event.sender, event.message_id),
                    Arc::new(event),
                )
            })
            .collect();
        let mut conversations = Vec::new();
        for name in asked {
            let Some(slot) = self.cache.get_mut(&name.0) else {
                continue;
            };
            slot.found.insert((name.1, name.2), events.remove(name));
            if conversations.last() != Some(&name.0) {
                conversations.push(name.0);
            }
        }
        for conversation in conversations {
            let Some(slot) = self.cache.get_mut(&conversation) else {
                continue;
            };
            if slot.waiting == Waiting::Find {
                slot.waiting = Waiting::Nothing;
                self.io.drain(slot);
                self.cache.weigh(&conversation);
            }
        }
    }

    /// Verdicts, pushes, derived records and barriers, in order. Their records are durable, since they were read from the log (I1).
    pub(crate) fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.io.outputs)
    }

    /// Everything below is applied: the position, once nothing is left to make durable.
    pub(crate) fn low_water(&self) -> u64 {
        self.io
            .waiting
            .first()
            .copied()
            .unwrap_or(self.io.next_offset)
    }

    /// Whether the next batch would have anything in it.
    pub(crate) fn has_changes(&self) -> bool {
        !self.io.touched.is_empty()
    }

    /// What has changed since the last batch; the next one only after [`Core::persisted`].
    pub(crate) fn cut(&mut self) -> Option<Batch> {
        if self.io.touched.is_empty() || !self.io.in_flight.is_empty() {
            return None;
        }
        let covers = self.low_water();
        let events = std::mem::take(&mut self.io.events);
        let touched = std::mem::take(&mut self.io.touched);
        let mut conversations = Vec::with_capacity(touched.len());
        let mut inbox = Vec::with_capacity(2 * touched.len());
        for (conversation, touched) in touched {
            let Some(slot) = self.cache.get_mut(&conversation) else {
                continue;
            };
            let changes = rows::inbox_changes(&slot.state, &touched);
            inbox.extend(changes.map(|change| (change, touched.trace.clone())));
            self.io.in_flight.push((conversation, slot.state.head_seq));
            conversations.push(rows::update(&slot.state, &touched));
        }
        self.io.in_flight_events = events.len();
        let events = events.iter().map(|event| Event::clone(event)).collect();
        Some(Batch {
            sequenced: SequencedBatch {
                events,
                conversations,
            },
            inbox,
            covers,
        })
    }

    /// The store has the last batch.
    pub(crate) fn persisted(&mut self) {
        self.io.in_flight_events = 0;
        for (conversation, head_seq) in std::mem::take(&mut self.io.in_flight) {
            if let Some(slot) = self.cache.get_mut(&conversation) {
                slot.unsaved = slot.unsaved.saturating_sub(1);
                slot.persisted(head_seq);
            }
        }
    }

    /// What memory knows of a conversation, for a user who reads it; `None` if only the store knows.
    pub(crate) fn view(&self, conversation: &ConversationId, user: UserId) -> Option<View> {
        let slot = self.cache.peek(conversation)?;
        if slot.waiting == Waiting::Load {
            return None;
        }
        Some(View {
            head: slot.state.head(),
            events: slot.tail.iter().cloned().collect(),
            member: slot.state.member(user).cloned(),
        })
    }

    /// All that memory knows of a conversation; `None` if only the store knows.
    pub(crate) fn state(&self, conversation: &ConversationId) -> Option<&ConversationState> {
        let slot = self.cache.peek(conversation)?;
        (slot.waiting != Waiting::Load).then_some(&slot.state)
    }

    /// The end of a conversation, and its newest message if it is among the last events.
    pub(crate) fn newest(
        &self,
        conversation: &ConversationId,
    ) -> Option<(Watermark, Option<Arc<Event>>)> {
        let slot = self.cache.peek(conversation)?;
        if slot.waiting == Waiting::Load {
            return None;
        }
        let is_message = |event: &&Arc<Event>| event.kind == EventKind::Message;
        let message = slot.tail.iter().rev().find(is_message).cloned();
        Some((slot.state.head(), message))
    }

    /// Members of all groups that memory knows.
    #[cfg(test)]
    pub(crate) fn cached_members(&self) -> usize {
        self.cache.members()
    }
}

impl Io {
    /// Applies the records that wait, as far as it goes.
    fn drain(&mut self, slot: &mut Slot) {
        while let Some(pending) = slot.queue.pop_front() {
            if !self.apply(slot, &pending) {
                slot.queue.push_front(pending);
                self.ask(slot);
                return;
            }
            self.waiting.remove(&pending.offset);
        }
        slot.found = HashMap::new();
    }

    /// Asks for all names in the queue that the store must be asked for; the first record's is one.
    fn ask(&mut self, slot: &mut Slot) {
        slot.found = HashMap::new();
        slot.waiting = Waiting::Find;
        let conversation = slot.state.conversation;
        let names = slot.names_to_find(LOOKUPS_MAX);
        self.to_find
            .extend(names.into_iter().map(|(user, id)| (conversation, user, id)));
    }

    /// Applies a record; `false` if it must wait for a look-up, and then nothing was changed.
    fn apply(&mut self, slot: &mut Slot, pending: &Pending) -> bool {
        let replay = pending.offset < slot.state.applied_end;
        match &pending.action {
            Action::Send(send) => return self.apply_send(slot, pending, send, replay),
            Action::GroupChange(change) => {
                return self.apply_change(slot, pending, change, replay);
            }
            Action::Marks(marks) => self.apply_marks(slot, pending, marks, replay),
        }
        self.applied(slot, pending.offset);
        true
    }

    /// The conversation is part of the next batch.
    fn touch<'a>(&'a mut self, slot: &mut Slot) -> &'a mut Touched {
        self.touch_from(slot, slot.state.head_seq)
    }

    fn touch_from<'a>(&'a mut self, slot: &mut Slot, base_head_seq: u64) -> &'a mut Touched {
        self.touched
            .entry(slot.state.conversation)
            .or_insert_with(|| {
                slot.unsaved += 1;
                Touched {
                    base_head_seq,
                    ..Touched::default()
                }
            })
    }

    /// An event that has just got its place: it is kept for readers, and goes to the store.
    fn push(&mut self, slot: &mut Slot, event: &Arc<Event>) -> &mut Touched {
        slot.push(event.clone());
        self.events.push(event.clone());
        self.touch_from(slot, event.seq - 1)
    }

    fn applied(&mut self, slot: &mut Slot, offset: u64) {
        slot.state.applied_end = slot.state.applied_end.max(offset + 1);
    }
}

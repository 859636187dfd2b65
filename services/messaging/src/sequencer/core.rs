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
use delivery::{Answer, Broadcast, Users};
use event_log::Record;
use proto::{error::v1::ErrorReason, log::v1 as log, messaging::v1::server_frame::Frame};
use runtime::{
    ids::{ConversationId, MessageId, UserId},
    trace,
};

use super::{
    cache::Cache,
    slot::{Pending, Slot, Waiting},
};
use crate::{
    codec::{self, Action, RecordError, Send},
    limits::{CONVERSATIONS_CACHED_MAX, LOOKUPS_MAX, UNPERSISTED_MAX},
    model::{ConversationState, Event, EventKind, InboxChange, Marks, MemberState, Watermark},
    store::{ConversationUpdate, SequencedBatch},
    wire,
};

/// Something for live sessions. Tried once and never awaited (I6).
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
    inbox: bool,
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
        Self::with_cache(position, CONVERSATIONS_CACHED_MAX)
    }

    /// As [`Core::new`], with room for `cached_max` idle conversations.
    pub(crate) fn with_cache(position: u64, cached_max: usize) -> Self {
        Self {
            cache: Cache::new(cached_max),
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
        let Ok(decoded) = decoded else {
            self.io.malformed += 1;
            return Ok(());
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
            }
        }
    }

    /// Verdicts and pushes, in order. Their records are durable, since they were read from the log (I1).
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
            if touched.inbox {
                let changes = inbox_changes(&slot.state, touched.message.as_deref());
                inbox.extend(changes.map(|change| (change, touched.trace.clone())));
            }
            self.io.in_flight.push((conversation, slot.state.head_seq));
            let base_head_seq = touched.base_head_seq;
            conversations.push(ConversationUpdate {
                state: slot.state.clone(),
                base_head_seq,
            });
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
            Action::Marks(marks) => self.apply_marks(slot, marks, replay),
            Action::GroupChange(_) => {}
        }
        self.applied(slot, pending.offset);
        true
    }

    fn apply_send(&mut self, slot: &mut Slot, at: &Pending, send: &Send, replay: bool) -> bool {
        if slot.state.conversation.peer_of(send.sender).is_none() {
            if !replay {
                // A rejection is not sent again.
                let verdict = log::verdict::Verdict::Rejected(ErrorReason::NotAMember as u32);
                self.answer(slot, send, verdict);
                self.touch(slot);
            }
            self.applied(slot, at.offset);
            return true;
        }
        if replay || !slot.is_new(send) {
            let Ok(named) = slot.find(send.sender, send.message_id) else {
                return false;
            };
            match named {
                // Only what is earlier in the log counts: the store may be ahead of this reader.
                Some(event) if event.log_offset < at.offset => {
                    self.accept(slot, send, &event, true);
                    self.touch(slot);
                    self.applied(slot, at.offset);
                    return true;
                }
                Some(event) if replay && event.log_offset == at.offset => {
                    self.accept(slot, send, &event, false);
                    self.push_event(&event, send);
                    self.touch_message(slot, event);
                    self.applied(slot, at.offset);
                    return true;
                }
                // A replay of a send that was rejected.
                _ if replay => return true,
                _ => {}
            }
        }
        let event = self.sequence(slot, at, send);
        self.accept(slot, send, &event, false);
        self.push_event(&event, send);
        self.applied(slot, at.offset);
        true
    }

    /// Gives the message its place.
    fn sequence(&mut self, slot: &mut Slot, at: &Pending, send: &Send) -> Arc<Event> {
        let base_head_seq = slot.state.head_seq;
        let state = &mut slot.state;
        state.head_seq += 1;
        state.last_message_index += 1;
        state.last_time_unix_ms = state.last_time_unix_ms.max(at.time_unix_ms);
        let head = state.head();
        let event = Arc::new(Event {
            conversation: state.conversation,
            seq: head.seq,
            message_index: head.message_index,
            log_offset: at.offset,
            time_unix_ms: state.last_time_unix_ms,
            kind: EventKind::Message,
            sender: send.sender,
            message_id: send.message_id,
            body: codec::encode_body(&send.body, 0),
        });
        let member = state.member_mut(send.sender);
        member.message_id_max = member.message_id_max.max(Some(send.message_id));
        // Sending marks the sender as having read up to the own message.
        member.marks = Marks {
            delivered: head,
            read: head,
        };
        slot.push(event.clone());
        self.events.push(event.clone());
        let touched = self.touch_from(slot, base_head_seq);
        touched.inbox = true;
        touched.message = Some(event.clone());
        touched.trace.clone_from(&at.trace);
        event
    }

    fn apply_marks(&mut self, slot: &mut Slot, marks: &[(UserId, Marks)], replay: bool) {
        let head = slot.state.head();
        let mut grown = Vec::new();
        for (user, marks) in marks {
            if slot.state.conversation.peer_of(*user).is_none() {
                continue;
            }
            let member = slot.state.member_mut(*user);
            if replay {
                // Merging again would cap at a later head than the first time.
                if member.marks != Marks::default() {
                    grown.push((*user, member.marks));
                }
                continue;
            }
            let merged = member.marks.max(capped(*marks, head));
            if merged != member.marks {
                member.marks = merged;
                grown.push((*user, merged));
            }
        }
        if !grown.is_empty() {
            self.touch(slot).inbox = true;
            let conversation = slot.state.conversation;
            self.outputs.push(Output::Push(Broadcast {
                users: members_of(conversation),
                frame: wire::marks(conversation, &grown),
                except_session_id: 0,
                inbox_version: 0,
            }));
        }
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

    /// The inbox rows of the conversation are to show this message, unless they show a later one.
    fn touch_message(&mut self, slot: &mut Slot, event: Arc<Event>) {
        let touched = self.touch(slot);
        touched.inbox = true;
        if touched
            .message
            .as_ref()
            .is_none_or(|message| message.seq < event.seq)
        {
            touched.message = Some(event);
        }
    }

    fn applied(&mut self, slot: &mut Slot, offset: u64) {
        slot.state.applied_end = slot.state.applied_end.max(offset + 1);
    }

    fn accept(&mut self, slot: &Slot, send: &Send, event: &Event, duplicate: bool) {
        let accepted = log::Accepted {
            seq: event.seq,
            message_index: event.message_index,
            time_unix_ms: event.time_unix_ms,
            duplicate,
        };
        self.answer(slot, send, log::verdict::Verdict::Accepted(accepted));
    }

    fn answer(&mut self, slot: &Slot, send: &Send, verdict: log::verdict::Verdict) {
        self.outputs.push(Output::Answer {
            edge: send.origin.edge.clone(),
            answer: Answer {
                session_id: send.origin.session_id,
                request_id: send.origin.request_id,
                verdict: log::Verdict {
                    conversation_id: slot.state.conversation.as_bytes().to_vec(),
                    message_id: send.message_id.as_bytes().to_vec(),
                    verdict: Some(verdict),
                },
            },
        });
    }

    fn push_event(&mut self, event: &Event, send: &Send) {
        self.outputs.push(Output::Push(Broadcast {
            users: members_of(event.conversation),
            frame: wire::push(Frame::Event(wire::event(event))),
            except_session_id: send.origin.session_id,
            inbox_version: 0,
        }));
    }
}

/// The members of a direct conversation.
fn members_of(conversation: ConversationId) -> Users {
    conversation
        .direct_members()
        .map(Users::from)
        .unwrap_or_default()
}

/// Nobody has got further than the conversation, whatever a client says.
fn capped(marks: Marks, head: Watermark) -> Marks {
    let cap = |mark: Watermark| {
        let seq = mark.seq.min(head.seq);
        Watermark {
            seq,
            message_index: mark.message_index.min(head.message_index).min(seq),
        }
    };
    // Who has seen a message holds it.
    let read = cap(marks.read);
    Marks {
        delivered: cap(marks.delivered).max(read),
        read,
    }
}

/// What the conversation's rows in the inboxes of its members are at least at. A row ends with the
/// message that comes with it: a replay knows a later end than its rows have, and a mark brings none.
fn inbox_changes<'a>(
    state: &'a ConversationState,
    message: Option<&'a Event>,
) -> impl Iterator<Item = InboxChange> + 'a {
    let members = members_of(state.conversation);
    let marks = move |user| {
        state
            .member(user)
            .map(|member| member.marks)
            .unwrap_or_default()
    };
    let preview = message.map(codec::preview_of);
    let last = message.map_or_else(Watermark::default, |message| Watermark {
        seq: message.seq,
        message_index: message.message_index,
    });
    (0..members.len()).map(move |at| {
        let user = members[at];
        InboxChange {
            user,
            conversation: state.conversation,
            last,
            preview: preview.clone(),
            own: marks(user),
            peer: marks(members[1 - at]),
            joined_seq: 0,
            left_seq: 0,
        }
    })
}

//! Sends: whether they are new, and their verdicts.

use std::sync::Arc;

use delivery::{Answer, Broadcast};
use proto::{error::v1::ErrorReason, log::v1 as log, messaging::v1::server_frame::Frame};

use super::{Io, Output, Pending, Slot, groups, rows};
use crate::{
    codec::{self, Send},
    model::{ConversationState, Event, EventKind, Marks},
    wire,
};

impl Io {
    /// `false` if it must wait for a look-up, and then nothing was changed.
    pub(super) fn apply_send(
        &mut self,
        slot: &mut Slot,
        at: &Pending,
        send: &Send,
        replay: bool,
    ) -> bool {
        if let Some(reason) = never(&slot.state, send) {
            if !replay {
                self.reject(slot, send, reason as u32);
            }
            self.applied(slot, at.offset);
            return true;
        }
        // A retry is recognised before anything else is judged: its sender may have left since (I4).
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
                    self.hand_out(at, &event, send);
                    self.touch_message(slot, event);
                    self.applied(slot, at.offset);
                    return true;
                }
                // A replay of a send that was rejected.
                _ if replay => return true,
                _ => {}
            }
        }
        if slot.state.conversation.group_id().is_some()
            && let Err(reason) = groups::judge(&slot.state, send)
        {
            self.reject(slot, send, reason as u32);
            self.applied(slot, at.offset);
            return true;
        }
        if send.refused_unless_duplicate != 0 {
            // The edge has judged by its clock, once for all readers (I2).
            self.reject(slot, send, send.refused_unless_duplicate);
            self.applied(slot, at.offset);
            return true;
        }
        let event = self.sequence(slot, at, send);
        self.accept(slot, send, &event, false);
        self.hand_out(at, &event, send);
        self.applied(slot, at.offset);
        true
    }

    /// Gives the message its place.
    fn sequence(&mut self, slot: &mut Slot, at: &Pending, send: &Send) -> Arc<Event> {
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
            body: codec::encode_body(&send.body, state.group.version),
        });
        let member = state.member_mut(send.sender);
        member.message_id_max = member.message_id_max.max(Some(send.message_id));
        // Sending marks the sender as having read up to the own message.
        member.marks = Marks {
            delivered: head,
            read: head,
        };
        let touched = self.push(slot, &event);
        touched.members.insert(send.sender);
        touched.trace.clone_from(&at.trace);
        self.touch_message(slot, event.clone());
        event
    }

    /// The rows of the conversation are to show this message, unless they show a later one; of a group
    /// the sender's own row alone, since the others come of the fan-out.
    fn touch_message(&mut self, slot: &mut Slot, event: Arc<Event>) {
        let is_group = slot.state.conversation.group_id().is_some();
        let touched = self.touch(slot);
        if is_group {
            touched.own_marks.insert(event.sender);
            return;
        }
        touched.inbox = true;
        if touched
            .message
            .as_ref()
            .is_none_or(|message| message.seq < event.seq)
        {
            touched.message = Some(event);
        }
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

    /// A rejection is not sent again: its record counts as applied with the next batch.
    fn reject(&mut self, slot: &mut Slot, send: &Send, reason: u32) {
        self.answer(slot, send, log::verdict::Verdict::Rejected(reason));
        self.touch(slot);
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

    /// The event of a message, for those who are to see it, and what it refers to.
    fn hand_out(&mut self, at: &Pending, event: &Event, send: &Send) {
        self.refer_to_attachments(at, event, send);
        if event.conversation.group_id().is_some() {
            self.fan_out(at, event, send.origin.session_id);
            return;
        }
        self.outputs.push(Output::Push(Broadcast {
            users: rows::direct_members(event.conversation),
            frame: wire::push(Frame::Event(wire::event(event))),
            except_session_id: send.origin.session_id,
            inbox_version: 0,
        }));
    }
}

/// Why no message of this sender and name can ever be in the conversation, whatever is in the log.
fn never(state: &ConversationState, send: &Send) -> Option<ErrorReason> {
    match state.conversation.group_id() {
        // An edge refuses it: the event of a change would not be the only one of its name.
        Some(_) => send
            .message_id
            .is_of_change()
            .then_some(ErrorReason::FieldMalformed),
        None => state
            .conversation
            .peer_of(send.sender)
            .is_none()
            .then_some(ErrorReason::NotAMember),
    }
}

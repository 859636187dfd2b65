//! Watermarks: they only grow, and nobody has got further than the conversation, or than he was in it.

use delivery::Broadcast;
use runtime::ids::UserId;

use super::{Io, Output, Pending, Slot, rows};
use crate::{
    limits::MARKS_FANOUT_MEMBERS_MAX,
    model::{ConversationState, Marks, Watermark},
    wire,
};

impl Io {
    pub(super) fn apply_marks(
        &mut self,
        slot: &mut Slot,
        at: &Pending,
        marks: &[(UserId, Marks)],
        replay: bool,
    ) {
        let mut grown = Vec::new();
        for (user, marks) in marks {
            let Some(end) = end_for(&slot.state, *user) else {
                continue;
            };
            let member = slot.state.member_mut(*user);
            if replay {
                // Merging again would cap at a later head than the first time.
                if member.marks != Marks::default() {
                    grown.push((*user, member.marks));
                }
                continue;
            }
            let merged = member.marks.max(capped(*marks, end));
            if merged != member.marks {
                member.marks = merged;
                grown.push((*user, merged));
            }
        }
        if !grown.is_empty() {
            self.marks_grown(slot, at, &grown);
        }
    }

    fn marks_grown(&mut self, slot: &mut Slot, at: &Pending, grown: &[(UserId, Marks)]) {
        let conversation = slot.state.conversation;
        let is_group = conversation.group_id().is_some();
        let touched = self.touch(slot);
        let users = grown.iter().map(|(user, _)| *user);
        touched.members.extend(users.clone());
        if is_group {
            touched.own_marks.extend(users);
            // Those who have left count too: a record is to fit into the log.
            if slot.member_count.max(grown.len()) <= MARKS_FANOUT_MEMBERS_MAX {
                self.fan_out_frame(at, slot, wire::marks(conversation, grown));
            }
            return;
        }
        touched.inbox = true;
        self.outputs.push(Output::Push(Broadcast {
            users: rows::direct_members(conversation),
            frame: wire::marks(conversation, grown),
            except_session_id: 0,
            inbox_version: 0,
        }));
    }
}

/// How far a user can have got; `None` if the conversation is nothing of his.
fn end_for(state: &ConversationState, user: UserId) -> Option<Watermark> {
    let head = state.head();
    if state.conversation.group_id().is_none() {
        return state.conversation.peer_of(user).map(|_| head);
    }
    let membership = state.member(user)?.membership.as_ref()?;
    let last = membership.windows.last()?;
    // Of the event by which he left the seq alone is known. Its index is not larger, and who says more
    // misstates his own count of unread messages until he joins again, and nothing else.
    Some(Watermark {
        seq: last.to_seq.unwrap_or(head.seq),
        ..head
    })
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

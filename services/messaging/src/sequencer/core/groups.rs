//! Groups: their changes, whose messages they take, and what goes to their members (I8).

use std::sync::Arc;

use bytes::Bytes;
use event_log::Topic;
use proto::{error::v1::ErrorReason, messaging::v1::server_frame::Frame};
use runtime::ids::{ConversationId, UserId};

use super::{Derived, Io, Output, Pending, Slot};
use crate::{
    codec::{self, GroupChange, Send},
    limits::WINDOWS_MAX,
    model::{
        ConversationState, Event, EventKind, GroupState, Marks, MemberState, Membership, Role,
        Watermark, Window,
    },
    wire,
};

impl Io {
    /// Carries out the change that is next; any other came early, or again. `false` if it must wait for
    /// a look-up, and then nothing was changed.
    pub(super) fn apply_change(
        &mut self,
        slot: &mut Slot,
        at: &Pending,
        change: &GroupChange,
        replay: bool,
    ) -> bool {
        let is_group = slot.state.conversation.group_id().is_some();
        if is_group && replay {
            let (actor, name) = change.name();
            let Ok(named) = slot.find(actor, name) else {
                return false;
            };
            // Otherwise it was not this record that was carried out.
            if let Some(event) = named.filter(|event| event.log_offset == at.offset) {
                self.hand_out_change(at, change, &event);
            }
        } else if is_group && change.version == slot.state.group.version + 1 {
            let event = self.carry_out(slot, at, change);
            self.hand_out_change(at, change, &event);
        }
        self.applied(slot, at.offset);
        true
    }

    /// The event of a change, for the members, and the picture that the group has by it.
    fn hand_out_change(&mut self, at: &Pending, change: &GroupChange, event: &Event) {
        self.fan_out(at, event, 0);
        self.refer_to_picture(at, event.conversation, change);
    }

    /// Gives the change its place.
    fn carry_out(&mut self, slot: &mut Slot, at: &Pending, change: &GroupChange) -> Arc<Event> {
        let state = &mut slot.state;
        state.head_seq += 1;
        state.last_time_unix_ms = state.last_time_unix_ms.max(at.time_unix_ms);
        state.group = GroupState {
            version: change.version,
            announcement: change.announcement,
            history_all: change.history_all,
        };
        let (sender, message_id) = change.name();
        let event = Arc::new(Event {
            conversation: state.conversation,
            seq: state.head_seq,
            message_index: state.last_message_index,
            log_offset: at.offset,
            time_unix_ms: state.last_time_unix_ms,
            kind: EventKind::GroupChange,
            sender,
            message_id,
            body: codec::encode_change_body(&change.record),
        });
        let joined = change_members(state, &change.members);
        slot.member_count = slot.member_count.saturating_add_signed(joined);
        let touched = self.push(slot, &event);
        touched
            .members
            .extend(change.members.iter().map(|(user, _)| *user));
        event
    }

    /// An event, for the members of the version that its body names.
    pub(super) fn fan_out(&mut self, at: &Pending, event: &Event, except_session_id: u64) {
        let frame = wire::push(Frame::Event(wire::event(event)));
        let (group_version, fanout) = codec::fanout_event(event);
        let payload = codec::encode_fanout(
            event.conversation,
            group_version,
            frame,
            except_session_id,
            Some(fanout),
        );
        self.derive(Topic::Fanout, at, event.conversation, payload);
    }

    /// A frame without an event, for the members as they are now.
    pub(super) fn fan_out_frame(&mut self, at: &Pending, slot: &Slot, frame: Bytes) {
        let conversation = slot.state.conversation;
        let version = slot.state.group.version;
        let payload = codec::encode_fanout(conversation, version, frame, 0, None);
        self.derive(Topic::Fanout, at, conversation, payload);
    }

    /// A record of another topic that this one makes.
    pub(super) fn derive(
        &mut self,
        topic: Topic,
        at: &Pending,
        conversation: ConversationId,
        payload: Bytes,
    ) {
        self.outputs.push(Output::Derived(Derived {
            topic,
            offset: at.offset,
            conversation,
            payload,
            trace: at.trace.clone(),
        }));
    }
}

/// Whether the group takes this message now; it was never accepted before.
pub(super) fn judge(state: &ConversationState, send: &Send) -> Result<(), ErrorReason> {
    let Some(role) = state.member(send.sender).and_then(MemberState::role) else {
        return Err(ErrorReason::NotAMember);
    };
    if role == Role::Member && (state.group.announcement || send.body.mentions_all) {
        return Err(ErrorReason::AdminsOnly);
    }
    if !send
        .body
        .mentioned
        .iter()
        .all(|user| state.is_member(*user))
    {
        return Err(ErrorReason::MentionNotAMember);
    }
    Ok(())
}

/// Members as they are after the change whose event is the head; by how many they are more than before.
fn change_members(state: &mut ConversationState, changes: &[(UserId, Option<Role>)]) -> isize {
    // All new ones at once: each by itself would move the members after it, of whom there may be many.
    let is_new = |user: &UserId| state.member(*user).is_none();
    let users = changes.iter().map(|(user, _)| *user);
    let new: Vec<_> = users.filter(is_new).map(MemberState::new).collect();
    if !new.is_empty() {
        state.members.extend(new);
        state.members.sort_by_key(|member| member.user);
    }
    let (head, group) = (state.head(), state.group);
    let mut joined = 0;
    for (user, role) in changes {
        let member = state.member_mut(*user);
        match (member.role(), role) {
            (None, Some(_)) => joined += 1,
            (Some(_), None) => joined -= 1,
            _ => {}
        }
        change_member(member, *role, group, head);
    }
    joined
}

fn change_member(member: &mut MemberState, role: Option<Role>, group: GroupState, head: Watermark) {
    let was_member = member.role().is_some();
    let mut windows = member
        .membership
        .take()
        .map(|membership| membership.windows)
        .unwrap_or_default();
    match (was_member, role.is_some()) {
        (false, true) => {
            let from_seq = match group.history_all {
                true => 1,
                false => head.seq,
            };
            open(&mut windows, from_seq);
            // What was before the joining is not unread.
            member.marks = member.marks.max(Marks {
                delivered: head,
                read: head,
            });
        }
        (true, false) => {
            if let Some(last) = windows.last_mut() {
                last.to_seq = Some(head.seq);
            }
        }
        _ => {}
    }
    member.membership = Some(Membership {
        version: group.version,
        role,
        windows,
    });
}

/// Adds a window that is open at its end; those that it overlaps become part of it.
fn open(windows: &mut Vec<Window>, mut from_seq: u64) {
    while let Some(last) = windows.pop_if(|w| w.to_seq.is_none_or(|to| to >= from_seq)) {
        from_seq = from_seq.min(last.from_seq);
    }
    if windows.len() >= WINDOWS_MAX {
        windows.remove(0);
    }
    windows.push(Window {
        from_seq,
        to_seq: None,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(from_seq: u64, to_seq: u64) -> Window {
        Window {
            from_seq,
            to_seq: Some(to_seq),
        }
    }

    #[test]
    fn a_window_takes_over_those_that_it_overlaps_and_no_others() {
        let mut windows = vec![window(1, 3), window(5, 8), window(9, 12)];
        open(&mut windows, 8);
        let open_from = |from_seq| Window {
            from_seq,
            to_seq: None,
        };
        assert_eq!(windows, [window(1, 3), open_from(5)]);
        let mut windows = vec![window(1, 3)];
        open(&mut windows, 4);
        assert_eq!(windows, [window(1, 3), open_from(4)]);
        open(&mut windows, 1);
        assert_eq!(windows, [open_from(1)]);
    }

    #[test]
    fn of_too_many_windows_the_oldest_is_forgotten() {
        let mut windows = Vec::new();
        for at in 0..WINDOWS_MAX as u64 + 3 {
            open(&mut windows, 10 * at + 1);
            windows.last_mut().unwrap().to_seq = Some(10 * at + 5);
        }
        assert_eq!(windows.len(), WINDOWS_MAX);
        assert_eq!(windows[0], window(31, 35));
    }
}

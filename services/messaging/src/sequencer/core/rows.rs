//! What a batch stores of a conversation, and what it says to inboxes.

use delivery::Users;
use runtime::ids::{ConversationId, UserId};

use super::Touched;
use crate::{
    codec,
    model::{ConversationState, InboxChange, Marks, Watermark},
    store::ConversationUpdate,
};

/// The members of a direct conversation.
pub(super) fn direct_members(conversation: ConversationId) -> Users {
    conversation
        .direct_members()
        .map(Users::from)
        .unwrap_or_default()
}

/// The state, with those members alone that were changed: copying all members of a group for each
/// message would cost more than the message.
pub(super) fn update(state: &ConversationState, touched: &Touched) -> ConversationUpdate {
    let members = touched.members.iter();
    ConversationUpdate {
        state: ConversationState {
            conversation: state.conversation,
            head_seq: state.head_seq,
            last_message_index: state.last_message_index,
            last_time_unix_ms: state.last_time_unix_ms,
            applied_end: state.applied_end,
            group: state.group,
            members: members
                .filter_map(|user| state.member(*user).cloned())
                .collect(),
        },
        base_head_seq: touched.base_head_seq,
    }
}

/// What the conversation's rows in inboxes are at least at. Of a direct conversation, the rows of both
/// members: a row ends with the message that comes with it, since a replay knows a later end than its
/// rows have, and a mark brings none. Of a group, the own marks of those whose have grown.
pub(super) fn inbox_changes<'a>(
    state: &'a ConversationState,
    touched: &'a Touched,
) -> impl Iterator<Item = InboxChange> + 'a {
    let members = match touched.inbox {
        true => direct_members(state.conversation),
        false => Users::new(),
    };
    let message = touched.message.as_deref();
    let preview = message.map(codec::preview_of);
    let last = message.map_or_else(Watermark::default, |message| Watermark {
        seq: message.seq,
        message_index: message.message_index,
    });
    let of_direct = (0..members.len()).map(move |at| InboxChange {
        last,
        preview: preview.clone(),
        peer: marks_of(state, members[1 - at]),
        ..own_marks(state, members[at])
    });
    let of_group = touched.own_marks.iter().map(|user| own_marks(state, *user));
    of_direct.chain(of_group)
}

fn own_marks(state: &ConversationState, user: UserId) -> InboxChange {
    InboxChange {
        user,
        conversation: state.conversation,
        last: Watermark::default(),
        preview: None,
        own: marks_of(state, user),
        peer: Marks::default(),
        joined_seq: 0,
        left_seq: 0,
        deferred_seq: 0,
        mentioned_seq: 0,
    }
}

fn marks_of(state: &ConversationState, user: UserId) -> Marks {
    let member = state.member(user);
    member.map(|member| member.marks).unwrap_or_default()
}

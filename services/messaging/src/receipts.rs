//! How far the members of a conversation have got with one message.

use proto::error::v1::ErrorReason;
use runtime::{
    ids::{ConversationId, UserId},
    status::ApiError,
};

use crate::{
    model::{ConversationState, Marks},
    read::{Reader, read_error},
    validate::not_a_member,
};

/// Who has a message, and who has read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receipts {
    pub(crate) message_index: u64,
    pub(crate) member_count: usize,
    pub(crate) delivered_count: usize,
    pub(crate) read_count: usize,
    /// Members who hold it, by their ids, after the one that was named.
    pub(crate) members: Vec<(UserId, Marks)>,
    pub(crate) more: bool,
}

impl Reader {
    /// The receipts of a message (0: of the last one), as a member may see them. Costs a look at every
    /// member.
    pub(crate) async fn receipts(
        &self,
        conversation: ConversationId,
        user: UserId,
        message_index: u64,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Receipts, ApiError> {
        let state = match self.sequencers.state(&conversation) {
            Some(state) => state,
            None => {
                let states = self.store.load_conversations(vec![conversation]).await;
                let mut states = states.map_err(read_error)?;
                let none_yet = || ConversationState::new(conversation);
                states.pop().unwrap_or_else(none_yet)
            }
        };
        if !state.is_member(user) {
            return Err(not_a_member("conversation_id"));
        }
        if message_index > state.last_message_index {
            return Err(ApiError::field(
                ErrorReason::FieldOutOfRange,
                "message_index",
                "there is no such message yet",
            ));
        }
        Ok(receipts(&state, message_index, after, limit))
    }
}

fn receipts(
    state: &ConversationState,
    message_index: u64,
    after: Option<UserId>,
    limit: usize,
) -> Receipts {
    let message_index = match message_index {
        0 => state.last_message_index,
        index => index,
    };
    let has = |index: u64| message_index > 0 && index >= message_index;
    let mut receipts = Receipts {
        message_index,
        // Of a direct conversation, one who has done nothing yet has no row.
        member_count: 2,
        delivered_count: 0,
        read_count: 0,
        members: Vec::new(),
        more: false,
    };
    if state.conversation.group_id().is_some() {
        let members = state.members.iter();
        receipts.member_count = members.filter(|m| m.role().is_some()).count();
    }
    let now = state.members.iter().filter(|m| state.is_member(m.user));
    for member in now {
        let marks = member.marks;
        receipts.read_count += usize::from(has(marks.read.message_index));
        if !has(marks.delivered.message_index) {
            continue;
        }
        receipts.delivered_count += 1;
        if after.is_none_or(|after| member.user > after) {
            if receipts.members.len() < limit {
                receipts.members.push((member.user, marks));
            } else {
                receipts.more = true;
            }
        }
    }
    receipts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MemberState, Membership, Role, Watermark};
    use runtime::ids::GroupId;

    fn member(n: u8, role: Option<Role>, delivered: u64, read: u64) -> MemberState {
        let at = |message_index| Watermark {
            seq: message_index,
            message_index,
        };
        MemberState {
            marks: Marks {
                delivered: at(delivered),
                read: at(read),
            },
            membership: Some(Membership {
                version: 1,
                role,
                windows: Vec::new(),
            }),
            ..MemberState::new(UserId::from_bytes([n; 16]))
        }
    }

    #[test]
    fn receipts_count_members_of_now_and_page_by_id() {
        let group = ConversationId::group(GroupId::from_bytes([9; 16]));
        let state = ConversationState {
            last_message_index: 7,
            members: vec![
                member(1, Some(Role::Owner), 7, 7),
                member(2, Some(Role::Member), 7, 3),
                member(3, None, 7, 7),
                member(4, Some(Role::Member), 3, 3),
                member(5, Some(Role::Member), 7, 7),
            ],
            ..ConversationState::new(group)
        };
        let first = receipts(&state, 0, None, 2);
        assert_eq!(first.message_index, 7);
        assert_eq!(
            (first.member_count, first.delivered_count, first.read_count),
            (4, 3, 2)
        );
        assert_eq!(first.members.len(), 2);
        assert!(first.more);
        let after = first.members.last().map(|(user, _)| *user);
        let second = receipts(&state, 7, after, 2);
        assert_eq!(second.members.len(), 1);
        assert!(!second.more);
        assert_eq!(receipts(&state, 3, None, 9).read_count, 4);
    }
}

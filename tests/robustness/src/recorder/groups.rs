//! What is seen of groups, in small numbers.

use messenger_client::{
    GroupChange, Message,
    model::{Conversation, GroupChangeKind, Member, RawEvent, Watermark},
};
use uuid::Uuid;

use super::{Recorder, State, hash};
use crate::history::{
    Mark, No, Record,
    groups::{Change, GroupEvent, GroupRecord, GroupRow, Kind, Role, What},
};

impl Recorder {
    /// Takes one down.
    pub fn add_group(&self, record: GroupRecord) {
        self.add(Record::Group(record));
    }

    /// The number that the next change gets.
    pub fn next_group_call(&self) -> u32 {
        let mut state = self.state.lock();
        state.group_calls += 1;
        state.group_calls - 1
    }

    /// The number of a group by the id of its conversation; `No::MAX` if it is none of the cast's.
    pub fn group(&self, conversation_id: &str) -> No {
        let state = self.state.lock();
        state
            .groups
            .get(conversation_id)
            .copied()
            .unwrap_or(No::MAX)
    }

    /// The number of what a message shows.
    pub fn group_message(&self, message: &Message) -> u32 {
        let id = Uuid::parse_str(&message.message_id).unwrap_or_default();
        let mut state = self.state.lock();
        let event = GroupEvent {
            group: state.group(&message.conversation_id),
            at: Mark(message.seq, message.message_index),
            sender: state.group_users.get(&message.sender_id).copied(),
            time_unix_ms: message.time_unix_ms,
            what: What::Message(id, hash(&message.text)),
        };
        state.group_event(event)
    }

    /// The number of what a change shows.
    pub fn group_change(&self, change: &GroupChange) -> u32 {
        let mut state = self.state.lock();
        let members = change.members.iter().map(|member| {
            let user = state.group_users.get(&member.user_id).copied();
            (user, role(member.role))
        });
        let mut members: Vec<_> = members.collect();
        members.sort_unstable();
        let event = GroupEvent {
            group: state.group(&change.conversation_id),
            at: Mark(change.seq, change.message_index),
            sender: state.group_users.get(&change.actor_id).copied(),
            time_unix_ms: change.time_unix_ms,
            what: What::Change(Change {
                version: change.version,
                kind: kind(change.kind),
                members,
                name: change.name.clone(),
                announcement: change.announcement,
                member_count: change.member_count,
            }),
        };
        state.group_event(event)
    }

    /// The number of what an event of a page shows; `None` for one of a kind that nobody knows.
    pub fn group_event(&self, event: RawEvent) -> Option<u32> {
        if let Some(change) = GroupChange::from_event(event.clone()) {
            return Some(self.group_change(&change));
        }
        Some(self.group_message(&Message::from_event(event)?))
    }

    /// A member of a list.
    pub fn group_member(&self, member: &Member) -> (No, Role) {
        let state = self.state.lock();
        let user = state.group_users.get(&member.user_id).copied();
        let number = u32::try_from(member.role).unwrap_or_default();
        (user.unwrap_or(No::MAX), role(number))
    }

    /// A row of a list.
    pub fn group_row(&self, row: &Conversation) -> GroupRow {
        let own = row.own_marks.as_ref();
        let read = own.and_then(|marks| marks.read.as_ref());
        let mark = |mark: &Watermark| Mark(mark.seq, mark.message_index);
        GroupRow {
            group: self.group(&row.conversation_id),
            version: row.version,
            last: Mark(row.last_seq, row.last_message_index),
            unread: row.unread_count,
            read: read.map(mark).unwrap_or_default(),
            left: row.left,
            preview: row.preview.as_ref().map(|shown| (shown.seq, shown.joined)),
        }
    }
}

impl State {
    pub(super) fn name_groups(&mut self, record: &GroupRecord) {
        match record {
            GroupRecord::User { user, id } => {
                self.group_users.insert(id.clone(), *user);
            }
            GroupRecord::Group { group, id, .. } => {
                self.groups.insert(id.clone(), *group);
            }
            _ => {}
        }
    }

    fn group(&self, conversation_id: &str) -> No {
        self.groups.get(conversation_id).copied().unwrap_or(No::MAX)
    }

    fn group_event(&mut self, event: GroupEvent) -> u32 {
        if let Some(number) = self.group_events.get(&event) {
            return *number;
        }
        let number = u32::try_from(self.group_events.len()).unwrap_or(u32::MAX);
        self.group_events.insert(event.clone(), number);
        self.add(Record::Group(GroupRecord::Event(event)));
        number
    }
}

fn role(number: u32) -> Role {
    match number {
        0 => Role::Nobody,
        2 => Role::Admin,
        3 => Role::Owner,
        _ => Role::Member,
    }
}

fn kind(kind: GroupChangeKind) -> Kind {
    match kind {
        GroupChangeKind::Created => Kind::Created,
        GroupChangeKind::Updated => Kind::Updated,
        GroupChangeKind::Added => Kind::Added,
        GroupChangeKind::Removed => Kind::Removed,
        GroupChangeKind::Left => Kind::Left,
        GroupChangeKind::Roles => Kind::Roles,
        GroupChangeKind::Joined => Kind::Joined,
        GroupChangeKind::Unspecified => Kind::Other,
    }
}

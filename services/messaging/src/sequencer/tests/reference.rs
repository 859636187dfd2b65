//! What the log alone decides, computed in the most obvious way.

use std::collections::{BTreeMap, BTreeSet};

use event_log::Record;
use proto::{
    error::v1::ErrorReason,
    log::v1::{self as log, Accepted, references_record, verdict::Verdict},
};
use runtime::ids::{BlobId, ConversationId, MessageId, UserId};

use crate::{
    codec::{self, Action, GroupChange, MessagesRecord, Send},
    model::{Event, EventKind, GroupState, InboxRow, Marks, Role, Watermark},
};

/// What must come of a log.
#[derive(Default)]
pub(super) struct Expected {
    /// By conversation and seq.
    pub(super) events: Vec<Event>,
    /// By offset; without rejections, which are not sent again after a crash.
    pub(super) verdicts: BTreeMap<u64, Verdict>,
    /// What was refused, and why, by offset.
    pub(super) rejections: BTreeMap<u64, u32>,
    /// What refers to blobs, by the offset of its record: one at most.
    pub(super) references: BTreeMap<u64, references_record::Record>,
    /// Of direct conversations.
    pub(super) rows: BTreeMap<(UserId, ConversationId), InboxRow>,
    pub(super) groups: BTreeMap<ConversationId, Group>,
}

/// A group after all of the log.
#[derive(Default)]
pub(super) struct Group {
    pub(super) state: GroupState,
    pub(super) members: BTreeMap<UserId, Member>,
    /// The version of the group at each event.
    pub(super) versions: BTreeMap<u64, u64>,
}

/// Somebody who was ever named by a change.
#[derive(Default)]
pub(super) struct Member {
    pub(super) version: u64,
    pub(super) role: Option<Role>,
    /// Every seq that the user may read.
    pub(super) readable: BTreeSet<u64>,
    pub(super) marks: Marks,
    /// What the list of the user must show at least.
    pub(super) published: Option<Marks>,
}

impl Group {
    fn role(&self, user: &UserId) -> Option<Role> {
        self.members.get(user).and_then(|member| member.role)
    }

    fn refuses(&self, send: &Send) -> Option<ErrorReason> {
        let Some(role) = self.role(&send.sender) else {
            return Some(ErrorReason::NotAMember);
        };
        if role == Role::Member && self.state.announcement {
            return Some(ErrorReason::AdminsOnly);
        }
        if role == Role::Member && send.body.mentions_all {
            return Some(ErrorReason::AdminsOnly);
        }
        let mut mentioned = send.body.mentioned.iter();
        mentioned
            .any(|user| self.role(user).is_none())
            .then_some(ErrorReason::MentionNotAMember)
    }

    /// Every member of this moment may read the event.
    fn readable(&mut self, seq: u64) {
        self.versions.insert(seq, self.state.version);
        let members = self.members.values_mut();
        for member in members.filter(|member| member.role.is_some()) {
            member.readable.insert(seq);
        }
    }

    fn change(&mut self, change: &GroupChange, end: Watermark) {
        // Also those who leave by it.
        self.readable(end.seq);
        self.state = GroupState {
            version: change.version,
            announcement: change.announcement,
            history_all: change.history_all,
        };
        for (user, role) in &change.members {
            let member = self.members.entry(*user).or_default();
            if member.role.is_none() && role.is_some() {
                if change.history_all {
                    member.readable.extend(1..=end.seq);
                }
                member.marks = Marks {
                    delivered: end,
                    read: end,
                };
            }
            member.role = *role;
            member.version = change.version;
        }
        self.readable(end.seq);
    }
}

#[derive(Default)]
struct Conversation {
    events: Vec<Event>,
    messages: u64,
    marks: BTreeMap<UserId, Marks>,
    touched: bool,
    group: Group,
}

impl Conversation {
    fn end(&self) -> Watermark {
        Watermark {
            seq: self.events.len() as u64,
            message_index: self.messages,
        }
    }

    fn push(
        &mut self,
        at: (ConversationId, &Record),
        kind: EventKind,
        name: (UserId, MessageId),
        body: bytes::Bytes,
    ) -> Event {
        let last_time = self.events.last().map_or(0, |e| e.time_unix_ms);
        self.messages += u64::from(kind == EventKind::Message);
        let event = Event {
            conversation: at.0,
            seq: self.events.len() as u64 + 1,
            message_index: self.messages,
            log_offset: at.1.offset,
            time_unix_ms: at.1.time_unix_ms.max(last_time),
            kind,
            sender: name.0,
            message_id: name.1,
            body,
        };
        self.events.push(event.clone());
        event
    }

    fn send(&mut self, at: (ConversationId, &Record), send: &Send) -> Result<Accepted, u32> {
        let is_group = at.0.group_id().is_some();
        if !is_group && at.0.peer_of(send.sender).is_none() {
            return Err(ErrorReason::NotAMember as u32);
        }
        if is_group && send.message_id.is_of_change() {
            return Err(ErrorReason::FieldMalformed as u32);
        }
        let mut events = self.events.iter();
        let first = events
            .find(|e| e.sender == send.sender && e.message_id == send.message_id)
            .cloned();
        let duplicate = first.is_some();
        if is_group
            && !duplicate
            && let Some(reason) = self.group.refuses(send)
        {
            return Err(reason as u32);
        }
        if !duplicate && send.refused_unless_duplicate > 0 {
            return Err(send.refused_unless_duplicate);
        }
        let event = first.unwrap_or_else(|| {
            let body = codec::encode_body(&send.body, self.group.state.version);
            let name = (send.sender, send.message_id);
            let event = self.push(at, EventKind::Message, name, body);
            let own = Marks {
                delivered: self.end(),
                read: self.end(),
            };
            self.touched = true;
            if is_group {
                let member = self.group.members.get_mut(&send.sender).unwrap();
                member.marks = own;
                member.published = Some(own);
                self.group.readable(event.seq);
            } else {
                self.marks.insert(send.sender, own);
            }
            event
        });
        Ok(Accepted {
            seq: event.seq,
            message_index: event.message_index,
            time_unix_ms: event.time_unix_ms,
            duplicate,
        })
    }

    fn marks(&mut self, conversation: ConversationId, user: UserId, said: Marks) {
        let mut end = self.end();
        let is_group = conversation.group_id().is_some();
        let known = if is_group {
            let Some(member) = self.group.members.get_mut(&user) else {
                return;
            };
            let Some(last) = member.readable.last() else {
                return;
            };
            if member.role.is_none() {
                // The event by which the user left.
                end.seq = *last;
            }
            &mut member.marks
        } else {
            self.marks.entry(user).or_default()
        };
        let cap = |said: Watermark| {
            let seq = said.seq.min(end.seq);
            let message_index = said.message_index.min(end.message_index).min(seq);
            Watermark { seq, message_index }
        };
        let said = Marks {
            delivered: cap(said.delivered).max(cap(said.read)),
            read: cap(said.read),
        };
        if known.max(said) != *known {
            *known = known.max(said);
            let marks = *known;
            self.touched = true;
            if let Some(member) = self.group.members.get_mut(&user) {
                member.published = Some(marks);
            }
        }
    }
}

/// What an accepted message refers to.
fn refers(id: ConversationId, seq: u64, send: &Send) -> Option<references_record::Record> {
    let attachments = &send.body.attachments;
    let event = log::EventReferences {
        conversation_id: id.as_bytes().to_vec(),
        seq,
        blob_ids: attachments.iter().map(|a| a.blob_id.clone()).collect(),
        removed: false,
    };
    (!attachments.is_empty()).then_some(references_record::Record::Event(event))
}

/// What a change that was carried out refers to.
fn shows(id: ConversationId, change: &GroupChange) -> Option<references_record::Record> {
    let picture = change.record.info.clone()?.picture?;
    let blob = BlobId::parse(&picture).ok();
    if blob.is_none() && !picture.is_empty() {
        return None;
    }
    Some(references_record::Record::GroupPicture(log::GroupPicture {
        group_id: id.group_id()?.as_bytes().to_vec(),
        version: change.version,
        blob_id: blob.map_or_else(Vec::new, |blob| blob.as_bytes().to_vec()),
    }))
}

/// Applies every record in order.
pub(super) fn expect(log: &[Record]) -> Expected {
    let mut expected = Expected::default();
    let mut conversations: BTreeMap<ConversationId, Conversation> = BTreeMap::new();
    for record in log {
        let decoded = codec::decode_messages(&record.payload);
        let Ok(MessagesRecord::Conversation(decoded)) = decoded else {
            continue;
        };
        let id = decoded.conversation;
        let conversation = conversations.entry(id).or_default();
        match decoded.action {
            Action::Send(send) => match conversation.send((id, record), &send) {
                Ok(accepted) => {
                    let references = refers(id, accepted.seq, &send);
                    if let Some(references) = references.filter(|_| !accepted.duplicate) {
                        expected.references.insert(record.offset, references);
                    }
                    let verdict = Verdict::Accepted(accepted);
                    expected.verdicts.insert(record.offset, verdict);
                }
                Err(reason) => drop(expected.rejections.insert(record.offset, reason)),
            },
            Action::Marks(marks) => {
                for (user, said) in marks {
                    conversation.marks(id, user, said);
                }
            }
            Action::GroupChange(change) => {
                let is_next = change.version == conversation.group.state.version + 1;
                if id.group_id().is_some() && is_next {
                    let body = codec::encode_change_body(&change.record);
                    let name = (change.actor, MessageId::of_change(change.version));
                    conversation.push((id, record), EventKind::GroupChange, name, body);
                    let end = conversation.end();
                    conversation.group.change(&change, end);
                    if let Some(references) = shows(id, &change) {
                        expected.references.insert(record.offset, references);
                    }
                }
            }
        }
    }
    for (id, conversation) in conversations {
        if let Some(members) = id.direct_members().filter(|_| conversation.touched) {
            for user in members {
                let of = |user| conversation.marks.get(&user).copied().unwrap_or_default();
                let mut row = InboxRow::new(id);
                row.last = conversation.end();
                row.preview = conversation.events.last().map(codec::preview_of);
                row.own = of(user);
                row.peer = of(id.peer_of(user).unwrap());
                expected.rows.insert((user, id), row);
            }
        }
        expected.events.extend(conversation.events);
        if id.group_id().is_some() {
            expected.groups.insert(id, conversation.group);
        }
    }
    expected
}

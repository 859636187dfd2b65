//! Between the fan-out and what is in the log (`log.proto`).

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::log::v1::{self as log, GroupChangeKind};
use runtime::ids::{ConversationId, GroupId, InvalidId, MessageId, UserId};

/// The newest version of the records of `fanout` that this program understands.
pub(super) const SCHEMA_VERSION: u32 = 2;
/// The version of the records of `inbox` that it writes: the first one that knows of groups.
const INBOX_VERSION: u32 = 2;
/// The version of those that make a row deferred: who does not know that would show it as it is for ever.
const INBOX_VERSION_DEFERRED: u32 = 3;
/// The version of those whose preview has attachments: who does not know them would show an empty line.
const INBOX_VERSION_ATTACHMENTS: u32 = 4;
/// The version of those that say who is mentioned: who does not know them would tell nobody.
const INBOX_VERSION_MENTIONS: u32 = 5;

/// Why a record cannot be fanned out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    /// Written by a newer program: the partition stops.
    #[error("schema version {0} is newer than {SCHEMA_VERSION}")]
    Newer(u32),
    /// Cannot be decoded: a counted no-op, for every reader alike.
    #[error("malformed record")]
    Malformed,
}

impl From<InvalidId> for RecordError {
    fn from(_: InvalidId) -> Self {
        Self::Malformed
    }
}

/// What is to reach the members that a group had at a version.
#[derive(Debug, Clone)]
pub(super) struct Fan {
    pub(super) group: GroupId,
    pub(super) version: u64,
    pub(super) frame: Bytes,
    pub(super) except_session_id: u64,
    /// What changes the rows of their lists; none of marks.
    pub(super) event: Option<Event>,
    /// Of the request that it came from.
    pub(super) trace: Option<Bytes>,
}

impl Fan {
    pub(super) fn change(&self) -> Option<&Change> {
        match &self.event.as_ref()?.kind {
            Kind::Change(change) => Some(change),
            Kind::Message { .. } | Kind::Other => None,
        }
    }
}

/// A place in a conversation. Each part grows by itself, so that merging is the same in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) message_index: u64,
}

impl Place {
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            seq: self.seq.max(other.seq),
            message_index: self.message_index.max(other.message_index),
        }
    }
}

/// A numbered event.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What it is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Message {
        sender: UserId,
        preview: Arc<log::InboxPreview>,
        /// Who is mentioned.
        mentioned: Vec<UserId>,
        /// All are.
        mentions_all: bool,
    },
    Change(Change),
    /// Of a kind that only moves the end of the conversation.
    Other,
}

/// A change of a group, as far as it is about its members.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// Whom it is about, ascending, and whether they are members after it.
    pub(super) members: Vec<(UserId, bool)>,
    /// Whether it is of a kind that makes members. One who was not known as a member joins by it, and by
    /// no other: of a record that comes again, who has left since may be forgotten.
    pub(super) joins: bool,
    /// For the rows of those who join by it.
    pub(super) preview: Arc<log::InboxPreview>,
}

/// Reads a record of the topic `fanout`. What is kept of it is copied: the payload shares its memory
/// with the records around it.
pub(super) fn decode(payload: &[u8]) -> Result<Fan, RecordError> {
    let record = log::FanoutRecord::decode(payload).map_err(|_| RecordError::Malformed)?;
    match record.schema_version {
        0 => return Err(RecordError::Malformed),
        1..=SCHEMA_VERSION => {}
        newer => return Err(RecordError::Newer(newer)),
    }
    let group = ConversationId::from_slice(&record.conversation_id)?
        .group_id()
        .ok_or(RecordError::Malformed)?;
    if record.group_version == 0 {
        return Err(RecordError::Malformed);
    }
    let event = record
        .event
        .map(|event| decode_event(event, record.group_version));
    Ok(Fan {
        group,
        version: record.group_version,
        frame: record.frame,
        except_session_id: record.except_session_id,
        event: event.transpose()?,
        trace: None,
    })
}

fn decode_event(event: log::FanoutEvent, version: u64) -> Result<Event, RecordError> {
    let place = Place {
        seq: event.seq,
        message_index: event.message_index,
    };
    let kind = match (event.preview, event.change) {
        (Some(preview), None) => Kind::Message {
            sender: UserId::from_slice(&event.sender_id)?,
            preview: Arc::new(preview),
            mentioned: decode_users(&event.mentioned_ids)?,
            mentions_all: event.mentions_all,
        },
        (None, Some(change)) if change.version == version => Kind::Change(Change {
            joins: !matches!(
                change.kind(),
                GroupChangeKind::Updated
                    | GroupChangeKind::Removed
                    | GroupChangeKind::Left
                    | GroupChangeKind::Roles
            ),
            preview: Arc::new(log::InboxPreview {
                sender_id: UserId::from_slice(&change.actor_id)?.as_bytes().to_vec(),
                message_id: MessageId::of_change(version).as_bytes().to_vec(),
                seq: event.seq,
                time_unix_ms: event.time_unix_ms,
                text: String::new(),
                joined: true,
                attachment_count: 0,
                video_count: 0,
            }),
            members: decode_members(&change.members)?,
        }),
        (None, None) => Kind::Other,
        _ => return Err(RecordError::Malformed),
    };
    match place.seq {
        0 => Err(RecordError::Malformed),
        _ => Ok(Event { place, kind }),
    }
}

fn decode_users(ids: &[Vec<u8>]) -> Result<Vec<UserId>, InvalidId> {
    ids.iter().map(|id| UserId::from_slice(id)).collect()
}

fn decode_members(members: &[log::GroupMember]) -> Result<Vec<(UserId, bool)>, RecordError> {
    let read = |member: &log::GroupMember| {
        let user = UserId::from_slice(&member.user_id)?;
        Ok::<_, InvalidId>((user, member.role != 0))
    };
    let mut members = members.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    members.sort_unstable();
    let count = members.len();
    members.dedup_by_key(|(user, _)| *user);
    if members.len() == count {
        Ok(members)
    } else {
        Err(RecordError::Malformed)
    }
}

/// What a user's row of the group is at least at.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    pub(super) last: Place,
    pub(super) preview: Option<Arc<log::InboxPreview>>,
    /// How far the user has got, delivered and read alike.
    pub(super) own: Place,
    pub(super) joined_seq: u64,
    pub(super) left_seq: u64,
    /// From where on the row is completed when it is read; 0 = it is not said here.
    pub(super) deferred_seq: u64,
    /// The last message that mentions the user; 0 = it is not said here.
    pub(super) mentioned_seq: u64,
}

impl Row {
    /// The larger of each.
    pub(super) fn merged(self, other: Self) -> Self {
        let seq = |row: &Self| row.preview.as_ref().map(|preview| preview.seq);
        Self {
            last: self.last.max(other.last),
            own: self.own.max(other.own),
            joined_seq: self.joined_seq.max(other.joined_seq),
            left_seq: self.left_seq.max(other.left_seq),
            deferred_seq: self.deferred_seq.max(other.deferred_seq),
            mentioned_seq: self.mentioned_seq.max(other.mentioned_seq),
            preview: if seq(&other) > seq(&self) {
                other.preview
            } else {
                self.preview
            },
        }
    }

    /// The record of it, but for whose it is: [`finish`] puts that at its end. So what is the same for all
    /// members, who have no marks of their own then, is encoded once.
    pub(super) fn encode(&self, group: GroupId, owner: Option<UserId>) -> Vec<u8> {
        let own = owner.map(|user| log::Mark {
            user_id: user.as_bytes().to_vec(),
            delivered_seq: self.own.seq,
            delivered_message_index: self.own.message_index,
            read_seq: self.own.seq,
            read_message_index: self.own.message_index,
        });
        let preview = self.preview.as_deref();
        let has_attachments =
            preview.is_some_and(|preview| preview.attachment_count > 0 || preview.video_count > 0);
        let record = log::InboxRecord {
            schema_version: match (self.mentioned_seq, has_attachments, self.deferred_seq) {
                (1.., _, _) => INBOX_VERSION_MENTIONS,
                (0, true, _) => INBOX_VERSION_ATTACHMENTS,
                (0, false, 0) => INBOX_VERSION,
                (0, false, _) => INBOX_VERSION_DEFERRED,
            },
            user_id: Vec::new(),
            conversation_id: ConversationId::group(group).as_bytes().to_vec(),
            last_seq: self.last.seq,
            last_message_index: self.last.message_index,
            preview: preview.cloned(),
            own,
            peer: None,
            joined_seq: self.joined_seq,
            left_seq: self.left_seq,
            deferred_seq: self.deferred_seq,
            mentioned_seq: self.mentioned_seq,
        };
        record.encode_to_vec()
    }
}

/// The field `user_id` of an `InboxRecord`: number 2, of 16 bytes. Fields may come in any order.
const USER_ID_FIELD: [u8; 2] = [2 << 3 | 2, 16];

/// Key and payload of the record of one user.
pub(super) fn finish(row: &[u8], user: UserId) -> (Bytes, Bytes) {
    let id = user.as_bytes();
    let mut payload = Vec::with_capacity(row.len() + USER_ID_FIELD.len() + id.len());
    payload.extend_from_slice(row);
    payload.extend_from_slice(&USER_ID_FIELD);
    payload.extend_from_slice(id);
    let payload = Bytes::from(payload);
    (payload.slice(payload.len() - id.len()..), payload)
}

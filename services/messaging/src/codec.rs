//! Between the model and what is in the log (`log.proto`).

use bytes::Bytes;
use prost::Message;
use proto::log::v1 as log;
use runtime::ids::{ConversationId, InvalidId, MessageId, UserId};

use crate::{
    limits::PREVIEW_CHARS_MAX,
    model::{Event, InboxChange, InboxHead, InboxRow, Marks, Preview, Role, Watermark},
};

pub(crate) mod attachments;
mod references;

pub(crate) use attachments::are_attachments;
#[cfg(test)]
pub(crate) use references::REFERENCES_VERSION;
pub(crate) use references::{encode_barrier, encode_event_references, encode_group_picture};

/// The newest version of the records of `messages` that this program understands.
pub(crate) const SCHEMA_VERSION: u32 = VERSION_ATTACHMENTS;
/// The version of records that every program understands, and the one that knows of groups: a program
/// that does not must stop at a record of a group, instead of numbering differently.
const VERSION_DIRECT: u32 = 1;
const VERSION_GROUPS: u32 = 2;
/// The version that knows of attachments, of what is refused unless it is a duplicate, and of barriers.
const VERSION_ATTACHMENTS: u32 = 3;
/// The version of the records of `inbox` that make a row deferred (who does not know that would show the
/// row as it is for ever), and of those whose preview has attachments, which is the newest one.
const INBOX_VERSION_DEFERRED: u32 = 3;
const INBOX_VERSION_ATTACHMENTS: u32 = 4;
/// The newest one that is understood: it says who is mentioned, which no row keeps.
const INBOX_VERSION_MENTIONS: u32 = 5;
/// The versions of the records of the topic `fanout`: those whose preview has no attachments, and the
/// others.
pub(crate) const FANOUT_VERSION: u32 = 1;
pub(crate) const FANOUT_VERSION_ATTACHMENTS: u32 = 2;
/// The newest version of the records of `users` that this program understands.
const USERS_SCHEMA_VERSION: u32 = 2;

/// Why a record cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    /// Written by a newer program: the partition stops, since skipping it would change every seq
    /// after it.
    #[error("schema version {0} is newer than this program knows")]
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

/// A record of the topic `messages`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum MessagesRecord {
    /// Of a conversation.
    Conversation(ConversationRecord),
    /// Of none: receipts that expire at or before this time make no references in what comes after it.
    Barrier {
        /// In Unix milliseconds.
        as_of_unix_ms: i64,
    },
}

/// A record of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConversationRecord {
    /// Of which conversation.
    pub(crate) conversation: ConversationId,
    /// What is to happen in it.
    pub(crate) action: Action,
}

/// What is to happen in a conversation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// A message that a member wants in it.
    Send(Send),
    /// Watermarks that have grown.
    Marks(Vec<(UserId, Marks)>),
    /// A change of the group.
    GroupChange(Box<GroupChange>),
}

/// A change of a group on its way.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupChange {
    /// The version that the group is at with it; above 0.
    pub(crate) version: u64,
    /// Who did it.
    pub(crate) actor: UserId,
    /// Whose membership or role it changes, and to what; each once.
    pub(crate) members: Vec<(UserId, Option<Role>)>,
    /// The rules that hold after it.
    pub(crate) announcement: bool,
    /// Whether those who join by it or after it see all of the history.
    pub(crate) history_all: bool,
    /// As it came.
    pub(crate) record: log::GroupChange,
}

impl GroupChange {
    /// The name of its event.
    pub(crate) const fn name(&self) -> (UserId, MessageId) {
        (self.actor, MessageId::of_change(self.version))
    }
}

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Send {
    /// Who.
    pub(crate) sender: UserId,
    /// How the sender names it.
    pub(crate) message_id: MessageId,
    /// What the message says.
    pub(crate) body: MessageBody,
    /// The number of the `ErrorReason` for which it gets no place, unless it has one already; 0 = none.
    /// It goes into the verdict as it is: a reason that this program does not know is one for all.
    pub(crate) refused_unless_duplicate: u32,
    /// Who waits for the verdict.
    pub(crate) origin: Origin,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MessageBody {
    /// The text.
    pub(crate) text: String,
    /// Users who are mentioned; only in groups.
    pub(crate) mentioned: Vec<UserId>,
    /// All members are mentioned; only in groups.
    pub(crate) mentions_all: bool,
    /// Pictures and videos, at most [`crate::limits::ATTACHMENTS_MAX`], each once.
    pub(crate) attachments: Vec<log::Attachment>,
}

/// The session or the call that waits for a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Origin {
    /// The address of the edge.
    pub(crate) edge: String,
    /// The session; 0 = a unary call.
    pub(crate) session_id: u64,
    /// The edge's own number of the send.
    pub(crate) request_id: u64,
}

/// The oldest version in which a record of this conversation can be said.
fn version_of(conversation: ConversationId) -> u32 {
    match conversation.group_id() {
        Some(_) => VERSION_GROUPS,
        None => VERSION_DIRECT,
    }
}

/// The record of one send.
pub(crate) fn encode_send(conversation: ConversationId, send: Send) -> Bytes {
    let Send {
        sender,
        message_id,
        body,
        refused_unless_duplicate,
        origin,
    } = send;
    let record = log::MessagesRecord {
        schema_version: match body.attachments.is_empty() && refused_unless_duplicate == 0 {
            true => version_of(conversation),
            false => VERSION_ATTACHMENTS,
        },
        conversation_id: conversation.as_bytes().to_vec(),
        record: Some(log::messages_record::Record::Send(log::Send {
            sender_id: sender.as_bytes().to_vec(),
            message_id: message_id.as_bytes().to_vec(),
            text: body.text,
            origin: Some(log::Origin {
                edge: origin.edge,
                session_id: origin.session_id,
                request_id: origin.request_id,
            }),
            mentioned_ids: ids(&body.mentioned),
            mentions_all: body.mentions_all,
            attachments: body.attachments,
            refused_unless_duplicate,
        })),
    };
    record.encode_to_vec().into()
}

/// The record of watermarks of one conversation.
pub(crate) fn encode_marks(conversation: ConversationId, marks: &[(UserId, Marks)]) -> Bytes {
    let marks = marks
        .iter()
        .map(|(user, marks)| mark(*user, *marks))
        .collect();
    let record = log::MessagesRecord {
        schema_version: version_of(conversation),
        conversation_id: conversation.as_bytes().to_vec(),
        record: Some(log::messages_record::Record::Marks(log::Marks { marks })),
    };
    record.encode_to_vec().into()
}

/// Reads a record of the topic `messages`.
pub(crate) fn decode_messages(payload: &[u8]) -> Result<MessagesRecord, RecordError> {
    let record = log::MessagesRecord::decode(payload).map_err(|_| RecordError::Malformed)?;
    check_version(record.schema_version, SCHEMA_VERSION)?;
    // What a version does not have is not there, also for a program that knows a later one.
    let has_attachments = record.schema_version >= VERSION_ATTACHMENTS;
    if let Some(log::messages_record::Record::ReferenceBarrier(barrier)) = record.record {
        if !has_attachments || !record.conversation_id.is_empty() {
            return Err(RecordError::Malformed);
        }
        let as_of_unix_ms = barrier.as_of_unix_ms;
        return Ok(MessagesRecord::Barrier { as_of_unix_ms });
    }
    let conversation = ConversationId::from_slice(&record.conversation_id)?;
    let action = match record.record {
        Some(log::messages_record::Record::Send(send)) => {
            let origin = send.origin.unwrap_or_default();
            let (attachments, refused_unless_duplicate) = match has_attachments {
                true => (send.attachments, send.refused_unless_duplicate),
                false => (Vec::new(), 0),
            };
            if !are_attachments(&attachments) {
                return Err(RecordError::Malformed);
            }
            Action::Send(Send {
                sender: UserId::from_slice(&send.sender_id)?,
                message_id: MessageId::from_slice(&send.message_id)?,
                body: MessageBody {
                    text: send.text,
                    mentioned: user_ids(&send.mentioned_ids)?,
                    mentions_all: send.mentions_all,
                    attachments,
                },
                refused_unless_duplicate,
                origin: Origin {
                    edge: origin.edge,
                    session_id: origin.session_id,
                    request_id: origin.request_id,
                },
            })
        }
        Some(log::messages_record::Record::Marks(marks)) => {
            let read = |m: &log::Mark| Ok((UserId::from_slice(&m.user_id)?, marks_of(m)));
            let marks = marks
                .marks
                .iter()
                .map(read)
                .collect::<Result<_, InvalidId>>()?;
            Action::Marks(marks)
        }
        Some(log::messages_record::Record::GroupChange(record)) => {
            Action::GroupChange(Box::new(group_change(record)?))
        }
        Some(log::messages_record::Record::ReferenceBarrier(_)) | None => {
            return Err(RecordError::Malformed);
        }
    };
    Ok(MessagesRecord::Conversation(ConversationRecord {
        conversation,
        action,
    }))
}

/// Checks what the sequencer relies on.
fn group_change(record: log::GroupChange) -> Result<GroupChange, RecordError> {
    let rules = record.rules.ok_or(RecordError::Malformed)?;
    let mut members = Vec::with_capacity(record.members.len());
    for member in &record.members {
        let role = match member.role {
            0 => None,
            number => Some(Role::from_number(number).ok_or(RecordError::Malformed)?),
        };
        members.push((UserId::from_slice(&member.user_id)?, role));
    }
    members.sort_unstable_by_key(|(user, _)| *user);
    if record.version == 0 || members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(RecordError::Malformed);
    }
    Ok(GroupChange {
        version: record.version,
        actor: UserId::from_slice(&record.actor_id)?,
        members,
        announcement: rules.announcement,
        history_all: rules.history_all,
        record,
    })
}

/// The record of one change of an inbox.
pub(crate) fn encode_inbox(change: &InboxChange) -> Bytes {
    let preview = change.preview.as_ref().map(inbox_preview);
    let has_attachments = preview.as_ref().is_some_and(has_attachments);
    let peer = change
        .conversation
        .peer_of(change.user)
        .map(|peer| mark(peer, change.peer));
    let record = log::InboxRecord {
        schema_version: match (has_attachments, change.deferred_seq) {
            (true, _) => INBOX_VERSION_ATTACHMENTS,
            (false, 0) => version_of(change.conversation),
            (false, _) => INBOX_VERSION_DEFERRED,
        },
        user_id: change.user.as_bytes().to_vec(),
        conversation_id: change.conversation.as_bytes().to_vec(),
        last_seq: change.last.seq,
        last_message_index: change.last.message_index,
        preview,
        own: Some(mark(change.user, change.own)),
        peer,
        joined_seq: change.joined_seq,
        left_seq: change.left_seq,
        deferred_seq: change.deferred_seq,
        mentioned_seq: 0,
    };
    record.encode_to_vec().into()
}

/// The version of the records of `offline`.
const OFFLINE_VERSION: u32 = 1;

/// The record that says what a user is to be told of a row: of a message, its place among the messages and
/// the last one that mentions him; or that he has read.
pub(crate) fn encode_offline(
    user: UserId,
    head: InboxHead,
    row: &InboxRow,
    message: Option<(&Preview, u64, u64)>,
) -> Bytes {
    let record = log::OfflineRecord {
        schema_version: OFFLINE_VERSION,
        user_id: user.as_bytes().to_vec(),
        conversation_id: row.conversation.as_bytes().to_vec(),
        preview: message.map(|(preview, ..)| inbox_preview(preview)),
        message_index: message.map_or(0, |(_, index, _)| index),
        own: Some(mark(user, row.own)),
        unread_count: row.unread_count(),
        unread_total: head.unread_total,
        inbox_version: head.version,
        mentioned_seq: message.map_or(0, |(.., mentioned)| mentioned),
        // Nobody can mute a conversation yet, and every message can be read here.
        muted: false,
        opaque: false,
    };
    record.encode_to_vec().into()
}

/// Reads a record of the topic `inbox`.
pub(crate) fn decode_inbox(payload: &[u8]) -> Result<InboxChange, RecordError> {
    let record = log::InboxRecord::decode(payload).map_err(|_| RecordError::Malformed)?;
    check_version(record.schema_version, INBOX_VERSION_MENTIONS)?;
    let read_preview = |preview: log::InboxPreview| {
        Ok::<_, InvalidId>(Preview {
            sender: UserId::from_slice(&preview.sender_id)?,
            message_id: MessageId::from_slice(&preview.message_id)?,
            seq: preview.seq,
            time_unix_ms: preview.time_unix_ms,
            text: preview.text,
            joined: preview.joined,
            attachment_count: preview.attachment_count,
            video_count: preview.video_count,
        })
    };
    Ok(InboxChange {
        user: UserId::from_slice(&record.user_id)?,
        conversation: ConversationId::from_slice(&record.conversation_id)?,
        last: Watermark {
            seq: record.last_seq,
            message_index: record.last_message_index,
        },
        preview: record.preview.map(read_preview).transpose()?,
        own: record.own.as_ref().map(marks_of).unwrap_or_default(),
        peer: record.peer.as_ref().map(marks_of).unwrap_or_default(),
        joined_seq: record.joined_seq,
        left_seq: record.left_seq,
        deferred_seq: record.deferred_seq,
        mentioned_seq: record.mentioned_seq,
    })
}

/// What is to reach the members that a group has at a version, for the topic `fanout`.
pub(crate) fn encode_fanout(
    conversation: ConversationId,
    group_version: u64,
    frame: Bytes,
    except_session_id: u64,
    event: Option<log::FanoutEvent>,
) -> Bytes {
    let preview = event.as_ref().and_then(|event| event.preview.as_ref());
    let record = log::FanoutRecord {
        schema_version: match preview.is_some_and(has_attachments) {
            true => FANOUT_VERSION_ATTACHMENTS,
            false => FANOUT_VERSION,
        },
        conversation_id: conversation.as_bytes().to_vec(),
        group_version,
        frame,
        except_session_id,
        event,
    };
    record.encode_to_vec().into()
}

/// What an event changes in the lists of a group's members, and the version whose members they are: the
/// one that the event's own body names, so that a replay names the same.
pub(crate) fn fanout_event(event: &Event) -> (u64, log::FanoutEvent) {
    let mut fanout = log::FanoutEvent {
        seq: event.seq,
        message_index: event.message_index,
        time_unix_ms: event.time_unix_ms,
        sender_id: event.sender.as_bytes().to_vec(),
        ..log::FanoutEvent::default()
    };
    let group_version = match decode_body(&event.body) {
        Some(log::event_body::Kind::Message(body)) => {
            fanout.preview = Some(inbox_preview(&preview(event, body.text, &body.attachments)));
            fanout.mentioned_ids = body.mentioned_ids;
            fanout.mentions_all = body.mentions_all;
            body.group_version
        }
        Some(log::event_body::Kind::GroupChange(change)) => {
            let version = change.version;
            fanout.change = Some(change);
            version
        }
        None => 0,
    };
    (group_version, fanout)
}

/// A device that was logged out, from a record of the topic `users`.
pub(crate) fn decode_users(
    payload: &[u8],
) -> Result<Option<(UserId, runtime::ids::DeviceId)>, RecordError> {
    let record = log::UsersRecord::decode(payload).map_err(|_| RecordError::Malformed)?;
    check_version(record.schema_version, USERS_SCHEMA_VERSION)?;
    let user = UserId::from_slice(&record.user_id)?;
    match record.fact {
        Some(log::users_record::Fact::DeviceRevoked(fact)) => Ok(Some((
            user,
            runtime::ids::DeviceId::from_slice(&fact.device_id)?,
        ))),
        Some(log::users_record::Fact::PictureChanged(_)) | None => Ok(None),
    }
}

/// The body of a message event. `group_version` is that of the group when it gets its place; 0 in a
/// direct conversation.
pub(crate) fn encode_body(body: &MessageBody, group_version: u64) -> Bytes {
    let kind = log::event_body::Kind::Message(log::MessageBody {
        text: body.text.clone(),
        mentioned_ids: ids(&body.mentioned),
        mentions_all: body.mentions_all,
        group_version,
        attachments: body.attachments.clone(),
    });
    log::EventBody { kind: Some(kind) }.encode_to_vec().into()
}

/// The body of the event of a group's change.
pub(crate) fn encode_change_body(change: &log::GroupChange) -> Bytes {
    let kind = log::event_body::Kind::GroupChange(change.clone());
    log::EventBody { kind: Some(kind) }.encode_to_vec().into()
}

/// What an event says; `None` if the body is of a kind that this program does not know.
pub(crate) fn decode_body(body: &[u8]) -> Option<log::event_body::Kind> {
    log::EventBody::decode(body).ok().and_then(|body| body.kind)
}

/// The preview of a message event.
pub(crate) fn preview_of(event: &Event) -> Preview {
    match decode_body(&event.body) {
        Some(log::event_body::Kind::Message(body)) => preview(event, body.text, &body.attachments),
        _ => preview(event, String::new(), &[]),
    }
}

fn preview(event: &Event, mut text: String, attachments: &[log::Attachment]) -> Preview {
    if let Some((end, _)) = text.char_indices().nth(PREVIEW_CHARS_MAX) {
        text.truncate(end);
    }
    let videos = attachments.iter().filter(|a| attachments::is_video(a));
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Preview {
        sender: event.sender,
        message_id: event.message_id,
        seq: event.seq,
        time_unix_ms: event.time_unix_ms,
        text,
        joined: false,
        attachment_count: count(attachments.len()),
        video_count: count(videos.count()),
    }
}

const fn has_attachments(preview: &log::InboxPreview) -> bool {
    preview.attachment_count > 0 || preview.video_count > 0
}

fn inbox_preview(preview: &Preview) -> log::InboxPreview {
    log::InboxPreview {
        sender_id: preview.sender.as_bytes().to_vec(),
        message_id: preview.message_id.as_bytes().to_vec(),
        seq: preview.seq,
        time_unix_ms: preview.time_unix_ms,
        text: preview.text.clone(),
        joined: preview.joined,
        attachment_count: preview.attachment_count,
        video_count: preview.video_count,
    }
}

fn ids(users: &[UserId]) -> Vec<Vec<u8>> {
    users.iter().map(|user| user.as_bytes().to_vec()).collect()
}

fn user_ids(ids: &[Vec<u8>]) -> Result<Vec<UserId>, InvalidId> {
    ids.iter().map(|id| UserId::from_slice(id)).collect()
}

fn check_version(version: u32, newest: u32) -> Result<(), RecordError> {
    match version {
        0 => Err(RecordError::Malformed),
        newer if newer > newest => Err(RecordError::Newer(newer)),
        _ => Ok(()),
    }
}

fn mark(user: UserId, marks: Marks) -> log::Mark {
    log::Mark {
        user_id: user.as_bytes().to_vec(),
        delivered_seq: marks.delivered.seq,
        delivered_message_index: marks.delivered.message_index,
        read_seq: marks.read.seq,
        read_message_index: marks.read.message_index,
    }
}

fn marks_of(mark: &log::Mark) -> Marks {
    Marks {
        delivered: Watermark {
            seq: mark.delivered_seq,
            message_index: mark.delivered_message_index,
        },
        read: Watermark {
            seq: mark.read_seq,
            message_index: mark.read_message_index,
        },
    }
}

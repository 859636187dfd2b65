//! Between the model and what is on the wire (`messaging.proto`, `session_service.proto`).

use bytes::Bytes;
use prost::Message;
use proto::{
    log::v1 as log,
    messaging::v1::{self as wire, server_frame::Frame},
};
use runtime::ids::{BlobId, ConversationId, UserId};

use crate::{
    codec,
    model::{Event, InboxRow, Marks, Preview, Watermark},
};

/// A frame that answers no request, encoded.
pub(crate) fn push(frame: Frame) -> Bytes {
    answer(0, frame)
}

/// A frame that answers a request, encoded.
pub(crate) fn answer(request_id: u64, frame: Frame) -> Bytes {
    wire::ServerFrame {
        request_id,
        frame: Some(frame),
    }
    .encode_to_vec()
    .into()
}

/// An event as clients see it.
pub(crate) fn event(event: &Event) -> wire::Event {
    let kind = match codec::decode_body(&event.body) {
        Some(log::event_body::Kind::Message(body)) => {
            Some(wire::event::Kind::Message(wire::Message {
                message_id: event.message_id.to_string(),
                text: body.text,
                mentioned_user_ids: user_ids(&body.mentioned_ids),
                mentions_all: body.mentions_all,
                attachments: body
                    .attachments
                    .into_iter()
                    .filter_map(attachment)
                    .collect(),
            }))
        }
        Some(log::event_body::Kind::GroupChange(change)) => {
            Some(wire::event::Kind::GroupChange(group_change(change)))
        }
        None => None,
    };
    wire::Event {
        conversation_id: event.conversation.to_string(),
        seq: event.seq,
        message_index: event.message_index,
        time_unix_ms: event.time_unix_ms,
        sender_id: event.sender.to_string(),
        kind,
    }
}

fn group_change(change: log::GroupChange) -> wire::GroupChange {
    let info = change.info.unwrap_or_default();
    let member = |member: &log::GroupMember| {
        let user = UserId::from_slice(&member.user_id).ok()?;
        Some(wire::ChangedMember {
            user_id: user.to_string(),
            role: member.role,
        })
    };
    wire::GroupChange {
        version: change.version,
        // The numbers of both are the same.
        kind: change.kind,
        members: change.members.iter().filter_map(member).collect(),
        name: info.name,
        description: info.description,
        picture: info.picture,
        announcement: change.rules.is_some_and(|rules| rules.announcement),
        member_count: change.member_count,
    }
}

fn user_ids(ids: &[Vec<u8>]) -> Vec<String> {
    let text = |id: &Vec<u8>| Some(UserId::from_slice(id).ok()?.to_string());
    ids.iter().filter_map(text).collect()
}

/// An attachment as clients see it. The log has none whose id is not one.
fn attachment(attachment: log::Attachment) -> Option<wire::Attachment> {
    let blob_id = BlobId::from_slice(&attachment.blob_id).ok()?;
    let thumbnail = |thumbnail: log::AttachmentThumbnail| wire::AttachmentThumbnail {
        media_type: thumbnail.media_type,
        width: thumbnail.width,
        height: thumbnail.height,
        size_bytes: thumbnail.size_bytes,
    };
    Some(wire::Attachment {
        blob_id: blob_id.to_string(),
        media_type: attachment.media_type,
        size_bytes: attachment.size_bytes,
        sha256: attachment.sha256,
        width: attachment.width,
        height: attachment.height,
        placeholder: attachment.placeholder,
        small: attachment.small.map(thumbnail),
        large: attachment.large.map(thumbnail),
    })
}

/// A message as it is to be shown.
pub(crate) fn shown_message(event: &Event) -> wire::ShownMessage {
    let body = match codec::decode_body(&event.body) {
        Some(log::event_body::Kind::Message(body)) => body,
        _ => log::MessageBody::default(),
    };
    wire::ShownMessage {
        message_index: event.message_index,
        seq: event.seq,
        time_unix_ms: event.time_unix_ms,
        sender_id: event.sender.to_string(),
        message_id: event.message_id.to_string(),
        text: body.text,
        mentioned_user_ids: user_ids(&body.mentioned_ids),
        mentions_all: body.mentions_all,
        attachments: body
            .attachments
            .into_iter()
            .filter_map(attachment)
            .collect(),
    }
}

/// The watermarks of one member.
pub(crate) fn member_marks(user: UserId, marks: Marks) -> wire::MemberMarks {
    wire::MemberMarks {
        user_id: user.to_string(),
        delivered: Some(watermark(marks.delivered)),
        read: Some(watermark(marks.read)),
    }
}

/// The watermarks of some members, as a pushed frame.
pub(crate) fn marks(conversation: ConversationId, members: &[(UserId, Marks)]) -> Bytes {
    push(Frame::Marks(wire::Marks {
        conversation_id: conversation.to_string(),
        members: members
            .iter()
            .map(|(user, marks)| member_marks(*user, *marks))
            .collect(),
    }))
}

/// A row of `user`'s list, without the profile of the peer.
pub(crate) fn conversation(user: UserId, row: &InboxRow) -> wire::Conversation {
    let peer = row.conversation.peer_of(user);
    wire::Conversation {
        conversation_id: row.conversation.to_string(),
        version: row.version,
        last_seq: row.last.seq,
        last_message_index: row.last.message_index,
        preview: row.preview.as_ref().map(preview),
        unread_count: row.unread_count(),
        // The end of a deferred row is as old as its last record; the marks are not.
        own_marks: Some(match row.is_deferred() {
            true => member_marks(user, row.own),
            false => member_marks(user, row.own.up_to(row.last)),
        }),
        peer: None,
        // While a partition is replayed, marks may be known before the messages that they are about.
        peer_marks: peer.map(|peer| member_marks(peer, row.peer.up_to(row.last))),
        group: None,
        left: row.has_left(),
        deferred: row.is_deferred(),
    }
}

fn preview(preview: &Preview) -> wire::Preview {
    wire::Preview {
        sender_id: preview.sender.to_string(),
        message_id: match preview.joined {
            true => String::new(),
            false => preview.message_id.to_string(),
        },
        seq: preview.seq,
        time_unix_ms: preview.time_unix_ms,
        text: preview.text.clone(),
        joined: preview.joined,
        attachment_count: preview.attachment_count,
        video_count: preview.video_count,
    }
}

fn watermark(mark: Watermark) -> wire::Watermark {
    wire::Watermark {
        seq: mark.seq,
        message_index: mark.message_index,
    }
}

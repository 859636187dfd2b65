//! Attachments as records have them.

use std::collections::HashSet;

use proto::log::v1 as log;
use runtime::ids::BlobId;

use crate::limits::ATTACHMENTS_MAX;

/// Bytes of a SHA-256.
const SHA256_BYTES: usize = 32;

/// Whether these can be the attachments of one message. An edge appends no others, and of any other
/// record every reader makes the same: nothing.
pub(crate) fn are_attachments(attachments: &[log::Attachment]) -> bool {
    let mut blobs = HashSet::with_capacity(attachments.len());
    let mut is_attachment = |attachment: &log::Attachment| {
        let blob = BlobId::from_slice(&attachment.blob_id);
        attachment.sha256.len() == SHA256_BYTES && blob.is_ok_and(|blob| blobs.insert(blob))
    };
    attachments.len() <= ATTACHMENTS_MAX && attachments.iter().all(&mut is_attachment)
}

/// Whether it is a video and not a picture.
pub(super) fn is_video(attachment: &log::Attachment) -> bool {
    attachment.media_type.starts_with("video/")
}

#[cfg(test)]
pub(crate) mod tests {
    use prost::Message;
    use runtime::ids::{ConversationId, GroupId, MessageId, UserId};

    use super::*;
    use crate::codec::{
        Action, ConversationRecord, MessageBody, MessagesRecord, Origin, RecordError, Send,
        decode_messages, encode_send,
    };

    /// Some attachment of this blob; every third is a video.
    pub(crate) fn attachment(number: u8) -> log::Attachment {
        let media_type = match number % 3 {
            0 => "video/mp4",
            _ => "image/jpeg",
        };
        log::Attachment {
            blob_id: vec![number; 16],
            media_type: media_type.to_owned(),
            size_bytes: 1_000 * u64::from(number),
            sha256: vec![number; 32],
            ..log::Attachment::default()
        }
    }

    fn send(attachments: Vec<log::Attachment>, refused_unless_duplicate: u32) -> Send {
        Send {
            sender: UserId::from_bytes([1; 16]),
            message_id: MessageId::from_bytes([2; 16]),
            body: MessageBody {
                attachments,
                ..MessageBody::default()
            },
            refused_unless_duplicate,
            origin: Origin::default(),
        }
    }

    fn conversation() -> ConversationId {
        ConversationId::group(GroupId::from_bytes([7; 16]))
    }

    fn record(send: Send) -> log::MessagesRecord {
        log::MessagesRecord::decode(encode_send(conversation(), send)).unwrap()
    }

    fn decode(record: &log::MessagesRecord) -> Result<MessagesRecord, RecordError> {
        decode_messages(&record.encode_to_vec())
    }

    #[test]
    fn a_send_with_attachments_stops_who_does_not_know_them_and_no_other_does() {
        for (attachments, refused, version) in [
            (vec![], 0, 2),
            (vec![], 57, 3),
            (vec![attachment(1)], 0, 3),
            (vec![attachment(1), attachment(2)], 57, 3),
        ] {
            let send = send(attachments, refused);
            let record = record(send.clone());
            assert_eq!(record.schema_version, version);
            let expected = MessagesRecord::Conversation(ConversationRecord {
                conversation: conversation(),
                action: Action::Send(send),
            });
            assert_eq!(decode(&record), Ok(expected));
        }
    }

    #[test]
    fn what_a_version_does_not_have_is_not_there() {
        let mut older = record(send(vec![attachment(1)], 57));
        older.schema_version = 2;
        assert_eq!(decode(&older), decode(&record(send(vec![], 0))));
    }

    #[test]
    fn attachments_that_no_edge_appends_make_a_record_malformed() {
        let mut bad_id = attachment(1);
        bad_id.blob_id.pop();
        let mut bad_hash = attachment(1);
        bad_hash.sha256.push(0);
        let most = ATTACHMENTS_MAX as u8;
        let all: Vec<_> = (1..=most).map(attachment).collect();
        assert!(decode(&record(send(all, 0))).is_ok());
        for attachments in [
            vec![bad_id],
            vec![attachment(2), bad_hash],
            (1..=most + 1).map(attachment).collect(),
            vec![attachment(1), attachment(2), attachment(1)],
        ] {
            let decoded = decode(&record(send(attachments, 0)));
            assert_eq!(decoded, Err(RecordError::Malformed));
        }
    }
}

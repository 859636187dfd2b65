//! Records of the topic `references`: what refers to blobs.

use bytes::Bytes;
use prost::Message;
use proto::log::v1::{self as log, references_record::Record};
use runtime::ids::{BlobId, ConversationId};

/// The version of the records of `references`.
pub(crate) const REFERENCES_VERSION: u32 = 1;

/// The blobs of a message.
pub(crate) fn encode_event_references(
    conversation: ConversationId,
    seq: u64,
    attachments: &[log::Attachment],
) -> Bytes {
    let blob_ids = attachments.iter().map(|a| a.blob_id.clone());
    encode(Record::Event(log::EventReferences {
        conversation_id: conversation.as_bytes().to_vec(),
        seq,
        blob_ids: blob_ids.collect(),
        removed: false,
    }))
}

/// The picture that a group has from a change on; `None` if the change is about something else, or names
/// no blob.
pub(crate) fn encode_group_picture(
    conversation: ConversationId,
    change: &log::GroupChange,
) -> Option<Bytes> {
    let group = conversation.group_id()?;
    let blob_id = match change.info.as_ref()?.picture.as_deref()? {
        "" => Vec::new(),
        text => BlobId::parse(text).ok()?.as_bytes().to_vec(),
    };
    Some(encode(Record::GroupPicture(log::GroupPicture {
        group_id: group.as_bytes().to_vec(),
        version: change.version,
        blob_id,
    })))
}

/// A barrier that is passed on.
pub(crate) fn encode_barrier(as_of_unix_ms: i64) -> Bytes {
    encode(Record::Barrier(log::ReferenceBarrier { as_of_unix_ms }))
}

fn encode(record: Record) -> Bytes {
    let record = log::ReferencesRecord {
        schema_version: REFERENCES_VERSION,
        record: Some(record),
    };
    record.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use runtime::ids::{GroupId, UserId};

    use super::*;
    use crate::codec::{MessagesRecord, RecordError, decode_messages};

    fn picture_of(picture: Option<&str>) -> Option<Vec<u8>> {
        let change = log::GroupChange {
            version: 4,
            info: Some(log::GroupInfoChange {
                picture: picture.map(str::to_owned),
                ..log::GroupInfoChange::default()
            }),
            ..log::GroupChange::default()
        };
        let group = ConversationId::group(GroupId::from_bytes([7; 16]));
        let payload = encode_group_picture(group, &change)?;
        let record = log::ReferencesRecord::decode(payload).unwrap();
        match record.record {
            Some(Record::GroupPicture(picture)) if picture.version == 4 => Some(picture.blob_id),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_picture_of_a_group_is_a_blob_or_none_and_nothing_else() {
        let blob = BlobId::from_bytes([3; 16]);
        let text = blob.to_string();
        assert_eq!(picture_of(Some(&text)), Some(blob.as_bytes().to_vec()));
        assert_eq!(picture_of(Some("")), Some(Vec::new()));
        // As they were before there were blobs.
        assert_eq!(picture_of(Some("https://example.org/a.png")), None);
        assert_eq!(picture_of(None), None);
    }

    #[test]
    fn a_barrier_is_of_no_conversation_and_of_no_older_version() {
        let mut record = log::MessagesRecord {
            schema_version: 3,
            conversation_id: Vec::new(),
            record: Some(log::messages_record::Record::ReferenceBarrier(
                log::ReferenceBarrier { as_of_unix_ms: 5 },
            )),
        };
        let decode = |record: &log::MessagesRecord| decode_messages(&record.encode_to_vec());
        let as_of_unix_ms = 5;
        let barrier = Ok(MessagesRecord::Barrier { as_of_unix_ms });
        assert_eq!(decode(&record), barrier);
        let (one, other) = ([1; 16], [2; 16]);
        let (one, other) = (UserId::from_bytes(one), UserId::from_bytes(other));
        let direct = ConversationId::direct(one, other).unwrap();
        record.conversation_id = direct.as_bytes().to_vec();
        assert_eq!(decode(&record), Err(RecordError::Malformed));
        record.conversation_id.clear();
        record.schema_version = 2;
        assert_eq!(decode(&record), Err(RecordError::Malformed));
    }
}

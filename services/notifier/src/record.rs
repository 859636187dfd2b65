//! What a record of `offline` says.

use bytes::Bytes;
use prost::Message as _;
use proto::log::v1 as log;
use runtime::ids::{ConversationId, InvalidId, UserId};

use crate::model::Subject;

/// The newest version of the records that this program understands.
pub(crate) const OFFLINE_VERSION: u32 = 1;

/// Why a record cannot be dealt with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    /// Written by a newer program: the partition stops, nothing is skipped.
    #[error("schema version {0} is newer than this program knows")]
    Newer(u32),
    /// Cannot be decoded: a counted no-op.
    #[error("malformed record")]
    Malformed,
}

impl From<InvalidId> for RecordError {
    fn from(_: InvalidId) -> Self {
        Self::Malformed
    }
}

/// What a user is to be told of one conversation.
#[derive(Clone, PartialEq)]
pub(crate) struct Offline {
    /// Who, and of what.
    pub(crate) subject: Subject,
    /// The newest message; `None` = nothing is to be shown.
    pub(crate) message: Option<Message>,
    /// What was read on another device, if the record is about that; otherwise 0.
    pub(crate) read_seq: u64,
    /// The version of the user's inbox that the record was made at.
    pub(crate) inbox_version: u64,
}

/// The newest message, as the record has it.
#[derive(Clone, PartialEq)]
pub(crate) struct Message {
    /// Who wrote it.
    pub(crate) sender: UserId,
    /// Its place.
    pub(crate) seq: u64,
    /// The last message that mentions the user; 0 = none.
    pub(crate) mentioned_seq: u64,
    /// The conversation was muted.
    pub(crate) muted: bool,
    /// Nothing of it can be read here.
    pub(crate) opaque: bool,
    /// Its beginning.
    pub(crate) text: String,
    /// Pictures and videos.
    pub(crate) attachment_count: u32,
    /// How many of them are videos.
    pub(crate) video_count: u32,
    /// The record that brought it, to come again later.
    pub(crate) payload: Bytes,
}

impl Offline {
    /// Reads a record.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        let record = log::OfflineRecord::decode(payload).map_err(|_| RecordError::Malformed)?;
        if record.schema_version == 0 {
            return Err(RecordError::Malformed);
        }
        if record.schema_version > OFFLINE_VERSION {
            return Err(RecordError::Newer(record.schema_version));
        }
        let subject = Subject {
            user: UserId::from_slice(&record.user_id)?,
            conversation: ConversationId::from_slice(&record.conversation_id)?,
        };
        let message = match record.preview {
            Some(preview) => Some(Message {
                sender: UserId::from_slice(&preview.sender_id)?,
                seq: preview.seq,
                mentioned_seq: record.mentioned_seq,
                muted: record.muted,
                opaque: record.opaque,
                text: preview.text,
                attachment_count: preview.attachment_count,
                video_count: preview.video_count,
                payload: Bytes::copy_from_slice(payload),
            }),
            None => None,
        };
        let read_seq = match &message {
            Some(_) => 0,
            None => record.own.map_or(0, |own| own.read_seq),
        };
        Ok(Self {
            subject,
            message,
            read_seq,
            inbox_version: record.inbox_version,
        })
    }

    /// Takes over what a later record about the same says: one notification shows both.
    pub(crate) fn merge(&mut self, later: Self) {
        self.read_seq = self.read_seq.max(later.read_seq);
        self.inbox_version = self.inbox_version.max(later.inbox_version);
        let Some(mut message) = later.message else {
            return;
        };
        match &mut self.message {
            Some(held) if held.seq > message.seq => {
                held.mentioned_seq = held.mentioned_seq.max(message.mentioned_seq);
            }
            held => {
                let mentioned = held.as_ref().map_or(0, |held| held.mentioned_seq);
                message.mentioned_seq = message.mentioned_seq.max(mentioned);
                *held = Some(message);
            }
        }
    }

    /// The record to come again later: what is merged into it, it says too.
    pub(crate) fn to_hold(&self) -> Option<(u64, Bytes)> {
        let message = self.message.as_ref()?;
        let mut record = log::OfflineRecord::decode(message.payload.clone()).ok()?;
        record.mentioned_seq = message.mentioned_seq;
        record.inbox_version = self.inbox_version;
        Some((message.seq, record.encode_to_vec().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: u64, mentioned_seq: u64) -> log::OfflineRecord {
        let [one, other] = [[1; 16], [2; 16]].map(UserId::from_bytes);
        let conversation = ConversationId::direct(one, other).unwrap();
        log::OfflineRecord {
            schema_version: OFFLINE_VERSION,
            user_id: one.as_bytes().to_vec(),
            conversation_id: conversation.as_bytes().to_vec(),
            preview: Some(log::InboxPreview {
                sender_id: other.as_bytes().to_vec(),
                seq,
                text: format!("message {seq}"),
                ..log::InboxPreview::default()
            }),
            mentioned_seq,
            inbox_version: seq * 10,
            ..log::OfflineRecord::default()
        }
    }

    fn decode(record: &log::OfflineRecord) -> Result<Offline, RecordError> {
        Offline::decode(&record.encode_to_vec())
    }

    #[test]
    fn records_in_any_order_make_the_notification_of_the_newest_message() {
        for order in [[3, 5], [5, 3]] {
            let [mut first, second] = order.map(|seq| decode(&record(seq, 0)).ok().unwrap());
            first.merge(second);
            let message = first.message.as_ref().unwrap();
            assert_eq!((message.seq, message.text.as_str()), (5, "message 5"));
            assert_eq!(first.inbox_version, 50);
        }
    }

    #[test]
    fn a_mention_is_kept_by_what_is_merged_and_by_what_comes_again_later() {
        for order in [[(3, 3), (5, 0)], [(5, 0), (3, 3)]] {
            let [mut first, second] = order.map(|(seq, m)| decode(&record(seq, m)).ok().unwrap());
            first.merge(second);
            let (seq, payload) = first.to_hold().unwrap();
            let again = Offline::decode(&payload).ok().unwrap();
            assert_eq!(seq, 5);
            assert_eq!(again.message.unwrap().mentioned_seq, 3);
        }
    }

    #[test]
    fn a_newer_record_stops_the_reader_and_a_damaged_one_does_not() {
        let mut newer = record(1, 0);
        newer.schema_version = OFFLINE_VERSION + 1;
        assert_eq!(decode(&newer).err(), Some(RecordError::Newer(2)));
        let mut damaged = record(1, 0);
        damaged.user_id.pop();
        assert_eq!(decode(&damaged).err(), Some(RecordError::Malformed));
        assert_eq!(
            Offline::decode(b"\xff\xff").err(),
            Some(RecordError::Malformed)
        );
        assert_eq!(Offline::decode(b"").err(), Some(RecordError::Malformed));
    }
}

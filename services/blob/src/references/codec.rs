//! From records of the log to what they say.

use event_log::Topic;
use prost::Message;
use proto::log::v1::{
    self as log, ReferencesRecord, UsersRecord, references_record::Record, users_record::Fact,
};
use runtime::ids::{BlobId, ConversationId, GroupId, InvalidId, UserId};

use crate::model::{PictureOf, Reference};

/// The newest version of [`ReferencesRecord`] that this program knows.
const REFERENCES_VERSION: u32 = 1;
/// The newest version of [`UsersRecord`] that this program knows.
const USERS_VERSION: u32 = 2;

/// What a record says to this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Reference(Reference),
    Barrier {
        as_of_unix_ms: i64,
    },
    /// Something that is for others.
    Nothing,
}

/// Why a record says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// For every reader alike.
    Malformed,
    /// A newer program has written it.
    Newer(u32),
}

impl From<InvalidId> for RecordError {
    fn from(_: InvalidId) -> Self {
        Self::Malformed
    }
}

/// What a record of `references` or `users` says.
pub(crate) fn decode(topic: Topic, payload: &[u8]) -> Result<Said, RecordError> {
    match topic {
        Topic::References => decode_references(payload),
        Topic::Users => decode_users(payload),
        _ => Ok(Said::Nothing),
    }
}

fn decode_references(payload: &[u8]) -> Result<Said, RecordError> {
    let record = ReferencesRecord::decode(payload).map_err(|_| RecordError::Malformed)?;
    check_version(record.schema_version, REFERENCES_VERSION)?;
    match record.record.ok_or(RecordError::Malformed)? {
        Record::Event(event) => decode_event(&event),
        Record::GroupPicture(picture) => {
            let of = PictureOf::Group(GroupId::from_slice(&picture.group_id)?);
            decode_picture(of, picture.version, &picture.blob_id)
        }
        Record::Barrier(barrier) => Ok(Said::Barrier {
            as_of_unix_ms: barrier.as_of_unix_ms,
        }),
    }
}

fn decode_users(payload: &[u8]) -> Result<Said, RecordError> {
    let record = UsersRecord::decode(payload).map_err(|_| RecordError::Malformed)?;
    check_version(record.schema_version, USERS_VERSION)?;
    match record.fact {
        Some(Fact::PictureChanged(picture)) => {
            let of = PictureOf::User(UserId::from_slice(&record.user_id)?);
            decode_picture(of, picture.version, &picture.blob_id)
        }
        Some(Fact::DeviceRevoked(_)) | None => Ok(Said::Nothing),
    }
}

fn decode_event(event: &log::EventReferences) -> Result<Said, RecordError> {
    let blobs = event.blob_ids.iter().map(|id| BlobId::from_slice(id));
    Ok(Said::Reference(Reference::Event {
        conversation: ConversationId::from_slice(&event.conversation_id)?,
        seq: event.seq,
        blobs: blobs.collect::<Result<_, _>>()?,
        removed: event.removed,
    }))
}

fn decode_picture(of: PictureOf, version: u64, blob_id: &[u8]) -> Result<Said, RecordError> {
    // Versions are counted from 1; a store holds no larger one than this.
    i64::try_from(version).map_err(|_| RecordError::Malformed)?;
    let blob = match blob_id {
        [] => None,
        id => Some(BlobId::from_slice(id)?),
    };
    Ok(Said::Reference(Reference::Picture { of, version, blob }))
}

fn check_version(version: u32, known: u32) -> Result<(), RecordError> {
    match version {
        0 => Err(RecordError::Malformed),
        version if version > known => Err(RecordError::Newer(version)),
        _ => Ok(()),
    }
}

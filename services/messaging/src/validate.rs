//! What a client may say: checked here once, for sessions and for calls.

use proto::{error::v1::ErrorReason, messaging::v1 as wire};
use runtime::{
    ids::{ConversationId, InvalidId, MessageId, UserId},
    status::ApiError,
};

use crate::{
    limits::{MENTIONS_MAX, TEXT_CHARS_MAX},
    model::Watermark,
};

/// A conversation that `user` may be a member of: of a group, only the log knows.
pub(crate) fn conversation(
    user: UserId,
    text: &str,
    field: &str,
) -> Result<ConversationId, ApiError> {
    let conversation = id(text, field, ConversationId::parse)?;
    if conversation.group_id().is_none() && conversation.peer_of(user).is_none() {
        return Err(ApiError::field(
            ErrorReason::NotAMember,
            field,
            "the caller is not a member of the conversation",
        ));
    }
    Ok(conversation)
}

/// The error for a conversation with a user who does not exist.
pub(crate) fn no_such_conversation(field: &str) -> ApiError {
    ApiError::field(
        ErrorReason::ConversationNotFound,
        field,
        "there is no such conversation",
    )
}

/// The error for a group that `user` never was a member of, or is not any more.
pub(crate) fn not_a_member(field: &str) -> ApiError {
    ApiError::field(
        ErrorReason::NotAMember,
        field,
        "the caller is not a member of the conversation",
    )
}

/// The name of a message.
pub(crate) fn message_id(text: &str, field: &str) -> Result<MessageId, ApiError> {
    let message_id = id(text, field, MessageId::parse)?;
    if message_id.is_of_change() {
        return Err(ApiError::field(
            ErrorReason::FieldMalformed,
            field,
            "the first eight bytes must not be all zeros",
        ));
    }
    Ok(message_id)
}

/// Who is mentioned; each once. Whether they are members is the sequencer's to judge.
pub(crate) fn mentions(
    conversation: ConversationId,
    user_ids: &[String],
    all: bool,
    field: &str,
) -> Result<Vec<UserId>, ApiError> {
    if user_ids.is_empty() && !all {
        return Ok(Vec::new());
    }
    let out_of_range = |why: String| ApiError::field(ErrorReason::FieldOutOfRange, field, why);
    if conversation.group_id().is_none() {
        return Err(out_of_range("mentions are of groups only".to_owned()));
    }
    if user_ids.len() > MENTIONS_MAX {
        let why = format!("at most {MENTIONS_MAX} users are mentioned one by one");
        return Err(out_of_range(why));
    }
    let mut users = Vec::with_capacity(user_ids.len());
    for text in user_ids {
        users.push(user_id(text, field)?);
    }
    users.sort_unstable();
    users.dedup();
    Ok(users)
}

/// A user.
pub(crate) fn user_id(text: &str, field: &str) -> Result<UserId, ApiError> {
    id(text, field, UserId::parse)
}

fn id<T>(
    text: &str,
    field: &str,
    parse: impl FnOnce(&str) -> Result<T, InvalidId>,
) -> Result<T, ApiError> {
    if text.is_empty() {
        return Err(ApiError::field(
            ErrorReason::FieldRequired,
            field,
            "required",
        ));
    }
    parse(text)
        .map_err(|error| ApiError::field(ErrorReason::FieldMalformed, field, error.to_string()))
}

/// The text of a message (F1), which only one with attachments may lack.
pub(crate) fn text(text: &str, is_required: bool, field: &str) -> Result<(), ApiError> {
    if text.is_empty() && is_required {
        return Err(ApiError::field(
            ErrorReason::FieldRequired,
            field,
            "a message has a text or attachments",
        ));
    }
    // A character has at least one byte, so most texts need no counting.
    if text.len() > TEXT_CHARS_MAX {
        let chars = text.chars().count();
        if chars > TEXT_CHARS_MAX {
            return Err(ApiError::field(
                ErrorReason::TextTooLong,
                field,
                format!("{chars} characters; at most {TEXT_CHARS_MAX} are allowed"),
            ));
        }
    }
    if text.contains('\0') {
        return Err(ApiError::field(
            ErrorReason::TextNotStorable,
            field,
            "the text contains U+0000",
        ));
    }
    Ok(())
}

/// A watermark, which must be there and name an event.
pub(crate) fn watermark(mark: Option<wire::Watermark>, field: &str) -> Result<Watermark, ApiError> {
    let Some(mark) = mark.filter(|mark| mark.seq > 0) else {
        return Err(ApiError::field(
            ErrorReason::FieldRequired,
            field,
            "seq and message_index of an event are required",
        ));
    };
    if mark.message_index > mark.seq {
        return Err(ApiError::field(
            ErrorReason::FieldOutOfRange,
            field,
            "message_index is never above seq",
        ));
    }
    Ok(Watermark {
        seq: mark.seq,
        message_index: mark.message_index,
    })
}

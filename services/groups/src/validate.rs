//! The forms that the contract gives to fields, as one function each.

use std::{collections::HashSet, time::Duration};

use proto::{error::v1::ErrorReason, groups::v1 as pb};
use runtime::{
    ids::{GroupId, UserId},
    status::ApiError,
};
use uuid::Uuid;

use crate::model::{Role, Settings};

/// Unicode scalar values of a name: a line on a screen.
const NAME_CHARS_MAX: usize = 100;
/// Unicode scalar values of a description: some lines.
const DESCRIPTION_CHARS_MAX: usize = 512;
/// Users in one call: each may cost a question to profile, and all of them are in one record of the log.
const USERS_PER_CALL_MAX: usize = 200;
/// Groups in one question of another service: a page of a list.
const GROUPS_PER_CALL_MAX: usize = 500;
/// How long an invitation may be good: who wants it for longer takes one without an end, and knows it.
const INVITATION_SECONDS_MAX: u32 = 365 * 24 * 60 * 60;

fn required(field: &str) -> ApiError {
    ApiError::field(ErrorReason::FieldRequired, field, "must not be empty")
}

fn malformed(field: &str, message: &str) -> ApiError {
    ApiError::field(ErrorReason::FieldMalformed, field, message)
}

fn out_of_range(field: &str, message: String) -> ApiError {
    ApiError::field(ErrorReason::FieldOutOfRange, field, message)
}

fn text(
    text: &str,
    field: &str,
    chars_max: usize,
    refused: impl Fn(char) -> bool,
) -> Result<String, ApiError> {
    let text = text.trim();
    // Bytes first: counting characters reads all of it.
    if text.len() > chars_max * 4 || text.chars().count() > chars_max {
        let message = format!("at most {chars_max} characters");
        return Err(ApiError::field(ErrorReason::TextTooLong, field, message));
    }
    if text.contains('\0') {
        let message = "must not contain U+0000";
        return Err(ApiError::field(
            ErrorReason::TextNotStorable,
            field,
            message,
        ));
    }
    if text.chars().any(refused) {
        return Err(malformed(field, "no control characters"));
    }
    Ok(text.to_owned())
}

/// A name, without spaces around it.
pub(crate) fn name(name: &str) -> Result<String, ApiError> {
    let name = text(name, "name", NAME_CHARS_MAX, char::is_control)?;
    if name.is_empty() {
        return Err(required("name"));
    }
    Ok(name)
}

/// A description, without spaces around it; may be empty and have several lines.
pub(crate) fn description(description: &str) -> Result<String, ApiError> {
    let refused = |c: char| c.is_control() && c != '\n' && c != '\r';
    text(description, "description", DESCRIPTION_CHARS_MAX, refused)
}

/// Settings; absent is all of them off.
pub(crate) fn settings(settings: Option<&pb::GroupSettings>) -> Result<Settings, ApiError> {
    let Some(settings) = settings else {
        return Ok(Settings::default());
    };
    let access = pb::HistoryAccess::try_from(settings.history_access)
        .map_err(|_| malformed("settings.history_access", "not a value of HistoryAccess"))?;
    Ok(Settings {
        history_all: access == pb::HistoryAccess::All,
        announcement: settings.announcement,
        info_by_admins: settings.info_by_admins,
        add_by_admins: settings.add_by_admins,
        approve_joining: settings.approve_joining,
    })
}

/// A role that can be given.
pub(crate) fn role(number: i32) -> Result<Role, ApiError> {
    match pb::Role::try_from(number) {
        Ok(pb::Role::Member) => Ok(Role::Member),
        Ok(pb::Role::Admin) => Ok(Role::Admin),
        Ok(pb::Role::Unspecified) => Err(required("role")),
        Ok(pb::Role::Owner) | Err(_) => Err(malformed("role", "ROLE_MEMBER or ROLE_ADMIN")),
    }
}

/// A UUID in text: an id that has no type of its own.
pub(crate) fn uuid(text: &str, field: &str) -> Result<Uuid, ApiError> {
    if text.is_empty() {
        return Err(required(field));
    }
    let id = GroupId::parse(text).map_err(|_| malformed(field, "a UUID in text"))?;
    Ok(Uuid::from_bytes(*id.as_bytes()))
}

/// A group's id.
pub(crate) fn group_id(text: &str) -> Result<GroupId, ApiError> {
    let id = uuid(text, "group_id")?;
    Ok(GroupId::from_bytes(id.into_bytes()))
}

/// A user's id.
pub(crate) fn user_id(text: &str, field: &str) -> Result<UserId, ApiError> {
    let id = uuid(text, field)?;
    Ok(UserId::from_bytes(id.into_bytes()))
}

/// The users of a call, each once.
pub(crate) fn user_ids(texts: &[String]) -> Result<Vec<UserId>, ApiError> {
    const FIELD: &str = "user_ids";
    if texts.len() > USERS_PER_CALL_MAX {
        let message = format!("at most {USERS_PER_CALL_MAX} ids");
        return Err(out_of_range(FIELD, message));
    }
    let mut seen = HashSet::with_capacity(texts.len());
    let mut ids = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let id = user_id(text, &format!("{FIELD}[{index}]"))?;
        if seen.insert(id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// The same, of a call that makes no sense without one.
pub(crate) fn some_user_ids(texts: &[String]) -> Result<Vec<UserId>, ApiError> {
    if texts.is_empty() {
        return Err(required("user_ids"));
    }
    user_ids(texts)
}

/// The groups that another service asks for.
pub(crate) fn group_ids(ids: &[Vec<u8>]) -> Result<Vec<GroupId>, ApiError> {
    const FIELD: &str = "group_ids";
    if ids.is_empty() {
        return Err(required(FIELD));
    }
    if ids.len() > GROUPS_PER_CALL_MAX {
        let message = format!("1 to {GROUPS_PER_CALL_MAX} ids");
        return Err(out_of_range(FIELD, message));
    }
    let parse = |id: &Vec<u8>| GroupId::from_slice(id).map_err(|_| malformed(FIELD, "16 bytes"));
    ids.iter().map(parse).collect()
}

/// The user whom another service asks for.
pub(crate) fn user_id_bytes(id: &[u8]) -> Result<UserId, ApiError> {
    if id.is_empty() {
        return Err(required("user_id"));
    }
    UserId::from_slice(id).map_err(|_| malformed("user_id", "16 bytes"))
}

/// How long an invitation is good; zero = for ever.
pub(crate) fn expires_in(seconds: u32) -> Result<Duration, ApiError> {
    if seconds > INVITATION_SECONDS_MAX {
        let message = format!("at most {INVITATION_SECONDS_MAX}");
        return Err(out_of_range("expires_in_seconds", message));
    }
    Ok(Duration::from_secs(seconds.into()))
}

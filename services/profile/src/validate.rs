//! The forms that the contract gives to fields, as one function each.

use proto::error::v1::ErrorReason;
use runtime::{
    ids::{DeviceId, UserId},
    status::ApiError,
};

use crate::search;

/// Bytes (and characters) of a username.
const USERNAME_BYTES: std::ops::RangeInclusive<usize> = 2..=32;
/// Unicode scalar values of a password: long enough not to be guessed, short enough to be hashed.
const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 8..=128;
/// Unicode scalar values of a display name, and of a device's name.
const NAME_CHARS_MAX: usize = 64;
/// Unicode scalar values of a status text.
const STATUS_TEXT_CHARS_MAX: usize = 140;
/// Unicode scalar values of what is searched for.
const PREFIX_CHARS_MAX: usize = 64;
/// Ids in one batch.
const BATCH_MAX: usize = 500;
/// What a device is called that says nothing.
const DEVICE_NAME_DEFAULT: &str = "device";

fn required(field: &str) -> ApiError {
    ApiError::field(ErrorReason::FieldRequired, field, "must not be empty")
}

fn malformed(field: &str, message: impl Into<String>) -> ApiError {
    ApiError::field(ErrorReason::FieldMalformed, field, message)
}

/// The one form of a username: in lower case.
pub fn username(text: &str) -> Result<String, ApiError> {
    const FIELD: &str = "username";
    if text.is_empty() {
        return Err(required(FIELD));
    }
    let name = text.to_ascii_lowercase();
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if USERNAME_BYTES.contains(&name.len()) && begins_well && name.chars().all(known) {
        Ok(name)
    } else {
        Err(malformed(
            FIELD,
            "2 to 32 of a-z, 0-9, '_', '.', '-', beginning with a letter or a digit",
        ))
    }
}

/// A password that may be set.
pub fn new_password(text: String) -> Result<String, ApiError> {
    let text = password(text)?;
    if text.chars().count() < *PASSWORD_CHARS.start() {
        return Err(malformed("password", "8 to 128 characters"));
    }
    Ok(text)
}

/// A password that may be tried. One that is too short to be set is wrong, not malformed.
pub fn password(text: String) -> Result<String, ApiError> {
    if text.is_empty() {
        return Err(required("password"));
    }
    if text.chars().count() > *PASSWORD_CHARS.end() {
        return Err(malformed("password", "8 to 128 characters"));
    }
    Ok(text)
}

/// A display name, without spaces around it.
pub fn display_name(text: &str) -> Result<String, ApiError> {
    line(text, "display_name", 1, NAME_CHARS_MAX)
}

/// A status text, without spaces around it; may be empty.
pub fn status_text(text: &str) -> Result<String, ApiError> {
    line(text, "status_text", 0, STATUS_TEXT_CHARS_MAX)
}

/// The name of a device; `None` if it says nothing.
pub fn device_name(text: &str) -> Result<Option<String>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    line(text, "device_name", 1, NAME_CHARS_MAX).map(Some)
}

/// The name of a new device.
pub fn device_name_or_default(name: Option<String>) -> String {
    name.unwrap_or_else(|| DEVICE_NAME_DEFAULT.to_owned())
}

fn line(text: &str, field: &str, min: usize, max: usize) -> Result<String, ApiError> {
    let text = text.trim();
    if text.is_empty() && min > 0 {
        return Err(required(field));
    }
    if text.chars().count() > max {
        let message = format!("at most {max} characters");
        return Err(ApiError::field(ErrorReason::TextTooLong, field, message));
    }
    if text.chars().any(char::is_control) {
        return Err(malformed(field, "no control characters"));
    }
    Ok(text.to_owned())
}

/// What is searched for, as [`crate::search`] compares it.
pub fn prefix(text: &str) -> Result<String, ApiError> {
    let line = line(text, "prefix", 1, PREFIX_CHARS_MAX)?;
    Ok(search::normalise(&line))
}

/// A user's id.
pub fn user_id(text: &str, field: &str) -> Result<UserId, ApiError> {
    if text.is_empty() {
        return Err(required(field));
    }
    UserId::parse(text).map_err(|_| malformed(field, "a UUID in text"))
}

/// The ids of a batch, each once.
pub fn user_ids(texts: &[String]) -> Result<Vec<UserId>, ApiError> {
    const FIELD: &str = "user_ids";
    if texts.is_empty() {
        return Err(required(FIELD));
    }
    if texts.len() > BATCH_MAX {
        let message = format!("1 to {BATCH_MAX} ids");
        return Err(ApiError::field(
            ErrorReason::FieldOutOfRange,
            FIELD,
            message,
        ));
    }
    let mut seen = std::collections::HashSet::with_capacity(texts.len());
    let mut ids = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let id = user_id(text, &format!("{FIELD}[{index}]"))?;
        if seen.insert(id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// A device's id; `None` if empty.
pub fn device_id(text: &str) -> Result<Option<DeviceId>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = DeviceId::parse(text).map_err(|_| malformed("device_id", "a UUID in text"))?;
    Ok(Some(id))
}

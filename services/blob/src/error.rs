//! What goes wrong, as callers hear it.

use std::time::Duration;

use proto::error::v1::ErrorReason;
use runtime::status::ApiError;

use crate::{media::PictureError, objects::ObjectError, store::StoreError};

/// When to try again what this process has no room for now.
const BUSY_RETRY: Duration = Duration::from_secs(1);

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::unavailable(&error),
            _ => Self::internal(&error),
        }
    }
}

impl From<ObjectError> for ApiError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::NotFound => blob_not_found(),
            // What is there now is checked as a whole when the upload goes on: nothing is thrown away yet.
            ObjectError::Changed => Self::retry_after(
                ErrorReason::UploadBusy,
                "another connection has changed the bytes; ask where it goes on",
                BUSY_RETRY,
            ),
            ObjectError::Busy => Self::retry_after(
                ErrorReason::UploadBusy,
                "another connection sends to this upload",
                BUSY_RETRY,
            ),
            ObjectError::Unavailable(_) => Self::unavailable(&error),
        }
    }
}

impl From<PictureError> for ApiError {
    fn from(error: PictureError) -> Self {
        match error {
            PictureError::Unreadable(why) => Self::new(ErrorReason::PictureUnreadable, why),
            PictureError::TooLarge(why) => Self::new(ErrorReason::PictureTooLarge, why),
            PictureError::Overloaded => overloaded(),
        }
    }
}

pub(crate) fn overloaded() -> ApiError {
    ApiError::retry_after(
        ErrorReason::Overloaded,
        "the server has as many uploads as it can deal with",
        BUSY_RETRY,
    )
}

pub(crate) fn blob_not_found() -> ApiError {
    ApiError::new(ErrorReason::BlobNotFound, "no such blob")
}

pub(crate) fn upload_not_found() -> ApiError {
    ApiError::new(ErrorReason::UploadNotFound, "no such upload of the caller")
}

pub(crate) fn rate_limited(wait: Duration) -> ApiError {
    ApiError::retry_after(ErrorReason::RateLimited, "too many calls", wait)
}

//! Errors as callers see them: one closed list of reasons, each with its gRPC code.
//!
//! Inside, services have error types of their own; at the edge each becomes an [`ApiError`], and
//! only an [`ApiError`] becomes a [`tonic::Status`]. So no inner error's text reaches a caller.

use std::{collections::HashMap, time::Duration};

use proto::error::v1::ErrorReason;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The `domain` of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "messenger";

/// When to try again what a part that is away was needed for: parts are replaced within seconds, and
/// who waits should not add much to that.
const UNAVAILABLE_RETRY: Duration = Duration::from_millis(500);

/// An error for a caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", reason.info_name())]
pub struct ApiError {
    /// Which of the documented reasons.
    pub reason: ErrorReason,
    /// For developers of clients; contains nothing secret and no message text.
    pub message: String,
    /// The field at fault, such as `send.text`; empty if none.
    pub field: String,
    /// When to try again, for overload.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error without a field.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            field: String::new(),
            retry_after: None,
        }
    }

    /// An error of one field of the request.
    pub fn field(
        reason: ErrorReason,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            ..Self::new(reason, message)
        }
    }

    /// Overload: the caller may try again after `retry_after`.
    pub fn retry_after(
        reason: ErrorReason,
        message: impl Into<String>,
        retry_after: Duration,
    ) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(reason, message)
        }
    }

    /// A defect of ours. The cause goes to the log of the server and not to the caller.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::new(ErrorReason::Internal, "internal error")
    }

    /// A part that the call needs is away. Whoever watches that part says so once in the log; here it
    /// would be said once a call.
    pub fn unavailable(cause: &dyn std::fmt::Display) -> Self {
        tracing::debug!(%cause, "unavailable");
        Self::retry_after(
            ErrorReason::Unavailable,
            "temporarily unavailable",
            UNAVAILABLE_RETRY,
        )
    }

    /// The gRPC code of the error.
    pub fn code(&self) -> Code {
        code_of(self.reason)
    }
}

/// The gRPC code that a reason always has; `error.proto` documents the same.
pub fn code_of(reason: ErrorReason) -> Code {
    use ErrorReason as R;
    match reason {
        R::FieldRequired
        | R::FieldMalformed
        | R::FieldOutOfRange
        | R::TextTooLong
        | R::TextNotStorable
        | R::PageTokenInvalid
        | R::FrameUnknown
        | R::MentionNotAMember
        | R::ReceiptInvalid
        | R::ChecksumMismatch
        | R::MediaTypeNotAllowed
        | R::PictureUnreadable
        | R::PictureTooLarge => Code::InvalidArgument,
        R::FrameTooLarge | R::BlobTooLarge => Code::OutOfRange,
        R::TokenMissing
        | R::TokenInvalid
        | R::TokenExpired
        | R::DeviceRevoked
        | R::CredentialsInvalid
        | R::RefreshTokenReused => Code::Unauthenticated,
        R::CallerNotAllowed | R::NotAMember | R::RoleNotSufficient | R::AdminsOnly => {
            Code::PermissionDenied
        }
        R::UserNotFound
        | R::ConversationNotFound
        | R::DeviceNotFound
        | R::GroupNotFound
        | R::MemberNotFound
        | R::JoinRequestNotFound
        | R::BlobNotFound
        | R::UploadNotFound
        | R::ConfirmationInvalid => Code::NotFound,
        R::UsernameTaken | R::RequestIdReused => Code::AlreadyExists,
        R::TooManyDevices
        | R::LimitReached
        | R::InvitationInvalid
        | R::ReceiptExpired
        | R::PushProviderDisabled
        | R::HelloRequired
        | R::HelloRepeated
        | R::ProtocolVersionUnsupported => Code::FailedPrecondition,
        R::SessionReplaced
        | R::PrecedingSendUnknown
        | R::GroupVersionChanged
        | R::PreferencesVersionChanged
        | R::UploadOffsetWrong
        | R::UploadBusy => Code::Aborted,
        R::SessionSilent | R::UploadSilent => Code::DeadlineExceeded,
        R::RateLimited | R::TooManyInFlight | R::Overloaded | R::TooManyAttempts => {
            Code::ResourceExhausted
        }
        R::SendUnknown | R::NotYetAvailable | R::Unavailable | R::GoingAway => Code::Unavailable,
        R::Internal | R::Unspecified => Code::Internal,
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut details =
            ErrorDetails::with_error_info(error.reason.info_name(), ERROR_DOMAIN, HashMap::new());
        if !error.field.is_empty() {
            details.add_bad_request_violation(&error.field, &error.message);
        }
        if let Some(after) = error.retry_after {
            details.set_retry_info(Some(after));
        }
        Status::with_error_details(error.code(), error.message, details)
    }
}

/// What a caller reads from a status of ours; the reason is `Unspecified` in one that is not.
pub fn read_status(status: &Status) -> ApiError {
    let details = status.get_error_details();
    let reason = details
        .error_info()
        .filter(|info| info.domain == ERROR_DOMAIN)
        .and_then(|info| ErrorReason::from_info_name(&info.reason))
        .unwrap_or(ErrorReason::Unspecified);
    let field = details
        .bad_request()
        .and_then(|bad| bad.field_violations.first())
        .map_or_else(String::new, |violation| violation.field.clone());
    let retry_after = details.retry_info().and_then(|info| info.retry_delay);
    ApiError {
        reason,
        message: status.message().to_owned(),
        field,
        retry_after,
    }
}

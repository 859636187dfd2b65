//! What calls answer when they refuse, and what callers are told.

use std::time::Duration;

use proto::error::v1::ErrorReason;
use runtime::status::ApiError;

use crate::{
    config::InvalidConfig,
    decide::Refusal,
    store::{ChangeError, StoreError},
};

/// When to try again after overload: the log is back within seconds, or away for longer.
const OVERLOADED_RETRY: Duration = Duration::from_secs(2);

/// Why a call did not do it. Nothing was changed, if not said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It may not be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// One of the users does not exist.
    #[error("no such user")]
    UserNotFound,
    /// Too many calls of this user.
    #[error("too many calls")]
    RateLimited {
        /// When the next one is looked at.
        retry_after: Duration,
    },
    /// As many changes of the group wait for the log as may.
    #[error("too many changes wait for the log")]
    Overloaded,
    /// Profile could not be asked.
    #[error("profile: {0}")]
    Profile(String),
    /// The store did not do it, or did and could not say so: the request_id tells.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The service cannot start with its settings.
    #[error("config: {0}")]
    Config(#[from] InvalidConfig),
}

impl From<ChangeError> for Error {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(refusal) => Self::Refused(refusal),
            ChangeError::Busy => Self::Overloaded,
            ChangeError::Store(error) => Self::Store(error),
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        use ErrorReason as R;
        match error {
            Error::Refused(refusal) => refused(refusal),
            Error::UserNotFound => Self::new(R::UserNotFound, "no such user"),
            Error::RateLimited { retry_after } => {
                Self::retry_after(R::RateLimited, "too many calls a second", retry_after)
            }
            Error::Overloaded => Self::retry_after(
                R::Overloaded,
                "too many changes of the group wait",
                OVERLOADED_RETRY,
            ),
            Error::Profile(cause) | Error::Store(StoreError::Unavailable(cause)) => {
                Self::unavailable(&cause)
            }
            Error::Store(cause) => Self::internal(&cause),
            Error::Config(cause) => Self::internal(&cause),
        }
    }
}

fn refused(refusal: Refusal) -> ApiError {
    use ErrorReason as R;
    let reason = match refusal {
        Refusal::GroupNotFound => R::GroupNotFound,
        Refusal::MemberNotFound => R::MemberNotFound,
        Refusal::RoleNotSufficient => R::RoleNotSufficient,
        Refusal::LimitReached { .. } => R::LimitReached,
        Refusal::VersionChanged(_) => R::GroupVersionChanged,
        Refusal::InvitationInvalid => R::InvitationInvalid,
        Refusal::JoinRequestNotFound => R::JoinRequestNotFound,
        Refusal::RequestIdReused => R::RequestIdReused,
    };
    let field = match refusal {
        Refusal::VersionChanged(_) => "if_version",
        Refusal::InvitationInvalid => "token",
        Refusal::RequestIdReused => "request_id",
        _ => "",
    };
    ApiError::field(reason, field, refusal.to_string())
}

//! What the verbs answer when they refuse, and what callers are told.

use std::time::Duration;

use proto::error::v1::ErrorReason;
use runtime::{auth::KeyError, status::ApiError};

use crate::{config::InvalidConfig, store::StoreError};

/// When to try again after overload: about as long as the queue takes to empty.
const OVERLOADED_RETRY: Duration = Duration::from_secs(2);

/// Why a verb did not do it. Nothing was changed, if not said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another account has the name.
    #[error("the username is taken")]
    UsernameTaken,
    /// The name or the password is wrong.
    #[error("the name or the password is wrong")]
    CredentialsInvalid,
    /// Too many failed log-ins for the name.
    #[error("too many failed log-ins")]
    TooManyAttempts {
        /// When the next one is looked at.
        retry_after: Duration,
    },
    /// Too many calls of this kind.
    #[error("too many calls")]
    RateLimited {
        /// When the next one is looked at.
        retry_after: Duration,
    },
    /// As much work waits as may.
    #[error("too much work is waiting")]
    Overloaded,
    /// The user has as many devices as may be.
    #[error("too many devices")]
    TooManyDevices,
    /// Not a refresh token of ours, or one that is too old.
    #[error("the refresh token is not valid")]
    RefreshTokenInvalid,
    /// The device of the refresh token is not logged in.
    #[error("the device was logged out")]
    DeviceRevoked,
    /// The refresh token was used before. Its device was logged out.
    #[error("the refresh token was used before")]
    RefreshTokenReused,
    /// No such user.
    #[error("no such user")]
    UserNotFound,
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A token could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The service cannot start with its settings.
    #[error("config: {0}")]
    Config(#[from] InvalidConfig),
    /// A password could not be hashed.
    #[error("hashing failed: {0}")]
    Hashing(String),
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        use ErrorReason as R;
        match error {
            Error::UsernameTaken => {
                Self::field(R::UsernameTaken, "username", "the username is taken")
            }
            Error::CredentialsInvalid => {
                Self::new(R::CredentialsInvalid, "the name or the password is wrong")
            }
            Error::TooManyAttempts { retry_after } => Self::retry_after(
                R::TooManyAttempts,
                "too many failed log-ins for this name",
                retry_after,
            ),
            Error::RateLimited { retry_after } => {
                Self::retry_after(R::RateLimited, "too many calls", retry_after)
            }
            Error::Overloaded | Error::Store(StoreError::Busy) => {
                Self::retry_after(R::Overloaded, "too much work is waiting", OVERLOADED_RETRY)
            }
            Error::TooManyDevices => Self::new(
                R::TooManyDevices,
                "the user has as many devices as are allowed",
            ),
            Error::RefreshTokenInvalid => Self::field(
                R::TokenInvalid,
                "refresh_token",
                "the refresh token is not valid; log in again",
            ),
            Error::DeviceRevoked => {
                Self::new(R::DeviceRevoked, "the device was logged out; log in again")
            }
            Error::RefreshTokenReused => Self::new(
                R::RefreshTokenReused,
                "the refresh token was used before; its device was logged out",
            ),
            Error::UserNotFound => Self::new(R::UserNotFound, "no such user"),
            Error::Store(StoreError::Unavailable(cause)) => Self::unavailable(&cause),
            Error::Store(cause @ StoreError::Corrupt(_)) => Self::internal(&cause),
            Error::Key(cause) => Self::internal(&cause),
            Error::Config(cause) => Self::internal(&cause),
            Error::Hashing(cause) => Self::internal(&cause),
        }
    }
}

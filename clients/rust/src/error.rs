//! What can go wrong, and what to do about it.

use std::time::Duration;

use proto::error::v1::ErrorReason;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The `domain` of the `google.rpc.ErrorInfo` of this server's errors.
const ERROR_DOMAIN: &str = "messenger";

/// What a call of this crate gives.
pub type Result<T> = std::result::Result<T, Error>;

/// What to do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nothing was changed, and the same again gets the same answer.
    Rejected,
    /// Nothing was changed; try again, after [`Error::retry_after`] where it is given.
    Retryable,
    /// It may or may not have happened. A send is retried with the same `message_id`, which the
    /// session does by itself; anything else is looked at before it is repeated.
    Unknown,
}

/// An error of the server, of the way to it, or of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server answered with an error.
    #[error(transparent)]
    Server(ServerError),
    /// There was no connection to the server: nothing was sent.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// The connection broke before the answer.
    #[error("connection: {0}")]
    Transport(String),
    /// No answer came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// As many messages wait to be sent as [`crate::Options::queue_max`] allows.
    #[error("too many messages are waiting to be sent")]
    QueueFull,
    /// The session has ended, by [`crate::Session::close`] or for the reason of
    /// [`crate::Event::Closed`].
    #[error("the session has ended")]
    Closed,
    /// No device is logged in with this client.
    #[error("not logged in")]
    NotLoggedIn,
    /// The client was not set up in a way that can work.
    #[error("configuration: {0}")]
    Config(String),
    /// The token store or the cache failed.
    #[error("local storage: {0}")]
    Storage(String),
    /// The server's answer breaks the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
}

/// An error that the server answered with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", reason.info_name())]
pub struct ServerError {
    /// The gRPC code.
    pub code: Code,
    /// Which of the documented reasons; `Unspecified` if the error came from something else on the
    /// way, such as a proxy.
    pub reason: ErrorReason,
    /// For developers, not for users.
    pub message: String,
    /// The field at fault, such as `send.text`; empty if none.
    pub field: String,
    /// When to try again, if the server said it.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Server(error) => error.kind(),
            Self::Transport(_) | Self::Timeout(_) | Self::Closed => ErrorKind::Unknown,
            Self::QueueFull | Self::Unreachable(_) => ErrorKind::Retryable,
            Self::NotLoggedIn | Self::Config(_) | Self::Storage(_) | Self::Protocol(_) => {
                ErrorKind::Rejected
            }
        }
    }

    /// The gRPC code, of an error that the server answered with.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Server(error) => Some(error.code),
            _ => None,
        }
    }

    /// The documented reason; `Unspecified` for an error that is not the server's.
    pub fn reason(&self) -> ErrorReason {
        match self {
            Self::Server(error) => error.reason,
            _ => ErrorReason::Unspecified,
        }
    }

    /// The field at fault; empty if none.
    pub fn field(&self) -> &str {
        match self {
            Self::Server(error) => &error.field,
            _ => "",
        }
    }

    /// When to try again, if the server said it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Server(error) => error.retry_after,
            _ => None,
        }
    }

    /// The error that the server would answer a bad argument with, without asking it.
    pub(crate) fn argument(reason: ErrorReason, field: &str, message: &str) -> Self {
        Self::Server(ServerError {
            code: Code::InvalidArgument,
            reason,
            message: message.to_owned(),
            field: field.to_owned(),
            retry_after: None,
        })
    }
}

impl ServerError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        use ErrorReason as R;
        match self.reason {
            R::TokenExpired
            | R::SessionReplaced
            | R::SessionSilent
            | R::RateLimited
            | R::TooManyInFlight
            | R::Overloaded
            | R::TooManyAttempts
            | R::PrecedingSendUnknown
            | R::UploadOffsetWrong
            | R::UploadBusy
            | R::NotYetAvailable
            | R::Unavailable
            | R::GoingAway => ErrorKind::Retryable,
            R::SendUnknown | R::Internal => ErrorKind::Unknown,
            R::Unspecified => kind_of_code(self.code),
            _ => ErrorKind::Rejected,
        }
    }
}

/// For errors without a documented reason: proxies, and servers that are newer than this crate.
fn kind_of_code(code: Code) -> ErrorKind {
    match code {
        Code::ResourceExhausted => ErrorKind::Retryable,
        Code::Unavailable
        | Code::Unknown
        | Code::Internal
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::DataLoss
        | Code::Ok => ErrorKind::Unknown,
        _ => ErrorKind::Rejected,
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let reason = details
            .error_info()
            .filter(|info| info.domain == ERROR_DOMAIN)
            .and_then(|info| ErrorReason::from_info_name(&info.reason));
        let Some(reason) = reason else {
            return without_reason(&status);
        };
        let field = details
            .bad_request()
            .and_then(|bad| bad.field_violations.first())
            .map_or_else(String::new, |violation| violation.field.clone());
        Self::Server(ServerError {
            code: status.code(),
            reason,
            message: status.message().to_owned(),
            field,
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        })
    }
}

/// A status that is not of our server: mostly the transport's own, sometimes a proxy's.
fn without_reason(status: &Status) -> Error {
    match status.code() {
        Code::Unavailable if was_never_sent(status) => {
            Error::Unreachable(status.message().to_owned())
        }
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => {
            Error::Transport(status.message().to_owned())
        }
        code => Error::Server(ServerError {
            code,
            reason: ErrorReason::Unspecified,
            message: status.message().to_owned(),
            field: String::new(),
            retry_after: None,
        }),
    }
}

/// Whether the call failed because no connection could be made.
fn was_never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

impl From<proto::messaging::v1::Error> for Error {
    fn from(error: proto::messaging::v1::Error) -> Self {
        let retry_after = match error.retry_after_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms.into())),
        };
        Self::Server(ServerError {
            code: Code::from_i32(error.code),
            reason: error.reason(),
            message: error.message,
            field: error.field,
            retry_after,
        })
    }
}

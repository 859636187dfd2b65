//! Errors as a client reads them, from calls and from sessions alike.

use std::{collections::HashMap, sync::OnceLock, time::Duration};

use proto::{error::v1::ErrorReason, messaging::v1 as wire};
use runtime::status::read_status;
use tonic::{Code, Status};

/// What a client learns from an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// The documented reason.
    pub reason: ErrorReason,
    /// The field at fault; empty if none.
    pub field: String,
    /// When to try again, for overload.
    pub retry_after: Option<Duration>,
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        let error = read_status(status);
        Self {
            code: status.code(),
            reason: error.reason,
            field: error.field,
            retry_after: error.retry_after,
        }
    }
}

impl From<&wire::Error> for Refusal {
    fn from(error: &wire::Error) -> Self {
        let retry_after = Duration::from_millis(u64::from(error.retry_after_ms));
        Self {
            code: Code::from_i32(error.code),
            reason: error.reason(),
            field: error.field.clone(),
            retry_after: Some(retry_after).filter(|after| !after.is_zero()),
        }
    }
}

impl Refusal {
    /// Fails unless it is this error, with the code that `error.proto` documents for it.
    #[track_caller]
    pub fn is(&self, reason: ErrorReason, field: &str) -> &Self {
        assert_eq!(self.reason, reason, "another reason: {self:?}");
        assert_eq!(self.code, documented_code(reason), "another code: {self:?}");
        assert_eq!(self.field, field, "another field: {self:?}");
        self
    }
}

/// The refusal of a call that must not succeed.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> Refusal {
    match result {
        Ok(answer) => panic!("not refused: {answer:?}"),
        Err(status) => Refusal::from(&status),
    }
}

/// The gRPC code that the comments of `error.proto` promise for a reason.
pub fn documented_code(reason: ErrorReason) -> Code {
    static CODES: OnceLock<HashMap<String, Code>> = OnceLock::new();
    let codes = CODES.get_or_init(|| {
        read_codes(include_str!(
            "../../../proto/messenger/error/v1/error.proto"
        ))
    });
    match codes.get(reason.as_str_name()) {
        Some(code) => *code,
        None => panic!("error.proto says no code for {reason:?}"),
    }
}

/// Reads `// CODE [kind]: ...` above `NAME = number;`.
fn read_codes(source: &str) -> HashMap<String, Code> {
    let mut codes = HashMap::new();
    let mut above = None;
    for line in source.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("// ") {
            let word = comment.split(" [").next().unwrap_or_default();
            above = above.or_else(|| code_named(word));
        } else {
            if let (Some((name, _)), Some(code)) = (line.split_once(" = "), above) {
                codes.insert(name.to_owned(), code);
            }
            above = None;
        }
    }
    codes
}

fn code_named(name: &str) -> Option<Code> {
    let code = match name {
        "INVALID_ARGUMENT" => Code::InvalidArgument,
        "OUT_OF_RANGE" => Code::OutOfRange,
        "UNAUTHENTICATED" => Code::Unauthenticated,
        "PERMISSION_DENIED" => Code::PermissionDenied,
        "NOT_FOUND" => Code::NotFound,
        "ALREADY_EXISTS" => Code::AlreadyExists,
        "FAILED_PRECONDITION" => Code::FailedPrecondition,
        "ABORTED" => Code::Aborted,
        "DEADLINE_EXCEEDED" => Code::DeadlineExceeded,
        "RESOURCE_EXHAUSTED" => Code::ResourceExhausted,
        "UNAVAILABLE" => Code::Unavailable,
        "INTERNAL" => Code::Internal,
        _ => return None,
    };
    Some(code)
}

//! Errors as a person reads them: one line, and an exit code for scripts.

use std::{fmt, io, process::ExitCode};

use messenger_client::{Error, ErrorKind, ErrorReason};
use serde_json::json;

use crate::{args::Global, terminal::clean};

/// The server refused it, or it cannot be done.
const REFUSED: u8 = 1;
// 2 is a wrong command line; clap ends the program with it.
/// Nobody is logged in.
const NOT_LOGGED_IN: u8 = 3;
/// The server was not reached, or has no room; trying again may help.
const TRY_AGAIN: u8 = 4;

/// There is no log-in here that could act.
#[derive(Debug)]
pub(crate) struct NotLoggedIn {
    /// Who was to act; none = whoever logged in last.
    pub(crate) name: Option<String>,
}

impl fmt::Display for NotLoggedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(
                f,
                "{name:?} is not logged in here; try: messenger login {name}"
            ),
            None => f.write_str("nobody is logged in here; try: messenger login NAME"),
        }
    }
}

impl std::error::Error for NotLoggedIn {}

/// Prints the error to the standard error output and says what the program ends with.
pub(crate) fn report(error: &anyhow::Error, global: &Global) -> ExitCode {
    let is_closed_pipe = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if is_closed_pipe {
        // Whoever read the output has seen enough.
        return ExitCode::SUCCESS;
    }
    let ours = error.downcast_ref::<Error>();
    let (text, code) = match ours {
        Some(ours) => (explain(ours, &global.server), exit_code(ours)),
        None if error.is::<NotLoggedIn>() => (error.to_string(), NOT_LOGGED_IN),
        None => (format!("{error:#}"), REFUSED),
    };
    if global.json {
        let reason = ours.map(|ours| ours.reason().info_name());
        eprintln!("{}", json!({ "error": text, "reason": reason }));
    } else {
        eprintln!("messenger: {}", clean(&text));
    }
    ExitCode::from(code)
}

/// What happened, and what to do about it.
pub(crate) fn explain(error: &Error, server: &str) -> String {
    use ErrorReason as R;
    let known = match error.reason() {
        R::CredentialsInvalid => "wrong name or password",
        R::UsernameTaken => "the name is taken",
        R::UserNotFound => "there is no user of this name",
        R::TextTooLong => "the text is too long: 700 characters are the limit",
        R::TooManyDevices => "the account is logged in on too many devices: log one out",
        R::TokenMissing | R::TokenInvalid | R::DeviceRevoked | R::RefreshTokenReused => {
            "this device was logged out; try: messenger login NAME"
        }
        R::TooManyAttempts => {
            let seconds = error.retry_after().map_or(60, |wait| wait.as_secs().max(1));
            return format!("too many failed log-ins; try again in {seconds} s");
        }
        R::RateLimited | R::Overloaded | R::TooManyInFlight => {
            "the server has no room just now; try again in a while"
        }
        R::GroupNotFound | R::NotAMember => "there is no such group, or you are not in it",
        R::MemberNotFound => "that user is not in the group",
        R::RoleNotSufficient => "your role in the group does not allow that: ask an admin of it",
        R::AdminsOnly => "only admins write in this group, or mention everybody with @all",
        R::MentionNotAMember => "somebody who is mentioned is not in the group",
        R::InvitationInvalid => "the invitation is not good: unknown, revoked, used up or expired",
        R::JoinRequestNotFound => "that user has not asked to join, or was answered",
        R::GroupVersionChanged => "the group was changed meanwhile: look at it and try again",
        R::MediaTypeNotAllowed => {
            "that is neither a picture nor a video of a kind that can be sent"
        }
        R::PictureUnreadable => "the picture is damaged, or cut off",
        R::PictureTooLarge => "the picture has too many pixels",
        R::BlobTooLarge => "the file is empty, or larger than 16 MiB",
        R::PushProviderDisabled => "the server does not push by this provider",
        R::SessionReplaced => "the same device is connected elsewhere",
        _ => "",
    };
    if !known.is_empty() {
        return known.to_owned();
    }
    match error {
        Error::Unreachable(_) | Error::Transport(_) => {
            format!("cannot reach the server at {server}: is it running?")
        }
        Error::Timeout(time) => format!("no answer from {server} within {} s", time.as_secs()),
        Error::NotLoggedIn => NotLoggedIn { name: None }.to_string(),
        Error::Server(error) if !error.message.is_empty() => error.message.clone(),
        error => error.to_string(),
    }
}

fn exit_code(error: &Error) -> u8 {
    use ErrorReason as R;
    match error.reason() {
        R::TokenMissing | R::TokenInvalid | R::DeviceRevoked | R::RefreshTokenReused => {
            NOT_LOGGED_IN
        }
        _ if *error == Error::NotLoggedIn => NOT_LOGGED_IN,
        _ => match error.kind() {
            ErrorKind::Rejected => REFUSED,
            ErrorKind::Retryable | ErrorKind::Unknown => TRY_AGAIN,
        },
    }
}

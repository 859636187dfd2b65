//! What went wrong, by what can be done about it.

use std::time::Duration;

/// A call that failed. A write may have taken effect all the same.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No answer in time; the connection is closed.
    #[error("{operation}: no answer from PostgreSQL within {after:?}")]
    TimedOut {
        /// As given to the call.
        operation: &'static str,
        /// The bound.
        after: Duration,
    },
    /// The server or the driver said no.
    #[error("{operation}: {source}")]
    Failed {
        /// As given to the call.
        operation: &'static str,
        /// What it said.
        source: sqlx::Error,
    },
}

/// What can be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The server is away, overloaded or in another's hands: the same call may work later.
    Unavailable,
    /// Two transactions were in each other's way: the same call works at once, or soon.
    Conflict,
    /// A row with that key is there already.
    Unique,
    /// A repetition fails in the same way: a damaged database, a schema or a value that is not
    /// ours.
    Lasting,
}

impl PostgresError {
    /// What can be done about it.
    pub fn failure(&self) -> Failure {
        match self {
            Self::TimedOut { .. } => Failure::Unavailable,
            Self::Failed { source, .. } => classify(source),
        }
    }

    /// The SQLSTATE, where the server said one.
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::TimedOut { .. } => None,
            Self::Failed { source, .. } => Some(source.as_database_error()?.code()?.into_owned()),
        }
    }

    /// Whether it says that the server did not answer at all, or only to send us away.
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::Failed { source, .. } => {
                classify(source) == Failure::Unavailable && !leaves_connection_sound(source)
            }
        }
    }
}

/// Classifies an error by what can be done about it: by SQLSTATE, where there is one.
pub fn classify(error: &sqlx::Error) -> Failure {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => of_sqlstate(&code),
            None => Failure::Lasting,
        },
        // A message that cannot be understood is a connection that broke off, or is out of step; it
        // is closed.
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Failure::Unavailable,
        _ => Failure::Lasting,
    }
}

pub(super) fn of_sqlstate(code: &str) -> Failure {
    match code {
        // serialization_failure, deadlock_detected.
        "40001" | "40P01" => Failure::Conflict,
        "23505" => Failure::Unique,
        // lock_not_available, object_in_use; a standby after a failover
        // (read_only_sql_transaction); a plan that a migration has made wrong ("cached plan must
        // not change result type").
        "55P03" | "55006" | "25006" | "0A000" => Failure::Unavailable,
        // A transaction that was ended because its client was silent.
        "25P03" => Failure::Unavailable,
        _ => match code.get(..2) {
            // Connection; transaction rolled back; resources (disk full, too many connections);
            // an operator or a timeout intervened; the system around it (I/O).
            Some("08" | "40" | "53" | "57" | "58") => Failure::Unavailable,
            _ => Failure::Lasting,
        },
    }
}

/// Whether the next call may use the connection on which this happened. A statement that the server
/// refused by itself is over, and a transaction around it is rolled back before the next.
pub(super) fn leaves_connection_sound(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    match error.code().as_deref() {
        None => false,
        // Cancelled by a timeout, or waited too long for a lock.
        Some("57014" | "55P03") => true,
        Some(code) => match of_sqlstate(code) {
            Failure::Conflict | Failure::Unique => true,
            Failure::Unavailable => code.starts_with("53") && code != "53300",
            // What this program made wrong; one that another version prepared is among it.
            Failure::Lasting => !code.starts_with("26") && !code.starts_with("XX"),
        },
    }
}

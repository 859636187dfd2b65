//! Between our types and SQLite's columns: checked both ways, so that nothing wraps or panics.

use runtime::ids::{ConversationId, InvalidId, MessageId, UserId};
use rusqlite::{Row, types::FromSqlError};

use crate::{
    model::{GroupState, Marks, Membership, Watermark},
    store::{StoreError, membership::read_membership},
};

/// A number as a column holds it. Fails above `i64::MAX`.
pub(super) fn to_column(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Corrupt(format!("{number} is more than the store can hold")))
}

/// How many rows a statement may answer.
pub(super) fn to_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The columns of one row, by their places in the statement.
pub(super) struct Columns<'r>(pub(super) &'r Row<'r>);

impl Columns<'_> {
    pub(super) fn integer(&self, at: usize) -> Result<i64, StoreError> {
        self.0.get_ref(at)?.as_i64().map_err(unreadable)
    }

    pub(super) fn number(&self, at: usize) -> Result<u64, StoreError> {
        let integer = self.integer(at)?;
        u64::try_from(integer)
            .map_err(|_| StoreError::Corrupt(format!("{integer} is not a number from 0 on")))
    }

    pub(super) fn count(&self, at: usize) -> Result<u32, StoreError> {
        let integer = self.integer(at)?;
        u32::try_from(integer).map_err(|_| StoreError::Corrupt(format!("{integer} is not a count")))
    }

    /// 0 or 1.
    pub(super) fn flag(&self, at: usize) -> Result<bool, StoreError> {
        match self.integer(at)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(StoreError::Corrupt(format!("{other} is neither 0 nor 1"))),
        }
    }

    pub(super) fn bytes(&self, at: usize) -> Result<&[u8], StoreError> {
        self.0.get_ref(at)?.as_blob().map_err(unreadable)
    }

    pub(super) fn text(&self, at: usize) -> Result<&str, StoreError> {
        self.0.get_ref(at)?.as_str().map_err(unreadable)
    }

    pub(super) fn user(&self, at: usize) -> Result<UserId, StoreError> {
        UserId::from_slice(self.bytes(at)?).map_err(invalid)
    }

    pub(super) fn message(&self, at: usize) -> Result<MessageId, StoreError> {
        MessageId::from_slice(self.bytes(at)?).map_err(invalid)
    }

    pub(super) fn conversation(&self, at: usize) -> Result<ConversationId, StoreError> {
        ConversationId::from_slice(self.bytes(at)?).map_err(invalid)
    }

    pub(super) fn is_null(&self, at: usize) -> Result<bool, StoreError> {
        Ok(self.0.get_ref(at)? == rusqlite::types::ValueRef::Null)
    }

    /// A seq and a message index, side by side.
    pub(super) fn watermark(&self, at: usize) -> Result<Watermark, StoreError> {
        Ok(Watermark {
            seq: self.number(at)?,
            message_index: self.number(at + 1)?,
        })
    }

    /// Delivered and read, side by side.
    pub(super) fn marks(&self, at: usize) -> Result<Marks, StoreError> {
        Ok(Marks {
            delivered: self.watermark(at)?,
            read: self.watermark(at + 2)?,
        })
    }

    /// Version, announcement and history, side by side.
    pub(super) fn group(&self, at: usize) -> Result<GroupState, StoreError> {
        Ok(GroupState {
            version: self.number(at)?,
            announcement: self.flag(at + 1)?,
            history_all: self.flag(at + 2)?,
        })
    }

    /// Version, role and windows, side by side; `None` if they are null.
    pub(super) fn membership(&self, at: usize) -> Result<Option<Membership>, StoreError> {
        if self.is_null(at)? {
            return Ok(None);
        }
        let (version, role) = (self.number(at)?, self.number(at + 1)?);
        read_membership(version, role, self.bytes(at + 2)?).map(Some)
    }
}

fn unreadable(error: FromSqlError) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

fn invalid(error: InvalidId) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

//! Between our types and PostgreSQL's columns: checked both ways, so that nothing wraps or panics.

use runtime::ids::{ConversationId, InvalidId, MessageId, UserId};
use sqlx::{Decode, Postgres, Row, Type, postgres::PgRow};
use uuid::Uuid;

use crate::{
    model::{GroupState, Marks, Membership, Watermark},
    store::{StoreError, membership::read_membership},
};

/// A number as a column holds it. Fails above `i64::MAX`.
pub(super) fn to_column(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Corrupt(format!("{number} is more than the store can hold")))
}

/// A count as a column holds it. Fails above `i32::MAX`.
pub(super) fn to_count(count: u32) -> Result<i32, StoreError> {
    i32::try_from(count)
        .map_err(|_| StoreError::Corrupt(format!("{count} is more than the store can hold")))
}

/// How many rows a statement may answer.
pub(super) fn to_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(super) const fn user_column(user: UserId) -> Uuid {
    Uuid::from_bytes(*user.as_bytes())
}

pub(super) const fn message_column(message: MessageId) -> Uuid {
    Uuid::from_bytes(*message.as_bytes())
}

/// The columns of one row, by their places in the statement.
pub(super) struct Columns<'r>(pub(super) &'r PgRow);

impl<'r> Columns<'r> {
    fn get<T: Decode<'r, Postgres> + Type<Postgres>>(&self, at: usize) -> Result<T, StoreError> {
        let value = self.0.try_get(at);
        value.map_err(|error| StoreError::Corrupt(error.to_string()))
    }

    pub(super) fn integer(&self, at: usize) -> Result<i64, StoreError> {
        self.get(at)
    }

    pub(super) fn number(&self, at: usize) -> Result<u64, StoreError> {
        let integer = self.integer(at)?;
        u64::try_from(integer)
            .map_err(|_| StoreError::Corrupt(format!("{integer} is not a number from 0 on")))
    }

    pub(super) fn count(&self, at: usize) -> Result<u32, StoreError> {
        let integer: i32 = self.get(at)?;
        u32::try_from(integer).map_err(|_| StoreError::Corrupt(format!("{integer} is not a count")))
    }

    pub(super) fn small(&self, at: usize) -> Result<i16, StoreError> {
        self.get(at)
    }

    pub(super) fn flag(&self, at: usize) -> Result<bool, StoreError> {
        self.get(at)
    }

    pub(super) fn bytes(&self, at: usize) -> Result<&'r [u8], StoreError> {
        self.get(at)
    }

    pub(super) fn text(&self, at: usize) -> Result<&'r str, StoreError> {
        self.get(at)
    }

    pub(super) fn user(&self, at: usize) -> Result<UserId, StoreError> {
        UserId::from_slice(self.get::<Uuid>(at)?.as_bytes()).map_err(invalid)
    }

    pub(super) fn message(&self, at: usize) -> Result<MessageId, StoreError> {
        MessageId::from_slice(self.get::<Uuid>(at)?.as_bytes()).map_err(invalid)
    }

    pub(super) fn conversation(&self, at: usize) -> Result<ConversationId, StoreError> {
        ConversationId::from_slice(self.bytes(at)?).map_err(invalid)
    }

    pub(super) fn is_null(&self, at: usize) -> Result<bool, StoreError> {
        let value = self.0.try_get_raw(at);
        let value = value.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        Ok(sqlx::ValueRef::is_null(&value))
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
        let role = self.small(at + 1)?;
        let role = u64::try_from(role)
            .map_err(|_| StoreError::Corrupt(format!("{role} is not a role")))?;
        read_membership(self.number(at)?, role, self.bytes(at + 2)?).map(Some)
    }
}

fn invalid(error: InvalidId) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

//! Between our nouns and SQLite's columns: checked both ways, so that nothing wraps or panics.

use runtime::ids::{GroupId, InvalidId, UserId};
use rusqlite::{Row, types::FromSqlError};
use uuid::Uuid;

use crate::{
    model::{Group, Invitation, JoinRequest, Member, Role, Settings, Snippet, Stint},
    store::{Outstanding, StoreError},
};

pub(super) const GROUP_COLUMNS: &str = "g.group_id, g.version, g.name, g.description, g.picture, \
     g.settings, g.member_count, g.created_unix_ms";
pub(super) const MEMBER_COLUMNS: &str = "user_id, role, joined_unix_ms, joined_version";
pub(super) const INVITATION_COLUMNS: &str = "invitation_id, created_by, created_unix_ms, \
     expires_unix_ms, uses_max, uses";

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

    pub(super) fn number<T: TryFrom<i64>>(&self, at: usize) -> Result<T, StoreError> {
        let integer = self.integer(at)?;
        T::try_from(integer)
            .map_err(|_| StoreError::Corrupt(format!("{integer} is out of its range")))
    }

    pub(super) fn bytes(&self, at: usize) -> Result<&[u8], StoreError> {
        self.0.get_ref(at)?.as_blob().map_err(unreadable)
    }

    pub(super) fn text(&self, at: usize) -> Result<String, StoreError> {
        let text = self.0.get_ref(at)?.as_str().map_err(unreadable)?;
        Ok(text.to_owned())
    }

    pub(super) fn user(&self, at: usize) -> Result<UserId, StoreError> {
        UserId::from_slice(self.bytes(at)?).map_err(invalid)
    }

    pub(super) fn group_id(&self, at: usize) -> Result<GroupId, StoreError> {
        GroupId::from_slice(self.bytes(at)?).map_err(invalid)
    }

    pub(super) fn uuid(&self, at: usize) -> Result<Uuid, StoreError> {
        Uuid::from_slice(self.bytes(at)?).map_err(|error| StoreError::Corrupt(error.to_string()))
    }

    pub(super) fn role(&self, at: usize) -> Result<Role, StoreError> {
        let number = self.number(at)?;
        Role::from_number(number).ok_or_else(|| StoreError::Corrupt(format!("role {number}")))
    }

    /// [`GROUP_COLUMNS`].
    pub(super) fn group(&self, at: usize) -> Result<Group, StoreError> {
        Ok(Group {
            group_id: self.group_id(at)?,
            version: self.number(at + 1)?,
            name: self.text(at + 2)?,
            description: self.text(at + 3)?,
            picture: self.text(at + 4)?,
            settings: Settings::from_bits(self.number(at + 5)?),
            member_count: self.number(at + 6)?,
            created_unix_ms: self.integer(at + 7)?,
        })
    }

    /// [`MEMBER_COLUMNS`].
    pub(super) fn member(&self, at: usize) -> Result<Member, StoreError> {
        Ok(Member {
            user_id: self.user(at)?,
            role: self.role(at + 1)?,
            joined_unix_ms: self.integer(at + 2)?,
            joined_version: self.number(at + 3)?,
        })
    }

    /// [`INVITATION_COLUMNS`].
    pub(super) fn invitation(&self, at: usize) -> Result<Invitation, StoreError> {
        Ok(Invitation {
            invitation_id: self.uuid(at)?,
            created_by: self.user(at + 1)?,
            created_unix_ms: self.integer(at + 2)?,
            expires_unix_ms: self.integer(at + 3)?,
            uses_max: self.number(at + 4)?,
            uses: self.number(at + 5)?,
        })
    }

    pub(super) fn stint(&self) -> Result<Stint, StoreError> {
        let left = match self.0.get_ref(2)? {
            rusqlite::types::ValueRef::Null => None,
            _ => Some(self.number(2)?),
        };
        Ok(Stint {
            user: self.user(0)?,
            joined_version: self.number(1)?,
            left_version: left,
        })
    }

    pub(super) fn join_request(&self) -> Result<JoinRequest, StoreError> {
        Ok(JoinRequest {
            user_id: self.user(0)?,
            requested_unix_ms: self.integer(1)?,
        })
    }

    pub(super) fn snippet(&self) -> Result<Snippet, StoreError> {
        Ok(Snippet {
            group_id: self.group_id(0)?,
            name: self.text(1)?,
            picture: self.text(2)?,
            member_count: self.number(3)?,
            version: self.number(4)?,
        })
    }

    pub(super) fn outstanding(&self) -> Result<Outstanding, StoreError> {
        Ok(Outstanding {
            group: self.group_id(0)?,
            version: self.number(1)?,
            payload: self.bytes(2)?.to_vec(),
        })
    }
}

fn unreadable(error: FromSqlError) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

fn invalid(error: InvalidId) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

//! Between our nouns and PostgreSQL's columns: checked both ways, so that nothing wraps or panics.

use runtime::ids::{GroupId, InvalidId, UserId};
use sqlx::{Decode, Postgres, Row, Type, postgres::PgRow};
use uuid::Uuid;

use crate::{
    model::{Group, Invitation, JoinRequest, Member, Role, Settings, Snippet, Stint},
    store::{Outstanding, StoreError},
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

pub(super) const fn user_column(user: UserId) -> Uuid {
    Uuid::from_bytes(*user.as_bytes())
}

pub(super) const fn group_column(group: GroupId) -> Uuid {
    Uuid::from_bytes(*group.as_bytes())
}

/// The columns of one row, by their places in the statement.
pub(super) struct Columns<'r>(pub(super) &'r PgRow);

impl<'r> Columns<'r> {
    /// A value that is not what the schema says is no fault of the connection.
    pub(super) fn get<T>(&self, at: usize) -> Result<T, StoreError>
    where
        T: Decode<'r, Postgres> + Type<Postgres>,
    {
        let value = self.0.try_get(at);
        value.map_err(|error| StoreError::Corrupt(error.to_string()))
    }

    pub(super) fn number<T: TryFrom<i64>>(&self, at: usize) -> Result<T, StoreError> {
        let integer: i64 = self.get(at)?;
        T::try_from(integer)
            .map_err(|_| StoreError::Corrupt(format!("{integer} is out of its range")))
    }

    fn small(&self, at: usize) -> Result<u8, StoreError> {
        let integer: i16 = self.get(at)?;
        u8::try_from(integer)
            .map_err(|_| StoreError::Corrupt(format!("{integer} is out of its range")))
    }

    pub(super) fn user(&self, at: usize) -> Result<UserId, StoreError> {
        UserId::from_slice(self.get::<Uuid>(at)?.as_bytes()).map_err(invalid)
    }

    pub(super) fn group_id(&self, at: usize) -> Result<GroupId, StoreError> {
        GroupId::from_slice(self.get::<Uuid>(at)?.as_bytes()).map_err(invalid)
    }

    pub(super) fn role(&self, at: usize) -> Result<Role, StoreError> {
        let number = self.small(at)?;
        Role::from_number(number).ok_or_else(|| StoreError::Corrupt(format!("role {number}")))
    }

    pub(super) fn group(&self) -> Result<Group, StoreError> {
        Ok(Group {
            group_id: self.group_id(0)?,
            version: self.number(1)?,
            name: self.get(2)?,
            description: self.get(3)?,
            picture: self.get(4)?,
            settings: Settings::from_bits(self.small(5)?),
            member_count: self.number(6)?,
            created_unix_ms: self.get(7)?,
        })
    }

    pub(super) fn group_and_role(&self) -> Result<(Group, Role), StoreError> {
        Ok((self.group()?, self.role(8)?))
    }

    pub(super) fn member(&self) -> Result<Member, StoreError> {
        Ok(Member {
            user_id: self.user(0)?,
            role: self.role(1)?,
            joined_unix_ms: self.get(2)?,
            joined_version: self.number(3)?,
        })
    }

    pub(super) fn invitation(&self, at: usize) -> Result<Invitation, StoreError> {
        Ok(Invitation {
            invitation_id: self.get(at)?,
            created_by: self.user(at + 1)?,
            created_unix_ms: self.get(at + 2)?,
            expires_unix_ms: self.get(at + 3)?,
            uses_max: self.number(at + 4)?,
            uses: self.number(at + 5)?,
        })
    }

    pub(super) fn stint(&self) -> Result<Stint, StoreError> {
        let left: Option<i64> = self.get(2)?;
        Ok(Stint {
            user: self.user(0)?,
            joined_version: self.number(1)?,
            left_version: left.map(i64::cast_unsigned),
        })
    }

    pub(super) fn join_request(&self) -> Result<JoinRequest, StoreError> {
        Ok(JoinRequest {
            user_id: self.user(0)?,
            requested_unix_ms: self.get(1)?,
        })
    }

    pub(super) fn snippet(&self) -> Result<Snippet, StoreError> {
        Ok(Snippet {
            group_id: self.group_id(0)?,
            name: self.get(1)?,
            picture: self.get(2)?,
            member_count: self.number(3)?,
            version: self.number(4)?,
        })
    }

    pub(super) fn outstanding(&self) -> Result<Outstanding, StoreError> {
        Ok(Outstanding {
            group: self.group_id(0)?,
            version: self.number(1)?,
            payload: self.get(2)?,
        })
    }
}

fn invalid(error: InvalidId) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

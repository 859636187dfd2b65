//! The nouns of this service.

use runtime::ids::{BlobId, DeviceId, UserId};

/// A SHA-256 of something secret.
pub type Hash = [u8; 32];

/// A user as others see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub user_id: UserId,
    /// In its one form, see [`crate::validate::username`].
    pub username: String,
    /// Shown to people.
    pub display_name: String,
    /// Shown to people; may be empty.
    pub status_text: String,
    /// When the account was made.
    pub created_unix_ms: i64,
    /// Grows by one with each change.
    pub version: u64,
    /// The blob of the picture.
    pub picture: Option<BlobId>,
}

/// A user with what proves who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub user: User,
    /// A PHC string.
    pub password_hash: String,
}

/// What a user changes of themselves; `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProfileChange {
    /// See [`User::display_name`].
    pub display_name: Option<String>,
    /// See [`User::status_text`].
    pub status_text: Option<String>,
    /// See [`User::picture`]; `Some(None)` removes it.
    pub picture: Option<Option<BlobId>>,
}

impl ProfileChange {
    /// The user with what is changed, at the version before.
    pub fn on(self, mut user: User) -> User {
        if let Some(display_name) = self.display_name {
            user.display_name = display_name;
        }
        if let Some(status_text) = self.status_text {
            user.status_text = status_text;
        }
        if let Some(picture) = self.picture {
            user.picture = picture;
        }
        user
    }
}

/// A place where a user is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Whose.
    pub user_id: UserId,
    /// Unique among the devices of the user.
    pub device_id: DeviceId,
    /// What it calls itself.
    pub name: String,
    /// When it first logged in.
    pub created_unix_ms: i64,
    /// The state of its refresh tokens.
    pub refresh: RefreshState,
    /// Grows with each change of the row.
    pub revision: u64,
}

/// Which refresh tokens a device may use. All tokens since a log-in are one family: a token of the
/// family that may not be used was used before, or another was used in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshState {
    /// Of what all tokens of the family have in common.
    pub family: Hash,
    /// Of the tokens that may be used: one, or several if an answer was lost and asked for again.
    pub unused: Vec<Hash>,
    /// Of the token that was used last.
    pub used: Option<Hash>,
    /// When that was used first; 0 if none was.
    pub used_unix_ms: i64,
    /// When tokens were last made.
    pub refreshed_unix_ms: i64,
    /// When the unused ones stop being good.
    pub expires_unix_ms: i64,
}

/// Something that the log is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Grows in the order in which facts became true.
    pub id: i64,
    /// The key of its record.
    pub user_id: UserId,
    /// The record, encoded.
    pub payload: Vec<u8>,
}

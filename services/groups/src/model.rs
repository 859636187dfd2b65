//! The nouns of groups.

use runtime::ids::{GroupId, UserId};

/// What a member may do: see `group.proto`. Larger may more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Role {
    /// Sends, unless the group is for announcements.
    Member = 1,
    /// Changes the group and its members.
    Admin = 2,
    /// Makes admins. Exactly one member is the owner.
    Owner = 3,
}

impl Role {
    /// From the number in a store or in the contract; `None` for 0 and for numbers of a newer version.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Member),
            2 => Some(Self::Admin),
            3 => Some(Self::Owner),
            _ => None,
        }
    }
}

/// A time in which a user was a member of a group, in versions of the group: a member of version v if
/// `joined_version <= v`, and not yet left at v.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stint {
    /// Who.
    pub user: UserId,
    /// The version by which the user joined.
    pub joined_version: u64,
    /// The version by which the user left; `None` = has not.
    pub left_version: Option<u64>,
}

impl Stint {
    /// Whether the user is a member at this version.
    pub fn covers(&self, version: u64) -> bool {
        self.joined_version <= version && self.left_version.is_none_or(|left| version < left)
    }
}

/// A change that the log has carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequenced {
    /// Of which group.
    pub group: GroupId,
    /// The version that the group is at with it.
    pub version: u64,
    /// Where its event is in the conversation.
    pub seq: u64,
}

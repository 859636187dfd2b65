//! The nouns of groups.

use runtime::ids::{GroupId, UserId};
use uuid::Uuid;

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

/// Who is and was in a group, for the fan-out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// All that last, and those that ended and were not forgotten.
    pub stints: Vec<Stint>,
    /// Whether the group is deferred: see [`crate::store::FanoutStore::note_deferred`].
    pub deferred: bool,
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

/// What all members of a group, or the admins among them, have agreed on: see `group.proto`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Who joins from now on sees all of the history.
    pub history_all: bool,
    /// Only admins and the owner send.
    pub announcement: bool,
    /// Only they change name, picture and description.
    pub info_by_admins: bool,
    /// Only they add members.
    pub add_by_admins: bool,
    /// Who comes by an invitation waits until one of them approves.
    pub approve_joining: bool,
}

impl Settings {
    /// As one number, for stores: a bit for each, in the order of the fields.
    pub const fn to_bits(self) -> u8 {
        self.history_all as u8
            | (self.announcement as u8) << 1
            | (self.info_by_admins as u8) << 2
            | (self.add_by_admins as u8) << 3
            | (self.approve_joining as u8) << 4
    }

    /// From that number.
    pub const fn from_bits(bits: u8) -> Self {
        Self {
            history_all: bits & 1 != 0,
            announcement: bits & 2 != 0,
            info_by_admins: bits & 4 != 0,
            add_by_admins: bits & 8 != 0,
            approve_joining: bits & 16 != 0,
        }
    }
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Which.
    pub group_id: GroupId,
    /// Grows by one with every change; the first one is 1.
    pub version: u64,
    /// In its valid form, as the two below.
    pub name: String,
    /// May be empty.
    pub description: String,
    /// Where it is; empty = none.
    pub picture: String,
    /// The rules.
    pub settings: Settings,
    /// 0: it has ended, with its last member.
    pub member_count: u32,
    /// Milliseconds since 1970-01-01 UTC.
    pub created_unix_ms: i64,
}

/// Who is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user_id: UserId,
    /// What he may do.
    pub role: Role,
    /// Milliseconds since 1970-01-01 UTC.
    pub joined_unix_ms: i64,
    /// The version by which he joined.
    pub joined_version: u64,
}

/// The SHA-256 of an invitation's token: all that is kept of it.
pub type TokenHash = [u8; 32];

/// A link by which users join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invitation {
    /// Which.
    pub invitation_id: Uuid,
    /// Who made it.
    pub created_by: UserId,
    /// Milliseconds since 1970-01-01 UTC.
    pub created_unix_ms: i64,
    /// The same; 0 = never.
    pub expires_unix_ms: i64,
    /// 0 = as often as one likes.
    pub uses_max: u32,
    /// How many users came by it.
    pub uses: u32,
}

impl Invitation {
    /// Whether somebody may still come by it.
    pub const fn is_good(&self, now_unix_ms: i64) -> bool {
        let lasts = self.expires_unix_ms == 0 || now_unix_ms < self.expires_unix_ms;
        lasts && (self.uses_max == 0 || self.uses < self.uses_max)
    }
}

/// A user who waits for approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinRequest {
    /// Who.
    pub user_id: UserId,
    /// Milliseconds since 1970-01-01 UTC.
    pub requested_unix_ms: i64,
}

/// What a list shows of a group to one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    /// Which.
    pub group_id: GroupId,
    /// As it is, or as it was when the user left.
    pub name: String,
    /// The same.
    pub picture: String,
    /// 0 for who has left.
    pub member_count: u32,
    /// At which the rest is.
    pub version: u64,
}

//! What can be seen of groups. Their users, devices and groups have numbers of their own.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Keeps, Mark, Micros, No, Send, Way};

/// Something that was seen at a place of a group's conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupEvent {
    /// Of which group.
    pub group: No,
    /// The place among events, and the last message up to it.
    pub at: Mark,
    /// Who said or did it; `None` if nobody of the cast.
    pub sender: Option<No>,
    /// When the server says that it took it.
    pub time_unix_ms: i64,
    /// What it is.
    pub what: What,
}

/// What an event is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A message: its name, and the hash of its text.
    Message(Uuid, u64),
    /// A change of the group.
    Change(Change),
}

/// A change of a group, as its event tells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Change {
    /// The version that the group is at with it.
    pub version: u64,
    /// What happened.
    pub kind: Kind,
    /// Those whose membership or role it changed, and what they are after it.
    pub members: Vec<(Option<No>, Role)>,
    /// The new name, if it changed.
    pub name: Option<String>,
    /// Whether only admins send after it.
    pub announcement: bool,
    /// Members after it.
    pub member_count: u32,
}

/// What happened to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It was made.
    Created,
    /// Its name or its settings.
    Updated,
    /// Somebody was added.
    Added,
    /// Somebody was removed.
    Removed,
    /// Somebody left.
    Left,
    /// Somebody's role.
    Roles,
    /// Somebody came by an invitation.
    Joined,
    /// What this program does not know.
    Other,
}

/// What somebody is in a group, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Not a member.
    Nobody,
    /// A member.
    Member,
    /// An admin.
    Admin,
    /// The owner.
    Owner,
}

/// A change that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// A new group, with these members besides the owner.
    Create(Vec<No>),
    /// A user is added.
    Add(No),
    /// A user is removed.
    Remove(No),
    /// The user leaves.
    Leave,
    /// The user joins by the invitation.
    Join,
    /// A member is made an admin, or an admin a member.
    SetRole(No, Role),
    /// Announcement mode, on or off.
    Announcement(bool),
    /// Another name: each is asked for once.
    Rename(String),
}

/// A change, before it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Its number.
    pub call: u32,
    /// Before the first try.
    pub t: Micros,
    /// By whom.
    pub user: No,
    /// Of which group.
    pub group: No,
    /// What.
    pub asked: Asked,
    /// Its name, the same in every try.
    pub request_id: Uuid,
}

/// What became of a change, by one answer; each try may have its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is decided. The seq is 0 if its event was not seen in time or nothing had to be changed; the
    /// version is 0 where the answer does not name it.
    Done {
        /// The place of its event.
        seq: u64,
        /// The group's, after it.
        version: u64,
    },
    /// It is not carried out: the first try was answered so.
    Refused(String),
    /// Nobody learns whether it was carried out.
    Unknown(String),
}

/// A row of a conversation list that is a group's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Of which group.
    pub group: No,
    /// The inbox version at which it changed.
    pub version: u64,
    /// Its last event.
    pub last: Mark,
    /// Unread messages.
    pub unread: u64,
    /// The user's own mark.
    pub read: Mark,
    /// The user is not a member any more.
    pub left: bool,
    /// The newest message, or the joining: its seq, and which of them.
    pub preview: Option<(u64, bool)>,
}

/// A page of events of a group that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRead {
    /// Asked, and answered.
    pub t: (Micros, Micros),
    /// For whom.
    pub user: No,
    /// Of which group.
    pub group: No,
    /// Exclusive; 0 = from the first.
    pub after: u64,
    /// Exclusive; 0 = to the last.
    pub before: u64,
    /// What the reader holds and named.
    pub min_seq: u64,
    /// The direction.
    pub newest_first: bool,
    /// What it says that it covers.
    pub covers: (u64, u64),
    /// The last seq that it reflects.
    pub head: u64,
    /// Whether there is more of the range.
    pub more: bool,
    /// Numbers of events, in the order of the answer.
    pub events: Vec<u32>,
}

/// A conversation list of a user with groups, all pages of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupList {
    /// Asked, and answered.
    pub t: (Micros, Micros),
    /// For whom.
    pub user: No,
    /// What the reader holds and named.
    pub min_version: u64,
    /// Where the user was.
    pub version: u64,
    /// Over all groups.
    pub unread_total: u64,
    /// The rows of all pages.
    pub rows: Vec<GroupRow>,
    /// After everything had come to rest: it must be exact.
    pub is_final: bool,
}

/// One thing that was seen of groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "g", rename_all = "snake_case")]
#[expect(missing_docs, reason = "a variant says what its fields are")]
pub enum GroupRecord {
    /// One of the cast.
    User { user: No, id: String },
    /// One of the cast.
    Device { device: No, user: No, keeps: Keeps },
    /// A group, and who may be in it; the owner never leaves.
    Group {
        group: No,
        id: String,
        owner: No,
        users: Vec<No>,
    },
    /// Something was seen for the first time; its number is the count of those before it.
    Event(GroupEvent),
    /// A message was handed over; its conversation is the number of the group.
    Send(Send),
    /// The same message is sent again, as a call.
    Again { t: Micros, send: u32 },
    /// It is in the group, durably.
    Ack {
        t: Micros,
        send: u32,
        at: Mark,
        duplicate: bool,
        way: Way,
    },
    /// It is not in the group.
    Refused {
        t: Micros,
        send: u32,
        reason: String,
    },
    /// Nobody will learn what became of it.
    Unknown {
        t: Micros,
        send: u32,
        reason: String,
    },
    /// A change will be asked for.
    Call(Call),
    /// What became of a change.
    Answer {
        t: Micros,
        call: u32,
        answer: Answer,
    },
    /// An app begins. Of one that keeps places, where they are.
    App {
        t: Micros,
        device: No,
        app: u32,
        places: Vec<(No, u64)>,
    },
    /// A session handed events out, in this order.
    Got {
        t: Micros,
        device: No,
        app: u32,
        events: Vec<u32>,
    },
    /// A session handed a row out.
    Row {
        t: Micros,
        device: No,
        app: u32,
        row: GroupRow,
    },
    /// A page of events.
    Read(GroupRead),
    /// A page was refused although the user had named what he holds.
    ReadRefused {
        t: (Micros, Micros),
        user: No,
        group: No,
        min_seq: u64,
        reason: String,
    },
    /// A conversation list.
    List(GroupList),
    /// The user has seen everything up to here. `told` is whether the server, or a session, took it.
    MarkRead {
        t: (Micros, Micros),
        device: No,
        app: u32,
        group: No,
        up_to: Mark,
        way: Way,
        told: bool,
    },
    /// All that a user sees of a group, read by a new device after everything had come to rest. The
    /// owner's is the truth.
    View {
        user: No,
        group: No,
        events: Vec<u32>,
    },
    /// The messages among that, read by themselves and newest first; here in the order of the group.
    Messages {
        user: No,
        group: No,
        events: Vec<u32>,
    },
    /// The members of a group, as its owner is told after everything had come to rest; by user.
    Members {
        group: No,
        version: u64,
        members: Vec<(No, Role)>,
    },
}

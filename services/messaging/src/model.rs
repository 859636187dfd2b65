//! The nouns of messaging: what sequencer, stores and readers say to each other.

use bytes::Bytes;
use runtime::ids::{ConversationId, MessageId, UserId};

/// The kind of an event, as a store keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EventKind {
    /// Somebody said something.
    Message = 1,
    /// A group was changed.
    GroupChange = 2,
}

impl EventKind {
    /// From the number in a store; `None` if a newer version wrote it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Message),
            2 => Some(Self::GroupChange),
            _ => None,
        }
    }
}

/// What a member of a group may do, as a store keeps it: `messenger.groups.v1.Role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Role {
    /// Sends, unless the group is for announcements.
    Member = 1,
    /// Sends always, and mentions all.
    Admin = 2,
    /// As an admin.
    Owner = 3,
}

impl Role {
    /// From the number in a store or the log; `None` for 0, which means "not a member", and for
    /// numbers that a newer version wrote.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Member),
            2 => Some(Self::Admin),
            3 => Some(Self::Owner),
            _ => None,
        }
    }
}

/// A stretch of a group's history that a user may read, both ends inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// From this seq on.
    pub from_seq: u64,
    /// Up to this seq, the one of the event by which the user left; `None` while a member.
    pub to_seq: Option<u64>,
}

/// What a group's log says of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The version of the group that changed it last. Of two, the one with the larger version is the
    /// newer one, and holds as a whole.
    pub version: u64,
    /// `None` = not a member any more.
    pub role: Option<Role>,
    /// What the user may read: ascending, apart from each other, at most
    /// [`crate::limits::WINDOWS_MAX`]. Only the last one may be open.
    pub windows: Vec<Window>,
}

/// What a group's log says of the group, for the judgement of sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupState {
    /// The last change that was carried out; 0 = none, or a direct conversation. Of two states, the one
    /// with the larger version is the newer one, and holds as a whole.
    pub version: u64,
    /// Only admins and the owner send.
    pub announcement: bool,
    /// Who joins sees all of the history.
    pub history_all: bool,
}

/// One numbered, kept entry of a conversation (I2, I3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whose entry.
    pub conversation: ConversationId,
    /// Its place: 1, 2, 3 ... without gaps.
    pub seq: u64,
    /// Its place among the messages, or that of the last message before it.
    pub message_index: u64,
    /// Where its record is in the conversation's partition of the log.
    pub log_offset: u64,
    /// When the log took it; never decreases in a conversation.
    pub time_unix_ms: i64,
    /// What it is.
    pub kind: EventKind,
    /// Who caused it.
    pub sender: UserId,
    /// How its sender named it (I4).
    pub message_id: MessageId,
    /// An encoded `messenger.log.v1.EventBody`.
    pub body: Bytes,
}

/// A place in a conversation that a member has reached: (seq, message_index) of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Watermark {
    /// Of the event.
    pub seq: u64,
    /// Of the event.
    pub message_index: u64,
}

impl Watermark {
    /// The later place. Each part grows by itself, so that merging is the same in any order.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            seq: self.seq.max(other.seq),
            message_index: self.message_index.max(other.message_index),
        }
    }
}

/// How far a member has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// Some device of the member holds everything up to here.
    pub delivered: Watermark,
    /// The member has seen everything up to here.
    pub read: Watermark,
}

impl Marks {
    /// As far as the end goes that is shown.
    #[must_use]
    pub fn up_to(self, last: Watermark) -> Self {
        let cap = |mark: Watermark| Watermark {
            seq: mark.seq.min(last.seq),
            message_index: mark.message_index.min(last.message_index),
        };
        Self {
            delivered: cap(self.delivered),
            read: cap(self.read),
        }
    }

    /// Merge = the larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            delivered: self.delivered.max(other.delivered),
            read: self.read.max(other.read),
        }
    }
}

/// What the sequencer keeps of one member of a conversation, or of one who was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberState {
    /// Who.
    pub user: UserId,
    /// The largest message id accepted from this member: a larger one was never seen before, without
    /// a look-up. `None` before the first message.
    pub message_id_max: Option<MessageId>,
    /// Watermarks.
    pub marks: Marks,
    /// In a group; `None` in a direct conversation.
    pub membership: Option<Membership>,
}

impl MemberState {
    /// Before the member has done anything.
    pub const fn new(user: UserId) -> Self {
        const ZERO: Watermark = Watermark {
            seq: 0,
            message_index: 0,
        };
        Self {
            user,
            message_id_max: None,
            marks: Marks {
                delivered: ZERO,
                read: ZERO,
            },
            membership: None,
        }
    }

    /// What the user may do in the group; `None` if not a member of it.
    pub fn role(&self) -> Option<Role> {
        self.membership.as_ref().and_then(|m| m.role)
    }

    /// The larger of each: what both know together.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        let version = |membership: &Option<Membership>| membership.as_ref().map(|m| m.version);
        let membership = if version(&self.membership) >= version(&other.membership) {
            self.membership
        } else {
            other.membership
        };
        Self {
            user: self.user,
            message_id_max: self.message_id_max.max(other.message_id_max),
            marks: self.marks.max(other.marks),
            membership,
        }
    }
}

/// What the sequencer keeps of one conversation. A function of the prefix of the log that ends at
/// `applied_offset`, restricted to this conversation (I2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationState {
    /// Which.
    pub conversation: ConversationId,
    /// The last seq given; 0 = none.
    pub head_seq: u64,
    /// The last message index given; 0 = none.
    pub last_message_index: u64,
    /// Time of the last event, in Unix milliseconds.
    pub last_time_unix_ms: i64,
    /// The offset after the last record of this conversation that was applied: records below it are
    /// replays (I5).
    pub applied_end: u64,
    /// Of a group.
    pub group: GroupState,
    /// Members that have done anything yet, in the order of their ids; of a group, all members, and all
    /// users who were.
    pub members: Vec<MemberState>,
}

impl ConversationState {
    /// Before anything has happened.
    pub const fn new(conversation: ConversationId) -> Self {
        Self {
            conversation,
            head_seq: 0,
            last_message_index: 0,
            last_time_unix_ms: 0,
            applied_end: 0,
            group: GroupState {
                version: 0,
                announcement: false,
                history_all: false,
            },
            members: Vec::new(),
        }
    }

    /// The state of a member, if there is one yet.
    pub fn member(&self, user: UserId) -> Option<&MemberState> {
        let at = self
            .members
            .binary_search_by_key(&user, |member| member.user);
        at.ok().map(|at| &self.members[at])
    }

    /// Whether the user is one of the members now.
    pub fn is_member(&self, user: UserId) -> bool {
        match self.conversation.group_id() {
            Some(_) => self.member(user).is_some_and(|m| m.role().is_some()),
            None => self.conversation.peer_of(user).is_some(),
        }
    }

    /// The state of a member, made if need be.
    pub fn member_mut(&mut self, user: UserId) -> &mut MemberState {
        let at = match self
            .members
            .binary_search_by_key(&user, |member| member.user)
        {
            Ok(at) => at,
            Err(at) => {
                self.members.insert(at, MemberState::new(user));
                at
            }
        };
        &mut self.members[at]
    }

    /// The last event's place.
    pub const fn head(&self) -> Watermark {
        Watermark {
            seq: self.head_seq,
            message_index: self.last_message_index,
        }
    }
}

/// The end of the newest message, for lists; of a group that the user has joined after it, the joining.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Who wrote it.
    pub sender: UserId,
    /// How the sender named it.
    pub message_id: MessageId,
    /// Its place.
    pub seq: u64,
    /// Its time.
    pub time_unix_ms: i64,
    /// At most [`crate::limits::PREVIEW_CHARS_MAX`] Unicode scalar values.
    pub text: String,
    /// It is the event by which the user joined, without a text.
    pub joined: bool,
    /// Pictures and videos of the message.
    pub attachment_count: u32,
    /// How many of them are videos.
    pub video_count: u32,
}

/// What a record of the topic `inbox` says: a user's row of a conversation is at least at this.
/// Merging takes the larger of each part, so a record may come twice, or late (I5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxChange {
    /// Whose row.
    pub user: UserId,
    /// Of which conversation.
    pub conversation: ConversationId,
    /// The last event.
    pub last: Watermark,
    /// The newest message, if the change brings one.
    pub preview: Option<Preview>,
    /// The user's own watermarks.
    pub own: Marks,
    /// The other member's watermarks, in a direct conversation.
    pub peer: Marks,
    /// The last event by which the user joined the group; 0 = never, or not said.
    pub joined_seq: u64,
    /// The last event by which the user left the group; 0 = never, or not said.
    pub left_seq: u64,
    /// The event from which on the row is deferred; 0 = it is not, or not said.
    pub deferred_seq: u64,
    /// The last message that mentions the user; 0 = none, or not said. No row has it: it is for whoever
    /// tells users of what they have not received.
    pub mentioned_seq: u64,
}

/// A row of a user's conversation list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxRow {
    /// Of which conversation.
    pub conversation: ConversationId,
    /// The offset (plus one, so that 0 means "never") of the last record of the user's `inbox`
    /// partition that changed the row.
    pub version: u64,
    /// The last event.
    pub last: Watermark,
    /// The newest message; `None` while there is none.
    pub preview: Option<Preview>,
    /// The user's own watermarks.
    pub own: Marks,
    /// The other member's watermarks.
    pub peer: Marks,
    /// The last event by which the user joined the group; 0 in a direct conversation.
    pub joined_seq: u64,
    /// The last event by which the user left the group; 0 = never.
    pub left_seq: u64,
    /// The event from which on the row is not written for the events of others, since the group is huge:
    /// see [`InboxRow::complete`]. 0 = it is.
    pub deferred_seq: u64,
}

impl InboxRow {
    /// Before anything has happened.
    pub const fn new(conversation: ConversationId) -> Self {
        const ZERO: Watermark = Watermark {
            seq: 0,
            message_index: 0,
        };
        Self {
            conversation,
            version: 0,
            last: ZERO,
            preview: None,
            own: Marks {
                delivered: ZERO,
                read: ZERO,
            },
            peer: Marks {
                delivered: ZERO,
                read: ZERO,
            },
            joined_seq: 0,
            left_seq: 0,
            deferred_seq: 0,
        }
    }

    /// Whether the user is to hear of it. Of a group, marks of a new member may come before his joining:
    /// then there is nothing to show yet, and the joining will be a change of its own.
    pub fn is_listed(&self) -> bool {
        self.conversation.group_id().is_none() || self.joined_seq > 0
    }

    /// Whether the user is not a member of the group any more.
    pub const fn has_left(&self) -> bool {
        self.left_seq > self.joined_seq
    }

    /// Messages after the read watermark. Exact, and never a COUNT.
    pub const fn unread_count(&self) -> u64 {
        self.last
            .message_index
            .saturating_sub(self.own.read.message_index)
    }

    /// Whether the end of the conversation is looked up when the row is read. Of who has left, the row is
    /// as it is.
    pub const fn is_deferred(&self) -> bool {
        self.deferred_seq > 0 && !self.has_left()
    }

    /// What the row counts in [`InboxHead::unread_total`].
    pub const fn counted_unread(&self) -> u64 {
        match self.is_deferred() {
            true => 0,
            false => self.unread_count(),
        }
    }

    /// Takes over where the conversation of a deferred row ends, and its newest message, if it came after
    /// the user joined.
    pub fn complete(&mut self, last: Watermark, preview: Option<Preview>) {
        self.last = self.last.max(last);
        let known = self.preview.as_ref().map_or(0, |preview| preview.seq);
        let is_newer = |preview: &Preview| preview.seq > known.max(self.joined_seq);
        if let Some(preview) = preview.filter(is_newer) {
            self.preview = Some(preview);
        }
    }

    /// Takes over what is larger in `change`; answers whether anything was.
    pub fn merge(&mut self, change: &InboxChange) -> bool {
        let last = self.last.max(change.last);
        let own = self.own.max(change.own);
        let peer = self.peer.max(change.peer);
        let newer_preview = match (&self.preview, &change.preview) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(old), Some(new)) => new.seq > old.seq,
        };
        let joined_seq = self.joined_seq.max(change.joined_seq);
        let left_seq = self.left_seq.max(change.left_seq);
        let deferred_seq = self.deferred_seq.max(change.deferred_seq);
        let changed = newer_preview
            || last != self.last
            || own != self.own
            || peer != self.peer
            || joined_seq != self.joined_seq
            || left_seq != self.left_seq
            || deferred_seq != self.deferred_seq;
        self.deferred_seq = deferred_seq;
        self.joined_seq = joined_seq;
        self.left_seq = left_seq;
        self.last = last;
        self.own = own;
        self.peer = peer;
        if newer_preview {
            self.preview.clone_from(&change.preview);
        }
        changed
    }
}

/// Where a conversation ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationHead {
    /// Which.
    pub conversation: ConversationId,
    /// The last event.
    pub last: Watermark,
    /// The newest message, if it was asked for and there is one.
    pub message: Option<Event>,
}

/// What a user's inbox is at, over all conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InboxHead {
    /// The largest version of a row; 0 = nothing has happened yet.
    pub version: u64,
    /// Unread messages over all rows that are not deferred.
    pub unread_total: u64,
}

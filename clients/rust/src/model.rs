//! What the server tells, as the public contract defines it; the fields are documented there.

pub use proto::{
    blob::v1::{Blob, Purpose, SignedUrl, Thumbnail, Variant},
    error::v1::ErrorReason,
    groups::v1::{
        Group, GroupSettings, HistoryAccess, Invitation, JoinRequest,
        ListGroupsResponse as GroupsPage, ListJoinRequestsResponse as JoinRequestsPage,
        ListMembersResponse as MembersPage, Member, Role,
    },
    messaging::v1::{
        Attachment, AttachmentThumbnail, ChangedMember, Conversation, DeferredHead,
        Event as RawEvent, EventPage, EventRange, GroupChangeKind, GroupSnippet,
        ListChangesResponse as ChangesPage, ListConversationsResponse as ConversationsPage,
        ListReceiptsResponse as ReceiptsPage, MemberMarks, MessagePage, MessageRange, Order,
        Preview, ProfileSnippet, SessionLimits, ShownMessage, Watermark,
    },
    notifier::v1::{
        ApnsTarget, DigestPeriod, EmailAddress, EmailDisabled, FcmTarget, Preferences,
        PreviewDetail, PushTarget, QuietHours, WebPushTarget,
        push_target::Provider as PushProvider,
    },
    presence::v1::Presence,
    profile::v1::{Device, Profile, SearchProfilesResponse as ProfilesPage},
};

use proto::messaging::v1::event;

/// A message of a conversation, from anybody and from any device, the own one included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was said.
    pub conversation_id: String,
    /// Its place among the events of the conversation: 1, 2, 3 ...
    pub seq: u64,
    /// Its place among the messages of the conversation: 1, 2, 3 ...
    pub message_index: u64,
    /// When the server took it; milliseconds since 1970, by the server's clock.
    pub time_unix_ms: i64,
    /// Who said it.
    pub sender_id: String,
    /// The name that its sender gave it.
    pub message_id: String,
    /// What was said.
    pub text: String,
    /// Users who are mentioned.
    pub mentioned_user_ids: Vec<String>,
    /// All members are mentioned.
    pub mentions_all: bool,
    /// Pictures and videos, in the order in which they were sent.
    pub attachments: Vec<Attachment>,
}

impl Message {
    /// What [`crate::Session::mark_read`] takes after the user has seen this message.
    pub fn watermark(&self) -> Watermark {
        Watermark {
            seq: self.seq,
            message_index: self.message_index,
        }
    }

    /// The message in an event; `None` for an event of another kind.
    pub fn from_event(event: RawEvent) -> Option<Self> {
        let event::Kind::Message(message) = event.kind? else {
            return None;
        };
        Some(Self {
            conversation_id: event.conversation_id,
            seq: event.seq,
            message_index: event.message_index,
            time_unix_ms: event.time_unix_ms,
            sender_id: event.sender_id,
            message_id: message.message_id,
            text: message.text,
            mentioned_user_ids: message.mentioned_user_ids,
            mentions_all: message.mentions_all,
            attachments: message.attachments,
        })
    }

    /// The message as a page of messages shows it.
    pub fn from_shown(conversation_id: &str, shown: ShownMessage) -> Self {
        Self {
            conversation_id: conversation_id.to_owned(),
            seq: shown.seq,
            message_index: shown.message_index,
            time_unix_ms: shown.time_unix_ms,
            sender_id: shown.sender_id,
            message_id: shown.message_id,
            text: shown.text,
            mentioned_user_ids: shown.mentioned_user_ids,
            mentions_all: shown.mentions_all,
            attachments: shown.attachments,
        }
    }

    /// Whether the message mentions this user.
    pub fn mentions(&self, user_id: &str) -> bool {
        self.mentions_all || self.mentioned_user_ids.iter().any(|id| id == user_id)
    }
}

/// Whether an attachment is a video, by its media type; otherwise it is a picture.
pub fn is_video(attachment: &Attachment) -> bool {
    attachment.media_type.starts_with("video/")
}

/// What of a blob belongs to the messages that have it as an attachment.
pub(crate) fn attachment_of(blob: &Blob) -> Attachment {
    let thumbnail = |thumbnail: &Option<Thumbnail>| {
        let thumbnail = thumbnail.as_ref()?;
        Some(AttachmentThumbnail {
            media_type: thumbnail.media_type.clone(),
            width: thumbnail.width,
            height: thumbnail.height,
            size_bytes: thumbnail.size_bytes,
        })
    };
    Attachment {
        blob_id: blob.blob_id.clone(),
        media_type: blob.media_type.clone(),
        size_bytes: blob.size_bytes,
        sha256: blob.sha256.clone(),
        width: blob.width,
        height: blob.height,
        placeholder: blob.placeholder.clone(),
        small: thumbnail(&blob.small),
        large: thumbnail(&blob.large),
    }
}

/// An upload that goes with a message: what proves it, and what others will see of it.
#[derive(Clone, PartialEq, Eq)]
pub struct DraftAttachment {
    /// At most 2,048 bytes of ASCII, good for 24 hours.
    pub receipt: String,
    /// What the message will have; the server takes it from the receipt.
    pub attachment: Attachment,
}

impl std::fmt::Debug for DraftAttachment {
    // The receipt lets its owner send the blob: it is nothing for a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DraftAttachment")
            .field("attachment", &self.attachment)
            .finish_non_exhaustive()
    }
}

/// What is to be said: a text, attachments, and in a group who is mentioned. Made from a text by `into`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Draft {
    /// 1 to 700 Unicode scalar values, without U+0000; may be empty if there are attachments.
    pub text: String,
    /// Members of the group who are mentioned; at most 50.
    pub mentioned_user_ids: Vec<String>,
    /// All members of the group are mentioned; for its admins.
    pub mentions_all: bool,
    /// Uploads with the purpose of an attachment, each of another blob; at most 10.
    pub attachments: Vec<DraftAttachment>,
}

impl Draft {
    /// A text that mentions nobody.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// Mentions a member of the group; once is enough.
    #[must_use]
    pub fn mention(mut self, user_id: impl Into<String>) -> Self {
        let user_id = user_id.into();
        if !self.mentioned_user_ids.contains(&user_id) {
            self.mentioned_user_ids.push(user_id);
        }
        self
    }

    /// Adds what was uploaded; the same blob once is enough.
    #[must_use]
    pub fn attach(mut self, uploaded: &crate::Uploaded) -> Self {
        let attachment = uploaded.attachment();
        let is_it = |held: &DraftAttachment| held.attachment.blob_id == attachment.blob_id;
        self.attachments.retain(|held| !is_it(held));
        self.attachments.push(DraftAttachment {
            receipt: uploaded.receipt.clone(),
            attachment,
        });
        self
    }

    /// What the frames and calls carry.
    pub(crate) fn receipts(&self) -> Vec<String> {
        let attachments = self.attachments.iter();
        attachments.map(|held| held.receipt.clone()).collect()
    }

    /// Mentions all members of the group.
    #[must_use]
    pub fn mention_all(mut self) -> Self {
        self.mentions_all = true;
        self
    }
}

impl From<String> for Draft {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&String> for Draft {
    fn from(text: &String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Draft {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// A change of a group, in one order with the messages of its conversation. It counts as nothing
/// unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupChange {
    /// The conversation of the group.
    pub conversation_id: String,
    /// Its place among the events of the conversation.
    pub seq: u64,
    /// That of the last message before it.
    pub message_index: u64,
    /// When the server took it; milliseconds since 1970, by the server's clock.
    pub time_unix_ms: i64,
    /// Who changed the group.
    pub actor_id: String,
    /// The version that the group is at with it: one more than before.
    pub version: u64,
    /// What happened; never `Unspecified`.
    pub kind: GroupChangeKind,
    /// Those whose membership or role it changed, as they are after it.
    pub members: Vec<ChangedMember>,
    /// The new name, if it changed.
    pub name: Option<String>,
    /// The new description, if it changed.
    pub description: Option<String>,
    /// The new picture, if it changed.
    pub picture: Option<String>,
    /// Whether only admins send after it.
    pub announcement: bool,
    /// Members after it.
    pub member_count: u32,
}

impl GroupChange {
    /// What [`crate::Session::mark_read`] takes after the user has seen this change.
    pub fn watermark(&self) -> Watermark {
        Watermark {
            seq: self.seq,
            message_index: self.message_index,
        }
    }

    /// The group that it is of.
    pub fn group_id(&self) -> &str {
        group_of(&self.conversation_id).unwrap_or_default()
    }

    /// What the user is after it, if it changed that; [`Role::Unspecified`] = not a member any more.
    pub fn role_of(&self, user_id: &str) -> Option<Role> {
        let changed = self
            .members
            .iter()
            .find(|member| member.user_id == user_id)?;
        let role = i32::try_from(changed.role).unwrap_or(0);
        Some(Role::try_from(role).unwrap_or(Role::Member))
    }

    /// The change in an event; `None` for another kind of event, or of change, than this version
    /// knows.
    pub fn from_event(event: RawEvent) -> Option<Self> {
        let event::Kind::GroupChange(change) = event.kind? else {
            return None;
        };
        let kind = change.kind();
        (kind != GroupChangeKind::Unspecified).then_some(Self {
            conversation_id: event.conversation_id,
            seq: event.seq,
            message_index: event.message_index,
            time_unix_ms: event.time_unix_ms,
            actor_id: event.sender_id,
            version: change.version,
            kind,
            members: change.members,
            name: change.name,
            description: change.description,
            picture: change.picture,
            announcement: change.announcement,
            member_count: change.member_count,
        })
    }

    /// The event that it came in.
    pub fn into_event(self) -> RawEvent {
        RawEvent {
            conversation_id: self.conversation_id,
            seq: self.seq,
            message_index: self.message_index,
            time_unix_ms: self.time_unix_ms,
            sender_id: self.actor_id,
            kind: Some(event::Kind::GroupChange(
                proto::messaging::v1::GroupChange {
                    version: self.version,
                    kind: self.kind.into(),
                    members: self.members,
                    name: self.name,
                    description: self.description,
                    picture: self.picture,
                    announcement: self.announcement,
                    member_count: self.member_count,
                },
            )),
        }
    }
}

/// The place that the server gave a message, durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its place among the events of the conversation.
    pub seq: u64,
    /// Its place among the messages of the conversation.
    pub message_index: u64,
    /// When the server took it; milliseconds since 1970, by the server's clock.
    pub time_unix_ms: i64,
    /// An earlier try had arrived already; this is its place.
    pub duplicate: bool,
}

/// What became of a send, for [`crate::Client::send_status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendStatus {
    /// It is in the conversation.
    Accepted(Receipt),
    /// It is not among the events up to this seq. It may still be under way.
    NotAcceptedAsOf(u64),
}

/// The tick beside an own message of a direct conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tick {
    /// The server has it durably.
    Sent,
    /// A device of the other member has it.
    Delivered,
    /// The other member has seen it.
    Read,
}

impl Tick {
    /// The tick of the own message at `seq`, by the other member's marks: `Conversation::peer_marks`
    /// or [`crate::Event::Marks`].
    pub fn of(seq: u64, peer_marks: &MemberMarks) -> Self {
        let reached = |mark: &Option<Watermark>| mark.as_ref().is_some_and(|mark| mark.seq >= seq);
        if reached(&peer_marks.read) {
            Self::Read
        } else if reached(&peer_marks.delivered) {
            Self::Delivered
        } else {
            Self::Sent
        }
    }
}

/// The id of the direct conversation of two users. Both get the same, and making it asks nobody.
pub fn direct_conversation_id(one_user_id: &str, other_user_id: &str) -> String {
    let (one, other) = (
        one_user_id.to_ascii_lowercase(),
        other_user_id.to_ascii_lowercase(),
    );
    if one < other {
        format!("d:{one}:{other}")
    } else {
        format!("d:{other}:{one}")
    }
}

/// The other member of a direct conversation.
pub fn direct_peer<'a>(conversation_id: &'a str, own_user_id: &str) -> Option<&'a str> {
    let (low, high) = conversation_id.strip_prefix("d:")?.split_once(':')?;
    if low == own_user_id {
        Some(high)
    } else if high == own_user_id {
        Some(low)
    } else {
        None
    }
}

/// The id of the conversation of a group.
pub fn group_conversation_id(group_id: &str) -> String {
    format!("g:{}", group_id.to_ascii_lowercase())
}

/// The group of a conversation; `None` for a direct one.
pub fn group_of(conversation_id: &str) -> Option<&str> {
    conversation_id.strip_prefix("g:")
}

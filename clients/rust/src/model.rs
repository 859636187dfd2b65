//! What the server tells, as the public contract defines it; the fields are documented there.

pub use proto::{
    error::v1::ErrorReason,
    messaging::v1::{
        Conversation, Event as RawEvent, EventPage, EventRange, ListChangesResponse as ChangesPage,
        ListConversationsResponse as ConversationsPage, MemberMarks, MessagePage, MessageRange,
        Order, Preview, ProfileSnippet, SessionLimits, ShownMessage, Watermark,
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
}

impl Message {
    /// What [`crate::Session::mark_read`] takes after the user has seen this message.
    pub fn watermark(&self) -> Watermark {
        Watermark {
            seq: self.seq,
            message_index: self.message_index,
        }
    }

    /// The message in an event; `None` for a kind of event that this version does not know.
    pub fn from_event(event: RawEvent) -> Option<Self> {
        let event::Kind::Message(message) = event.kind?;
        Some(Self {
            conversation_id: event.conversation_id,
            seq: event.seq,
            message_index: event.message_index,
            time_unix_ms: event.time_unix_ms,
            sender_id: event.sender_id,
            message_id: message.message_id,
            text: message.text,
        })
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

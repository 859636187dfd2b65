//! What was seen: the record of a run, from which alone it is judged.
//!
//! Everything has a small number, so that a run of a million messages fits into memory and onto a
//! disk. What was seen at a place of a conversation is a [`Content`], written once; whoever sees the
//! same again names its number.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub mod groups;

/// Numbers of users, devices and conversations: their places in the cast.
pub type No = u16;
/// Microseconds since the run began, by one monotonic clock.
pub type Micros = u64;

/// A place in a conversation: (seq, message_index).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Mark(pub u64, pub u64);

/// Something that was seen at a place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Content {
    /// Where.
    pub conversation: No,
    /// The place among events, and among messages.
    pub at: Mark,
    /// The message's name.
    pub id: Uuid,
    /// Who said it; `None` if nobody of the cast.
    pub sender: Option<No>,
    /// Of the text.
    pub hash: u64,
    /// When the server says that it took it.
    pub time_unix_ms: i64,
}

/// What a device keeps when its app ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeps {
    /// Everything, in the SDK's durable cache.
    Cache,
    /// How far it got: the next session begins there.
    Places,
    /// Nothing; the next session brings the whole history again.
    NothingAll,
    /// Nothing; the next session begins with the present.
    Nothing,
}

/// How something was said to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// In the live session.
    Session,
    /// As a call.
    Call,
    /// As a call, with the name of a message that was sent before.
    Retry,
}

/// A message that somebody meant to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Send {
    /// Its number.
    pub send: u32,
    /// Before it was handed over.
    pub t: Micros,
    /// By which device.
    pub device: No,
    /// By which run of its app.
    pub app: u32,
    /// Where to.
    pub conversation: No,
    /// Its name.
    pub id: Uuid,
    /// Of the text.
    pub hash: u64,
    /// How.
    pub way: Way,
    /// Messages of one group and conversation keep their order; `None` is in no group.
    pub group: Option<u64>,
}

/// A row of a conversation list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The conversation.
    pub conversation: No,
    /// The inbox version at which it changed.
    pub version: u64,
    /// Its last event.
    pub last: Mark,
    /// Unread messages.
    pub unread: u64,
    /// The user's own marks.
    pub read: Mark,
    /// Up to where a device of the user holds everything.
    pub delivered: Mark,
    /// The other member's.
    pub peer_read: Mark,
    /// The other member's.
    pub peer_delivered: Mark,
    /// The newest message: its seq and its name.
    pub preview: Option<(u64, Uuid)>,
}

/// A page of history that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Asked, and answered.
    pub t: (Micros, Micros),
    /// By which device.
    pub device: No,
    /// Of which conversation.
    pub conversation: No,
    /// `ListMessages`, by message index; otherwise `ListEvents`, by seq.
    pub messages: bool,
    /// Exclusive; 0 = from the first.
    pub after: u64,
    /// Exclusive; 0 = to the last.
    pub before: u64,
    /// What the reader holds and named.
    pub min_seq: u64,
    /// Shown as it was at this seq; 0 = now.
    pub as_of: u64,
    /// The direction.
    pub newest_first: bool,
    /// What came.
    pub page: Page,
}

/// The answer to a [`Read`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// What it says that it covers.
    pub covers: (u64, u64),
    /// The last seq that it reflects.
    pub head: u64,
    /// Whether there is more of the range.
    pub more: bool,
    /// Numbers of contents, in the order of the answer.
    pub contents: Vec<u32>,
}

/// A conversation list that was asked for, all pages of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Asked, and answered.
    pub t: (Micros, Micros),
    /// For whom.
    pub user: No,
    /// What the reader holds and named.
    pub min_version: u64,
    /// Where the user was.
    pub version: u64,
    /// Over all conversations.
    pub unread_total: u64,
    /// The rows of all pages.
    pub rows: Vec<Row>,
    /// After everything had come to rest: it must be exact.
    pub is_final: bool,
}

/// Who read a conversation after everything had come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reader {
    /// A new device, with `ListEvents`, oldest first.
    Events,
    /// A new device, with `ListMessages`, newest first.
    Messages,
    /// A new device, with a session from the beginning.
    Session,
    /// The cache of a device that has one.
    Cache,
}

/// What a session said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// It is open.
    Connected,
    /// It has told what had changed.
    CaughtUp(u64),
    /// Its connection broke, or could not be made.
    Disconnected(String),
    /// It has ended for good.
    Closed(String),
}

/// One thing that was seen. Those of one observer are in the order in which he saw them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "k", rename_all = "snake_case")]
#[expect(missing_docs, reason = "a variant says what its fields are")]
pub enum Record {
    /// One of the cast.
    User { user: No, id: String },
    /// One of the cast.
    Device { device: No, user: No, keeps: Keeps },
    /// One of the cast.
    Conversation {
        conversation: No,
        id: String,
        members: [No; 2],
    },
    /// Something was seen for the first time; its number is the count of those before it.
    Content(Content),
    /// A message was handed over.
    Send(Send),
    /// The same message is sent again, as a call.
    Again { t: Micros, send: u32, device: No },
    /// It is in its conversation, durably.
    Ack {
        t: Micros,
        send: u32,
        at: Mark,
        duplicate: bool,
        way: Way,
    },
    /// It is not in its conversation and never will be.
    Refused {
        t: Micros,
        send: u32,
        reason: String,
    },
    /// Nobody will learn what became of it: the app ended, or the call did.
    Unknown {
        t: Micros,
        send: u32,
        reason: String,
    },
    /// An app begins. Of one that keeps places, where they are.
    App {
        t: Micros,
        device: No,
        app: u32,
        places: Vec<(No, u64)>,
    },
    /// It ended; otherwise than `killed`, it was told to.
    AppEnded {
        t: Micros,
        device: No,
        app: u32,
        killed: bool,
    },
    /// A session said something of itself.
    Session {
        t: Micros,
        device: No,
        app: u32,
        news: News,
    },
    /// A session handed messages out, in this order.
    Got {
        t: Micros,
        device: No,
        app: u32,
        contents: Vec<u32>,
    },
    /// A session handed a row out.
    Row {
        t: Micros,
        device: No,
        app: u32,
        row: Row,
    },
    /// A session told how far a member has got.
    Marks {
        t: Micros,
        device: No,
        app: u32,
        conversation: No,
        member: No,
        delivered: Mark,
        read: Mark,
    },
    /// A page of history.
    Read(Read),
    /// A conversation list.
    List(List),
    /// The count of unread messages.
    UnreadTotal {
        t: (Micros, Micros),
        user: No,
        total: u64,
        is_final: bool,
    },
    /// What became of a send: its place, or the seq up to which it is not there.
    Status {
        t: (Micros, Micros),
        send: u32,
        found: Result<Mark, u64>,
    },
    /// The user has seen everything up to here. `told` is whether the server, or a session, took it.
    MarkRead {
        t: (Micros, Micros),
        device: No,
        app: u32,
        conversation: No,
        up_to: Mark,
        way: Way,
        told: bool,
    },
    /// A call failed.
    Failed {
        t: Micros,
        device: No,
        call: String,
        reason: String,
    },
    /// A fault, from its beginning to its end.
    Fault {
        t: (Micros, Micros),
        name: String,
        target: String,
        detail: String,
    },
    /// Something that must not happen: a process that died by itself, a panic.
    Found { t: Micros, what: String },
    /// Traffic and faults have ended; what was under way is waited for.
    Quiet { t: Micros },
    /// Something did not come to rest in time.
    Unsettled { what: String },
    /// The rows in the cache of a device, after everything had come to rest.
    CacheRows {
        t: Micros,
        device: No,
        rows: Vec<Row>,
    },
    /// A whole conversation, read after everything had come to rest.
    View {
        reader: Reader,
        user: No,
        device: Option<No>,
        conversation: No,
        contents: Vec<u32>,
    },
    /// Something was seen of groups.
    Group(groups::GroupRecord),
}

//! The limits of messaging, each with its unit and its reason.

use std::time::Duration;

/// Unicode scalar values of a text (F1).
pub const TEXT_CHARS_MAX: usize = 700;
/// Huge groups of one user that are looked at when his lists are read, and in a heartbeat: those that he
/// has been in for longest. Each costs some reads by key, and a person follows a few; of more, the lists
/// show what was last written.
pub const DEFERRED_MAX: usize = 200;
/// Unicode scalar values of a preview: two lines on a phone.
pub const PREVIEW_CHARS_MAX: usize = 100;
/// Users mentioned by one message; who means more means all.
pub const MENTIONS_MAX: usize = 50;
/// Attachments of one message: an album as phones send them.
pub const ATTACHMENTS_MAX: usize = 10;
/// Stretches of a group's history that one user may read, for having left and joined again: with more,
/// the oldest are forgotten. 16 bytes each, of all users who were ever members.
pub const WINDOWS_MAX: usize = 16;
/// Bytes of an encoded ClientFrame: the longest text in four-byte characters with its ids has below
/// 4 KiB, mentions of 50 users 2 KiB, and ten receipts of below 1,000 bytes 10 KiB.
pub const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Bytes of `Hello.user_agent`.
pub const USER_AGENT_BYTES_MAX: usize = 100;

/// Conversations in a page of the conversation list (F4).
pub const CONVERSATIONS_PAGE_MAX: usize = 100;
/// Conversations in a page when the client does not say.
pub const CONVERSATIONS_PAGE_DEFAULT: usize = 50;
/// Changed conversations in a page: a resume is few exchanges, a row is below 1 KiB.
pub const CHANGES_PAGE_MAX: usize = 500;
/// Changed conversations in a page when the client does not say.
pub const CHANGES_PAGE_DEFAULT: usize = 100;
/// Events or messages in a page of one range (F3).
pub const EVENTS_PAGE_MAX: usize = 200;
/// Events or messages in a page when the client does not say.
pub const EVENTS_PAGE_DEFAULT: usize = 50;
/// Ranges in one request: as many as a page of changes.
pub const RANGES_MAX: usize = 500;
/// Bytes of event bodies in one answer: well below the 4 MiB that gRPC clients accept by default.
pub const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What an event costs in an answer besides its body: ids, numbers and their tags.
pub const EVENT_OVERHEAD_BYTES: usize = 256;

/// Users whose unread messages are asked for in one call: as many as a reader of the topic `offline` judges
/// at a time.
pub const UNREAD_QUERIES_MAX: usize = 200;
/// Conversations of one of these users: a user who has missed more is told of the newest.
pub const UNREAD_CONVERSATIONS_MAX: usize = 32;
/// Conversations in a list of what is unread: a mail that nobody has to scroll through for long.
pub const UNREAD_LIST_MAX: usize = 50;
/// Rows that are looked at for such a list, the newest first: below 1 KiB each. What is older has been left
/// unread on purpose.
pub const UNREAD_LOOKED_AT_MAX: usize = 500;

/// How long a read waits for the state that it names.
pub const READ_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a send waits for its verdict before it is reported as unknown.
pub const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// How long a call to another service may take.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// Conversations whose state a partition keeps in memory: some 500 bytes each, and their tails.
pub const CONVERSATIONS_CACHED_MAX: usize = 50_000;
/// Members of groups whose states a partition keeps in memory: some 150 bytes each, so 40 MB. As many as
/// 25 groups of 10,000 members.
pub const MEMBERS_CACHED_MAX: usize = 250_000;
/// Persisted events that a conversation keeps in memory for readers (N8).
pub const TAIL_EVENTS_MAX: usize = 20;
/// Records that a partition holds which are not yet in the store, or wait for a load: above it, it
/// stops reading. At 4 KiB each at most 64 MiB.
pub const UNPERSISTED_MAX: usize = 16_384;
/// Records of a partition for the topics `fanout` and `references` that are not yet confirmed: above it,
/// the partition stops reading. At 16 KiB each (the frame of a message with all that it may have, and its
/// preview) 64 MiB; most have below 1 KiB.
pub const DERIVED_MAX: usize = 4_096;
/// Members of a group up to which watermarks are pushed to all of them: with more, whoever reads makes
/// every member's device wake up, and nobody looks at a thousand ticks. They are asked for instead.
pub const MARKS_FANOUT_MEMBERS_MAX: usize = 1_000;
/// How long the first change of a batch waits for others to share the cost of persisting: nothing but
/// badges waits for it.
pub const PERSIST_DELAY: Duration = Duration::from_millis(10);
/// Events that are enough for a batch without waiting.
pub const PERSIST_NOW: usize = 1_024;
/// Records read and sequenced at a time: readers wait for the partition's lock no longer than this takes.
pub const INGEST_MAX: usize = 256;
/// Records of the inbox applied at a time.
pub const INBOX_BATCH_MAX: usize = 1_024;
/// Distinct message ids looked up in one query.
pub const LOOKUPS_MAX: usize = 1_024;
/// How often positions are saved: what is replayed after a crash is at most about this much.
pub const POSITION_INTERVAL: Duration = Duration::from_millis(250);
/// How often the store is synced and the log told what may be deleted.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(2);

/// Frames that wait for a device to read them. Above it the session is lagging.
pub const QUEUE_FRAMES_MAX: usize = 1_024;
/// Bytes that wait for a device to read them. Above it the session is lagging.
pub const QUEUE_BYTES_MAX: usize = 256 * 1024;
/// Frames handled in one turn of a session, so that a flood leaves room for others.
pub const FRAMES_PER_TURN: usize = 32;
/// Heartbeat intervals without a frame after which a session has ended.
pub const SILENT_INTERVALS_MAX: u32 = 3;
/// How long a stream may be open without `hello`.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// How long a conversation stays closed to later sends after one was refused for now and not retried.
pub const REFUSED_BLOCK: Duration = Duration::from_secs(30);

/// How often the watermarks of a conversation are put into the log by one edge.
pub const MARKS_INTERVAL: Duration = Duration::from_secs(1);
/// How soon the first watermark of a quiet conversation is put into the log.
pub const MARKS_DELAY: Duration = Duration::from_millis(50);
/// Conversations with watermarks on their way.
pub const MARKS_CONVERSATIONS_MAX: usize = 100_000;
/// How long a message may be on its way to a user's devices before he is told of it in another way, where
/// somebody does that: a device acknowledges within a second or two, and one that is half-open is found out
/// by then.
pub const OFFLINE_AFTER: Duration = Duration::from_secs(10);

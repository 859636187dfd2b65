//! The limits of blobs, each with its unit and its reason.

use std::time::Duration;

/// Bytes of a blob (F8).
pub const BLOB_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of `data` in one message of an upload: a frame or a few of HTTP/2, and nothing that many uploads
/// at a time could fill memory with.
pub const UPLOAD_DATA_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the beginning by which a kind of content is known: what any detector looks at.
pub const DETECT_BYTES: usize = 4 * 1024;
/// Uploads of one user that are not finished: three messages full of attachments.
pub const UNFINISHED_UPLOADS_MAX: usize = 32;
/// How long an upload that nobody continues is kept.
pub const UPLOAD_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a receipt is good: a device may be without a network for that long between upload and send.
pub const RECEIPT_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// How much the clocks of processes may differ: a blob is kept this much longer than its last receipt is
/// good. Tokens would not work any more long before that.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60 * 60);
/// How long a picture of a profile or a group is kept without a reference. Whether one is under way is
/// not known exactly, as it is of messages: it may wait in an outbox for as long as the log is away.
pub const PICTURE_GRACE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Pixels of a picture, wide or high.
pub const PICTURE_SIDE_MAX: u32 = 16_384;
/// Pixels of a picture in all: what the cameras of phones make (48 million) and a little more.
pub const PICTURE_PIXELS_MAX: u64 = 50_000_000;
/// Pixels of the small thumbnail, wide and high at most: a line of a list, on a dense screen.
pub const SMALL_SIDE_MAX: u32 = 320;
/// Pixels of the large thumbnail, wide and high at most: a phone's screen.
pub const LARGE_SIDE_MAX: u32 = 1_280;

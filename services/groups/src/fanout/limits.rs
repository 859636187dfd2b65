//! The limits of the fan-out, each with its unit and its reason. They are a partition's unless they say
//! otherwise.

use std::time::Duration;

/// Members that all partitions of a node keep in memory, of all groups together; each partition has an
/// equal part. 16 bytes each: 64 MB.
pub(super) const MEMBERS_CACHED_MAX: usize = 4_000_000;
/// Members that are pushed to at a time. A larger group is pushed to in turns with others; with fewer,
/// an edge would get more items than it saves others time.
pub(super) const CHUNK_USERS: usize = 512;
/// Chunks pushed before the partition looks for something else to do: some milliseconds.
pub(super) const CHUNKS_PER_TURN: usize = 8;
/// Pushes that may wait, in users. Above it, nothing more is read.
pub(super) const PUSH_USERS_MAX: usize = 1_000_000;
/// Records that were read and whose outputs are not durable: some seconds, of some 50 bytes each besides
/// what waits for members. Above it, nothing more is read.
pub(super) const HELD_RECORDS_MAX: usize = 65_536;
/// Bytes of records that wait for the members of their groups. Above it, nothing more is read.
pub(super) const PARKED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a record takes besides its frame while it waits.
pub(super) const PARKED_BYTES: usize = 512;
/// Members of groups whose rows are to be written, each one row. Above it, nothing more is read: some
/// seconds of what a log can take.
pub(super) const ROUND_MEMBERS_MAX: usize = 1_000_000;
/// Groups whose members are loaded at the same time: few enough for the store, enough that one slow
/// answer does not hold up the others.
pub(super) const LOADS_MAX: usize = 16;
/// Records read at a time.
pub(super) const READ_MAX: usize = 256;

/// How long the first event of a quiet group waits for others that change the same rows.
pub(super) const ROUND_DELAY: Duration = Duration::from_millis(50);
/// How often the rows of a busy group are written.
pub(super) const ROUND_INTERVAL: Duration = Duration::from_secs(1);
/// Inbox records in one append: enough to share its cost, few enough that one group does not make the
/// others wait for long.
pub(super) const APPEND_RECORDS_MAX: usize = 4_096;
/// Inbox records of one group before it is the turn of the next.
pub(super) const TURN_RECORDS: usize = 512;
/// Changes noted in one call of the store.
pub(super) const SEQUENCED_MAX: usize = 1_024;

/// How long the members of a group are not asked for again after the store did not know a change that
/// the log has.
pub(super) const BEHIND_PAUSE: Duration = Duration::from_millis(500);
/// How long it may only seem that the store is behind. It also seems so if somebody joined, left and was
/// forgotten since, and his joining comes again.
pub(super) const BEHIND_SEEMS_MAX: Duration = Duration::from_secs(10);
/// How long stints are kept after the change that ended them, by the log's time, in milliseconds: a
/// record that comes out of its order, or again, still finds them.
pub(super) const FORGET_AFTER_MS: i64 = 60_000;
/// Changes whose stints are to be forgotten. Of more, the oldest wait for the next change of the group.
pub(super) const FORGET_CHANGES_MAX: usize = 65_536;

/// How often positions are saved: what is replayed after a crash is at most about this much.
pub(super) const POSITION_INTERVAL: Duration = Duration::from_millis(250);
/// How often the store is synced and the log told what may be deleted.
pub(super) const SYNC_INTERVAL: Duration = Duration::from_secs(2);
/// First and longest pause between tries of what the store or the log refused.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(20);
/// See [`RETRY_MIN`].
pub(super) const RETRY_MAX: Duration = Duration::from_secs(2);
/// Pause before a partition starts again.
pub(super) const RESTART_PAUSE: Duration = Duration::from_millis(200);

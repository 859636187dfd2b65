//! The SQLite file: its schema and all statements.
//!
//! `batches` has one row for each (commit, partition), so that the cost of storing is per commit and not
//! per record. Its key is the partition's index in the file and the offset of its first record: the rows
//! of a partition lie together, in order, and each commit adds at the end of its partitions. A partition
//! has no holes between its first and its last row.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use rusqlite_migration::{M, Migrations};
use uuid::Uuid;

use super::{EmbeddedConfig, OpenError, batch::Batch};
use crate::{Topic, TopicIdentity};

/// Bits of a row's key that hold the offset: 17 million million records in a partition.
const OFFSET_BITS: u32 = 44;
/// Offsets stay below this.
pub(super) const OFFSET_END: u64 = 1 << OFFSET_BITS;
/// Partitions of all topics together: what is left of a positive 64-bit key, and far more than serve.
const PARTITIONS_MAX: u32 = 1 << 12;
/// Bytes of a page. Larger ones cost a commit of one record more than they save the larger commits.
const PAGE_BYTES: i64 = 4_096;
/// The writer touches the ends of the partitions only; this holds those and one commit.
const WRITER_CACHE_KIB: i64 = 16 * 1_024;
/// Who reads from the file reads each row once.
const READER_CACHE_KIB: i64 = 1_024;
/// The WAL file is cut to this when it starts anew after a burst.
const WAL_KEPT_BYTES: i64 = 64 * 1024 * 1024;

const MIGRATIONS: &[M<'_>] = &[M::up(
    "CREATE TABLE log (
         one INTEGER PRIMARY KEY CHECK (one = 1),
         log_id TEXT NOT NULL
     ) STRICT;
     CREATE TABLE topics (
         name TEXT PRIMARY KEY,
         topic_id TEXT NOT NULL,
         first_partition INTEGER NOT NULL,
         partitions INTEGER NOT NULL
     ) STRICT;
     -- At least how far a partition has come; written when rows are deleted, so that their offsets
     -- are never used again.
     CREATE TABLE partitions (
         partition INTEGER PRIMARY KEY,
         next_offset INTEGER NOT NULL
     ) STRICT;
     CREATE TABLE positions (
         group_name TEXT NOT NULL,
         partition INTEGER NOT NULL,
         next_offset INTEGER NOT NULL,
         PRIMARY KEY (group_name, partition)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE batches (
         id INTEGER PRIMARY KEY,
         batch BLOB NOT NULL
     ) STRICT;",
)];

/// A topic in the file.
#[derive(Debug, Clone)]
pub(super) struct TopicPlace {
    pub(super) topic: Topic,
    pub(super) identity: TopicIdentity,
    /// Index in the file of its partition 0.
    pub(super) first: u32,
}

/// What a file holds when it is opened.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) topics: Vec<TopicPlace>,
    /// For each partition of the file, its first offset and its next.
    pub(super) ranges: Vec<(u64, u64)>,
    /// Group, partition of the file, position.
    pub(super) positions: Vec<(String, u32, u64)>,
}

/// The key of the row whose first record has this offset.
pub(super) fn row_id(partition: u32, offset: u64) -> i64 {
    (i64::from(partition) << OFFSET_BITS) | (offset & (OFFSET_END - 1)).cast_signed()
}

fn offset_of(id: i64) -> u64 {
    id.cast_unsigned() & (OFFSET_END - 1)
}

/// Opens or makes the file.
pub(super) fn open(config: &EmbeddedConfig) -> Result<Opened, OpenError> {
    let mut connection = Connection::open(&config.path)?;
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    configure(&connection, WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
    Migrations::from_slice(MIGRATIONS)
        .to_latest(&mut connection)
        .map_err(OpenError::Schema)?;
    let tx = connection.transaction()?;
    let topics = topics(&tx, &config.topics)?;
    let total = partitions_in_file(&tx)?;
    let ranges = (0..total)
        .map(|p| range(&tx, p))
        .collect::<Result<_, _>>()?;
    let positions = tx
        .prepare("SELECT group_name, partition, next_offset FROM positions")?
        .query_map([], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get::<_, i64>(2)?.cast_unsigned(),
            ))
        })?
        .collect::<Result<_, _>>()?;
    tx.commit()?;
    Ok(Opened {
        connection,
        topics,
        ranges,
        positions,
    })
}

/// A connection that moves the WAL into the file.
pub(super) fn open_checkpointer(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    configure(&connection, READER_CACHE_KIB)?;
    Ok(connection)
}

/// A connection that reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Ok(connection)
}

fn configure(connection: &Connection, cache_kib: i64) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Every commit is synced before it is answered.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // See `checkpoint.rs`.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn topics(tx: &Connection, wanted: &[(Topic, u32)]) -> Result<Vec<TopicPlace>, OpenError> {
    let new_id = Uuid::new_v4().to_string();
    tx.execute("INSERT OR IGNORE INTO log VALUES (1, ?)", [new_id])?;
    let log_id: String = tx.query_row("SELECT log_id FROM log", [], |row| row.get(0))?;
    let mut places = Vec::new();
    for &(topic, partitions) in wanted {
        if partitions == 0 || places.iter().any(|p: &TopicPlace| p.topic == topic) {
            return Err(OpenError::Config("a topic needs partitions, and only once"));
        }
        let get = "SELECT topic_id, first_partition, partitions FROM topics WHERE name = ?";
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let found = tx.query_row(get, [topic.name()], read).optional()?;
        let (topic_id, first, has) = match found {
            Some(found) => found,
            None => add_topic(tx, topic, partitions)?,
        };
        if has != partitions {
            let wanted = partitions;
            return Err(OpenError::PartitionCount { topic, has, wanted });
        }
        let log_id = log_id.clone();
        let identity = TopicIdentity {
            log_id,
            topic_id,
            partitions,
        };
        places.push(TopicPlace {
            topic,
            identity,
            first,
        });
    }
    Ok(places)
}

fn add_topic(
    tx: &Connection,
    topic: Topic,
    partitions: u32,
) -> Result<(String, u32, u32), OpenError> {
    let first = partitions_in_file(tx)?;
    if first.saturating_add(partitions) > PARTITIONS_MAX {
        return Err(OpenError::Config("too many partitions"));
    }
    let id = Uuid::new_v4().to_string();
    let insert = "INSERT INTO topics (name, topic_id, first_partition, partitions)
                  VALUES (?, ?, ?, ?)";
    tx.execute(insert, params![topic.name(), id, first, partitions])?;
    Ok((id, first, partitions))
}

fn partitions_in_file(tx: &Connection) -> Result<u32, rusqlite::Error> {
    let end = "SELECT coalesce(max(first_partition + partitions), 0) FROM topics";
    tx.query_row(end, [], |row| row.get(0))
}

/// The first offset of a partition, and its next.
fn range(tx: &Connection, partition: u32) -> Result<(u64, u64), rusqlite::Error> {
    let (low, high) = (row_id(partition, 0), row_id(partition + 1, 0));
    let next = "SELECT next_offset FROM partitions WHERE partition = ?";
    let next = tx.query_row(next, [partition], |row| row.get::<_, i64>(0));
    let mut next = next.optional()?.unwrap_or(0).cast_unsigned();
    let last = "SELECT id, batch FROM batches WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT 1";
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get(1)?));
    if let Some((id, row)) = tx.query_row(last, [low, high], read).optional()? {
        let base = offset_of(id);
        let end = match Batch::parse(partition, base, row) {
            Ok(batch) => batch.end(),
            Err(error) => {
                // Readers will stop at it. What comes next must not take an offset that it had.
                tracing::error!(
                    partition,
                    offset = base,
                    error,
                    "the log's last row is damaged"
                );
                base + super::queue::COMMIT_APPENDS_MAX as u64
            }
        };
        next = next.max(end);
    }
    let first = "SELECT id FROM batches WHERE id >= ? AND id < ? ORDER BY id LIMIT 1";
    let first = tx.query_row(first, [low, high], |row| row.get(0));
    Ok((first.optional()?.map_or(next, offset_of), next))
}

/// Starts a transaction that will write.
pub(super) fn begin(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    Ok(())
}

/// Makes the transaction durable.
pub(super) fn commit(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

/// Adds a batch.
pub(super) fn insert(
    connection: &Connection,
    partition: u32,
    base: u64,
    batch: &[u8],
) -> Result<(), rusqlite::Error> {
    let insert = "INSERT INTO batches (id, batch) VALUES (?, ?)";
    connection
        .prepare_cached(insert)?
        .execute(params![row_id(partition, base), batch])?;
    Ok(())
}

/// Stores what a group has committed.
pub(super) fn put_position(
    connection: &Connection,
    group: &str,
    partition: u32,
    position: u64,
) -> Result<(), rusqlite::Error> {
    let put = "INSERT INTO positions (group_name, partition, next_offset) VALUES (?, ?, ?)
               ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset";
    connection
        .prepare_cached(put)?
        .execute(params![group, partition, position.cast_signed()])?;
    Ok(())
}

/// What a step of deleting may still do.
pub(super) struct TrimBudget {
    /// Rows to delete.
    pub(super) rows: usize,
    /// Bytes of them.
    pub(super) bytes: usize,
}

/// Deletes rows all of whose records are below `until`, within the budget. `next` is the offset after
/// the partition's last record. Answers the offset that the partition starts at then.
pub(super) fn trim(
    connection: &Connection,
    partition: u32,
    until: u64,
    next: u64,
    budget: &mut TrimBudget,
) -> Result<u64, rusqlite::Error> {
    let low = row_id(partition, 0);
    // The row that holds `until` stays; there is none if everything was passed.
    let end = if until >= next {
        row_id(partition, next)
    } else {
        let holding = "SELECT max(id) FROM batches WHERE id >= ? AND id <= ?";
        let until = row_id(partition, until);
        let read = |row: &Row<'_>| row.get::<_, Option<i64>>(0);
        let holding = connection
            .prepare_cached(holding)?
            .query_row([low, until], read)?;
        holding.unwrap_or(low)
    };
    let mut first = end;
    let rows = "SELECT id, length(batch) FROM batches WHERE id >= ? AND id < ? ORDER BY id";
    let mut rows = connection.prepare_cached(rows)?;
    let mut rows = rows.query([low, end])?;
    while let Some(row) = rows.next()? {
        if budget.rows == 0 || budget.bytes == 0 {
            first = row.get(0)?;
            break;
        }
        budget.rows -= 1;
        let bytes = usize::try_from(row.get::<_, i64>(1)?).unwrap_or(usize::MAX);
        budget.bytes = budget.bytes.saturating_sub(bytes);
    }
    drop(rows);
    let delete = "DELETE FROM batches WHERE id >= ? AND id < ?";
    connection.prepare_cached(delete)?.execute([low, first])?;
    let put = "INSERT INTO partitions (partition, next_offset) VALUES (?, ?)
               ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset";
    connection
        .prepare_cached(put)?
        .execute(params![partition, next.cast_signed()])?;
    Ok(offset_of(first))
}

/// Bytes of the file that hold something.
pub(super) fn used_bytes(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let pragma = |name: &str| {
        let mut statement = connection.prepare_cached(name)?;
        statement.query_row([], |row| row.get::<_, i64>(0))
    };
    let pages = pragma("PRAGMA page_count")? - pragma("PRAGMA freelist_count")?;
    Ok((pages * PAGE_BYTES).max(0).cast_unsigned())
}

/// Frames in the WAL, and how many of them are in the file already.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalFrames {
    pub(super) all: i64,
    pub(super) moved: i64,
}

/// Moves what no reader needs from the WAL into the file, beside readers and the writer.
pub(super) fn checkpoint(connection: &Connection) -> Result<WalFrames, rusqlite::Error> {
    wal(connection, "PRAGMA wal_checkpoint(PASSIVE)")
}

/// Looks at the WAL.
pub(super) fn wal_frames(connection: &Connection) -> Result<WalFrames, rusqlite::Error> {
    wal(connection, "PRAGMA wal_checkpoint(NOOP)")
}

fn wal(connection: &Connection, pragma: &str) -> Result<WalFrames, rusqlite::Error> {
    connection.prepare_cached(pragma)?.query_row([], |row| {
        Ok(WalFrames {
            all: row.get(1)?,
            moved: row.get(2)?,
        })
    })
}

/// What a frame takes in the WAL.
pub(super) const FRAME_BYTES: i64 = PAGE_BYTES + 24;

/// Reads rows of a partition from the one that holds `offset` on, up to `end`, until they have
/// `bytes_max` bytes together; at least one.
pub(super) fn read(
    connection: &Connection,
    partition: u32,
    offset: u64,
    end: u64,
    bytes_max: usize,
) -> Result<Vec<(u64, Vec<u8>)>, rusqlite::Error> {
    let rows = "SELECT id, batch FROM batches
                WHERE id >= (SELECT max(id) FROM batches WHERE id >= ?1 AND id <= ?2) AND id < ?3
                ORDER BY id";
    let mut rows = connection.prepare_cached(rows)?;
    let (low, at) = (row_id(partition, 0), row_id(partition, offset));
    let mut rows = rows.query([low, at, row_id(partition, end)])?;
    let mut found = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let batch: Vec<u8> = row.get(1)?;
        bytes += batch.len();
        found.push((offset_of(row.get(0)?), batch));
        if bytes >= bytes_max {
            break;
        }
    }
    Ok(found)
}

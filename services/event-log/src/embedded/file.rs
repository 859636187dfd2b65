//! The SQLite file: its schema and all statements.
//!
//! Each partition is a table, `batches_N`, with one row for each commit that has records for it:
//! the cost of storing is per commit and not per record. The key is the offset of the row's first
//! record, so a commit adds at the end of the tables of its partitions: in one table for all it
//! would add in the middle, which costs twice the CPU (measured: 2.4 against 0.9 us of user time an
//! append, 8 partitions, 100 appends a commit). A partition has no holes between its first and its
//! last row.

use std::{os::unix::fs::OpenOptionsExt, path::Path};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use rusqlite_migration::{M, Migrations};
use uuid::Uuid;

use super::{EmbeddedConfig, OpenError, batch::Batch};
use crate::{Topic, TopicIdentity};

/// Offsets stay below this: they are keys of rows.
pub(super) const OFFSET_END: u64 = i64::MAX.cast_unsigned();
/// Partitions of all topics together: each is a table that SQLite knows by heart.
const PARTITIONS_MAX: u32 = 1_024;
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
     ) STRICT, WITHOUT ROWID;",
)];

/// What a row takes at most besides its batch: a page that it shares with nobody, the rest of its
/// last overflow page, and the links of both, which are below a page for the largest batch.
pub(super) const ROW_BYTES_MAX: u64 = 3 * PAGE_BYTES.cast_unsigned();

/// What a row with a batch of `bytes` takes at most, on average over many rows: pages of small rows
/// are at least half full, those of large ones but for [`ROW_BYTES_MAX`].
pub(super) fn row_bytes_max(bytes: usize) -> u64 {
    /// Lengths, offset and links of a row.
    const LINKS_BYTES: u64 = 64;
    let bytes = bytes as u64;
    bytes + (bytes + LINKS_BYTES).min(ROW_BYTES_MAX)
}

/// What a file without records has at most: its tables, and a position of each group and partition.
pub(super) fn empty_bytes_max(partitions: u64, positions: u64) -> u64 {
    /// The tables that every file has, with their indexes.
    const PAGES: u64 = 32;
    /// A root for the records of a partition, and its row in `partitions`.
    const PARTITION_PAGES: u64 = 2;
    /// Names of groups have below 100 bytes, and pages are half full.
    const POSITIONS_IN_PAGE: u64 = 16;
    let pages = PAGES + partitions * PARTITION_PAGES + positions / POSITIONS_IN_PAGE;
    pages * PAGE_BYTES.cast_unsigned()
}

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

/// Opens or makes the file.
pub(super) fn open(config: &EmbeddedConfig) -> Result<Opened, OpenError> {
    create(&config.path)?;
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
        .collect::<Result<Vec<_>, _>>()?;
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
    connection.set_prepared_statement_cache_capacity(ranges.len() * 4 + 16);
    Ok(Opened {
        connection,
        topics,
        ranges,
        positions,
    })
}

/// Messages are in it: it is its owner's alone. SQLite gives the files beside it the same mode.
fn create(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map(drop)
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
    for partition in first..first + partitions {
        tx.execute_batch(&format!(
            "CREATE TABLE batches_{partition} (
                 base INTEGER PRIMARY KEY,
                 batch BLOB NOT NULL
             ) STRICT"
        ))?;
    }
    Ok((id, first, partitions))
}

fn partitions_in_file(tx: &Connection) -> Result<u32, rusqlite::Error> {
    let end = "SELECT coalesce(max(first_partition + partitions), 0) FROM topics";
    tx.query_row(end, [], |row| row.get(0))
}

/// The first offset of a partition, and its next.
fn range(tx: &Connection, partition: u32) -> Result<(u64, u64), rusqlite::Error> {
    let next = "SELECT next_offset FROM partitions WHERE partition = ?";
    let next = tx.query_row(next, [partition], |row| row.get::<_, i64>(0));
    let mut next = next.optional()?.unwrap_or(0).cast_unsigned();
    let last = format!("SELECT base, batch FROM batches_{partition} ORDER BY base DESC LIMIT 1");
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?));
    if let Some((base, row)) = tx.query_row(&last, [], read).optional()? {
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
                base.saturating_add(super::queue::COMMIT_APPENDS_MAX as u64)
            }
        };
        next = next.max(end);
    }
    let first = format!("SELECT min(base) FROM batches_{partition}");
    let first: Option<i64> = tx.query_row(&first, [], |row| row.get(0))?;
    Ok((first.map_or(next, i64::cast_unsigned), next))
}

/// The statements of one partition, written once.
pub(super) struct Statements {
    partition: u32,
    insert: String,
    holding: String,
    sizes: String,
    delete: String,
}

impl Statements {
    /// Of a partition of the file.
    pub(super) fn new(partition: u32) -> Self {
        let table = format!("batches_{partition}");
        Self {
            partition,
            insert: format!("INSERT INTO {table} (base, batch) VALUES (?, ?)"),
            holding: format!("SELECT max(base) FROM {table} WHERE base <= ?"),
            sizes: format!("SELECT base, length(batch) FROM {table} WHERE base < ? ORDER BY base"),
            delete: format!("DELETE FROM {table} WHERE base < ?"),
        }
    }
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
    statements: &Statements,
    base: u64,
    batch: &[u8],
) -> Result<(), rusqlite::Error> {
    connection
        .prepare_cached(&statements.insert)?
        .execute(params![base.cast_signed(), batch])?;
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

/// Deletes rows all of whose records are below `until`, within the budget. `next` is the offset
/// after the partition's last record. Answers the offset that the partition starts at then.
pub(super) fn trim(
    connection: &Connection,
    statements: &Statements,
    until: u64,
    next: u64,
    budget: &mut TrimBudget,
) -> Result<u64, rusqlite::Error> {
    // The row that holds `until` stays; there is none if everything was passed.
    let end = if until >= next {
        next.cast_signed()
    } else {
        let read = |row: &Row<'_>| row.get::<_, Option<i64>>(0);
        let mut holding = connection.prepare_cached(&statements.holding)?;
        let holding = holding.query_row([until.cast_signed()], read)?;
        holding.unwrap_or(0)
    };
    let mut first = end;
    let mut rows = connection.prepare_cached(&statements.sizes)?;
    let mut rows = rows.query([end])?;
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
    connection
        .prepare_cached(&statements.delete)?
        .execute([first])?;
    let put = "INSERT INTO partitions (partition, next_offset) VALUES (?, ?)
               ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset";
    connection
        .prepare_cached(put)?
        .execute(params![statements.partition, next.cast_signed()])?;
    Ok(first.cast_unsigned())
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
    let rows = format!(
        "SELECT base, batch FROM batches_{partition}
         WHERE base >= (SELECT max(base) FROM batches_{partition} WHERE base <= ?) AND base < ?
         ORDER BY base"
    );
    let mut rows = connection.prepare_cached(&rows)?;
    let mut rows = rows.query([offset.cast_signed(), end.cast_signed()])?;
    let mut found = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let batch: Vec<u8> = row.get(1)?;
        bytes += batch.len();
        found.push((row.get::<_, i64>(0)?.cast_unsigned(), batch));
        if bytes >= bytes_max {
            break;
        }
    }
    Ok(found)
}

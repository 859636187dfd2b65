//! The statements for SQLite. The caller's transaction is around them.

use rusqlite::{Connection, OptionalExtension, params};

use super::{LogIdentity, PositionAdvance, PositionError, ReaderId, from_column, to_column};

const CLAIM: &str = "INSERT INTO readers (reader, topic, log_id, topic_id, partitions)
    VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (reader, topic) DO NOTHING";

const IDENTITY: &str =
    "SELECT log_id, topic_id, partitions FROM readers WHERE reader = ?1 AND topic = ?2";

const POSITION: &str = "SELECT position FROM reader_positions
    WHERE reader = ?1 AND topic = ?2 AND partition = ?3";

const RAISE: &str = "INSERT INTO reader_positions (reader, topic, partition, position)
    VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (reader, topic, partition)
    DO UPDATE SET position = excluded.position WHERE excluded.position > position";

/// Every statement that searches, for a test of its plan.
pub const SEARCHES: &[&str] = &[IDENTITY, POSITION];

/// Claims the reader for this log and answers its position, 0 at first. Records the log's identity on the
/// first call; fails with [`PositionError::OtherLog`] if it is not the recorded one.
pub fn open<E>(tx: &Connection, reader: &ReaderId, log: &LogIdentity) -> Result<u64, E>
where
    E: From<rusqlite::Error> + From<PositionError>,
{
    let ReaderId {
        reader: name,
        topic,
        ..
    } = reader;
    let claim = params![name, topic, log.log_id, log.topic_id, log.partitions];
    tx.prepare_cached(CLAIM)?.execute(claim)?;
    let mut identity = tx.prepare_cached(IDENTITY)?;
    let (log_id, topic_id, partitions) = identity.query_row(params![name, topic], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?))
    })?;
    let stored = LogIdentity {
        log_id,
        topic_id,
        partitions: from_column(partitions)?,
    };
    log.check(&stored)?;
    position(tx, reader)
}

/// Raises the position of a reader that was opened; never lowers it. Fails with
/// [`PositionError::BelowSaved`] if the stored one is below `from`: then the caller's transaction must be
/// taken back.
pub fn save<E>(tx: &Connection, advance: &PositionAdvance) -> Result<(), E>
where
    E: From<rusqlite::Error> + From<PositionError>,
{
    let PositionAdvance { reader, from, to } = advance;
    if position::<E>(tx, reader)? < *from {
        return Err(PositionError::BelowSaved.into());
    }
    let to = to_column(*to)?;
    let ReaderId {
        reader,
        topic,
        partition,
    } = reader;
    tx.prepare_cached(RAISE)?
        .execute(params![reader, topic, partition, to])?;
    Ok(())
}

fn position<E>(tx: &Connection, reader: &ReaderId) -> Result<u64, E>
where
    E: From<rusqlite::Error> + From<PositionError>,
{
    let key = params![reader.reader, reader.topic, reader.partition];
    let stored: Option<i64> = tx
        .prepare_cached(POSITION)?
        .query_row(key, |row| row.get(0))
        .optional()?;
    Ok(from_column(stored.unwrap_or(0))?)
}

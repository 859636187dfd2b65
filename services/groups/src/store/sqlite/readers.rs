//! Readers: which log each follows, and how far it has got.

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{Columns, to_column};
use crate::store::{LogIdentity, PositionAdvance, ReaderId, StoreError};

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

/// See [`crate::store::FanoutStore::open_reader`].
pub(super) fn open(
    tx: &Connection,
    reader: &ReaderId,
    log: &LogIdentity,
) -> Result<u64, StoreError> {
    tx.execute(
        CLAIM,
        params![
            reader.reader,
            reader.topic,
            log.log_id,
            log.topic_id,
            log.partitions
        ],
    )?;
    let stored = tx.query_row(IDENTITY, params![reader.reader, reader.topic], |row| {
        Ok(LogIdentity {
            log_id: row.get(0)?,
            topic_id: row.get(1)?,
            partitions: row.get(2)?,
        })
    })?;
    if stored != *log {
        return Err(StoreError::OtherLog {
            stored: in_words(&stored),
            actual: in_words(log),
        });
    }
    let key = params![reader.reader, reader.topic, reader.partition];
    let position = tx
        .query_row(POSITION, key, |row| Ok(Columns(row).number(0)))
        .optional()?;
    position.unwrap_or(Ok(0))
}

/// See [`crate::store::FanoutStore::save_position`].
pub(super) fn save_position(tx: &Connection, advance: &PositionAdvance) -> Result<(), StoreError> {
    let ReaderId {
        reader,
        topic,
        partition,
    } = advance.reader;
    let stored = tx
        .prepare_cached(POSITION)?
        .query_row(params![reader, topic, partition], |row| {
            Ok(Columns(row).number::<u64>(0))
        })
        .optional()?
        .unwrap_or(Ok(0))?;
    if stored < advance.from {
        return Err(StoreError::PositionBelowSaved);
    }
    let to = to_column(advance.to)?;
    tx.prepare_cached(RAISE)?
        .execute(params![reader, topic, partition, to])?;
    Ok(())
}

fn in_words(log: &LogIdentity) -> String {
    let LogIdentity {
        log_id,
        topic_id,
        partitions,
    } = log;
    format!("log {log_id}, topic {topic_id} of {partitions} partitions")
}

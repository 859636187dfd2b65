//! Readers: which log each follows, and how far it has got.

use std::collections::BTreeMap;

use runtime::postgres::Database;

use super::columns::{Columns, to_column};
use crate::store::{LogIdentity, ReaderId, StoreError};

/// Answers the recorded log, whether it was there before or is recorded now, and the position. The
/// update changes nothing; it makes a row that is there come back.
pub(super) const OPEN: &str =
    "INSERT INTO readers AS r (reader, topic, log_id, topic_id, partitions)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (reader, topic) DO UPDATE SET log_id = r.log_id
    RETURNING log_id, topic_id, partitions, coalesce((
        SELECT position FROM reader_positions AS p
        WHERE p.reader = $1 AND p.topic = $2 AND p.partition = $6
    ), 0)";

pub(super) const RAISE: &str =
    "INSERT INTO reader_positions AS p (reader, topic, partition, position)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
    ON CONFLICT (reader, topic, partition)
    DO UPDATE SET position = excluded.position WHERE excluded.position > p.position";

/// See [`crate::store::Store::open_reader`].
pub(super) async fn open(
    database: &Database,
    reader: &ReaderId,
    log: &LogIdentity,
) -> Result<u64, StoreError> {
    let row = database
        .call("open_reader", async |connection| {
            let query = sqlx::query(OPEN).bind(reader.reader).bind(reader.topic);
            let query = query.bind(&log.log_id).bind(&log.topic_id);
            let query = query.bind(i64::from(log.partitions));
            let query = query.bind(i64::from(reader.partition));
            query.fetch_one(connection).await
        })
        .await?;
    let columns = Columns(&row);
    let partitions = u32::try_from(columns.number(2)?);
    let stored = LogIdentity {
        log_id: columns.text(0)?.to_owned(),
        topic_id: columns.text(1)?.to_owned(),
        partitions: partitions.map_err(|error| StoreError::Corrupt(error.to_string()))?,
    };
    if stored != *log {
        return Err(StoreError::OtherLog {
            stored: in_words(&stored),
            actual: in_words(log),
        });
    }
    columns.number(3)
}

/// See [`crate::store::Store::save_positions`].
pub(super) async fn save_positions(
    database: &Database,
    positions: &[(ReaderId, u64)],
) -> Result<(), StoreError> {
    // Each once, which the statement needs, and in one order, so that no two of them wait for each
    // other.
    let mut highest = BTreeMap::new();
    for (reader, position) in positions {
        let key = (reader.reader, reader.topic, i64::from(reader.partition));
        let position = to_column(*position)?;
        let highest = highest.entry(key).or_insert(position);
        *highest = position.max(*highest);
    }
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ((reader, topic, partition), position) in highest {
        columns.0.push(reader);
        columns.1.push(topic);
        columns.2.push(partition);
        columns.3.push(position);
    }
    let (readers, topics, partitions, positions) = columns;
    database
        .call("save_positions", async |connection| {
            let query = sqlx::query(RAISE).bind(readers).bind(topics);
            let query = query.bind(partitions).bind(positions);
            query.execute(connection).await.map(drop)
        })
        .await?;
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

//! Readers: which log each follows, and how far it has got.

use runtime::postgres::Database;

use super::columns::{Columns, to_column};
use crate::store::{LogIdentity, PositionAdvance, ReaderId, StoreError};

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

/// Answers whether the stored position was not below `$4`; only then it is raised. It is read from the
/// snapshot: who was told of it has seen it committed before, and positions never fall.
pub(super) const RAISE: &str = "WITH stored AS MATERIALIZED (
        SELECT coalesce((
            SELECT position FROM reader_positions AS p
            WHERE p.reader = $1 AND p.topic = $2 AND p.partition = $3
        ), 0) >= $4::bigint AS is_there
    ), raised AS (
        INSERT INTO reader_positions AS p (reader, topic, partition, position)
        SELECT $1::text, $2::text, $3::bigint, $5::bigint FROM stored WHERE is_there
        ON CONFLICT (reader, topic, partition)
        DO UPDATE SET position = excluded.position WHERE excluded.position > p.position
    )
    SELECT is_there FROM stored";

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

/// See [`crate::store::Store::save_position`].
pub(super) async fn save_position(
    database: &Database,
    advance: &PositionAdvance,
) -> Result<(), StoreError> {
    let PositionAdvance { reader, from, to } = advance;
    // No stored position is above the largest that a column can hold.
    let from = i64::try_from(*from).map_err(|_| StoreError::PositionBelowSaved)?;
    let to = to_column(*to)?;
    let row = database
        .call("save_position", async |connection| {
            let query = sqlx::query(RAISE).bind(reader.reader).bind(reader.topic);
            let query = query.bind(i64::from(reader.partition)).bind(from).bind(to);
            query.fetch_one(connection).await
        })
        .await?;
    if Columns(&row).flag(0)? {
        Ok(())
    } else {
        Err(StoreError::PositionBelowSaved)
    }
}

fn in_words(log: &LogIdentity) -> String {
    let LogIdentity {
        log_id,
        topic_id,
        partitions,
    } = log;
    format!("log {log_id}, topic {topic_id} of {partitions} partitions")
}

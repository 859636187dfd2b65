//! The statements for PostgreSQL. What the store says comes inside of what the driver says, so that they
//! fit into [`crate::postgres::Database::call`], with or without a transaction around them.

use sqlx::{PgConnection, Row};

use super::{LogIdentity, PositionAdvance, PositionError, ReaderId, from_column, to_column};

/// Answers the recorded log, whether it was there before or is recorded now, and the position. The
/// update changes nothing; it makes a row that is there come back.
pub const OPEN: &str = "INSERT INTO readers AS r (reader, topic, log_id, topic_id, partitions)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (reader, topic) DO UPDATE SET log_id = r.log_id
    RETURNING log_id, topic_id, partitions, coalesce((
        SELECT position FROM reader_positions AS p
        WHERE p.reader = $1 AND p.topic = $2 AND p.partition = $6
    ), 0)";

/// Answers whether the stored position was not below `$4`; only then it is raised. It is read from the
/// snapshot: who was told of it has seen it committed before, and positions never fall.
pub const RAISE: &str = "WITH stored AS MATERIALIZED (
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

/// Claims the reader for this log and answers its position, 0 at first. Records the log's identity on the
/// first call; fails with [`PositionError::OtherLog`] if it is not the recorded one.
pub async fn open(
    connection: &mut PgConnection,
    reader: &ReaderId,
    log: &LogIdentity,
) -> Result<Result<u64, PositionError>, sqlx::Error> {
    let query = sqlx::query(OPEN)
        .bind(reader.reader)
        .bind(reader.topic)
        .bind(&log.log_id)
        .bind(&log.topic_id)
        .bind(i64::from(log.partitions))
        .bind(i64::from(reader.partition));
    let row = query.fetch_one(connection).await?;
    let (log_id, topic_id) = (row.try_get(0)?, row.try_get(1)?);
    let (partitions, position): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
    let answer = from_column(partitions).and_then(|partitions| {
        log.check(&LogIdentity {
            log_id,
            topic_id,
            partitions,
        })?;
        from_column(position)
    });
    Ok(answer)
}

/// Raises the position of a reader that was opened; never lowers it. [`PositionError::BelowSaved`] if the
/// stored one is below `from`: then the caller's transaction must be taken back.
pub async fn save(
    connection: &mut PgConnection,
    advance: &PositionAdvance,
) -> Result<Result<(), PositionError>, sqlx::Error> {
    let PositionAdvance { reader, from, to } = advance;
    let Ok(from) = i64::try_from(*from) else {
        // No stored position is above the largest that a column can hold.
        return Ok(Err(PositionError::BelowSaved));
    };
    let to = match to_column(*to) {
        Ok(to) => to,
        Err(error) => return Ok(Err(error)),
    };
    let query = sqlx::query(RAISE)
        .bind(reader.reader)
        .bind(reader.topic)
        .bind(i64::from(reader.partition))
        .bind(from)
        .bind(to);
    let is_there: bool = query.fetch_one(connection).await?.try_get(0)?;
    Ok(if is_there {
        Ok(())
    } else {
        Err(PositionError::BelowSaved)
    })
}

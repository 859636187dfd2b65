//! Between our nouns and SQLite's columns: checked both ways, so that nothing wraps or panics.

use runtime::{
    ids::{ConversationId, DeviceId, UserId},
    sqlite::SqliteError,
};
use rusqlite::{Connection, Row, ffi::ErrorCode};

use crate::{
    model::{
        DeviceTarget, DigestPeriod, Held, Preferences, PreviewDetail, ProviderKind, QuietHours,
        Subject, Target,
    },
    store::StoreError,
};

impl From<SqliteError> for StoreError {
    fn from(error: SqliteError) -> Self {
        match error {
            SqliteError::Sqlite(error) => error.into(),
            SqliteError::Migration { .. } => Self::Corrupt(error.to_string()),
            SqliteError::Busy | SqliteError::Closed => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error;
        let lasts = match &error {
            Error::SqliteFailure(failure, _) => matches!(
                failure.code,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase
            ),
            // A column that does not hold what it is there for.
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..) => true,
            _ => false,
        };
        match lasts {
            true => Self::Corrupt(error.to_string()),
            false => Self::Unavailable(error.to_string()),
        }
    }
}

pub(super) fn to_column(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Corrupt(format!("{number} is more than the store can hold")))
}

pub(super) fn from_column(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| corrupt("a number below zero"))
}

pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

pub(super) fn to_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Of [`super::TARGETS`].
pub(super) fn device_target(user: UserId, row: &Row<'_>) -> Result<DeviceTarget, StoreError> {
    let device = DeviceId::from_slice(&row.get::<_, Vec<u8>>(0)?)?;
    let kind = ProviderKind::from_number(row.get(1)?).ok_or_else(|| corrupt("a provider"))?;
    let token: String = row.get(2)?;
    let target = match kind {
        ProviderKind::Apns => Target::Apns {
            device_token: token,
            topic: row.get(3)?,
            sandbox: row.get(4)?,
        },
        ProviderKind::Fcm => Target::Fcm {
            registration_token: token,
        },
        ProviderKind::WebPush => {
            let key: Vec<u8> = row.get(5)?;
            let auth: Vec<u8> = row.get(6)?;
            Target::WebPush {
                endpoint: token,
                p256dh: Box::new(key.try_into().map_err(|_| corrupt("a browser's key"))?),
                auth: auth.try_into().map_err(|_| corrupt("a browser's secret"))?,
            }
        }
    };
    Ok(DeviceTarget {
        user,
        device,
        target,
    })
}

/// The default for who has none.
pub(super) fn preferences(c: &Connection, user: UserId) -> Result<Preferences, StoreError> {
    let mut select = c.prepare_cached(super::PREFERENCES)?;
    let mut rows = select.query([user.as_bytes()])?;
    let Some(row) = rows.next()? else {
        return Ok(Preferences::default());
    };
    let preview = PreviewDetail::from_number(row.get(1)?).ok_or_else(|| corrupt("a preview"))?;
    let digest = DigestPeriod::from_number(row.get(8)?).ok_or_else(|| corrupt("a period"))?;
    Ok(Preferences {
        push: row.get(0)?,
        preview,
        mentions_pierce_mute: row.get(2)?,
        quiet_hours: QuietHours {
            on: row.get(3)?,
            from_minute: row.get(4)?,
            to_minute: row.get(5)?,
        },
        time_zone: row.get(6)?,
        version: from_column(row.get(7)?)?,
        digest,
        digest_hour: row.get(9)?,
    })
}

/// Of [`super::DUE`].
pub(super) fn held(row: &Row<'_>) -> Result<Held, StoreError> {
    let blob = |at| row.get::<_, Vec<u8>>(at);
    Ok(Held {
        subject: Subject {
            user: UserId::from_slice(&blob(0)?)?,
            conversation: ConversationId::from_slice(&blob(1)?)?,
        },
        seq: from_column(row.get(2)?)?,
        due_unix_ms: row.get(3)?,
        payload: blob(4)?.into(),
    })
}

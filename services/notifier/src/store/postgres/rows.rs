//! Between our nouns and PostgreSQL's columns: checked both ways, so that nothing wraps or panics.

use runtime::ids::{ConversationId, DeviceId, UserId};
use sha2::{Digest, Sha256};
use sqlx::{
    Decode, Postgres, Row, Type,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use uuid::Uuid;

use super::sql;
use crate::{
    model::{
        DeviceTarget, DigestPeriod, Email, EmailDisabled, Held, Preferences, PreviewDetail,
        ProviderKind, QuietHours, Subject, Target, Told,
    },
    store::{
        StoreError,
        mail::{Code, EmailRow},
    },
};

/// A statement with its parameters.
pub(super) type Statement = Query<'static, Postgres, PgArguments>;

pub(super) fn to_column(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Corrupt(format!("{number} is more than the store can hold")))
}

/// How many rows a statement may answer or change.
pub(super) fn to_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(super) const fn user_column(user: UserId) -> Uuid {
    Uuid::from_bytes(*user.as_bytes())
}

pub(super) const fn device_column(device: DeviceId) -> Uuid {
    Uuid::from_bytes(*device.as_bytes())
}

const fn kind_column(kind: ProviderKind) -> i16 {
    kind as i16
}

/// Of what the provider knows a device by.
pub(super) fn token_hash(target: &Target) -> Vec<u8> {
    let mut hash = Sha256::new_with_prefix([target.kind() as u8]);
    hash.update(target.token());
    hash.finalize().to_vec()
}

/// [`sql::PUT_TARGET`].
pub(super) fn put_target(target: &DeviceTarget) -> Statement {
    let (mut topic_column, mut sandbox_column) = (String::new(), false);
    let (mut key_column, mut auth_column) = (Vec::new(), Vec::new());
    match &target.target {
        Target::Apns { topic, sandbox, .. } => {
            topic_column.clone_from(topic);
            sandbox_column = *sandbox;
        }
        Target::Fcm { .. } => {}
        Target::WebPush { p256dh, auth, .. } => {
            key_column = p256dh.to_vec();
            auth_column = auth.to_vec();
        }
    }
    sqlx::query(sql::PUT_TARGET)
        .bind(token_hash(&target.target))
        .bind(user_column(target.user))
        .bind(device_column(target.device))
        .bind(kind_column(target.target.kind()))
        .bind(target.target.token().to_owned())
        .bind(topic_column)
        .bind(sandbox_column)
        .bind(key_column)
        .bind(auth_column)
}

/// [`sql::TARGETS`].
pub(super) fn targets(kind: ProviderKind, users: Vec<UserId>, limit: usize) -> Statement {
    let users: Vec<Uuid> = users.into_iter().map(user_column).collect();
    sqlx::query(sql::TARGETS)
        .bind(users)
        .bind(kind_column(kind))
        .bind(to_limit(limit))
}

/// [`sql::PUT_PREFERENCES`].
pub(super) fn put_preferences(
    user: UserId,
    preferences: &Preferences,
) -> Result<Statement, StoreError> {
    let quiet = preferences.quiet_hours;
    Ok(sqlx::query(sql::PUT_PREFERENCES)
        .bind(user_column(user))
        .bind(preferences.push)
        .bind(preferences.preview as i16)
        .bind(preferences.mentions_pierce_mute)
        .bind(quiet.on)
        .bind(i64::from(quiet.from_minute))
        .bind(i64::from(quiet.to_minute))
        .bind(preferences.time_zone.clone())
        .bind(to_column(preferences.version)?)
        .bind(preferences.digest as i16)
        .bind(i64::from(preferences.digest_hour)))
}

/// [`sql::PUT_EMAIL`].
pub(super) fn put_email(user: UserId, row: &EmailRow) -> Statement {
    let code = row.code.as_ref();
    sqlx::query(sql::PUT_EMAIL)
        .bind(user_column(user))
        .bind(row.email.address.clone())
        .bind(row.email.confirmed)
        .bind(row.email.disabled.map(|why| why as i16))
        .bind(i64::from(row.soft_bounces))
        .bind(code.map(|code| code.hash.to_vec()))
        .bind(code.map(|code| code.since_unix_ms))
        .bind(code.map(|code| i64::from(code.tries)))
        .bind(row.next_digest_unix_ms)
        .bind(row.claimed_until_unix_ms)
        .bind(row.last_bounced)
        .bind(row.told_unix_ms)
}

/// The columns of one row, by their places in the statement.
pub(super) struct Columns<'r>(pub(super) &'r PgRow);

impl<'r> Columns<'r> {
    /// A value that is not what the schema says is no fault of the connection.
    pub(super) fn get<T>(&self, at: usize) -> Result<T, StoreError>
    where
        T: Decode<'r, Postgres> + Type<Postgres>,
    {
        let value = self.0.try_get(at);
        value.map_err(|error| StoreError::Corrupt(error.to_string()))
    }

    fn number<T: TryFrom<i64>>(&self, at: usize) -> Result<T, StoreError> {
        let integer: i64 = self.get(at)?;
        T::try_from(integer)
            .map_err(|_| StoreError::Corrupt(format!("{integer} is out of its range")))
    }

    /// One of a few, by its number.
    fn one_of<T>(&self, at: usize, from: impl Fn(u8) -> Option<T>) -> Result<T, StoreError> {
        let number: i16 = self.get(at)?;
        let known = u8::try_from(number).ok().and_then(from);
        known.ok_or_else(|| StoreError::Corrupt(format!("{number} has no meaning")))
    }

    /// Bytes of which there is always the same number.
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], StoreError> {
        let bytes = <[u8; N]>::try_from(self.get::<&[u8]>(at)?);
        bytes.map_err(|_| StoreError::Corrupt(format!("what should be {N} bytes is not")))
    }

    pub(super) fn user(&self, at: usize) -> Result<UserId, StoreError> {
        Ok(UserId::from_slice(self.get::<Uuid>(at)?.as_bytes())?)
    }

    /// Of [`sql::TARGETS`].
    pub(super) fn device_target(&self) -> Result<DeviceTarget, StoreError> {
        let token: String = self.get(3)?;
        let target = match self.one_of(2, ProviderKind::from_number)? {
            ProviderKind::Apns => Target::Apns {
                device_token: token,
                topic: self.get(4)?,
                sandbox: self.get(5)?,
            },
            ProviderKind::Fcm => Target::Fcm {
                registration_token: token,
            },
            ProviderKind::WebPush => Target::WebPush {
                endpoint: token,
                p256dh: Box::new(self.bytes(6)?),
                auth: self.bytes(7)?,
            },
        };
        Ok(DeviceTarget {
            user: self.user(0)?,
            device: DeviceId::from_slice(self.get::<Uuid>(1)?.as_bytes())?,
            target,
        })
    }

    /// Of [`sql::PREFERENCES`].
    pub(super) fn preferences(&self) -> Result<Preferences, StoreError> {
        let Some(push) = self.get(0)? else {
            return Ok(Preferences::default());
        };
        Ok(Preferences {
            push,
            preview: self.one_of(1, PreviewDetail::from_number)?,
            mentions_pierce_mute: self.get(2)?,
            quiet_hours: QuietHours {
                on: self.get(3)?,
                from_minute: self.number(4)?,
                to_minute: self.number(5)?,
            },
            time_zone: self.get(6)?,
            version: self.number(7)?,
            digest: self.one_of(8, DigestPeriod::from_number)?,
            digest_hour: self.number(9)?,
        })
    }

    /// Of [`sql::TOLD`].
    pub(super) fn told(&self) -> Result<Told, StoreError> {
        Ok(Told {
            seq: self.number(0)?,
            read_seq: self.number(1)?,
        })
    }

    /// Of [`sql::CLAIM_HELD`].
    pub(super) fn held(&self) -> Result<Held, StoreError> {
        Ok(Held {
            subject: Subject {
                user: self.user(0)?,
                conversation: ConversationId::from_slice(self.get(1)?)?,
            },
            seq: self.number(2)?,
            due_unix_ms: self.get(3)?,
            payload: self.get::<Vec<u8>>(4)?.into(),
        })
    }

    /// Of [`sql::EMAIL`] and [`sql::LOCK_EMAILS`].
    pub(super) fn email(&self) -> Result<(UserId, EmailRow), StoreError> {
        let disabled = self.get::<Option<i16>>(3)?;
        let disabled = disabled.map(|_| self.one_of(3, EmailDisabled::from_number));
        let code = self.get::<Option<&[u8]>>(5)?.map(|_| {
            Ok::<_, StoreError>(Code {
                hash: self.bytes(5)?,
                since_unix_ms: self.get(6)?,
                tries: self.number(7)?,
            })
        });
        let row = EmailRow {
            email: Email {
                address: self.get(1)?,
                confirmed: self.get(2)?,
                disabled: disabled.transpose()?,
            },
            soft_bounces: self.number(4)?,
            code: code.transpose()?,
            next_digest_unix_ms: self.get(8)?,
            claimed_until_unix_ms: self.get(9)?,
            last_bounced: self.get(10)?,
            told_unix_ms: self.get(11)?,
        };
        Ok((self.user(0)?, row))
    }
}

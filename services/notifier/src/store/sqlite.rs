//! The store of the one-process form.
//!
//! What it costs: a push that was taken one row of `told`, by key; what is asked about a user a look-up by
//! key in each of `targets`, `told` and `preferences`.

use std::path::Path;

use async_trait::async_trait;
use runtime::{
    ids::{ConversationId, DeviceId, InvalidId, UserId},
    positions,
    sqlite::{Database, M, Migrations, SqliteError},
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    LogIdentity, PositionAdvance, PreferencesChange, ReaderId, Settled, Store, StoreError, Updated,
};
use crate::{
    limits::TARGETS_PER_USER_MAX,
    model::{
        DeviceSubject, DeviceTarget, Held, Preferences, PreviewDetail, ProviderKind, QuietHours,
        Subject, Target, Told,
    },
};

/// How long it is remembered that a device was logged out: longer than an access token of its is good.
const FORGOTTEN_LIFE_MS: i64 = 2 * 24 * 60 * 60 * 1_000;
/// Rows of that kind that a log-out of others cleans up.
const FORGOTTEN_CLEANED_MAX: i64 = 256;

const IS_FORGOTTEN: &str = "SELECT 1 FROM forgotten_devices WHERE user_id = ?1 AND device_id = ?2";

/// Whoever has the token, or the device had another one.
const MOVE_TARGET: &str = "DELETE FROM targets WHERE kind = ?1 AND token = ?2";

const PUT_TARGET: &str = "INSERT OR REPLACE INTO targets
    (user_id, device_id, kind, token, topic, sandbox, p256dh, auth)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

const REMOVE_TARGET: &str = "DELETE FROM targets WHERE user_id = ?1 AND device_id = ?2";

/// Unless the device has another one meanwhile.
const FORGET_TARGET: &str = "DELETE FROM targets
    WHERE user_id = ?1 AND device_id = ?2 AND kind = ?3 AND token = ?4";

const TARGETS: &str = "SELECT device_id, kind, token, topic, sandbox, p256dh, auth FROM targets
    WHERE user_id = ?1 AND kind = ?2 LIMIT ?3";

const FORGET_DEVICE: &str =
    "INSERT OR IGNORE INTO forgotten_devices (user_id, device_id, since_unix_ms)
    VALUES (?1, ?2, ?3)";

const CLEAN_FORGOTTEN: &str = "DELETE FROM forgotten_devices WHERE (user_id, device_id) IN (
    SELECT user_id, device_id FROM forgotten_devices WHERE since_unix_ms < ?1
    ORDER BY since_unix_ms LIMIT ?2)";

const PREFERENCES: &str = "SELECT push, preview, mentions_pierce_mute, quiet, quiet_from_minute,
        quiet_to_minute, time_zone, version
    FROM preferences WHERE user_id = ?1";

const PUT_PREFERENCES: &str = "INSERT OR REPLACE INTO preferences
    (user_id, push, preview, mentions_pierce_mute, quiet, quiet_from_minute, quiet_to_minute,
        time_zone, version)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

const TOLD: &str = "SELECT seq, read_seq FROM told
    WHERE user_id = ?1 AND device_id = ?2 AND conversation_id = ?3";

const TELL: &str =
    "INSERT INTO told (user_id, device_id, conversation_id, seq, read_seq, changed_unix_ms)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT (user_id, device_id, conversation_id) DO UPDATE SET
        seq = max(seq, excluded.seq),
        read_seq = max(read_seq, excluded.read_seq),
        changed_unix_ms = max(changed_unix_ms, excluded.changed_unix_ms)";

const FORGET_TOLD: &str = "DELETE FROM told WHERE (user_id, device_id, conversation_id) IN (
    SELECT user_id, device_id, conversation_id FROM told WHERE changed_unix_ms < ?1
    ORDER BY changed_unix_ms LIMIT ?2)";

/// The payload is that of the larger seq. What is put off anew is nobody's claim any more, and its time is
/// the new one: whoever has claimed it has put it into the log, where it was read and put off once more.
const HOLD: &str = "INSERT INTO held
        (user_id, conversation_id, seq, due_unix_ms, claimed_until_unix_ms, payload)
    VALUES (?1, ?2, ?3, ?4, 0, ?5)
    ON CONFLICT (user_id, conversation_id) DO UPDATE SET
        payload = iif(excluded.seq >= seq, excluded.payload, payload),
        seq = max(seq, excluded.seq),
        due_unix_ms = iif(claimed_until_unix_ms > 0, excluded.due_unix_ms,
            min(due_unix_ms, excluded.due_unix_ms)),
        claimed_until_unix_ms = 0";

const DUE: &str = "SELECT user_id, conversation_id, seq, due_unix_ms, payload FROM held
    WHERE due_unix_ms <= ?1 AND claimed_until_unix_ms <= ?1 ORDER BY due_unix_ms LIMIT ?2";

const CLAIM: &str = "UPDATE held SET claimed_until_unix_ms = ?3
    WHERE user_id = ?1 AND conversation_id = ?2";

const FORGET_HELD: &str =
    "DELETE FROM held WHERE user_id = ?1 AND conversation_id = ?2 AND claimed_until_unix_ms = ?3";

/// Every statement that searches, for a test of its plan.
#[cfg(test)]
const SEARCHES: &[&str] = &[
    IS_FORGOTTEN,
    MOVE_TARGET,
    REMOVE_TARGET,
    FORGET_TARGET,
    TARGETS,
    CLEAN_FORGOTTEN,
    PREFERENCES,
    TOLD,
    FORGET_TOLD,
    DUE,
    CLAIM,
    FORGET_HELD,
];

impl From<SqliteError> for StoreError {
    fn from(error: SqliteError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        SqliteError::from(error).into()
    }
}

impl From<InvalidId> for StoreError {
    fn from(error: InvalidId) -> Self {
        Self::Corrupt(error.to_string())
    }
}

fn to_column(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Corrupt(format!("{number} is more than the store can hold")))
}

fn from_column(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| corrupt("a number below zero"))
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

fn to_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The store in one SQLite file.
pub struct SqliteStore {
    database: Database,
}

impl SqliteStore {
    /// Opens or makes the file.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let steps = [include_str!("../../migrations/sqlite/0001_initial.sql")];
        let migrations = Migrations::new(steps.into_iter().map(M::up).collect());
        let database = Database::open(path, &migrations)?;
        Ok(Self { database })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn put_target(&self, target: DeviceTarget, _: i64) -> Result<bool, StoreError> {
        let work = move |tx: &Connection| {
            let (user, device) = (target.user.as_bytes(), target.device.as_bytes());
            let mut forgotten = tx.prepare_cached(IS_FORGOTTEN)?;
            if forgotten.exists(params![user, device])? {
                return Ok(false);
            }
            let (kind, token) = (target.target.kind() as u8, target.target.token());
            tx.prepare_cached(MOVE_TARGET)?
                .execute(params![kind, token])?;
            let (mut topic, mut sandbox) = ("", false);
            let (mut p256dh, mut auth): (&[u8], &[u8]) = (&[], &[]);
            match &target.target {
                Target::Apns {
                    topic: of_app,
                    sandbox: is_one,
                    ..
                } => (topic, sandbox) = (of_app, *is_one),
                Target::Fcm { .. } => {}
                Target::WebPush {
                    p256dh: key,
                    auth: secret,
                    ..
                } => (p256dh, auth) = (key.as_slice(), secret),
            }
            tx.prepare_cached(PUT_TARGET)?.execute(params![
                user, device, kind, token, topic, sandbox, p256dh, auth
            ])?;
            Ok::<_, StoreError>(true)
        };
        self.database.write(work).await
    }

    async fn remove_target(&self, user: UserId, device: DeviceId) -> Result<(), StoreError> {
        let work = move |tx: &Connection| {
            let ids = params![user.as_bytes(), device.as_bytes()];
            tx.prepare_cached(REMOVE_TARGET)?.execute(ids)?;
            Ok::<_, StoreError>(())
        };
        self.database.write(work).await
    }

    async fn targets(
        &self,
        kind: ProviderKind,
        users: Vec<UserId>,
    ) -> Result<Vec<DeviceTarget>, StoreError> {
        let read = move |c: &Connection| {
            let mut select = c.prepare_cached(TARGETS)?;
            let limit = to_limit(TARGETS_PER_USER_MAX);
            let mut targets = Vec::new();
            for user in users {
                let mut rows = select.query(params![user.as_bytes(), kind as u8, limit])?;
                while let Some(row) = rows.next()? {
                    targets.push(device_target(user, row)?);
                }
            }
            Ok(targets)
        };
        self.database.read(read).await
    }

    async fn forget_devices(
        &self,
        devices: Vec<(UserId, DeviceId)>,
        now_unix_ms: i64,
        advance: PositionAdvance,
    ) -> Result<(), StoreError> {
        let work = move |tx: &Connection| {
            for (user, device) in devices {
                let (user, device) = (user.as_bytes(), device.as_bytes());
                let ids = params![user, device];
                tx.prepare_cached(REMOVE_TARGET)?.execute(ids)?;
                let row = params![user, device, now_unix_ms];
                tx.prepare_cached(FORGET_DEVICE)?.execute(row)?;
            }
            let old = params![
                now_unix_ms.saturating_sub(FORGOTTEN_LIFE_MS),
                FORGOTTEN_CLEANED_MAX
            ];
            tx.prepare_cached(CLEAN_FORGOTTEN)?.execute(old)?;
            positions::sqlite::save(tx, &advance)
        };
        self.database.write::<_, StoreError, _>(work).await
    }

    async fn preferences(&self, users: Vec<UserId>) -> Result<Vec<Preferences>, StoreError> {
        let read = move |c: &Connection| users.iter().map(|user| preferences(c, *user)).collect();
        self.database.read(read).await
    }

    async fn update_preferences(
        &self,
        user: UserId,
        change: PreferencesChange,
        if_version: u64,
    ) -> Result<Updated, StoreError> {
        let work = move |tx: &Connection| {
            let before = preferences(tx, user)?;
            if if_version != 0 && if_version != before.version {
                return Ok(Updated::OtherVersion);
            }
            let after = change.applied_to(before);
            let quiet = after.quiet_hours;
            tx.prepare_cached(PUT_PREFERENCES)?.execute(params![
                user.as_bytes(),
                after.push,
                after.preview as u8,
                after.mentions_pierce_mute,
                quiet.on,
                quiet.from_minute,
                quiet.to_minute,
                after.time_zone,
                to_column(after.version)?,
            ])?;
            Ok::<_, StoreError>(Updated::Changed(after))
        };
        self.database.write(work).await
    }

    async fn told(&self, subjects: Vec<DeviceSubject>) -> Result<Vec<Told>, StoreError> {
        let read = move |c: &Connection| {
            let mut select = c.prepare_cached(TOLD)?;
            let mut one = |of: &DeviceSubject| {
                let DeviceSubject { subject, device } = of;
                let key = params![
                    subject.user.as_bytes(),
                    device.as_bytes(),
                    subject.conversation.as_bytes()
                ];
                let row = select.query_row(key, |row| Ok((row.get(0)?, row.get(1)?)));
                let Some((seq, read_seq)) = row.optional()? else {
                    return Ok(Told::default());
                };
                Ok(Told {
                    seq: from_column(seq)?,
                    read_seq: from_column(read_seq)?,
                })
            };
            subjects.iter().map(&mut one).collect()
        };
        self.database.read(read).await
    }

    async fn settle(&self, settled: Settled, now_unix_ms: i64) -> Result<(), StoreError> {
        let work = move |tx: &Connection| {
            let mut tell = tx.prepare_cached(TELL)?;
            for (DeviceSubject { subject, device }, told) in &settled.told {
                tell.execute(params![
                    subject.user.as_bytes(),
                    device.as_bytes(),
                    subject.conversation.as_bytes(),
                    to_column(told.seq)?,
                    to_column(told.read_seq)?,
                    now_unix_ms,
                ])?;
            }
            let mut hold = tx.prepare_cached(HOLD)?;
            for held in &settled.held {
                hold.execute(params![
                    held.subject.user.as_bytes(),
                    held.subject.conversation.as_bytes(),
                    to_column(held.seq)?,
                    held.due_unix_ms,
                    held.payload.as_ref(),
                ])?;
            }
            let mut forget = tx.prepare_cached(FORGET_TARGET)?;
            for gone in &settled.gone {
                forget.execute(params![
                    gone.user.as_bytes(),
                    gone.device.as_bytes(),
                    gone.target.kind() as u8,
                    gone.target.token(),
                ])?;
            }
            Ok::<_, StoreError>(())
        };
        self.database.write(work).await
    }

    async fn forget_told(&self, before_unix_ms: i64, limit: usize) -> Result<usize, StoreError> {
        let work = move |tx: &Connection| {
            let range = params![before_unix_ms, to_limit(limit)];
            Ok::<_, StoreError>(tx.prepare_cached(FORGET_TOLD)?.execute(range)?)
        };
        self.database.write(work).await
    }

    async fn claim_held(
        &self,
        now_unix_ms: i64,
        lease_until_unix_ms: i64,
        limit: usize,
    ) -> Result<Vec<Held>, StoreError> {
        let work = move |tx: &Connection| {
            let mut due = Vec::new();
            let mut select = tx.prepare_cached(DUE)?;
            let mut rows = select.query(params![now_unix_ms, to_limit(limit)])?;
            while let Some(row) = rows.next()? {
                due.push(held(row)?);
            }
            let mut claim = tx.prepare_cached(CLAIM)?;
            for Held { subject, .. } in &due {
                claim.execute(params![
                    subject.user.as_bytes(),
                    subject.conversation.as_bytes(),
                    lease_until_unix_ms
                ])?;
            }
            Ok::<_, StoreError>(due)
        };
        self.database.write(work).await
    }

    async fn forget_held(
        &self,
        held: Vec<Subject>,
        lease_until_unix_ms: i64,
    ) -> Result<(), StoreError> {
        let work = move |tx: &Connection| {
            let mut forget = tx.prepare_cached(FORGET_HELD)?;
            for subject in held {
                forget.execute(params![
                    subject.user.as_bytes(),
                    subject.conversation.as_bytes(),
                    lease_until_unix_ms
                ])?;
            }
            Ok::<_, StoreError>(())
        };
        self.database.write(work).await
    }

    async fn open_reader(&self, reader: ReaderId, log: LogIdentity) -> Result<u64, StoreError> {
        let work = move |tx: &Connection| positions::sqlite::open(tx, &reader, &log);
        self.database.write::<_, StoreError, _>(work).await
    }

    async fn save_position(&self, advance: PositionAdvance) -> Result<(), StoreError> {
        let work = move |tx: &Connection| positions::sqlite::save(tx, &advance);
        self.database.write::<_, StoreError, _>(work).await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        Ok(self.database.sync().await?)
    }
}

fn device_target(user: UserId, row: &Row<'_>) -> Result<DeviceTarget, StoreError> {
    let device = DeviceId::from_slice(row.get_ref(0)?.as_blob().map_err(|_| corrupt("a device"))?)?;
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

fn preferences(c: &Connection, user: UserId) -> Result<Preferences, StoreError> {
    let mut select = c.prepare_cached(PREFERENCES)?;
    let mut rows = select.query([user.as_bytes()])?;
    let Some(row) = rows.next()? else {
        return Ok(Preferences::default());
    };
    let preview = PreviewDetail::from_number(row.get(1)?).ok_or_else(|| corrupt("a preview"))?;
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
    })
}

fn held(row: &Row<'_>) -> Result<Held, StoreError> {
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

#[cfg(test)]
mod tests;

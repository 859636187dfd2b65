//! The store of the one-process form.
//!
//! What it costs: a push that was taken one row of `told`, by key; what is asked about a user a look-up by
//! key in each of `targets`, `told` and `preferences`.

use std::path::Path;

use async_trait::async_trait;
use runtime::{
    ids::{DeviceId, UserId},
    positions,
    sqlite::{Database, M, Migrations},
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Confirmation, EmailGiven, EmailReport, FORGOTTEN_CLEANED_MAX, FORGOTTEN_LIFE_MS, LogIdentity,
    NextDigest, PositionAdvance, PreferencesChange, ReaderId, Settled, Store, StoreError, Updated,
    batch,
};
use crate::{
    limits::TARGETS_PER_USER_MAX,
    model::{
        DeviceSubject, DeviceTarget, DueDigest, Email, FinishedDigest, Held, Preferences,
        ProviderKind, Subject, Target, Told,
    },
};

mod mail;
mod rows;

use rows::{device_target, from_column, held, preferences, to_column, to_limit};

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
        quiet_to_minute, time_zone, version, digest, digest_hour
    FROM preferences WHERE user_id = ?1";

const PUT_PREFERENCES: &str = "INSERT OR REPLACE INTO preferences
    (user_id, push, preview, mentions_pierce_mute, quiet, quiet_from_minute, quiet_to_minute,
        time_zone, version, digest, digest_hour)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

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
    WHERE max(due_unix_ms, claimed_until_unix_ms) <= ?1
    ORDER BY max(due_unix_ms, claimed_until_unix_ms) LIMIT ?2";

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

/// The store in one SQLite file.
pub struct SqliteStore {
    database: Database,
}

impl SqliteStore {
    /// Opens or makes the file.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let steps = [
            include_str!("../../migrations/sqlite/0001_initial.sql"),
            include_str!("../../migrations/sqlite/0002_mail.sql"),
        ];
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
            let before_unix_ms = now_unix_ms.saturating_sub(FORGOTTEN_LIFE_MS);
            let old = params![before_unix_ms, to_limit(FORGOTTEN_CLEANED_MAX)];
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
        next_digest_unix_ms: NextDigest,
    ) -> Result<Updated, StoreError> {
        let work = move |tx: &Connection| {
            let before = preferences(tx, user)?;
            if if_version != 0 && if_version != before.version {
                return Ok(Updated::OtherVersion);
            }
            let after = change.applied_to(before.clone());
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
                after.digest as u8,
                after.digest_hour,
            ])?;
            mail::move_digest(tx, user, &before, &after, &next_digest_unix_ms)?;
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
            for ((user, device, conversation), told) in batch::told(settled.told) {
                tell.execute(params![
                    user.as_bytes(),
                    device.as_bytes(),
                    conversation.as_bytes(),
                    to_column(told.seq)?,
                    to_column(told.read_seq)?,
                    now_unix_ms,
                ])?;
            }
            let mut hold = tx.prepare_cached(HOLD)?;
            for ((user, conversation), held) in batch::held(settled.held) {
                hold.execute(params![
                    user.as_bytes(),
                    conversation.as_bytes(),
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
            due.sort_by_key(|held| held.due_unix_ms);
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

    async fn count_confirmation(
        &self,
        confirmation: Confirmation,
    ) -> Result<EmailGiven, StoreError> {
        let work = move |tx: &Connection| mail::count(tx, &confirmation);
        self.database.write(work).await
    }

    async fn give_email(&self, confirmation: Confirmation) -> Result<(), StoreError> {
        let work = move |tx: &Connection| mail::give(tx, &confirmation);
        self.database.write(work).await
    }

    async fn confirm_email(
        &self,
        user: UserId,
        code_hash: [u8; 32],
        now_unix_ms: i64,
        next_digest_unix_ms: NextDigest,
    ) -> Result<Option<Email>, StoreError> {
        let work = move |tx: &Connection| {
            mail::confirm(tx, user, &code_hash, now_unix_ms, &next_digest_unix_ms)
        };
        self.database.write(work).await
    }

    async fn email(&self, user: UserId) -> Result<Option<Email>, StoreError> {
        let read = move |c: &Connection| Ok(mail::row(c, user)?.map(|row| row.email));
        self.database.read(read).await
    }

    async fn remove_email(&self, user: UserId) -> Result<(), StoreError> {
        let work = move |tx: &Connection| {
            tx.prepare_cached(mail::REMOVE)?
                .execute([user.as_bytes()])?;
            Ok::<_, StoreError>(())
        };
        self.database.write(work).await
    }

    async fn report_emails(
        &self,
        reports: Vec<(UserId, String, EmailReport)>,
    ) -> Result<usize, StoreError> {
        let work = move |tx: &Connection| mail::report(tx, &reports);
        self.database.write(work).await
    }

    async fn users_of_email(
        &self,
        address: String,
        limit: usize,
    ) -> Result<Vec<UserId>, StoreError> {
        let read = move |c: &Connection| mail::users(c, &address, limit);
        self.database.read(read).await
    }

    async fn claim_digests(
        &self,
        now_unix_ms: i64,
        lease_until_unix_ms: i64,
        limit: usize,
    ) -> Result<Vec<DueDigest>, StoreError> {
        let work = move |tx: &Connection| mail::claim(tx, now_unix_ms, lease_until_unix_ms, limit);
        self.database.write(work).await
    }

    async fn is_claimed(
        &self,
        due: DueDigest,
        lease_until_unix_ms: i64,
    ) -> Result<bool, StoreError> {
        let read = move |c: &Connection| mail::is_claimed(c, &due, lease_until_unix_ms);
        self.database.read(read).await
    }

    async fn finish_digest(&self, finished: FinishedDigest) -> Result<(), StoreError> {
        let work = move |tx: &Connection| mail::finish(tx, &finished);
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

#[cfg(test)]
mod tests;

//! The store of the distributed form, shared by all replicas of the service.
//!
//! What it costs, each a look-up by key or a range of an index:
//! - a round of a reader: three statements to ask, and a transaction of one to three to settle, whatever the
//!   number of users;
//! - what is due: one statement, that looks at no more rows than it answers, however many are claimed;
//! - a registration: a transaction of five statements; log-outs: one of four or five, whatever their number.

use async_trait::async_trait;
use runtime::{
    ids::{DeviceId, UserId},
    positions,
    postgres::{Database, Failure, OpenError, PostgresConfig, PostgresError},
};
use sqlx::{Connection, migrate::Migrator, postgres::PgRow};
use uuid::Uuid;

use super::{
    Confirmation, EmailGiven, EmailReport, LogIdentity, NextDigest, PositionAdvance,
    PreferencesChange, ReaderId, Settled, Store, StoreError, Updated,
};
use crate::{
    limits::TARGETS_PER_USER_MAX,
    model::{
        DeviceSubject, DeviceTarget, DueDigest, Email, FinishedDigest, Held, Preferences,
        ProviderKind, Subject, Told,
    },
};

mod mail;
mod rows;
mod settle;
mod sql;
mod targets;

use rows::{Columns, Statement, device_column, to_limit, user_column};

/// The schema.
static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// How often a transaction is made again that was in another one's way.
const TRIES_MAX: usize = 4;

impl From<PostgresError> for StoreError {
    fn from(error: PostgresError) -> Self {
        match error.failure() {
            Failure::Lasting => Self::Corrupt(error.to_string()),
            Failure::Unavailable | Failure::Conflict | Failure::Unique => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}

/// Why a transaction was not made.
enum Failed {
    Store(StoreError),
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Does the work in a transaction on the connection that it names, all or nothing; again, if another one
/// was in its way. A macro, because a future that is made by a closure inside of another one's is not known
/// to be `Send`.
macro_rules! transaction {
    ($store:expr, $operation:literal, $c:ident => $work:expr) => {{
        let mut tries = 0;
        loop {
            tries += 1;
            let done = $store.database.call($operation, async |connection| {
                let mut transaction = connection.begin().await?;
                let $c = &mut *transaction;
                match $work.await {
                    Ok(done) => {
                        transaction.commit().await?;
                        Ok(Ok(done))
                    }
                    Err(Failed::Store(error)) => {
                        transaction.rollback().await?;
                        Ok(Err(error))
                    }
                    Err(Failed::Sql(error)) => Err(error),
                }
            });
            match done.await {
                Ok(done) => break done,
                Err(error) if error.failure() == Failure::Conflict && tries < TRIES_MAX => {}
                Err(error) => break Err(StoreError::from(error)),
            }
        }
    }};
}

/// The store in one PostgreSQL database. Clones share it.
#[derive(Clone)]
pub struct PostgresStore {
    database: Database,
}

impl PostgresStore {
    /// Connects, and brings the schema up to date; one process at a time does.
    pub async fn open(config: &PostgresConfig) -> Result<Self, OpenError> {
        let database = Database::connect(config).await?;
        database.migrate(&MIGRATIONS).await?;
        Ok(Self { database })
    }

    /// The database, for health and to close it.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// One statement by itself.
    async fn rows<T>(
        &self,
        operation: &'static str,
        query: Statement,
        read: impl Fn(&Columns<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self
            .database
            .call(operation, async |c| query.fetch_all(c).await);
        read_all(&rows.await?, read)
    }

    /// One statement by itself, and how many rows it has changed.
    async fn execute(
        &self,
        operation: &'static str,
        query: Statement,
    ) -> Result<usize, StoreError> {
        let done = self
            .database
            .call(operation, async |c| query.execute(c).await);
        Ok(usize::try_from(done.await?.rows_affected()).unwrap_or(usize::MAX))
    }
}

fn read_all<T>(
    rows: &[PgRow],
    read: impl Fn(&Columns<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    rows.iter().map(|row| read(&Columns(row))).collect()
}

#[async_trait]
impl Store for PostgresStore {
    async fn put_target(&self, target: DeviceTarget, _: i64) -> Result<bool, StoreError> {
        transaction!(self, "put target", c => targets::put(c, &target))
    }

    async fn remove_target(&self, user: UserId, device: DeviceId) -> Result<(), StoreError> {
        let remove = sqlx::query(sql::REMOVE_TARGET)
            .bind(user_column(user))
            .bind(device_column(device));
        self.execute("remove target", remove).await.map(drop)
    }

    async fn targets(
        &self,
        kind: ProviderKind,
        users: Vec<UserId>,
    ) -> Result<Vec<DeviceTarget>, StoreError> {
        let query = rows::targets(kind, users, TARGETS_PER_USER_MAX);
        self.rows("targets", query, |columns| columns.device_target())
            .await
    }

    async fn forget_devices(
        &self,
        devices: Vec<(UserId, DeviceId)>,
        now_unix_ms: i64,
        advance: PositionAdvance,
    ) -> Result<(), StoreError> {
        transaction!(self, "forget devices", c => targets::forget(c, &devices, now_unix_ms, &advance))
    }

    async fn preferences(&self, users: Vec<UserId>) -> Result<Vec<Preferences>, StoreError> {
        let users: Vec<Uuid> = users.into_iter().map(user_column).collect();
        let query = sqlx::query(sql::PREFERENCES).bind(users);
        self.rows("preferences", query, |columns| columns.preferences())
            .await
    }

    async fn update_preferences(
        &self,
        user: UserId,
        change: PreferencesChange,
        if_version: u64,
        next_digest_unix_ms: NextDigest,
    ) -> Result<Updated, StoreError> {
        transaction!(self, "update preferences", c => mail::update_preferences(
            c, user, &change, if_version, &next_digest_unix_ms))
    }

    async fn told(&self, subjects: Vec<DeviceSubject>) -> Result<Vec<Told>, StoreError> {
        let (mut users, mut devices, mut conversations) = (Vec::new(), Vec::new(), Vec::new());
        for DeviceSubject { subject, device } in subjects {
            users.push(user_column(subject.user));
            devices.push(device_column(device));
            conversations.push(subject.conversation.as_bytes().to_vec());
        }
        let query = sqlx::query(sql::TOLD)
            .bind(users)
            .bind(devices)
            .bind(conversations);
        self.rows("told", query, |columns| columns.told()).await
    }

    async fn settle(&self, settled: Settled, now_unix_ms: i64) -> Result<(), StoreError> {
        transaction!(self, "settle", c => settle::settle(c, &settled, now_unix_ms))
    }

    async fn forget_told(&self, before_unix_ms: i64, limit: usize) -> Result<usize, StoreError> {
        let forget = sqlx::query(sql::FORGET_TOLD)
            .bind(before_unix_ms)
            .bind(to_limit(limit));
        self.execute("forget told", forget).await
    }

    async fn claim_held(
        &self,
        now_unix_ms: i64,
        lease_until_unix_ms: i64,
        limit: usize,
    ) -> Result<Vec<Held>, StoreError> {
        let claim = sqlx::query(sql::CLAIM_HELD)
            .bind(now_unix_ms)
            .bind(lease_until_unix_ms)
            .bind(to_limit(limit));
        let claimed = self.rows("claim held", claim, |columns| columns.held());
        let mut claimed = claimed.await?;
        claimed.sort_by_key(|held| held.due_unix_ms);
        Ok(claimed)
    }

    async fn forget_held(
        &self,
        held: Vec<Subject>,
        lease_until_unix_ms: i64,
    ) -> Result<(), StoreError> {
        let (mut users, mut conversations) = (Vec::new(), Vec::new());
        for Subject { user, conversation } in held {
            users.push(user_column(user));
            conversations.push(conversation.as_bytes().to_vec());
        }
        let forget = sqlx::query(sql::FORGET_HELD)
            .bind(users)
            .bind(conversations)
            .bind(lease_until_unix_ms);
        self.execute("forget held", forget).await.map(drop)
    }

    async fn count_confirmation(
        &self,
        confirmation: Confirmation,
    ) -> Result<EmailGiven, StoreError> {
        transaction!(self, "count confirmation", c => mail::count(c, &confirmation))
    }

    async fn give_email(&self, confirmation: Confirmation) -> Result<(), StoreError> {
        transaction!(self, "give email", c => mail::give(c, &confirmation))
    }

    async fn confirm_email(
        &self,
        user: UserId,
        code_hash: [u8; 32],
        now_unix_ms: i64,
        next_digest_unix_ms: NextDigest,
    ) -> Result<Option<Email>, StoreError> {
        transaction!(self, "confirm email", c => mail::confirm(
            c, user, &code_hash, now_unix_ms, &next_digest_unix_ms))
    }

    async fn email(&self, user: UserId) -> Result<Option<Email>, StoreError> {
        let query = sqlx::query(sql::EMAIL).bind(user_column(user));
        let mut found = self.rows("email", query, |columns| columns.email()).await?;
        Ok(found.pop().map(|(_, row)| row.email))
    }

    async fn remove_email(&self, user: UserId) -> Result<(), StoreError> {
        transaction!(self, "remove email", c => mail::remove(c, user))
    }

    async fn report_emails(
        &self,
        reports: Vec<(UserId, String, EmailReport)>,
    ) -> Result<usize, StoreError> {
        transaction!(self, "report emails", c => mail::report(c, &reports))
    }

    async fn users_of_email(
        &self,
        address: String,
        limit: usize,
    ) -> Result<Vec<UserId>, StoreError> {
        let query = sqlx::query(sql::USERS_OF_EMAIL)
            .bind(address)
            .bind(to_limit(limit));
        self.rows("users of email", query, |columns| columns.user(0))
            .await
    }

    async fn claim_digests(
        &self,
        now_unix_ms: i64,
        lease_until_unix_ms: i64,
        limit: usize,
    ) -> Result<Vec<DueDigest>, StoreError> {
        transaction!(self, "claim digests", c => mail::claim(
            c, now_unix_ms, lease_until_unix_ms, limit))
    }

    async fn is_claimed(
        &self,
        due: DueDigest,
        lease_until_unix_ms: i64,
    ) -> Result<bool, StoreError> {
        transaction!(self, "is claimed", c => mail::is_claimed(c, &due, lease_until_unix_ms))
    }

    async fn finish_digest(&self, finished: FinishedDigest) -> Result<(), StoreError> {
        transaction!(self, "finish digest", c => mail::finish(c, &finished))
    }

    async fn open_reader(&self, reader: ReaderId, log: LogIdentity) -> Result<u64, StoreError> {
        let open = self.database.call("open reader", async |c| {
            positions::postgres::open(c, &reader, &log).await
        });
        Ok(open.await??)
    }

    async fn save_position(&self, advance: PositionAdvance) -> Result<(), StoreError> {
        let save = self.database.call("save position", async |c| {
            positions::postgres::save(c, &advance).await
        });
        Ok(save.await??)
    }

    async fn sync(&self) -> Result<(), StoreError> {
        // Every commit was durable before it was answered.
        Ok(())
    }
}

#[cfg(test)]
mod tests;

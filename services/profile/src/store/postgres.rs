//! The store of the distributed form, shared by all replicas of the service.
//!
//! Every method is one statement and one round trip, but two: a log-in is a transaction that locks the
//! user (it has cost a password's hash already), and a change of a profile is a read and a change that
//! fits only what was read. A search reads as many index entries as it answers (short prefixes), or
//! as there are matches (longer ones).

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use runtime::{
    ids::{DeviceId, UserId},
    postgres::{Database, Failure, OpenError, PostgresConfig, PostgresError},
};
use sha2::{Digest, Sha256};
use sqlx::{
    Connection, Postgres,
    migrate::Migrator,
    postgres::{PgArguments, PgRow},
    query::Query,
    types::Uuid,
};

use super::{Created, LoggedIn, RelayId, Store, StoreError};
use crate::{
    events,
    model::{Account, Device, Fact, ProfileChange, RefreshState, User},
    rate::Quota,
    search,
};

mod clock;
mod rows;
mod sql;

pub use clock::DatabaseClock;
use rows::{account_of, device_of, fact_of, get, user_of};

/// The schema.
static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// How often a change of a profile is tried again when another one of the same user came first.
const UPDATE_TRIES_MAX: usize = 16;

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

/// The store in one PostgreSQL database. Clones share it.
#[derive(Clone)]
pub struct PostgresStore {
    database: Database,
    /// Decides which cell a name has.
    seed: Uuid,
}

impl PostgresStore {
    /// Connects, and brings the schema up to date; one process at a time does.
    pub async fn open(config: &PostgresConfig) -> Result<Self, OpenError> {
        let database = Database::connect(config).await?;
        database.migrate(&MIGRATIONS).await?;
        let seed = database.call("seed", async |c| {
            sqlx::query_scalar(sql::SEED).fetch_one(c).await
        });
        let seed = seed
            .await
            .map_err(|error| OpenError::Unavailable(error.to_string()))?;
        Ok(Self { database, seed })
    }

    /// The database, for health and to close it.
    pub fn database(&self) -> &Database {
        &self.database
    }

    async fn rows(
        &self,
        operation: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let rows = self
            .database
            .call(operation, async |c| query.fetch_all(c).await);
        Ok(rows.await?)
    }

    /// Of a statement that answers one row at most.
    async fn row(
        &self,
        operation: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Option<PgRow>, StoreError> {
        let row = self
            .database
            .call(operation, async |c| query.fetch_optional(c).await);
        Ok(row.await?)
    }

    /// Of a statement that answers whether it did it.
    async fn did(
        &self,
        operation: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<bool, StoreError> {
        let row = self
            .database
            .call(operation, async |c| query.fetch_one(c).await);
        get(&row.await?, 0)
    }

    /// Answers how many rows a statement changed.
    async fn execute(
        &self,
        operation: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<u64, StoreError> {
        let done = self
            .database
            .call(operation, async |c| query.execute(c).await);
        Ok(done.await?.rows_affected())
    }

    /// The cell of a name: two bytes of a hash that nobody outside can compute.
    fn cell(&self, username: &str) -> i32 {
        let hash = Sha256::new()
            .chain_update(self.seed.as_bytes())
            .chain_update(username)
            .finalize();
        i32::from(u16::from_be_bytes([hash[0], hash[1]]))
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn create_account(
        &self,
        account: Account,
        device: Device,
    ) -> Result<Created, StoreError> {
        let user = &account.user;
        let (whole, terms) = Terms::of(&user.username, &user.display_name).arrays();
        let query = sqlx::query(sql::CREATE_ACCOUNT)
            .bind(uuid(user.user_id))
            .bind(&user.username)
            .bind(&user.display_name)
            .bind(&user.status_text)
            .bind(user.created_unix_ms)
            .bind(user.version.cast_signed())
            .bind(&account.password_hash)
            .bind(whole)
            .bind(terms);
        let created = bind_device(query, &device);
        match self.did("create account", created).await? {
            true => Ok(Created::Yes),
            false => Ok(Created::UsernameTaken),
        }
    }

    async fn account(&self, username: &str) -> Result<Option<Account>, StoreError> {
        let account = sqlx::query(sql::ACCOUNT).bind(username);
        let row = self.row("account", account).await?;
        row.as_ref().map(account_of).transpose()
    }

    async fn account_to_log_in(
        &self,
        username: &str,
    ) -> Result<(Option<Account>, Duration), StoreError> {
        let account = sqlx::query(sql::ACCOUNT_TO_LOG_IN)
            .bind(username)
            .bind(self.cell(username));
        let row = self.row("account to log in", account).await?;
        let Some(row) = row else {
            return Err(StoreError::Corrupt("no row at all".to_owned()));
        };
        let taken_ms: i64 = get(&row, 8)?;
        let taken = Duration::from_millis(u64::try_from(taken_ms).unwrap_or(0));
        let known = get::<Option<Uuid>>(&row, 0)?.is_some();
        let account = known.then(|| account_of(&row)).transpose()?;
        Ok((account, taken))
    }

    async fn note_failed_log_in(&self, username: &str, quota: &Quota) -> Result<(), StoreError> {
        let note = sqlx::query(sql::NOTE_FAILED_LOG_IN)
            .bind(self.cell(username))
            .bind(quota.every_ms())
            .bind(quota.taken_max_ms());
        self.execute("note failed log-in", note).await?;
        Ok(())
    }

    async fn clear_failed_log_ins(&self, username: &str) -> Result<(), StoreError> {
        let clear = sqlx::query(sql::CLEAR_FAILED_LOG_INS).bind(self.cell(username));
        self.execute("clear failed log-ins", clear).await?;
        Ok(())
    }

    async fn users(&self, user_ids: Vec<UserId>) -> Result<Vec<User>, StoreError> {
        let ids: Vec<Uuid> = user_ids.iter().copied().map(uuid).collect();
        let rows = self
            .rows("users", sqlx::query(sql::USERS).bind(ids))
            .await?;
        let mut found = HashMap::with_capacity(rows.len());
        for row in &rows {
            let user = user_of(row)?;
            found.insert(user.user_id, user);
        }
        let in_order = user_ids.iter().filter_map(|id| found.get(id).cloned());
        Ok(in_order.collect())
    }

    async fn update_user(
        &self,
        user_id: UserId,
        change: ProfileChange,
        facts_max: usize,
    ) -> Result<Option<User>, StoreError> {
        for _ in 0..UPDATE_TRIES_MAX {
            let Some(before) = self.users(vec![user_id]).await?.pop() else {
                return Ok(None);
            };
            let mut after = change.clone().on(before.clone());
            if after == before {
                return Ok(Some(before));
            }
            after.version += 1;
            let old = Terms::of(&before.username, &before.display_name);
            let new = Terms::of(&after.username, &after.display_name);
            let (gone_whole, gone) = old.without(&new).arrays();
            let (new_whole, new) = new.without(&old).arrays();
            let update = sqlx::query(sql::UPDATE_USER)
                .bind(uuid(user_id))
                .bind(before.version.cast_signed())
                .bind(&after.display_name)
                .bind(&after.status_text)
                .bind(gone_whole)
                .bind(gone)
                .bind(new_whole)
                .bind(new)
                .bind(after.picture.map(|blob| Uuid::from_bytes(*blob.as_bytes())))
                .bind((after.picture != before.picture).then(|| events::picture_changed(&after)))
                .bind(i64::try_from(facts_max).unwrap_or(i64::MAX));
            if self.did("update user", update).await? {
                return Ok(Some(after));
            }
        }
        Err(StoreError::Busy)
    }

    async fn search(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<User>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = if prefix.chars().count() <= search::SHORT_PREFIX_CHARS {
            let short = sqlx::query(sql::SEARCH_SHORT)
                .bind(prefix.as_bytes())
                .bind(after)
                .bind(limit);
            self.rows("search", short).await?
        } else {
            // Above every text that begins with the prefix: no byte of UTF-8 is 255.
            let mut end = prefix.as_bytes().to_vec();
            end.push(u8::MAX);
            let long = sqlx::query(sql::SEARCH_LONG)
                .bind(prefix.as_bytes())
                .bind(end)
                .bind(after)
                .bind(limit);
            self.rows("search", long).await?
        };
        rows.iter().map(user_of).collect()
    }

    async fn log_in_device(
        &self,
        device: Device,
        devices_max: usize,
        now_unix_ms: i64,
    ) -> Result<LoggedIn, StoreError> {
        let lock = sqlx::query(sql::LOCK_USER).bind(uuid(device.user_id));
        let log_in = sqlx::query(sql::LOG_IN_DEVICE).bind(uuid(device.user_id));
        let log_in = bind_device(log_in, &device)
            .bind(i64::try_from(devices_max).unwrap_or(i64::MAX))
            .bind(now_unix_ms);
        let row = self.database.call("log in device", async |c| {
            let mut transaction = c.begin().await?;
            lock.execute(&mut *transaction).await?;
            let row = log_in.fetch_one(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(row)
        });
        match get(&row.await?, 0)? {
            true => Ok(LoggedIn::Yes),
            false => Ok(LoggedIn::TooManyDevices),
        }
    }

    async fn device(
        &self,
        user_id: UserId,
        device_id: DeviceId,
    ) -> Result<Option<Device>, StoreError> {
        let device = sqlx::query(sql::DEVICE)
            .bind(uuid(user_id))
            .bind(device_uuid(device_id));
        let row = self.row("device", device).await?;
        row.as_ref().map(device_of).transpose()
    }

    async fn devices(&self, user_id: UserId, now_unix_ms: i64) -> Result<Vec<Device>, StoreError> {
        let devices = sqlx::query(sql::DEVICES)
            .bind(uuid(user_id))
            .bind(now_unix_ms);
        let rows = self.rows("devices", devices).await?;
        rows.iter().map(device_of).collect()
    }

    async fn put_refresh(
        &self,
        user_id: UserId,
        device_id: DeviceId,
        revision: u64,
        refresh: RefreshState,
    ) -> Result<bool, StoreError> {
        let put = sqlx::query(sql::PUT_REFRESH)
            .bind(uuid(user_id))
            .bind(device_uuid(device_id))
            .bind(revision.cast_signed())
            .bind(refresh.family)
            .bind(refresh.unused.concat())
            .bind(refresh.used)
            .bind(refresh.used_unix_ms)
            .bind(refresh.refreshed_unix_ms)
            .bind(refresh.expires_unix_ms);
        Ok(self.execute("put refresh", put).await? == 1)
    }

    async fn log_out_device(
        &self,
        user_id: UserId,
        device_id: DeviceId,
        revision: Option<u64>,
        fact: Vec<u8>,
        facts_max: usize,
    ) -> Result<bool, StoreError> {
        let log_out = sqlx::query(sql::LOG_OUT_DEVICE)
            .bind(uuid(user_id))
            .bind(device_uuid(device_id))
            .bind(revision.map(u64::cast_signed))
            .bind(fact)
            .bind(i64::try_from(facts_max).unwrap_or(i64::MAX));
        let row = self
            .database
            .call("log out device", async |c| log_out.fetch_one(c).await);
        let row = row.await?;
        match get(&row, 0)? {
            true => get(&row, 1),
            false => Err(StoreError::Busy),
        }
    }

    async fn hold_relay(&self, holder: RelayId, life: Duration) -> Result<bool, StoreError> {
        let hold = sqlx::query(sql::HOLD_RELAY)
            .bind(Uuid::from_bytes(holder.0))
            .bind(i64::try_from(life.as_millis()).unwrap_or(i64::MAX));
        self.did("hold relay", hold).await
    }

    async fn release_relay(&self, holder: RelayId) -> Result<(), StoreError> {
        let release = sqlx::query(sql::RELEASE_RELAY).bind(Uuid::from_bytes(holder.0));
        self.execute("release relay", release).await?;
        Ok(())
    }

    async fn facts(&self, limit: usize) -> Result<Vec<Fact>, StoreError> {
        let facts = sqlx::query(sql::FACTS).bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = self.rows("facts", facts).await?;
        rows.iter().map(fact_of).collect()
    }

    async fn remove_facts(&self, ids: Vec<i64>) -> Result<(), StoreError> {
        self.execute("remove facts", sqlx::query(sql::REMOVE_FACTS).bind(ids))
            .await?;
        Ok(())
    }
}

/// What a user is found by: (whole, term), see the table `search_terms`.
struct Terms(Vec<(bool, Vec<u8>)>);

impl Terms {
    fn of(username: &str, display_name: &str) -> Self {
        let terms = search::terms(username, display_name);
        let short = search::short_prefixes(&terms).into_iter();
        let short = short.map(|term| (false, term.into_bytes()));
        let whole = terms.into_iter().map(|term| (true, term.into_bytes()));
        // Sorted: all processes add and remove terms in one order.
        Self(short.chain(whole).collect())
    }

    fn without(&self, others: &Self) -> Self {
        let own = self.0.iter().filter(|term| !others.0.contains(term));
        Self(own.cloned().collect())
    }

    fn arrays(self) -> (Vec<bool>, Vec<Vec<u8>>) {
        self.0.into_iter().unzip()
    }
}

/// Everything of a device but whose it is.
fn bind_device<'q>(
    query: Query<'q, Postgres, PgArguments>,
    device: &Device,
) -> Query<'q, Postgres, PgArguments> {
    let refresh = &device.refresh;
    query
        .bind(device_uuid(device.device_id))
        .bind(device.name.clone())
        .bind(device.created_unix_ms)
        .bind(refresh.refreshed_unix_ms)
        .bind(refresh.family)
        .bind(refresh.unused.concat())
        .bind(refresh.used)
        .bind(refresh.used_unix_ms)
        .bind(refresh.expires_unix_ms)
        .bind(device.revision.cast_signed())
}

fn uuid(user_id: UserId) -> Uuid {
    Uuid::from_bytes(*user_id.as_bytes())
}

fn device_uuid(device_id: DeviceId) -> Uuid {
    Uuid::from_bytes(*device_id.as_bytes())
}

#[cfg(test)]
mod tests;

//! The store of the one-process form.
//!
//! Log-in, refresh and log-out are point reads and one write each; a search reads as many index
//! entries as it answers (short prefixes), or as there are matches (longer ones).

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use runtime::{
    ids::{BlobId, DeviceId, UserId},
    sqlite::{Database, M, Migrations, SqliteError},
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Created, LoggedIn, RelayId, Store, StoreError};
use crate::{
    events,
    model::{Account, Device, Fact, ProfileChange, RefreshState, User},
    rate::Quota,
    search,
};

mod rows;
mod sync;

use rows::{DEVICE_COLUMNS, USER_COLUMNS, account_of, device_of, fact_of, user_of};
use sync::GroupSync;

impl From<SqliteError> for StoreError {
    fn from(error: SqliteError) -> Self {
        match error {
            SqliteError::Busy => Self::Busy,
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        SqliteError::from(error).into()
    }
}

/// The store in one SQLite file.
pub struct SqliteStore {
    database: Database,
    sync: GroupSync,
}

impl SqliteStore {
    /// Opens or makes the file.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let steps = [
            include_str!("../../migrations/sqlite/1_accounts.sql"),
            include_str!("../../migrations/sqlite/2_pictures.sql"),
        ];
        let migrations = Migrations::new(steps.into_iter().map(M::up).collect());
        Ok(Self {
            database: Database::open(path, &migrations)?,
            sync: GroupSync::default(),
        })
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let value = self.database.write(move |tx| work(tx)).await?;
        self.sync.wait(&self.database).await?;
        Ok(value)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create_account(
        &self,
        account: Account,
        device: Device,
    ) -> Result<Created, StoreError> {
        self.write(move |tx| {
            let user = &account.user;
            let inserted = tx
                .prepare_cached(&format!(
                    "INSERT INTO users ({USER_COLUMNS}, password_hash) VALUES (?,?,?,?,?,?,?,?)
                     ON CONFLICT (username) DO NOTHING"
                ))?
                .execute(params![
                    user.user_id.as_bytes(),
                    user.username,
                    user.display_name,
                    user.status_text,
                    user.created_unix_ms,
                    user.version as i64,
                    user.picture.as_ref().map(BlobId::as_bytes),
                    account.password_hash,
                ])?;
            if inserted == 0 {
                return Ok(Created::UsernameTaken);
            }
            add_terms(tx, user)?;
            put_device(tx, &device)?;
            Ok(Created::Yes)
        })
        .await
    }

    async fn account(&self, username: &str) -> Result<Option<Account>, StoreError> {
        let username = username.to_owned();
        self.database
            .read(move |c| {
                let sql =
                    format!("SELECT {USER_COLUMNS}, password_hash FROM users WHERE username = ?");
                let mut select = c.prepare_cached(&sql)?;
                let row = select.query_row([username], |row| Ok(account_of(row)));
                row.optional()?.transpose()
            })
            .await
    }

    async fn account_to_log_in(
        &self,
        username: &str,
    ) -> Result<(Option<Account>, Duration), StoreError> {
        Ok((self.account(username).await?, Duration::ZERO))
    }

    async fn note_failed_log_in(&self, _: &str, _: &Quota) -> Result<(), StoreError> {
        Ok(())
    }

    async fn clear_failed_log_ins(&self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn users(&self, user_ids: Vec<UserId>) -> Result<Vec<User>, StoreError> {
        self.database
            .read(move |c| {
                let mut users = Vec::with_capacity(user_ids.len());
                for user_id in user_ids {
                    users.extend(user(c, user_id)?);
                }
                Ok(users)
            })
            .await
    }

    async fn update_user(
        &self,
        user_id: UserId,
        change: ProfileChange,
        facts_max: usize,
    ) -> Result<Option<User>, StoreError> {
        self.write(move |tx| {
            let Some(before) = user(tx, user_id)? else {
                return Ok(None);
            };
            let mut after = change.on(before.clone());
            if after == before {
                return Ok(Some(before));
            }
            after.version += 1;
            if after.picture != before.picture && waiting_facts(tx)? >= facts_max {
                return Err(StoreError::Busy);
            }
            tx.prepare_cached(
                "UPDATE users SET display_name = ?, status_text = ?, version = ?, picture = ?
                 WHERE user_id = ?",
            )?
            .execute(params![
                after.display_name,
                after.status_text,
                after.version as i64,
                after.picture.as_ref().map(BlobId::as_bytes),
                user_id.as_bytes(),
            ])?;
            if after.picture != before.picture {
                let fact = events::picture_changed(&after);
                tx.prepare_cached("INSERT INTO outbox (user_id, payload) VALUES (?, ?)")?
                    .execute(params![user_id.as_bytes(), fact])?;
            }
            if after.display_name != before.display_name {
                remove_terms(tx, &before)?;
                add_terms(tx, &after)?;
            }
            Ok(Some(after))
        })
        .await
    }

    async fn search(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<User>, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.database
            .read(move |c| {
                if prefix.chars().count() <= search::SHORT_PREFIX_CHARS {
                    let sql = format!(
                        "SELECT {USER_COLUMNS} FROM users WHERE user_id IN (
                             SELECT user_id FROM search_terms
                             WHERE whole = 0 AND term = ? AND username > ?
                             ORDER BY username LIMIT ?)
                         ORDER BY username"
                    );
                    let mut select = c.prepare_cached(&sql)?;
                    let rows = select
                        .query_map(params![prefix.as_bytes(), after, limit], |r| Ok(user_of(r)))?;
                    return rows.map(|row| row?).collect();
                }
                // Above every text that begins with the prefix: no byte of UTF-8 is 255.
                let mut end = prefix.as_bytes().to_vec();
                end.push(u8::MAX);
                let sql = format!(
                    "SELECT {USER_COLUMNS} FROM users WHERE user_id IN (
                         SELECT DISTINCT user_id FROM search_terms
                         WHERE whole = 1 AND term >= ? AND term < ? AND username > ?
                         ORDER BY username LIMIT ?)
                     ORDER BY username"
                );
                let mut select = c.prepare_cached(&sql)?;
                let rows = select
                    .query_map(params![prefix.as_bytes(), end, after, limit], |r| {
                        Ok(user_of(r))
                    })?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    async fn log_in_device(
        &self,
        device: Device,
        devices_max: usize,
        now_unix_ms: i64,
    ) -> Result<LoggedIn, StoreError> {
        self.write(move |tx| {
            tx.prepare_cached("DELETE FROM devices WHERE user_id = ? AND expires_unix_ms <= ?")?
                .execute(params![device.user_id.as_bytes(), now_unix_ms])?;
            let others: i64 = tx
                .prepare_cached(
                    "SELECT count(*) FROM devices WHERE user_id = ? AND device_id <> ?",
                )?
                .query_row(
                    params![device.user_id.as_bytes(), device.device_id.as_bytes()],
                    |row| row.get(0),
                )?;
            if usize::try_from(others).unwrap_or(usize::MAX) >= devices_max {
                return Ok(LoggedIn::TooManyDevices);
            }
            put_device(tx, &device)?;
            Ok(LoggedIn::Yes)
        })
        .await
    }

    async fn device(
        &self,
        user_id: UserId,
        device_id: DeviceId,
    ) -> Result<Option<Device>, StoreError> {
        self.database
            .read(move |c| {
                let sql = format!(
                    "SELECT {DEVICE_COLUMNS} FROM devices WHERE user_id = ? AND device_id = ?"
                );
                let mut select = c.prepare_cached(&sql)?;
                let ids = params![user_id.as_bytes(), device_id.as_bytes()];
                let row = select.query_row(ids, |row| Ok(device_of(row)));
                row.optional()?.transpose()
            })
            .await
    }

    async fn devices(&self, user_id: UserId, now_unix_ms: i64) -> Result<Vec<Device>, StoreError> {
        self.database
            .read(move |c| {
                let sql = format!(
                    "SELECT {DEVICE_COLUMNS} FROM devices
                     WHERE user_id = ? AND expires_unix_ms > ?
                     ORDER BY created_unix_ms DESC, device_id DESC"
                );
                let mut select = c.prepare_cached(&sql)?;
                let rows = select.query_map(params![user_id.as_bytes(), now_unix_ms], |r| {
                    Ok(device_of(r))
                })?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    async fn put_refresh(
        &self,
        user_id: UserId,
        device_id: DeviceId,
        revision: u64,
        refresh: RefreshState,
    ) -> Result<bool, StoreError> {
        self.write(move |tx| {
            let changed = tx
                .prepare_cached(
                    "UPDATE devices SET family_hash = ?, unused_hashes = ?, used_hash = ?,
                         used_unix_ms = ?, refreshed_unix_ms = ?, expires_unix_ms = ?,
                         revision = revision + 1
                     WHERE user_id = ? AND device_id = ? AND revision = ?",
                )?
                .execute(params![
                    refresh.family,
                    refresh.unused.concat(),
                    refresh.used,
                    refresh.used_unix_ms,
                    refresh.refreshed_unix_ms,
                    refresh.expires_unix_ms,
                    user_id.as_bytes(),
                    device_id.as_bytes(),
                    revision as i64,
                ])?;
            Ok(changed == 1)
        })
        .await
    }

    async fn log_out_device(
        &self,
        user_id: UserId,
        device_id: DeviceId,
        revision: Option<u64>,
        fact: Vec<u8>,
        facts_max: usize,
    ) -> Result<bool, StoreError> {
        self.write(move |tx| {
            if waiting_facts(tx)? >= facts_max {
                return Err(StoreError::Busy);
            }
            let removed = tx
                .prepare_cached(
                    "DELETE FROM devices
                     WHERE user_id = ?1 AND device_id = ?2 AND (?3 IS NULL OR revision = ?3)",
                )?
                .execute(params![
                    user_id.as_bytes(),
                    device_id.as_bytes(),
                    revision.map(|revision| revision as i64),
                ])?;
            if removed == 1 {
                tx.prepare_cached("INSERT INTO outbox (user_id, payload) VALUES (?, ?)")?
                    .execute(params![user_id.as_bytes(), fact])?;
            }
            Ok(removed == 1)
        })
        .await
    }

    async fn hold_relay(&self, _: RelayId, _: Duration) -> Result<bool, StoreError> {
        // The file belongs to one process.
        Ok(true)
    }

    async fn release_relay(&self, _: RelayId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn facts(&self, limit: usize) -> Result<Vec<Fact>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.database
            .read(move |c| {
                let mut select = c.prepare_cached(
                    "SELECT id, user_id, payload FROM outbox ORDER BY id LIMIT ?",
                )?;
                let rows = select.query_map([limit], |r| Ok(fact_of(r)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    async fn remove_facts(&self, ids: Vec<i64>) -> Result<(), StoreError> {
        // Not synced: after a loss of power the log is told again, which is allowed.
        self.database
            .write(move |tx| {
                let mut delete = tx.prepare_cached("DELETE FROM outbox WHERE id = ?")?;
                for id in ids {
                    delete.execute([id])?;
                }
                Ok(())
            })
            .await
    }
}

/// Facts in the outbox, counted from the first number to the last: two look-ups at the ends of the
/// table, whatever its size.
fn waiting_facts(connection: &Connection) -> Result<usize, StoreError> {
    let waiting: i64 = connection
        .prepare_cached(
            "SELECT coalesce((SELECT max(id) FROM outbox)
                           - (SELECT min(id) FROM outbox) + 1, 0)",
        )?
        .query_row([], |row| row.get(0))?;
    Ok(usize::try_from(waiting).unwrap_or(usize::MAX))
}

fn user(c: &Connection, user_id: UserId) -> Result<Option<User>, StoreError> {
    let sql = format!("SELECT {USER_COLUMNS} FROM users WHERE user_id = ?");
    let mut select = c.prepare_cached(&sql)?;
    let row = select.query_row([user_id.as_bytes()], |row| Ok(user_of(row)));
    row.optional()?.transpose()
}

fn put_device(tx: &Connection, device: &Device) -> Result<(), StoreError> {
    let refresh = &device.refresh;
    tx.prepare_cached(&format!(
        "INSERT INTO devices ({DEVICE_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)
         ON CONFLICT DO UPDATE SET name = excluded.name,
             refreshed_unix_ms = excluded.refreshed_unix_ms,
             family_hash = excluded.family_hash, unused_hashes = excluded.unused_hashes,
             used_hash = excluded.used_hash, used_unix_ms = excluded.used_unix_ms,
             expires_unix_ms = excluded.expires_unix_ms, revision = revision + 1"
    ))?
    .execute(params![
        device.user_id.as_bytes(),
        device.device_id.as_bytes(),
        device.name,
        device.created_unix_ms,
        refresh.refreshed_unix_ms,
        refresh.family,
        refresh.unused.concat(),
        refresh.used,
        refresh.used_unix_ms,
        refresh.expires_unix_ms,
        device.revision as i64,
    ])?;
    Ok(())
}

fn add_terms(tx: &Connection, user: &User) -> Result<(), StoreError> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO search_terms (whole, term, username, user_id) VALUES (?,?,?,?)
         ON CONFLICT DO NOTHING",
    )?;
    let terms = search::terms(&user.username, &user.display_name);
    for (whole, terms) in [(false, search::short_prefixes(&terms)), (true, terms)] {
        for term in terms {
            let id = user.user_id.as_bytes();
            insert.execute(params![whole, term.as_bytes(), user.username, id])?;
        }
    }
    Ok(())
}

fn remove_terms(tx: &Connection, user: &User) -> Result<(), StoreError> {
    let mut delete = tx
        .prepare_cached("DELETE FROM search_terms WHERE whole = ? AND term = ? AND username = ?")?;
    let terms = search::terms(&user.username, &user.display_name);
    for (whole, terms) in [(false, search::short_prefixes(&terms)), (true, terms)] {
        for term in terms {
            delete.execute(params![whole, term.as_bytes(), user.username])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! The store of the one-process form.
//!
//! A change is some point reads and a write for each row of it; lists read as many index entries as they
//! answer.

use std::path::Path;

use async_trait::async_trait;
use runtime::{
    ids::{GroupId, UserId},
    positions,
    sqlite::{Database, M, Migrations, SqliteError},
};
use rusqlite::{Connection, OptionalExtension, Params, params};
use uuid::Uuid;

use super::{
    ChangeError, ChangeRequest, Changed, DUE_FIRST_MS, FanoutStore, LogIdentity, Outstanding,
    PositionAdvance, REQUEST_LIFE_MS, ReaderId, Store, StoreError, due_after_ms,
};
use crate::model::{Group, Invitation, JoinRequest, Member, Role, Roster, Sequenced, Snippet};

mod change;
mod rows;
mod sync;

use rows::{Columns, GROUP_COLUMNS, INVITATION_COLUMNS, MEMBER_COLUMNS, to_column, to_limit};
use sync::GroupSync;

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

impl From<SqliteError> for ChangeError {
    fn from(error: SqliteError) -> Self {
        Self::Store(error.into())
    }
}

impl From<rusqlite::Error> for ChangeError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

const STINTS: &str = "SELECT user_id, joined_version, left_version FROM stints WHERE group_id = ?";

const IS_DEFERRED: &str = "SELECT deferred_seq FROM groups WHERE group_id = ?";

const NOTE_DEFERRED: &str =
    "UPDATE groups SET deferred_seq = ?2 WHERE group_id = ?1 AND deferred_seq = 0";

const SEQ: &str = "SELECT seq FROM requests WHERE actor_id = ? AND request_id = ?";

const GROUP: &str = "SELECT {group}, m.role FROM groups g JOIN members m ON m.group_id = g.group_id
    WHERE m.group_id = ? AND m.user_id = ?";

const GROUPS: &str =
    "SELECT {group}, m.role FROM members m JOIN groups g ON g.group_id = m.group_id
    WHERE m.user_id = ? AND m.group_id > ? ORDER BY m.group_id LIMIT ?";

const MEMBERS: &str = "SELECT {member} FROM members WHERE group_id = ? AND user_id > ?
    ORDER BY user_id LIMIT ?";

const INVITATIONS: &str = "SELECT {invitation} FROM invitations WHERE group_id = ?1
    AND (expires_unix_ms = 0 OR expires_unix_ms > ?2) AND (uses_max = 0 OR uses < uses_max)
    ORDER BY created_unix_ms DESC, invitation_id";

const JOIN_REQUESTS: &str = "SELECT user_id, requested_unix_ms FROM join_requests
    WHERE group_id = ? AND user_id > ? ORDER BY user_id LIMIT ?";

const SNIPPET: &str = "SELECT g.group_id, g.name, g.picture, g.member_count, g.version
    FROM groups g JOIN members m ON m.group_id = g.group_id
    WHERE m.group_id = ?1 AND m.user_id = ?2
    UNION ALL
    SELECT group_id, name, picture, 0, left_version FROM past_members
    WHERE group_id = ?1 AND user_id = ?2";

const OUTSTANDING: &str = "SELECT group_id, version, payload FROM outbox
    WHERE group_id = ? ORDER BY version";

const DUE: &str = "SELECT group_id FROM outbox WHERE due_unix_ms <= ?
    ORDER BY due_unix_ms LIMIT ?";

const PUT_BACK: &str = "UPDATE outbox SET tries = 0, due_unix_ms = ? WHERE group_id = ?";

const OLD_REQUESTS: &str = "DELETE FROM requests WHERE (actor_id, request_id) IN (
    SELECT actor_id, request_id FROM requests WHERE created_unix_ms < ?
    ORDER BY created_unix_ms LIMIT ?)";

const FORGET_STINTS: &str = "DELETE FROM stints WHERE group_id = ? AND left_version <= ?";

/// An ended group whose last event was fanned out.
const FORGET_GROUP: &str = "DELETE FROM groups WHERE group_id = ?1 AND member_count = 0
    AND version <= ?2 AND NOT EXISTS (SELECT 1 FROM outbox WHERE group_id = ?1)";

/// The statement, with its columns.
fn sql(statement: &str) -> String {
    statement
        .replace("{group}", GROUP_COLUMNS)
        .replace("{member}", MEMBER_COLUMNS)
        .replace("{invitation}", INVITATION_COLUMNS)
}

/// The store in one SQLite file.
pub struct SqliteStore {
    database: Database,
    sync: GroupSync,
    secret: [u8; 32],
}

impl SqliteStore {
    /// Opens or makes the file.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let steps = [
            include_str!("../../migrations/sqlite/0001_initial.sql"),
            include_str!("../../migrations/sqlite/0002_deferred.sql"),
        ];
        let migrations = Migrations::new(steps.into_iter().map(M::up).collect());
        let database = Database::open(path, &migrations)?;
        let secret = database.read::<_, StoreError, _>(|c| {
            c.query_row("SELECT secret FROM secrets", [], |row| {
                Ok(Columns(row).bytes(0).map(<[u8]>::to_vec))
            })?
        });
        let secret = <[u8; 32]>::try_from(secret.await?)
            .map_err(|_| StoreError::Corrupt("the secret".to_owned()))?;
        Ok(Self {
            database,
            sync: GroupSync::default(),
            secret,
        })
    }

    async fn write<T: Send + 'static, E: From<SqliteError> + Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let value = self.database.write(work).await?;
        self.sync.wait(&self.database).await?;
        Ok(value)
    }
}

/// All rows of a statement.
fn rows<T>(
    c: &Connection,
    statement: &str,
    parameters: impl Params,
    read: impl Fn(&Columns<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut select = c.prepare_cached(&sql(statement))?;
    let rows = select.query_map(parameters, |row| Ok(read(&Columns(row))))?;
    rows.map(|row| row?).collect()
}

/// The first row of a statement, if it has one.
fn row<T>(
    c: &Connection,
    statement: &str,
    parameters: impl Params,
    read: impl Fn(&Columns<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut select = c.prepare_cached(&sql(statement))?;
    let row = select.query_row(parameters, |row| Ok(read(&Columns(row))));
    row.optional()?.transpose()
}

#[async_trait]
impl FanoutStore for SqliteStore {
    async fn roster(&self, group: GroupId) -> Result<Roster, StoreError> {
        let read = move |c: &Connection| {
            let seq = row(c, IS_DEFERRED, [group.as_bytes()], |columns| {
                columns.number::<u64>(0)
            })?;
            let stints = rows(c, STINTS, [group.as_bytes()], |columns| columns.stint())?;
            Ok::<_, StoreError>(Roster {
                stints,
                deferred: seq.is_some_and(|seq| seq > 0),
            })
        };
        self.database.read(read).await
    }

    async fn note_deferred(&self, groups: Vec<(GroupId, u64)>) -> Result<(), StoreError> {
        // Not synced: see below.
        let work = move |tx: &Connection| {
            for (group, seq) in groups {
                tx.prepare_cached(NOTE_DEFERRED)?
                    .execute(params![group.as_bytes(), to_column(seq)?])?;
            }
            Ok(())
        };
        self.database.write(work).await
    }

    async fn note_sequenced(&self, changes: Vec<Sequenced>) -> Result<(), StoreError> {
        // Not synced: a position passes only after a sync, and a repetition changes nothing.
        let work = move |tx: &Connection| {
            for change in &changes {
                note_sequenced(tx, change)?;
            }
            Ok(())
        };
        self.database.write(work).await
    }

    async fn forget_stints(&self, groups: Vec<(GroupId, u64)>) -> Result<(), StoreError> {
        let work = move |tx: &Connection| {
            for (group, version) in groups {
                let version = to_column(version)?;
                for statement in [FORGET_STINTS, FORGET_GROUP] {
                    tx.prepare_cached(statement)?
                        .execute(params![group.as_bytes(), version])?;
                }
            }
            Ok(())
        };
        self.database.write(work).await
    }

    async fn open_reader(&self, reader: ReaderId, log: LogIdentity) -> Result<u64, StoreError> {
        let work = move |tx: &Connection| positions::sqlite::open(tx, &reader, &log);
        self.database.write(work).await
    }

    async fn save_position(&self, advance: PositionAdvance) -> Result<(), StoreError> {
        let work = move |tx: &Connection| positions::sqlite::save(tx, &advance);
        self.database.write(work).await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        Ok(self.database.sync().await?)
    }
}

fn note_sequenced(tx: &Connection, change: &Sequenced) -> Result<(), StoreError> {
    let request = tx
        .prepare_cached(
            "DELETE FROM outbox WHERE group_id = ? AND version = ? RETURNING actor_id, request_id",
        )?
        .query_row(
            params![change.group.as_bytes(), to_column(change.version)?],
            |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)),
        )
        .optional()?;
    if let Some((actor, request_id)) = request {
        tx.prepare_cached("UPDATE requests SET seq = ? WHERE actor_id = ? AND request_id = ?")?
            .execute(params![to_column(change.seq)?, actor, request_id])?;
    }
    Ok(())
}

#[async_trait]
impl Store for SqliteStore {
    async fn change(&self, request: ChangeRequest) -> Result<Changed, ChangeError> {
        self.write(move |tx| change::change(tx, &request)).await
    }

    async fn seq_of(&self, actor: UserId, request_id: Uuid) -> Result<Option<u64>, StoreError> {
        let read = move |c: &Connection| {
            let ids = params![actor.as_bytes(), request_id.as_bytes()];
            let seq: Option<u64> = row(c, SEQ, ids, |columns| columns.number(0))?;
            Ok(seq.filter(|seq| *seq > 0))
        };
        self.database.read(read).await
    }

    async fn group(
        &self,
        group: GroupId,
        user: UserId,
    ) -> Result<Option<(Group, Role)>, StoreError> {
        let read = move |c: &Connection| {
            let ids = params![group.as_bytes(), user.as_bytes()];
            row(c, GROUP, ids, group_and_role)
        };
        self.database.read(read).await
    }

    async fn groups(
        &self,
        user: UserId,
        after: Option<GroupId>,
        limit: usize,
    ) -> Result<Vec<(Group, Role)>, StoreError> {
        let read = move |c: &Connection| {
            let after = after.map_or([0; 16], |group| *group.as_bytes());
            let parameters = params![user.as_bytes(), after, to_limit(limit)];
            rows(c, GROUPS, parameters, group_and_role)
        };
        self.database.read(read).await
    }

    async fn members(
        &self,
        group: GroupId,
        user: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Option<(u64, Vec<Member>)>, StoreError> {
        let read = move |c: &Connection| {
            let ids = params![group.as_bytes(), user.as_bytes()];
            let Some((of_group, _)) = row(c, GROUP, ids, group_and_role)? else {
                return Ok(None);
            };
            let after = after.map_or([0; 16], |user| *user.as_bytes());
            let parameters = params![group.as_bytes(), after, to_limit(limit)];
            let members = rows(c, MEMBERS, parameters, |columns| columns.member(0))?;
            Ok(Some((of_group.version, members)))
        };
        self.database.read(read).await
    }

    async fn invitations(
        &self,
        group: GroupId,
        now_unix_ms: i64,
    ) -> Result<Vec<Invitation>, StoreError> {
        let read = move |c: &Connection| {
            let parameters = params![group.as_bytes(), now_unix_ms];
            rows(c, INVITATIONS, parameters, |columns| columns.invitation(0))
        };
        self.database.read(read).await
    }

    async fn join_requests(
        &self,
        group: GroupId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<JoinRequest>, StoreError> {
        let read = move |c: &Connection| {
            let after = after.map_or([0; 16], |user| *user.as_bytes());
            let parameters = params![group.as_bytes(), after, to_limit(limit)];
            rows(c, JOIN_REQUESTS, parameters, |columns| {
                columns.join_request()
            })
        };
        self.database.read(read).await
    }

    async fn snippets(
        &self,
        user: UserId,
        groups: Vec<GroupId>,
    ) -> Result<Vec<Snippet>, StoreError> {
        let read = move |c: &Connection| {
            let mut snippets = Vec::with_capacity(groups.len());
            for group in groups {
                let ids = params![group.as_bytes(), user.as_bytes()];
                snippets.extend(row(c, SNIPPET, ids, |columns| columns.snippet())?);
            }
            Ok(snippets)
        };
        self.database.read(read).await
    }

    async fn outstanding(&self, group: GroupId) -> Result<Vec<Outstanding>, StoreError> {
        let read = move |c: &Connection| {
            rows(c, OUTSTANDING, [group.as_bytes()], |columns| {
                columns.outstanding()
            })
        };
        let outstanding = self.database.read::<_, StoreError, _>(read).await?;
        // One that another call has committed may not be synced yet.
        self.sync.wait(&self.database).await?;
        Ok(outstanding)
    }

    async fn take_due(&self, now_unix_ms: i64, limit: usize) -> Result<Vec<GroupId>, StoreError> {
        let due = move |c: &Connection| {
            let parameters = params![now_unix_ms, to_limit(limit)];
            rows(c, DUE, parameters, |columns| columns.group_id(0))
        };
        // Mostly there is none: a look costs no write.
        if self
            .database
            .read::<_, StoreError, _>(due)
            .await?
            .is_empty()
        {
            return Ok(Vec::new());
        }
        self.database
            .write(move |tx| {
                let mut groups = due(tx)?;
                groups.sort_unstable();
                groups.dedup();
                for group in &groups {
                    put_off(tx, *group, now_unix_ms)?;
                }
                Ok(groups)
            })
            .await
    }

    async fn put_back(&self, groups: Vec<GroupId>, now_unix_ms: i64) -> Result<(), StoreError> {
        let due = now_unix_ms.saturating_add(DUE_FIRST_MS);
        self.database
            .write(move |tx| {
                let mut put_back = tx.prepare_cached(PUT_BACK)?;
                for group in groups {
                    put_back.execute(params![due, group.as_bytes()])?;
                }
                Ok(())
            })
            .await
    }

    async fn forget_requests(&self, now_unix_ms: i64, limit: usize) -> Result<usize, StoreError> {
        let before = now_unix_ms.saturating_sub(REQUEST_LIFE_MS);
        self.database
            .write(move |tx| {
                let parameters = params![before, to_limit(limit)];
                Ok(tx.prepare_cached(OLD_REQUESTS)?.execute(parameters)?)
            })
            .await
    }

    fn secret(&self) -> [u8; 32] {
        self.secret
    }
}

/// All changes of the group that wait are due later, by as much as the one that was tried least.
fn put_off(tx: &Connection, group: GroupId, now_unix_ms: i64) -> Result<(), StoreError> {
    let tries: u32 = tx
        .prepare_cached("SELECT min(tries) FROM outbox WHERE group_id = ?")?
        .query_row([group.as_bytes()], |row| Ok(Columns(row).number(0)))??;
    let due = now_unix_ms.saturating_add(due_after_ms(tries.saturating_add(1)));
    tx.prepare_cached("UPDATE outbox SET tries = tries + 1, due_unix_ms = ? WHERE group_id = ?")?
        .execute(params![due, group.as_bytes()])?;
    Ok(())
}

fn group_and_role(columns: &Columns<'_>) -> Result<(Group, Role), StoreError> {
    Ok((columns.group(0)?, columns.role(8)?))
}

#[cfg(test)]
mod tests;

//! The store of the distributed form, shared by all replicas of the service.
//!
//! A change is a transaction of some ten statements that locks the row of its group; nothing but the
//! database is waited for meanwhile. Everything else is one statement, but for what is due and for what
//! is forgotten.

use async_trait::async_trait;
use runtime::{
    ids::{GroupId, UserId},
    positions,
    postgres::{Database, Failure, OpenError, PostgresConfig, PostgresError},
};
use sqlx::{
    Connection, Postgres,
    migrate::Migrator,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use uuid::Uuid;

use super::{
    ChangeError, ChangeRequest, Changed, DUE_FIRST_MS, DUE_MAX_MS, FanoutStore, LogIdentity,
    Outstanding, PositionAdvance, REQUEST_LIFE_MS, ReaderId, Store, StoreError,
};
use crate::model::{Group, Invitation, JoinRequest, Member, Role, Roster, Sequenced, Snippet};

mod change;
mod rows;
mod sql;

use change::Failed;
use rows::{Columns, group_column, to_column, to_limit, user_column};

/// The schema.
static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// How often a change is tried again that was in another one's way.
const CHANGE_TRIES_MAX: usize = 4;

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
    secret: [u8; 32],
}

impl PostgresStore {
    /// Connects, and brings the schema up to date; one process at a time does.
    pub async fn open(config: &PostgresConfig) -> Result<Self, OpenError> {
        let database = Database::connect(config).await?;
        database.migrate(&MIGRATIONS).await?;
        let secret: Result<Vec<u8>, _> = database
            .call("secret", async |c| {
                sqlx::query_scalar(sql::SECRET).fetch_one(c).await
            })
            .await;
        let secret = secret.map_err(|error| OpenError::Unavailable(error.to_string()))?;
        let secret = <[u8; 32]>::try_from(secret).map_err(|_| {
            OpenError::Config("the secret in the store has not 32 bytes".to_owned())
        })?;
        Ok(Self { database, secret })
    }

    /// The database, for health and to close it.
    pub fn database(&self) -> &Database {
        &self.database
    }

    async fn rows<T>(
        &self,
        operation: &'static str,
        query: Query<'_, Postgres, PgArguments>,
        read: impl Fn(&Columns<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self
            .database
            .call(operation, async |c| query.fetch_all(c).await);
        rows.await?.iter().map(|row| read(&Columns(row))).collect()
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
}

#[async_trait]
impl FanoutStore for PostgresStore {
    async fn roster(&self, group: GroupId) -> Result<Roster, StoreError> {
        let roster = sqlx::query(sql::ROSTER).bind(group_column(group));
        let read = |columns: &Columns<'_>| Ok((columns.stint()?, columns.get::<bool>(3)?));
        let rows = self.rows("roster", roster, read).await?;
        Ok(Roster {
            deferred: rows.iter().any(|(_, deferred)| *deferred),
            stints: rows.into_iter().map(|(stint, _)| stint).collect(),
        })
    }

    async fn note_deferred(&self, groups: Vec<(GroupId, u64)>) -> Result<(), StoreError> {
        let (mut ids, mut seqs) = (Vec::new(), Vec::new());
        for (group, seq) in groups {
            ids.push(group_column(group));
            seqs.push(to_column(seq)?);
        }
        let note = sqlx::query(sql::NOTE_DEFERRED).bind(ids).bind(seqs);
        self.execute("note deferred", note).await.map(drop)
    }

    async fn note_sequenced(&self, changes: Vec<Sequenced>) -> Result<(), StoreError> {
        let mut rows = (Vec::new(), Vec::new(), Vec::new());
        for change in &changes {
            rows.0.push(group_column(change.group));
            rows.1.push(to_column(change.version)?);
            rows.2.push(to_column(change.seq)?);
        }
        let note = sqlx::query(sql::NOTE_SEQUENCED).bind(rows.0);
        let note = note.bind(rows.1).bind(rows.2);
        self.execute("note sequenced", note).await.map(drop)
    }

    async fn forget_stints(&self, groups: Vec<(GroupId, u64)>) -> Result<(), StoreError> {
        let (mut ids, mut versions) = (Vec::new(), Vec::new());
        for (group, version) in groups {
            ids.push(group_column(group));
            versions.push(to_column(version)?);
        }
        for statement in [sql::FORGET_STINTS, sql::FORGET_GROUPS] {
            let forget = sqlx::query(statement).bind(&ids).bind(&versions);
            self.execute("forget stints", forget).await?;
        }
        Ok(())
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

#[async_trait]
impl Store for PostgresStore {
    async fn change(&self, request: ChangeRequest) -> Result<Changed, ChangeError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let changed = self.database.call("change", async |c| {
                match change::change(c, &request).await {
                    Ok(changed) => Ok(Ok(changed)),
                    Err(Failed::Change(error)) => Ok(Err(error)),
                    Err(Failed::Sql(error)) => Err(error),
                }
            });
            match changed.await {
                Ok(changed) => return changed,
                Err(error) if error.failure() == Failure::Conflict && tries < CHANGE_TRIES_MAX => {}
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
    }

    async fn seq_of(&self, actor: UserId, request_id: Uuid) -> Result<Option<u64>, StoreError> {
        let seq = sqlx::query(sql::SEQ)
            .bind(user_column(actor))
            .bind(request_id);
        let row = self.row("seq", seq).await?;
        let seq = row.map(|row| Columns(&row).number(0)).transpose()?;
        Ok(seq.filter(|seq| *seq > 0))
    }

    async fn group(
        &self,
        group: GroupId,
        user: UserId,
    ) -> Result<Option<(Group, Role)>, StoreError> {
        let query = sqlx::query(sql::GROUP)
            .bind(group_column(group))
            .bind(user_column(user));
        let row = self.row("group", query).await?;
        row.map(|row| Columns(&row).group_and_role()).transpose()
    }

    async fn groups(
        &self,
        user: UserId,
        after: Option<GroupId>,
        limit: usize,
    ) -> Result<Vec<(Group, Role)>, StoreError> {
        let groups = sqlx::query(sql::GROUPS)
            .bind(user_column(user))
            .bind(after.map_or(Uuid::nil(), group_column))
            .bind(to_limit(limit));
        self.rows("groups", groups, |columns| columns.group_and_role())
            .await
    }

    async fn members(
        &self,
        group: GroupId,
        user: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Option<(u64, Vec<Member>)>, StoreError> {
        let page = sqlx::query(sql::MEMBERS)
            .bind(group_column(group))
            .bind(user_column(user))
            .bind(after.map_or(Uuid::nil(), user_column))
            .bind(to_limit(limit));
        let read = |columns: &Columns<'_>| {
            let is_there = columns.get::<Option<Uuid>>(0)?.is_some();
            let member = is_there.then(|| columns.member()).transpose()?;
            Ok((columns.number::<u64>(4)?, member))
        };
        let rows = self.rows("members", page, read).await?;
        let Some((version, _)) = rows.first() else {
            return Ok(None);
        };
        let version = *version;
        let members = rows.into_iter().filter_map(|(_, member)| member).collect();
        Ok(Some((version, members)))
    }

    async fn invitations(
        &self,
        group: GroupId,
        now_unix_ms: i64,
    ) -> Result<Vec<Invitation>, StoreError> {
        let invitations = sqlx::query(sql::INVITATIONS)
            .bind(group_column(group))
            .bind(now_unix_ms);
        let read = |columns: &Columns<'_>| columns.invitation(0);
        self.rows("invitations", invitations, read).await
    }

    async fn join_requests(
        &self,
        group: GroupId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<JoinRequest>, StoreError> {
        let requests = sqlx::query(sql::JOIN_REQUESTS)
            .bind(group_column(group))
            .bind(after.map_or(Uuid::nil(), user_column))
            .bind(to_limit(limit));
        self.rows("join requests", requests, |columns| columns.join_request())
            .await
    }

    async fn snippets(
        &self,
        user: UserId,
        groups: Vec<GroupId>,
    ) -> Result<Vec<Snippet>, StoreError> {
        let ids: Vec<Uuid> = groups.iter().copied().map(group_column).collect();
        let snippets = sqlx::query(sql::SNIPPETS).bind(user_column(user)).bind(ids);
        self.rows("snippets", snippets, |columns| columns.snippet())
            .await
    }

    async fn outstanding(&self, group: GroupId) -> Result<Vec<Outstanding>, StoreError> {
        let outstanding = sqlx::query(sql::OUTSTANDING).bind(group_column(group));
        self.rows("outstanding", outstanding, |columns| columns.outstanding())
            .await
    }

    async fn take_due(&self, now_unix_ms: i64, limit: usize) -> Result<Vec<GroupId>, StoreError> {
        let take = sqlx::query(sql::TAKE_DUE)
            .bind(now_unix_ms)
            .bind(to_limit(limit))
            .bind(DUE_FIRST_MS)
            .bind(DUE_MAX_MS);
        let rows = self.database.call("take due", async |c| {
            let mut transaction = c.begin().await?;
            let may: bool = sqlx::query_scalar(sql::MAY_TAKE_DUE)
                .fetch_one(&mut *transaction)
                .await?;
            let rows = match may {
                true => take.fetch_all(&mut *transaction).await?,
                false => Vec::new(),
            };
            transaction.commit().await?;
            Ok(rows)
        });
        let rows = rows.await?;
        let groups: Result<Vec<GroupId>, _> = rows.iter().map(|r| Columns(r).group_id(0)).collect();
        let mut groups = groups?;
        groups.sort_unstable();
        groups.dedup();
        Ok(groups)
    }

    async fn put_back(&self, groups: Vec<GroupId>, now_unix_ms: i64) -> Result<(), StoreError> {
        let groups: Vec<Uuid> = groups.into_iter().map(group_column).collect();
        let put_back = sqlx::query(sql::PUT_BACK)
            .bind(groups)
            .bind(now_unix_ms.saturating_add(DUE_FIRST_MS));
        self.execute("put back", put_back).await.map(drop)
    }

    async fn forget_requests(&self, now_unix_ms: i64, limit: usize) -> Result<usize, StoreError> {
        let forget = sqlx::query(sql::FORGET_REQUESTS)
            .bind(now_unix_ms.saturating_sub(REQUEST_LIFE_MS))
            .bind(to_limit(limit));
        let forgotten = self.execute("forget requests", forget).await?;
        Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
    }

    fn secret(&self) -> [u8; 32] {
        self.secret
    }
}

#[cfg(test)]
mod tests;

//! One change: what is there, what is decided, and what is written, in one transaction.

use std::collections::BTreeSet;

use prost::Message;
use runtime::ids::{GroupId, UserId};
use sqlx::{Connection, PgConnection, Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

use super::{
    rows::{Columns, group_column, to_column, to_limit, user_column},
    sql,
};
use crate::{
    answer::Answer,
    decide::{Change, Command, Decision, InvitationEffect, Refusal, View, WaitingEffect, decide},
    events,
    model::{Group, Invitation, Member, TokenHash},
    store::{
        ChangeError, ChangeRequest, Changed, DUE_FIRST_MS, OUTSTANDING_PER_GROUP_MAX,
        PAST_GROUPS_PER_USER_MAX, RequestKey, StoreError,
    },
};

/// Why a transaction ends without a commit.
pub(super) enum Failed {
    Change(ChangeError),
    Sql(sqlx::Error),
}

impl<E: Into<ChangeError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Change(error.into())
    }
}

type Done<T> = Result<T, Failed>;
type Q<'q> = Query<'q, Postgres, PgArguments>;

fn sql_failed(error: sqlx::Error) -> Failed {
    Failed::Sql(error)
}

/// See [`crate::store::Store::change`].
pub(super) async fn change(c: &mut PgConnection, request: &ChangeRequest) -> Done<Changed> {
    let mut transaction = c.begin().await.map_err(sql_failed)?;
    match in_transaction(&mut transaction, request).await {
        Ok(changed) => {
            transaction.commit().await.map_err(sql_failed)?;
            Ok(changed)
        }
        Err(failed) => {
            // At once, so that nobody waits for its locks. If this fails, the server does it.
            let _ = transaction.rollback().await;
            Err(failed)
        }
    }
}

async fn in_transaction(c: &mut PgConnection, request: &ChangeRequest) -> Done<Changed> {
    let act = &request.act;
    if let Some(key) = &request.request
        && let Some(before) = claim(c, request, key).await?
    {
        return Ok(before);
    }
    let view = view(c, request).await?;
    let decision = decide(&request.limits, &view, act)?;
    let answer = Answer::of(&decision, view.waiting.contains(&act.actor));
    let group = decision.group.group_id;
    let mut version = 0;
    if let Some(change) = &decision.change {
        version = decision.group.version;
        let waiting = sqlx::query(sql::OUTSTANDING_COUNT).bind(group_column(group));
        if count(c, waiting).await? as usize >= OUTSTANDING_PER_GROUP_MAX {
            return Err(ChangeError::Busy.into());
        }
        write(c, request, &decision.group, change).await?;
    }
    write_besides(c, request, &decision).await?;
    if let Some(key) = &request.request {
        let put = sqlx::query(sql::PUT_ANSWER)
            .bind(user_column(act.actor))
            .bind(key.request_id)
            .bind(group_column(group))
            .bind(to_column(version)?)
            .bind(answer.encode_to_vec());
        execute(c, put).await?;
    }
    Ok(Changed {
        group,
        version,
        seq: None,
        answer,
    })
}

async fn execute(c: &mut PgConnection, query: Q<'_>) -> Done<u64> {
    let done = query.execute(&mut *c).await.map_err(sql_failed)?;
    Ok(done.rows_affected())
}

async fn count(c: &mut PgConnection, query: Q<'_>) -> Done<u32> {
    let row = query.fetch_one(&mut *c).await.map_err(sql_failed)?;
    Ok(Columns(&row).number(0)?)
}

/// Claims the request, or answers what it was answered before.
async fn claim(
    c: &mut PgConnection,
    request: &ChangeRequest,
    key: &RequestKey,
) -> Done<Option<Changed>> {
    let act = &request.act;
    let claim = sqlx::query(sql::CLAIM_REQUEST)
        .bind(user_column(act.actor))
        .bind(key.request_id)
        .bind(key.digest.as_slice())
        .bind(group_column(act.group_id))
        .bind(act.now_unix_ms);
    if execute(c, claim).await? > 0 {
        return Ok(None);
    }
    let before = sqlx::query(sql::REQUEST)
        .bind(user_column(act.actor))
        .bind(key.request_id);
    let row = before.fetch_optional(&mut *c).await.map_err(sql_failed)?;
    let Some(row) = row else {
        // It was forgotten in this moment.
        let gone = "the request was being forgotten".to_owned();
        return Err(StoreError::Unavailable(gone).into());
    };
    let columns = Columns(&row);
    if columns.get::<&[u8]>(0)? != key.digest {
        return Err(Refusal::RequestIdReused.into());
    }
    let answer = Answer::decode(columns.get::<&[u8]>(4)?)
        .map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(Some(Changed {
        group: columns.group_id(1)?,
        version: columns.number(2)?,
        seq: Some(columns.number(3)?).filter(|seq| *seq > 0),
        answer,
    }))
}

async fn view(c: &mut PgConnection, request: &ChangeRequest) -> Done<View> {
    let act = &request.act;
    let mut view = View::default();
    let group = match &act.command {
        Command::Create { .. } => None,
        Command::Join { token_hash } => invitation_of(c, token_hash).await?.map(|(g, _)| g),
        _ => request.group,
    };
    if let Some(group) = group {
        let lock = sqlx::query(sql::LOCK_GROUP).bind(group_column(group));
        let row = lock.fetch_optional(&mut *c).await.map_err(sql_failed)?;
        view.group = row.map(|row| Columns(&row).group()).transpose()?;
    }
    let joining = act.command.joining(act.actor);
    if !joining.is_empty() {
        let joining: Vec<Uuid> = joining.into_iter().map(user_column).collect();
        let full = sqlx::query(sql::FULL)
            .bind(joining)
            .bind(i64::from(request.limits.groups_per_user_max) - 1);
        view.full = users(c, full).await?;
    }
    let Some(group) = group else {
        return Ok(view);
    };
    let involved = act.command.targets().iter().chain([&act.actor]);
    let involved: Vec<Uuid> = involved.map(|user| user_column(*user)).collect();
    let members = sqlx::query(sql::MEMBERS_OF)
        .bind(group_column(group))
        .bind(&involved);
    for row in members.fetch_all(&mut *c).await.map_err(sql_failed)? {
        let member = Columns(&row).member()?;
        view.members.insert(member.user_id, member);
    }
    match &act.command {
        Command::Leave => view.successor = successor(c, group, act.actor).await?,
        Command::Invite { .. } => {
            let good = sqlx::query(sql::INVITATIONS_GOOD)
                .bind(group_column(group))
                .bind(act.now_unix_ms);
            view.invitations_good = count(c, good).await?;
        }
        Command::Join { .. } | Command::Answer { .. } => {
            let of = sqlx::query(sql::WAITING_OF)
                .bind(group_column(group))
                .bind(&involved);
            view.waiting = users(c, of).await?;
            let all = sqlx::query(sql::WAITING_COUNT).bind(group_column(group));
            view.waiting_count = count(c, all).await?;
        }
        _ => {}
    }
    if let Command::Join { token_hash } = &act.command {
        // Once more, with the group locked: it may have been used meanwhile.
        view.invitation = invitation_of(c, token_hash).await?.map(|(_, i)| i);
    }
    Ok(view)
}

async fn users(c: &mut PgConnection, query: Q<'_>) -> Done<BTreeSet<UserId>> {
    let rows = query.fetch_all(&mut *c).await.map_err(sql_failed)?;
    let users = rows.iter().map(|row| Columns(row).user(0));
    Ok(users.collect::<Result<_, _>>()?)
}

async fn successor(c: &mut PgConnection, group: GroupId, actor: UserId) -> Done<Option<Member>> {
    let next = sqlx::query(sql::SUCCESSOR)
        .bind(group_column(group))
        .bind(user_column(actor));
    let row = next.fetch_optional(&mut *c).await.map_err(sql_failed)?;
    Ok(row.map(|row| Columns(&row).member()).transpose()?)
}

async fn invitation_of(
    c: &mut PgConnection,
    token_hash: &TokenHash,
) -> Done<Option<(GroupId, Invitation)>> {
    let by_token = sqlx::query(sql::INVITATION_BY_TOKEN).bind(token_hash.as_slice());
    let row = by_token.fetch_optional(&mut *c).await.map_err(sql_failed)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let columns = Columns(&row);
    Ok(Some((columns.group_id(0)?, columns.invitation(1)?)))
}

/// A new version of the group.
async fn write(
    c: &mut PgConnection,
    request: &ChangeRequest,
    group: &Group,
    change: &Change,
) -> Done<()> {
    let (act, id) = (&request.act, group_column(group.group_id));
    let version = to_column(group.version)?;
    let put = sqlx::query(sql::PUT_GROUP)
        .bind(id)
        .bind(version)
        .bind(&group.name)
        .bind(&group.description)
        .bind(&group.picture)
        .bind(i16::from(group.settings.to_bits()))
        .bind(i64::from(group.member_count))
        .bind(group.created_unix_ms);
    execute(c, put).await?;
    if !change.put.is_empty() {
        let mut rows = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for member in &change.put {
            rows.0.push(user_column(member.user_id));
            rows.1.push(i16::from(member.role as u8));
            rows.2.push(member.joined_unix_ms);
            rows.3.push(to_column(member.joined_version)?);
        }
        let put = sqlx::query(sql::PUT_MEMBERS).bind(id);
        let put = put.bind(rows.0).bind(rows.1).bind(rows.2).bind(rows.3);
        execute(c, put.bind(version)).await?;
    }
    for user in &change.left {
        let user = user_column(*user);
        let remove = sqlx::query(sql::REMOVE_MEMBER)
            .bind(id)
            .bind(user)
            .bind(version)
            .bind(&group.name)
            .bind(&group.picture)
            .bind(act.now_unix_ms);
        execute(c, remove).await?;
        let trim = sqlx::query(sql::TRIM_PAST)
            .bind(user)
            .bind(to_limit(PAST_GROUPS_PER_USER_MAX));
        execute(c, trim).await?;
    }
    let request_id = request.request.map_or(Uuid::nil(), |key| key.request_id);
    let put = sqlx::query(sql::PUT_OUTBOX)
        .bind(id)
        .bind(version)
        .bind(events::payload(group.group_id, &change.log))
        .bind(user_column(act.actor))
        .bind(request_id)
        .bind(act.now_unix_ms.saturating_add(DUE_FIRST_MS));
    execute(c, put).await?;
    if group.member_count == 0 {
        execute(c, sqlx::query(sql::END_GROUP).bind(id)).await?;
    }
    Ok(())
}

/// What becomes of invitations and requests to join.
async fn write_besides(
    c: &mut PgConnection,
    request: &ChangeRequest,
    decision: &Decision,
) -> Done<()> {
    let (act, id) = (&request.act, group_column(decision.group.group_id));
    match decision.invitation {
        Some(InvitationEffect::Made(invitation, token_hash)) => {
            let ended = sqlx::query(sql::DELETE_ENDED_INVITATIONS)
                .bind(id)
                .bind(act.now_unix_ms);
            execute(c, ended).await?;
            let put = sqlx::query(sql::PUT_INVITATION)
                .bind(invitation.invitation_id)
                .bind(id)
                .bind(token_hash.as_slice())
                .bind(user_column(invitation.created_by))
                .bind(invitation.created_unix_ms)
                .bind(invitation.expires_unix_ms)
                .bind(i64::from(invitation.uses_max));
            execute(c, put).await?;
        }
        Some(InvitationEffect::Used(invitation)) => {
            execute(c, sqlx::query(sql::USE_INVITATION).bind(invitation)).await?;
        }
        Some(InvitationEffect::Revoked(invitation)) => {
            let revoke = sqlx::query(sql::REVOKE_INVITATION);
            execute(c, revoke.bind(invitation).bind(id)).await?;
        }
        None => {}
    }
    match decision.waiting {
        Some(WaitingEffect::Asks) => {
            let put = sqlx::query(sql::PUT_WAITING).bind(id);
            let put = put.bind(user_column(act.actor)).bind(act.now_unix_ms);
            execute(c, put).await?;
        }
        Some(WaitingEffect::Ends(user)) => {
            let end = sqlx::query(sql::END_WAITING).bind(id);
            execute(c, end.bind(user_column(user))).await?;
        }
        None => {}
    }
    Ok(())
}

//! One change: what is there, what is decided, and what is written, on the writer's thread.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use runtime::ids::{GroupId, UserId};
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::rows::{
    Columns, GROUP_COLUMNS, INVITATION_COLUMNS, MEMBER_COLUMNS, to_column, to_limit,
};
use crate::{
    answer::Answer,
    decide::{
        Act, Change, Command, Decision, InvitationEffect, Refusal, View, WaitingEffect, decide,
    },
    events,
    model::{Group, Invitation, Member, TokenHash},
    store::{
        ChangeError, ChangeRequest, Changed, DUE_FIRST_MS, OUTSTANDING_PER_GROUP_MAX,
        PAST_GROUPS_PER_USER_MAX, RequestKey, StoreError,
    },
};

/// See [`crate::store::Store::change`].
pub(super) fn change(tx: &Connection, request: &ChangeRequest) -> Result<Changed, ChangeError> {
    let act = &request.act;
    if let Some(key) = &request.request
        && let Some(before) = repeated(tx, act.actor, key)?
    {
        return Ok(before);
    }
    let view = view(tx, request)?;
    let decision = decide(&request.limits, &view, act)?;
    let answer = Answer::of(&decision, view.waiting.contains(&act.actor));
    let group = decision.group.group_id;
    let version = decision
        .change
        .as_ref()
        .map_or(0, |_| decision.group.version);
    if version > 0 {
        let count = "SELECT count(*) FROM outbox WHERE group_id = ?";
        let waiting: usize = tx
            .prepare_cached(count)?
            .query_row([group.as_bytes()], |row| Ok(Columns(row).number(0)))??;
        if waiting >= OUTSTANDING_PER_GROUP_MAX {
            return Err(ChangeError::Busy);
        }
    }
    write(tx, request, &decision)?;
    if let Some(key) = &request.request {
        tx.prepare_cached(
            "INSERT INTO requests (actor_id, request_id, digest, group_id, version, seq, answer,
                                   created_unix_ms)
             VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
        )?
        .execute(params![
            act.actor.as_bytes(),
            key.request_id.as_bytes(),
            key.digest,
            group.as_bytes(),
            to_column(version)?,
            answer.encode_to_vec(),
            act.now_unix_ms,
        ])?;
    }
    Ok(Changed {
        group,
        version,
        seq: None,
        answer,
    })
}

/// What the request was answered, if it was carried out before.
fn repeated(
    tx: &Connection,
    actor: UserId,
    key: &RequestKey,
) -> Result<Option<Changed>, ChangeError> {
    let row = tx
        .prepare_cached(
            "SELECT digest, group_id, version, seq, answer FROM requests
             WHERE actor_id = ? AND request_id = ?",
        )?
        .query_row(
            params![actor.as_bytes(), key.request_id.as_bytes()],
            |row| {
                let columns = Columns(row);
                Ok((|| {
                    let answer = Answer::decode(columns.bytes(4)?);
                    let changed = Changed {
                        group: columns.group_id(1)?,
                        version: columns.number(2)?,
                        seq: Some(columns.number(3)?).filter(|seq| *seq > 0),
                        answer: answer.map_err(|e| StoreError::Corrupt(e.to_string()))?,
                    };
                    Ok::<_, StoreError>((columns.bytes(0)? == key.digest, changed))
                })())
            },
        )
        .optional()?
        .transpose()?;
    match row {
        Some((true, changed)) => Ok(Some(changed)),
        Some((false, _)) => Err(Refusal::RequestIdReused.into()),
        None => Ok(None),
    }
}

fn view(tx: &Connection, request: &ChangeRequest) -> Result<View, StoreError> {
    let act = &request.act;
    let (group, invitation) = match &act.command {
        Command::Create { .. } => (None, None),
        Command::Join { token_hash } => invitation_of(tx, token_hash)?.unzip(),
        _ => (request.group, None),
    };
    let mut view = View {
        invitation,
        ..View::default()
    };
    for user in act.command.joining(act.actor) {
        let full: bool = tx
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM members WHERE user_id = ? LIMIT 1 OFFSET ?)",
            )?
            .query_row(
                params![
                    user.as_bytes(),
                    i64::from(request.limits.groups_per_user_max) - 1
                ],
                |row| row.get(0),
            )?;
        if full {
            view.full.insert(user);
        }
    }
    let Some(group) = group else {
        return Ok(view);
    };
    view.group = group_of(tx, group)?;
    let involved: BTreeSet<UserId> = act
        .command
        .targets()
        .iter()
        .copied()
        .chain([act.actor])
        .collect();
    view.members = members_of(tx, group, &involved)?;
    match act.command {
        Command::Leave => view.successor = successor(tx, group, act.actor)?,
        Command::Invite { .. } => {
            view.invitations_good = count(
                tx,
                "SELECT count(*) FROM invitations WHERE group_id = ?1
                 AND (expires_unix_ms = 0 OR expires_unix_ms > ?2)
                 AND (uses_max = 0 OR uses < uses_max)",
                group,
                act.now_unix_ms,
            )?;
        }
        Command::Join { .. } | Command::Answer { .. } => {
            let waits = "SELECT EXISTS (SELECT 1 FROM join_requests
                 WHERE group_id = ? AND user_id = ?)";
            for user in involved {
                let ids = params![group.as_bytes(), user.as_bytes()];
                if tx.prepare_cached(waits)?.query_row(ids, |row| row.get(0))? {
                    view.waiting.insert(user);
                }
            }
            view.waiting_count = count(
                tx,
                "SELECT count(*) FROM join_requests WHERE group_id = ?1 AND ?2 <> 0",
                group,
                1,
            )?;
        }
        _ => {}
    }
    Ok(view)
}

fn count(tx: &Connection, sql: &str, group: GroupId, second: i64) -> Result<u32, StoreError> {
    tx.prepare_cached(sql)?
        .query_row(params![group.as_bytes(), second], |row| {
            Ok(Columns(row).number(0))
        })?
}

pub(super) fn group_of(c: &Connection, group: GroupId) -> Result<Option<Group>, StoreError> {
    c.prepare_cached(&format!(
        "SELECT {GROUP_COLUMNS} FROM groups g WHERE g.group_id = ?"
    ))?
    .query_row([group.as_bytes()], |row| Ok(Columns(row).group(0)))
    .optional()?
    .transpose()
}

fn members_of(
    tx: &Connection,
    group: GroupId,
    users: &BTreeSet<UserId>,
) -> Result<BTreeMap<UserId, Member>, StoreError> {
    let sql = format!("SELECT {MEMBER_COLUMNS} FROM members WHERE group_id = ? AND user_id = ?");
    let mut select = tx.prepare_cached(&sql)?;
    let mut members = BTreeMap::new();
    for user in users {
        let ids = params![group.as_bytes(), user.as_bytes()];
        let member = select.query_row(ids, |row| Ok(Columns(row).member(0)));
        if let Some(member) = member.optional()?.transpose()? {
            members.insert(*user, member);
        }
    }
    Ok(members)
}

fn successor(tx: &Connection, group: GroupId, actor: UserId) -> Result<Option<Member>, StoreError> {
    tx.prepare_cached(&format!(
        "SELECT {MEMBER_COLUMNS} FROM members WHERE group_id = ? AND user_id <> ?
         ORDER BY role DESC, joined_version, user_id LIMIT 1"
    ))?
    .query_row(params![group.as_bytes(), actor.as_bytes()], |row| {
        Ok(Columns(row).member(0))
    })
    .optional()?
    .transpose()
}

fn invitation_of(
    tx: &Connection,
    token_hash: &TokenHash,
) -> Result<Option<(GroupId, Invitation)>, StoreError> {
    tx.prepare_cached(&format!(
        "SELECT group_id, {INVITATION_COLUMNS} FROM invitations WHERE token_hash = ?"
    ))?
    .query_row([token_hash], |row| {
        let columns = Columns(row);
        Ok(columns
            .group_id(0)
            .and_then(|group| Ok((group, columns.invitation(1)?))))
    })
    .optional()?
    .transpose()
}

fn write(tx: &Connection, request: &ChangeRequest, decision: &Decision) -> Result<(), StoreError> {
    let (act, group) = (&request.act, &decision.group);
    if let Some(change) = &decision.change {
        put_group(tx, group)?;
        for member in &change.put {
            put_member(tx, group, member)?;
        }
        for user in &change.left {
            remove_member(tx, group, *user, act.now_unix_ms)?;
        }
        put_outbox(tx, act, request.request.as_ref(), group, change)?;
    }
    match decision.invitation {
        Some(InvitationEffect::Made(invitation, token_hash)) => {
            put_invitation(
                tx,
                group.group_id,
                &invitation,
                &token_hash,
                act.now_unix_ms,
            )?;
        }
        Some(InvitationEffect::Used(id)) => {
            tx.prepare_cached("UPDATE invitations SET uses = uses + 1 WHERE invitation_id = ?")?
                .execute([id.as_bytes()])?;
        }
        Some(InvitationEffect::Revoked(id)) => {
            tx.prepare_cached("DELETE FROM invitations WHERE invitation_id = ? AND group_id = ?")?
                .execute(params![id.as_bytes(), group.group_id.as_bytes()])?;
        }
        None => {}
    }
    match decision.waiting {
        Some(WaitingEffect::Asks) => {
            tx.prepare_cached("INSERT INTO join_requests VALUES (?, ?, ?)")?
                .execute(params![
                    group.group_id.as_bytes(),
                    act.actor.as_bytes(),
                    act.now_unix_ms
                ])?;
        }
        Some(WaitingEffect::Ends(user)) => end_waiting(tx, group.group_id, user)?,
        None => {}
    }
    if group.member_count == 0 {
        for table in ["invitations", "join_requests"] {
            tx.prepare_cached(&format!("DELETE FROM {table} WHERE group_id = ?"))?
                .execute([group.group_id.as_bytes()])?;
        }
    }
    Ok(())
}

fn put_group(tx: &Connection, group: &Group) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO groups (group_id, version, name, description, picture, settings, member_count,
            created_unix_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (group_id) DO UPDATE SET version = excluded.version, name = excluded.name,
             description = excluded.description, picture = excluded.picture,
             settings = excluded.settings, member_count = excluded.member_count",
    )?
    .execute(params![
        group.group_id.as_bytes(),
        to_column(group.version)?,
        group.name,
        group.description,
        group.picture,
        group.settings.to_bits(),
        group.member_count,
        group.created_unix_ms,
    ])?;
    Ok(())
}

fn put_member(tx: &Connection, group: &Group, member: &Member) -> Result<(), StoreError> {
    let (group_id, user_id) = (group.group_id.as_bytes(), member.user_id.as_bytes());
    let joined = to_column(member.joined_version)?;
    tx.prepare_cached(
        "INSERT INTO members VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (group_id, user_id) DO UPDATE SET role = excluded.role",
    )?
    .execute(params![
        group_id,
        user_id,
        member.role as u8,
        member.joined_unix_ms,
        joined
    ])?;
    if member.joined_version == group.version {
        tx.prepare_cached("INSERT INTO stints VALUES (?, ?, ?, NULL)")?
            .execute(params![group_id, user_id, joined])?;
        tx.prepare_cached("DELETE FROM past_members WHERE user_id = ? AND group_id = ?")?
            .execute(params![user_id, group_id])?;
        end_waiting(tx, group.group_id, member.user_id)?;
    }
    Ok(())
}

fn end_waiting(tx: &Connection, group: GroupId, user: UserId) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM join_requests WHERE group_id = ? AND user_id = ?")?
        .execute(params![group.as_bytes(), user.as_bytes()])?;
    Ok(())
}

fn remove_member(
    tx: &Connection,
    group: &Group,
    user: UserId,
    now_unix_ms: i64,
) -> Result<(), StoreError> {
    let (group_id, user_id) = (group.group_id.as_bytes(), user.as_bytes());
    let version = to_column(group.version)?;
    tx.prepare_cached("DELETE FROM members WHERE group_id = ? AND user_id = ?")?
        .execute(params![group_id, user_id])?;
    tx.prepare_cached(
        "UPDATE stints SET left_version = ?
         WHERE group_id = ? AND user_id = ? AND left_version IS NULL",
    )?
    .execute(params![version, group_id, user_id])?;
    tx.prepare_cached("INSERT OR REPLACE INTO past_members VALUES (?, ?, ?, ?, ?, ?)")?
        .execute(params![
            user_id,
            group_id,
            group.name,
            group.picture,
            version,
            now_unix_ms
        ])?;
    tx.prepare_cached(
        "DELETE FROM past_members WHERE user_id = ?1 AND group_id IN (
             SELECT group_id FROM past_members WHERE user_id = ?1
             ORDER BY left_unix_ms DESC, group_id LIMIT -1 OFFSET ?2)",
    )?
    .execute(params![user_id, to_limit(PAST_GROUPS_PER_USER_MAX)])?;
    Ok(())
}

fn put_outbox(
    tx: &Connection,
    act: &Act,
    key: Option<&RequestKey>,
    group: &Group,
    change: &Change,
) -> Result<(), StoreError> {
    let request_id = key.map_or(Uuid::nil(), |key| key.request_id);
    tx.prepare_cached("INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, 0)")?
        .execute(params![
            group.group_id.as_bytes(),
            to_column(group.version)?,
            events::payload(group.group_id, &change.log),
            act.actor.as_bytes(),
            request_id.as_bytes(),
            act.now_unix_ms.saturating_add(DUE_FIRST_MS),
        ])?;
    Ok(())
}

fn put_invitation(
    tx: &Connection,
    group: GroupId,
    invitation: &Invitation,
    token_hash: &TokenHash,
    now_unix_ms: i64,
) -> Result<(), StoreError> {
    // So there are never more than the limit of those that are good.
    tx.prepare_cached(
        "DELETE FROM invitations WHERE group_id = ?
         AND ((expires_unix_ms <> 0 AND expires_unix_ms <= ?)
              OR (uses_max <> 0 AND uses >= uses_max))",
    )?
    .execute(params![group.as_bytes(), now_unix_ms])?;
    // The same token comes from the same request only, when that was forgotten.
    tx.prepare_cached("INSERT OR REPLACE INTO invitations VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?
        .execute(params![
            invitation.invitation_id.as_bytes(),
            group.as_bytes(),
            token_hash,
            invitation.created_by.as_bytes(),
            invitation.created_unix_ms,
            invitation.expires_unix_ms,
            invitation.uses_max,
            invitation.uses,
        ])?;
    Ok(())
}

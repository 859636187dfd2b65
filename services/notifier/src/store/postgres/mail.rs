//! The transactions of preferences, addresses and digests. What becomes of an address says `store/mail.rs`;
//! see [`sql`] for why they do not miss each other.

use runtime::{ids::UserId, postgres::PgConnection};
use uuid::Uuid;

use super::{
    Failed, read_all,
    rows::{Columns, put_email, put_preferences, to_limit, user_column},
    sql,
};
use crate::{
    model::{DueDigest, Email, FinishedDigest, Preferences},
    store::{
        Confirmation, EmailGiven, EmailReport, NextDigest, PreferencesChange, Updated,
        mail::{
            EmailRow, MAILS_CLEANED_MAX, MAILS_LOOKED_AT, Shown, counted_address, counted_since,
            moves_digests, wait_ms,
        },
    },
};

async fn lock_user(c: &mut PgConnection, user: UserId) -> Result<(), Failed> {
    let lock = sqlx::query(sql::LOCK_USER).bind(user_column(user));
    lock.execute(c).await?;
    Ok(())
}

async fn preferences(c: &mut PgConnection, user: UserId) -> Result<Preferences, Failed> {
    let select = sqlx::query(sql::PREFERENCES).bind(vec![user_column(user)]);
    Ok(Columns(&select.fetch_one(c).await?).preferences()?)
}

/// The address of a user, locked.
async fn locked(c: &mut PgConnection, user: UserId) -> Result<Option<EmailRow>, Failed> {
    let lock = sqlx::query(sql::LOCK_EMAILS).bind(vec![user_column(user)]);
    let row = lock.fetch_optional(c).await?;
    let row = row.map(|row| Columns(&row).email()).transpose()?;
    Ok(row.map(|(_, row)| row))
}

/// See [`crate::store::Store::update_preferences`].
pub(super) async fn update_preferences(
    c: &mut PgConnection,
    user: UserId,
    change: &PreferencesChange,
    if_version: u64,
    next_digest_unix_ms: &NextDigest,
) -> Result<Updated, Failed> {
    lock_user(c, user).await?;
    let before = preferences(c, user).await?;
    if if_version != 0 && if_version != before.version {
        return Ok(Updated::OtherVersion);
    }
    let after = change.clone().applied_to(before.clone());
    put_preferences(user, &after)?.execute(&mut *c).await?;
    if moves_digests(&before, &after)
        && let Some(mut row) = locked(c, user).await?
    {
        row.move_digest(next_digest_unix_ms(&after));
        put_email(user, &row).execute(c).await?;
    }
    Ok(Updated::Changed(after))
}

/// See [`crate::store::Store::count_confirmation`].
pub(super) async fn count(
    c: &mut PgConnection,
    confirmation: &Confirmation,
) -> Result<EmailGiven, Failed> {
    let Confirmation {
        user,
        address,
        now_unix_ms,
        ..
    } = confirmation;
    lock_user(c, *user).await?;
    let before = locked(c, *user).await?;
    if before.is_some_and(|before| before.is_confirmed_as(confirmation)) {
        return Ok(EmailGiven::AlreadyConfirmed);
    }
    let hash = counted_address(address).to_vec();
    let lock = sqlx::query(sql::LOCK_ADDRESS).bind(hash.clone());
    lock.execute(&mut *c).await?;
    let of_user = sqlx::query_scalar(sql::MAILS_OF_USER).bind(user_column(*user));
    let to_address = sqlx::query_scalar(sql::MAILS_TO_ADDRESS).bind(hash.clone());
    let mut wait = None;
    for newest in [of_user, to_address] {
        let newest = newest
            .bind(counted_since(*now_unix_ms))
            .bind(to_limit(MAILS_LOOKED_AT));
        let newest: Vec<i64> = newest.fetch_all(&mut *c).await?;
        wait = wait.max(wait_ms(&newest, *now_unix_ms));
    }
    if let Some(retry_after_ms) = wait {
        return Ok(EmailGiven::TooMany { retry_after_ms });
    }
    let clean = sqlx::query(sql::CLEAN_MAILS)
        .bind(counted_since(*now_unix_ms))
        .bind(to_limit(MAILS_CLEANED_MAX));
    clean.execute(&mut *c).await?;
    let count = sqlx::query(sql::COUNT_MAIL)
        .bind(user_column(*user))
        .bind(hash)
        .bind(*now_unix_ms);
    count.execute(c).await?;
    Ok(EmailGiven::ToConfirm)
}

/// See [`crate::store::Store::give_email`].
pub(super) async fn give(c: &mut PgConnection, confirmation: &Confirmation) -> Result<(), Failed> {
    let user = confirmation.user;
    lock_user(c, user).await?;
    let before = locked(c, user).await?;
    if before.is_some_and(|before| before.is_confirmed_as(confirmation)) {
        return Ok(());
    }
    let given = put_email(user, &EmailRow::given(confirmation));
    given.execute(c).await?;
    Ok(())
}

/// See [`crate::store::Store::confirm_email`].
pub(super) async fn confirm(
    c: &mut PgConnection,
    user: UserId,
    code_hash: &[u8; 32],
    now_unix_ms: i64,
    next_digest_unix_ms: &NextDigest,
) -> Result<Option<Email>, Failed> {
    lock_user(c, user).await?;
    let Some(mut row) = locked(c, user).await? else {
        return Ok(None);
    };
    match row.show(code_hash, now_unix_ms) {
        Shown::Confirmed => {
            let preferences = preferences(c, user).await?;
            row.move_digest(next_digest_unix_ms(&preferences));
            put_email(user, &row).execute(c).await?;
            Ok(Some(row.email))
        }
        Shown::Again => Ok(Some(row.email)),
        Shown::Wrong => {
            put_email(user, &row).execute(c).await?;
            Ok(None)
        }
        Shown::Nothing => Ok(None),
    }
}

/// See [`crate::store::Store::remove_email`].
pub(super) async fn remove(c: &mut PgConnection, user: UserId) -> Result<(), Failed> {
    lock_user(c, user).await?;
    let remove = sqlx::query(sql::REMOVE_EMAIL).bind(user_column(user));
    remove.execute(c).await?;
    Ok(())
}

/// See [`crate::store::Store::report_emails`].
pub(super) async fn report(
    c: &mut PgConnection,
    reports: &[(UserId, String, EmailReport)],
) -> Result<usize, Failed> {
    let users: Vec<Uuid> = reports
        .iter()
        .map(|(user, ..)| user_column(*user))
        .collect();
    let lock = sqlx::query(sql::LOCK_EMAILS).bind(users);
    let rows = read_all(&lock.fetch_all(&mut *c).await?, |columns| columns.email())?;
    let mut disabled = 0;
    for (user, mut row) in rows {
        let before = row.clone();
        for (of, address, report) in reports {
            if *of == user && *address == row.email.address {
                disabled += usize::from(row.report(*report));
            }
        }
        if row != before {
            put_email(user, &row).execute(&mut *c).await?;
        }
    }
    Ok(disabled)
}

/// See [`crate::store::Store::is_claimed`].
pub(super) async fn is_claimed(
    c: &mut PgConnection,
    due: &DueDigest,
    lease_until_unix_ms: i64,
) -> Result<bool, Failed> {
    let select = sqlx::query(sql::EMAIL).bind(user_column(due.user));
    let row = select.fetch_optional(&mut *c).await?;
    let row = row.map(|row| Columns(&row).email()).transpose()?;
    let is_claimed = row.is_some_and(|(_, row)| row.is_claimed(due, lease_until_unix_ms));
    Ok(is_claimed && preferences(c, due.user).await? == due.preferences)
}

/// See [`crate::store::Store::finish_digest`].
pub(super) async fn finish(c: &mut PgConnection, finished: &FinishedDigest) -> Result<(), Failed> {
    let user = finished.due.user;
    let Some(mut row) = locked(c, user).await? else {
        return Ok(());
    };
    row.finish(finished);
    put_email(user, &row).execute(c).await?;
    Ok(())
}

/// See [`crate::store::Store::claim_digests`].
pub(super) async fn claim(
    c: &mut PgConnection,
    now_unix_ms: i64,
    lease_until_unix_ms: i64,
    limit: usize,
) -> Result<Vec<DueDigest>, Failed> {
    let claim = sqlx::query(sql::CLAIM_DIGESTS)
        .bind(now_unix_ms)
        .bind(lease_until_unix_ms)
        .bind(to_limit(limit));
    let claimed = claim.fetch_all(&mut *c).await?;
    let mut due: Vec<(UserId, String, i64, i64)> = read_all(&claimed, |columns| {
        let (address, due_unix_ms) = (columns.get(1)?, columns.get(2)?);
        Ok((columns.user(0)?, address, due_unix_ms, columns.get(3)?))
    })?;
    due.sort_by_key(|(_, _, due_unix_ms, _)| *due_unix_ms);
    let users: Vec<Uuid> = due.iter().map(|(user, ..)| user_column(*user)).collect();
    let select = sqlx::query(sql::PREFERENCES).bind(users);
    let wanted = read_all(&select.fetch_all(c).await?, |columns| columns.preferences())?;
    let digests = due.into_iter().zip(wanted);
    let digests = digests.map(
        |((user, address, due_unix_ms, told_unix_ms), preferences)| DueDigest {
            user,
            email: Email {
                address,
                confirmed: true,
                disabled: None,
            },
            preferences,
            due_unix_ms,
            told_unix_ms,
        },
    );
    Ok(digests.collect())
}

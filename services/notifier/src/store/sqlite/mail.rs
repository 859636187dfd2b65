//! Addresses and digests. What becomes of an address says `store/mail.rs`; one writer makes all changes.

use runtime::ids::UserId;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::rows::{corrupt, preferences, to_limit};
use crate::{
    model::{DueDigest, Email, EmailDisabled, FinishedDigest, Preferences},
    store::{
        Confirmation, EmailGiven, EmailReport, NextDigest, StoreError,
        mail::{
            Code, EmailRow, MAILS_CLEANED_MAX, MAILS_LOOKED_AT, Shown, counted_address,
            counted_since, moves_digests, wait_ms,
        },
    },
};

const EMAIL: &str = "SELECT address, confirmed, disabled, soft_bounces,
        code_hash, code_since_unix_ms, code_tries, next_digest_unix_ms, claimed_until_unix_ms,
        last_bounced, told_unix_ms
    FROM emails WHERE user_id = ?1";

const PUT: &str =
    "INSERT OR REPLACE INTO emails (user_id, address, confirmed, disabled, soft_bounces,
        code_hash, code_since_unix_ms, code_tries, next_digest_unix_ms, claimed_until_unix_ms,
        last_bounced, told_unix_ms)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

pub(super) const REMOVE: &str = "DELETE FROM emails WHERE user_id = ?1";

const MAILS_OF_USER: &str = "SELECT sent_unix_ms FROM confirmation_mails
    WHERE user_id = ?1 AND sent_unix_ms > ?2 ORDER BY sent_unix_ms DESC LIMIT ?3";

const MAILS_TO_ADDRESS: &str = "SELECT sent_unix_ms FROM confirmation_mails
    WHERE address_hash = ?1 AND sent_unix_ms > ?2 ORDER BY sent_unix_ms DESC LIMIT ?3";

const COUNT_MAIL: &str =
    "INSERT INTO confirmation_mails (user_id, address_hash, sent_unix_ms) VALUES (?1, ?2, ?3)";

const CLEAN_MAILS: &str = "DELETE FROM confirmation_mails WHERE mail_id IN (
    SELECT mail_id FROM confirmation_mails WHERE sent_unix_ms <= ?1
    ORDER BY sent_unix_ms LIMIT ?2)";

const USERS: &str = "SELECT user_id FROM emails WHERE address = ?1 ORDER BY user_id LIMIT ?2";

const DUE: &str = "SELECT user_id, address, next_digest_unix_ms, told_unix_ms FROM emails
    WHERE next_digest_unix_ms IS NOT NULL
        AND max(next_digest_unix_ms, claimed_until_unix_ms) <= ?1
    ORDER BY max(next_digest_unix_ms, claimed_until_unix_ms) LIMIT ?2";

const CLAIM: &str = "UPDATE emails SET claimed_until_unix_ms = ?2 WHERE user_id = ?1";

/// Every statement that searches, for a test of its plan.
#[cfg(test)]
pub(super) const SEARCHES: &[&str] = &[
    EMAIL,
    REMOVE,
    MAILS_OF_USER,
    MAILS_TO_ADDRESS,
    CLEAN_MAILS,
    USERS,
    DUE,
    CLAIM,
];

pub(super) fn row(c: &Connection, user: UserId) -> Result<Option<EmailRow>, StoreError> {
    let mut select = c.prepare_cached(EMAIL)?;
    let row = select.query_row([user.as_bytes()], |row| Ok(email_row(row)));
    row.optional()?.transpose()
}

fn email_row(row: &Row<'_>) -> Result<EmailRow, StoreError> {
    let disabled = row.get::<_, Option<u8>>(2)?.map(|number| {
        EmailDisabled::from_number(number).ok_or_else(|| corrupt("why an address is disabled"))
    });
    let code = row.get::<_, Option<Vec<u8>>>(4)?.map(|hash| {
        Ok::<_, StoreError>(Code {
            hash: hash.try_into().map_err(|_| corrupt("a code's hash"))?,
            since_unix_ms: row.get(5)?,
            tries: row.get(6)?,
        })
    });
    Ok(EmailRow {
        email: Email {
            address: row.get(0)?,
            confirmed: row.get(1)?,
            disabled: disabled.transpose()?,
        },
        soft_bounces: row.get(3)?,
        code: code.transpose()?,
        next_digest_unix_ms: row.get(7)?,
        claimed_until_unix_ms: row.get(8)?,
        last_bounced: row.get(9)?,
        told_unix_ms: row.get(10)?,
    })
}

fn put(tx: &Connection, user: UserId, row: &EmailRow) -> Result<(), StoreError> {
    let code = row.code.as_ref();
    tx.prepare_cached(PUT)?.execute(params![
        user.as_bytes(),
        row.email.address,
        row.email.confirmed,
        row.email.disabled.map(|why| why as u8),
        row.soft_bounces,
        code.map(|code| code.hash),
        code.map(|code| code.since_unix_ms),
        code.map(|code| code.tries),
        row.next_digest_unix_ms,
        row.claimed_until_unix_ms,
        row.last_bounced,
        row.told_unix_ms,
    ])?;
    Ok(())
}

/// See [`crate::store::Store::count_confirmation`].
pub(super) fn count(
    tx: &Connection,
    confirmation: &Confirmation,
) -> Result<EmailGiven, StoreError> {
    let Confirmation {
        user,
        address,
        now_unix_ms,
        ..
    } = confirmation;
    let before = row(tx, *user)?;
    if before.is_some_and(|before| before.is_confirmed_as(confirmation)) {
        return Ok(EmailGiven::AlreadyConfirmed);
    }
    let hash = counted_address(address);
    let keys: [(&str, &[u8]); 2] = [(MAILS_OF_USER, user.as_bytes()), (MAILS_TO_ADDRESS, &hash)];
    let mut wait = None;
    for (statement, key) in keys {
        let since = counted_since(*now_unix_ms);
        let mut select = tx.prepare_cached(statement)?;
        let newest = select.query_map(params![key, since, to_limit(MAILS_LOOKED_AT)], |row| {
            row.get::<_, i64>(0)
        })?;
        let newest = newest.collect::<Result<Vec<_>, _>>()?;
        wait = wait.max(wait_ms(&newest, *now_unix_ms));
    }
    if let Some(retry_after_ms) = wait {
        return Ok(EmailGiven::TooMany { retry_after_ms });
    }
    let old = params![counted_since(*now_unix_ms), to_limit(MAILS_CLEANED_MAX)];
    tx.prepare_cached(CLEAN_MAILS)?.execute(old)?;
    let mail = params![user.as_bytes(), hash, now_unix_ms];
    tx.prepare_cached(COUNT_MAIL)?.execute(mail)?;
    Ok(EmailGiven::ToConfirm)
}

/// See [`crate::store::Store::give_email`].
pub(super) fn give(tx: &Connection, confirmation: &Confirmation) -> Result<(), StoreError> {
    match row(tx, confirmation.user)? {
        Some(before) if before.is_confirmed_as(confirmation) => Ok(()),
        Some(_) | None => put(tx, confirmation.user, &EmailRow::given(confirmation)),
    }
}

/// See [`crate::store::Store::confirm_email`].
pub(super) fn confirm(
    tx: &Connection,
    user: UserId,
    code_hash: &[u8; 32],
    now_unix_ms: i64,
    next_digest_unix_ms: &NextDigest,
) -> Result<Option<Email>, StoreError> {
    let Some(mut row) = row(tx, user)? else {
        return Ok(None);
    };
    match row.show(code_hash, now_unix_ms) {
        Shown::Confirmed => {
            row.move_digest(next_digest_unix_ms(&preferences(tx, user)?));
            put(tx, user, &row)?;
            Ok(Some(row.email))
        }
        Shown::Again => Ok(Some(row.email)),
        Shown::Wrong => {
            put(tx, user, &row)?;
            Ok(None)
        }
        Shown::Nothing => Ok(None),
    }
}

/// After a change of preferences.
pub(super) fn move_digest(
    tx: &Connection,
    user: UserId,
    before: &Preferences,
    after: &Preferences,
    next_digest_unix_ms: &NextDigest,
) -> Result<(), StoreError> {
    if !moves_digests(before, after) {
        return Ok(());
    }
    let Some(mut row) = row(tx, user)? else {
        return Ok(());
    };
    row.move_digest(next_digest_unix_ms(after));
    put(tx, user, &row)
}

/// See [`crate::store::Store::report_emails`].
pub(super) fn report(
    tx: &Connection,
    reports: &[(UserId, String, EmailReport)],
) -> Result<usize, StoreError> {
    let mut disabled = 0;
    for (user, address, report) in reports {
        match row(tx, *user)? {
            Some(mut row) if row.email.address == *address => {
                disabled += usize::from(row.report(*report));
                put(tx, *user, &row)?;
            }
            Some(_) | None => {}
        }
    }
    Ok(disabled)
}

/// See [`crate::store::Store::users_of_email`].
pub(super) fn users(
    c: &Connection,
    address: &str,
    limit: usize,
) -> Result<Vec<UserId>, StoreError> {
    let mut select = c.prepare_cached(USERS)?;
    let users = select.query_map(params![address, to_limit(limit)], |row| {
        row.get::<_, Vec<u8>>(0)
    })?;
    users.map(|user| Ok(UserId::from_slice(&user?)?)).collect()
}

/// See [`crate::store::Store::is_claimed`].
pub(super) fn is_claimed(
    c: &Connection,
    due: &DueDigest,
    lease_until_unix_ms: i64,
) -> Result<bool, StoreError> {
    let row = row(c, due.user)?;
    let is_claimed = row.is_some_and(|row| row.is_claimed(due, lease_until_unix_ms));
    Ok(is_claimed && preferences(c, due.user)? == due.preferences)
}

/// See [`crate::store::Store::finish_digest`].
pub(super) fn finish(tx: &Connection, finished: &FinishedDigest) -> Result<(), StoreError> {
    let user = finished.due.user;
    let Some(mut row) = row(tx, user)? else {
        return Ok(());
    };
    row.finish(finished);
    put(tx, user, &row)
}

/// See [`crate::store::Store::claim_digests`].
pub(super) fn claim(
    tx: &Connection,
    now_unix_ms: i64,
    lease_until_unix_ms: i64,
    limit: usize,
) -> Result<Vec<DueDigest>, StoreError> {
    let mut select = tx.prepare_cached(DUE)?;
    let mut claim = tx.prepare_cached(CLAIM)?;
    let mut rows = select.query(params![now_unix_ms, to_limit(limit)])?;
    let mut due = Vec::new();
    while let Some(row) = rows.next()? {
        let user = UserId::from_slice(&row.get::<_, Vec<u8>>(0)?)?;
        due.push((user, row.get(1)?, row.get(2)?, row.get(3)?));
    }
    drop(rows);
    let mut digests = Vec::with_capacity(due.len());
    for (user, address, due_unix_ms, told_unix_ms) in due {
        claim.execute(params![user.as_bytes(), lease_until_unix_ms])?;
        digests.push(DueDigest {
            user,
            email: Email {
                address,
                confirmed: true,
                disabled: None,
            },
            preferences: preferences(tx, user)?,
            due_unix_ms,
            told_unix_ms,
        });
    }
    digests.sort_by_key(|digest| digest.due_unix_ms);
    Ok(digests)
}

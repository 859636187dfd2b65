//! The transactions of registrations and log-outs. See [`sql`] for why they do not miss each other.

use runtime::{
    ids::{DeviceId, UserId},
    positions,
    postgres::PgConnection,
};
use uuid::Uuid;

use super::{
    Failed,
    rows::{device_column, put_target, to_limit, token_hash, user_column},
    sql,
};
use crate::{
    model::DeviceTarget,
    store::{FORGOTTEN_CLEANED_MAX, FORGOTTEN_LIFE_MS, PositionAdvance, StoreError},
};

/// See [`crate::store::Store::put_target`].
pub(super) async fn put(c: &mut PgConnection, target: &DeviceTarget) -> Result<bool, Failed> {
    let (user, device) = (user_column(target.user), device_column(target.device));
    let share = sqlx::query(sql::SHARE_LOG_OUTS).bind(sql::LOG_OUTS);
    share.execute(&mut *c).await?;
    let hash = token_hash(&target.target);
    let lock = sqlx::query(sql::LOCK_TOKEN).bind(hash.clone());
    lock.execute(&mut *c).await?;
    let is_forgotten = sqlx::query_scalar(sql::IS_FORGOTTEN)
        .bind(user)
        .bind(device);
    if is_forgotten.fetch_one(&mut *c).await? {
        return Ok(false);
    }
    let take = sqlx::query(sql::MOVE_TARGET)
        .bind(hash)
        .bind(user)
        .bind(device);
    take.execute(&mut *c).await?;
    put_target(target).execute(c).await?;
    Ok(true)
}

/// See [`crate::store::Store::forget_devices`].
pub(super) async fn forget(
    c: &mut PgConnection,
    devices: &[(UserId, DeviceId)],
    now_unix_ms: i64,
    advance: &PositionAdvance,
) -> Result<(), Failed> {
    if !devices.is_empty() {
        let lock = sqlx::query(sql::LOCK_LOG_OUTS).bind(sql::LOG_OUTS);
        lock.execute(&mut *c).await?;
        let columns = devices
            .iter()
            .map(|(user, device)| (user_column(*user), device_column(*device)));
        let (users, devices): (Vec<Uuid>, Vec<Uuid>) = columns.unzip();
        let forget = sqlx::query(sql::FORGET_DEVICES)
            .bind(users.clone())
            .bind(devices.clone())
            .bind(now_unix_ms);
        forget.execute(&mut *c).await?;
        let remove = sqlx::query(sql::REMOVE_TARGETS).bind(users).bind(devices);
        remove.execute(&mut *c).await?;
    }
    let clean = sqlx::query(sql::CLEAN_FORGOTTEN)
        .bind(now_unix_ms.saturating_sub(FORGOTTEN_LIFE_MS))
        .bind(to_limit(FORGOTTEN_CLEANED_MAX));
    clean.execute(&mut *c).await?;
    let saved = positions::postgres::save(c, advance).await?;
    Ok(saved.map_err(StoreError::from)?)
}

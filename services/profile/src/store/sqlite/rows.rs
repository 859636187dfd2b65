//! From rows to nouns.

use runtime::ids::{BlobId, DeviceId, InvalidId, UserId};
use rusqlite::Row;

use crate::{
    model::{Account, Device, Fact, Hash, RefreshState, User},
    store::StoreError,
};

pub(super) const USER_COLUMNS: &str =
    "user_id, username, display_name, status_text, created_unix_ms, version, picture";
pub(super) const DEVICE_COLUMNS: &str = "user_id, device_id, name, created_unix_ms, \
     refreshed_unix_ms, family_hash, unused_hashes, used_hash, used_unix_ms, expires_unix_ms, \
     revision";

pub(super) fn user_of(row: &Row<'_>) -> Result<User, StoreError> {
    Ok(User {
        user_id: user_id(row, 0)?,
        username: row.get(1)?,
        display_name: row.get(2)?,
        status_text: row.get(3)?,
        created_unix_ms: row.get(4)?,
        version: row.get::<_, i64>(5)? as u64,
        picture: picture(row.get(6)?)?,
    })
}

pub(super) fn account_of(row: &Row<'_>) -> Result<Account, StoreError> {
    Ok(Account {
        user: user_of(row)?,
        password_hash: row.get(7)?,
    })
}

pub(super) fn device_of(row: &Row<'_>) -> Result<Device, StoreError> {
    let device_id: Vec<u8> = row.get(1)?;
    let unused: Vec<u8> = row.get(6)?;
    let (unused, rest) = unused.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(StoreError::Corrupt("unused_hashes".to_owned()));
    }
    let used: Option<Vec<u8>> = row.get(7)?;
    Ok(Device {
        user_id: user_id(row, 0)?,
        device_id: DeviceId::from_slice(&device_id).map_err(corrupt)?,
        name: row.get(2)?,
        created_unix_ms: row.get(3)?,
        refresh: RefreshState {
            refreshed_unix_ms: row.get(4)?,
            family: hash(row.get(5)?)?,
            unused: unused.to_vec(),
            used: used.map(hash).transpose()?,
            used_unix_ms: row.get(8)?,
            expires_unix_ms: row.get(9)?,
        },
        revision: row.get::<_, i64>(10)? as u64,
    })
}

pub(super) fn fact_of(row: &Row<'_>) -> Result<Fact, StoreError> {
    Ok(Fact {
        id: row.get(0)?,
        user_id: user_id(row, 1)?,
        payload: row.get(2)?,
    })
}

fn user_id(row: &Row<'_>, column: usize) -> Result<UserId, StoreError> {
    let bytes: Vec<u8> = row.get(column)?;
    UserId::from_slice(&bytes).map_err(corrupt)
}

fn picture(bytes: Option<Vec<u8>>) -> Result<Option<BlobId>, StoreError> {
    let blob = bytes.map(|bytes| BlobId::from_slice(&bytes));
    blob.transpose().map_err(corrupt)
}

fn hash(bytes: Vec<u8>) -> Result<Hash, StoreError> {
    Hash::try_from(bytes).map_err(|_| StoreError::Corrupt("a hash".to_owned()))
}

fn corrupt(error: InvalidId) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

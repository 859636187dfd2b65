//! From rows to nouns.

use runtime::ids::{BlobId, DeviceId, InvalidId, UserId};
use sqlx::{Decode, Postgres, Row, Type, postgres::PgRow, types::Uuid};

use crate::{
    model::{Account, Device, Fact, Hash, RefreshState, User},
    store::StoreError,
};

/// The value of a column. One that is not what the schema says is no fault of the connection.
pub(super) fn get<'r, T>(row: &'r PgRow, column: usize) -> Result<T, StoreError>
where
    T: Decode<'r, Postgres> + Type<Postgres>,
{
    row.try_get(column)
        .map_err(|error| StoreError::Corrupt(error.to_string()))
}

pub(super) fn user_of(row: &PgRow) -> Result<User, StoreError> {
    Ok(User {
        user_id: user_id(get(row, 0)?)?,
        username: get(row, 1)?,
        display_name: get(row, 2)?,
        status_text: get(row, 3)?,
        created_unix_ms: get(row, 4)?,
        version: get::<i64>(row, 5)?.cast_unsigned(),
        picture: picture(get(row, 6)?)?,
    })
}

pub(super) fn account_of(row: &PgRow) -> Result<Account, StoreError> {
    Ok(Account {
        user: user_of(row)?,
        password_hash: get(row, 7)?,
    })
}

pub(super) fn device_of(row: &PgRow) -> Result<Device, StoreError> {
    let device_id: Uuid = get(row, 1)?;
    let (unused, rest) = get::<&[u8]>(row, 6)?.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(StoreError::Corrupt("unused_hashes".to_owned()));
    }
    let used: Option<&[u8]> = get(row, 7)?;
    Ok(Device {
        user_id: user_id(get(row, 0)?)?,
        device_id: DeviceId::from_slice(device_id.as_bytes()).map_err(corrupt)?,
        name: get(row, 2)?,
        created_unix_ms: get(row, 3)?,
        refresh: RefreshState {
            refreshed_unix_ms: get(row, 4)?,
            family: hash(get(row, 5)?)?,
            unused: unused.to_vec(),
            used: used.map(hash).transpose()?,
            used_unix_ms: get(row, 8)?,
            expires_unix_ms: get(row, 9)?,
        },
        revision: get::<i64>(row, 10)?.cast_unsigned(),
    })
}

pub(super) fn fact_of(row: &PgRow) -> Result<Fact, StoreError> {
    Ok(Fact {
        id: get(row, 0)?,
        user_id: user_id(get(row, 1)?)?,
        payload: get(row, 2)?,
    })
}

fn user_id(uuid: Uuid) -> Result<UserId, StoreError> {
    UserId::from_slice(uuid.as_bytes()).map_err(corrupt)
}

fn picture(uuid: Option<Uuid>) -> Result<Option<BlobId>, StoreError> {
    let blob = uuid.map(|uuid| BlobId::from_slice(uuid.as_bytes()));
    blob.transpose().map_err(corrupt)
}

fn hash(bytes: &[u8]) -> Result<Hash, StoreError> {
    Hash::try_from(bytes).map_err(|_| StoreError::Corrupt("a hash".to_owned()))
}

fn corrupt(error: InvalidId) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

//! Between our nouns and PostgreSQL's columns: checked both ways, so that nothing wraps or panics.

use runtime::ids::{BlobId, InvalidId, UploadId, UserId};
use sqlx::{
    Decode, Postgres, Row, Type,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use uuid::Uuid;

use super::sql;
use crate::{
    model::{Blob, Leftover, Look, MediaType, Purpose, Thumbnail, Upload},
    store::StoreError,
};

/// A statement with its parameters.
pub(super) type Statement = Query<'static, Postgres, PgArguments>;

/// A number as a column holds it. Fails above `i64::MAX`.
pub(super) fn to_column(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Corrupt(format!("{number} is more than the store can hold")))
}

/// How many rows a statement may answer.
pub(super) fn to_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(super) const fn user_column(user: UserId) -> Uuid {
    Uuid::from_bytes(*user.as_bytes())
}

pub(super) const fn upload_column(upload: UploadId) -> Uuid {
    Uuid::from_bytes(*upload.as_bytes())
}

pub(super) const fn blob_column(blob: BlobId) -> Uuid {
    Uuid::from_bytes(*blob.as_bytes())
}

pub(super) const fn purpose_column(purpose: Purpose) -> i16 {
    purpose as i16
}

/// [`sql::PUT_UPLOAD`].
pub(super) fn put_upload(upload: &Upload) -> Result<Statement, StoreError> {
    Ok(sqlx::query(sql::PUT_UPLOAD)
        .bind(upload_column(upload.id))
        .bind(user_column(upload.owner))
        .bind(purpose_column(upload.purpose))
        .bind(to_column(upload.size_bytes)?)
        .bind(upload.source_sha256.to_vec())
        .bind(blob_column(upload.blob))
        .bind(upload.begun_unix_ms)
        .bind(upload.finished))
}

/// [`sql::PUT_BLOB`].
pub(super) fn put_blob(blob: &Blob) -> Result<Statement, StoreError> {
    let look = blob.look.as_ref();
    let mut put = sqlx::query(sql::PUT_BLOB)
        .bind(blob_column(blob.id))
        .bind(user_column(blob.owner))
        .bind(purpose_column(blob.purpose))
        .bind(blob.media_type.name())
        .bind(to_column(blob.size_bytes)?)
        .bind(blob.sha256.to_vec())
        .bind(blob.source_sha256.to_vec())
        .bind(blob.poster.map(blob_column))
        .bind(blob.created_unix_ms)
        .bind(blob.kept_until_unix_ms)
        .bind(look.map(|look| i64::from(look.width)))
        .bind(look.map(|look| i64::from(look.height)))
        .bind(look.map(|look| look.placeholder.clone()));
    for thumbnail in [look.map(|look| look.small), look.map(|look| look.large)] {
        let size_bytes = thumbnail.map(|thumbnail| to_column(thumbnail.size_bytes));
        put = put
            .bind(thumbnail.map(|thumbnail| thumbnail.media_type.name()))
            .bind(thumbnail.map(|thumbnail| i64::from(thumbnail.width)))
            .bind(thumbnail.map(|thumbnail| i64::from(thumbnail.height)))
            .bind(size_bytes.transpose()?);
    }
    Ok(put)
}

/// The columns of one row, by their places in the statement.
pub(super) struct Columns<'r>(pub(super) &'r PgRow);

impl<'r> Columns<'r> {
    /// A value that is not what the schema says is no fault of the connection.
    pub(super) fn get<T>(&self, at: usize) -> Result<T, StoreError>
    where
        T: Decode<'r, Postgres> + Type<Postgres>,
    {
        let value = self.0.try_get(at);
        value.map_err(|error| StoreError::Corrupt(error.to_string()))
    }

    pub(super) fn number<T: TryFrom<i64>>(&self, at: usize) -> Result<T, StoreError> {
        let integer: i64 = self.get(at)?;
        T::try_from(integer)
            .map_err(|_| StoreError::Corrupt(format!("{integer} is out of its range")))
    }

    fn hash(&self, at: usize) -> Result<[u8; 32], StoreError> {
        let hash = <[u8; 32]>::try_from(self.get::<&[u8]>(at)?);
        hash.map_err(|_| StoreError::Corrupt("a hash has not 32 bytes".to_owned()))
    }

    fn media_type(&self, at: usize) -> Result<MediaType, StoreError> {
        let name: &str = self.get(at)?;
        MediaType::from_name(name)
            .ok_or_else(|| StoreError::Corrupt(format!("the media type {name:?}")))
    }

    pub(super) fn blob_id(&self, at: usize) -> Result<BlobId, StoreError> {
        BlobId::from_slice(self.get::<Uuid>(at)?.as_bytes()).map_err(invalid)
    }

    /// Of a column that may be NULL.
    pub(super) fn maybe_blob_id(&self, at: usize) -> Result<Option<BlobId>, StoreError> {
        let id: Option<Uuid> = self.get(at)?;
        let id = id.map(|id| BlobId::from_slice(id.as_bytes()));
        id.transpose().map_err(invalid)
    }

    fn purpose(&self, at: usize) -> Result<Purpose, StoreError> {
        let number: i16 = self.get(at)?;
        let purpose = u32::try_from(number).ok().and_then(Purpose::from_number);
        purpose.ok_or_else(|| StoreError::Corrupt(format!("purpose {number}")))
    }

    fn owner(&self, at: usize) -> Result<UserId, StoreError> {
        UserId::from_slice(self.get::<Uuid>(at)?.as_bytes()).map_err(invalid)
    }

    fn upload_id(&self, at: usize) -> Result<UploadId, StoreError> {
        UploadId::from_slice(self.get::<Uuid>(at)?.as_bytes()).map_err(invalid)
    }

    pub(super) fn upload(&self) -> Result<Upload, StoreError> {
        Ok(Upload {
            id: self.upload_id(0)?,
            owner: self.owner(1)?,
            purpose: self.purpose(2)?,
            size_bytes: self.number(3)?,
            source_sha256: self.hash(4)?,
            blob: self.blob_id(5)?,
            begun_unix_ms: self.get(6)?,
            finished: self.get(7)?,
        })
    }

    pub(super) fn blob(&self) -> Result<Blob, StoreError> {
        Ok(Blob {
            id: self.blob_id(0)?,
            owner: self.owner(1)?,
            purpose: self.purpose(2)?,
            media_type: self.media_type(3)?,
            size_bytes: self.number(4)?,
            sha256: self.hash(5)?,
            source_sha256: self.hash(6)?,
            poster: self.maybe_blob_id(7)?,
            created_unix_ms: self.get(8)?,
            kept_until_unix_ms: self.get(9)?,
            look: self.look()?,
        })
    }

    fn look(&self) -> Result<Option<Look>, StoreError> {
        if self.get::<Option<i64>>(10)?.is_none() {
            return Ok(None);
        }
        Ok(Some(Look {
            width: self.number(10)?,
            height: self.number(11)?,
            placeholder: self.get(12)?,
            small: self.thumbnail(13)?,
            large: self.thumbnail(17)?,
        }))
    }

    fn thumbnail(&self, at: usize) -> Result<Thumbnail, StoreError> {
        Ok(Thumbnail {
            media_type: self.media_type(at)?,
            width: self.number(at + 1)?,
            height: self.number(at + 2)?,
            size_bytes: self.number(at + 3)?,
        })
    }

    pub(super) fn leftover(&self) -> Result<Leftover, StoreError> {
        Ok(Leftover {
            owner: self.owner(0)?,
            upload: self.upload_id(1)?,
            blob: self.blob_id(2)?,
            bytes_can_go: self.get(3)?,
            stage_can_go: self.get(4)?,
        })
    }
}

fn invalid(error: InvalidId) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

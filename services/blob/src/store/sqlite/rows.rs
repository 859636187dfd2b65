//! Between our nouns and SQLite's columns: checked both ways, so that nothing wraps or panics.

use runtime::ids::{BlobId, InvalidId, UploadId, UserId};
use rusqlite::{Connection, Params, Row, params, types::FromSqlError, types::ValueRef};

use crate::{
    model::{Blob, Leftover, Look, MediaType, Purpose, Thumbnail, Upload},
    store::StoreError,
};

pub(super) const UPLOAD_COLUMNS: &str = "upload_id, owner_id, purpose, size_bytes, source_sha256, \
     blob_id, begun_unix_ms, finished";
pub(super) const BLOB_COLUMNS: &str = "blob_id, owner_id, purpose, media_type, size_bytes, sha256, \
     source_sha256, poster_id, created_unix_ms, kept_until_unix_ms, width, height, placeholder, \
     small_media_type, small_width, small_height, small_size_bytes, \
     large_media_type, large_width, large_height, large_size_bytes";

const PUT_UPLOAD: &str = "INSERT OR REPLACE INTO uploads ({upload})
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

const PUT_BLOB: &str = "INSERT INTO blobs ({blob}, going, to_check)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
        ?21, 0, 1)";

/// The statement, with its columns.
pub(super) fn sql(statement: &str) -> String {
    statement
        .replace("{upload}", UPLOAD_COLUMNS)
        .replace("{blob}", BLOB_COLUMNS)
        .replace("{referenced}", super::REFERENCED)
}

/// A number as a column holds it. Fails above `i64::MAX`.
pub(super) fn to_column(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Corrupt(format!("{number} is more than the store can hold")))
}

/// How many rows a statement may answer.
pub(super) fn to_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// All rows of a statement.
pub(super) fn rows<T>(
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
pub(super) fn row<T>(
    c: &Connection,
    statement: &str,
    parameters: impl Params,
    read: impl Fn(&Columns<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    Ok(rows(c, statement, parameters, read)?.into_iter().next())
}

/// How many rows a statement changed.
pub(super) fn execute(
    c: &Connection,
    statement: &str,
    parameters: impl Params,
) -> Result<usize, StoreError> {
    Ok(c.prepare_cached(&sql(statement))?.execute(parameters)?)
}

/// Instead of what is there.
pub(super) fn put_upload(tx: &Connection, upload: &Upload) -> Result<(), StoreError> {
    let parameters = params![
        upload.id.as_bytes(),
        upload.owner.as_bytes(),
        upload.purpose as u8,
        to_column(upload.size_bytes)?,
        upload.source_sha256,
        upload.blob.as_bytes(),
        upload.begun_unix_ms,
        upload.finished,
    ];
    execute(tx, PUT_UPLOAD, parameters).map(drop)
}

/// A new one.
pub(super) fn put_blob(tx: &Connection, blob: &Blob) -> Result<(), StoreError> {
    let look = blob.look.as_ref();
    let (small, large) = (look.map(|look| look.small), look.map(|look| look.large));
    let bytes = |of: Option<Thumbnail>| of.map(|of| to_column(of.size_bytes)).transpose();
    let parameters = params![
        blob.id.as_bytes(),
        blob.owner.as_bytes(),
        blob.purpose as u8,
        blob.media_type.name(),
        to_column(blob.size_bytes)?,
        blob.sha256,
        blob.source_sha256,
        blob.poster.as_ref().map(BlobId::as_bytes),
        blob.created_unix_ms,
        blob.kept_until_unix_ms,
        look.map(|look| look.width),
        look.map(|look| look.height),
        look.map(|look| look.placeholder.as_str()),
        small.map(|small| small.media_type.name()),
        small.map(|small| small.width),
        small.map(|small| small.height),
        bytes(small)?,
        large.map(|large| large.media_type.name()),
        large.map(|large| large.width),
        large.map(|large| large.height),
        bytes(large)?,
    ];
    execute(tx, PUT_BLOB, parameters).map(drop)
}

/// The columns of one row, by their places in the statement.
pub(super) struct Columns<'r>(pub(super) &'r Row<'r>);

impl Columns<'_> {
    pub(super) fn integer(&self, at: usize) -> Result<i64, StoreError> {
        self.0.get_ref(at)?.as_i64().map_err(unreadable)
    }

    pub(super) fn number<T: TryFrom<i64>>(&self, at: usize) -> Result<T, StoreError> {
        let integer = self.integer(at)?;
        T::try_from(integer)
            .map_err(|_| StoreError::Corrupt(format!("{integer} is out of its range")))
    }

    pub(super) fn flag(&self, at: usize) -> Result<bool, StoreError> {
        Ok(self.integer(at)? != 0)
    }

    fn is_null(&self, at: usize) -> Result<bool, StoreError> {
        Ok(self.0.get_ref(at)? == ValueRef::Null)
    }

    fn bytes(&self, at: usize) -> Result<&[u8], StoreError> {
        self.0.get_ref(at)?.as_blob().map_err(unreadable)
    }

    fn hash(&self, at: usize) -> Result<[u8; 32], StoreError> {
        let hash = <[u8; 32]>::try_from(self.bytes(at)?);
        hash.map_err(|_| StoreError::Corrupt("a hash has not 32 bytes".to_owned()))
    }

    fn text(&self, at: usize) -> Result<&str, StoreError> {
        self.0.get_ref(at)?.as_str().map_err(unreadable)
    }

    fn media_type(&self, at: usize) -> Result<MediaType, StoreError> {
        let name = self.text(at)?;
        MediaType::from_name(name)
            .ok_or_else(|| StoreError::Corrupt(format!("the media type {name:?}")))
    }

    pub(super) fn blob_id(&self, at: usize) -> Result<BlobId, StoreError> {
        BlobId::from_slice(self.bytes(at)?).map_err(invalid)
    }

    /// Of a column that may be NULL.
    pub(super) fn maybe_blob_id(&self, at: usize) -> Result<Option<BlobId>, StoreError> {
        match self.is_null(at)? {
            true => Ok(None),
            false => self.blob_id(at).map(Some),
        }
    }

    fn purpose(&self, at: usize) -> Result<Purpose, StoreError> {
        let number = self.number(at)?;
        Purpose::from_number(number).ok_or_else(|| StoreError::Corrupt(format!("purpose {number}")))
    }

    fn owner(&self, at: usize) -> Result<UserId, StoreError> {
        UserId::from_slice(self.bytes(at)?).map_err(invalid)
    }

    fn upload_id(&self, at: usize) -> Result<UploadId, StoreError> {
        UploadId::from_slice(self.bytes(at)?).map_err(invalid)
    }

    /// [`UPLOAD_COLUMNS`].
    pub(super) fn upload(&self) -> Result<Upload, StoreError> {
        Ok(Upload {
            id: self.upload_id(0)?,
            owner: self.owner(1)?,
            purpose: self.purpose(2)?,
            size_bytes: self.number(3)?,
            source_sha256: self.hash(4)?,
            blob: self.blob_id(5)?,
            begun_unix_ms: self.integer(6)?,
            finished: self.flag(7)?,
        })
    }

    /// [`BLOB_COLUMNS`].
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
            created_unix_ms: self.integer(8)?,
            kept_until_unix_ms: self.integer(9)?,
            look: self.look()?,
        })
    }

    fn look(&self) -> Result<Option<Look>, StoreError> {
        if self.is_null(10)? {
            return Ok(None);
        }
        Ok(Some(Look {
            width: self.number(10)?,
            height: self.number(11)?,
            placeholder: self.text(12)?.to_owned(),
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
            bytes_can_go: self.flag(3)?,
            stage_can_go: self.flag(4)?,
        })
    }
}

fn unreadable(error: FromSqlError) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

fn invalid(error: InvalidId) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

//! Objects in a bucket of S3 or of what speaks like it, for the distributed form.
//!
//! ```text
//! PREFIX/blobs/BLOB/VARIANT
//! PREFIX/uploads/OWNER/UPLOAD/OFFSET      a part of an upload; its offset has 20 digits
//! ```
//!
//! Every request has a deadline, and nothing of what the store answers to an error is passed on but its
//! first line: stores repeat parts of what was signed.
//!
//! Two processes may write one upload at the same time, though no honest client does that. Then a part
//! may come to be shorter than it was, or have other bytes. What is read is always *one* choice of parts
//! without a gap, and an upload becomes an object only if its size and hash are those that were checked.
//! A client that is told a smaller offset than before goes on from there.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutOptions,
    PutPayload,
    aws::AmazonS3,
    path::Path,
    signer::{SignedUrlOptions, Signer},
};
use runtime::{config::ConfigError, ids::BlobId, process::NotThere};
use tokio::sync::Semaphore;

use super::{
    ByteStream, CACHE_CONTROL, Content, ObjectError, ObjectKey, Objects, READ_PART_BYTES, Stage,
    StageKey, claims::Claims,
};
use crate::model::{MediaType, Variant};

mod config;
mod promote;
mod stage;

pub use self::config::S3Config;
use self::stage::S3Stage;

/// What of an error's text is passed on, in bytes: its first line, with the request and the status.
const ERROR_TEXT_BYTES_MAX: usize = 300;
/// What stores answer that no retry helps against: its code, the setting to look at, and what is wrong.
const LASTING: [(&str, &str, &str); 4] = [
    ("NoSuchBucket", "bucket", "is not there"),
    ("InvalidAccessKeyId", "access_key_id", "is not known"),
    ("SignatureDoesNotMatch", "secret_access_key", "is wrong"),
    ("403 Forbidden", "access_key_id", "is not let in"),
];
/// Parts of an upload that are looked at: some times what the largest one has in parts of
/// [`stage::PART_BYTES`].
const PARTS_MAX: usize = 1_000;

/// Why a bucket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting makes no sense, names something that is not there, or lets nobody in.
    #[error("{key}: {problem}")]
    Config {
        /// Which.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The store is away: wait and try again.
    #[error("the object store is not available: {0}")]
    Unavailable(String),
}

impl From<OpenError> for NotThere {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Config { key, problem } => {
                Self::wrong(ConfigError::setting(&format!("objects.s3.{key}"), &problem))
            }
            error @ OpenError::Unavailable(_) => Self::away(&error),
        }
    }
}

/// Objects in a bucket. Clones share it.
#[derive(Debug, Clone)]
pub struct S3Objects {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: AmazonS3,
    reader: AmazonS3,
    signer: Option<AmazonS3>,
    prefix: Path,
    claims: Claims,
    promotes: Semaphore,
}

impl S3Objects {
    /// Opens a bucket, which must be there and let us in. Ends within the deadline of a request and its
    /// retries.
    pub async fn open(config: &S3Config) -> Result<Self, OpenError> {
        config.check()?;
        let prefix = Path::parse(&config.prefix).map_err(|error| OpenError::Config {
            key: "prefix".to_owned(),
            problem: error.to_string(),
        })?;
        let inner = Inner {
            client: config.client()?,
            reader: config.reader()?,
            signer: config.signer()?,
            prefix,
            claims: Claims::default(),
            promotes: Semaphore::new(config.promotes_max),
        };
        // A name that is hardly there, or the whole bucket would be listed.
        let nothing = inner.prefix.clone().join("opened");
        let answer = inner.client.list(Some(&nothing)).try_next().await;
        if let Err(error) = answer {
            let text = error.to_string();
            // The library has no names for these where it lists.
            let lasting = LASTING.iter().find(|(code, ..)| text.contains(code));
            return Err(match lasting {
                Some((_, key, problem)) => OpenError::Config {
                    key: (*key).to_owned(),
                    problem: (*problem).to_owned(),
                },
                None => OpenError::Unavailable(first_line(&error)),
            });
        }
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    fn object(&self, key: ObjectKey) -> Path {
        let blobs = self.prefix.clone().join("blobs");
        blobs.join(key.blob.to_string()).join(key.variant.name())
    }

    fn stage(&self, key: StageKey) -> Path {
        let uploads = self.prefix.clone().join("uploads");
        uploads
            .join(key.owner.to_string())
            .join(key.upload.to_string())
    }

    fn part(&self, key: StageKey, offset: u64) -> Path {
        self.stage(key).join(format!("{offset:020}"))
    }

    /// Removes objects; that there is none is no error.
    async fn remove(&self, paths: Vec<Path>) -> Result<(), ObjectError> {
        let client = self.client.clone();
        stream::iter(paths.into_iter().map(Ok))
            .try_for_each_concurrent(DELETES_TOGETHER, move |path| {
                let client = client.clone();
                async move {
                    match client.delete(&path).await {
                        Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
                        Err(error) => Err(failure(&error)),
                    }
                }
            })
            .await
    }

    /// The bytes of an object in parts of a stream.
    async fn read(
        &self,
        path: &Path,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, ObjectError> {
        let wanted = range.clone().map(|range| range.end - range.start);
        if wanted == Some(0) {
            // No range of HTTP is empty.
            self.size(path).await?;
            return Ok(stream::empty().boxed());
        }
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let found = self.reader.get_opts(path, options).await;
        let found = found.map_err(|error| failure(&error))?;
        if wanted.is_some_and(|wanted| found.range.end - found.range.start != wanted) {
            return Err(ObjectError::Unavailable(
                "the object ends before".to_owned(),
            ));
        }
        let parts = found.into_stream();
        let small = parts.map_err(|error| failure(&error)).map_ok(|mut part| {
            let mut parts = Vec::with_capacity(1);
            while !part.is_empty() {
                parts.push(Ok(part.split_to(part.len().min(READ_PART_BYTES))));
            }
            stream::iter(parts)
        });
        Ok(small.try_flatten().boxed())
    }

    async fn size(&self, path: &Path) -> Result<u64, ObjectError> {
        let meta = self.client.head(path).await;
        meta.map(|meta| meta.size).map_err(|error| failure(&error))
    }
}

/// Objects that are removed at a time: one upload's parts go in two rounds.
const DELETES_TOGETHER: usize = 16;

#[async_trait]
impl Objects for S3Objects {
    async fn staged_bytes(&self, key: StageKey) -> Result<u64, ObjectError> {
        Ok(self.inner.parts(key).await?.end())
    }

    async fn open_stage(&self, key: StageKey) -> Result<Box<dyn Stage>, ObjectError> {
        let claim = self.inner.claims.claim(key)?;
        let stage = S3Stage::open(self.inner.clone(), key, claim).await?;
        Ok(Box::new(stage))
    }

    async fn read_stage(&self, key: StageKey) -> Result<ByteStream, ObjectError> {
        let parts = self.inner.parts(key).await?;
        if parts.end() == 0 && parts.strays.is_empty() {
            return Err(ObjectError::NotFound);
        }
        Ok(self.inner.clone().read_parts(key, parts.whole))
    }

    async fn promote(
        &self,
        stage: StageKey,
        key: ObjectKey,
        content: Content,
        media_type: MediaType,
    ) -> Result<(), ObjectError> {
        let _claim = self.inner.claims.claim(stage)?;
        promote::promote(&self.inner, stage, key, content, media_type).await
    }

    async fn discard_stage(&self, key: StageKey) -> Result<(), ObjectError> {
        let _claim = self.inner.claims.claim(key)?;
        self.inner.remove_parts(key).await
    }

    async fn put(
        &self,
        key: ObjectKey,
        content: Bytes,
        media_type: MediaType,
    ) -> Result<(), ObjectError> {
        let options = PutOptions {
            attributes: attributes(key, media_type),
            ..PutOptions::default()
        };
        let (client, path) = (&self.inner.client, self.inner.object(key));
        let put = client.put_opts(&path, PutPayload::from(content), options);
        put.await.map(drop).map_err(|error| failure(&error))
    }

    async fn get(&self, key: ObjectKey, range: Range<u64>) -> Result<ByteStream, ObjectError> {
        let range = range.start..range.end.max(range.start);
        self.inner.read(&self.inner.object(key), Some(range)).await
    }

    async fn size_bytes(&self, key: ObjectKey) -> Result<u64, ObjectError> {
        self.inner.size(&self.inner.object(key)).await
    }

    async fn delete(&self, blob: BlobId) -> Result<(), ObjectError> {
        let paths = Variant::ALL.map(|variant| self.inner.object(ObjectKey { blob, variant }));
        self.inner.remove(paths.into()).await
    }

    async fn presign(
        &self,
        key: ObjectKey,
        media_type: MediaType,
        life: Duration,
    ) -> Result<Option<String>, ObjectError> {
        let Some(signer) = &self.inner.signer else {
            return Ok(None);
        };
        // Said again, for stores that do not keep what they were told when the object was put.
        let options = SignedUrlOptions::new().with_query([
            ("response-content-type", media_type.name()),
            (
                "response-content-disposition",
                &key.content_disposition(media_type),
            ),
            ("response-cache-control", CACHE_CONTROL),
        ]);
        let path = self.inner.object(key);
        let url = signer.signed_url_opts(Method::GET, &path, life, &options);
        let url = url.await.map_err(|error| failure(&error))?;
        Ok(Some(url.into()))
    }
}

/// What the store says of an object to whoever gets it.
fn attributes(key: ObjectKey, media_type: MediaType) -> Attributes {
    Attributes::from_iter([
        (Attribute::ContentType, media_type.name().to_owned()),
        (
            Attribute::ContentDisposition,
            key.content_disposition(media_type),
        ),
        (Attribute::CacheControl, CACHE_CONTROL.to_owned()),
    ])
}

fn failure(error: &object_store::Error) -> ObjectError {
    match error {
        object_store::Error::NotFound { .. } => ObjectError::NotFound,
        other => ObjectError::Unavailable(first_line(other)),
    }
}

/// The request and the status, without its query and without the document that the store may have
/// answered.
fn first_line(error: &object_store::Error) -> String {
    let text = error.to_string();
    let line = text.split(['\n', '<']).next().unwrap_or_default();
    let words = line.split_whitespace();
    let words: Vec<_> = words.map_while(|word| word.split('?').next()).collect();
    let mut line = words.join(" ");
    line.truncate(line.floor_char_boundary(ERROR_TEXT_BYTES_MAX));
    line
}

#[cfg(test)]
mod tests;

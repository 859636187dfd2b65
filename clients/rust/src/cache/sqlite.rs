//! The cache in a SQLite file.

use std::path::Path;

use async_trait::async_trait;

use super::{Batch, Cache, Head, Stored};
use crate::{
    error::{Error, Result},
    model::{Conversation, Message},
};

/// A cache in a SQLite file.
#[derive(Debug)]
pub struct SqliteCache {}

impl SqliteCache {
    /// Opens or makes the file, and brings its schema up to date.
    pub async fn open(_path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {})
    }
}

fn not_yet<T>() -> Result<T> {
    Err(Error::Storage("the cache is not written yet".to_owned()))
}

#[async_trait]
impl Cache for SqliteCache {
    async fn load(&self, _user_id: &str, _heads_max: usize) -> Result<Stored> {
        not_yet()
    }

    async fn heads(&self, _conversation_ids: &[String]) -> Result<Vec<Head>> {
        not_yet()
    }

    async fn apply(&self, _batch: Batch) -> Result<()> {
        not_yet()
    }

    async fn messages(&self, _: &str, _: u64, _: usize) -> Result<Vec<Message>> {
        not_yet()
    }

    async fn conversations(&self, _: usize) -> Result<Vec<Conversation>> {
        not_yet()
    }
}

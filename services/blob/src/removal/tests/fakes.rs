//! A log that takes barriers, and bytes that can fail to go.

use async_trait::async_trait;
use bytes::Bytes;
use event_log::{Appended, LogError, Membership, OnAppended, TopicIdentity};
use parking_lot::Mutex;

use super::*;
use crate::{
    model::MediaType,
    objects::{ByteStream, Content, ObjectKey, Stage},
};

/// What is in a partition of `messages`.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Event {
        conversation: ConversationId,
        seq: u64,
        blob: BlobId,
        removed: bool,
    },
    Barrier(i64),
}

#[derive(Default)]
pub(super) struct MessagesLog(pub(super) Mutex<BTreeMap<u32, Vec<Entry>>>);

#[async_trait]
impl EventLog for MessagesLog {
    fn identity(&self, _: Topic) -> TopicIdentity {
        TopicIdentity {
            log_id: "log".to_owned(),
            topic_id: "topic".to_owned(),
            partitions: PARTITIONS,
        }
    }

    fn partition_of(&self, _: Topic, key: &[u8]) -> u32 {
        key.iter().map(|byte| u32::from(*byte)).sum::<u32>() % PARTITIONS
    }

    fn append(&self, topic: Topic, record: NewRecord, _: Urgency, done: OnAppended) {
        assert_eq!(topic, Topic::Messages);
        let partition = self.partition_of(topic, &record.key);
        let record = MessagesRecord::decode(record.payload).unwrap();
        assert_eq!(
            (record.schema_version, record.conversation_id.len()),
            (3, 0)
        );
        let Some(Record::ReferenceBarrier(barrier)) = record.record else {
            panic!("{record:?}");
        };
        let mut log = self.0.lock();
        let entries = log.entry(partition).or_default();
        entries.push(Entry::Barrier(barrier.as_of_unix_ms));
        drop(log);
        done(Ok(Appended {
            partition,
            offset: None,
        }));
    }

    async fn join(&self, _: &str, _: Topic) -> Result<Box<dyn Membership>, LogError> {
        Err(LogError::Closed)
    }
}

/// Which blobs have bytes, and when the next removals fail: before they are done, or afterwards.
#[derive(Default)]
pub(super) struct FakeObjects {
    pub(super) there: Mutex<BTreeSet<BlobId>>,
    pub(super) fails: Mutex<Option<(u8, bool)>>,
}

fn away<T>() -> Result<T, ObjectError> {
    Err(ObjectError::Unavailable("test".to_owned()))
}

#[async_trait]
impl Objects for FakeObjects {
    async fn staged_bytes(&self, _: StageKey) -> Result<u64, ObjectError> {
        away()
    }
    async fn open_stage(&self, _: StageKey) -> Result<Box<dyn Stage>, ObjectError> {
        away()
    }
    async fn read_stage(&self, _: StageKey) -> Result<ByteStream, ObjectError> {
        away()
    }
    async fn promote(
        &self,
        _: StageKey,
        _: ObjectKey,
        _: Content,
        _: MediaType,
    ) -> Result<(), ObjectError> {
        away()
    }
    async fn discard_stage(&self, _: StageKey) -> Result<(), ObjectError> {
        Ok(())
    }
    async fn put(&self, _: ObjectKey, _: Bytes, _: MediaType) -> Result<(), ObjectError> {
        away()
    }
    async fn get(&self, _: ObjectKey, _: std::ops::Range<u64>) -> Result<ByteStream, ObjectError> {
        away()
    }
    async fn size_bytes(&self, _: ObjectKey) -> Result<u64, ObjectError> {
        away()
    }
    async fn delete(&self, blob: BlobId) -> Result<(), ObjectError> {
        let mut fails = self.fails.lock();
        if let Some((left, after)) = *fails {
            if left == 0 {
                if after {
                    self.there.lock().remove(&blob);
                }
                return away();
            }
            *fails = Some((left - 1, after));
        }
        self.there.lock().remove(&blob);
        Ok(())
    }
    async fn presign(
        &self,
        _: ObjectKey,
        _: MediaType,
        _: Duration,
    ) -> Result<Option<String>, ObjectError> {
        Ok(None)
    }
}

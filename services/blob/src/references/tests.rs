//! The readers on the embedded log, with a store in a file.

use bytes::Bytes;
use event_log::{
    NewRecord, Urgency,
    embedded::{EmbeddedConfig, EmbeddedLog},
};
use prost::Message;
use proto::log::v1::{
    EventReferences, GroupPicture, PictureChanged, ReferenceBarrier, ReferencesRecord, UsersRecord,
    references_record, users_record,
};
use runtime::ids::{BlobId, GroupId, UserId};

use super::*;
use crate::{
    model::{Blob, Purpose},
    store::{sqlite::SqliteStore, suite},
};

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

struct World {
    folder: tempfile::TempDir,
    log: Arc<EmbeddedLog>,
    store: Arc<SqliteStore>,
    tasks: Tasks,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig::new(
            folder.path().join("log.db"),
            &[(Topic::References, 1), (Topic::Users, 1)],
            &[
                (REFERENCES_GROUP, Topic::References),
                (USERS_GROUP, Topic::Users),
            ],
        );
        let log = EmbeddedLog::open(config).unwrap();
        let store = SqliteStore::open(&folder.path().join("blob.db")).await;
        Self {
            log,
            store: Arc::new(store.unwrap()),
            folder,
            tasks: Tasks::new(),
        }
    }

    async fn start(&self) -> References {
        start(self.log.clone(), self.store.clone(), &self.tasks)
            .await
            .unwrap()
    }

    async fn restart(&mut self) -> References {
        assert!(self.tasks.stop(DEADLINE).await);
        self.tasks = Tasks::new();
        self.start().await
    }

    async fn append(&self, topic: Topic, payload: Vec<u8>) {
        let record = NewRecord {
            key: Bytes::from_static(b"key"),
            payload: payload.into(),
            headers: Vec::new(),
        };
        let appended = self.log.append_all(topic, vec![record], Urgency::Now).await;
        assert!(appended.iter().all(Result::is_ok));
    }

    async fn say(&self, schema_version: u32, record: references_record::Record) {
        let record = ReferencesRecord {
            schema_version,
            record: Some(record),
        };
        self.append(Topic::References, record.encode_to_vec()).await;
    }

    /// Waits for the barrier, which is behind everything that was said.
    async fn read_all(&self, as_of_unix_ms: i64) {
        let barrier = references_record::Record::Barrier(ReferenceBarrier { as_of_unix_ms });
        self.say(1, barrier).await;
        until(async || self.store.barrier(1).await.unwrap() == Some(as_of_unix_ms)).await;
    }

    async fn removable(&self) -> Vec<BlobId> {
        let before = suite::kept_before(suite::NOW);
        self.store.take_removable(before, 100).await.unwrap()
    }
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap();
}

fn event(blob: &Blob, seq: u64, removed: bool) -> references_record::Record {
    let here = runtime::ids::ConversationId::group(GroupId::from_bytes([7; 16]));
    references_record::Record::Event(EventReferences {
        conversation_id: here.as_bytes().to_vec(),
        seq,
        blob_ids: vec![blob.id.as_bytes().to_vec()],
        removed,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_blobs_is_kept_and_read_once_also_over_restarts() {
    let mut world = World::new().await;
    let store = world.store.clone();
    let picture = async || suite::made_with(&*store, |b| b.purpose = Purpose::Picture).await;
    let (sent, of_group, of_user) = (suite::made(&*store).await, picture().await, picture().await);
    let nobodys = suite::made(&*store).await;
    world.say(1, event(&sent, 1, false)).await;
    let of = GroupPicture {
        group_id: GroupId::generate().as_bytes().to_vec(),
        version: 3,
        blob_id: of_group.id.as_bytes().to_vec(),
    };
    world
        .say(1, references_record::Record::GroupPicture(of))
        .await;
    let user = UsersRecord {
        schema_version: 2,
        user_id: UserId::generate().as_bytes().to_vec(),
        fact: Some(users_record::Fact::PictureChanged(PictureChanged {
            version: 1,
            blob_id: of_user.id.as_bytes().to_vec(),
        })),
        fact_number: 1,
    };
    world.append(Topic::Users, user.encode_to_vec()).await;
    // A fact for others is passed.
    let other = UsersRecord { fact: None, ..user };
    world.append(Topic::Users, other.encode_to_vec()).await;
    let references = world.start().await;
    world.read_all(5).await;
    until(async || references.stats().records == 5).await;
    assert_eq!(world.removable().await, [nobodys.id]);
    store.forget_blob(nobodys.id).await.unwrap();

    let references = world.restart().await;
    world.say(1, event(&sent, 1, true)).await;
    world.read_all(6).await;
    // Counted after the position is there.
    until(async || references.stats().records >= 2).await;
    assert_eq!(
        references.stats().records,
        2,
        "what was read before comes not again"
    );
    assert_eq!(world.removable().await, [sent.id]);
    assert_eq!(references.broken(), None);
    // What nobody needs leaves the log only when the store has it for good: it is committed then.
    assert!(world.tasks.stop(DEADLINE).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_or_refers_to_nothing_is_counted_and_a_newer_record_stops_the_partition()
{
    let mut world = World::new().await;
    let references = world.start().await;
    let blob = suite::made(&*world.store).await;
    let never = suite::blob_of(&suite::upload(UserId::generate(), 1));
    world.append(Topic::References, vec![0xff; 9]).await;
    world.say(0, event(&blob, 1, false)).await;
    let too_large = GroupPicture {
        group_id: GroupId::generate().as_bytes().to_vec(),
        version: u64::MAX,
        blob_id: Vec::new(),
    };
    world
        .say(1, references_record::Record::GroupPicture(too_large))
        .await;
    world.say(1, event(&never, 2, false)).await;
    world.read_all(5).await;
    until(async || references.stats().records == 5).await;
    let stats = references.stats();
    assert_eq!((stats.malformed, stats.missing), (3, 1));
    assert_eq!(references.broken(), None);
    world.say(2, event(&blob, 3, false)).await;
    world.say(1, event(&blob, 4, false)).await;
    until(async || references.broken().is_some()).await;
    assert!(references.broken().unwrap().contains("schema version 2"));
    // It is not passed by a restart either, and nothing behind it is.
    let references = world.restart().await;
    until(async || references.broken().is_some()).await;
    assert_eq!(world.removable().await, [blob.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_log_is_not_read() {
    let mut world = World::new().await;
    world.start().await;
    world.read_all(5).await;
    assert!(world.tasks.stop(DEADLINE).await);
    let other = World::new().await;
    world.log = other.log.clone();
    world.tasks = Tasks::new();
    let references = world.start().await;
    until(async || references.broken().is_some()).await;
    assert!(references.broken().unwrap().contains("another log"));
    drop((world.folder, other.folder));
}

//! The whole, on the embedded log.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use delivery::{Answer, Broadcast, Delivery, DeliveryConfig, LocalEdge, Registries};
use event_log::{
    AppendError, EventLog, LogError, Membership, NewRecord, OnAppended, PartitionReader, Topic,
    TopicIdentity, Urgency,
    embedded::{EmbeddedConfig, EmbeddedLog},
};
use parking_lot::Mutex;
use runtime::{
    auth::{KeyPair, ServiceIdentity},
    channel::pipe,
    clock::SystemClock,
    ids::DeviceId,
    shutdown::Tasks,
};

use super::{
    cases::{change, many, message, stints},
    reference::group,
    *,
};
use crate::{
    fanout::{FANOUT_GROUP, Fanout, FanoutDeps, start},
    store::{FanoutStore, LogIdentity, PositionAdvance, ReaderId, StoreError},
};

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// A store that does as it is told.
#[derive(Default)]
struct FakeStore(Mutex<Stored>);

#[derive(Default)]
struct Stored {
    stints: HashMap<GroupId, Vec<Stint>>,
    noted: Vec<Sequenced>,
    deferred: HashMap<GroupId, u64>,
    position: u64,
    refuse_notes: bool,
    refuse_syncs: bool,
    /// The next position is refused, since the stored one went back to this.
    back_to: Option<u64>,
}

#[async_trait]
impl FanoutStore for FakeStore {
    async fn roster(&self, group: GroupId) -> Result<Roster, StoreError> {
        let stored = self.0.lock();
        Ok(Roster {
            stints: stored.stints.get(&group).cloned().unwrap_or_default(),
            deferred: stored.deferred.contains_key(&group),
        })
    }

    async fn note_deferred(&self, groups: Vec<(GroupId, u64)>) -> Result<(), StoreError> {
        let mut stored = self.0.lock();
        if stored.refuse_notes {
            return Err(StoreError::Unavailable("test".to_owned()));
        }
        stored.deferred.extend(groups);
        Ok(())
    }

    async fn note_sequenced(&self, changes: Vec<Sequenced>) -> Result<(), StoreError> {
        let mut stored = self.0.lock();
        if stored.refuse_notes {
            return Err(StoreError::Unavailable("test".to_owned()));
        }
        stored.noted.extend(changes);
        Ok(())
    }

    async fn forget_stints(&self, _: Vec<(GroupId, u64)>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn open_reader(&self, reader: ReaderId, _: LogIdentity) -> Result<u64, StoreError> {
        assert_eq!((reader.reader, reader.topic), ("fanout", "fanout"));
        Ok(self.0.lock().position)
    }

    async fn save_position(&self, advance: PositionAdvance) -> Result<(), StoreError> {
        let mut stored = self.0.lock();
        if let Some(position) = stored.back_to.take() {
            stored.position = position;
        }
        if stored.position < advance.from {
            return Err(StoreError::PositionBelowSaved);
        }
        stored.position = stored.position.max(advance.to);
        Ok(())
    }

    async fn sync(&self) -> Result<(), StoreError> {
        match self.0.lock().refuse_syncs {
            true => Err(StoreError::Unavailable("test".to_owned())),
            false => Ok(()),
        }
    }
}

/// The log, which refuses as many inbox records as it is told to, every second one.
struct Refusing {
    log: Arc<EmbeddedLog>,
    refusals: Arc<AtomicUsize>,
}

#[async_trait]
impl EventLog for Refusing {
    fn identity(&self, topic: Topic) -> TopicIdentity {
        self.log.identity(topic)
    }

    fn partition_of(&self, topic: Topic, key: &[u8]) -> u32 {
        self.log.partition_of(topic, key)
    }

    fn append(&self, topic: Topic, record: NewRecord, urgency: Urgency, done: OnAppended) {
        let left = self.refusals.load(Ordering::SeqCst);
        if topic == Topic::Inbox && left > 0 {
            self.refusals.store(left - 1, Ordering::SeqCst);
            if left % 2 == 1 {
                return done(Err(AppendError::Unknown("test".to_owned())));
            }
        }
        self.log.append(topic, record, urgency, done);
    }

    async fn join(&self, group: &str, topic: Topic) -> Result<Box<dyn Membership>, LogError> {
        self.log.join(group, topic).await
    }
}

/// An edge that notes what it gets.
#[derive(Default)]
struct Edge(Mutex<Vec<Broadcast>>);

impl LocalEdge for Edge {
    fn broadcast(&self, item: &Broadcast) -> u32 {
        self.0.lock().push(item.clone());
        0
    }

    fn answer(&self, _: Answer) {}

    fn end_sessions(&self, _: UserId, _: DeviceId) {}
}

struct Running {
    log: Arc<EmbeddedLog>,
    refusals: Arc<AtomicUsize>,
    store: Arc<FakeStore>,
    edge: Arc<Edge>,
    told: Arc<Mutex<Vec<Sequenced>>>,
    deferred_above: usize,
    fanout: Option<Fanout>,
    tasks: Tasks,
    inbox: Box<dyn PartitionReader>,
    _membership: Box<dyn Membership>,
    _folder: tempfile::TempDir,
}

impl Running {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(EmbeddedConfig::new(
            folder.path().join("log"),
            &[(Topic::Fanout, 1), (Topic::Inbox, 1)],
            &[(FANOUT_GROUP, Topic::Fanout), ("test", Topic::Inbox)],
        ))
        .unwrap();
        let mut membership = log.join("test", Topic::Inbox).await.unwrap();
        Self {
            inbox: membership.assigned().await.unwrap(),
            _membership: membership,
            log,
            refusals: Arc::default(),
            store: Arc::default(),
            edge: Arc::default(),
            told: Arc::default(),
            deferred_above: usize::MAX,
            fanout: None,
            tasks: Tasks::new(),
            _folder: folder,
        }
    }

    fn set_members(&self, group: GroupId, users: &[UserId]) {
        self.store.0.lock().stints.insert(group, stints(users));
    }

    async fn append(&self, records: &[log::FanoutRecord]) {
        let record = |record: &log::FanoutRecord| NewRecord {
            key: record.conversation_id.clone().into(),
            payload: record.encode_to_vec().into(),
            headers: Vec::new(),
        };
        let records = records.iter().map(record).collect();
        let results = self
            .log
            .append_all(Topic::Fanout, records, Urgency::Now)
            .await;
        assert!(results.iter().all(Result::is_ok));
    }

    async fn start(&mut self) {
        self.tasks = Tasks::new();
        let key = KeyPair::generate().unwrap();
        let identity = ServiceIdentity::new("test", key, Arc::new(SystemClock));
        // Nobody serves it: all routes are unknown, and a push is one call of this node's own edge.
        let registry = identity.on(pipe().0.channel());
        let delivery = Delivery::start(
            DeliveryConfig::new("here", "test"),
            self.edge.clone(),
            &Registries::one(registry),
            Arc::new(|_| Err("no other edge".into())),
            &self.tasks,
        );
        let told = self.told.clone();
        let deps = FanoutDeps {
            log: Arc::new(Refusing {
                log: self.log.clone(),
                refusals: self.refusals.clone(),
            }),
            store: self.store.clone(),
            delivery,
            on_sequenced: Arc::new(move |changes| told.lock().extend_from_slice(changes)),
            deferred_above: self.deferred_above,
        };
        self.fanout = Some(start(deps, &self.tasks).await.unwrap());
    }

    fn fanout(&self) -> &Fanout {
        self.fanout.as_ref().unwrap()
    }

    async fn stop(&mut self) {
        assert!(self.tasks.stop(DEADLINE).await);
    }

    async fn inbox(&mut self, count: usize) -> Vec<log::InboxRecord> {
        let mut records = Vec::new();
        while records.len() < count {
            let next = tokio::time::timeout(DEADLINE, self.inbox.next(count));
            let read = next.await.unwrap().unwrap();
            let decode =
                |record: &event_log::Record| log::InboxRecord::decode(record.payload.clone());
            records.extend(read.iter().map(|record| decode(record).unwrap()));
        }
        records
    }

    fn position(&self) -> u64 {
        self.store.0.lock().position
    }
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

fn number(frame: &Bytes) -> u64 {
    u64::from_be_bytes(frame[..].try_into().unwrap())
}

#[tokio::test]
async fn a_huge_group_does_not_delay_a_small_one_of_its_partition() {
    let mut running = Running::new().await;
    let users = many(10_000);
    running.set_members(group(0), &users);
    running.set_members(group(1), &users[..3]);
    let mut records: Vec<_> = (1..=20)
        .map(|seq| message(group(0), users[0], seq))
        .collect();
    records.push(message(group(1), users[0], 100));
    running.append(&records).await;
    running.start().await;
    eventually("all is pushed", || {
        running.fanout().stats().members_reached == 200_003
    })
    .await;
    let order: Vec<u64> = running
        .edge
        .0
        .lock()
        .iter()
        .map(|push| number(&push.frame))
        .collect();
    let small = order.iter().position(|frame| *frame == 100).unwrap();
    assert!(
        small < 100,
        "pushed after {small} of {} chunks",
        order.len()
    );
    // Two rounds at most of each, were the reading in two parts.
    let rows = running.inbox(10_003).await;
    assert!(rows.iter().any(|row| row.last_seq == 100));
    running.stop().await;
}

#[tokio::test]
async fn each_push_is_one_item_with_one_frame_and_events_share_their_rows() {
    let mut running = Running::new().await;
    let users = many(500);
    running.set_members(group(0), &users);
    let records: Vec<_> = (1..=50)
        .map(|seq| message(group(0), users[0], seq))
        .collect();
    running.append(&records).await;
    running.start().await;
    let rows = running.inbox(500).await;
    assert!(
        rows.iter().all(|row| row.last_seq == 50),
        "one row a member"
    );
    eventually("the position passes", || running.position() == 50).await;
    let stats = running.fanout().stats();
    assert_eq!(
        (stats.records, stats.pushes, stats.members_reached),
        (50, 50, 25_000)
    );
    assert_eq!(
        (stats.inbox_records, stats.coalesced, stats.loads),
        (500, 49, 1)
    );
    let pushes = running.edge.0.lock().clone();
    assert_eq!(pushes.len(), 50);
    assert!(pushes.iter().all(|push| *push.users == users[..]));
    running.stop().await;
}

#[tokio::test]
async fn the_position_waits_for_the_store_to_note_a_change_and_a_restart_does_it_again() {
    let mut running = Running::new().await;
    let users = many(3);
    let group = group(0);
    running.set_members(group, &users);
    running.store.0.lock().refuse_notes = true;
    let mut joined = stints(&users);
    joined[2].joined_version = 2;
    running.store.0.lock().stints.insert(group, joined);
    running
        .append(&[
            message(group, users[0], 1),
            change(group, 2, 2, &[(users[2], 1)]),
        ])
        .await;
    running.start().await;
    let rows = running.inbox(3).await;
    assert_eq!(rows[2].joined_seq, 2);
    let sequenced = Sequenced {
        group,
        version: 2,
        seq: 2,
    };
    assert_eq!(*running.told.lock(), [sequenced], "waiting calls know");
    eventually("the first one is passed", || running.position() == 1).await;
    running.stop().await;
    assert_eq!(running.position(), 1);
    running.store.0.lock().refuse_notes = false;
    running.start().await;
    eventually("the position passes", || running.position() == 2).await;
    assert_eq!(running.store.0.lock().noted, [sequenced]);
    let again = running.inbox(3).await;
    assert_eq!(again[2], rows[2]);
    running.stop().await;
}

#[tokio::test]
async fn a_store_that_went_back_makes_the_partition_start_again() {
    let mut running = Running::new().await;
    let users = many(2);
    running.set_members(group(0), &users);
    // What is not synced stays in the log.
    running.store.0.lock().refuse_syncs = true;
    running.append(&[message(group(0), users[0], 1)]).await;
    running.start().await;
    eventually("the position passes", || running.position() == 1).await;
    running.inbox(2).await;
    running.store.0.lock().back_to = Some(0);
    running.append(&[message(group(0), users[0], 2)]).await;
    eventually("it is passed again", || running.position() == 2).await;
    let pushed = running.edge.0.lock().clone();
    let ones = pushed
        .iter()
        .filter(|push| number(&push.frame) == 1)
        .count();
    assert_eq!(ones, 2, "the first record came again");
    assert_eq!(running.fanout().broken(), None);
    running.stop().await;
}

#[tokio::test]
async fn a_newer_record_stops_the_partition_and_says_so() {
    let mut running = Running::new().await;
    let users = many(2);
    running.set_members(group(0), &users);
    let mut newer = message(group(0), users[0], 1);
    newer.schema_version = 3;
    running
        .append(&[newer, message(group(0), users[0], 2)])
        .await;
    running.start().await;
    eventually("it is broken", || running.fanout().broken().is_some()).await;
    assert!(
        running
            .fanout()
            .broken()
            .unwrap()
            .contains("schema version 3")
    );
    assert_eq!(running.position(), 0);
    assert!(running.edge.0.lock().is_empty());
    running.stop().await;
}

#[tokio::test]
async fn rows_that_the_log_refuses_come_all_the_same_before_the_position_passes() {
    let mut running = Running::new().await;
    let users = many(100);
    running.set_members(group(0), &users);
    running.append(&[message(group(0), users[0], 1)]).await;
    running.refusals.store(301, Ordering::SeqCst);
    running.start().await;
    eventually("the position passes", || running.position() == 1).await;
    let rows = running.inbox(100).await;
    let reached: BTreeSet<_> = rows.iter().map(|row| row.user_id.clone()).collect();
    assert_eq!(reached.len(), 100);
    assert!(running.refusals.load(Ordering::SeqCst) < 301);
    running.stop().await;
}

#[tokio::test]
async fn the_position_waits_until_a_group_is_noted_as_deferred_and_a_restart_leaves_nobody_out() {
    let mut running = Running::new().await;
    running.deferred_above = 10;
    let users = many(11);
    running.set_members(group(0), &users);
    running.store.0.lock().refuse_notes = true;
    running
        .append(&[
            message(group(0), users[0], 1),
            message(group(0), users[1], 2),
        ])
        .await;
    running.start().await;
    let rows = running.inbox(11).await;
    assert!(rows.iter().all(|row| row.deferred_seq == 1));
    running.stop().await;
    assert_eq!(running.position(), 0, "the store does not know it yet");
    running.store.0.lock().refuse_notes = false;
    running.start().await;
    eventually("the position passes", || running.position() == 2).await;
    assert_eq!(running.store.0.lock().deferred[&group(0)], 1);
    let again = running.inbox(11).await;
    assert!(again.iter().all(|row| row.deferred_seq == 1));
    // From the store, after a restart: an event costs a record.
    running.stop().await;
    let before = running.fanout().stats();
    assert_eq!((before.inbox_records, before.deferred), (11, 1));
    running.start().await;
    running.append(&[message(group(0), users[2], 3)]).await;
    eventually("the position passes", || running.position() == 3).await;
    assert_eq!(running.fanout().stats().inbox_records, 1);
    let rows = running.inbox(1).await;
    assert_eq!((rows[0].last_seq, rows[0].deferred_seq), (3, 0));
    running.stop().await;
}

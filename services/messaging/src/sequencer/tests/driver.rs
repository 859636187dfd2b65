//! The driver of a partition, on a log that refuses and a store that goes back.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use delivery::{Delivery, DeliveryConfig, LocalEdge, Registries};
use event_log::{
    AppendError, Appended, EventLog, LogError, Membership, NewRecord, OnAppended, PartitionReader,
    Record, Topic, TopicIdentity, Urgency,
};
use parking_lot::Mutex;
use prost::Message;
use proto::log::v1::{self as log, references_record};
use runtime::{
    auth::{KeyPair, ServiceIdentity},
    channel::pipe,
    clock::SystemClock,
    ids::{ConversationId, MessageId, UserId},
    shutdown::Tasks,
    trace,
};

use super::{
    store::Store as Stored,
    world::{Said, World, change, user},
};
use crate::{
    limits::{DERIVED_MAX, INGEST_MAX, POSITION_INTERVAL},
    model::{ConversationHead, ConversationState, Event, InboxChange, InboxHead, InboxRow},
    sequencer::partition::{Context, Owned, run},
    store::{
        InboxApplied, LogIdentity, PositionAdvance, ReaderId, SeqRange, SequencedBatch, Store,
        StoreError,
    },
};

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// A log that has one partition of `messages`, and takes derived records unless it refuses them.
#[derive(Default)]
pub(super) struct Log {
    pub(super) records: Mutex<Vec<Record>>,
    refuses: AtomicBool,
    pub(super) refused: AtomicBool,
    /// Refuses what refers to blobs, or barriers.
    pub(super) refuses_references: AtomicBool,
    pub(super) refuses_barriers: AtomicBool,
    pub(super) refused_barriers: AtomicUsize,
    /// The topic `references`, with the keys.
    pub(super) references: Mutex<Vec<(Bytes, references_record::Record)>>,
    /// Partitions of `references` besides one.
    pub(super) more_references: AtomicUsize,
    fan_outs: Mutex<Vec<log::FanoutRecord>>,
    /// Of the fan-outs.
    traces: Mutex<Vec<Option<Bytes>>>,
    seeks: Mutex<Vec<u64>>,
    /// Records that were read.
    read: AtomicUsize,
}

#[async_trait]
impl EventLog for Log {
    fn identity(&self, topic: Topic) -> TopicIdentity {
        let more = match topic {
            Topic::References => self.more_references.load(Ordering::SeqCst),
            _ => 0,
        };
        TopicIdentity {
            log_id: "log".to_owned(),
            topic_id: "topic".to_owned(),
            partitions: 1 + u32::try_from(more).unwrap(),
        }
    }

    fn partition_of(&self, _: Topic, _: &[u8]) -> u32 {
        0
    }

    fn append(&self, topic: Topic, record: NewRecord, urgency: Urgency, done: OnAppended) {
        let taken = Ok(Appended {
            partition: 0,
            offset: None,
        });
        if topic == Topic::Fanout {
            assert_eq!(urgency, Urgency::Now);
            if self.refuses.load(Ordering::SeqCst) {
                self.refused.store(true, Ordering::SeqCst);
                return done(Err(AppendError::Full));
            }
            let NewRecord {
                key,
                payload,
                headers,
            } = record;
            let record = log::FanoutRecord::decode(&payload[..]).unwrap();
            assert_eq!(key[..], record.conversation_id);
            self.fan_outs.lock().push(record);
            self.traces.lock().push(trace::of_headers(&headers));
            return done(taken);
        }
        if topic == Topic::References {
            let references = log::ReferencesRecord::decode(&record.payload[..]).unwrap();
            let references = references.record.unwrap();
            let is_barrier = matches!(references, references_record::Record::Barrier(_));
            if is_barrier && self.refuses_barriers.load(Ordering::SeqCst) {
                self.refused_barriers.fetch_add(1, Ordering::SeqCst);
                return done(Err(AppendError::Full));
            }
            if !is_barrier && self.refuses_references.load(Ordering::SeqCst) {
                self.refused.store(true, Ordering::SeqCst);
                return done(Err(AppendError::Full));
            }
            self.references.lock().push((record.key, references));
        }
        done(taken);
    }

    async fn join(&self, _: &str, _: Topic) -> Result<Box<dyn Membership>, LogError> {
        Err(LogError::Closed)
    }
}

struct Reader {
    log: Arc<Log>,
    next: u64,
}

#[async_trait]
impl PartitionReader for Reader {
    fn partition(&self) -> u32 {
        0
    }

    // It is the only one.
    fn keep_until_dropped(&mut self) {}

    fn is_revoked(&self) -> bool {
        false
    }

    async fn range(&mut self) -> Result<(u64, u64), LogError> {
        let end = self.log.records.lock().last().map_or(0, |r| r.offset + 1);
        Ok((0, end))
    }

    async fn seek(&mut self, offset: u64) -> Result<(), LogError> {
        self.log.seeks.lock().push(offset);
        self.next = offset;
        Ok(())
    }

    async fn next(&mut self, max: usize) -> Result<Vec<Record>, LogError> {
        loop {
            let records = {
                let all = self.log.records.lock();
                let from = all.partition_point(|record| record.offset < self.next);
                let next = all.iter().skip(from).take(max);
                next.cloned().collect::<Vec<_>>()
            };
            if let Some(last) = records.last() {
                self.next = last.offset + 1;
                self.log.read.fetch_add(records.len(), Ordering::SeqCst);
                return Ok(records);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn commit(&self, _: u64) {}
}

/// What a sequencer needs of a store.
#[derive(Default)]
pub(super) struct Memory(pub(super) Mutex<Stored>);

fn not_here<T>() -> Result<T, StoreError> {
    Err(StoreError::Corrupt("no sequencer asks for this".to_owned()))
}

#[async_trait]
impl Store for Memory {
    async fn persist(&self, batch: SequencedBatch) -> Result<(), StoreError> {
        self.0.lock().persist(&batch);
        Ok(())
    }

    async fn load_conversations(
        &self,
        conversations: Vec<ConversationId>,
    ) -> Result<Vec<ConversationState>, StoreError> {
        Ok(self.0.lock().load(&conversations))
    }

    async fn load_conversation_of(
        &self,
        _: ConversationId,
        _: UserId,
    ) -> Result<Option<ConversationState>, StoreError> {
        not_here()
    }

    async fn find_events(
        &self,
        names: Vec<(ConversationId, UserId, MessageId)>,
    ) -> Result<Vec<Event>, StoreError> {
        Ok(self.0.lock().find(&names))
    }

    async fn events(
        &self,
        _: ConversationId,
        _: SeqRange,
        _: bool,
        _: usize,
        _: usize,
    ) -> Result<Vec<Event>, StoreError> {
        not_here()
    }

    async fn seq_of_message_index(
        &self,
        _: ConversationId,
        _: u64,
    ) -> Result<Option<u64>, StoreError> {
        not_here()
    }

    async fn apply_inbox(
        &self,
        _: Vec<(u64, InboxChange)>,
    ) -> Result<Vec<InboxApplied>, StoreError> {
        not_here()
    }

    async fn inbox_heads(&self, _: Vec<UserId>) -> Result<Vec<InboxHead>, StoreError> {
        not_here()
    }

    async fn list_inbox(
        &self,
        _: UserId,
        _: Option<(i64, ConversationId)>,
        _: usize,
    ) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
        not_here()
    }

    async fn inbox_changes(
        &self,
        _: UserId,
        _: u64,
        _: usize,
    ) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
        not_here()
    }

    async fn conversation_heads(
        &self,
        _: Vec<ConversationId>,
        _: bool,
    ) -> Result<Vec<ConversationHead>, StoreError> {
        not_here()
    }

    async fn deferred_rows(
        &self,
        _: UserId,
        _: usize,
    ) -> Result<(InboxHead, Vec<InboxRow>), StoreError> {
        not_here()
    }

    async fn deferred_conversations(
        &self,
        _: Vec<UserId>,
        _: usize,
    ) -> Result<Vec<(UserId, ConversationId)>, StoreError> {
        not_here()
    }

    async fn inbox_rows(
        &self,
        _: Vec<(UserId, ConversationId)>,
    ) -> Result<Vec<(InboxHead, Option<InboxRow>)>, StoreError> {
        not_here()
    }

    async fn note_offline(&self, _: Vec<(UserId, ConversationId, u64)>) -> Result<(), StoreError> {
        not_here()
    }

    async fn offline_seqs(&self, _: Vec<(UserId, ConversationId)>) -> Result<Vec<u64>, StoreError> {
        not_here()
    }

    async fn forget_offline(
        &self,
        _: Vec<(UserId, ConversationId, u64)>,
    ) -> Result<(), StoreError> {
        not_here()
    }

    async fn inbox_row(
        &self,
        _: UserId,
        _: ConversationId,
    ) -> Result<Option<InboxRow>, StoreError> {
        not_here()
    }

    async fn open_reader(&self, _: ReaderId, _: LogIdentity) -> Result<u64, StoreError> {
        Ok(self.0.lock().position)
    }

    async fn save_position(&self, advance: PositionAdvance) -> Result<(), StoreError> {
        let mut stored = self.0.lock();
        if stored.position < advance.from {
            return Err(StoreError::PositionBelowSaved);
        }
        stored.position = stored.position.max(advance.to);
        Ok(())
    }

    async fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A running partition. Its sessions are nowhere.
pub(super) struct Running {
    pub(super) log: Arc<Log>,
    pub(super) store: Arc<Memory>,
    context: Context,
    tasks: Tasks,
}

impl Running {
    pub(super) fn start(refuses: bool) -> Self {
        let (log, store) = (Arc::new(Log::default()), Arc::new(Memory::default()));
        log.refuses.store(refuses, Ordering::SeqCst);
        let tasks = Tasks::new();
        let (connector, _) = pipe();
        let identity =
            ServiceIdentity::new("test", KeyPair::generate().unwrap(), Arc::new(SystemClock));
        let nobody: Arc<dyn LocalEdge> = Arc::new(OnceLock::<Arc<dyn LocalEdge>>::new());
        let delivery = Delivery::start(
            DeliveryConfig::new("here", "test"),
            nobody,
            &Registries::one(identity.on(connector.channel())),
            Arc::new(|_| Err("no other edge".into())),
            &tasks,
        );
        let context = Context {
            log: log.clone(),
            store: store.clone(),
            delivery,
            stop: tasks.stop_token(),
        };
        let reader = Reader {
            log: log.clone(),
            next: 0,
        };
        let of_run = context.clone();
        tasks.spawn(async move {
            run(of_run, Arc::new(Owned::new()), Box::new(reader)).await;
        });
        Self {
            log,
            store,
            context,
            tasks,
        }
    }

    pub(super) async fn eventually(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, wait).await;
        waited.unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    pub(super) fn position(&self) -> u64 {
        self.store.0.lock().position
    }

    /// The seqs that were fanned out, as they came.
    fn seqs(&self) -> Vec<u64> {
        let fan_outs = self.log.fan_outs.lock();
        let seq = |record: &log::FanoutRecord| record.event.as_ref().unwrap().seq;
        fan_outs.iter().map(seq).collect()
    }

    pub(super) fn context(&self) -> Context {
        self.context.clone()
    }

    pub(super) async fn stop(self) {
        assert!(self.tasks.stop(DEADLINE).await);
    }
}

/// A group, and three messages in it.
fn history() -> World {
    let mut world = World::new();
    world.change(1, change(&[(1, 3), (2, 1)], false, false));
    for id in 1..4 {
        world.send(world.group, user(2), id);
    }
    world
}

#[tokio::test]
async fn the_position_waits_for_fan_outs_that_the_log_refuses_and_they_come_in_order() {
    let running = Running::start(true);
    let mut world = history();
    let trace = Bytes::from_static(b"of the second");
    world.log[1].headers = trace::headers(Some(trace.clone()));
    let end = world.log.last().unwrap().offset + 1;
    *running.log.records.lock() = world.log;
    running
        .eventually("the store has the events", |r| {
            r.store.0.lock().events.len() == 4
        })
        .await;
    running
        .eventually("a fan-out was refused", |r| {
            r.log.refused.load(Ordering::SeqCst)
        })
        .await;
    // Longer than the position takes to be saved.
    tokio::time::sleep(2 * POSITION_INTERVAL).await;
    assert_eq!(running.position(), 0, "it passed what nobody has heard of");
    running.log.refuses.store(false, Ordering::SeqCst);
    running
        .eventually("the position is at the end", |r| r.position() == end)
        .await;
    assert_eq!(running.seqs(), [1, 2, 3, 4]);
    assert_eq!(
        *running.log.traces.lock(),
        [None, Some(trace), None, None],
        "each has the trace of its record"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_partition_starts_again_from_the_position_of_a_store_that_went_back() {
    let running = Running::start(false);
    let mut world = history();
    let end = world.log.last().unwrap().offset + 1;
    *running.log.records.lock() = world.log.clone();
    running
        .eventually("the position is at the end", |r| r.position() == end)
        .await;
    // As if from a copy of before: nothing of it is there any more.
    *running.store.0.lock() = Stored::default();
    world.send(world.conversations[0], user(1), 9);
    let end = world.log.last().unwrap().offset + 1;
    *running.log.records.lock() = world.log;
    running
        .eventually("the position is at the end again", |r| r.position() == end)
        .await;
    assert_eq!(*running.log.seeks.lock(), [0, 0]);
    assert_eq!(running.store.0.lock().events.len(), 5, "all is made again");
    assert_eq!(running.seqs(), [1, 2, 3, 4, 1, 2, 3, 4]);
    running.stop().await;
}

#[tokio::test]
async fn a_partition_whose_fan_outs_are_refused_stops_reading_and_goes_on_by_itself() {
    let running = Running::start(false);
    let mut world = history();
    // The group is known: what waits for it to be loaded is bounded apart.
    *running.log.records.lock() = world.log.clone();
    let end = world.log.last().unwrap().offset + 1;
    running
        .eventually("the group is loaded", |r| r.position() == end)
        .await;
    running.log.refuses.store(true, Ordering::SeqCst);
    let all = DERIVED_MAX + 4 * INGEST_MAX;
    for number in 0..all as u64 {
        let id = MessageId::from_bytes((u128::MAX / 2 + u128::from(number)).to_be_bytes());
        world.say(world.group, user(1), id, Said::default());
    }
    let end = world.log.last().unwrap().offset + 1;
    *running.log.records.lock() = world.log;
    let read = |r: &Running| r.log.read.load(Ordering::SeqCst);
    running
        .eventually("many wait", |r| read(r) >= DERIVED_MAX)
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(read(&running) <= DERIVED_MAX + INGEST_MAX, "it reads on");
    running.log.refuses.store(false, Ordering::SeqCst);
    running
        .eventually("the position is at the end", |r| r.position() == end)
        .await;
    let seqs = running.seqs();
    assert!(seqs.is_sorted() && seqs.len() == all + 4, "{}", seqs.len());
    running.stop().await;
}

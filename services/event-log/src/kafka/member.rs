//! A place in a group: a consumer of librdkafka with a thread of its own, which hands partitions to
//! readers and takes them back.
//!
//! Each partition has its own queue in librdkafka, which its reader empties by itself. A queue that
//! is full is not fetched for, whatever the other partitions do; so a slow reader holds bounded
//! memory and nobody up. The thread itself only serves what concerns the group.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};
use tokio::sync::Notify;

use super::{
    Shared, quiet_log,
    reader::{Reader, Slot},
};
use crate::{LogError, Membership, PartitionReader, Topic};

/// How long the thread waits for news of the group before it looks for those of its readers.
const POLL: Duration = Duration::from_millis(50);
/// The same while readers are told to let go: the group waits for them.
const POLL_REVOKING: Duration = Duration::from_millis(2);
/// How long leaving the group waits for readers that are asking something: longer than a request's
/// time.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);

pub(super) type Consumer = BaseConsumer<Group>;

/// What the group wants of a member.
enum Change {
    Assign(Vec<i32>),
    Revoke(Vec<i32>),
}

/// Takes what librdkafka says about the group; the member's thread does it.
pub(super) struct Group {
    changes: Mutex<VecDeque<Change>>,
    leaving: AtomicBool,
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        quiet_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "a consumer reports");
    }
}

impl ConsumerContext for Group {
    fn rebalance(&self, consumer: &Consumer, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let assign = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.leaving.load(Ordering::Acquire) {
            // Closing waits for it, and nobody reads any more.
            answer(consumer, assign, list);
            return;
        }
        let partitions = list.elements().iter().map(|e| e.partition()).collect();
        self.changes.lock().push_back(if assign {
            Change::Assign(partitions)
        } else {
            Change::Revoke(partitions)
        });
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            // Only a hint, and the next one says more.
            tracing::debug!(%error, "positions were not noted");
        }
    }
}

/// What a member, its thread and its readers share.
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) topic: Topic,
    /// In Kafka.
    pub(super) topic_name: String,
    /// Until the member has left.
    consumer: Mutex<Option<Arc<Consumer>>>,
    /// Held to assign and unassign: a reader must not assign again what is being taken back.
    pub(super) assigning: Mutex<()>,
    /// Assigned, and not yet handed out.
    waiting: Mutex<VecDeque<Arc<Slot>>>,
    news: Notify,
    leave: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Inner {
    pub(super) fn consumer(&self) -> Option<Arc<Consumer>> {
        self.consumer.lock().clone()
    }

    pub(super) fn list(&self, partition: i32, offset: Offset) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(1);
        // Fails only for offsets that do not fit, which are not made here.
        let _ = list.add_partition_offset(&self.topic_name, partition, offset);
        list
    }

    /// These partitions, where no offset matters.
    fn lists(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic_name, *partition);
        }
        list
    }

    fn is_leaving(&self) -> bool {
        self.leave.load(Ordering::Acquire) || self.shared.is_closed()
    }
}

/// A place in a group.
pub(super) struct Member(Arc<Inner>);

impl Member {
    /// Joins; partitions come later.
    pub(super) fn join(
        shared: Arc<Shared>,
        group: &str,
        topic: Topic,
    ) -> Result<(Self, JoinHandle<()>), LogError> {
        let failed = |error: KafkaError| LogError::Failed(error.to_string());
        let place = shared.place(topic).map_err(LogError::Failed)?;
        let topic_name = place.name.clone();
        let group_name = shared.config.group_name(group, topic);
        let context = Group {
            changes: Mutex::default(),
            leaving: AtomicBool::new(false),
        };
        let config = shared.config.consumer(&group_name);
        let consumer = Consumer::from_config_and_context(&config, context).map_err(failed)?;
        consumer.subscribe(&[&topic_name]).map_err(failed)?;
        let consumer = Arc::new(consumer);
        let inner = Arc::new(Inner {
            shared,
            topic,
            topic_name,
            consumer: Mutex::new(Some(consumer.clone())),
            assigning: Mutex::default(),
            waiting: Mutex::default(),
            news: Notify::new(),
            leave: AtomicBool::new(false),
            failure: Mutex::default(),
        });
        let worker = Worker {
            inner: inner.clone(),
            consumer,
            slots: Vec::new(),
            revoking: None,
        };
        let thread = thread::Builder::new()
            .name(format!("log-{group}"))
            .spawn(move || worker.run())
            .map_err(|error| LogError::Failed(error.to_string()))?;
        Ok((Self(inner), thread))
    }
}

#[async_trait]
impl Membership for Member {
    async fn assigned(&mut self) -> Result<Box<dyn PartitionReader>, LogError> {
        let inner = &self.0;
        loop {
            let news = inner.news.notified();
            if inner.shared.is_closed() {
                return Err(LogError::Closed);
            }
            if let Some(failure) = inner.failure.lock().clone() {
                return Err(LogError::Failed(failure));
            }
            let next = {
                let mut waiting = inner.waiting.lock();
                let next = waiting.pop_front();
                if let Some(slot) = &next {
                    slot.hand_out();
                }
                next
            };
            if let Some(slot) = next {
                return Ok(Box::new(Reader::new(inner.clone(), slot)));
            }
            news.await;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.leave.store(true, Ordering::Release);
    }
}

/// Partitions that are being taken back.
struct Revoking {
    slots: Vec<Arc<Slot>>,
    partitions: Vec<i32>,
    deadline: Instant,
}

/// The member's thread.
struct Worker {
    inner: Arc<Inner>,
    consumer: Arc<Consumer>,
    /// What the member has.
    slots: Vec<Arc<Slot>>,
    revoking: Option<Revoking>,
}

impl Worker {
    fn run(mut self) {
        while !self.inner.is_leaving() {
            let patience = if self.revoking.is_some() {
                POLL_REVOKING
            } else {
                POLL
            };
            match self.consumer.poll(patience) {
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    tracing::error!(topic = %self.inner.topic, %code, "a group cannot be joined");
                    *self.inner.failure.lock() = Some(code.to_string());
                    break;
                }
                // Brokers that do not answer are noticed elsewhere; what concerns a partition comes
                // to its reader.
                Some(Err(error)) => tracing::debug!(%error, "a consumer reports"),
                // No record comes here: each partition has its own queue before it is assigned.
                Some(Ok(_)) | None => {}
            }
            self.check_revoking();
            while self.revoking.is_none() {
                let change = self.consumer.context().changes.lock().pop_front();
                match change {
                    Some(Change::Assign(partitions)) => {
                        if let Err(error) = self.assign(&partitions) {
                            // The group waits; it cannot say more before this is done.
                            tracing::debug!(%error, "partitions cannot be read yet");
                            let mut changes = self.consumer.context().changes.lock();
                            changes.push_front(Change::Assign(partitions));
                            break;
                        }
                    }
                    Some(Change::Revoke(partitions)) => self.revoke(partitions),
                    None => break,
                }
            }
            self.let_go_of_dropped();
        }
        self.leave();
    }

    fn assign(&mut self, partitions: &[i32]) -> KafkaResult<()> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        let mut slots = Vec::new();
        for (partition, begin, committed) in self.begins(partitions)? {
            let offset = i64::try_from(begin).unwrap_or(i64::MAX);
            list.add_partition_offset(&self.inner.topic_name, partition, Offset::Offset(offset))?;
            let slot = Arc::new(Slot::new(partition, begin, committed));
            let queue = self
                .consumer
                .split_partition_queue(&self.inner.topic_name, partition);
            if let Some(mut queue) = queue {
                let reader = Arc::downgrade(&slot);
                queue.set_nonempty_callback(move || {
                    if let Some(slot) = Weak::upgrade(&reader) {
                        slot.wake();
                    }
                });
                slot.open(queue);
                slots.push(slot);
            }
        }
        {
            let _assigning = self.inner.assigning.lock();
            answer(&self.consumer, true, &list);
        }
        self.slots.extend(slots.iter().cloned());
        self.inner.waiting.lock().extend(slots);
        self.inner.news.notify_one();
        Ok(())
    }

    /// Where each partition is to be read from, and what the group has committed of it.
    ///
    /// librdkafka is told an offset and never *the first* or *the last* one, which it asks for by
    /// itself: an answer to that which comes after a reader has moved makes it ask again and jump
    /// to what is answered then, past all records in between.
    fn begins(&self, partitions: &[i32]) -> KafkaResult<Vec<(i32, u64, u64)>> {
        let timeout = self.inner.shared.config.request_timeout();
        let topic = &self.inner.topic_name;
        let committed = self
            .consumer
            .committed_offsets(self.inner.lists(partitions), timeout)?;
        let mut begins = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let committed = match committed.find_partition(topic, *partition) {
                Some(found) => {
                    found.error()?;
                    found
                        .offset()
                        .to_raw()
                        .and_then(|offset| u64::try_from(offset).ok())
                }
                None => None,
            };
            let (first, end) = self.consumer.fetch_watermarks(topic, *partition, timeout)?;
            let first = u64::try_from(first).unwrap_or(0);
            let end = u64::try_from(end).unwrap_or(0).max(first);
            let begin = committed.unwrap_or(first).clamp(first, end);
            begins.push((*partition, begin, committed.unwrap_or(0)));
        }
        Ok(begins)
    }

    /// Also when the group has given them to others already, because it has not heard of this
    /// member: a reader of this process must know before another one is made.
    fn revoke(&mut self, partitions: Vec<i32>) {
        let mut slots = Vec::new();
        self.slots.retain(|slot| {
            let is_meant = partitions.contains(&slot.partition);
            if is_meant {
                slots.push(slot.clone());
            }
            !is_meant
        });
        self.inner
            .waiting
            .lock()
            .retain(|slot| !partitions.contains(&slot.partition));
        for slot in &slots {
            slot.revoke();
        }
        let deadline = Instant::now() + self.inner.shared.config.revoke_wait();
        self.revoking = Some(Revoking {
            slots,
            partitions,
            deadline,
        });
        self.check_revoking();
    }

    /// Gives partitions back when all their readers know.
    fn check_revoking(&mut self) {
        let Some(revoking) = &self.revoking else {
            return;
        };
        let all_know = revoking.slots.iter().all(|slot| slot.is_let_go());
        let overdue = Instant::now() >= revoking.deadline;
        if !all_know && !overdue {
            return;
        }
        let Some(revoking) = self.revoking.take() else {
            return;
        };
        for slot in revoking.slots.iter().filter(|slot| !slot.is_let_go()) {
            let (topic, partition) = (self.inner.topic, slot.partition);
            tracing::warn!(%topic, partition, "a reader did not give its partition back");
        }
        let _assigning = self.inner.assigning.lock();
        revoking.slots.iter().for_each(|slot| slot.end());
        answer(
            &self.consumer,
            false,
            &self.inner.lists(&revoking.partitions),
        );
    }

    /// A partition whose reader was dropped is not fetched any more.
    fn let_go_of_dropped(&mut self) {
        for slot in &self.slots {
            if slot.has_queue() && slot.is_dropped() {
                let list = self.inner.list(slot.partition, Offset::Invalid);
                if let Err(error) = self.consumer.pause(&list) {
                    tracing::debug!(%error, "a partition was not paused");
                }
                slot.end();
            }
        }
    }

    /// Tells all readers, waits for them, and leaves the group, so that others need not wait for
    /// the session's end.
    fn leave(mut self) {
        let closed = self.inner.shared.is_closed();
        let mut slots = std::mem::take(&mut self.slots);
        if let Some(revoking) = self.revoking.take() {
            slots.extend(revoking.slots);
        }
        for slot in &slots {
            slot.revoke();
        }
        let deadline = Instant::now() + self.inner.shared.config.revoke_wait();
        // Readers of a log that is closed are told that, and need not be waited for.
        while !closed && !slots.iter().all(|s| s.is_let_go()) && Instant::now() < deadline {
            self.consumer.poll(POLL_REVOKING);
        }
        self.inner.waiting.lock().clear();
        {
            let _assigning = self.inner.assigning.lock();
            slots.iter().for_each(|slot| slot.end());
        }
        let context = self.consumer.context();
        context.leaving.store(true, Ordering::Release);
        // What the group wanted and was not done yet.
        for change in std::mem::take(&mut *context.changes.lock()) {
            let (assign, partitions) = match change {
                Change::Assign(partitions) => (true, partitions),
                Change::Revoke(partitions) => (false, partitions),
            };
            answer(&self.consumer, assign, &self.inner.lists(&partitions));
        }
        self.inner.consumer.lock().take();
        self.inner.news.notify_one();
        // Whoever still asks something has the consumer, too; the last one leaves the group when it
        // drops it.
        let deadline = Instant::now() + LEAVE_DEADLINE;
        while Arc::strong_count(&self.consumer) > 1 && Instant::now() < deadline {
            thread::sleep(POLL_REVOKING);
        }
    }
}

/// Does at once what the group wants.
fn answer(consumer: &Consumer, assign: bool, list: &TopicPartitionList) {
    let done = if assign {
        consumer.incremental_assign(list)
    } else {
        consumer.incremental_unassign(list)
    };
    if let Err(error) = done {
        // The group has changed its mind meanwhile, and says so next.
        tracing::debug!(%error, assign, "partitions did not change hands");
    }
}

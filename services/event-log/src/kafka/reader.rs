//! Reads one partition, from its own queue in librdkafka.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rdkafka::{
    Offset,
    consumer::{Consumer as _, base_consumer::PartitionQueue},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _, Message as _},
};
use tokio::sync::{Notify, watch};

use super::member::{Consumer, Group, Inner};
use crate::{LogError, PartitionReader, Record};

/// How often a reader that waits looks by itself, should librdkafka have forgotten to wake it.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a question is asked again that nobody could answer.
const RETRY: Duration = Duration::from_millis(10);
/// How long a partition that was just assigned may take to accept a position, before it is assigned
/// again there.
const SEEK_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of an answer of [`PartitionReader::next`], about.
const ANSWER_BYTES: usize = 1024 * 1024;

/// A partition that a member has, shared by its reader and the member's thread.
pub(super) struct Slot {
    pub(super) partition: i32,
    /// Where librdkafka begins.
    begin: u64,
    /// What the group has committed: hints never go back.
    committed: AtomicU64,
    /// Until the partition is given back. Not left to the reader: it holds the consumer, whose end
    /// blocks.
    queue: Mutex<Option<PartitionQueue<Group>>>,
    /// For the reader: there is something, or it must let go.
    wake: Notify,
    revoked: AtomicBool,
    /// The reader knows, or there is none.
    let_go: AtomicBool,
    dropped: AtomicBool,
}

impl Slot {
    pub(super) fn new(partition: i32, begin: u64, committed: u64) -> Self {
        Self {
            partition,
            begin,
            committed: AtomicU64::new(committed),
            queue: Mutex::new(None),
            wake: Notify::new(),
            revoked: AtomicBool::new(false),
            // Nobody reads before it is handed out.
            let_go: AtomicBool::new(true),
            dropped: AtomicBool::new(false),
        }
    }

    pub(super) fn open(&self, queue: PartitionQueue<Group>) {
        *self.queue.lock() = Some(queue);
    }

    pub(super) fn has_queue(&self) -> bool {
        self.queue.lock().is_some()
    }

    pub(super) fn hand_out(&self) {
        self.let_go.store(false, Ordering::Release);
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Tells the reader.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    pub(super) fn is_let_go(&self) -> bool {
        self.let_go.load(Ordering::Acquire)
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    /// The reader gets nothing any more.
    pub(super) fn end(&self) {
        let queue = self.queue.lock().take();
        drop(queue);
    }
}

/// Reads a partition.
pub(super) struct Reader {
    member: Arc<Inner>,
    slot: Arc<Slot>,
    connected: watch::Receiver<bool>,
    /// It was said that the brokers do not answer.
    told_away: bool,
    /// The offset of the next record to answer.
    position: u64,
    /// What is in the queue begins there.
    sought: bool,
    /// To be answered by the next call, after the records before it.
    failure: Option<KafkaError>,
    /// Whoever is told lets go only when it drops this.
    kept: bool,
}

impl Reader {
    pub(super) fn new(member: Arc<Inner>, slot: Arc<Slot>) -> Self {
        Self {
            connected: member.shared.connected(),
            member,
            told_away: false,
            position: slot.begin,
            sought: true,
            failure: None,
            kept: false,
            slot,
        }
    }

    /// Fails if this reader may read no more.
    fn check(&self) -> Result<(), LogError> {
        if self.slot.is_revoked() && !self.member.shared.is_closed() {
            if !self.kept {
                self.slot.let_go.store(true, Ordering::Release);
            }
            return Err(LogError::Revoked);
        }
        if self.member.shared.is_closed() {
            self.slot.let_go.store(true, Ordering::Release);
            return Err(LogError::Closed);
        }
        Ok(())
    }

    /// Asks the brokers, on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Inner, &Consumer, i32) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, LogError> {
        self.check()?;
        let Some(consumer) = self.member.consumer() else {
            return Err(self.ended());
        };
        let (member, partition) = (self.member.clone(), self.slot.partition);
        let asked = move || {
            let answer = question(&member, &consumer, partition);
            drop(consumer);
            answer
        };
        let answer = tokio::task::spawn_blocking(asked).await;
        self.check()?;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failed(&error.to_string())),
            Err(_) => Err(LogError::Closed),
        }
    }

    async fn ask_range(&self) -> Result<(u64, u64), LogError> {
        let timeout = self.member.shared.config.request_timeout();
        let (first, end) = self
            .ask(move |member, consumer, partition| {
                let deadline = Instant::now() + timeout;
                loop {
                    let topic = &member.topic_name;
                    match consumer.fetch_watermarks(topic, partition, timeout) {
                        // A leader that is new does not know the end yet.
                        Err(_) if Instant::now() < deadline => std::thread::sleep(RETRY),
                        answer => return answer,
                    }
                }
            })
            .await?;
        match (u64::try_from(first), u64::try_from(end)) {
            (Ok(first), Ok(end)) => Ok((first, end)),
            _ => Err(self.failed("the brokers do not know the range")),
        }
    }

    /// Makes librdkafka fetch from the position on.
    async fn start(&mut self) -> Result<(), LogError> {
        let offset = i64::try_from(self.position).unwrap_or(i64::MAX);
        let slot = self.slot.clone();
        let timeout = self.member.shared.config.request_timeout();
        let sought = move |member: &Inner, consumer: &Consumer, _| {
            seek(member, consumer, &slot, offset, timeout)
        };
        self.ask(sought).await?;
        self.failure = None;
        self.sought = true;
        Ok(())
    }

    /// Up to `max` records of those that are here.
    fn take(&mut self, max: usize) -> Vec<Record> {
        let mut queue = self.slot.queue.lock();
        let Some(queue) = queue.as_mut() else {
            return Vec::new();
        };
        let mut records = Records::default();
        while records.count() < max && records.bytes.len() < ANSWER_BYTES {
            match queue.poll(Duration::ZERO) {
                Some(Ok(message)) => {
                    let offset = u64::try_from(message.offset()).unwrap_or(0);
                    // From before it has moved.
                    if offset < self.position {
                        continue;
                    }
                    self.position = offset + 1;
                    records.add(offset, &message);
                }
                Some(Err(error)) => {
                    self.failure = Some(error);
                    break;
                }
                None => break,
            }
        }
        records.finish()
    }

    /// What an error in the partition's queue means.
    async fn explain(&mut self, error: &KafkaError) -> LogError {
        // Whatever it was, begin again at the same record.
        self.sought = false;
        let outside = matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
        );
        if !outside {
            return self.failed(&error.to_string());
        }
        let offset = self.position;
        match self.ask_range().await {
            Ok((first, end)) if offset < first || offset > end => {
                LogError::OutOfRange { offset, first, end }
            }
            Ok(_) => self.failed(&error.to_string()),
            Err(error) => error,
        }
    }

    /// Once each time that the brokers stop answering.
    fn check_connected(&mut self) -> Result<(), LogError> {
        let connected = *self.connected.borrow_and_update();
        if connected {
            self.told_away = false;
        } else if !std::mem::replace(&mut self.told_away, true) {
            return Err(self.failed("the brokers do not answer"));
        }
        Ok(())
    }

    /// The member is gone.
    fn ended(&self) -> LogError {
        self.slot.let_go.store(true, Ordering::Release);
        if self.member.shared.is_closed() {
            LogError::Closed
        } else {
            LogError::Revoked
        }
    }

    fn failed(&self, error: &str) -> LogError {
        let (topic, partition) = (self.member.topic, self.slot.partition);
        LogError::Failed(format!("{topic}, partition {partition}: {error}"))
    }
}

/// Moves a partition.
fn seek(
    member: &Inner,
    consumer: &Consumer,
    slot: &Slot,
    offset: i64,
    timeout: Duration,
) -> KafkaResult<()> {
    let started = Instant::now();
    let list = || member.list(slot.partition, Offset::Offset(offset));
    loop {
        let sought = consumer.seek_partitions(list(), timeout).and_then(|list| {
            let found = list.find_partition(&member.topic_name, slot.partition);
            found.map_or(Ok(()), |found| found.error())
        });
        match sought {
            Ok(()) => return Ok(()),
            Err(_) if started.elapsed() < SEEK_PATIENCE => std::thread::sleep(RETRY),
            Err(error) => {
                tracing::debug!(%error, "a partition is assigned again");
                break;
            }
        }
    }
    // librdkafka has given the partition up, after an offset that was not there.
    let _assigning = member.assigning.lock();
    if !slot.has_queue() {
        return Err(KafkaError::Canceled);
    }
    consumer.incremental_unassign(&list())?;
    consumer.incremental_assign(&list())
}

#[async_trait]
impl PartitionReader for Reader {
    fn partition(&self) -> u32 {
        u32::try_from(self.slot.partition).unwrap_or(0)
    }

    fn keep_until_dropped(&mut self) {
        self.kept = true;
    }

    fn is_revoked(&self) -> bool {
        self.slot.is_revoked()
    }

    async fn range(&mut self) -> Result<(u64, u64), LogError> {
        self.ask_range().await
    }

    async fn seek(&mut self, offset: u64) -> Result<(), LogError> {
        let (first, end) = self.ask_range().await?;
        if offset < first || offset > end {
            return Err(LogError::OutOfRange { offset, first, end });
        }
        if offset == self.position && self.sought && self.failure.is_none() {
            return Ok(());
        }
        // Should this be cancelled, the next call of `next` goes on from here.
        self.position = offset;
        self.sought = false;
        self.start().await
    }

    async fn next(&mut self, max: usize) -> Result<Vec<Record>, LogError> {
        loop {
            self.check()?;
            if !self.sought {
                self.start().await?;
            }
            if let Some(error) = self.failure.take() {
                return Err(self.explain(&error).await);
            }
            let records = self.take(max.max(1));
            if !records.is_empty() {
                return Ok(records);
            }
            if self.failure.is_some() {
                continue;
            }
            self.check_connected()?;
            tokio::select! {
                () = self.slot.wake.notified() => {}
                changed = self.connected.changed() => if changed.is_err() {
                    return Err(LogError::Closed);
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn commit(&self, offset: u64) {
        // A reader that is told to let go may still say what it has dealt with.
        if self.slot.is_let_go() {
            return;
        }
        // Who follows another log may claim anything.
        let offset = offset.min(self.position);
        if self.slot.committed.fetch_max(offset, Ordering::AcqRel) >= offset {
            return;
        }
        let (Some(consumer), Ok(offset)) = (self.member.consumer(), i64::try_from(offset)) else {
            return;
        };
        // Not `store_offset`, which takes the offset of the last record instead.
        let list = self
            .member
            .list(self.slot.partition, Offset::Offset(offset));
        if let Err(error) = consumer.store_offsets(&list) {
            tracing::debug!(%error, "a position was not noted");
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.slot.dropped.store(true, Ordering::Release);
        self.slot.let_go.store(true, Ordering::Release);
    }
}

/// Records of one answer, which share their memory.
#[derive(Default)]
struct Records {
    bytes: BytesMut,
    heads: Vec<Head>,
}

/// A record without its bytes, which lie one after the other.
struct Head {
    offset: u64,
    time_unix_ms: i64,
    key: usize,
    payload: usize,
    headers: Vec<(String, usize)>,
}

impl Records {
    fn count(&self) -> usize {
        self.heads.len()
    }

    fn add(&mut self, offset: u64, message: &BorrowedMessage<'_>) {
        let mut put = |part: Option<&[u8]>| {
            let part = part.unwrap_or_default();
            self.bytes.extend_from_slice(part);
            part.len()
        };
        let (key, payload) = (put(message.key()), put(message.payload()));
        let headers = message
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter());
        let headers = headers.map(|header| (header.key.to_owned(), put(header.value)));
        let headers = headers.collect();
        self.heads.push(Head {
            offset,
            time_unix_ms: message.timestamp().to_millis().unwrap_or(0),
            key,
            payload,
            headers,
        });
    }

    fn finish(self) -> Vec<Record> {
        let mut bytes: Bytes = self.bytes.freeze();
        let record = |head: Head| Record {
            offset: head.offset,
            time_unix_ms: head.time_unix_ms,
            key: bytes.split_to(head.key),
            payload: bytes.split_to(head.payload),
            headers: head
                .headers
                .into_iter()
                .map(|(name, length)| (name, bytes.split_to(length)))
                .collect(),
        };
        self.heads.into_iter().map(record).collect()
    }
}

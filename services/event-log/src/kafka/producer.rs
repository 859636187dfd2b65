//! Appending: an idempotent producer of librdkafka, and another one when that has failed for good.
//!
//! A producer keeps the order of its records, in each partition, and makes each of them once, also
//! when it retries: the brokers check the numbers of its records. All records of a topic go through
//! one producer, because two know nothing of each other.
//!
//! That holds only for as long as librdkafka gives no record up by itself: then it begins a new
//! epoch and numbers again what it has, also records that are in the log already and whose answer
//! was lost. So its own time-out is off, and the time of an append is kept here, in a [`Lane`] for
//! each partition: when it is over the append is answered as unknown, but its record stays where it
//! is and comes into the log in its place, once, when the brokers are back. Until then the
//! partition refuses more, which could only wait behind it.
//!
//! A producer that fails for good (a broker has lost its numbers) is replaced. The new one starts
//! when the old one has reported every record that it had; appends are refused until then, so order
//! is kept among all that are confirmed. A record that the old one reported as unknown may, in
//! theory, still lie unread in a connection; its number is the old producer's, so it could come
//! later.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, DeliveryResult, Header, Message, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig},
};

use super::{native, quiet_log};
use crate::{AppendError, Appended, NewRecord, OnAppended};

/// How long a new producer waits for its number. It asks for it when it is made, when no connection
/// is there yet, and again half a second later: the first append would wait for that.
const WARM_UP: Duration = Duration::from_millis(600);
/// How often it is looked which appends are overdue, and whether everything was reported.
const TICK: Duration = Duration::from_millis(50);
/// What reports may need once librdkafka was told to give up.
const REPORT_GRACE: Duration = Duration::from_secs(1);

/// Appends to some topics.
pub(super) struct Producer {
    config: ClientConfig,
    times: Times,
    state: RwLock<State>,
    /// The partitions that it appends to.
    lanes: Arc<[Arc<Lane>]>,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// An append.
    pub(super) append: Duration,
    /// A request.
    pub(super) request: Duration,
}

enum State {
    Open(Running),
    /// The last one failed for good.
    Replacing,
    Closed,
}

/// A partition: its appends that were not reported yet, in their order.
#[derive(Default)]
pub(super) struct Lane(Mutex<Unreported>);

#[derive(Default)]
struct Unreported {
    appends: VecDeque<Arc<Unanswered>>,
    /// How many of them, from the front on, had their time and were answered as unknown.
    overdue: usize,
}

/// An append that was not reported yet.
struct Unanswered {
    lane: Arc<Lane>,
    deadline: Instant,
    done: Mutex<Option<OnAppended>>,
    reported: AtomicBool,
}

impl Lane {
    /// Queues a record behind those that are there.
    fn append(
        self: &Arc<Self>,
        native: &Native,
        time: Duration,
        record: BaseRecord<'_, [u8], [u8]>,
        done: OnAppended,
    ) -> Result<(), (AppendError, OnAppended)> {
        // Held while the record is queued: others must see it in the same order.
        let mut unreported = self.0.lock();
        if unreported.overdue > 0 {
            let error = "an append before this one has no answer yet".to_owned();
            return Err((AppendError::Failed(error), done));
        }
        let unanswered = Arc::new(Unanswered {
            lane: self.clone(),
            deadline: Instant::now() + time,
            done: Mutex::new(Some(done)),
            reported: AtomicBool::new(false),
        });
        // A thread that reports it at once waits for the lock.
        unreported.appends.push_back(unanswered.clone());
        let record = BaseRecord {
            topic: record.topic,
            partition: record.partition,
            payload: record.payload,
            key: record.key,
            timestamp: record.timestamp,
            headers: record.headers,
            delivery_opaque: unanswered,
        };
        native.send(record).map_err(|(error, record)| {
            // Nothing was queued.
            unreported.appends.pop_back();
            let error = match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => AppendError::Full,
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => AppendError::TooLarge,
                _ => AppendError::Failed(error.to_string()),
            };
            let done = record.delivery_opaque.done.lock().take();
            (error, done.unwrap_or_else(|| Box::new(|_| {})))
        })
    }

    /// Forgets what was reported.
    fn tidy(&self) {
        let mut unreported = self.0.lock();
        while let Some(first) = unreported.appends.front()
            && first.reported.load(Ordering::Acquire)
        {
            unreported.appends.pop_front();
            unreported.overdue = unreported.overdue.saturating_sub(1);
        }
    }

    /// Answers those that had their time.
    fn expire(&self, now: Instant) {
        let mut expired = Vec::new();
        {
            let mut unreported = self.0.lock();
            let from = unreported.overdue;
            let due = unreported.appends.iter().skip(from);
            let due = due.take_while(|append| append.deadline <= now);
            expired.extend(due.filter_map(|append| append.done.lock().take()));
            let due = unreported.appends.iter().skip(from);
            unreported.overdue += due.take_while(|append| append.deadline <= now).count();
        }
        for done in expired {
            let error = "the brokers did not answer in time".to_owned();
            answer(done, Err(AppendError::Unknown(error)));
        }
        self.tidy();
    }
}

impl Producer {
    /// Makes it, for so many partitions; appends are fast once [`Producer::warm_up`] is over.
    pub(super) fn new(
        config: ClientConfig,
        times: Times,
        partitions: usize,
    ) -> Result<Self, KafkaError> {
        let lanes: Arc<[Arc<Lane>]> = (0..partitions).map(|_| Arc::default()).collect();
        let running = Running::start(&config, lanes.clone())?;
        Ok(Self {
            config,
            times,
            state: RwLock::new(State::Open(running)),
            lanes,
        })
    }

    /// Waits until a producer that was made now can send at once.
    pub(super) async fn warm_up() {
        tokio::time::sleep(WARM_UP).await;
    }

    /// Queues a record for a partition of a topic. `lane` counts the partitions of all its topics.
    pub(super) fn append(
        &self,
        topic: &str,
        (partition, lane): (i32, usize),
        record: &NewRecord,
        done: OnAppended,
    ) {
        let state = self.state.read();
        let refused = match (&*state, self.lanes.get(lane)) {
            (State::Open(running), Some(lane)) => {
                let record = prepare(topic, partition, record);
                lane.append(&running.native, self.times.append, record, done)
            }
            (State::Replacing, _) => {
                let error = "the producer has failed and is being replaced".to_owned();
                Err((AppendError::Failed(error), done))
            }
            (State::Closed, _) => Err((AppendError::Closed, done)),
            (_, None) => {
                let error = "there is no such partition".to_owned();
                Err((AppendError::Failed(error), done))
            }
        };
        drop(state);
        if let Err((error, done)) = refused {
            answer(done, Err(error));
        }
    }

    /// Replaces the producer if it has failed for good. Blocks meanwhile.
    pub(super) fn heal(&self) {
        let failure = match &*self.state.read() {
            State::Open(running) => running.native.client().fatal_error(),
            // A try before this one has failed.
            State::Replacing => Some((RDKafkaErrorCode::Fatal, String::new())),
            State::Closed => None,
        };
        let Some((code, reason)) = failure else {
            return;
        };
        if let State::Open(old) = self.set(State::Replacing, false) {
            tracing::error!(%code, reason, "a producer has failed; replacing it");
            // It sends nothing any more; what it has sent may still be answered.
            old.native.purge(PurgeConfig::default().queue());
            old.finish(self.times.request + REPORT_GRACE);
        }
        match Running::start(&self.config, self.lanes.clone()) {
            Ok(running) => {
                thread::sleep(WARM_UP);
                self.set(State::Open(running), false);
                tracing::info!("a new producer has taken over");
            }
            Err(error) => tracing::error!(%error, "no new producer can be made; trying again"),
        }
    }

    /// Waits until everything was reported, or the time is over; then gives up the rest. Blocks.
    pub(super) fn close(&self, timeout: Duration) {
        if let State::Open(running) = self.set(State::Closed, true) {
            running.finish(timeout);
        }
    }

    /// A closed one stays closed.
    fn set(&self, new: State, close: bool) -> State {
        let mut state = self.state.write();
        if matches!(*state, State::Closed) && !close {
            return new;
        }
        std::mem::replace(&mut *state, new)
    }

    #[cfg(test)]
    pub(super) fn fail_for_good(&self) {
        if let State::Open(running) = &*self.state.read() {
            native::fail_for_good(running.native.client());
        }
    }
}

type Native = BaseProducer<Reports>;

/// A producer with the thread that takes its reports.
struct Running {
    native: Arc<Native>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(config: &ClientConfig, lanes: Arc<[Arc<Lane>]>) -> Result<Self, KafkaError> {
        let native = Arc::new(Native::from_config_and_context(config, Reports)?);
        let stop = Arc::new(AtomicBool::new(false));
        let (reporting, stopped) = (native.clone(), stop.clone());
        let report = move || {
            while !stopped.load(Ordering::Acquire) {
                reporting.poll(TICK);
                let now = Instant::now();
                lanes.iter().for_each(|lane| lane.expire(now));
            }
        };
        let thread = thread::Builder::new()
            .name("log-appends".to_owned())
            .spawn(report)
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self {
            native,
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it. Nobody appends any more.
    fn finish(self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while self.native.in_flight_count() > 0 && Instant::now() < deadline {
            thread::sleep(TICK);
        }
        // What is left is reported now.
        self.native.purge(PurgeConfig::default().queue().inflight());
        let deadline = Instant::now() + REPORT_GRACE;
        while self.native.in_flight_count() > 0 && Instant::now() < deadline {
            thread::sleep(TICK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The last one that has the producer gives up what it still has, which is reported.
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread of a producer has panicked");
        }
    }
}

fn prepare<'a>(
    topic: &'a str,
    partition: i32,
    record: &'a NewRecord,
) -> BaseRecord<'a, [u8], [u8]> {
    let new = BaseRecord::to(topic)
        .partition(partition)
        .key(&record.key[..])
        .payload(&record.payload[..]);
    if record.headers.is_empty() {
        return new;
    }
    let headers = OwnedHeaders::new_with_capacity(record.headers.len());
    let insert = |headers: OwnedHeaders, (key, value): &(String, bytes::Bytes)| {
        let value = Some(&value[..]);
        headers.insert(Header { key, value })
    };
    new.headers(record.headers.iter().fold(headers, insert))
}

fn answer(done: OnAppended, result: Result<Appended, AppendError>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("a callback of an append panicked");
    }
}

/// Takes the reports of a producer, on its own thread.
struct Reports;

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        quiet_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "a producer reports");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Arc<Unanswered>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, append: Arc<Unanswered>) {
        append.reported.store(true, Ordering::Release);
        append.lane.tidy();
        // Its time may be over.
        let Some(done) = append.done.lock().take() else {
            return;
        };
        let result = match delivered {
            Ok(message) => appended(message),
            Err((error, message)) => {
                let code = error.rdkafka_error_code();
                if native::may_be_in_log(message) {
                    Err(AppendError::Unknown(error.to_string()))
                } else if code == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
                    Err(AppendError::TooLarge)
                } else {
                    Err(AppendError::Failed(error.to_string()))
                }
            }
        };
        answer(done, result);
    }
}

/// A record that is in the log, whether or not the brokers still know where.
fn appended(message: &BorrowedMessage<'_>) -> Result<Appended, AppendError> {
    let offset = u64::try_from(message.offset()).ok();
    match u32::try_from(message.partition()) {
        Ok(partition) if offset.is_some() || native::is_in_log(message) => {
            Ok(Appended { partition, offset })
        }
        _ => Err(AppendError::Unknown("the log did not say where".to_owned())),
    }
}

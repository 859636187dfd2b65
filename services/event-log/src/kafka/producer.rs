//! Appending: an idempotent producer of librdkafka, and another one when that has failed for good.
//!
//! A producer keeps the order of its records, in each partition, also when it retries: the brokers
//! check the numbers of its records. A record that is given up leaves no later one behind it on its way: when
//! it may have been sent, librdkafka begins a new epoch, and brokers refuse what comes late from the
//! old one. All records of a topic go through one producer, because two know nothing of each other.
//!
//! A producer that fails for good (a broker has lost its numbers) is replaced. The new one starts when
//! the old one has reported every record that it had; appends are refused until then, so order is kept
//! among all that are confirmed. A record that the old one reported as unknown may, in theory, still
//! lie unread in a connection; its number is the old producer's, so it could come later.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, Message, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
};

use super::{native, quiet_log};
use crate::{AppendError, Appended, NewRecord, OnAppended};

/// How long a new producer waits for its number. It asks for it when it is made, when no connection is there
/// yet, and again half a second later: the first append would wait for that.
const WARM_UP: Duration = Duration::from_millis(600);
/// How often it is looked whether everything was reported.
const POLL: Duration = Duration::from_millis(20);
/// What reports may need beyond the records' own time.
const REPORT_GRACE: Duration = Duration::from_secs(1);

type Native = ThreadedProducer<Reports>;

/// Appends to some topics.
pub(super) struct Producer {
    config: ClientConfig,
    message_timeout: Duration,
    state: RwLock<State>,
}

enum State {
    Open(Native),
    /// The last one failed for good.
    Replacing,
    Closed,
}

impl Producer {
    /// Makes it; appends are fast once [`Producer::warm_up`] is over.
    pub(super) fn new(config: ClientConfig, message_timeout: Duration) -> Result<Self, KafkaError> {
        let native = Native::from_config_and_context(&config, Reports)?;
        Ok(Self {
            config,
            message_timeout,
            state: RwLock::new(State::Open(native)),
        })
    }

    /// Waits until a producer that was made now can send at once.
    pub(super) async fn warm_up() {
        tokio::time::sleep(WARM_UP).await;
    }

    /// Queues a record.
    pub(super) fn append(&self, topic: &str, partition: i32, record: &NewRecord, done: OnAppended) {
        let state = self.state.read();
        let refused = match &*state {
            State::Open(native) => send(native, topic, partition, record, done),
            State::Replacing => {
                let error = "the producer has failed and is being replaced".to_owned();
                Err((AppendError::Failed(error), done))
            }
            State::Closed => Err((AppendError::Closed, done)),
        };
        drop(state);
        if let Err((error, done)) = refused {
            answer(done, Err(error));
        }
    }

    /// Replaces the producer if it has failed for good. Blocks meanwhile.
    pub(super) fn heal(&self) {
        let failure = match &*self.state.read() {
            State::Open(native) => native.client().fatal_error(),
            // A try before this one has failed.
            State::Replacing => Some((RDKafkaErrorCode::Fatal, String::new())),
            State::Closed => None,
        };
        let Some((code, reason)) = failure else {
            return;
        };
        if let State::Open(old) = self.set(State::Replacing, false) {
            tracing::error!(%code, reason, "a producer has failed; replacing it");
            finish(old, self.message_timeout + REPORT_GRACE);
        }
        match Native::from_config_and_context(&self.config, Reports) {
            Ok(native) => {
                std::thread::sleep(WARM_UP);
                self.set(State::Open(native), false);
                tracing::info!("a new producer has taken over");
            }
            Err(error) => tracing::error!(%error, "no new producer can be made; trying again"),
        }
    }

    /// Waits until everything was reported, or the time is over; then gives up the rest. Blocks.
    pub(super) fn close(&self, timeout: Duration) {
        if let State::Open(native) = self.set(State::Closed, true) {
            finish(native, timeout);
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
        if let State::Open(native) = &*self.state.read() {
            native::fail_for_good(native.client());
        }
    }
}

/// Ends a producer. Nobody else has it any more.
fn finish(native: Native, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    while native.in_flight_count() > 0 && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
    // What is left is reported now.
    native.purge(PurgeConfig::default().queue().inflight());
    let deadline = Instant::now() + REPORT_GRACE;
    while native.in_flight_count() > 0 && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
}

fn send(
    native: &Native,
    topic: &str,
    partition: i32,
    record: &NewRecord,
    done: OnAppended,
) -> Result<(), (AppendError, OnAppended)> {
    let mut new = BaseRecord::with_opaque_to(topic, Box::new(Mutex::new(done)))
        .partition(partition)
        .key(&record.key[..])
        .payload(&record.payload[..]);
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        let insert = |headers: OwnedHeaders, (key, value): &(String, bytes::Bytes)| {
            headers.insert(Header {
                key,
                value: Some(&value[..]),
            })
        };
        new = new.headers(record.headers.iter().fold(headers, insert));
    }
    native.send(new).map_err(|(error, record)| {
        // Nothing was queued.
        let error = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => AppendError::Full,
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => AppendError::TooLarge,
            _ => AppendError::Failed(error.to_string()),
        };
        (error, record.delivery_opaque.into_inner())
    })
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
    /// In a mutex that is never locked: rdkafka wants it to be `Sync`.
    type DeliveryOpaque = Box<Mutex<OnAppended>>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, done: Box<Mutex<OnAppended>>) {
        let result = match delivered {
            Ok(message) => appended(message.partition(), message.offset()),
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
        answer(done.into_inner(), result);
    }
}

fn appended(partition: i32, offset: i64) -> Result<Appended, AppendError> {
    let place = (u32::try_from(partition), u64::try_from(offset));
    let (Ok(partition), Ok(offset)) = place else {
        return Err(AppendError::Unknown("the log did not say where".to_owned()));
    };
    Ok(Appended { partition, offset })
}

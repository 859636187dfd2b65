//! The log on Apache Kafka.
//!
//! A record is confirmed when all in-sync copies of its partition have it, at least
//! `min.insync.replicas` of them: replicated, not synced to a disk. So a cluster that keeps only
//! one copy, or lets a broker without all records lead, is refused unless the configuration says
//! `dev`.
//!
//! * Appends go through idempotent producers (`producer`): a retry makes no second record, and
//!   records of a key keep their order. Where a record goes is decided here, by the same hash
//!   everywhere.
//! * A membership is a consumer of its own with a thread (`member`), a reader empties the queue of
//!   its partition (`reader`).
//! * `topics` makes the topics and checks everything when the log is opened; `health` asks every
//!   second whether the cluster is still there.
//!
//! Needs brokers of Kafka 4.0 or newer, or older ones with [`GroupProtocol::Classic`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, client::Client, config::RDKafkaLogLevel, error::KafkaError, types::RDKafkaType,
};
use runtime::{config::ConfigError, process::NotThere};
use tokio::sync::watch;

use crate::{
    AppendError, EventLog, KEY_AND_HEADERS_BYTES_MAX, LogError, Membership, NewRecord, OnAppended,
    PAYLOAD_BYTES_MAX, Topic, TopicIdentity, Urgency, partitioner,
};

mod config;
mod health;
mod member;
mod native;
mod producer;
mod reader;
mod topics;

pub use config::{GroupProtocol, KafkaConfig, PROPERTIES, Properties, TopicConfig};
use producer::{Producer, Times};

/// Why a log cannot be opened. [`OpenError::is_away`] says whether trying again can help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The brokers do not answer, or not all that is needed is there yet.
    #[error("the log is away: {0}")]
    Away(String),
    /// There are too few brokers for the copies that are wanted. Others may still come: whether a
    /// cluster is small or starting is not to be seen from outside.
    #[error("the log has {has} brokers, and replication_factor needs {wanted}")]
    NotEnoughBrokers {
        /// Brokers that are there.
        has: usize,
        /// Brokers that are needed.
        wanted: usize,
    },
    /// Records that were confirmed could be lost, and this is not `dev`.
    #[error("the log could lose records that it has confirmed: {}", list(.0))]
    Unsafe(Vec<Unsafe>),
    /// Partition counts are fixed: keys would go elsewhere.
    #[error("topic {topic} has {has} partitions and cannot have {wanted}")]
    PartitionCount {
        /// The topic.
        topic: Topic,
        /// What it was made with.
        has: u32,
        /// What the configuration says.
        wanted: u32,
    },
    /// A topic that is there already has a setting that does not fit.
    #[error("topic {topic} has {key}={value}")]
    TopicSetting {
        /// The topic.
        topic: Topic,
        /// Kafka's name of the setting.
        key: String,
        /// Its value.
        value: String,
    },
    /// The configuration is wrong.
    #[error("the log's configuration: {key} {problem}")]
    Config {
        /// Which setting.
        key: String,
        /// What is wrong about it.
        problem: String,
    },
    /// The brokers refuse us, or do not know what is asked of them.
    #[error("the log refuses: {0}")]
    Refused(String),
}

impl OpenError {
    /// Whether trying again later can help.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away(_) | Self::NotEnoughBrokers { .. })
    }
}

/// A way to lose records that were confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// One broker's end is the records' end.
    #[error("topic {topic} has {replicas} copies")]
    Replication {
        /// The topic.
        topic: Topic,
        /// Copies of its partitions.
        replicas: u64,
    },
    /// Records are confirmed that only so many brokers have.
    #[error("topic {topic} has min.insync.replicas={replicas}")]
    InSync {
        /// The topic.
        topic: Topic,
        /// The setting.
        replicas: u64,
    },
    /// A broker that has not all records may become the leader, and cuts the others.
    #[error("topic {topic} has unclean.leader.election.enable=true")]
    UncleanElection {
        /// The topic.
        topic: Topic,
    },
}

fn list(dangers: &[Unsafe]) -> String {
    let dangers: Vec<_> = dangers.iter().map(ToString::to_string).collect();
    dangers.join("; ")
}

/// An open log. Dropping it gives up what was not confirmed yet; [`KafkaLog::close`] waits for it.
pub struct KafkaLog {
    shared: Arc<Shared>,
    running: Mutex<Running>,
}

/// Threads to wait for.
#[derive(Default)]
struct Running {
    /// Dropped to end the health thread.
    stop_health: Option<mpsc::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// A topic in this cluster.
#[derive(Debug, Clone)]
struct Place {
    name: String,
    identity: TopicIdentity,
    /// Of the topic's producer, the lane of the first partition.
    lane: usize,
}

/// What the log, its members and its readers share.
struct Shared {
    config: KafkaConfig,
    topics: BTreeMap<Topic, Place>,
    /// Of topics that somebody waits for.
    prompt: Producer,
    /// Of topics that are derived from others.
    derived: Producer,
    connected: watch::Sender<bool>,
    closed: AtomicBool,
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    fn place(&self, topic: Topic) -> Result<&Place, String> {
        let missing = || format!("the log has no topic {topic}");
        self.topics.get(&topic).ok_or_else(missing)
    }

    fn producer(&self, topic: Topic) -> &Producer {
        if is_derived(topic) {
            &self.derived
        } else {
            &self.prompt
        }
    }

    fn producers(&self) -> impl Iterator<Item = &Producer> {
        [&self.prompt, &self.derived].into_iter()
    }
}

/// Which producer a topic has. By the topic and not by [`Urgency`]: records of one key must not
/// overtake each other.
const fn is_derived(topic: Topic) -> bool {
    match topic {
        Topic::Messages | Topic::Fanout | Topic::Users => false,
        Topic::Inbox | Topic::Offline | Topic::References => true,
    }
}

impl KafkaLog {
    /// Finds the cluster, makes the topics that are missing, and checks that nothing that was
    /// confirmed can be lost. Answers within some ten times
    /// [`request_timeout_ms`](KafkaConfig::request_timeout_ms).
    pub async fn open(config: KafkaConfig) -> Result<Arc<Self>, OpenError> {
        config.check()?;
        let mut topics = topics::open(&config).await?;
        let mut make = |derived, linger_ms| {
            let mut lanes = 0;
            let own = topics
                .iter_mut()
                .filter(|(topic, _)| is_derived(**topic) == derived);
            for place in own.map(|(_, place)| place) {
                place.lane = lanes;
                lanes += place.identity.partitions as usize;
            }
            let times = Times {
                append: config.message_timeout(),
                request: config.request_timeout(),
            };
            Producer::new(config.producer(linger_ms), times, lanes).map_err(topics::client_error)
        };
        let prompt = make(false, config.linger_ms)?;
        let derived = make(true, config.derived_linger_ms)?;
        let client = client(&config)?;
        Producer::warm_up().await;
        let shared = Arc::new(Shared {
            config,
            topics,
            prompt,
            derived,
            connected: watch::Sender::new(true),
            closed: AtomicBool::new(false),
        });
        let (stop_health, stop) = mpsc::channel();
        let health = health::start(&shared, client, stop);
        let health = health.map_err(|error| OpenError::Away(error.to_string()))?;
        let running = Running {
            stop_health: Some(stop_health),
            threads: vec![health],
        };
        Ok(Arc::new(Self {
            shared,
            running: Mutex::new(running),
        }))
    }

    /// Whether the cluster answers and has a leader for every partition, and every change of that.
    /// Seen within a second or, if a broker is silent, a request's time.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.shared.connected()
    }

    /// Whether it does now.
    pub fn is_connected(&self) -> bool {
        *self.shared.connected.borrow()
    }

    /// Waits for what was appended, up to [`close_timeout_ms`](KafkaConfig::close_timeout_ms),
    /// leaves all groups, and answers [`AppendError::Closed`] and [`LogError::Closed`] from then
    /// on.
    pub async fn close(&self) {
        let running = std::mem::take(&mut *self.running.lock());
        let shared = self.shared.clone();
        let closing = tokio::task::spawn_blocking(move || {
            let timeout = shared.config.close_timeout();
            // Readers may derive records until the end; appending ends first, so that they see it.
            shared
                .producers()
                .for_each(|producer| producer.close(timeout));
            shared.closed.store(true, Ordering::Release);
            drop(running.stop_health);
            let deadline = Instant::now() + timeout;
            for thread in running.threads {
                while !thread.is_finished() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(10));
                }
                // One that hangs in a call ends when the call does.
                if thread.is_finished() && thread.join().is_err() {
                    tracing::error!("a thread of the log has panicked");
                }
            }
        });
        if closing.await.is_err() {
            tracing::error!("closing the log has panicked");
        }
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        // Members and the health thread see it and end by themselves.
        self.shared.closed.store(true, Ordering::Release);
    }
}

#[async_trait]
impl EventLog for KafkaLog {
    /// Of a topic that the log was not opened with: no partitions.
    fn identity(&self, topic: Topic) -> TopicIdentity {
        let none = |_| TopicIdentity {
            log_id: String::new(),
            topic_id: String::new(),
            partitions: 0,
        };
        let place = self.shared.place(topic);
        place.map_or_else(none, |place| place.identity.clone())
    }

    fn partition_of(&self, topic: Topic, key: &[u8]) -> u32 {
        let place = self.shared.place(topic);
        partitioner::partition_of(key, place.map_or(0, |p| p.identity.partitions))
    }

    fn append(&self, topic: Topic, record: NewRecord, _urgency: Urgency, done: OnAppended) {
        let place = match self.shared.place(topic) {
            Ok(place) => place,
            Err(error) => return done(Err(AppendError::Failed(error))),
        };
        if is_too_large(&record) {
            return done(Err(AppendError::TooLarge));
        }
        let number = partitioner::partition_of(&record.key, place.identity.partitions);
        let partition = i32::try_from(number).unwrap_or(0);
        let lane = place.lane + number as usize;
        let producer = self.shared.producer(topic);
        producer.append(&place.name, (partition, lane), &record, done);
    }

    async fn join(&self, group: &str, topic: Topic) -> Result<Box<dyn Membership>, LogError> {
        if self.shared.is_closed() {
            return Err(LogError::Closed);
        }
        let (member, thread) = member::Member::join(self.shared.clone(), group, topic)?;
        let mut running = self.running.lock();
        running.threads.retain(|thread| !thread.is_finished());
        running.threads.push(thread);
        Ok(Box::new(member))
    }
}

fn is_too_large(record: &NewRecord) -> bool {
    let each = |(name, value): &(String, bytes::Bytes)| name.len().saturating_add(value.len());
    let headers = record
        .headers
        .iter()
        .map(each)
        .fold(0, usize::saturating_add);
    let beside = headers.saturating_add(record.key.len());
    beside > KEY_AND_HEADERS_BYTES_MAX || record.payload.len() > PAYLOAD_BYTES_MAX
}

impl From<OpenError> for NotThere {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Config { key, problem } => {
                Self::wrong(ConfigError::setting(&format!("kafka.{key}"), &problem))
            }
            error if error.is_away() => Self::away(&error),
            error => Self::wrong(error),
        }
    }
}

/// Takes what librdkafka says without being asked.
#[derive(Debug, Default)]
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        quiet_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "a client reports");
    }
}

/// What librdkafka logs is about single connections, again and again while brokers are away; that
/// they are is said once, by `health`.
fn quiet_log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    tracing::debug!(?level, facility, message, "librdkafka");
}

/// A client that only asks.
fn client(config: &KafkaConfig) -> Result<Client<Quiet>, OpenError> {
    let config = config.client();
    let native = config
        .create_native_config()
        .map_err(topics::client_error)?;
    let kind = RDKafkaType::RD_KAFKA_PRODUCER;
    Client::new(&config, native, kind, Quiet).map_err(topics::client_error)
}

#[cfg(test)]
mod tests;

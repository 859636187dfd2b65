//! How to open a log on Kafka, and what that means for librdkafka.

use std::{collections::BTreeMap, fmt, time::Duration};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use serde::{Deserialize, Deserializer};

use super::OpenError;
use crate::{KEY_AND_HEADERS_BYTES_MAX, PAYLOAD_BYTES_MAX, Topic};

/// The largest request of a producer, in bytes: a few records of the largest size. librdkafka's own
/// default.
const BATCH_BYTES_MAX: usize = 1_000_000;
/// `max.message.bytes` of the topics: a batch with what Kafka adds to it. Kafka's own default.
pub(super) const TOPIC_BYTES_MAX: usize = 1_048_588;
const _: () = assert!(PAYLOAD_BYTES_MAX + KEY_AND_HEADERS_BYTES_MAX < BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX < TOPIC_BYTES_MAX);

/// The longest that a broker keeps a fetch that finds nothing. A fetch that finds something is
/// answered at once; but a reader that has moved waits for the fetch under way, so it is short.
const FETCH_WAIT: Duration = Duration::from_millis(100);
/// What a fetch brings at most, in bytes.
const FETCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How soon a partition whose buffer was full is fetched again; librdkafka's second would be a gap.
const FETCH_BACKOFF: Duration = Duration::from_millis(5);
/// Records that a partition's buffer has before fetching pauses; its bytes count as well.
const BUFFERED_RECORDS: usize = 10_000;
/// How soon a lost connection is tried again, at first and at last: librdkafka's ten seconds at
/// last would be most of the time that a sender waits.
const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_millis(500);
/// How soon it is asked again who leads a partition whose leader is gone.
const LEADER_REFRESH: Duration = Duration::from_millis(100);
/// How often the hints of readers are sent.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// What [`KafkaConfig::properties`] may set: how to be let in, and nothing that decides about
/// records.
pub const PROPERTIES: &[&str] = &[
    "security.protocol",
    "sasl.mechanism",
    "sasl.username",
    "sasl.password",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
];

/// How to open a log on Kafka. Durations are in milliseconds, sizes in KiB (1,024 bytes).
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `HOST:PORT` of some brokers, with commas between.
    pub bootstrap_servers: String,
    /// What brokers call this process in their logs and quotas.
    #[serde(default = "client_id")]
    pub client_id: String,
    /// Allows clusters and topics that can lose records that were confirmed, such as a single
    /// broker.
    #[serde(default)]
    pub dev: bool,
    /// Put before the names of topics and groups: several logs in one cluster.
    #[serde(default)]
    pub topic_prefix: String,
    /// Copies of each partition, of topics that are made. Below 2 for `dev` only.
    #[serde(default = "replication_factor")]
    pub replication_factor: u16,
    /// Copies that must have a record before it is confirmed, of topics that are made. Below 2 for
    /// `dev` only; one below the factor lets one broker fail.
    #[serde(default = "min_insync_replicas")]
    pub min_insync_replicas: u16,
    /// The topics. From a file: all of them, with what the file says about some.
    #[serde(default = "topics", deserialize_with = "with_default_topics")]
    pub topics: BTreeMap<Topic, TopicConfig>,
    /// How the members of a group share partitions.
    #[serde(default)]
    pub group_protocol: GroupProtocol,
    /// How long an append may take; then it is answered as unknown. Below the time that a sender
    /// waits for its answer (10 s), with room for the answer's way back: a sender is to be told
    /// instead of giving up.
    #[serde(default = "message_timeout_ms")]
    pub message_timeout_ms: u32,
    /// How long a broker may take to answer a request. Some of them fit into an append's time, so
    /// that one that was sent to a broker that hangs goes to the next leader in time; and it is
    /// longer than busy machines take.
    #[serde(default = "request_timeout_ms")]
    pub request_timeout_ms: u32,
    /// How long an append to a topic that somebody waits for may wait for others to share its
    /// request. Requests cost processor time, records hardly any.
    #[serde(default = "linger_ms")]
    pub linger_ms: u32,
    /// The same for topics that are derived from others (`inbox`, `offline`).
    #[serde(default = "derived_linger_ms")]
    pub derived_linger_ms: u32,
    /// Appends that may wait, in each of the two producers; more get [`AppendError::Full`].
    ///
    /// [`AppendError::Full`]: crate::AppendError::Full
    #[serde(default = "queue_max")]
    pub queue_max: u32,
    /// Bytes of appends that may wait, in each of the two producers.
    #[serde(default = "queue_kib_max")]
    pub queue_kib_max: u32,
    /// What is fetched ahead of the reader of one partition; up to one fetch of 1 MiB more.
    #[serde(default = "read_ahead_kib_max")]
    pub read_ahead_kib_max: u32,
    /// How long a reader may take to see that its partition was taken away. Then it is handed on
    /// all the same. Longer than any batch takes to be stored, and far below the 5 minutes after
    /// which the group gives up on this member.
    #[serde(default = "revoke_wait_ms")]
    pub revoke_wait_ms: u32,
    /// How long closing waits for what was appended.
    #[serde(default = "close_timeout_ms")]
    pub close_timeout_ms: u32,
    /// Properties of librdkafka: those of [`PROPERTIES`].
    #[serde(default)]
    pub properties: Properties,
}

impl KafkaConfig {
    /// All topics, the usual limits.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            client_id: client_id(),
            dev: false,
            topic_prefix: String::new(),
            replication_factor: replication_factor(),
            min_insync_replicas: min_insync_replicas(),
            topics: topics(),
            group_protocol: GroupProtocol::default(),
            message_timeout_ms: message_timeout_ms(),
            request_timeout_ms: request_timeout_ms(),
            linger_ms: linger_ms(),
            derived_linger_ms: derived_linger_ms(),
            queue_max: queue_max(),
            queue_kib_max: queue_kib_max(),
            read_ahead_kib_max: read_ahead_kib_max(),
            revoke_wait_ms: revoke_wait_ms(),
            close_timeout_ms: close_timeout_ms(),
            properties: Properties::default(),
        }
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("dev", &self.dev)
            .field("topics", &self.topics)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

/// A topic's settings, used when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicConfig {
    /// Fixed for ever when the topic is made; another number is refused.
    pub partitions: u32,
    /// How long records are kept: longer than any reader may be away.
    pub retention_ms: u64,
}

/// How the members of a group share partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupProtocol {
    /// KIP-848: the brokers decide (4.0 and newer), and their settings say how soon a dead member
    /// is noticed (`group.consumer.session.timeout.ms`).
    #[default]
    Consumer,
    /// The members decide, for older brokers: cooperative-sticky, with a session of 6 seconds.
    Classic,
}

/// Properties of librdkafka. There are passwords among them, so they are not shown.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Properties(pub BTreeMap<String, String>);

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn client_id() -> String {
    "messenger".to_owned()
}

const fn replication_factor() -> u16 {
    3
}

const fn min_insync_replicas() -> u16 {
    2
}

const fn message_timeout_ms() -> u32 {
    8_000
}

const fn request_timeout_ms() -> u32 {
    3_000
}

/// Who writes alone should not wait for company. ARCHITECTURE.md has what other values cost and give, and
/// the commands that measure it.
const fn linger_ms() -> u32 {
    0
}

const fn derived_linger_ms() -> u32 {
    5
}

/// A second of a busy process.
const fn queue_max() -> u32 {
    32_768
}

const fn queue_kib_max() -> u32 {
    64 * 1024
}

const fn read_ahead_kib_max() -> u32 {
    4 * 1024
}

const fn revoke_wait_ms() -> u32 {
    10_000
}

const fn close_timeout_ms() -> u32 {
    10_000
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Of `offline`: a notifier, or a provider of pushes, that is away for less loses nothing of it. A device gets
/// no push that is older than 3 days, so those who come later than this have nothing to tell.
const OFFLINE_DAYS: u64 = 7;

/// 12 partitions can be shared by 2, 3, 4, 6 or 12 processes evenly. Facts about accounts are few,
/// and a new reader wants old ones.
fn topics() -> BTreeMap<Topic, TopicConfig> {
    let topic = |partitions, days: u64| TopicConfig {
        partitions,
        retention_ms: days * DAY_MS,
    };
    BTreeMap::from([
        (Topic::Messages, topic(12, 7)),
        (Topic::Fanout, topic(12, 7)),
        (Topic::Inbox, topic(12, 7)),
        (Topic::Offline, topic(6, OFFLINE_DAYS)),
        (Topic::Users, topic(3, 365)),
        // As many partitions as `Messages`: a barrier goes from each of those to the same of these.
        (Topic::References, topic(12, 7)),
    ])
}

/// What a file says about a topic; the rest is as usual.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SomeTopicConfig {
    partitions: Option<u32>,
    retention_ms: Option<u64>,
}

fn with_default_topics<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<Topic, TopicConfig>, D::Error> {
    let mut topics = topics();
    for (topic, said) in BTreeMap::<Topic, SomeTopicConfig>::deserialize(from)? {
        if let Some(topic) = topics.get_mut(&topic) {
            topic.partitions = said.partitions.unwrap_or(topic.partitions);
            topic.retention_ms = said.retention_ms.unwrap_or(topic.retention_ms);
        }
    }
    Ok(topics)
}

impl KafkaConfig {
    /// Refuses what contradicts itself or could never work.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let wrong = |key: &str, problem: &str| {
            let (key, problem) = (key.to_owned(), problem.to_owned());
            Err(OpenError::Config { key, problem })
        };
        if self.bootstrap_servers.trim().is_empty() {
            return wrong("bootstrap_servers", "is empty");
        }
        if self.topics.is_empty() {
            return wrong("topics", "is empty");
        }
        for (topic, config) in &self.topics {
            // Kafka counts them with a sign.
            if config.partitions == 0 || i32::try_from(config.partitions).is_err() {
                return wrong(&format!("topics.{topic}.partitions"), "is out of range");
            }
            if i64::try_from(config.retention_ms).is_err() {
                return wrong(&format!("topics.{topic}.retention_ms"), "is out of range");
            }
        }
        if self.min_insync_replicas > self.replication_factor {
            return wrong("min_insync_replicas", "is above replication_factor");
        }
        if self.min_insync_replicas == 0 {
            return wrong("min_insync_replicas", "is 0");
        }
        // A fetch that waits must not look like a broker that hangs.
        if self.request_timeout_ms < 1_000 {
            return wrong("request_timeout_ms", "is below 1000");
        }
        if self.message_timeout_ms < self.request_timeout_ms {
            return wrong("message_timeout_ms", "is below request_timeout_ms");
        }
        for key in self.properties.0.keys() {
            if !PROPERTIES.contains(&key.as_str()) {
                return wrong(&format!("properties.{key}"), "is not one that may be set");
            }
        }
        Ok(())
    }

    pub(super) fn topic_name(&self, topic: Topic) -> String {
        format!("{}{topic}", self.topic_prefix)
    }

    /// A group is of one topic: the members of another do not disturb it.
    pub(super) fn group_name(&self, group: &str, topic: Topic) -> String {
        format!("{}{group}-{topic}", self.topic_prefix)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms.into())
    }

    pub(super) fn message_timeout(&self) -> Duration {
        Duration::from_millis(self.message_timeout_ms.into())
    }

    pub(super) fn revoke_wait(&self) -> Duration {
        Duration::from_millis(self.revoke_wait_ms.into())
    }

    pub(super) fn close_timeout(&self) -> Duration {
        Duration::from_millis(self.close_timeout_ms.into())
    }

    /// What all clients have.
    pub(super) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", &self.client_id)
            .set("socket.nagle.disable", "true")
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", self.request_timeout_ms.to_string())
            .set("reconnect.backoff.ms", millis(RECONNECT_MIN))
            .set("reconnect.backoff.max.ms", millis(RECONNECT_MAX))
            .set(
                "topic.metadata.refresh.fast.interval.ms",
                millis(LEADER_REFRESH),
            )
            // Brokers come and go; what that means is said once, by us.
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        for (key, value) in &self.properties.0 {
            config.set(key, value);
        }
        config
    }

    pub(super) fn producer(&self, linger_ms: u32) -> ClientConfig {
        let mut config = self.client();
        config
            // All copies that are in sync must have a record, and a retry must not make a second
            // one.
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", linger_ms.to_string())
            // Never: see `producer`, which keeps the time.
            .set("message.timeout.ms", "0")
            .set("request.timeout.ms", self.request_timeout_ms.to_string())
            .set("message.max.bytes", BATCH_BYTES_MAX.to_string())
            .set("queue.buffering.max.messages", self.queue_max.to_string())
            .set("queue.buffering.max.kbytes", self.queue_kib_max.to_string());
        config
    }

    pub(super) fn consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", group)
            // Hints of readers are sent together, and before a partition is given back.
            .set("enable.auto.offset.store", "false")
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", millis(COMMIT_INTERVAL))
            // A position outside of the log is an error of whoever has it.
            .set("auto.offset.reset", "error")
            // There are no transactions: everything that is replicated may be read.
            .set("isolation.level", "read_uncommitted")
            .set("check.crcs", "true")
            .set("fetch.min.bytes", "1")
            .set("fetch.wait.max.ms", millis(FETCH_WAIT))
            .set("fetch.queue.backoff.ms", millis(FETCH_BACKOFF))
            .set("fetch.max.bytes", FETCH_BYTES_MAX.to_string())
            .set("max.partition.fetch.bytes", TOPIC_BYTES_MAX.to_string())
            .set("queued.min.messages", BUFFERED_RECORDS.to_string())
            .set(
                "queued.max.messages.kbytes",
                self.read_ahead_kib_max.to_string(),
            );
        match self.group_protocol {
            GroupProtocol::Consumer => config.set("group.protocol", "consumer"),
            GroupProtocol::Classic => config
                .set("group.protocol", "classic")
                .set("partition.assignment.strategy", "cooperative-sticky")
                .set("session.timeout.ms", "6000")
                .set("heartbeat.interval.ms", "1000"),
        };
        config
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

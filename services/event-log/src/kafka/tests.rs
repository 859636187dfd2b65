use std::{
    future::Future,
    sync::{OnceLock, atomic::AtomicU32},
};

use bytes::Bytes;
use rdkafka::{
    admin::{AdminClient, AdminOptions, AlterConfig, ConfigSource, ResourceSpecifier},
    config::FromClientConfigAndContext,
};
use servers::kafka::{Kafka, Options};

use super::*;
use crate::{Appended, PartitionReader, Record, suite};

mod config;
mod failing;
mod opening;
mod reading;

/// How many brokers the tests share: `3` runs the suite on three that replicate, without `dev`.
const BROKERS: &str = "EVENT_LOG_KAFKA_BROKERS";
/// Set for a process that a test starts: the brokers, and the prefix of the topics.
const PART: &str = "EVENT_LOG_KAFKA_PART";
/// How long anything may take that is expected to happen.
const DEADLINE: Duration = Duration::from_secs(60);
/// So many partitions has `messages` in these tests, as in the suite.
const PARTITIONS: u32 = 4;

fn brokers() -> usize {
    std::env::var(BROKERS).map_or(1, |brokers| brokers.parse().unwrap())
}

/// The brokers that tests share; they end with this process.
fn servers() -> &'static str {
    static KAFKA: OnceLock<(Kafka, String)> = OnceLock::new();
    let start = || {
        let options = Options {
            brokers: brokers(),
            ..Options::default()
        };
        let kafka = Kafka::start(&options).unwrap();
        let servers = kafka.bootstrap_servers();
        (kafka, servers)
    };
    &KAFKA.get_or_init(start).1
}

/// A log of its own on one broker: the suite's topics.
fn config(servers: &str) -> KafkaConfig {
    static LOGS: AtomicU32 = AtomicU32::new(0);
    let number = LOGS.fetch_add(1, Ordering::Relaxed);
    let topic = |(topic, partitions)| {
        let retention_ms = 3_600_000;
        (
            topic,
            TopicConfig {
                partitions,
                retention_ms,
            },
        )
    };
    KafkaConfig {
        topic_prefix: format!("test-{}-{number}.", std::process::id()),
        dev: true,
        replication_factor: 1,
        min_insync_replicas: 1,
        topics: suite::TOPICS.map(topic).into(),
        ..KafkaConfig::new(servers)
    }
}

/// A log of its own on the brokers that tests share.
fn shared() -> KafkaConfig {
    let config = config(servers());
    if brokers() == 1 {
        return config;
    }
    let usual = KafkaConfig::new("");
    KafkaConfig {
        dev: false,
        replication_factor: usual.replication_factor,
        min_insync_replicas: usual.min_insync_replicas,
        ..config
    }
}

async fn open(config: &KafkaConfig) -> Arc<KafkaLog> {
    within("opening", KafkaLog::open(config.clone()))
        .await
        .unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, future).await;
    done.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

fn record(key: &str, payload: impl Into<String>) -> NewRecord {
    NewRecord {
        key: Bytes::copy_from_slice(key.as_bytes()),
        payload: Bytes::from(payload.into()),
        headers: Vec::new(),
    }
}

fn text(record: &Record) -> String {
    String::from_utf8(record.payload.to_vec()).unwrap()
}

/// A key of each partition.
fn keys() -> [String; PARTITIONS as usize] {
    std::array::from_fn(|partition| {
        let keys = (0..).map(|n| format!("key-{n}"));
        let is_there = |key: &String| {
            partitioner::partition_of(key.as_bytes(), PARTITIONS) as usize == partition
        };
        keys.into_iter().find(is_there).unwrap()
    })
}

async fn append(log: &KafkaLog, records: Vec<NewRecord>) -> Vec<Appended> {
    let appending = log.append_all(Topic::Messages, records, Urgency::Now);
    let results = within("the append", appending).await;
    results.into_iter().collect::<Result<_, _>>().unwrap()
}

type Readers = BTreeMap<u32, Box<dyn PartitionReader>>;

/// Joins, and takes all partitions.
async fn read_alone(log: &KafkaLog) -> (Box<dyn Membership>, Readers) {
    let mut member = log.join("one", Topic::Messages).await.unwrap();
    let mut readers = BTreeMap::new();
    while readers.len() < PARTITIONS as usize {
        let reader = within("the assignment", member.assigned()).await.unwrap();
        readers.insert(reader.partition(), reader);
    }
    (member, readers)
}

/// Everything from the reader's position to the end that the log has now.
async fn to_end(reader: &mut Box<dyn PartitionReader>) -> Vec<Record> {
    let (first, end) = within("the range", reader.range()).await.unwrap();
    within("the position", reader.seek(first)).await.unwrap();
    let mut records: Vec<Record> = Vec::new();
    while records.last().map_or(first, |r| r.offset + 1) < end {
        records.extend(within("a record", reader.next(1_000)).await.unwrap());
    }
    records
}

fn admin(config: &KafkaConfig) -> AdminClient<Quiet> {
    AdminClient::from_config_and_context(&config.client(), Quiet).unwrap()
}

fn admin_options() -> AdminOptions {
    let timeout = Some(Duration::from_secs(30));
    AdminOptions::new()
        .request_timeout(timeout)
        .operation_timeout(timeout)
}

/// Replaces all settings of a topic, and waits until the broker has heard of it.
async fn alter(config: &KafkaConfig, topic: Topic, settings: &[(&str, &str)]) {
    let (admin, name) = (admin(config), config.topic_name(topic));
    let about = ResourceSpecifier::Topic(&name);
    let mut alter = AlterConfig::new(about);
    for (key, value) in settings {
        alter = alter.set(key, value);
    }
    let altered = admin.alter_configs([&alter], &admin_options()).await;
    altered
        .unwrap()
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let mut wanted: Vec<_> = settings
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect();
    wanted.sort();
    within("the change", async {
        loop {
            let described = admin
                .describe_configs([&about], &admin_options())
                .await
                .unwrap();
            let entries = described
                .into_iter()
                .flat_map(|topic| topic.unwrap().entries);
            let own = entries.filter(|entry| entry.source == ConfigSource::DynamicTopic);
            let mut own: Vec<_> = own.map(|e| (e.name, e.value.unwrap_or_default())).collect();
            own.sort();
            if own == wanted {
                return;
            }
        }
    })
    .await;
}

mod conformance {
    use super::*;

    /// A log on the shared brokers.
    struct Shared(KafkaConfig, Mutex<Option<Arc<KafkaLog>>>);

    impl Shared {
        fn new() -> Self {
            Self(shared(), Mutex::default())
        }
    }

    #[async_trait]
    impl suite::Fixture for Shared {
        async fn open(&self) -> Arc<dyn EventLog> {
            let log = open(&self.0).await;
            *self.1.lock() = Some(log.clone());
            log
        }

        async fn close(&self, log: Arc<dyn EventLog>) {
            drop(log);
            let log = self.1.lock().take().unwrap();
            log.close().await;
        }
    }

    crate::conformance!(Shared::new());
}

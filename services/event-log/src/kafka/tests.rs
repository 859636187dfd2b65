use std::sync::{Arc, OnceLock, atomic::AtomicU32};

use async_trait::async_trait;
use servers::kafka::{Kafka, Options};

use super::*;
use crate::suite;

/// One broker for all tests of this process; it ends with the process.
fn broker() -> &'static str {
    static KAFKA: OnceLock<(Kafka, String)> = OnceLock::new();
    let start = || {
        let kafka = Kafka::start(&Options::default()).unwrap();
        let servers = kafka.bootstrap_servers();
        (kafka, servers)
    };
    &KAFKA.get_or_init(start).1
}

/// Topics of its own in a broker that is there.
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

mod conformance {
    use super::*;

    /// A log in the shared broker.
    struct Shared(KafkaConfig, Mutex<Option<Arc<KafkaLog>>>);

    impl Shared {
        fn new() -> Self {
            Self(config(broker()), Mutex::default())
        }
    }

    #[async_trait]
    impl suite::Fixture for Shared {
        async fn open(&self) -> Arc<dyn EventLog> {
            let log = KafkaLog::open(self.0.clone()).await.unwrap();
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

//! Whether the cluster keeps what it confirms, and its topics: made if they are missing, checked in
//! any case.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
    },
    admin::{ConfigSource, OwnedResourceSpecifier},
    client::Client,
    config::FromClientConfigAndContext,
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    OpenError, Place, Quiet, Unsafe,
    config::{KafkaConfig, TOPIC_BYTES_MAX},
    native::{self, Described},
};
use crate::{Topic, TopicIdentity};

const CLEANUP: &str = "cleanup.policy";
const MESSAGE_BYTES: &str = "max.message.bytes";
const IN_SYNC: &str = "min.insync.replicas";
const UNCLEAN: &str = "unclean.leader.election.enable";
/// What a topic may have from its brokers.
const SAFETY: [&str; 2] = [IN_SYNC, UNCLEAN];

/// How often it is asked for topics that were just made.
const POLL: Duration = Duration::from_millis(50);

/// What a broker or a topic says about itself: effective values, and where they are from.
struct Settings {
    /// Per topic.
    topics: BTreeMap<String, ConfigResource>,
    brokers: Vec<ConfigResource>,
}

/// Makes missing topics, checks all, and says where they are.
pub(super) async fn open(config: &KafkaConfig) -> Result<BTreeMap<Topic, Place>, OpenError> {
    let admin = AdminClient::from_config_and_context(&config.client(), Quiet);
    let admin = admin.map_err(client_error)?;
    let (admin, brokers, log_id) = find_cluster(admin, config).await?;
    let names: Vec<_> = config
        .topics
        .keys()
        .map(|t| config.topic_name(*t))
        .collect();
    let (admin, mut described) = describe(admin, config, &names, Duration::ZERO).await?;
    let mut missing = Vec::new();
    for ((topic, settings), described) in config.topics.iter().zip(&described) {
        if described.is_none() {
            missing.push((config.topic_name(*topic), settings));
        }
    }
    let mut admin = admin;
    if !missing.is_empty() {
        // Otherwise the cluster would make them with fewer copies, or not at all.
        let (has, wanted) = (brokers.len(), usize::from(config.replication_factor));
        if has < wanted {
            return Err(OpenError::NotEnoughBrokers { has, wanted });
        }
        check_copies(config)?;
        create(&admin, config, &missing).await?;
        // A broker may hear of them later than the one that made them.
        let patience = config.request_timeout();
        (admin, described) = describe(admin, config, &names, patience).await?;
    }
    let settings = settings(&admin, config, &names, &brokers).await?;
    let mut places = BTreeMap::new();
    let mut dangers = Vec::new();
    for ((topic, name), described) in config.topics.keys().zip(names).zip(described) {
        let Some(described) = described else {
            return Err(OpenError::Away(format!("topic {name} is not there yet")));
        };
        check(config, *topic, &name, &described, &settings, &mut dangers)?;
        let identity = TopicIdentity {
            log_id: log_id.clone(),
            topic_id: described.id,
            partitions: described.partitions,
        };
        places.insert(
            *topic,
            Place {
                name,
                identity,
                lane: 0,
            },
        );
    }
    if dangers.is_empty() {
        return Ok(places);
    }
    if !config.dev {
        return Err(OpenError::Unsafe(dangers));
    }
    let dangers: Vec<_> = dangers.iter().map(ToString::to_string).collect();
    tracing::warn!(
        dangers = dangers.join("; "),
        "the log can lose records; allowed for dev"
    );
    Ok(places)
}

/// What is asked for must be safe too.
fn check_copies(config: &KafkaConfig) -> Result<(), OpenError> {
    if config.dev {
        return Ok(());
    }
    let mut dangers = Vec::new();
    let topic = || {
        config
            .topics
            .keys()
            .next()
            .copied()
            .unwrap_or(Topic::Messages)
    };
    if config.replication_factor < 2 {
        let replicas = config.replication_factor.into();
        dangers.push(Unsafe::Replication {
            topic: topic(),
            replicas,
        });
    }
    if config.min_insync_replicas < 2 {
        let replicas = config.min_insync_replicas.into();
        dangers.push(Unsafe::InSync {
            topic: topic(),
            replicas,
        });
    }
    if dangers.is_empty() {
        Ok(())
    } else {
        Err(OpenError::Unsafe(dangers))
    }
}

type Admin = AdminClient<Quiet>;

/// The ids of the brokers that are there, and of the cluster.
async fn find_cluster(
    admin: Admin,
    config: &KafkaConfig,
) -> Result<(Admin, Vec<i32>, String), OpenError> {
    let timeout = config.request_timeout();
    blocking(move || {
        let client: &Client<Quiet> = admin.inner();
        // About one topic: a cluster may have thousands.
        let metadata = client.fetch_metadata(Some("__consumer_offsets"), timeout);
        let metadata = metadata.map_err(kafka_error)?;
        let brokers: Vec<_> = metadata
            .brokers()
            .iter()
            .map(|broker| broker.id())
            .collect();
        let id = client.fetch_cluster_id(timeout);
        let id = id.filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| OpenError::Away("the cluster does not say its id".to_owned()))?;
        Ok((admin, brokers, id))
    })
    .await
}

async fn describe(
    admin: Admin,
    config: &KafkaConfig,
    names: &[String],
    patience: Duration,
) -> Result<(Admin, Vec<Option<Described>>), OpenError> {
    let (names, timeout) = (names.to_vec(), config.request_timeout());
    blocking(move || {
        let deadline = Instant::now() + patience;
        loop {
            let described = native::describe_topics(admin.inner(), &names, timeout);
            let described = described.map_err(code_error)?;
            if described.iter().all(Option::is_some) || Instant::now() >= deadline {
                return Ok((admin, described));
            }
            std::thread::sleep(POLL);
        }
    })
    .await
}

async fn create(
    admin: &Admin,
    config: &KafkaConfig,
    topics: &[(String, &super::TopicConfig)],
) -> Result<(), OpenError> {
    let numbers: Vec<_> = topics
        .iter()
        .map(|(_, t)| t.retention_ms.to_string())
        .collect();
    let in_sync = config.min_insync_replicas.to_string();
    let bytes = TOPIC_BYTES_MAX.to_string();
    let mut new = Vec::new();
    for ((name, topic), retention_ms) in topics.iter().zip(&numbers) {
        let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
        let copies = TopicReplication::Fixed(config.replication_factor.into());
        let topic = NewTopic::new(name, partitions, copies)
            .set(CLEANUP, "delete")
            .set("retention.ms", retention_ms)
            // Only by time: a full log must refuse, not forget.
            .set("retention.bytes", "-1")
            .set(MESSAGE_BYTES, &bytes)
            .set("message.timestamp.type", "LogAppendTime")
            .set(IN_SYNC, &in_sync)
            .set(UNCLEAN, "false");
        new.push(topic);
    }
    let created = admin
        .create_topics(&new, &options(config))
        .await
        .map_err(kafka_error)?;
    for result in created {
        match result {
            // Another process was faster.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(code_error(code)),
        }
    }
    let names = topics
        .iter()
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>();
    tracing::info!(
        topics = names.join(","),
        "made the topics that were missing"
    );
    Ok(())
}

async fn settings(
    admin: &Admin,
    config: &KafkaConfig,
    names: &[String],
    brokers: &[i32],
) -> Result<Settings, OpenError> {
    let mut settings = Settings {
        topics: BTreeMap::new(),
        brokers: Vec::new(),
    };
    let about = names.iter().map(|name| ResourceSpecifier::Topic(name));
    for resource in ask(admin, config, about.collect()).await? {
        if let OwnedResourceSpecifier::Topic(name) = &resource.specifier {
            settings.topics.insert(name.clone(), resource);
        }
    }
    let is_own = |name: &String, key| settings.own(name, key).is_some();
    if !names
        .iter()
        .all(|name| SAFETY.iter().all(|key| is_own(name, key)))
    {
        // Each broker answers for itself only, and may differ.
        for id in brokers {
            let about = vec![ResourceSpecifier::Broker(*id)];
            settings.brokers.extend(ask(admin, config, about).await?);
        }
    }
    Ok(settings)
}

async fn ask(
    admin: &Admin,
    config: &KafkaConfig,
    about: Vec<ResourceSpecifier<'_>>,
) -> Result<Vec<ConfigResource>, OpenError> {
    let answers = admin.describe_configs(&about, &options(config)).await;
    let answers = answers.map_err(kafka_error)?.into_iter();
    let answers: Result<Vec<_>, _> = answers.collect();
    let answers = answers.map_err(code_error)?;
    // rdkafka shows an answer that is an error as one without entries.
    if let Some(refused) = answers.iter().find(|answer| answer.entries.is_empty()) {
        let about = &refused.specifier;
        return Err(OpenError::Refused(format!("the settings of {about:?}")));
    }
    Ok(answers)
}

fn options(config: &KafkaConfig) -> AdminOptions {
    let timeout = config.request_timeout();
    // Topics are there when the answer comes.
    AdminOptions::new()
        .request_timeout(Some(timeout))
        .operation_timeout(Some(timeout))
}

impl Settings {
    fn value(&self, topic: &str, key: &str) -> Option<&str> {
        self.topics.get(topic)?.get(key)?.value.as_deref()
    }

    /// What was set for the topic itself, whoever leads it.
    fn own(&self, topic: &str, key: &str) -> Option<&str> {
        let entry = self.topics.get(topic)?.get(key)?;
        entry
            .value
            .as_deref()
            .filter(|_| entry.source == ConfigSource::DynamicTopic)
    }

    /// What holds for a topic: its own value, or else that of each broker, because any may lead it.
    fn all(&self, topic: &str, key: &str) -> Vec<&str> {
        if let Some(own) = self.own(topic, key) {
            return vec![own];
        }
        let brokers = self.brokers.iter().filter_map(|broker| broker.get(key));
        let brokers = brokers.filter_map(|entry| entry.value.as_deref());
        self.value(topic, key).into_iter().chain(brokers).collect()
    }
}

/// Refuses a topic that is another than we think; notes what is dangerous about it.
fn check(
    config: &KafkaConfig,
    topic: Topic,
    name: &str,
    described: &Described,
    settings: &Settings,
    dangers: &mut Vec<Unsafe>,
) -> Result<(), OpenError> {
    let wanted = config
        .topics
        .get(&topic)
        .map_or(0, |topic| topic.partitions);
    if described.partitions != wanted {
        return Err(OpenError::PartitionCount {
            topic,
            has: described.partitions,
            wanted,
        });
    }
    let mismatch = |key: &str, value: String| {
        Err(OpenError::TopicSetting {
            topic,
            key: key.to_owned(),
            value,
        })
    };
    let value = |key| settings.value(name, key).unwrap_or_default();
    let bytes = value(MESSAGE_BYTES);
    if !bytes.parse::<usize>().is_ok_and(|b| b >= TOPIC_BYTES_MAX) {
        return mismatch(MESSAGE_BYTES, bytes.to_owned());
    }
    let policy = value(CLEANUP);
    if policy != "delete" {
        // Compaction keeps the last record of a key only.
        return mismatch(CLEANUP, policy.to_owned());
    }
    if described.replicas < 2 {
        let replicas = described.replicas.into();
        dangers.push(Unsafe::Replication { topic, replicas });
    }
    let in_sync = settings.all(name, IN_SYNC);
    let in_sync = in_sync.iter().map(|number| number.parse().unwrap_or(0));
    let in_sync = in_sync.min().unwrap_or(0);
    if in_sync < 2 {
        dangers.push(Unsafe::InSync {
            topic,
            replicas: in_sync,
        });
    }
    let unclean = settings.all(name, UNCLEAN);
    if unclean.is_empty() || unclean.iter().any(|value| *value != "false") {
        dangers.push(Unsafe::UncleanElection { topic });
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    let done = tokio::task::spawn_blocking(f).await;
    done.unwrap_or_else(|_| Err(OpenError::Away("the process is ending".to_owned())))
}

/// A client that cannot even be made has a wrong configuration.
pub(super) fn client_error(error: KafkaError) -> OpenError {
    match error {
        KafkaError::ClientConfig(_, problem, key, value) => {
            // It may be a secret.
            let problem = problem.replace(value.as_str(), "(the value)");
            let key = format!("properties.{key}");
            OpenError::Config {
                key,
                problem: format!("is refused: {problem}"),
            }
        }
        error => OpenError::Refused(error.to_string()),
    }
}

fn kafka_error(error: KafkaError) -> OpenError {
    match error.rdkafka_error_code() {
        Some(code) => code_error(code),
        None => match error {
            KafkaError::AdminOp(code) => code_error(code),
            error => client_error(error),
        },
    }
}

/// What time may heal, and what it will not.
fn code_error(code: RDKafkaErrorCode) -> OpenError {
    use RDKafkaErrorCode as Code;
    match code {
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::UnsupportedSASLMechanism
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::InvalidTopic
        | Code::InvalidPartitions
        | Code::InvalidConfig
        | Code::InvalidRequest
        | Code::PolicyViolation
        | Code::InvalidArgument => OpenError::Refused(code.to_string()),
        code => OpenError::Away(code.to_string()),
    }
}

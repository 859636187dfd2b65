use std::net::TcpListener;

use super::*;

/// As outside of `dev`, with the topics of `config`.
fn strict(config: &KafkaConfig) -> KafkaConfig {
    KafkaConfig {
        dev: false,
        replication_factor: 3,
        min_insync_replicas: 2,
        ..config.clone()
    }
}

async fn refusal(config: &KafkaConfig) -> OpenError {
    let opened = within("the refusal", KafkaLog::open(config.clone())).await;
    opened.err().expect("it is refused")
}

async fn dangers(config: &KafkaConfig) -> Vec<Unsafe> {
    match refusal(config).await {
        OpenError::Unsafe(dangers) => dangers,
        error => panic!("refused for another reason: {error}"),
    }
}

#[tokio::test]
async fn a_log_that_could_lose_what_it_confirmed_is_refused_outside_of_dev() {
    let kafka = Kafka::start(&Options::default()).unwrap();
    let config = config(&kafka.bootstrap_servers());
    let too_few = OpenError::NotEnoughBrokers { has: 1, wanted: 3 };
    assert_eq!(refusal(&strict(&config)).await, too_few);
    // Not even made.
    let asked_for = KafkaConfig {
        dev: false,
        ..config.clone()
    };
    let (topic, replicas) = (Topic::Messages, 1);
    let both = [
        Unsafe::Replication { topic, replicas },
        Unsafe::InSync { topic, replicas },
    ];
    assert_eq!(dangers(&asked_for).await, both);
    assert_eq!(refusal(&strict(&config)).await, too_few);

    open(&config).await.close().await;
    let of_both = |danger: fn(Topic) -> Unsafe| [Topic::Messages, Topic::Inbox].map(danger);
    let copies = of_both(|topic| Unsafe::Replication { topic, replicas: 1 });
    let in_sync = of_both(|topic| Unsafe::InSync { topic, replicas: 1 });
    let found = dangers(&strict(&config)).await;
    assert!(
        copies
            .iter()
            .chain(&in_sync)
            .all(|danger| found.contains(danger)),
        "{found:?}"
    );
    assert_eq!(found.len(), 4, "{found:?}");

    // What the topics do not say is the brokers', which say 1; the election is said by the topic.
    let unclean = [("unclean.leader.election.enable", "true")];
    alter(&config, Topic::Messages, &unclean).await;
    alter(&config, Topic::Inbox, &[("min.insync.replicas", "2")]).await;
    let found = dangers(&strict(&config)).await;
    let expected = [
        Unsafe::Replication { topic, replicas },
        Unsafe::InSync { topic, replicas },
        Unsafe::UncleanElection { topic },
        Unsafe::Replication {
            topic: Topic::Inbox,
            replicas,
        },
    ];
    assert_eq!(found, expected);
    open(&config).await.close().await;
}

#[tokio::test]
async fn a_broker_that_elects_uncleanly_is_refused_outside_of_dev() {
    let properties = [
        ("unclean.leader.election.enable", "true"),
        ("min.insync.replicas", "2"),
    ];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let options = Options {
        properties: properties.to_vec(),
        ..Options::default()
    };
    let kafka = Kafka::start(&options).unwrap();
    let config = config(&kafka.bootstrap_servers());
    open(&config).await.close().await;
    // Topics as others may have made them.
    for topic in [Topic::Messages, Topic::Inbox] {
        alter(&config, topic, &[]).await;
    }
    let found = dangers(&strict(&config)).await;
    let of_topic = |topic| {
        [
            Unsafe::Replication { topic, replicas: 1 },
            Unsafe::UncleanElection { topic },
        ]
    };
    assert_eq!(
        found,
        [Topic::Messages, Topic::Inbox].map(of_topic).concat()
    );
}

#[tokio::test]
async fn a_topic_that_does_not_fit_is_refused_even_for_dev() {
    let mut config = shared();
    open(&config).await.close().await;
    let has = config.topics[&Topic::Inbox];
    let more = TopicConfig {
        partitions: 2,
        ..has
    };
    config.topics.insert(Topic::Inbox, more);
    let error = OpenError::PartitionCount {
        topic: Topic::Inbox,
        has: 1,
        wanted: 2,
    };
    assert_eq!(refusal(&config).await, error);
    assert!(!error.is_away());
    config.topics.insert(Topic::Inbox, has);
    for (key, value) in [
        ("cleanup.policy", "compact"),
        ("max.message.bytes", "100000"),
    ] {
        alter(&config, Topic::Messages, &[(key, value)]).await;
        let (topic, key, value) = (Topic::Messages, key.to_owned(), value.to_owned());
        assert_eq!(
            refusal(&config).await,
            OpenError::TopicSetting { topic, key, value }
        );
    }
}

#[tokio::test]
async fn brokers_that_do_not_answer_are_away_and_not_wrong() {
    // Nobody listens.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = refusal(&config(&port.to_string())).await;
    assert!(
        error.is_away() && matches!(error, OpenError::Away(_)),
        "{error}"
    );
    // Somebody listens, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let error = refusal(&config(&address.to_string())).await;
    assert!(error.is_away(), "{error}");
}

#[tokio::test]
async fn a_topic_that_was_deleted_and_made_again_is_another() {
    let config = shared();
    let log = open(&config).await;
    let before = Topic::ALL.map(|topic| log.identity(topic));
    log.close().await;
    let name = config.topic_name(Topic::Messages);
    let deleted = admin(&config)
        .delete_topics(&[&name], &admin_options())
        .await
        .unwrap();
    deleted.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    let log = within("making it again", async {
        loop {
            match KafkaLog::open(config.clone()).await {
                Ok(log) => return log,
                // A topic goes away slowly.
                Err(error) => assert!(error.is_away(), "{error}"),
            }
        }
    })
    .await;
    let after = Topic::ALL.map(|topic| log.identity(topic));
    let at = |topic| Topic::ALL.iter().position(|t| *t == topic).unwrap();
    let (messages, inbox) = (at(Topic::Messages), at(Topic::Inbox));
    assert_eq!(before[messages].log_id, after[messages].log_id);
    assert_eq!(before[messages].partitions, after[messages].partitions);
    assert_ne!(before[messages].topic_id, after[messages].topic_id);
    assert_eq!(before[inbox], after[inbox]);
    log.close().await;
}

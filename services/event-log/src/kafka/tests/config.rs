use super::*;

#[test]
fn a_file_says_only_what_is_unusual() {
    let config: KafkaConfig = toml::from_str(
        r#"
        bootstrap_servers = "a:1,b:2"
        dev = true
        group_protocol = "classic"
        message_timeout_ms = 5000

        [topics.messages]
        partitions = 7

        [topics.offline]
        retention_ms = 1000

        [properties]
        "sasl.password" = "secret"
        "#,
    )
    .unwrap();
    config.check().unwrap();
    let usual = KafkaConfig::new("a:1,b:2");
    assert_eq!(config.bootstrap_servers, usual.bootstrap_servers);
    assert_eq!((config.dev, config.message_timeout_ms), (true, 5_000));
    assert_eq!(config.group_protocol, GroupProtocol::Classic);
    assert_eq!(config.request_timeout_ms, usual.request_timeout_ms);
    assert!(
        Topic::ALL
            .iter()
            .all(|topic| config.topics.contains_key(topic))
    );
    let (messages, offline) = (
        config.topics[&Topic::Messages],
        config.topics[&Topic::Offline],
    );
    assert_eq!(messages.partitions, 7);
    assert_eq!(
        messages.retention_ms,
        usual.topics[&Topic::Messages].retention_ms
    );
    assert_eq!(offline.retention_ms, 1_000);
    assert_eq!(offline.partitions, usual.topics[&Topic::Offline].partitions);
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn a_wrong_setting_is_named() {
    let wrong = [
        ("bootstrap = 'a'", "bootstrap"),
        ("bootstrap_servers = 'a'\nlinger = 1", "linger"),
        (
            "bootstrap_servers = 'a'\n[topics.letters]\npartitions = 1",
            "letters",
        ),
        (
            "bootstrap_servers = 'a'\n[topics.inbox]\nsegments = 1",
            "segments",
        ),
        (
            "bootstrap_servers = 'a'\nmessage_timeout_ms = -1",
            "message_timeout_ms",
        ),
    ];
    for (file, key) in wrong {
        let error = toml::from_str::<KafkaConfig>(file).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_before_anybody_is_asked() {
    type Change = fn(&mut KafkaConfig);
    let property = |config: &mut KafkaConfig, key: &str, value: &str| {
        config.properties.0.insert(key.to_owned(), value.to_owned());
    };
    let wrong: [(Change, &str); 6] = [
        (|c| c.bootstrap_servers.clear(), "bootstrap_servers"),
        (
            |c| c.topics.get_mut(&Topic::Users).unwrap().partitions = 0,
            "topics.users.partitions",
        ),
        (|c| c.min_insync_replicas = 4, "min_insync_replicas"),
        (|c| c.min_insync_replicas = 0, "min_insync_replicas"),
        (|c| c.request_timeout_ms = 100, "request_timeout_ms"),
        (|c| c.message_timeout_ms = 2_000, "message_timeout_ms"),
    ];
    for (change, wanted) in wrong {
        let mut config = KafkaConfig::new("127.0.0.1:1");
        change(&mut config);
        let OpenError::Config { key, .. } = KafkaLog::open(config).await.err().unwrap() else {
            panic!("{wanted} was taken");
        };
        assert_eq!(key, wanted);
    }
    // What decides about records is ours, and a value may be a secret.
    for (key, value) in [
        ("acks", "1"),
        ("security.protocol", "NO-SUCH-THING"),
        ("no.such", "thing"),
    ] {
        let mut config = KafkaConfig::new("127.0.0.1:1");
        property(&mut config, key, value);
        let error = KafkaLog::open(config).await.err().unwrap();
        let OpenError::Config { key: named, .. } = &error else {
            panic!("{key} was taken: {error}");
        };
        assert_eq!(*named, format!("properties.{key}"));
        assert!(!error.to_string().contains(value), "{error}");
    }
}

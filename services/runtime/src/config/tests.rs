use std::io::Write;

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Settings {
    listen: String,
    kafka: Kafka,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Kafka {
    bootstrap_servers: String,
    #[serde(default)]
    partitions: u32,
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load_from(text: &str, settings: &[&str]) -> Result<Settings, ConfigError> {
    let file = file(text);
    load(&Sources {
        config: Some(file.path().to_owned()),
        settings: settings.iter().map(ToString::to_string).collect(),
    })
}

const GOOD: &str =
    "listen = '127.0.0.1:0'\n[kafka]\nbootstrap_servers = 'one:9092'\npartitions = 4\n";

#[test]
fn the_command_line_counts_more_than_the_file() {
    let settings = load_from(
        GOOD,
        &["kafka.bootstrap_servers=two:9092", "kafka.partitions=8"],
    );
    let kafka = Kafka {
        bootstrap_servers: "two:9092".to_owned(),
        partitions: 8,
    };
    assert_eq!(settings.unwrap().kafka, kafka);
}

#[test]
fn a_wrong_setting_is_named() {
    for (text, settings, named) in [
        (GOOD, vec!["kafka.partions=8"], "partions"),
        (GOOD, vec!["kafka.partitions=many"], "kafka.partitions"),
        (GOOD, vec!["nothing"], "nothing"),
        ("listen = 'x'\nkafka = 3\n", vec![], "kafka"),
        ("listen = 'x'\n", vec![], "kafka"),
        ("listen = 'x'\nlisten = 'y'\n", vec![], "listen"),
        ("[kafka]\nbootstrap_servers = 'x'\n", vec![], "listen"),
    ] {
        let error = load_from(text, &settings).unwrap_err().to_string();
        assert!(error.contains(named), "{error} does not name {named}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let sources = Sources {
        config: Some("/nowhere/messenger.toml".into()),
        settings: Vec::new(),
    };
    let error = load::<Settings>(&sources).unwrap_err().to_string();
    assert!(error.contains("/nowhere/messenger.toml"), "{error}");
}

//! The trace of a request goes with what it causes, from topic to topic (N11).

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use cluster::ClusterOptions;
use event_log::{
    EventLog, Record, Topic,
    kafka::{KafkaConfig, KafkaLog},
};
use harness::{DEADLINE, direct, message, register};
use parking_lot::Mutex;
use proto::{groups::v1::GroupSettings, messaging::v1::Send};
use runtime::trace::{TRACEPARENT, of_headers};
use tonic::Request;
use uuid::Uuid;

use super::cluster;

fn traceparent(number: u8) -> String {
    format!("00-{:032x}-{:016x}-01", 0xabc0 + u128::from(number), 7)
}

/// How many records of each topic carry each trace.
type Seen = Arc<Mutex<BTreeMap<(String, &'static str), usize>>>;

/// Reads a topic from its beginning.
async fn read(log: Arc<KafkaLog>, topic: Topic, seen: Seen) {
    let group = format!("traced-{topic}");
    let mut membership = log.join(&group, topic).await.unwrap();
    loop {
        let mut reader = membership.assigned().await.unwrap();
        let seen = seen.clone();
        tokio::spawn(async move {
            while let Ok(records) = reader.next(100).await {
                let trace = |record: &Record| Some(of_headers(&record.headers)?.to_vec());
                for trace in records.iter().filter_map(trace) {
                    let trace = String::from_utf8(trace).unwrap();
                    *seen.lock().entry((trace, topic.name())).or_default() += 1;
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_with_a_message_to_the_rows_of_everybody_s_list() {
    let cluster = cluster().await;
    let urls = cluster.urls();
    let ada = register(&urls[0], "ada").await;
    let grace = register(&urls[1], "grace").await;
    let alan = register(&urls[1], "alan").await;
    let conversation = direct(&ada.user_id, &grace.user_id);
    let (group, _) = ada
        .create_group("engines", &[&grace, &alan], GroupSettings::default())
        .await;
    let traced = |conversation_id: &str, number: u8| Send {
        traceparent: traceparent(number),
        ..message(conversation_id, Uuid::now_v7(), "traced")
    };
    // In a session, as a call, and to a group; each to another conversation, since of a conversation's rows
    // that change in one batch only the newest message's trace is told.
    let mut session = ada.session().await;
    session.try_send(traced(&conversation, 1)).await.unwrap();
    let mut call = Request::new(proto::messaging::v1::SendMessageRequest {
        conversation_id: direct(&ada.user_id, &alan.user_id),
        message_id: Uuid::now_v7().to_string(),
        text: "traced".to_owned(),
        ..Default::default()
    });
    let trace = traceparent(2).parse().unwrap();
    call.metadata_mut().insert(TRACEPARENT, trace);
    ada.messaging().send_message(call).await.unwrap();
    session
        .try_send(traced(&group.conversation_id, 3))
        .await
        .unwrap();

    let mut config = KafkaConfig {
        dev: true,
        replication_factor: 1,
        min_insync_replicas: 1,
        ..KafkaConfig::new(cluster.bootstrap_servers())
    };
    // As the cluster has made them.
    for topic in [
        Topic::Messages,
        Topic::Fanout,
        Topic::Inbox,
        Topic::Offline,
        Topic::References,
    ] {
        let config = config.topics.get_mut(&topic).unwrap();
        config.partitions = ClusterOptions::default().partitions;
    }
    let log = KafkaLog::open(config).await.unwrap();
    let seen = Seen::default();
    for topic in [Topic::Messages, Topic::Fanout, Topic::Inbox] {
        tokio::spawn(read(log.clone(), topic, seen.clone()));
    }
    // One record of each send; a row of both members, and of all three; a record for the fan-out. The sender
    // of a group has a record of own marks besides.
    let expected = [
        (1, "messages", 1),
        (1, "inbox", 2),
        (2, "messages", 1),
        (2, "inbox", 2),
        (3, "messages", 1),
        (3, "fanout", 1),
        (3, "inbox", 3),
    ];
    let complete = || {
        let seen = seen.lock();
        let count = |number, topic| seen.get(&(traceparent(number), topic)).copied();
        let reached = |(number, topic, least): &(u8, &'static str, usize)| {
            count(*number, *topic).is_some_and(|count| count >= *least)
        };
        expected.iter().all(reached)
    };
    let ended = Instant::now() + DEADLINE;
    while !complete() {
        assert!(Instant::now() < ended, "only {:?}", seen.lock());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

//! Kafka or PostgreSQL away, at the start of a process and later.

use std::time::Duration;

use harness::{connect, direct, eventually, register};
use proto::{
    error::v1::ErrorReason,
    messaging::v1::{EventRange, ListEventsRequest, SendMessageRequest},
};
use runtime::status::read_status;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use uuid::Uuid;

use super::cluster;

/// Longer than a group of readers takes to move partitions to a member that has just come: some of its
/// heartbeats of 500 ms.
const SETTLED: Duration = Duration::from_secs(3);

fn send(conversation_id: &str, text: &str) -> SendMessageRequest {
    SendMessageRequest {
        conversation_id: conversation_id.to_owned(),
        message_id: Uuid::now_v7().to_string(),
        text: text.to_owned(),
        ..SendMessageRequest::default()
    }
}

async fn health(url: &str) -> Option<ServingStatus> {
    let answer = HealthClient::new(connect(url))
        .check(HealthCheckRequest {
            service: "messenger.messaging.v1.MessagingService".to_owned(),
        })
        .await;
    answer.ok().map(|answer| answer.into_inner().status())
}

/// And it says so once, and comes up by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_waits_for_kafka_and_postgres_and_says_so_over_health() {
    let cluster = cluster().await;
    let urls = cluster.urls();
    let ada = register(&urls[0], "ada").await;
    let grace = register(&urls[1], "grace").await;
    let conversation = direct(&ada.user_id, &grace.user_id);
    assert!(
        cluster.terminate("messaging-1").await.unwrap(),
        "it did not stop in time"
    );
    cluster.kill("postgres").unwrap();
    cluster.kill("kafka-0").unwrap();
    let said_before = cluster.log("messaging-1").len();
    cluster.launch("messaging-1").unwrap();

    let waits = async || {
        health(&urls[1])
            .await
            .filter(|s| *s == ServingStatus::NotServing)
    };
    eventually("the process says that it waits", waits).await;
    let refused = grace
        .messaging()
        .send_message(send(&conversation, "anybody?"))
        .await;
    let refused = read_status(&refused.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::Unavailable);
    assert!(refused.retry_after.is_some());
    let log = async || {
        let log = cluster.log("messaging-1");
        log.contains("is away").then_some(log)
    };
    eventually("the process logs that it waits", log).await;
    let waits_for = |what: &str| {
        let log = cluster.log("messaging-1");
        let said = log.get(said_before..).unwrap_or_default();
        let waits = |line: &&str| line.contains("is away, waiting for it") && line.contains(what);
        said.lines().filter(waits).count()
    };
    let waits_for_postgres = async || (waits_for("what=\"postgres\"") > 0).then_some(());
    eventually("the process waits for postgres", waits_for_postgres).await;
    // Longer than several attempts take: each state is said once.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(waits_for("what=\"postgres\""), 1);

    cluster.start_again("postgres").await.unwrap();
    let waits_for_kafka = async || (waits_for("what=\"kafka\"") > 0).then_some(());
    eventually("the process waits for kafka", waits_for_kafka).await;
    cluster.start_again("kafka-0").await.unwrap();
    cluster.wait_until_serving("messaging-1").await.unwrap();
    let sent = async || {
        grace
            .messaging()
            .send_message(send(&conversation, "here"))
            .await
            .ok()
    };
    let sent = eventually("a send", sent).await.into_inner();
    let history = ada.history(&conversation, sent.seq).await;
    assert!(history.iter().any(|event| event.seq == sent.seq));
}

/// What was not confirmed is in the history once or not at all, and what can be read is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_that_the_log_does_not_hold() {
    let cluster = cluster().await;
    let urls = cluster.urls();
    let ada = register(&urls[0], "ada").await;
    let grace = register(&urls[1], "grace").await;
    let conversation = direct(&ada.user_id, &grace.user_id);
    let before = ada
        .messaging()
        .send_message(send(&conversation, "before"))
        .await;
    let before = before.unwrap().into_inner();
    let stored = grace.history(&conversation, before.seq).await;
    assert_eq!(stored.len(), 1);

    // While PostgreSQL is away no partition can move: whoever takes one over asks the store for its
    // position. So the partitions must be where they will stay; two heartbeats of the group.
    tokio::time::sleep(SETTLED).await;
    // Without PostgreSQL a send is acknowledged all the same: the log has it.
    cluster.kill("postgres").unwrap();
    let sent = ada
        .messaging()
        .send_message(send(&conversation, "no store"))
        .await;
    let sent = sent.unwrap().into_inner();
    assert_eq!(sent.seq, 2);
    cluster.start_again("postgres").await.unwrap();
    // Until its connections to the store are made again, a node says that it cannot read.
    let head = async || {
        let conversation = conversation.clone();
        let range = EventRange {
            conversation_id: conversation,
            ..EventRange::default()
        };
        let ranges = ListEventsRequest {
            ranges: vec![range],
        };
        let answer = grace
            .messaging()
            .list_events(ranges)
            .await
            .ok()?
            .into_inner();
        let page = answer.pages.first()?;
        (page.events.len() == 2).then_some(())
    };
    eventually("the store has what the log has", head).await;

    let stored = grace.history(&conversation, sent.seq).await;
    cluster.kill("kafka-0").unwrap();
    let request = send(&conversation, "into the void");
    let mut messaging = ada.messaging();
    let refused = messaging.send_message(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(read_status(&refused).retry_after.is_some(), "{refused}");
    assert_eq!(grace.history(&conversation, sent.seq).await, stored);

    cluster.start_again("kafka-0").await.unwrap();
    let retried = async || ada.messaging().send_message(request.clone()).await.ok();
    let retried = eventually("the retry", retried).await.into_inner();
    let history = grace.history(&conversation, retried.seq).await;
    let seqs: Vec<u64> = history.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [1, 2, 3], "{history:?}");
    assert_eq!(retried.seq, 3);
}

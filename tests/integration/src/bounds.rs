//! A log that may hold no more.

use std::time::Duration;

use harness::{TestServer, message};
use proto::{error::v1::ErrorReason as R, messaging::v1::client_frame::Frame as Said};
use uuid::Uuid;

#[tokio::test]
async fn a_full_log_refuses_sends_and_takes_them_again_when_readers_have_made_room() {
    const SENDS: u64 = 3_000;
    let mut server = TestServer::builder()
        .config(|config| {
            config.log_bytes_max = Some(512 * 1024);
            config.messaging.session_in_flight_max = 10_000;
        })
        .start()
        .await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut session = ada.session().await;
    // More than it may hold, faster than the readers let go of it. The texts are long, so that bytes
    // are what runs out.
    let text = "\u{10348}".repeat(300);
    let sends: Vec<_> = (0..SENDS)
        .map(|_| message(&conversation, Uuid::now_v7(), &text))
        .collect();
    let (mut taken, mut full, mut next) = (0_u64, 0, 0);
    while full == 0 {
        // A window of sends, and all their answers: a refusal comes before the acks of those ahead.
        let window = &sends[next..sends.len().min(next + 500)];
        assert!(!window.is_empty(), "the log was never full");
        let mut asked = Vec::new();
        for send in window {
            asked.push(session.say(Said::Send(send.clone())).await);
        }
        for request_id in asked {
            match session.answer(request_id).await {
                Ok(ack) => {
                    taken += 1;
                    assert_eq!(ack.seq, taken);
                    assert_eq!(full, 0, "one overtook another");
                }
                Err(refusal) if refusal.reason == R::Overloaded => {
                    refusal.is(R::Overloaded, "");
                    assert!(refusal.retry_after.is_some());
                    full += 1;
                }
                Err(refusal) => {
                    refusal.is(R::PrecedingSendUnknown, "");
                }
            }
        }
        next += window.len();
    }
    println!("full after {taken} messages");
    // Nothing is half there.
    let history = grace.history(&conversation, taken).await;
    assert_eq!(history.len() as u64, taken);
    // A client that waits as told, and retries in order, gets everything in.
    for send in sends.iter().skip(taken as usize).take(20) {
        loop {
            match session.try_send(send.clone()).await {
                Ok(ack) => {
                    taken += 1;
                    assert_eq!((ack.seq, ack.duplicate), (taken, false));
                    break;
                }
                Err(refusal) => {
                    refusal.is(R::Overloaded, "");
                    let after = refusal.retry_after.unwrap();
                    tokio::time::sleep(after.min(Duration::from_secs(1))).await;
                }
            }
        }
    }
    let before = grace.history(&conversation, taken).await;
    assert_eq!(before.len() as u64, taken);
    drop(session);
    server.restart().await;
    let mut grace = grace;
    grace.reconnect();
    assert_eq!(grace.history(&conversation, taken).await, before);
}

//! A device that does not read.

use harness::{SessionOptions, TestServer, message, within};
use proto::messaging::v1::{client_frame::Frame as Said, server_frame::Frame as Heard};
use uuid::Uuid;

#[tokio::test]
async fn a_device_that_does_not_read_lags_loses_nothing_and_slows_nobody() {
    const MESSAGES: u64 = 4_000;
    const IN_FLIGHT: u64 = 100;
    /// Events that it reads before newer ones come, and how many come.
    const READ_BEFORE: u64 = 200;
    const NEWER: u64 = 20;
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let slow = ada.second_device().await;
    let options = SessionOptions {
        // What is not read stays with the server.
        window_bytes: Some(4_096),
        ..SessionOptions::default()
    };
    let mut slow = slow.session_with(options).await;
    let mut fast = ada.session().await;
    let mut sender = grace.session().await;

    let reading = tokio::spawn({
        let conversation = conversation.clone();
        async move {
            for seq in 1..=MESSAGES {
                let event = fast.wait("the next event", |frame| match &frame.frame {
                    Some(Heard::Event(event)) => Some(event.clone()),
                    Some(Heard::Lagging(lagging)) => panic!("the fast one lags: {lagging:?}"),
                    _ => None,
                });
                let event = event.await;
                assert_eq!((event.seq, &event.conversation_id), (seq, &conversation));
            }
            fast
        }
    });
    // All acks come while nobody reads the slow one.
    let text = "x".repeat(200);
    let (mut sent, mut acked) = (0, 0);
    while acked < MESSAGES {
        while sent < MESSAGES && sent - acked < IN_FLIGHT {
            let send = message(&conversation, Uuid::now_v7(), &text);
            sender.say(Said::Send(send)).await;
            sent += 1;
        }
        match sender.next().await.expect("a live session").frame {
            Some(Heard::SendAck(ack)) => {
                acked += 1;
                assert_eq!(ack.seq, acked);
            }
            Some(Heard::Error(error)) => panic!("not sent: {error:?}"),
            _ => {}
        }
    }
    let mut fast = within("the fast device", reading).await.unwrap();

    // Now it reads: what was queued, in order, then that it lags. That there is room again, before it
    // has heard so, lets nothing newer in.
    let (mut last, mut dropped) = (0, 0);
    let mut newer = NEWER;
    while dropped == 0 {
        if last >= READ_BEFORE && newer > 0 {
            sender.send(&conversation, "while it catches up").await;
            assert_eq!(
                fast.event(&conversation).await.seq,
                MESSAGES + 1 + NEWER - newer
            );
            newer -= 1;
        }
        match slow.next().await.expect("a live session").frame {
            Some(Heard::Event(event)) => {
                assert_eq!(event.seq, last + 1, "before lagging nothing is left out");
                last = event.seq;
            }
            Some(Heard::Lagging(lagging)) => dropped = lagging.dropped,
            _ => {}
        }
    }
    assert!(last < MESSAGES && newer == 0);
    let all = MESSAGES + NEWER;
    // What was dropped is events, and updates of its inbox and marks beside them.
    assert!(
        dropped >= all - last,
        "{dropped} frames, {last} events before"
    );
    // It catches up with calls, and live frames flow again.
    assert_eq!(ada.history(&conversation, all).await.len() as u64, all);
    sender.send(&conversation, "afterwards").await;
    assert_eq!(slow.event(&conversation).await.seq, all + 1);
    assert_eq!(fast.event(&conversation).await.seq, all + 1);
}

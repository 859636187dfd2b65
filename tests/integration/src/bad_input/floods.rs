//! Too much of what is allowed.

use std::{num::NonZeroU32, time::Duration};

use harness::{Refusal, Session, TestServer, message};
use proto::{
    error::v1::ErrorReason as R,
    messaging::v1::{
        ClientFrame, ClientHeartbeat, client_frame::Frame as Said, server_frame::Frame as Heard,
    },
};
use uuid::Uuid;

use super::{BEFORE, Scene};

fn rate(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

/// The next answer with this request id or above.
async fn next_answer(session: &mut Session) -> (u64, Result<u64, Refusal>) {
    session
        .wait("an answer", |frame| match &frame.frame {
            Some(Heard::SendAck(ack)) => Some((frame.request_id, Ok(ack.seq))),
            Some(Heard::Error(error)) => Some((frame.request_id, Err(Refusal::from(error)))),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn thousands_of_frames_a_second_are_refused_and_nobody_else_notices() {
    const FRAMES: u64 = 5_000;
    const BURST: u64 = 100;
    let builder = TestServer::builder().config(|config| {
        config.messaging.session_frames_per_second = rate(20);
        config.messaging.session_burst = rate(BURST as u32);
    });
    let mut scene = Scene::of(builder).await;
    let mut flooding = scene.ada.session().await;
    let sender = flooding.sender();
    let flood = tokio::spawn(async move {
        for n in 1..=FRAMES {
            let frame = Some(Said::Heartbeat(ClientHeartbeat {}));
            let frame = ClientFrame {
                request_id: n,
                frame,
            };
            sender.send(frame).await.unwrap();
        }
    });
    // Every tenth answer somebody else gets something done.
    let mut refused = 0;
    while !flood.is_finished() || refused < FRAMES / 2 {
        let (_, answer) = next_answer(&mut flooding).await;
        let refusal = answer.unwrap_err();
        refusal.is(R::RateLimited, "");
        let after = refusal.retry_after.expect("a time to come back");
        assert!(after <= Duration::from_secs(1), "{after:?}");
        refused += 1;
        if refused % 200 == 0 {
            scene.neighbours_go_on().await;
        }
    }
    drop(flooding);
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_flood_whose_answers_are_not_read_waits_at_its_own_end_only() {
    let builder = TestServer::builder().config(|config| {
        config.messaging.session_frames_per_second = rate(20);
        config.messaging.session_burst = rate(100);
    });
    let mut scene = Scene::of(builder).await;
    let options = harness::SessionOptions {
        window_bytes: Some(4_096),
        ..harness::SessionOptions::default()
    };
    let flooding = scene.ada.session_with(options).await;
    let sender = flooding.sender();
    let flood = tokio::spawn(async move {
        for n in 1..=100_000 {
            let frame = Some(Said::Heartbeat(ClientHeartbeat {}));
            let frame = ClientFrame {
                request_id: n,
                frame,
            };
            if sender.send(frame).await.is_err() {
                break;
            }
        }
    });
    for _ in 0..20 {
        scene.neighbours_go_on().await;
    }
    flood.abort();
    drop(flooding);
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn sends_that_are_refused_for_now_never_overtake_each_other() {
    const SENDS: u64 = 400;
    let builder = TestServer::builder().config(|config| {
        config.messaging.session_frames_per_second = rate(50);
        config.messaging.session_burst = rate(100);
    });
    let server = builder.start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut session = ada.session().await;
    let sends: Vec<_> = (1..=SENDS)
        .map(|n| message(&conversation, Uuid::now_v7(), &n.to_string()))
        .collect();
    let sender = session.sender();
    let pipelined = sends.clone();
    let flood = tokio::spawn(async move {
        for (n, send) in (1..).zip(pipelined) {
            let frame = ClientFrame {
                request_id: n,
                frame: Some(Said::Send(send)),
            };
            sender.send(frame).await.unwrap();
        }
    });
    let mut answers = vec![None; sends.len()];
    for _ in 0..SENDS {
        let (request_id, answer) = next_answer(&mut session).await;
        let answer = answer.map_err(|refusal| {
            let reasons = [R::RateLimited, R::PrecedingSendUnknown, R::TooManyInFlight];
            assert!(reasons.contains(&refusal.reason), "{refusal:?}");
            assert_eq!(refusal.code, harness::documented_code(refusal.reason));
        });
        let place = &mut answers[request_id as usize - 1];
        assert!(place.is_none(), "two answers to request {request_id}");
        *place = Some(answer.ok());
    }
    flood.await.unwrap();
    let stored: Vec<_> = answers
        .iter()
        .map_while(|answer| answer.flatten())
        .collect();
    let n = stored.len() as u64;
    assert!((50..SENDS).contains(&n), "{n} of {SENDS} were taken");
    assert!(stored.iter().copied().eq(1..=n));
    let taken = answers.iter().flatten().flatten().count();
    assert_eq!(taken, stored.len(), "one overtook another: {answers:?}");
    assert_eq!(grace.history(&conversation, n).await.len(), stored.len());

    // Whoever retries in order, and waits as told, gets all of them in order.
    let mut next = stored.len();
    while next < sends.len().min(stored.len() + 20) {
        match session.try_send(sends[next].clone()).await {
            Ok(ack) => {
                assert_eq!(ack.seq, next as u64 + 1);
                next += 1;
            }
            Err(refusal) => {
                refusal.is(R::RateLimited, "");
                tokio::time::sleep(refusal.retry_after.unwrap()).await;
            }
        }
    }
}

#[tokio::test]
async fn more_sends_than_may_wait_are_refused_and_change_nothing() {
    const SENDS: u64 = 300;
    let builder = TestServer::builder().config(|config| {
        config.messaging.session_in_flight_max = 4;
    });
    let mut scene = Scene::of(builder).await;
    let mut session = scene.ada.session().await;
    assert_eq!(session.welcome.limits.unwrap().in_flight_max, 4);
    let sends: Vec<_> = (1..=SENDS)
        .map(|n| message(&scene.conversation, Uuid::now_v7(), &n.to_string()))
        .collect();
    let sender = session.sender();
    let pipelined = sends.clone();
    tokio::spawn(async move {
        for (n, send) in (1..).zip(pipelined) {
            let frame = ClientFrame {
                request_id: n,
                frame: Some(Said::Send(send)),
            };
            sender.send(frame).await.unwrap();
        }
    });
    let (mut seqs, mut too_many) = (Vec::new(), 0);
    for _ in 0..SENDS {
        match next_answer(&mut session).await.1 {
            Ok(seq) => seqs.push(seq),
            Err(refusal) if refusal.reason == R::TooManyInFlight => {
                refusal.is(R::TooManyInFlight, "");
                assert!(refusal.retry_after.is_some());
                too_many += 1;
            }
            Err(refusal) => {
                refusal.is(R::PrecedingSendUnknown, "");
            }
        }
    }
    assert!(too_many > 0);
    let taken = BEFORE + seqs.len() as u64;
    assert!(seqs.into_iter().eq(BEFORE + 1..=taken));
    let history = scene.grace.history(&scene.conversation, taken).await;
    assert_eq!(history.len() as u64, taken);
    scene.neighbours_go_on().await;
}

//! How sessions end, and what is still answered.

use std::{collections::HashSet, sync::Arc, time::Duration};

use harness::{TestServer, eventually, message};
use proto::{
    error::v1::ErrorReason as R,
    messaging::v1::{RenewToken, client_frame::Frame as Said, server_frame::Frame as Heard},
};
use runtime::clock::{Clock, ManualClock, SystemClock};
use tonic::Code;
use uuid::Uuid;

#[tokio::test]
async fn a_newer_session_of_a_device_replaces_the_older_and_no_other() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let tablet = ada.second_device().await;
    let conversation = ada.with(&grace);
    let mut older = ada.session().await;
    let mut tablet = tablet.session().await;
    let mut newer = ada.session().await;
    older.end().await.is(R::SessionReplaced, "");
    // Logging in again is no other device.
    let again = ada.log_in_again().await;
    assert_eq!(again.device_id, ada.device_id);
    let mut newest = again.session().await;
    newer.end().await.is(R::SessionReplaced, "");

    assert_eq!(newest.send(&conversation, "here").await.seq, 1);
    assert_eq!(tablet.event(&conversation).await.seq, 1);
    assert!(grace.presence_of(&ada).await.online);
}

#[tokio::test]
async fn a_device_that_is_logged_out_loses_its_session_at_once_and_others_do_not() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let tablet = ada.second_device().await;
    let conversation = ada.with(&grace);
    let mut phone_session = ada.session().await;
    let mut tablet_session = tablet.session().await;
    let mut peer = grace.session().await;

    tablet.log_out(&ada.device_id).await;
    phone_session.end().await.is(R::DeviceRevoked, "");
    peer.send(&conversation, "still there?").await;
    assert_eq!(tablet_session.event(&conversation).await.seq, 1);
    assert!(grace.presence_of(&ada).await.online);

    // The last one, by itself.
    tablet.log_out("").await;
    tablet_session.end().await.is(R::DeviceRevoked, "");
    eventually("nobody is there any more", async || {
        let presence = grace.presence_of(&ada).await;
        (!presence.online).then_some(())
    })
    .await;
    assert_eq!(peer.send(&conversation, "nobody?").await.seq, 2);
}

#[tokio::test]
async fn a_session_whose_token_is_renewed_outlives_the_token_it_began_with() {
    let clock = ManualClock::at(SystemClock.now_unix_ms());
    let injected = clock.clone();
    let server = TestServer::builder()
        .config(move |config| config.clock = Arc::new(injected.clone()))
        .start()
        .await;
    let (mut ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut session = ada.session().await;
    let first_end = ada.tokens.access_expires_unix_ms;
    clock.advance(first_end - clock.now_unix_ms() - 1_000);
    ada.refresh().await;
    assert!(ada.tokens.access_expires_unix_ms > first_end);
    let renew = RenewToken {
        access_token: ada.tokens.access_token.clone(),
    };
    let request_id = session.say(Said::RenewToken(renew)).await;
    let until = session.wait("token_renewed", |frame| match &frame.frame {
        Some(Heard::TokenRenewed(renewed)) if frame.request_id == request_id => {
            Some(renewed.expires_unix_ms)
        }
        Some(Heard::Error(error)) => panic!("not renewed: {error:?}"),
        _ => None,
    });
    // A token says its end in seconds.
    let until = until.await;
    assert!((0..1_000).contains(&(ada.tokens.access_expires_unix_ms - until)));

    // An older session of grace shows that the sweep has come by after the first end.
    let mut other = grace.session().await;
    clock.set(first_end + 1);
    other.end().await.is(R::TokenExpired, "");
    assert_eq!(session.send(&conversation, "still here").await.seq, 1);
    clock.set(until);
    session.end().await.is(R::TokenExpired, "");
}

#[tokio::test]
async fn a_server_that_stops_says_so_and_answers_what_it_has_taken() {
    const SENDS: u64 = 200;
    let mut server = TestServer::builder()
        .config(|config| config.messaging.drain = Duration::from_secs(10))
        .start()
        .await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut session = ada.session().await;
    let mut waiting = HashSet::new();
    for n in 1..=SENDS {
        let send = message(&conversation, Uuid::now_v7(), &n.to_string());
        waiting.insert(session.say(Said::Send(send)).await);
    }
    let stopping = tokio::spawn(async move {
        server.stop().await;
        server
    });
    let (mut asked_to_go, mut seqs) = (false, Vec::new());
    while !asked_to_go || !waiting.is_empty() {
        let frame = session
            .next()
            .await
            .expect("the session outlives its sends");
        match frame.frame {
            Some(Heard::SendAck(ack)) => {
                assert!(waiting.remove(&frame.request_id));
                seqs.push(ack.seq);
            }
            Some(Heard::GoingAway(going)) => {
                assert!(going.reconnect_after_ms <= 10_000);
                asked_to_go = true;
            }
            Some(Heard::Error(error)) => panic!("a send was refused: {error:?}"),
            _ => {}
        }
    }
    assert!(seqs.into_iter().eq(1..=SENDS));
    // Who goes as asked is not waited for until the drain is over.
    assert_eq!(session.close().await.code(), Code::Ok);
    let mut server = harness::within("the stop", stopping).await.unwrap();
    server.restart().await;
    let mut grace = grace;
    grace.reconnect();
    let history = grace.history(&conversation, SENDS).await;
    assert_eq!(history.len() as u64, SENDS);
}

#[tokio::test]
async fn who_stays_when_the_server_stops_is_told_that_it_has_gone() {
    let mut server = TestServer::start().await;
    let ada = server.user("ada").await;
    let mut session = ada.session().await;
    let (_, end) = tokio::join!(server.stop(), session.end());
    end.is(R::GoingAway, "");
    let asked = session
        .kept()
        .any(|frame| matches!(frame.frame, Some(Heard::GoingAway(_))));
    assert!(asked);
}

#[tokio::test]
async fn a_device_that_closes_its_half_still_gets_its_answers() {
    const SENDS: u64 = 100;
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut session = ada.session().await;
    for n in 1..=SENDS {
        let send = message(&conversation, Uuid::now_v7(), &n.to_string());
        session.say(Said::Send(send)).await;
    }
    let (frames, status) = session.close_and_read().await;
    assert_eq!(status.code(), Code::Ok);
    let seqs = frames.into_iter().filter_map(|frame| match frame.frame {
        Some(Heard::SendAck(ack)) => Some(ack.seq),
        _ => None,
    });
    assert!(seqs.eq(1..=SENDS));
    eventually("the device is offline", async || {
        (!grace.presence_of(&ada).await.online).then_some(())
    })
    .await;
}

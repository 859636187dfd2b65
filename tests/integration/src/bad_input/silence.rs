//! Who says nothing, or nothing any more.

use std::{sync::Arc, time::Duration};

use harness::{Proxy, Refusal, SessionOptions, TestServer, eventually, refused, within};
use proto::{error::v1::ErrorReason as R, messaging::v1 as wire};
use runtime::clock::{Clock, ManualClock, SystemClock};
use uuid::Uuid;

use super::Scene;

#[tokio::test]
async fn an_expired_token_is_refused_and_ends_the_session() {
    let clock = ManualClock::at(SystemClock.now_unix_ms());
    let injected = clock.clone();
    let builder =
        TestServer::builder().config(move |config| config.clock = Arc::new(injected.clone()));
    let server = builder.start().await;
    let (mut ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut session = ada.session().await;
    session.send(&conversation, "in time").await;
    let life_ms = ada.tokens.access_expires_unix_ms - clock.now_unix_ms();
    assert!(life_ms > 60_000);

    clock.advance(life_ms - 1_000);
    session.send(&conversation, "still in time").await;
    // Grace gets a new token in time, and has a session that lives longer.
    let mut fresh = grace.clone();
    fresh.refresh().await;
    let mut fresh_session = fresh.session().await;
    clock.advance(2_000);

    session.end().await.is(R::TokenExpired, "");
    refused(ada.send(&conversation, Uuid::now_v7(), "too late").await).is(R::TokenExpired, "");
    let unread = wire::GetUnreadTotalRequest::default();
    refused(grace.messaging().get_unread_total(unread).await).is(R::TokenExpired, "");
    let again = ada.try_session(SessionOptions::default()).await;
    Refusal::from(&again.err().unwrap()).is(R::TokenExpired, "");
    // Nothing came of it, and who has a good token goes on.
    assert_eq!(fresh.history(&conversation, 2).await.len(), 2);
    assert_eq!(fresh_session.send(&conversation, "mine").await.seq, 3);
    ada.refresh().await;
    let mut session = ada.session().await;
    assert_eq!(session.send(&conversation, "with a new one").await.seq, 4);
}

#[tokio::test]
async fn a_stream_that_says_nothing_is_ended() {
    let scene = Scene::start().await;
    let (sender, mut frames) = scene.ada.stream(&SessionOptions::default()).await.unwrap();
    let end = within("the end", frames.message()).await.unwrap_err();
    Refusal::from(&end).is(R::HelloRequired, "");
    drop(sender);
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_device_that_says_nothing_any_more_is_given_up_and_one_that_lives_is_not() {
    let builder = TestServer::builder().config(|config| {
        config.messaging.heartbeat_interval = Duration::from_millis(200);
    });
    let scene = Scene::of(builder).await;
    let options = SessionOptions {
        silent: true,
        ..SessionOptions::default()
    };
    let mut silent = scene.ada.session_with(options).await;
    assert_eq!(silent.welcome.heartbeat_interval_ms, 200);
    silent.end().await.is(R::SessionSilent, "");
    // It heard the heartbeats, with where its inbox is.
    let versions = silent.kept().filter_map(|frame| match &frame.frame {
        Some(wire::server_frame::Frame::Heartbeat(beat)) => Some(beat.inbox_version),
        _ => None,
    });
    let versions: Vec<_> = versions.collect();
    assert!(!versions.is_empty());
    assert!(
        versions
            .iter()
            .all(|version| *version == scene.before.ada.1)
    );
    eventually("the silent one is offline", async || {
        let presence = scene.grace.presence_of(&scene.ada).await;
        (!presence.online && presence.last_seen_unix_ms > 0).then_some(())
    })
    .await;
    // The neighbours have said nothing but that they live, for as long.
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_half_open_connection_is_forgotten_and_nobody_waits_for_it() {
    let server = TestServer::builder()
        .config(|config| config.messaging.heartbeat_interval = Duration::from_millis(200))
        .start()
        .await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let proxy = Proxy::start(server.address()).await;
    let options = SessionOptions {
        url: Some(proxy.url()),
        ..SessionOptions::default()
    };
    let mut phone = ada.session_with(options).await;
    let mut peer = grace.session().await;
    peer.send(&conversation, "before").await;
    assert_eq!(phone.event(&conversation).await.seq, 1);
    assert!(grace.presence_of(&ada).await.online);

    // The phone goes into a tunnel: neither side hears that the connection is gone.
    proxy.freeze();
    for seq in 2..=100 {
        assert_eq!(peer.send(&conversation, "meanwhile").await.seq, seq);
    }
    eventually("the phone is offline", async || {
        let presence = grace.presence_of(&ada).await;
        (!presence.online && presence.last_seen_unix_ms > 0).then_some(())
    })
    .await;
    assert_eq!(peer.send(&conversation, "after").await.seq, 101);

    // It comes back another way, as the same device, and has lost nothing.
    let mut phone = ada.session().await;
    assert!(grace.presence_of(&ada).await.online);
    assert_eq!(ada.history(&conversation, 101).await.len(), 101);
    peer.send(&conversation, "again").await;
    assert_eq!(phone.event(&conversation).await.seq, 102);
}

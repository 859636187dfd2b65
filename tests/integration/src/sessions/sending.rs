//! Sends, their acks, and the events that they become.

use std::collections::HashMap;

use harness::{ServerProcess, StandaloneOptions, TestServer, message};
use proto::messaging::v1::{
    client_frame::Frame as Said, event::Kind, server_frame::Frame as Heard,
};
use uuid::Uuid;

/// The text of an event that is a message.
fn text_of(event: &proto::messaging::v1::Event) -> &str {
    match &event.kind {
        Some(Kind::Message(message)) => &message.text,
        _ => panic!("not a message"),
    }
}

#[tokio::test]
async fn a_message_reaches_the_peer_and_the_other_device_and_the_sender_has_its_ack_only() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let tablet = ada.second_device().await;
    let conversation = ada.with(&grace);
    let mut phone = ada.session().await;
    let mut tablet = tablet.session().await;
    let mut peer = grace.session().await;
    assert_eq!(phone.welcome.user_id, ada.user_id);
    assert_eq!(phone.welcome.device_id, ada.device_id);

    let id = Uuid::now_v7();
    let ack = phone.send_as(&conversation, id, "hello").await;
    assert_eq!((ack.seq, ack.message_index, ack.duplicate), (1, 1, false));
    assert_eq!(ack.conversation_id, conversation);
    assert_eq!(ack.message_id, id.to_string());

    let seen_by_peer = peer.event(&conversation).await;
    let seen_by_tablet = tablet.event(&conversation).await;
    assert_eq!(seen_by_peer, seen_by_tablet);
    assert_eq!((seen_by_peer.seq, seen_by_peer.message_index), (1, 1));
    assert_eq!(seen_by_peer.time_unix_ms, ack.time_unix_ms);
    assert_eq!(seen_by_peer.sender_id, ada.user_id);
    assert_eq!(text_of(&seen_by_peer), "hello");

    // The answer of the peer is the first event that the sender hears of.
    peer.send(&conversation, "hello to you").await;
    let heard = phone.event(&conversation).await;
    assert_eq!((heard.seq, text_of(&heard)), (2, "hello to you"));
    assert_eq!(tablet.event(&conversation).await, heard);

    // And the same is in the history of both.
    let history = ada.history(&conversation, 2).await;
    assert_eq!(history, [seen_by_peer, heard]);
    assert_eq!(grace.history(&conversation, 2).await, history);
}

#[tokio::test]
async fn a_send_is_the_same_through_a_call_and_the_session_hears_of_it() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut phone = ada.session().await;
    let mut peer = grace.session().await;

    let sent = ada
        .send(&conversation, Uuid::now_v7(), "by a call")
        .await
        .unwrap();
    assert_eq!(
        (sent.seq, sent.message_index, sent.duplicate),
        (1, 1, false)
    );
    // A call is not a session: all sessions of the sender hear of it.
    let event = phone.event(&conversation).await;
    assert_eq!((event.seq, event.time_unix_ms), (1, sent.time_unix_ms));
    assert_eq!(peer.event(&conversation).await, event);
}

#[tokio::test]
async fn a_retry_never_makes_a_second_event_whichever_way_it_comes() {
    let mut server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let tablet = ada.second_device().await;
    let conversation = ada.with(&grace);
    let id = Uuid::now_v7();

    let mut phone = ada.session().await;
    let first = phone.send_as(&conversation, id, "once").await;
    let later = phone.send(&conversation, "later").await;
    assert_eq!((first.seq, later.seq), (1, 2));
    phone.close().await;

    let same = |ack: &proto::messaging::v1::SendAck| {
        assert!(ack.duplicate, "a second event: {ack:?}");
        assert_eq!(
            (ack.seq, ack.message_index, ack.time_unix_ms),
            (first.seq, first.message_index, first.time_unix_ms)
        );
    };
    // After a reconnect; with another text, which does not count; from another device; by a call.
    let mut phone = ada.session().await;
    same(&phone.send_as(&conversation, id, "once").await);
    same(&phone.send_as(&conversation, id, "another text").await);
    let mut tablet_session = tablet.session().await;
    same(&tablet_session.send_as(&conversation, id, "once").await);
    let by_call = ada.send(&conversation, id, "once").await.unwrap();
    assert!(by_call.duplicate);
    assert_eq!(
        (by_call.seq, by_call.time_unix_ms),
        (first.seq, first.time_unix_ms)
    );

    // After a restart, when nothing of it is in memory.
    server.restart().await;
    let mut phone = ada.session().await;
    same(&phone.send_as(&conversation, id, "once").await);
    assert!(ada.send(&conversation, id, "once").await.unwrap().duplicate);
    // The peer may use the same id for a message of his own.
    let of_peer = grace.send(&conversation, id, "mine").await.unwrap();
    assert_eq!((of_peer.seq, of_peer.duplicate), (3, false));
    // And so may the sender in another conversation.
    let linus = server.user("linus").await;
    let elsewhere = ada.send(&ada.with(&linus), id, "once").await.unwrap();
    assert_eq!((elsewhere.seq, elsewhere.duplicate), (1, false));

    let history = grace.history(&conversation, 3).await;
    let texts: Vec<_> = history.iter().map(text_of).collect();
    assert_eq!(texts, ["once", "later", "mine"]);
}

#[tokio::test]
async fn any_uuid_names_a_message_whatever_its_order() {
    let mut server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut phone = ada.session().await;
    // Falling, so that each is below the largest one known and must be looked up.
    let ids: Vec<_> = (1..=50_u128)
        .rev()
        .map(|n| Uuid::from_u128(n << 64))
        .collect();
    for (at, id) in ids.iter().enumerate() {
        let ack = phone.send_as(&conversation, *id, &format!("{at}")).await;
        assert_eq!((ack.seq, ack.duplicate), (at as u64 + 1, false));
    }
    server.restart().await;
    let mut phone = ada.session().await;
    for (at, id) in ids.iter().enumerate() {
        let ack = phone.send_as(&conversation, *id, "again").await;
        assert_eq!((ack.seq, ack.duplicate), (at as u64 + 1, true));
    }
    assert_eq!(phone.send(&conversation, "new").await.seq, 51);
}

#[tokio::test]
async fn pipelined_sends_keep_their_order_in_each_conversation() {
    const EACH: u64 = 200;
    let server = TestServer::builder()
        .config(|config| config.messaging.session_in_flight_max = 10_000)
        .start()
        .await;
    let ada = server.user("ada").await;
    let mut conversations = Vec::new();
    for name in ["grace", "linus", "edsger"] {
        conversations.push(ada.with(&server.user(name).await));
    }
    let mut phone = ada.session().await;
    let mut asked = HashMap::new();
    for n in 1..=EACH {
        for conversation in &conversations {
            let send = message(conversation, Uuid::now_v7(), &format!("{n}"));
            let request_id = phone.say(Said::Send(send)).await;
            asked.insert(request_id, (conversation.clone(), n));
        }
    }
    // Each request has one answer: its place is its turn.
    while !asked.is_empty() {
        let (request_id, ack) = phone
            .wait("an ack", |frame| match &frame.frame {
                Some(Heard::SendAck(ack)) => Some((frame.request_id, ack.clone())),
                Some(Heard::Error(error)) => panic!("not sent: {error:?}"),
                _ => None,
            })
            .await;
        let (conversation, n) = asked.remove(&request_id).unwrap();
        assert_eq!((ack.conversation_id, ack.seq), (conversation, n));
    }
    for conversation in &conversations {
        let history = ada.history(conversation, EACH).await;
        let texts: Vec<_> = history.iter().map(text_of).collect();
        let wanted: Vec<_> = (1..=EACH).map(|n| n.to_string()).collect();
        assert_eq!(texts, wanted);
    }
}

#[tokio::test]
async fn everything_is_the_same_after_a_stop_and_a_start() {
    let mut server = ServerProcess::start(StandaloneOptions::default());
    let ada = harness::register(&server.url(), "ada").await;
    let mut grace = harness::register(&server.url(), "grace").await;
    let conversation = ada.with(&grace);
    let mut phone = ada.session().await;
    for n in 1..=30 {
        phone.send(&conversation, &format!("{n}")).await;
    }
    let before = grace.history(&conversation, 30).await;
    phone.close().await;

    assert_eq!(server.terminate().await.code(), Some(0), "{}", server.log());
    server.start_again();
    grace.reconnect();

    assert_eq!(grace.history(&conversation, 30).await, before);
    let row = harness::eventually("all 30 are counted", async || {
        let row = grace.conversation(&conversation).await;
        (row.last_seq == 30).then_some(row)
    });
    assert_eq!(row.await.unread_count, 30);
    let mut phone = ada.session().await;
    assert_eq!(phone.send(&conversation, "31").await.seq, 31);
}

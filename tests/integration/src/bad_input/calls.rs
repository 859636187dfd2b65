//! Calls that name what is not there, or ask for too much.

use bytes::Bytes;
use harness::{Refusal, call_raw, direct, refused};
use proto::{error::v1::ErrorReason as R, messaging::v1 as wire};
use tonic::Code;
use uuid::Uuid;

use super::{BEFORE, Scene};

#[tokio::test]
async fn opening_names_what_is_wrong_with_the_other_user() {
    let scene = Scene::start().await;
    let cases = [
        (R::FieldRequired, String::new()),
        (R::FieldMalformed, "ada".to_owned()),
        (R::FieldMalformed, Uuid::nil().to_string()),
        (R::FieldMalformed, scene.ada.user_id.clone()),
        (R::UserNotFound, Uuid::now_v7().to_string()),
    ];
    for (reason, user_id) in cases {
        let request = wire::OpenDirectConversationRequest { user_id };
        let answer = scene
            .ada
            .messaging()
            .open_direct_conversation(request)
            .await;
        refused(answer).is(reason, "user_id");
    }
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_conversation_is_shown_to_its_members_only() {
    let scene = Scene::start().await;
    let nobody = direct(&scene.ada.user_id, &Uuid::now_v7().to_string());
    let cases = [
        (R::FieldRequired, ""),
        (R::FieldMalformed, "d:x"),
        (R::NotAMember, &scene.neighbours_conversation),
    ];
    let mut calls = scene.ada.messaging();
    let get = |id: &str| wire::GetConversationRequest {
        conversation_id: id.to_owned(),
    };
    let answer = calls.get_conversation(get(&nobody)).await;
    refused(answer).is(R::ConversationNotFound, "conversation_id");
    for (reason, id) in cases {
        refused(calls.get_conversation(get(id)).await).is(reason, "conversation_id");
        let status = wire::GetSendStatusRequest {
            conversation_id: id.to_owned(),
            message_id: Uuid::now_v7().to_string(),
        };
        refused(calls.get_send_status(status).await).is(reason, "conversation_id");
        let events = wire::ListEventsRequest {
            ranges: vec![wire::EventRange {
                conversation_id: id.to_owned(),
                ..wire::EventRange::default()
            }],
        };
        refused(calls.list_events(events).await).is(reason, "ranges[0].conversation_id");
        let messages = wire::ListMessagesRequest {
            ranges: vec![wire::MessageRange {
                conversation_id: id.to_owned(),
                ..wire::MessageRange::default()
            }],
        };
        refused(calls.list_messages(messages).await).is(reason, "ranges[0].conversation_id");
    }
    for (reason, message_id) in [
        (R::FieldRequired, ""),
        (R::FieldMalformed, "x"),
        (R::FieldMalformed, "00000000-0000-0000-0000-000000000000"),
    ] {
        let status = wire::GetSendStatusRequest {
            conversation_id: scene.conversation.clone(),
            message_id: message_id.to_owned(),
        };
        refused(calls.get_send_status(status).await).is(reason, "message_id");
    }
    scene.ends_unharmed().await;
}

/// Sends and GetConversation are in tests of their own.
#[tokio::test]
async fn a_conversation_with_nobody_is_not_found_by_any_call() {
    let scene = Scene::start().await;
    let nobody = direct(&scene.ada.user_id, &Uuid::now_v7().to_string());
    let mut calls = scene.ada.messaging();
    // A good range before the one that is not, which says also that it can be waited for.
    let events = [(&scene.conversation, 0), (&nobody, 1)];
    let events = events.map(|(id, min_seq)| wire::EventRange {
        conversation_id: id.clone(),
        min_seq,
        ..wire::EventRange::default()
    });
    let messages = events.clone().map(|range| wire::MessageRange {
        conversation_id: range.conversation_id,
        min_seq: range.min_seq,
        ..wire::MessageRange::default()
    });
    let (field, missing) = ("ranges[1].conversation_id", R::ConversationNotFound);
    let ranges = events.to_vec();
    let answer = calls.list_events(wire::ListEventsRequest { ranges }).await;
    refused(answer).is(missing, field);
    let ranges = messages.to_vec();
    let answer = calls
        .list_messages(wire::ListMessagesRequest { ranges })
        .await;
    refused(answer).is(missing, field);
    let status = wire::GetSendStatusRequest {
        conversation_id: nobody.clone(),
        message_id: Uuid::now_v7().to_string(),
    };
    refused(calls.get_send_status(status).await).is(missing, "conversation_id");
    let mark = wire::MarkReadRequest {
        conversation_id: nobody,
        up_to: Some(wire::Watermark {
            seq: 1,
            message_index: 1,
        }),
    };
    refused(calls.mark_read(mark).await).is(missing, "conversation_id");
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn an_empty_conversation_with_somebody_is_there() {
    let scene = Scene::start().await;
    let leslie = scene.server.user("leslie").await;
    let conversation_id = scene.ada.with(&leslie);
    assert_eq!(scene.ada.history(&conversation_id, 0).await, []);
    let mut calls = scene.ada.messaging();
    let messages = wire::ListMessagesRequest {
        ranges: vec![wire::MessageRange {
            conversation_id: conversation_id.clone(),
            ..wire::MessageRange::default()
        }],
    };
    let answer = calls.list_messages(messages).await.unwrap().into_inner();
    assert_eq!(answer.pages[0].messages, []);
    let status = wire::GetSendStatusRequest {
        conversation_id: conversation_id.clone(),
        message_id: Uuid::now_v7().to_string(),
    };
    let status = calls.get_send_status(status).await.unwrap().into_inner();
    let nothing = wire::get_send_status_response::Status::NotAcceptedAsOfSeq(0);
    assert_eq!(status.status, Some(nothing));
    let up_to = Some(wire::Watermark {
        seq: 1,
        message_index: 1,
    });
    let mark = wire::MarkReadRequest {
        conversation_id,
        up_to,
    };
    calls.mark_read(mark).await.unwrap();
    scene.ends_unharmed().await;
}

/// A user who is gone from `profile` shows whether anybody asked.
#[tokio::test]
async fn profile_is_not_asked_about_a_conversation_that_has_events() {
    let mut scene = Scene::start().await;
    scene.server.stop().await;
    let accounts = rusqlite::Connection::open(scene.server.data().join("profile.db")).unwrap();
    accounts.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    let forget = "DELETE FROM users WHERE username = 'grace'";
    assert_eq!(accounts.execute(forget, []).unwrap(), 1);
    drop(accounts);
    scene.server.restart().await;
    scene.ada.reconnect();
    let mut calls = scene.ada.messaging();
    let history = scene.ada.history(&scene.conversation, BEFORE).await;
    assert_eq!(history.len() as u64, BEFORE);
    let status = wire::GetSendStatusRequest {
        conversation_id: scene.conversation.clone(),
        message_id: Uuid::now_v7().to_string(),
    };
    calls.get_send_status(status).await.unwrap();
    // She is gone indeed: what asks does not find her.
    let get = wire::GetConversationRequest {
        conversation_id: scene.conversation.clone(),
    };
    let field = "conversation_id";
    refused(calls.get_conversation(get).await).is(R::ConversationNotFound, field);
}

#[tokio::test]
async fn a_request_larger_than_the_limit_is_refused_before_it_is_understood() {
    let scene = Scene::start().await;
    for path in ["SendMessage", "ListEvents", "OpenDirectConversation"] {
        let path = format!("/messenger.messaging.v1.MessagingService/{path}");
        let token = Some(scene.ada.tokens.access_token.as_str());
        let large = Bytes::from(vec![0; 130 * 1024]);
        let status = call_raw(scene.ada.channel(), &path, token, large)
            .await
            .unwrap_err();
        Refusal::from(&status).is(R::FrameTooLarge, "");
        // And one that cannot be decoded.
        let garbage = Bytes::from_static(&[0xff; 64]);
        let status = call_raw(scene.ada.channel(), &path, token, garbage)
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_user_who_calls_too_often_is_told_when_to_come_back_and_others_are_not() {
    let rate = |n| std::num::NonZeroU32::new(n).unwrap();
    let builder = harness::TestServer::builder().config(move |config| {
        config.messaging.calls_per_second = rate(5);
        config.messaging.calls_burst = rate(100);
    });
    let scene = Scene::of(builder).await;
    let linus = scene.server.user("leslie").await;
    let mut limited = 0;
    for _ in 0..300 {
        let request = wire::GetUnreadTotalRequest::default();
        if let Err(status) = scene.ada.messaging().get_unread_total(request).await {
            let refusal = Refusal::from(&status);
            refusal.is(R::RateLimited, "");
            assert!(refusal.retry_after.is_some_and(|after| !after.is_zero()));
            limited += 1;
        }
        linus.unread_total_if_allowed().await;
    }
    assert!(limited >= 100, "only {limited} of 300 were refused");
}

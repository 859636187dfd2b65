//! Calls that name what is not there, or ask for too much.

use bytes::Bytes;
use harness::{Refusal, call_raw, direct, refused};
use proto::{error::v1::ErrorReason as R, messaging::v1 as wire};
use tonic::Code;
use uuid::Uuid;

use super::Scene;

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

//! Texts and ids that are wrong, in sends: in a session and as calls alike.

use harness::{Refusal, direct, message, refused};
use proto::{error::v1::ErrorReason as R, messaging::v1 as wire};
use uuid::Uuid;

use super::{BEFORE, Scene};

#[tokio::test]
async fn a_send_with_a_wrong_field_is_refused_by_name_and_changes_nothing() {
    let scene = Scene::start().await;
    let (own, good) = (scene.conversation.clone(), Uuid::now_v7().to_string());
    let (low, high) = own[2..].split_once(':').unwrap();
    let nobody = direct(&scene.ada.user_id, &Uuid::now_v7().to_string());
    let nil = Uuid::nil().to_string();
    let ids = [
        (R::FieldRequired, "conversation_id", String::new()),
        (R::FieldMalformed, "conversation_id", "x".to_owned()),
        (R::FieldMalformed, "conversation_id", low.to_owned()),
        (
            R::FieldMalformed,
            "conversation_id",
            format!("d:{high}:{low}"),
        ),
        (
            R::FieldMalformed,
            "conversation_id",
            format!("d:{low}:{low}"),
        ),
        (
            R::FieldMalformed,
            "conversation_id",
            format!("g:{low}:{high}"),
        ),
        (
            R::FieldMalformed,
            "conversation_id",
            format!("d:{low}:{high}:"),
        ),
        (
            R::FieldMalformed,
            "conversation_id",
            format!("d:{nil}:{high}"),
        ),
        (R::FieldMalformed, "conversation_id", "é".repeat(37) + "x"),
        (R::FieldMalformed, "conversation_id", "d".repeat(10_000)),
        (R::ConversationNotFound, "conversation_id", nobody),
        (
            R::NotAMember,
            "conversation_id",
            scene.neighbours_conversation.clone(),
        ),
    ];
    let names = [
        (R::FieldRequired, "message_id", String::new()),
        (R::FieldMalformed, "message_id", "not a UUID".to_owned()),
        (R::FieldMalformed, "message_id", nil.clone()),
        (R::FieldMalformed, "message_id", good.replace('-', "")),
        (R::FieldMalformed, "message_id", format!("{{{good}}}")),
    ];
    let texts = [
        (R::FieldRequired, "text", String::new()),
        (R::TextTooLong, "text", "x".repeat(701)),
        (R::TextTooLong, "text", "\u{10348}".repeat(701)),
        (R::TextNotStorable, "text", "a\0b".to_owned()),
        (R::TextNotStorable, "text", "\0".to_owned()),
    ];
    let send = |conversation_id: &str, message_id: &str, text: &str| wire::Send {
        conversation_id: conversation_id.to_owned(),
        message_id: message_id.to_owned(),
        text: text.to_owned(),
        ..wire::Send::default()
    };
    let mentions = |conversation_id: &str, users: Vec<String>, all: bool| wire::Send {
        mentioned_user_ids: users,
        mentions_all: all,
        ..send(conversation_id, &good, "x")
    };
    let group = format!("g:{}", Uuid::now_v7());
    let many = (0..51).map(|_| Uuid::now_v7().to_string()).collect();
    let field = "mentioned_user_ids";
    let mentions = [
        (R::FieldOutOfRange, field, mentions(&own, Vec::new(), true)),
        (R::FieldOutOfRange, field, mentions(&group, many, false)),
        (
            R::FieldMalformed,
            field,
            mentions(&group, vec!["ada".to_owned()], false),
        ),
    ];
    let cases = ids
        .map(|(reason, field, id)| (reason, field, send(&id, &good, "x")))
        .into_iter()
        .chain(names.map(|(reason, field, id)| (reason, field, send(&own, &id, "x"))))
        .chain(texts.map(|(reason, field, text)| (reason, field, send(&own, &good, &text))))
        .chain(mentions);

    let mut session = scene.ada.session().await;
    for (reason, field, send) in cases {
        let shown = format!("{send:?}").chars().take(200).collect::<String>();
        println!("{reason:?} {field}: {shown}");
        let in_session = session.try_send(send.clone()).await.unwrap_err();
        in_session.is(reason, &format!("send.{field}"));
        let request = wire::SendMessageRequest {
            conversation_id: send.conversation_id,
            message_id: send.message_id,
            text: send.text,
            mentioned_user_ids: send.mentioned_user_ids,
            mentions_all: send.mentions_all,
            attachment_receipts: send.attachment_receipts,
        };
        refused(scene.ada.messaging().send_message(request).await).is(reason, field);
    }
    // The session lives, and a refused name is free: nothing was stored under it.
    let status = wire::GetSendStatusRequest {
        conversation_id: own.clone(),
        message_id: good,
    };
    let status = scene.ada.messaging().get_send_status(status).await.unwrap();
    let nothing = wire::get_send_status_response::Status::NotAcceptedAsOfSeq(BEFORE);
    assert_eq!(status.into_inner().status, Some(nothing));
    drop(session);
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_text_is_measured_in_characters_and_comes_back_as_it_was() {
    let server = harness::TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut session = ada.session().await;
    // The largest in bytes; combining marks; directions; what looks like markup or SQL; blanks.
    let texts = [
        "\u{10348}".repeat(700),
        "x".repeat(700),
        "e\u{301}".repeat(350),
        "\u{202e}abc\u{2066}".to_owned(),
        "'); drop table events; -- \\ \" <b>%s%n".to_owned(),
        " \n\r\t\u{7f}\u{feff}\u{fffe} ".to_owned(),
        "\u{1}".to_owned(),
    ];
    for text in &texts {
        session.send(&conversation, text).await;
    }
    let history = grace.history(&conversation, texts.len() as u64).await;
    let read = history.iter().map(|event| match &event.kind {
        Some(wire::event::Kind::Message(message)) => message.text.clone(),
        _ => String::new(),
    });
    assert!(read.eq(texts.iter().cloned()));
    // A preview has at most 100 of them, and breaks none.
    let last = "\u{10348}".repeat(700);
    session.send(&conversation, &last).await;
    let preview = harness::eventually("the last preview", async || {
        let row = grace.conversation(&conversation).await;
        row.preview
            .filter(|preview| preview.seq == texts.len() as u64 + 1)
    });
    assert_eq!(preview.await.text, "\u{10348}".repeat(100));
}

#[tokio::test]
async fn watermarks_that_name_no_event_are_refused() {
    let scene = Scene::start().await;
    let mark = |seq, message_index| wire::Watermark { seq, message_index };
    let own = scene.conversation.as_str();
    let foreign = scene.neighbours_conversation.as_str();
    let cases = [
        (R::FieldRequired, "up_to", own, None),
        (R::FieldRequired, "up_to", own, Some(mark(0, 0))),
        (R::FieldOutOfRange, "up_to", own, Some(mark(1, 2))),
        (R::FieldRequired, "conversation_id", "", Some(mark(1, 1))),
        (
            R::FieldMalformed,
            "conversation_id",
            "d:1:2",
            Some(mark(1, 1)),
        ),
        (R::NotAMember, "conversation_id", foreign, Some(mark(1, 1))),
    ];
    let mut session = scene.ada.session().await;
    for (reason, field, conversation_id, up_to) in cases {
        let conversation_id = conversation_id.to_owned();
        let delivered = wire::client_frame::Frame::Delivered(wire::Delivered {
            conversation_id: conversation_id.clone(),
            up_to,
        });
        let refusal = session.refusal(delivered).await;
        refusal.is(reason, &format!("delivered.{field}"));
        let read = wire::client_frame::Frame::Read(wire::Read {
            conversation_id: conversation_id.clone(),
            up_to,
        });
        let refusal = session.refusal(read).await;
        refusal.is(reason, &format!("read.{field}"));
        let request = wire::MarkReadRequest {
            conversation_id,
            up_to,
        };
        refused(scene.ada.messaging().mark_read(request).await).is(reason, field);
    }
    drop(session);
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn reading_marks_in_a_conversation_with_nobody_makes_no_conversation() {
    let scene = Scene::start().await;
    let nobody = direct(&scene.ada.user_id, &Uuid::now_v7().to_string());
    let request = wire::MarkReadRequest {
        conversation_id: nobody.clone(),
        up_to: Some(wire::Watermark {
            seq: 1,
            message_index: 1,
        }),
    };
    let marked = scene.ada.messaging().mark_read(request).await;
    refused(marked).is(R::ConversationNotFound, "conversation_id");
    // In a session a mark has no answer, and nothing comes of it.
    let mut session = scene.ada.session().await;
    session.read(&nobody, 5).await;
    session.settle().await;
    let refusal: Refusal = session
        .try_send(message(&nobody, Uuid::now_v7(), "anybody?"))
        .await
        .unwrap_err();
    refusal.is(R::ConversationNotFound, "send.conversation_id");
    drop(session);
    scene.ends_unharmed().await;
}

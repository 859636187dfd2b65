//! Frames that are wrong, or come when they must not.

use bytes::{BufMut, Bytes, BytesMut};
use harness::{Refusal, SessionOptions, hello, message, open_raw_session, within};
use prost::Message;
use proto::{
    error::v1::ErrorReason as R,
    messaging::v1::{
        ClientFrame, ClientHeartbeat, Hello, ServerFrame, client_frame::Frame as Said,
        server_frame::Frame as Heard,
    },
};
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::Scene;

fn frame(request_id: u64, frame: Said) -> ClientFrame {
    ClientFrame {
        request_id,
        frame: Some(frame),
    }
}

/// Reads a stream that must end with an error and nothing before it.
async fn end_of(mut frames: Streaming<ServerFrame>) -> Refusal {
    match within("the end", frames.message()).await {
        Err(status) => Refusal::from(&status),
        other => panic!("not ended: {other:?}"),
    }
}

#[tokio::test]
async fn nothing_is_said_before_hello() {
    let scene = Scene::start().await;
    let send = message(&scene.conversation, Uuid::now_v7(), "too early");
    let early = [
        Some(Said::Send(send)),
        Some(Said::Heartbeat(ClientHeartbeat {})),
        None,
    ];
    for early in early {
        let (sender, frames) = scene.ada.stream(&SessionOptions::default()).await.unwrap();
        let first = ClientFrame {
            request_id: 1,
            frame: early,
        };
        sender.send(first).await.unwrap();
        // A hello that comes behind it changes nothing.
        let _ = sender.send(frame(2, hello(0))).await;
        end_of(frames).await.is(R::HelloRequired, "");
    }
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_hello_that_the_server_does_not_understand_ends_the_session() {
    let scene = Scene::start().await;
    let good = Hello {
        protocol_version: 1,
        inbox_version: 0,
        user_agent: "x".repeat(100),
    };
    let old = Hello {
        protocol_version: 0,
        ..good.clone()
    };
    let long = Hello {
        user_agent: "x".repeat(101),
        ..good.clone()
    };
    let cases = [
        (old, R::ProtocolVersionUnsupported, "hello.protocol_version"),
        (long, R::FieldOutOfRange, "hello.user_agent"),
    ];
    for (hello, reason, field) in cases {
        let (sender, frames) = scene.ada.stream(&SessionOptions::default()).await.unwrap();
        sender.send(frame(1, Said::Hello(hello))).await.unwrap();
        end_of(frames).await.is(reason, field);
    }
    // A newer client is answered with what this server speaks, whatever version it claims to be at.
    let newer = Hello {
        protocol_version: 1_000,
        inbox_version: u64::MAX,
        ..good
    };
    let (sender, mut frames) = scene.ada.stream(&SessionOptions::default()).await.unwrap();
    sender.send(frame(7, Said::Hello(newer))).await.unwrap();
    let first = within("welcome", frames.message()).await.unwrap().unwrap();
    assert_eq!(first.request_id, 7);
    let Some(Heard::Welcome(welcome)) = first.frame else {
        panic!("no welcome: {first:?}");
    };
    assert_eq!(welcome.protocol_version, 1);
    assert_eq!(welcome.inbox_version, scene.before.ada.1);
    drop((sender, frames));
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_second_hello_and_a_frame_without_content_are_refused_and_the_session_goes_on() {
    let scene = Scene::start().await;
    let mut session = scene.ada.session().await;
    session.refusal(hello(0)).await.is(R::HelloRepeated, "");
    let nothing = ClientFrame {
        request_id: 99,
        frame: None,
    };
    session.say_frame(nothing).await;
    session.error_of(99).await.is(R::FrameUnknown, "");
    session.settle().await;
    assert_eq!(session.close().await.code(), tonic::Code::Ok);
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_token_that_is_not_of_this_device_does_not_renew_the_session() {
    let scene = Scene::start().await;
    let mut session = scene.ada.session().await;
    let renew = |token: &str| {
        Said::RenewToken(proto::messaging::v1::RenewToken {
            access_token: token.to_owned(),
        })
    };
    let tablet = scene.ada.second_device().await;
    let other = scene.grace.tokens.access_token.as_str();
    let other_device = tablet.tokens.access_token.as_str();
    let refresh = scene.ada.tokens.refresh_token.as_str();
    for token in ["", "x", "a.b.c", refresh] {
        let refusal = session.refusal(renew(token)).await;
        assert_eq!(refusal.reason, R::TokenInvalid, "{refusal:?}");
    }
    for token in [other, other_device] {
        let refusal = session.refusal(renew(token)).await;
        refusal.is(R::TokenInvalid, "renew_token.access_token");
    }
    session.settle().await;
    drop(session);
    scene.ends_unharmed().await;
}

/// The bytes of a frame in which a field that nobody knows makes it `len` long.
fn padded(frame: &ClientFrame, len: usize) -> Bytes {
    let mut bytes = BytesMut::from(frame.encode_to_vec().as_slice());
    // Field 15, of bytes, with a length of two or three bytes.
    let room = len - bytes.len() - 1;
    let content = if room < 16_384 + 2 {
        room - 2
    } else {
        room - 3
    };
    bytes.put_u8(15 << 3 | 2);
    prost::encoding::encode_varint(content as u64, &mut bytes);
    bytes.put_bytes(0, content);
    assert_eq!(bytes.len(), len);
    bytes.freeze()
}

async fn next(frames: &mut Streaming<Bytes>) -> Result<ServerFrame, Status> {
    match within("a frame", frames.message()).await? {
        Some(bytes) => Ok(ServerFrame::decode(bytes).unwrap()),
        None => Err(Status::ok("ended")),
    }
}

#[tokio::test]
async fn a_frame_has_at_most_sixteen_kib_and_a_larger_one_ends_the_session() {
    let scene = Scene::start().await;
    let token = &scene.ada.tokens.access_token;
    let channel = harness::connect(&scene.server.url());
    let (sender, mut frames) = open_raw_session(channel, token).await.unwrap();
    let say = async |bytes: Bytes| sender.send(bytes).await.unwrap();
    say(padded(&frame(1, hello(0)), 16 * 1024)).await;
    let welcome = next(&mut frames).await.unwrap();
    let Some(Heard::Welcome(welcome)) = welcome.frame else {
        panic!("no welcome: {welcome:?}");
    };
    assert_eq!(welcome.limits.unwrap().frame_bytes_max, 16 * 1024);
    // A field that is not known is no reason to refuse a frame.
    say(padded(&frame(2, hello(0)), 16 * 1024)).await;
    let answer = next(&mut frames).await.unwrap();
    assert_eq!(answer.request_id, 2);
    say(padded(
        &frame(3, Said::Heartbeat(ClientHeartbeat {})),
        16 * 1024 + 1,
    ))
    .await;
    let end = next(&mut frames).await.unwrap_err();
    Refusal::from(&end).is(R::FrameTooLarge, "");

    // The same for one that says that it is far larger than it is.
    let mut session = scene.ada.session().await;
    let send = message(
        &scene.conversation,
        Uuid::now_v7(),
        &"x".repeat(1024 * 1024),
    );
    session.say(Said::Send(send)).await;
    session.end().await.is(R::FrameTooLarge, "");
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn bytes_that_are_no_frame_end_the_session_of_who_sent_them() {
    let scene = Scene::start().await;
    let token = &scene.ada.tokens.access_token;
    for garbage in [
        &[0xff_u8; 40][..],
        &[0x1a, 0x05, 0x0a],
        &[0x1a, 0x03, 0x0a, 0x01, 0xff],
    ] {
        let channel = harness::connect(&scene.server.url());
        let (sender, mut frames) = open_raw_session(channel, token).await.unwrap();
        let first = frame(1, hello(0)).encode_to_vec();
        sender.send(first.into()).await.unwrap();
        next(&mut frames).await.unwrap();
        sender.send(Bytes::copy_from_slice(garbage)).await.unwrap();
        let end = next(&mut frames).await.unwrap_err();
        Refusal::from(&end).is(R::FrameUnknown, "");
    }
    // A kind of frame that a later protocol may have: refused by its request_id, and no more.
    let channel = harness::connect(&scene.server.url());
    let (sender, mut frames) = open_raw_session(channel, token).await.unwrap();
    sender
        .send(frame(1, hello(0)).encode_to_vec().into())
        .await
        .unwrap();
    next(&mut frames).await.unwrap();
    let nothing = ClientFrame {
        request_id: 5,
        frame: None,
    };
    sender.send(padded(&nothing, 1_000)).await.unwrap();
    let answer = next(&mut frames).await.unwrap();
    let Some(Heard::Error(error)) = answer.frame else {
        panic!("not refused: {answer:?}");
    };
    Refusal::from(&error).is(R::FrameUnknown, "");
    assert_eq!(answer.request_id, 5);
    drop((sender, frames));
    scene.ends_unharmed().await;
}

//! How far users have got: ticks, and unread counts.

use harness::{Device, Session, TestServer, eventually};
use proto::messaging::v1::{
    Conversation, MarkReadRequest, MemberMarks, Watermark, client_frame::Frame as Said,
    server_frame::Frame as Heard,
};
use uuid::Uuid;

/// Waits until a member's marks have come to (delivered, read) in a live session.
async fn until_marks(session: &mut Session, of: &Device, delivered: u64, read: u64) {
    let wanted =
        |marks: &MemberMarks| marks.user_id == of.user_id && seqs(Some(marks)) == (delivered, read);
    session
        .wait("marks of the peer", |frame| match &frame.frame {
            Some(Heard::Marks(marks)) => marks.members.iter().any(wanted).then_some(()),
            Some(Heard::InboxUpdate(update)) => {
                let mut rows = update.conversations.iter();
                let shown = |row: &Conversation| {
                    [&row.own_marks, &row.peer_marks]
                        .into_iter()
                        .flatten()
                        .any(wanted)
                };
                rows.any(shown).then_some(())
            }
            _ => None,
        })
        .await;
}

fn seqs(marks: Option<&MemberMarks>) -> (u64, u64) {
    let seq = |mark: Option<Watermark>| {
        let mark = mark.unwrap_or_default();
        assert_eq!(mark.seq, mark.message_index, "all events are messages");
        mark.seq
    };
    marks.map_or((0, 0), |marks| (seq(marks.delivered), seq(marks.read)))
}

/// Waits until a user's row says this.
async fn until_row(user: &Device, id: &str, what: &str, is: impl Fn(&Conversation) -> bool) {
    eventually(what, async || {
        let row = user.conversation(id).await;
        is(&row).then_some(())
    })
    .await;
}

#[tokio::test]
async fn ticks_reach_the_sender_and_every_list_shows_them() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut phone = ada.session().await;
    let mut peer = grace.session().await;
    for n in 1..=5 {
        phone.send(&conversation, &n.to_string()).await;
    }
    until_row(&grace, &conversation, "five unread", |row| {
        row.unread_count == 5
    })
    .await;
    // Sending is reading: the own messages are not unread.
    until_row(&ada, &conversation, "none unread", |row| {
        row.last_seq == 5 && row.unread_count == 0 && seqs(row.own_marks.as_ref()).1 == 5
    })
    .await;

    peer.delivered(&conversation, 4).await;
    until_marks(&mut phone, &grace, 4, 0).await;
    peer.read(&conversation, 3).await;
    until_marks(&mut phone, &grace, 4, 3).await;
    // What is read is delivered.
    peer.read(&conversation, 5).await;
    until_marks(&mut phone, &grace, 5, 5).await;

    until_row(&ada, &conversation, "both ticks of the last", |row| {
        seqs(row.peer_marks.as_ref()) == (5, 5)
    })
    .await;
    until_row(&grace, &conversation, "nothing unread", |row| {
        row.unread_count == 0 && seqs(row.own_marks.as_ref()) == (5, 5)
    })
    .await;
}

#[tokio::test]
async fn reading_on_one_device_clears_the_other() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let tablet = ada.second_device().await;
    let conversation = ada.with(&grace);
    let mut phone = ada.session().await;
    let mut tablet_session = tablet.session().await;
    for n in 1..=3 {
        let sent = grace
            .send(&conversation, Uuid::now_v7(), &n.to_string())
            .await;
        assert_eq!(sent.unwrap().seq, n);
    }
    let unread_is = |wanted: u64| {
        move |frame: &proto::messaging::v1::ServerFrame| match &frame.frame {
            Some(Heard::InboxUpdate(update)) => {
                let row = update.conversations.first()?;
                (row.unread_count == wanted && row.last_seq == 3).then_some(update.version)
            }
            _ => None,
        }
    };
    tablet_session.wait("three unread", unread_is(3)).await;
    phone.read(&conversation, 2).await;
    tablet_session.wait("one unread", unread_is(1)).await;
    assert_eq!(tablet.unread_total().await.unread_total, 1);
    // The other way, by a call.
    let request = MarkReadRequest {
        conversation_id: conversation.clone(),
        up_to: Some(Watermark {
            seq: 3,
            message_index: 3,
        }),
    };
    tablet.messaging().mark_read(request).await.unwrap();
    let version = phone.wait("none unread", unread_is(0)).await;
    let total = ada.unread_total().await;
    assert_eq!((total.unread_total, total.inbox_version), (0, version));
}

#[tokio::test]
async fn a_watermark_is_never_lowered_nor_above_what_there_is() {
    let mut server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut phone = ada.session().await;
    let mut peer = grace.session().await;
    for n in 1..=4 {
        phone.send(&conversation, &n.to_string()).await;
    }
    // Far beyond the end, in every way that there is. Each is waited for: what is on its way when
    // another message comes is capped at that one.
    let far = 1_000_000_000_000;
    peer.delivered(&conversation, far).await;
    until_marks(&mut phone, &grace, 4, 0).await;
    peer.read(&conversation, u64::MAX).await;
    until_marks(&mut phone, &grace, 4, 4).await;
    let request = MarkReadRequest {
        conversation_id: conversation.clone(),
        up_to: Some(Watermark {
            seq: u64::MAX,
            message_index: far,
        }),
    };
    grace.messaging().mark_read(request).await.unwrap();

    // What comes afterwards is unread all the same, and so it stays.
    phone.send(&conversation, "5").await;
    phone.send(&conversation, "6").await;
    until_row(&grace, &conversation, "two unread", |row| {
        row.last_seq == 6 && row.unread_count == 2
    })
    .await;
    peer.read(&conversation, 5).await;
    until_row(&grace, &conversation, "one unread", |row| {
        row.unread_count == 1
    })
    .await;
    peer.read(&conversation, 1).await;
    peer.settle().await;
    drop(peer);
    drop(phone);
    server.restart().await;
    let (mut ada, mut grace) = (ada, grace);
    ada.reconnect();
    grace.reconnect();
    let row = grace.conversation(&conversation).await;
    assert_eq!((row.unread_count, seqs(row.own_marks.as_ref()).1), (1, 5));
    // An index that does not belong to its seq harms the list of who named it only until the next
    // honest one.
    let mut peer = grace.session().await;
    let lie = proto::messaging::v1::Read {
        conversation_id: conversation.clone(),
        up_to: Some(Watermark {
            seq: far,
            message_index: 0,
        }),
    };
    peer.say(Said::Read(lie)).await;
    peer.read(&conversation, 6).await;
    until_row(&grace, &conversation, "none unread", |row| {
        row.unread_count == 0
    })
    .await;
    let sent = ada.send(&conversation, Uuid::now_v7(), "7").await.unwrap();
    assert_eq!(sent.seq, 7);
    until_row(&grace, &conversation, "one unread again", |row| {
        row.last_seq == 7 && row.unread_count == 1
    })
    .await;
}

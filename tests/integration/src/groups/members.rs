//! Members, and who was one: what they receive, read and send.

use harness::{Device, TestServer, eventually, message, refused};
use proto::{
    error::v1::ErrorReason,
    groups::v1::{GroupSettings, HistoryAccess},
    messaging::v1::{Event, event::Kind, server_frame::Frame as Heard},
};
use uuid::Uuid;

fn texts(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| match &event.kind {
            Some(Kind::Message(message)) => Some(message.text.as_str()),
            _ => None,
        })
        .collect()
}

fn seqs(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.seq).collect()
}

async fn row_ends(device: &Device, conversation_id: &str, seq: u64) {
    eventually("the row", async || {
        let row = device.conversation(conversation_id).await;
        (row.last_seq >= seq).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_device_of_every_member_receives_what_is_sent_and_the_sender_s_other_ones_too() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let grace = server.user("grace").await;
    let alan = server.user("alan").await;
    let (group, _) = ada
        .create_group("engines", &[&grace, &alan], GroupSettings::default())
        .await;
    let id = group.conversation_id;
    let second = ada.second_device().await;
    let mut others = Vec::new();
    for device in [&second, &grace, &alan] {
        others.push(device.session().await);
    }
    let mut sender = ada.session().await;
    let ack = sender.send(&id, "it weaves").await;
    for session in &mut others {
        let event = session
            .wait("the message", |frame| match &frame.frame {
                Some(Heard::Event(event)) if event.seq == ack.seq => Some(event.clone()),
                _ => None,
            })
            .await;
        assert_eq!(texts(&[event]), ["it weaves"]);
    }
    // The list of each, with the name of the group; nobody counts what he has sent himself.
    for (device, unread) in [(&grace, 1), (&alan, 1), (&ada, 0)] {
        row_ends(device, &id, ack.seq).await;
        let row = device.conversation(&id).await;
        assert_eq!(row.unread_count, unread, "{}", device.username);
        let snippet = row.group.expect("what a line shows of the group");
        assert_eq!(
            (snippet.name.as_str(), snippet.member_count),
            ("engines", 3)
        );
        assert!(!row.left && row.peer.is_none());
    }
    // The sender's session has its ack, and no echo.
    sender.settle().await;
    let is_echo = |frame: &proto::messaging::v1::ServerFrame| matches!(&frame.frame, Some(Heard::Event(event)) if event.seq == ack.seq);
    assert!(!sender.kept().any(is_echo));
}

#[tokio::test]
async fn who_was_removed_reads_up_to_the_removal_and_sends_and_receives_nothing_after_it() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let grace = server.user("grace").await;
    let (group, _) = ada
        .create_group("engines", &[&grace], GroupSettings::default())
        .await;
    let id = &group.conversation_id;
    let before = ada.send(id, Uuid::now_v7(), "before").await.unwrap();
    let own = Uuid::now_v7();
    let accepted = grace.send(id, own, "mine").await.unwrap();
    let mut session = grace.session().await;
    let removed = ada.remove_member(&group, &grace).await.unwrap();
    assert_eq!(removed, accepted.seq + 1);
    // Her device learns it at once, by the event.
    session
        .wait("the removal", |frame| match &frame.frame {
            Some(Heard::Event(event)) if event.seq == removed => Some(()),
            _ => None,
        })
        .await;
    let after = ada.send(id, Uuid::now_v7(), "after").await.unwrap();
    assert_eq!(after.seq, removed + 1);
    let refusal = session
        .try_send(message(id, Uuid::now_v7(), "still here?"))
        .await;
    assert_eq!(refusal.unwrap_err().reason, ErrorReason::NotAMember);
    // A retry of what was accepted is answered as ever.
    let again = grace.send(id, own, "mine").await.unwrap();
    assert!(again.duplicate && again.seq == accepted.seq);
    let history = grace.history(id, 0).await;
    assert_eq!(texts(&history), ["before", "mine"]);
    assert_eq!(seqs(&history), (1..=removed).collect::<Vec<_>>());
    assert!(history.iter().any(|event| event.seq == before.seq));
    // What a member reads, and what comes to a device that is there, do not change that.
    row_ends(&ada, id, after.seq).await;
    row_ends(&grace, id, removed).await;
    let row = grace.conversation(id).await;
    assert!(row.left);
    assert_eq!(row.last_seq, removed);
    assert_eq!(row.group.expect("the name at leaving").name, "engines");
    session.settle().await;
    let is_later = |frame: &proto::messaging::v1::ServerFrame| matches!(&frame.frame, Some(Heard::Event(event)) if event.seq > removed);
    assert!(!session.kept().any(is_later));
}

#[tokio::test]
async fn a_new_member_sees_what_the_group_s_setting_says_and_one_who_comes_back_both_times() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let grace = server.user("grace").await;
    let alan = server.user("alan").await;
    let (closed, _) = ada
        .create_group("closed", &[], GroupSettings::default())
        .await;
    let all = GroupSettings {
        history_access: HistoryAccess::All.into(),
        ..GroupSettings::default()
    };
    let (open, _) = ada.create_group("open", &[], all).await;
    for group in [&closed, &open] {
        let id = &group.conversation_id;
        ada.send(id, Uuid::now_v7(), "one").await.unwrap();
        let joined = ada.add_members(group, &[&grace]).await.unwrap();
        ada.send(id, Uuid::now_v7(), "two").await.unwrap();
        let left = grace.leave_group(group).await.unwrap();
        ada.send(id, Uuid::now_v7(), "three").await.unwrap();
        let again = ada.add_members(group, &[&grace]).await.unwrap();
        let last = ada.send(id, Uuid::now_v7(), "four").await.unwrap();
        let history = grace.history(id, last.seq).await;
        let expected: Vec<u64> = match group.name.as_str() {
            "closed" => (joined..=left).chain(again..=last.seq).collect(),
            _ => (1..=last.seq).collect(),
        };
        assert_eq!(seqs(&history), expected, "{}", group.name);
        // What was there before one came counts as nothing unread.
        row_ends(&grace, id, last.seq).await;
        assert_eq!(grace.conversation(id).await.unread_count, 1);
    }
    // A stranger reads nothing, whether or not there is such a group.
    let strange = format!("g:{}", Uuid::now_v7());
    for id in [&closed.conversation_id, &strange] {
        let refusal = refused(alan.send(id, Uuid::now_v7(), "hello?").await);
        assert_eq!(refusal.reason, ErrorReason::NotAMember);
        let range = proto::messaging::v1::EventRange {
            conversation_id: id.clone(),
            ..Default::default()
        };
        let request = proto::messaging::v1::ListEventsRequest {
            ranges: vec![range],
        };
        let refusal = refused(alan.messaging().list_events(request).await);
        assert_eq!(refusal.reason, ErrorReason::NotAMember);
    }
}

#[tokio::test]
async fn a_group_is_in_the_lists_of_its_members_before_anybody_has_said_anything() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let grace = server.user("grace").await;
    let (group, seq) = ada
        .create_group("engines", &[&grace], GroupSettings::default())
        .await;
    for device in [&ada, &grace] {
        row_ends(device, &group.conversation_id, seq).await;
        let request = proto::messaging::v1::ListConversationsRequest::default();
        let list = device.messaging().list_conversations(request).await;
        let list = list.unwrap().into_inner();
        assert_eq!(list.unread_total, 0);
        let [row] = &list.conversations[..] else {
            panic!("{}: {:?}", device.username, list.conversations);
        };
        assert_eq!(row.conversation_id, group.conversation_id);
        assert!(row.preview.as_ref().is_some_and(|preview| preview.joined));
    }
}

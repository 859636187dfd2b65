//! Huge groups: their messages write nobody's list but the sender's, and everybody's list shows them.

use std::time::Duration;

use harness::{Device, SessionOptions, TestServer, eventually};
use proto::{
    groups::v1::{Group, GroupSettings},
    messaging::v1::{
        Conversation, GetUnreadTotalRequest, ListChangesRequest, ListChangesResponse,
        ListConversationsRequest, ListConversationsResponse, MarkReadRequest, Watermark,
        server_frame::Frame as Heard,
    },
};
use uuid::Uuid;

const DEFERRED_ABOVE: u32 = 10;
const MEMBERS: usize = 30;
const HEARTBEAT: Duration = Duration::from_millis(300);

async fn server() -> TestServer {
    let builder = TestServer::builder().config(|config| {
        config.groups.deferred_above = DEFERRED_ABOVE;
        config.messaging.heartbeat_interval = HEARTBEAT;
    });
    builder.start().await
}

/// The members, the owner first, and their group, once everybody's row says what it is.
async fn huge(server: &TestServer) -> (Vec<Device>, Group) {
    let mut members = Vec::new();
    for n in 0..MEMBERS {
        members.push(server.user(&format!("member{n}")).await);
    }
    let others: Vec<_> = members[1..].iter().collect();
    let created = members[0].create_group("huge", &others, GroupSettings::default());
    let (group, _) = created.await;
    for member in &members {
        eventually("the row", async || {
            let row = member.conversation(&group.conversation_id).await;
            row.deferred.then_some(())
        })
        .await;
    }
    (members, group)
}

async fn list(device: &Device, page_size: i32, page_token: &str) -> ListConversationsResponse {
    let request = ListConversationsRequest {
        page_size,
        page_token: page_token.to_owned(),
        min_inbox_version: 0,
    };
    let list = device.messaging().list_conversations(request).await;
    list.unwrap().into_inner()
}

async fn changes(device: &Device, after_version: u64) -> ListChangesResponse {
    let request = ListChangesRequest {
        after_version,
        ..ListChangesRequest::default()
    };
    let changes = device.messaging().list_changes(request).await;
    changes.unwrap().into_inner()
}

async fn unread_total(device: &Device) -> u64 {
    let total = device
        .messaging()
        .get_unread_total(GetUnreadTotalRequest::default())
        .await;
    total.unwrap().into_inner().unread_total
}

/// The row, once it shows the event at this place.
async fn row_at(device: &Device, id: &str, seq: u64) -> Conversation {
    eventually("the row", async || {
        let row = device.conversation(id).await;
        (row.last_seq >= seq).then_some(row)
    })
    .await
}

#[tokio::test]
async fn messages_of_a_huge_group_are_in_every_list_and_change_nobody_s_version() {
    let server = server().await;
    let (members, group) = huge(&server).await;
    let id = &group.conversation_id;
    let [owner, reader, other] = &members[..3] else {
        panic!()
    };
    let before = list(reader, 0, "").await;
    assert_eq!(before.unread_total, 0);
    let direct = reader.with(other);
    other.send(&direct, Uuid::now_v7(), "hello").await.unwrap();
    other.send(&direct, Uuid::now_v7(), "there").await.unwrap();
    row_at(reader, &direct, 2).await;
    let version = list(reader, 0, "").await.inbox_version;
    let mut last = 0;
    for text in ["one", "two", "three"] {
        last = owner.send(id, Uuid::now_v7(), text).await.unwrap().seq;
    }
    for member in &members[1..] {
        let row = row_at(member, id, last).await;
        assert_eq!((row.unread_count, row.last_seq), (3, last));
        assert_eq!(row.preview.unwrap().text, "three");
        assert!(row.deferred && !row.left);
    }
    // However much is unread of it, a badge counts it once.
    assert_eq!(unread_total(reader).await, 2 + 1);
    let own = row_at(owner, id, last).await;
    assert_eq!(own.unread_count, 0);
    // The newest message decides the place, page by page, each row once.
    let first = list(reader, 1, "").await;
    assert_eq!(first.unread_total, 3);
    assert_eq!(first.inbox_version, version, "nothing was written for him");
    assert_eq!(first.conversations[0].conversation_id, *id);
    assert_eq!(first.conversations[0].unread_count, 3);
    assert_eq!(
        first.conversations[0].group.as_ref().unwrap().member_count as usize,
        MEMBERS
    );
    let second = list(reader, 1, &first.next_page_token).await;
    assert_eq!(second.conversations[0].conversation_id, direct);
    assert_eq!(second.next_page_token, "");
    other.send(&direct, Uuid::now_v7(), "again").await.unwrap();
    row_at(reader, &direct, 3).await;
    let ids = |list: ListConversationsResponse| -> Vec<String> {
        let rows = list.conversations.into_iter();
        rows.map(|row| row.conversation_id).collect()
    };
    let both = vec![direct.clone(), id.clone()];
    assert_eq!(ids(list(reader, 0, "").await), both);
    // What a device asks that was away.
    let changed = changes(reader, version).await;
    assert_eq!(changed.unread_total, 3 + 1);
    assert_eq!(
        changed.conversations.len(),
        1,
        "{:?}",
        changed.conversations
    );
    let [row] = &changed.deferred[..] else {
        panic!("{:?}", changed.deferred);
    };
    assert_eq!((&row.conversation_id, row.last_seq), (id, last));
    assert_eq!((row.unread_count, row.deferred), (3, true));
}

#[tokio::test]
async fn reading_a_huge_group_takes_it_out_of_the_badge_on_every_device() {
    let server = server().await;
    let (members, group) = huge(&server).await;
    let id = &group.conversation_id;
    let reader = &members[1];
    let sent = members[0]
        .send(id, Uuid::now_v7(), "read me")
        .await
        .unwrap();
    row_at(reader, id, sent.seq).await;
    assert_eq!(unread_total(reader).await, 1);
    let version = changes(reader, 0).await.version;
    let mut session = reader
        .session_with(SessionOptions {
            inbox_version: version,
            ..SessionOptions::default()
        })
        .await;
    let up_to = Watermark {
        seq: sent.seq,
        message_index: sent.message_index,
    };
    let request = MarkReadRequest {
        conversation_id: id.clone(),
        up_to: Some(up_to),
    };
    reader.messaging().mark_read(request).await.unwrap();
    eventually("nothing is unread", async || {
        (unread_total(reader).await == 0).then_some(())
    })
    .await;
    assert_eq!(reader.conversation(id).await.unread_count, 0);
    assert_eq!(list(reader, 0, "").await.unread_total, 0);
    assert_eq!(unread_total(&members[2]).await, 1, "others have not");
    // The device that is there hears how far, although the row that comes is an old one.
    let row = session
        .wait("the row", |frame| match &frame.frame {
            Some(Heard::InboxUpdate(update)) => update.conversations.first().cloned(),
            _ => None,
        })
        .await;
    assert!(row.deferred);
    assert_eq!(row.own_marks.unwrap().read, Some(up_to));
    // Who sends has read.
    let own = reader.send(id, Uuid::now_v7(), "mine").await.unwrap();
    row_at(reader, id, own.seq).await;
    assert_eq!(unread_total(reader).await, 0);
}

#[tokio::test]
async fn a_device_hears_where_its_huge_groups_end_when_it_comes_and_with_each_heartbeat() {
    let server = server().await;
    let (members, group) = huge(&server).await;
    let id = &group.conversation_id;
    let stranger = server.user("stranger").await;
    let first = members[0].send(id, Uuid::now_v7(), "one").await.unwrap();
    // As soon as it is stored.
    let mut session = eventually("a welcome that says so", async || {
        let session = members[1].session().await;
        let [head] = &session.welcome.deferred[..] else {
            panic!("{:?}", session.welcome);
        };
        assert_eq!(head.conversation_id, *id);
        (head.last_seq == first.seq).then_some(session)
    })
    .await;
    let second = members[0].send(id, Uuid::now_v7(), "two").await.unwrap();
    session
        .wait("the end", |frame| match &frame.frame {
            Some(Heard::Heartbeat(beat)) => {
                let mut ends = beat.deferred.iter();
                let is_there =
                    ends.any(|end| end.conversation_id == *id && end.last_seq == second.seq);
                is_there.then_some(())
            }
            _ => None,
        })
        .await;
    let mut other = stranger.session().await;
    assert!(other.welcome.deferred.is_empty());
    other
        .wait("a heartbeat", |frame| match &frame.frame {
            Some(Heard::Heartbeat(beat)) => {
                assert!(beat.deferred.is_empty());
                Some(())
            }
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn who_leaves_a_huge_group_keeps_his_row_and_it_stays_deferred_however_few_are_left() {
    let server = server().await;
    let (members, group) = huge(&server).await;
    let id = &group.conversation_id;
    let (owner, leaver) = (&members[0], &members[1]);
    owner.send(id, Uuid::now_v7(), "one").await.unwrap();
    let left = leaver.leave_group(&group).await.unwrap();
    let after = owner.send(id, Uuid::now_v7(), "two").await.unwrap();
    let row = eventually("the row", async || {
        let row = leaver.conversation(id).await;
        row.left.then_some(row)
    })
    .await;
    assert_eq!(
        (row.last_seq, row.deferred, row.unread_count),
        (left, false, 1)
    );
    assert!(changes(leaver, 0).await.deferred.is_empty());
    assert_eq!(unread_total(leaver).await, 1);
    // Who comes again begins there, in a group that is still deferred.
    for member in &members[5..] {
        member.leave_group(&group).await.unwrap();
    }
    let joined = owner.add_members(&group, &[leaver]).await.unwrap();
    row_at(leaver, id, joined).await;
    let row = eventually("the row of a member", async || {
        let row = leaver.conversation(id).await;
        (!row.left).then_some(row)
    })
    .await;
    assert!(row.deferred);
    assert_eq!(row.unread_count, 0);
    let version = changes(leaver, 0).await.version;
    let last = owner.send(id, Uuid::now_v7(), "three").await.unwrap();
    assert!(last.seq > after.seq);
    for member in &members[1..5] {
        let row = row_at(member, id, last.seq).await;
        assert!(row.deferred);
        assert_eq!(row.preview.unwrap().text, "three");
    }
    let changed = changes(leaver, version).await;
    assert!(changed.conversations.is_empty() && changed.version == version);
    assert_eq!(changed.deferred[0].unread_count, 1);
    assert_eq!(unread_total(leaver).await, 1);
}

#[tokio::test]
async fn pages_of_a_list_with_huge_groups_have_each_row_once_by_its_newest_message() {
    let server = server().await;
    let mut members = Vec::new();
    for n in 0..=DEFERRED_ABOVE {
        members.push(server.user(&format!("member{n}")).await);
    }
    let (owner, reader) = (&members[0], &members[1]);
    let mut ids = Vec::new();
    for n in 0..3 {
        let others: Vec<_> = members[1..].iter().collect();
        let name = format!("huge{n}");
        let created = owner.create_group(&name, &others, GroupSettings::default());
        let (group, _) = created.await;
        eventually("the row", async || {
            let row = reader.conversation(&group.conversation_id).await;
            row.deferred.then_some(())
        })
        .await;
        ids.push(group.conversation_id);
    }
    for other in &members[2..6] {
        ids.push(reader.with(other));
    }
    // Where the rows of the groups are stored says nothing of where they belong.
    let mut expected = Vec::new();
    for at in [0, 3, 4, 1, 5, 2, 6] {
        let id: &String = &ids[at];
        let sender = match at {
            0..3 => owner,
            _ => &members[at - 1],
        };
        let sent = sender.send(id, Uuid::now_v7(), "text").await.unwrap();
        row_at(reader, id, sent.seq).await;
        expected.insert(0, id.clone());
        // The next one is of another millisecond.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for page_size in [1, 2, 3, 7, 50] {
        let (mut listed, mut token) = (Vec::new(), String::new());
        loop {
            let page = list(reader, page_size, &token).await;
            assert!(page.conversations.len() <= page_size as usize);
            assert_eq!(page.unread_total, 3 + 4);
            let rows = page.conversations.into_iter();
            listed.extend(rows.map(|row| row.conversation_id));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(listed, expected, "in pages of {page_size}");
    }
}

//! Lists of conversations.

use std::collections::HashSet;

use harness::{Device, TestServer, eventually};
use proto::messaging::v1::{
    GetUnreadTotalRequest, ListConversationsRequest, ListConversationsResponse, MarkReadRequest,
    OpenDirectConversationRequest, Watermark, server_frame::Frame as Heard,
};
use uuid::Uuid;

async fn list(
    device: &Device,
    page_size: i32,
    page_token: &str,
    min_inbox_version: u64,
) -> ListConversationsResponse {
    let request = ListConversationsRequest {
        page_size,
        page_token: page_token.to_owned(),
        min_inbox_version,
    };
    let answer = device.messaging().list_conversations(request).await;
    answer.unwrap().into_inner()
}

async fn unread(device: &Device, total: u64) -> u64 {
    eventually("the unread total", async || {
        let answer = device.unread_total().await;
        (answer.unread_total == total).then_some(answer.inbox_version)
    })
    .await
}

#[tokio::test]
async fn the_list_is_most_recent_first_exact_and_stable_while_it_is_paged() {
    const PEERS: usize = 25;
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let mut peers = Vec::new();
    let mut total = 0;
    for n in 0..PEERS {
        let peer = server.user(&format!("peer{n:02}")).await;
        // Each has another number of messages.
        for at in 0..=n % 3 {
            let text = format!("{n} {at}");
            peer.send(&peer.with(&ada), Uuid::now_v7(), &text)
                .await
                .unwrap();
            total += 1;
        }
        peers.push(peer);
    }
    let version = unread(&ada, total).await;
    let first = list(&ada, 7, "", version).await;
    assert!(first.inbox_version >= version);
    assert_eq!(first.unread_total, total);
    // While ada pages, the fourth of the page and one far below it get a message.
    for n in [PEERS - 4, 2] {
        let sent = peers[n]
            .send(&peers[n].with(&ada), Uuid::now_v7(), "new")
            .await;
        sent.unwrap();
    }
    let version = unread(&ada, total + 2).await;
    let mut rows = first.conversations;
    let mut token = first.next_page_token;
    while !token.is_empty() {
        let page = list(&ada, 7, &token, version).await;
        assert!(page.conversations.len() <= 7 && !page.conversations.is_empty());
        rows.extend(page.conversations);
        token = page.next_page_token;
    }
    let shown: Vec<_> = rows.iter().map(|row| row.conversation_id.clone()).collect();
    assert_eq!(
        shown.iter().collect::<HashSet<_>>().len(),
        shown.len(),
        "one was repeated"
    );
    // Two peers may share a millisecond: order by time only.
    let times: Vec<_> = rows.iter().filter_map(|row| row.preview.as_ref()).collect();
    assert_eq!(times.len(), rows.len());
    assert!(times.is_sorted_by(|one, next| one.time_unix_ms >= next.time_unix_ms));
    for (n, peer) in peers.iter().enumerate() {
        let id = peer.with(&ada);
        let row = rows.iter().find(|row| row.conversation_id == id);
        if n == 2 {
            // It moved to the front, which is behind the reader; ListChanges brings it.
            assert!(row.is_none());
            let (changes, ..) = ada.changes(first.inbox_version).await;
            assert!(changes.iter().any(|row| row.conversation_id == id));
            continue;
        }
        let row = row.unwrap();
        let count = (n % 3) as u64 + 1;
        assert_eq!((row.last_seq, row.last_message_index), (count, count));
        assert_eq!(row.unread_count, count);
        let preview = row.preview.as_ref().unwrap();
        assert_eq!(preview.text, format!("{n} {}", n % 3));
        assert_eq!((&preview.sender_id, preview.seq), (&peer.user_id, count));
        let snippet = row.peer.as_ref().unwrap();
        assert_eq!(
            (&snippet.user_id, &snippet.username),
            (&peer.user_id, &peer.username)
        );
    }
    // Those that got a message are first now.
    let now = list(&ada, 2, "", version).await.conversations;
    let front: HashSet<_> = now.iter().map(|row| row.conversation_id.clone()).collect();
    assert_eq!(front, [2, PEERS - 4].map(|n| peers[n].with(&ada)).into());
}

#[tokio::test]
async fn unread_is_exact_over_conversations_and_reads() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let peers = [server.user("grace").await, server.user("linus").await];
    let mut total = 0_i64;
    let mut read = [0_u64; 2];
    let mut heads = [0_u64; 2];
    for step in 0..60 {
        let n = step % 2;
        let id = ada.with(&peers[n]);
        match step % 5 {
            4 => {
                // Reads all but the last.
                let seq = heads[n] - 1;
                if seq > read[n] {
                    let up_to = Some(Watermark {
                        seq,
                        message_index: seq,
                    });
                    let request = MarkReadRequest {
                        conversation_id: id,
                        up_to,
                    };
                    ada.messaging().mark_read(request).await.unwrap();
                    read[n] = seq;
                }
            }
            3 => {
                // Answers, and has read all.
                heads[n] = ada.send(&id, Uuid::now_v7(), "mine").await.unwrap().seq;
                read[n] = heads[n];
            }
            _ => {
                heads[n] = peers[n]
                    .send(&id, Uuid::now_v7(), "yours")
                    .await
                    .unwrap()
                    .seq
            }
        }
        total = (0..2).map(|n| (heads[n] - read[n]) as i64).sum();
        let version = unread(&ada, total as u64).await;
        let page = list(&ada, 0, "", version).await;
        assert_eq!(page.unread_total, total as u64);
        for n in 0..2 {
            let id = ada.with(&peers[n]);
            let row = page
                .conversations
                .iter()
                .find(|row| row.conversation_id == id);
            let counted = row.map_or(0, |row| row.unread_count);
            assert_eq!(counted, heads[n] - read[n], "step {step}");
        }
    }
    assert!(total >= 0);
}

#[tokio::test]
async fn who_has_heard_of_a_version_reads_a_list_that_contains_it() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut session = ada.session().await;
    for n in 1..=50 {
        grace
            .send(&conversation, Uuid::now_v7(), &n.to_string())
            .await
            .unwrap();
        let version = session.wait("the update", |frame| match &frame.frame {
            Some(Heard::InboxUpdate(update)) => {
                let row = update.conversations.first()?;
                (row.last_seq == n).then_some(update.version)
            }
            _ => None,
        });
        let version = version.await;
        let page = list(&ada, 1, "", version).await;
        assert!(page.inbox_version >= version);
        assert_eq!(page.conversations[0].last_seq, n);
        assert_eq!(
            page.conversations[0].preview.as_ref().unwrap().text,
            n.to_string()
        );
        let request = GetUnreadTotalRequest {
            min_inbox_version: version,
        };
        let total = ada
            .messaging()
            .get_unread_total(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!((total.unread_total, total.inbox_version), (n, version));
        let (changes, at, _) = ada.changes(version - 1).await;
        assert_eq!((changes.len(), at), (1, version));
        assert!(ada.changes(version).await.0.is_empty());
    }
}

#[tokio::test]
async fn opening_writes_nothing_and_is_the_same_from_both_sides() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let open = async |from: &Device, to: &Device| {
        let request = OpenDirectConversationRequest {
            user_id: to.user_id.clone(),
        };
        let answer = from.messaging().open_direct_conversation(request).await;
        answer.unwrap().into_inner().conversation.unwrap()
    };
    for _ in 0..2 {
        let mine = open(&ada, &grace).await;
        let yours = open(&grace, &ada).await;
        assert_eq!(mine.conversation_id, ada.with(&grace));
        assert_eq!(mine.conversation_id, yours.conversation_id);
        assert_eq!((mine.version, mine.last_seq, mine.unread_count), (0, 0, 0));
        assert!(mine.preview.is_none());
        assert_eq!(mine.peer.unwrap().username, "grace");
        assert_eq!(yours.peer.unwrap().username, "ada");
    }
    for user in [&ada, &grace] {
        let page = list(user, 0, "", 0).await;
        assert!(page.conversations.is_empty());
        assert_eq!((page.inbox_version, page.unread_total), (0, 0));
    }
}

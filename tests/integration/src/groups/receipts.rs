//! Receipts and mentions in groups.

use harness::{TestServer, eventually, message};
use proto::{
    error::v1::ErrorReason,
    groups::v1::GroupSettings,
    messaging::v1::{ListReceiptsRequest, ListReceiptsResponse, Send, event::Kind},
};
use uuid::Uuid;

#[tokio::test]
async fn who_has_read_a_message_is_counted_and_named_page_by_page() {
    const READERS: usize = 5;
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let mut others = Vec::new();
    for n in 0..8 {
        others.push(server.user(&format!("user{n}")).await);
    }
    let (group, _) = ada
        .create_group(
            "engines",
            &others.iter().collect::<Vec<_>>(),
            GroupSettings::default(),
        )
        .await;
    let id = &group.conversation_id;
    let sent = ada.send(id, Uuid::now_v7(), "read me").await.unwrap();
    let mut sessions = Vec::new();
    for reader in &others[..READERS] {
        let mut session = reader.session().await;
        session.say(read(id, sent.seq, sent.message_index)).await;
        sessions.push(session);
    }
    let ask = async |page_size, page_token: &str| -> ListReceiptsResponse {
        let request = ListReceiptsRequest {
            conversation_id: id.clone(),
            message_index: sent.message_index,
            page_size,
            page_token: page_token.to_owned(),
        };
        let answer = ada.messaging().list_receipts(request).await;
        answer.unwrap().into_inner()
    };
    eventually("all have read", async || {
        let receipts = ask(1, "").await;
        // The sender counts as one who has read it.
        (receipts.read_count == READERS as u32 + 1).then_some(())
    })
    .await;
    let (mut named, mut token) = (Vec::new(), String::new());
    loop {
        let page = ask(2, &token).await;
        assert_eq!(page.member_count, 9);
        assert_eq!(page.delivered_count, READERS as u32 + 1);
        assert!(page.members.len() <= 2);
        named.extend(page.members.into_iter().map(|member| member.user_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let mut expected: Vec<_> = others[..READERS]
        .iter()
        .map(|d| d.user_id.clone())
        .collect();
    expected.push(ada.user_id.clone());
    expected.sort();
    assert_eq!(named, expected);
}

fn read(id: &str, seq: u64, message_index: u64) -> proto::messaging::v1::client_frame::Frame {
    use proto::messaging::v1::{Read, Watermark, client_frame::Frame};
    Frame::Read(Read {
        conversation_id: id.to_owned(),
        up_to: Some(Watermark { seq, message_index }),
    })
}

#[tokio::test]
async fn members_are_mentioned_all_only_by_admins_and_strangers_never() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let grace = server.user("grace").await;
    let alan = server.user("alan").await;
    let (group, _) = ada
        .create_group("engines", &[&grace], GroupSettings::default())
        .await;
    let id = &group.conversation_id;
    let mut session = grace.session().await;
    let mention = |user: &str, all: bool| Send {
        mentioned_user_ids: match user {
            "" => Vec::new(),
            user => vec![user.to_owned()],
        },
        mentions_all: all,
        ..message(id, Uuid::now_v7(), "look")
    };
    let ack = session
        .try_send(mention(&ada.user_id, false))
        .await
        .unwrap();
    let history = ada.history(id, ack.seq).await;
    let Some(Kind::Message(said)) = history.last().and_then(|event| event.kind.clone()) else {
        panic!("{history:?}");
    };
    assert_eq!(
        said.mentioned_user_ids.as_slice(),
        std::slice::from_ref(&ada.user_id)
    );
    let refusal = session.try_send(mention(&alan.user_id, false)).await;
    assert_eq!(refusal.unwrap_err().reason, ErrorReason::MentionNotAMember);
    let refusal = session.try_send(mention("", true)).await;
    assert_eq!(refusal.unwrap_err().reason, ErrorReason::AdminsOnly);
    let mut owner = ada.session().await;
    owner.try_send(mention("", true)).await.unwrap();
}

//! What services hear of unread messages, from a real store.

use std::sync::{Arc, OnceLock};

use delivery::{Delivery, DeliveryConfig, LocalEdge, Registries};
use event_log::{
    Topic,
    embedded::{EmbeddedConfig, EmbeddedLog},
};
use runtime::{
    auth::{KeyPair, ServiceIdentity},
    channel::pipe,
    clock::SystemClock,
    ids::{GroupId, MessageId},
    shutdown::Tasks,
};
use tonic::Code;

use super::*;
use crate::{
    model::{InboxChange, Marks, Watermark},
    sequencer::{Sequencers, partition::Context},
    store::{Store, sqlite::SqliteStore},
};

/// The service on a store of its own. No partition is sequenced here.
struct Server {
    calls: Arc<InboxGrpc>,
    store: Arc<SqliteStore>,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&folder.path().join("store.db")).unwrap());
        let config =
            EmbeddedConfig::new(folder.path().join("log.db"), &[(Topic::Messages, 1)], &[]);
        let tasks = Tasks::new();
        let (connector, _) = pipe();
        let identity =
            ServiceIdentity::new("test", KeyPair::generate().unwrap(), Arc::new(SystemClock));
        let nobody: Arc<dyn LocalEdge> = Arc::new(OnceLock::<Arc<dyn LocalEdge>>::new());
        let delivery = Delivery::start(
            DeliveryConfig::new("here", "test"),
            nobody,
            &Registries::one(identity.on(connector.channel())),
            Arc::new(|_| Err("no other edge".into())),
            &tasks,
        );
        let sequencers = Sequencers::new(Context {
            log: EmbeddedLog::open(config).unwrap(),
            store: store.clone(),
            delivery,
            stop: tasks.stop_token(),
        });
        let reader = Reader {
            store: store.clone(),
            sequencers,
        };
        Self {
            calls: Arc::new(InboxGrpc { reader }),
            store,
            _folder: folder,
        }
    }

    async fn apply(&self, version: u64, change: InboxChange) {
        self.store
            .apply_inbox(vec![(version, change)])
            .await
            .unwrap();
    }

    async fn get(
        &self,
        queries: Vec<wire_v1::UnreadQuery>,
    ) -> Result<Vec<wire_v1::Unread>, Status> {
        let request = Request::new(wire_v1::BatchGetUnreadRequest { queries });
        let answer = self.calls.batch_get_unread(request).await?;
        Ok(answer.into_inner().answers)
    }

    async fn list(&self, user: &[u8], limit: u32) -> Result<wire_v1::ListUnreadResponse, Status> {
        let user_id = user.to_vec();
        let request = Request::new(wire_v1::ListUnreadRequest { user_id, limit });
        Ok(self.calls.list_unread(request).await?.into_inner())
    }
}

fn user(number: u128) -> UserId {
    UserId::from_bytes(number.to_be_bytes())
}

fn direct(one: u128, other: u128) -> ConversationId {
    ConversationId::direct(user(one), user(other)).unwrap()
}

fn group(number: u128) -> ConversationId {
    ConversationId::group(GroupId::from_bytes(number.to_be_bytes()))
}

const fn at(seq: u64) -> Watermark {
    Watermark {
        seq,
        message_index: seq,
    }
}

/// A conversation that ends with a message of user 9, of which the user has read up to a place.
fn row(me: u128, conversation: ConversationId, last: u64, read: u64) -> InboxChange {
    let is_group = conversation.group_id().is_some();
    InboxChange {
        user: user(me),
        conversation,
        last: at(last),
        preview: Some(Preview {
            sender: user(9),
            message_id: MessageId::from_bytes([9; 16]),
            seq: last,
            time_unix_ms: i64::try_from(last).unwrap(),
            text: format!("text of {last}"),
            joined: false,
            attachment_count: 2,
            video_count: 1,
        }),
        own: Marks {
            delivered: at(read + 1),
            read: at(read),
        },
        peer: Marks::default(),
        joined_seq: u64::from(is_group),
        left_seq: 0,
        deferred_seq: 0,
        mentioned_seq: 0,
    }
}

fn query(me: u128, conversations: &[ConversationId]) -> wire_v1::UnreadQuery {
    wire_v1::UnreadQuery {
        user_id: user(me).as_bytes().to_vec(),
        conversation_ids: conversations
            .iter()
            .map(|id| id.as_bytes().to_vec())
            .collect(),
        min_inbox_version: 0,
    }
}

#[tokio::test]
async fn many_users_hear_what_each_has_read_and_that_he_has_left() {
    let server = Server::start();
    server.apply(1, row(1, direct(1, 9), 10, 4)).await;
    let mut left = row(1, group(1), 20, 15);
    left.left_seq = 18;
    server.apply(2, left).await;
    let mut huge = row(1, group(2), 30, 5);
    huge.deferred_seq = 6;
    server.apply(3, huge).await;
    server.apply(4, row(2, direct(2, 9), 7, 6)).await;

    let asked = [
        direct(1, 9),
        group(1),
        group(2),
        group(3),
        direct(1, 5),
        direct(2, 9),
    ];
    let queries = vec![query(1, &asked), query(2, &[direct(2, 9)]), query(3, &[])];
    let answers = server.get(queries).await.unwrap();
    let totals: Vec<_> = answers
        .iter()
        .map(|a| (a.inbox_version, a.unread_total))
        .collect();
    // 6 of the direct conversation and 5 of the group that was left; the huge one is not counted.
    assert_eq!(totals, [(3, 11), (4, 1), (0, 0)]);
    let told = |c: &wire_v1::UnreadConversation| {
        (
            c.last_seq,
            c.delivered_seq,
            c.read_seq,
            c.unread_count,
            c.gone,
        )
    };
    let first: Vec<_> = answers[0].conversations.iter().map(told).collect();
    let expected = [
        (10, 5, 4, 6, false),
        (20, 16, 15, 5, true),
        (30, 6, 5, 1, false),
        // Never a member; nothing has happened yet; of two others.
        (0, 0, 0, 0, true),
        (0, 0, 0, 0, false),
        (0, 0, 0, 0, true),
    ];
    assert_eq!(first, expected);
    let ids = answers[0]
        .conversations
        .iter()
        .map(|c| c.conversation_id.clone());
    assert!(ids.eq(asked.map(|id| id.as_bytes().to_vec())));
    assert_eq!(answers[1].conversations[0].unread_count, 1);
    assert!(answers[2].conversations.is_empty());
}

#[tokio::test]
async fn an_answer_is_not_older_than_the_version_asked_for() {
    let server = Arc::new(Server::start());
    server.apply(3, row(1, direct(1, 9), 10, 4)).await;
    let asks = server.clone();
    let mut late = query(1, &[direct(1, 9)]);
    late.min_inbox_version = 8;
    let answer = tokio::spawn(async move { asks.get(vec![query(2, &[]), late]).await });
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    assert!(!answer.is_finished(), "it does not have that version yet");
    server.apply(8, row(1, direct(1, 9), 11, 11)).await;
    let answer = answer.await.unwrap().unwrap();
    assert_eq!((answer[1].inbox_version, answer[1].unread_total), (8, 0));
    assert_eq!(answer[1].conversations[0].read_seq, 11);
}

#[tokio::test]
async fn a_version_that_does_not_come_is_refused_for_now() {
    let server = Server::start();
    let mut never = query(1, &[]);
    never.min_inbox_version = 1;
    let refused = server.get(vec![never]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test]
async fn the_list_has_what_is_unread_the_newest_first_and_counts_the_rest() {
    let server = Server::start();
    for number in 2..=6_u64 {
        let conversation = direct(1, u128::from(number) * 10);
        // That of 3 is read.
        let read = if number == 3 { 30 } else { 1 };
        server
            .apply(number, row(1, conversation, number * 10, read))
            .await;
    }
    let mut left = row(1, group(1), 70, 1);
    left.left_seq = 70;
    server.apply(7, left).await;
    let answer = server.list(user(1).as_bytes(), 2).await.unwrap();
    let unread = answer.unread.unwrap();
    let seqs: Vec<_> = unread.conversations.iter().map(|c| c.last_seq).collect();
    assert_eq!((seqs, answer.more), (vec![60, 50], 2));
    assert_eq!(unread.inbox_version, 7);
    let newest = unread.conversations[0].newest.as_ref().unwrap();
    assert_eq!((newest.text.as_str(), newest.seq), ("text of 60", 60));
    assert_eq!((newest.attachment_count, newest.video_count), (2, 1));
    assert_eq!(newest.sender_id, user(9).as_bytes());
    let nothing = server.list(user(2).as_bytes(), 50).await.unwrap();
    assert_eq!(
        (nothing.unread.unwrap().conversations.len(), nothing.more),
        (0, 0)
    );
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_with_its_field() {
    let server = Server::start();
    let valid = || query(1, &[direct(1, 9)]);
    let with = |change: fn(&mut wire_v1::UnreadQuery)| {
        let mut query = query(2, &[]);
        change(&mut query);
        vec![valid(), query]
    };
    let many = |count: u128| (1..=count).map(|me| query(me, &[])).collect::<Vec<_>>();
    for (asked, field) in [
        (vec![], "queries"),
        (many(201), "queries"),
        (with(|q| q.user_id.clear()), "queries[1].user_id"),
        (with(|q| q.user_id = vec![1; 15]), "queries[1].user_id"),
        (vec![valid(), valid()], "queries[1].user_id"),
        (
            with(|q| q.conversation_ids = vec![vec![7; 33]]),
            "queries[1].conversation_ids[0]",
        ),
        (
            with(|q| q.conversation_ids = vec![vec![]; 33]),
            "queries[1].conversation_ids",
        ),
    ] {
        let refused = queries(&asked).unwrap_err();
        assert_eq!(refused.field, field);
        assert_eq!(
            server.get(asked).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    assert_eq!(server.get(many(200)).await.unwrap().len(), 200);
    for (id, limit) in [
        (vec![1; 16], 0),
        (vec![1; 16], 51),
        (vec![], 1),
        (vec![1; 17], 1),
    ] {
        let refused = server.list(&id, limit).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}

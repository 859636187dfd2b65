//! Promises about huge groups: rows that are completed when they are read, and what completes them.

use runtime::ids::{ConversationId, GroupId, UserId};

use super::{Fixture, Talk, conversation_of, user};
use crate::{
    model::{ConversationHead, EventKind, InboxChange, InboxHead, Marks, Watermark},
    store::Store,
};

fn group(number: u128) -> ConversationId {
    ConversationId::group(GroupId::from_bytes(number.to_be_bytes()))
}

const fn at(seq: u64) -> Watermark {
    Watermark {
        seq,
        message_index: seq,
    }
}

/// A row that ends at a place, of one who has read nothing.
fn change(user: UserId, conversation: ConversationId, last: u64) -> InboxChange {
    InboxChange {
        user,
        conversation,
        last: at(last),
        preview: None,
        own: Marks::default(),
        peer: Marks::default(),
        joined_seq: 1,
        left_seq: 0,
        deferred_seq: 0,
        mentioned_seq: 0,
    }
}

fn deferred(user: UserId, conversation: ConversationId, seq: u64) -> InboxChange {
    InboxChange {
        deferred_seq: seq,
        mentioned_seq: 0,
        ..change(user, conversation, seq)
    }
}

async fn head_of(store: &dyn Store, user: UserId) -> InboxHead {
    store.inbox_heads(vec![user]).await.unwrap()[0]
}

pub(crate) async fn a_deferred_row_counts_nothing_until_its_user_has_left(
    fixture: &mut impl Fixture,
) {
    let store = fixture.store();
    let me = user(1);
    let apply = async |version, change: InboxChange| {
        store.apply_inbox(vec![(version, change)]).await.unwrap();
        let (head, rows) = store.deferred_rows(me, 10).await.unwrap();
        assert_eq!(head, head_of(store, me).await);
        let rows: Vec<_> = rows.iter().map(|row| row.conversation).collect();
        (head.unread_total, rows)
    };
    assert_eq!(apply(1, change(me, group(1), 5)).await, (5, vec![]));
    assert_eq!(apply(2, change(me, group(2), 3)).await, (8, vec![]));
    assert_eq!(
        apply(3, deferred(me, group(1), 6)).await,
        (3, vec![group(1)]),
        "what was counted is not any more"
    );
    // An older record, and one that comes again, change nothing.
    assert_eq!(apply(4, deferred(me, group(1), 4)).await.0, 3);
    assert_eq!(
        apply(5, deferred(me, group(3), 2)).await.1,
        [group(3), group(1)]
    );
    let row = store.inbox_row(me, group(1)).await.unwrap().unwrap();
    assert_eq!((row.deferred_seq, row.last.seq), (6, 6));
    assert_eq!(store.deferred_rows(me, 1).await.unwrap().1.len(), 1);
    // Who has left has a row like any other.
    let mut left = change(me, group(1), 9);
    left.left_seq = 9;
    assert_eq!(apply(6, left).await, (12, vec![group(3)]));
    let mut again = change(me, group(1), 20);
    again.joined_seq = 20;
    assert_eq!(apply(7, again).await, (3, vec![group(3), group(1)]));
    let nobody = store.deferred_rows(user(2), 10).await.unwrap();
    assert_eq!(nobody, (InboxHead::default(), vec![]));
}

pub(crate) async fn the_deferred_conversations_of_many_users_are_one_answer(
    fixture: &mut impl Fixture,
) {
    let store = fixture.store();
    let mut changes = Vec::new();
    let mut version = 0;
    let mut put = |change| {
        version += 1;
        changes.push((version, change));
    };
    for number in 1..=20 {
        let me = user(number);
        put(change(me, group(1), 5));
        put(deferred(me, group(100), 7));
        if number % 2 == 0 {
            put(deferred(me, group(101), 8));
            put(deferred(me, group(99), 9));
        }
    }
    let mut left = change(user(20), group(100), 10);
    left.left_seq = 10;
    put(left);
    store.apply_inbox(changes).await.unwrap();
    let asked = async |users: Vec<u128>, limit| {
        let users = users.into_iter().map(user).collect();
        let mut found = store.deferred_conversations(users, limit).await.unwrap();
        found.sort();
        found
    };
    let (one, two) = (user(1), user(2));
    let mut expected = vec![
        (one, group(100)),
        (two, group(99)),
        (two, group(100)),
        (two, group(101)),
    ];
    expected.sort();
    assert_eq!(asked(vec![1, 2, 77], 10).await, expected);
    assert_eq!(
        asked(vec![2, 20], 1).await,
        [(two, group(100)), (user(20), group(101))],
        "those deferred for longest"
    );
    assert!(asked(vec![], 10).await.is_empty());
    assert!(asked(vec![77], 10).await.is_empty());
    let all = asked((1..=20).collect(), 10).await;
    assert_eq!(all.len(), 20 + 20 - 1);
}

pub(crate) async fn the_end_of_a_conversation_comes_with_its_newest_message(
    fixture: &mut impl Fixture,
) {
    let store = fixture.store();
    let mut expected = Vec::new();
    // So many events that are no messages at the end, after so many messages.
    for (number, messages, others) in [
        (2, 1, 0),
        (3, 9, 1),
        (4, 5, 40),
        (5, 40, 3),
        (6, 0, 6),
        (7, 0, 0),
    ] {
        let mut talk = Talk::between(1, number);
        let mut events = talk.messages(messages);
        let newest = events.last().cloned();
        for _ in 0..others {
            let mut event = talk.next(false);
            event.kind = EventKind::GroupChange;
            events.push(event);
        }
        if !events.is_empty() {
            store.persist(talk.batch(0, &events)).await.unwrap();
            expected.push(ConversationHead {
                conversation: talk.id(),
                last: talk.state.head(),
                message: newest,
            });
        }
    }
    let all: Vec<_> = (2..=8).map(|number| conversation_of(1, number)).collect();
    for with_messages in [true, false] {
        let heads = store.conversation_heads(all.clone(), with_messages).await;
        let mut heads = heads.unwrap();
        heads.sort_by_key(|head| head.last.seq);
        let mut expected = expected.clone();
        expected.sort_by_key(|head| head.last.seq);
        for head in &mut expected {
            head.message = head.message.take().filter(|_| with_messages);
        }
        assert_eq!(heads, expected);
    }
    assert!(
        store
            .conversation_heads(vec![], true)
            .await
            .unwrap()
            .is_empty()
    );
}

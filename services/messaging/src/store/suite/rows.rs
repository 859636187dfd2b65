//! Promises about reading rows of many users at once.

use super::{Fixture, conversation_of, inboxes::message, user};
use crate::model::{InboxChange, InboxHead};

pub(crate) async fn rows_of_many_users_come_in_the_order_asked_with_their_heads(
    fixture: &mut impl Fixture,
) {
    let store = fixture.store();
    let put = |me: u128, other: u128, seq: u64, version: u64| -> (u64, InboxChange) {
        let change = message(user(me), conversation_of(me, other), seq, 1_000);
        (version, change)
    };
    let changes = vec![
        put(1, 2, 3, 1),
        put(2, 1, 3, 2),
        put(1, 3, 4, 3),
        put(3, 9, 5, 4),
    ];
    store.apply_inbox(changes).await.unwrap();
    // A row twice, a conversation without a row, one of others, and a user without an inbox.
    let asked = [
        (3, 9, 3),
        (1, 2, 1),
        (1, 3, 1),
        (1, 2, 1),
        (2, 7, 2),
        (1, 2, 3),
        (8, 9, 8),
    ];
    let asked = asked.map(|(one, other, me)| (user(me), conversation_of(one, other)));
    let found = store.inbox_rows(asked.to_vec()).await.unwrap();
    let head = |version, unread_total| InboxHead {
        version,
        unread_total,
    };
    let heads: Vec<_> = found.iter().map(|(head, _)| *head).collect();
    let expected = [
        head(4, 5),
        head(3, 7),
        head(3, 7),
        head(3, 7),
        head(2, 3),
        head(4, 5),
        head(0, 0),
    ];
    assert_eq!(heads, expected);
    let mut rows = 0;
    for ((me, conversation), (_, row)) in asked.into_iter().zip(found) {
        assert_eq!(row, store.inbox_row(me, conversation).await.unwrap());
        rows += usize::from(row.is_some());
    }
    assert_eq!(rows, 4);
    assert!(store.inbox_rows(vec![]).await.unwrap().is_empty());
}

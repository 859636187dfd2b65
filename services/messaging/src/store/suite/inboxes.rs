//! Promises about inboxes.

use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*};
use runtime::ids::{ConversationId, GroupId, UserId};

use super::{Fixture, NUMBER_MAX, check, conversation_of, message_id, user};
use crate::{
    model::{InboxChange, InboxHead, InboxRow, Marks, Preview, Watermark},
    store::{InboxApplied, Store},
};

/// A change that brings the message at a place, to one who has read nothing.
pub(super) fn message(
    user: UserId,
    conversation: ConversationId,
    seq: u64,
    time_unix_ms: i64,
) -> InboxChange {
    InboxChange {
        user,
        conversation,
        last: at(seq),
        preview: Some(Preview {
            sender: conversation.peer_of(user).unwrap(),
            message_id: message_id(u128::from(seq)),
            seq,
            time_unix_ms,
            text: format!("text of {seq}"),
            joined: false,
            attachment_count: 0,
            video_count: 0,
        }),
        own: Marks::default(),
        peer: Marks::default(),
        joined_seq: 0,
        left_seq: 0,
        deferred_seq: 0,
        mentioned_seq: 0,
    }
}

/// A change that says how far the user has read, and nothing else.
fn read_up_to(user: UserId, conversation: ConversationId, seq: u64) -> InboxChange {
    let marks = Marks {
        delivered: at(seq),
        read: at(seq),
    };
    InboxChange {
        user,
        conversation,
        last: Watermark::default(),
        preview: None,
        own: marks,
        peer: Marks::default(),
        joined_seq: 0,
        left_seq: 0,
        deferred_seq: 0,
        mentioned_seq: 0,
    }
}

const fn at(seq: u64) -> Watermark {
    Watermark {
        seq,
        message_index: seq,
    }
}

const fn head(version: u64, unread_total: u64) -> InboxHead {
    InboxHead {
        version,
        unread_total,
    }
}

async fn head_of(store: &dyn Store, user: UserId) -> InboxHead {
    store.inbox_heads(vec![user]).await.unwrap()[0]
}

pub(crate) async fn a_change_makes_a_row_and_answers_it(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let (me, with) = (user(1), conversation_of(1, 2));
    let mut change = message(me, with, 3, i64::MAX);
    let preview = change.preview.as_mut().unwrap();
    preview.text = "\u{0}, 'quoted', \u{1f600}".to_owned();
    preview.message_id = message_id(u128::MAX);
    preview.joined = true;
    (preview.attachment_count, preview.video_count) = (10, 9);
    change.own.delivered = at(NUMBER_MAX);
    change.peer.read = at(2);
    change.joined_seq = NUMBER_MAX;
    change.left_seq = 4;
    change.deferred_seq = NUMBER_MAX;
    let applied = store.apply_inbox(vec![(7, change.clone())]).await.unwrap();
    let row = InboxRow {
        conversation: with,
        version: 7,
        last: at(3),
        preview: change.preview,
        own: change.own,
        peer: change.peer,
        joined_seq: NUMBER_MAX,
        left_seq: 4,
        deferred_seq: NUMBER_MAX,
    };
    let expected = InboxApplied {
        user: me,
        previous_version: 0,
        version: 7,
        rows: vec![row.clone()],
    };
    assert_eq!(applied, [expected]);
    let stored = store.inbox_row(me, with).await.unwrap();
    assert_eq!(stored, Some(row));
    // It is deferred, so that nothing counts.
    assert_eq!(head_of(store, me).await, head(7, 0));
    let none = store.inbox_row(me, conversation_of(1, 3)).await.unwrap();
    assert_eq!(none, None);
    assert!(store.apply_inbox(vec![]).await.unwrap().is_empty());
}

pub(crate) async fn merging_takes_the_larger_of_each(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let (me, with) = (user(1), conversation_of(1, 2));
    let newer = message(me, with, 5, 5_000);
    let mut older = message(me, with, 4, 9_000);
    older.own.read = at(2);
    let applied = store.apply_inbox(vec![(1, newer.clone()), (2, older)]);
    let row = &applied.await.unwrap()[0].rows[0];
    // The preview with the larger seq stays, whatever its time says.
    assert_eq!(row.preview, newer.preview);
    assert_eq!((row.version, row.last, row.own.read), (2, at(5), at(2)));
    assert_eq!(head_of(store, me).await, head(2, 3));
    // Reading lowers the total; what was read stays read.
    for (version, read) in [(3, 4), (4, 1)] {
        let change = read_up_to(me, with, read);
        store.apply_inbox(vec![(version, change)]).await.unwrap();
        assert_eq!(head_of(store, me).await, head(3, 1));
    }
}

pub(crate) async fn where_a_user_joined_and_left_only_rises(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let me = user(1);
    let with = ConversationId::group(GroupId::from_bytes([7; 16]));
    let steps = [
        // Joined at, left at; and what the row says then.
        ((3, 0), (3, 0)),
        ((0, 5), (3, 5)),
        ((2, 4), (3, 5)),
        ((8, 0), (8, 5)),
        ((8, 9), (8, 9)),
    ];
    for (version, ((joined_seq, left_seq), expected)) in (1..).zip(steps) {
        let mut change = read_up_to(me, with, 0);
        (change.joined_seq, change.left_seq) = (joined_seq, left_seq);
        let applied = store.apply_inbox(vec![(version, change)]).await.unwrap();
        // What changes nothing gives no version.
        assert_eq!(applied.is_empty(), joined_seq == 2);
        let row = store.inbox_row(me, with).await.unwrap().unwrap();
        assert_eq!((row.joined_seq, row.left_seq), expected);
        let told = applied.first().map(|applied| applied.rows[0].clone());
        assert!(told.is_none_or(|told| told == row));
    }
    // The joining is shown until there is a message.
    let mut joining = read_up_to(me, with, 0);
    joining.preview = Some(Preview {
        sender: me,
        message_id: message_id(8),
        seq: 8,
        time_unix_ms: 1_000,
        text: String::new(),
        joined: true,
        attachment_count: 0,
        video_count: 0,
    });
    let mut message = joining.clone();
    let preview = message.preview.as_mut().unwrap();
    (preview.seq, preview.joined) = (9, false);
    for (version, change) in [(10, joining), (11, message)] {
        let expected = change.preview.clone();
        store.apply_inbox(vec![(version, change)]).await.unwrap();
        let (_, listed) = store.list_inbox(me, None, 10).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].preview, expected);
        assert_eq!((listed[0].joined_seq, listed[0].left_seq), (8, 9));
    }
}

pub(crate) async fn a_change_that_comes_again_does_nothing(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let me = user(1);
    let changes: Vec<_> = (1..=6_u64)
        .map(|version| {
            let with = conversation_of(1, 2 + u128::from(version % 2));
            (version, message(me, with, version, 1_000))
        })
        .collect();
    store.apply_inbox(changes.clone()).await.unwrap();
    let before = store.list_inbox(me, None, 10).await.unwrap();
    for first in 0..changes.len() {
        let again = store.apply_inbox(changes[first..].to_vec()).await.unwrap();
        assert!(again.is_empty());
        assert_eq!(store.list_inbox(me, None, 10).await.unwrap(), before);
    }
    // It does nothing even if it says what it never said before, alone or before a later one.
    let elsewhere = conversation_of(1, 9);
    for version in [1, 3, 6] {
        let late = (version, message(me, elsewhere, 50, 1_000));
        assert!(store.apply_inbox(vec![late]).await.unwrap().is_empty());
        assert_eq!(store.list_inbox(me, None, 10).await.unwrap(), before);
    }
    for (late, new) in [(6, 7), (3, 8)] {
        let late = (late, message(me, elsewhere, 50, 1_000));
        let new = (new, message(me, conversation_of(1, 2), new, 1_000));
        let applied = store.apply_inbox(vec![late, new]).await.unwrap();
        assert_eq!((applied.len(), applied[0].rows.len()), (1, 1));
        let row = store.inbox_row(me, elsewhere).await.unwrap();
        assert_eq!(row, None);
    }
}

pub(crate) async fn a_change_that_changes_nothing_gives_no_version(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let (me, with) = (user(1), conversation_of(1, 2));
    let change = message(me, with, 3, 1_000);
    store.apply_inbox(vec![(5, change.clone())]).await.unwrap();
    let again = store.apply_inbox(vec![(6, change)]).await.unwrap();
    assert!(again.is_empty());
    assert_eq!(head_of(store, me).await, head(5, 3));
    // A row of zeros is nothing either.
    let nothing = read_up_to(me, conversation_of(1, 3), 0);
    let applied = store.apply_inbox(vec![(7, nothing)]).await.unwrap();
    assert!(applied.is_empty());
    let row = store.inbox_row(me, conversation_of(1, 3)).await.unwrap();
    assert_eq!(row, None);
}

/// What an inbox is, said plainly: every row, and nothing that is counted ahead.
#[derive(Debug, Default)]
struct Inbox {
    rows: BTreeMap<ConversationId, InboxRow>,
}

/// What is computed when it is read counts nothing before.
fn counted(row: &InboxRow) -> u64 {
    match row.deferred_seq > 0 && row.joined_seq >= row.left_seq {
        true => 0,
        false => row.unread_count(),
    }
}

impl Inbox {
    fn deferred(&self) -> Vec<InboxRow> {
        let is_deferred = |row: &&InboxRow| row.deferred_seq > 0 && row.joined_seq >= row.left_seq;
        let mut rows: Vec<_> = self.rows.values().filter(is_deferred).cloned().collect();
        rows.sort_by_key(|row| (row.deferred_seq, row.conversation));
        rows
    }

    fn head(&self) -> InboxHead {
        InboxHead {
            version: self.rows.values().map(|row| row.version).max().unwrap_or(0),
            unread_total: self.rows.values().map(counted).sum(),
        }
    }

    fn apply(&mut self, version: u64, change: &InboxChange) {
        if version <= self.head().version {
            return;
        }
        let stored = self.rows.get(&change.conversation).cloned();
        let mut row = stored.unwrap_or_else(|| InboxRow::new(change.conversation));
        if row.merge(change) {
            row.version = version;
            self.rows.insert(change.conversation, row);
        }
    }

    fn list(&self) -> Vec<InboxRow> {
        let mut rows: Vec<_> = self.rows.values().cloned().collect();
        rows.retain(|row| row.preview.is_some());
        rows.sort_by_key(|row| {
            let time = row.preview.as_ref().map(|preview| preview.time_unix_ms);
            std::cmp::Reverse((time, row.conversation))
        });
        rows
    }

    fn changes(&self, after: u64) -> Vec<InboxRow> {
        let mut rows: Vec<_> = self.rows.values().cloned().collect();
        rows.retain(|row| row.version > after);
        rows.sort_by_key(|row| row.version);
        rows
    }
}

fn watermarks() -> impl Strategy<Value = Watermark> {
    (0..12_u64, 0..12_u64).prop_map(|(seq, message_index)| Watermark { seq, message_index })
}

fn all_marks() -> impl Strategy<Value = Marks> {
    (watermarks(), watermarks()).prop_map(|(delivered, read)| Marks { delivered, read })
}

/// Of the users 1 to 3 of a case, each with conversations with 10 to 13.
fn any_change() -> impl Strategy<Value = InboxChange> {
    let preview = (1..12_u64, 0..4_i64);
    let parts = (1..=3_u128, 10..=13_u128, watermarks());
    let merged = (option::of(preview), all_marks(), all_marks());
    let seqs = (0..9_u64, 0..9_u64, prop_oneof![3 => Just(0), 1 => 1..9_u64]);
    let all = (parts, merged, seqs);
    all.prop_map(
        |((me, other, last), (preview, own, peer), seqs)| InboxChange {
            user: user(me),
            conversation: conversation_of(me, other),
            last,
            preview: preview.map(|(seq, time_unix_ms)| Preview {
                sender: user(other),
                message_id: message_id(u128::from(seq)),
                seq,
                time_unix_ms,
                text: format!("text of {seq}"),
                joined: seq % 3 == 0,
                attachment_count: (seq % 5) as u32,
                video_count: (seq % 2) as u32,
            }),
            own,
            peer,
            joined_seq: seqs.0,
            left_seq: seqs.1,
            deferred_seq: seqs.2,
            mentioned_seq: 0,
        },
    )
}

pub(crate) async fn inboxes_are_what_their_changes_make_them(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let case = std::sync::atomic::AtomicU64::new(1);
    // Batches of changes; each batch starts again with some changes of those before it.
    let batches = vec((0..6_usize, vec(any_change(), 0..12)), 1..8);
    check(48, batches, async |batches| {
        // Every case has users of its own.
        let case = case.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let of_case = |number: UserId| {
            user(u128::from_be_bytes(*number.as_bytes()) + (u128::from(case) << 32))
        };
        let mut log: Vec<(u64, InboxChange)> = Vec::new();
        let mut inboxes: BTreeMap<UserId, Inbox> = BTreeMap::new();
        for me in 1..=3 {
            inboxes.insert(of_case(user(me)), Inbox::default());
        }
        for (back, changes) in batches {
            let first = log.len().saturating_sub(back);
            for mut change in changes {
                let [low, high] = change.conversation.direct_members().unwrap().map(of_case);
                change.user = of_case(change.user);
                change.conversation = ConversationId::direct(low, high).unwrap();
                log.push((10 + 3 * log.len() as u64, change));
            }
            let batch = log[first..].to_vec();
            let before: BTreeMap<_, _> = inboxes.iter().map(|(u, i)| (*u, i.head())).collect();
            for (version, change) in &batch {
                let inbox = inboxes.get_mut(&change.user).unwrap();
                inbox.apply(*version, change);
            }
            let mut applied = store.apply_inbox(batch).await.unwrap();
            applied.sort_by_key(|applied| applied.user);
            for one in &mut applied {
                one.rows.sort_by_key(|row| row.version);
            }
            let expected: Vec<InboxApplied> = inboxes
                .iter()
                .filter(|(user, inbox)| inbox.head().version > before[*user].version)
                .map(|(user, inbox)| InboxApplied {
                    user: *user,
                    previous_version: before[user].version,
                    version: inbox.head().version,
                    rows: inbox.changes(before[user].version),
                })
                .collect();
            assert_eq!(applied, expected);
            for (user, inbox) in &inboxes {
                expect_inbox(store, *user, inbox).await;
            }
        }
    });
}

async fn expect_inbox(store: &dyn Store, user: UserId, expected: &Inbox) {
    let head = expected.head();
    assert_eq!(head_of(store, user).await, head);
    let list = store.list_inbox(user, None, 100).await.unwrap();
    assert_eq!(list, (head, expected.list()));
    let changes = store.inbox_changes(user, 0, 100).await.unwrap();
    assert_eq!(changes, (head, expected.changes(0)));
    let deferred = store.deferred_rows(user, 100).await.unwrap();
    assert_eq!(deferred, (head, expected.deferred()));
    for (conversation, row) in &expected.rows {
        let stored = store.inbox_row(user, *conversation).await.unwrap();
        assert_eq!(stored.as_ref(), Some(row));
    }
}

pub(crate) async fn the_list_is_newest_first_and_its_pages_join(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let me = user(1);
    // Several conversations at the same time, before 1970 too, made in no order.
    let mut expected: Vec<(i64, ConversationId)> = Vec::new();
    let mut changes = Vec::new();
    for number in 0..30_u64 {
        let with = conversation_of(1, u128::from(2 + (number * 7) % 30));
        let time = [-5, 100, 200, i64::MAX][(number % 4) as usize];
        expected.push((time, with));
        changes.push((number + 1, message(me, with, 1, time)));
    }
    expected.sort_unstable();
    expected.reverse();
    store.apply_inbox(changes).await.unwrap();
    for limit in [1, 4, 7, 30, 100] {
        let mut listed = Vec::new();
        let mut before = None;
        let mut late = 1_000;
        loop {
            let (head, rows) = store.list_inbox(me, before, limit).await.unwrap();
            assert!(head.unread_total >= 29 && rows.len() <= limit);
            let Some(last) = rows.last() else {
                break;
            };
            before = Some((
                last.preview.as_ref().unwrap().time_unix_ms,
                last.conversation,
            ));
            listed.extend(rows.iter().map(|row| {
                let preview = row.preview.as_ref().unwrap();
                (preview.time_unix_ms, row.conversation)
            }));
            assert!(listed.len() <= expected.len(), "pages of {limit} overlap");
            // What is read, or comes in on top, in the meantime does not move what is below.
            late += 1;
            let read = read_up_to(me, expected[29].1, late);
            store.apply_inbox(vec![(late, read)]).await.unwrap();
        }
        assert_eq!(listed, expected, "in pages of {limit}");
    }
    assert!(store.list_inbox(me, None, 0).await.unwrap().1.is_empty());
    // A new message moves its conversation to the top, and from where it was.
    let (_, moved) = expected[20];
    let change = message(me, moved, 2, i64::MAX);
    store.apply_inbox(vec![(5_000, change)]).await.unwrap();
    let (_, rows) = store.list_inbox(me, None, 100).await.unwrap();
    let mut order: Vec<_> = rows.iter().map(|row| row.conversation).collect();
    assert_eq!(order.iter().filter(|id| **id == moved).count(), 1);
    let place = order.iter().position(|id| *id == moved).unwrap();
    assert!(place < 9);
    order.remove(place);
    expected.remove(20);
    assert!(order.iter().eq(expected.iter().map(|(_, id)| id)));
}

pub(crate) async fn the_list_has_rows_with_a_message_only(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let (me, with) = (user(1), conversation_of(1, 2));
    let mark = read_up_to(me, with, 2);
    store.apply_inbox(vec![(1, mark)]).await.unwrap();
    let listed = store.list_inbox(me, None, 10).await.unwrap();
    assert_eq!(listed, (head(1, 0), vec![]));
    assert_eq!(store.inbox_changes(me, 0, 10).await.unwrap().1.len(), 1);
    let first = message(me, with, 3, 1_000);
    store.apply_inbox(vec![(2, first)]).await.unwrap();
    let (head_now, rows) = store.list_inbox(me, None, 10).await.unwrap();
    assert_eq!((head_now, rows.len()), (head(2, 1), 1));
}

pub(crate) async fn changes_come_by_version_and_their_pages_join(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let me = user(1);
    // Twenty rows, of which every third changes again.
    let mut changes = Vec::new();
    for number in 0..20_u64 {
        let with = conversation_of(1, u128::from(2 + (number * 7) % 20));
        changes.push((10 * (number + 1), message(me, with, 1, 1_000)));
    }
    let again: Vec<_> = changes.iter().step_by(3).cloned().collect();
    for (version, mut change) in again {
        change.last = at(2);
        changes.push((1_000 + version, change));
    }
    store.apply_inbox(changes.clone()).await.unwrap();
    let mut versions: BTreeMap<ConversationId, u64> = BTreeMap::new();
    for (version, change) in changes {
        versions.insert(change.conversation, version);
    }
    let mut expected: Vec<_> = versions.into_iter().map(|(id, v)| (v, id)).collect();
    expected.sort_unstable();
    for limit in [1, 3, 20, 100] {
        let mut after = 0;
        let mut seen = Vec::new();
        loop {
            let (head, rows) = store.inbox_changes(me, after, limit).await.unwrap();
            assert_eq!(head.version, expected[19].0);
            assert!(rows.len() <= limit);
            let Some(last) = rows.last() else {
                break;
            };
            after = last.version;
            seen.extend(rows.iter().map(|row| (row.version, row.conversation)));
            assert!(seen.len() <= expected.len(), "pages of {limit} overlap");
        }
        assert_eq!(seen, expected, "in pages of {limit}");
    }
    for after in [NUMBER_MAX, u64::MAX] {
        let (_, rows) = store.inbox_changes(me, after, 10).await.unwrap();
        assert!(rows.is_empty());
    }
}

pub(crate) async fn what_was_told_of_only_rises_and_goes_when_it_is_read(
    fixture: &mut impl Fixture,
) {
    let store = fixture.store();
    let [one, other] = [1, 2].map(|number| (user(number), conversation_of(number, 9)));
    assert_eq!(store.offline_seqs(vec![one]).await.unwrap(), [0]);
    let row = |(user, conversation), seq| (user, conversation, seq);
    store
        .note_offline(vec![row(one, 5), row(other, 2), row(one, 4)])
        .await
        .unwrap();
    store.note_offline(vec![row(one, 3)]).await.unwrap();
    let unknown = (one.0, other.1);
    let asked = vec![other, unknown, one];
    let seqs = store.offline_seqs(asked.clone()).await.unwrap();
    assert_eq!(seqs, [2, 0, 5]);
    store
        .forget_offline(vec![row(one, 4), row(other, 9)])
        .await
        .unwrap();
    assert_eq!(store.offline_seqs(asked.clone()).await.unwrap(), [0, 0, 5]);
    store.forget_offline(vec![row(one, 5)]).await.unwrap();
    assert_eq!(store.offline_seqs(asked).await.unwrap(), [0, 0, 0]);
}

pub(crate) async fn heads_come_in_the_order_asked(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let changes = [(3, 30), (1, 10), (2, 20)].map(|(me, version)| {
        let change = message(user(me), conversation_of(me, 9), version / 10, 1_000);
        (version, change)
    });
    store.apply_inbox(changes.to_vec()).await.unwrap();
    let asked = [2, 7, 1, 3, 2].map(user).to_vec();
    let heads = store.inbox_heads(asked).await.unwrap();
    let expected = [
        head(20, 2),
        head(0, 0),
        head(10, 1),
        head(30, 3),
        head(20, 2),
    ];
    assert_eq!(heads, expected);
    assert!(store.inbox_heads(vec![]).await.unwrap().is_empty());
}

pub(crate) async fn nobody_gets_rows_of_others(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let with = conversation_of(1, 2);
    // Neighbours by id, in one conversation, with the same versions and times.
    for me in [1, 2] {
        let change = message(user(me), with, me as u64, 1_000);
        store.apply_inbox(vec![(5, change)]).await.unwrap();
    }
    for me in [0x0101, 1, 2, 3, 4] {
        let me_id = user(me);
        let count = usize::from(me == 1 || me == 2);
        let (head, listed) = store.list_inbox(me_id, None, 10).await.unwrap();
        assert_eq!(listed.len(), count);
        let (_, changed) = store.inbox_changes(me_id, 0, 10).await.unwrap();
        assert_eq!(changed, listed);
        let row = store.inbox_row(me_id, with).await.unwrap();
        assert_eq!(row.as_ref(), listed.first());
        assert_eq!(head.unread_total, if count == 1 { me as u64 } else { 0 });
    }
}

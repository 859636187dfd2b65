//! Promises about events and the state of conversations.

use bytes::Bytes;
use proptest::{collection::vec, prelude::any};

use super::{
    Fixture, NUMBER_MAX, Talk, check, conversation_of, events_of, message_id, state_of, user,
};
use crate::{
    model::{ConversationState, Event, EventKind, Marks, MemberState, Watermark},
    store::{SeqRange, SequencedBatch, StoreError},
};

pub(crate) async fn what_is_persisted_is_read_back_exactly(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut talk = Talk::between(1, u128::MAX);
    let mut events = talk.messages(3);
    events[0].body = Bytes::new();
    events[0].time_unix_ms = -1;
    events[1].body = Bytes::from(vec![0; 100_000]);
    events[1].message_id = message_id(u128::MAX);
    events[2].kind = EventKind::GroupChange;
    events[2].log_offset = NUMBER_MAX;
    events[2].time_unix_ms = i64::MAX;
    talk.state.last_time_unix_ms = i64::MAX;
    talk.state.applied_end = NUMBER_MAX;
    talk.state.members[1].message_id_max = None;
    talk.state.members[1].marks.delivered.seq = NUMBER_MAX;
    store.persist(talk.batch(0, &events)).await.unwrap();
    assert_eq!(events_of(store, talk.id()).await, events);
    assert_eq!(state_of(store, talk.id()).await, Some(talk.state));
}

pub(crate) async fn a_batch_that_comes_twice_changes_nothing(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    let events = talk.messages(5);
    for _ in 0..2 {
        store.persist(talk.batch(0, &events)).await.unwrap();
        assert_eq!(events_of(store, talk.id()).await, events);
        assert_eq!(state_of(store, talk.id()).await, Some(talk.state.clone()));
    }
}

pub(crate) async fn overlapping_batches_leave_every_event_once(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let case = std::sync::atomic::AtomicU64::new(1);
    // How many events each batch goes back, and how many it adds.
    let batches = vec((0_usize..10, 0_usize..5), 1..12);
    check(24, batches, async |batches| {
        let case = case.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut talk = Talk::between(u128::from(case), u128::MAX);
        let mut events: Vec<Event> = Vec::new();
        for (back, more) in batches {
            let first = events.len().saturating_sub(back);
            events.extend(talk.messages(more));
            let batch = talk.batch(first as u64, &events[first..]);
            store.persist(batch).await.unwrap();
            assert_eq!(events_of(store, talk.id()).await, events);
            assert_eq!(state_of(store, talk.id()).await, Some(talk.state.clone()));
        }
    });
}

pub(crate) async fn an_older_batch_lowers_nothing(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    let mut events = talk.messages(3);
    let older = talk.batch(0, &events);
    events.extend(talk.messages(3));
    store.persist(talk.batch(0, &events)).await.unwrap();
    store.persist(older).await.unwrap();
    assert_eq!(events_of(store, talk.id()).await, events);
    assert_eq!(state_of(store, talk.id()).await, Some(talk.state));
}

pub(crate) async fn an_event_that_differs_is_refused_and_stays_as_it_was(
    fixture: &mut impl Fixture,
) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    let events = talk.messages(3);
    store.persist(talk.batch(0, &events)).await.unwrap();
    let before = talk.state.clone();
    let next = talk.next(true);
    let changes: [fn(&mut Event); 7] = [
        |event| event.message_index -= 1,
        |event| event.log_offset += 1,
        |event| event.time_unix_ms -= 1,
        |event| event.kind = EventKind::GroupChange,
        |event| event.sender = event.conversation.peer_of(event.sender).unwrap(),
        |event| event.message_id = message_id(77),
        |event| event.body = Bytes::from_static(b"another body"),
    ];
    for change in changes {
        let mut differs = events[2].clone();
        change(&mut differs);
        let batch = talk.batch(1, &[events[1].clone(), differs, next.clone()]);
        let error = store.persist(batch).await.unwrap_err();
        let StoreError::EventDiffers { conversation, seq } = error else {
            panic!("{error}");
        };
        assert_eq!((conversation, seq), (talk.id(), 3));
        let stored = events_of(store, talk.id()).await;
        assert_eq!(stored[..3], events);
        assert_eq!(state_of(store, talk.id()).await, Some(before.clone()));
    }
}

pub(crate) async fn a_head_below_the_base_is_refused(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    let events = talk.messages(2);
    let first = talk.clone();
    let more = talk.messages(2);
    // There is no row yet, and the batch was built on one.
    let refused = store.persist(talk.batch(2, &more)).await;
    let Err(StoreError::HeadBelowBase { conversation }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(conversation, talk.id());
    assert_eq!(state_of(store, talk.id()).await, None);
    // There is a row, of an earlier head.
    store.persist(first.batch(0, &events)).await.unwrap();
    let refused = store.persist(talk.batch(3, &more[1..])).await;
    assert!(matches!(refused, Err(StoreError::HeadBelowBase { .. })));
    assert_eq!(state_of(store, talk.id()).await, Some(first.state));
    // The head that the batch was built on, and a base below the head.
    store.persist(talk.batch(2, &more)).await.unwrap();
    store.persist(talk.batch(1, &more)).await.unwrap();
    assert_eq!(state_of(store, talk.id()).await, Some(talk.state));
}

pub(crate) async fn each_value_of_a_conversation_rises_by_itself(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    talk.state.last_time_unix_ms = -5;
    store.persist(talk.batch(0, &[])).await.unwrap();
    let mut expected = talk.state.clone();
    for (head_seq, last_message_index, last_time_unix_ms, applied_end) in [
        (9, 0, -9, 0),
        (1, 8, -6, 1),
        (2, 2, 7, 2),
        (3, 3, 3, 6),
        (10, 4, 4, 4),
        (10, 8, 7, 6),
        (0, 0, i64::MIN, 0),
    ] {
        let mut given = talk.batch(0, &[]);
        let state = &mut given.conversations[0].state;
        state.head_seq = head_seq;
        state.last_message_index = last_message_index;
        state.last_time_unix_ms = last_time_unix_ms;
        state.applied_end = applied_end;
        store.persist(given).await.unwrap();
        expected.head_seq = expected.head_seq.max(head_seq);
        expected.last_message_index = expected.last_message_index.max(last_message_index);
        expected.last_time_unix_ms = expected.last_time_unix_ms.max(last_time_unix_ms);
        expected.applied_end = expected.applied_end.max(applied_end);
        assert_eq!(state_of(store, talk.id()).await, Some(expected.clone()));
    }
}

pub(crate) async fn each_value_of_a_member_rises_by_itself(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    let events = talk.messages(2);
    store.persist(talk.batch(0, &events)).await.unwrap();
    let marks = |numbers: [u64; 4]| Marks {
        delivered: Watermark {
            seq: numbers[0],
            message_index: numbers[1],
        },
        read: Watermark {
            seq: numbers[2],
            message_index: numbers[3],
        },
    };
    let given = [
        (Some(1), [5, 0, 0, 7]),
        (None, [0, 6, 8, 0]),
        // Larger in the upper half only, then in the lower half only, then with the highest bit set.
        (Some(2 << 64), [1, 9, 1, 1]),
        (Some((2 << 64) + 5), [9, 1, 1, 1]),
        (Some(1 << 127), [0; 4]),
        (Some(u128::from(u64::MAX)), [0; 4]),
        (None, [1, 1, 9, 9]),
    ];
    let me = user(1);
    let mut expected = talk.state.member(me).unwrap().clone();
    for (id, numbers) in given {
        let given = MemberState {
            user: me,
            message_id_max: id.map(message_id),
            marks: marks(numbers),
            membership: None,
        };
        expected.message_id_max = expected.message_id_max.max(given.message_id_max);
        expected.marks = expected.marks.max(given.marks);
        let mut batch = talk.batch(2, &[]);
        batch.conversations[0].state.members = vec![given];
        store.persist(batch).await.unwrap();
        let stored = state_of(store, talk.id()).await.unwrap();
        assert_eq!(stored.member(me), Some(&expected));
        // Who is not in the batch stays as he was, and in order.
        assert_eq!(stored.member(user(2)), talk.state.member(user(2)));
        assert!(stored.members.is_sorted_by_key(|member| member.user));
    }
}

pub(crate) async fn conversations_without_a_row_are_left_out(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut batch = SequencedBatch {
        events: Vec::new(),
        conversations: Vec::new(),
    };
    let mut expected: Vec<ConversationState> = Vec::new();
    for other in 2..40 {
        let mut talk = Talk::between(1, other);
        let events = talk.messages(1);
        let one = talk.batch(0, &events);
        batch.events.extend(one.events);
        batch.conversations.extend(one.conversations);
        expected.push(talk.state);
    }
    store.persist(batch).await.unwrap();
    assert_eq!(state_of(store, conversation_of(1, 1_000)).await, None);
    let asked = (2..80).map(|other| conversation_of(1, other)).collect();
    let mut states = store.load_conversations(asked).await.unwrap();
    states.sort_by_key(|state| state.conversation);
    assert_eq!(states, expected);
    assert!(store.load_conversations(vec![]).await.unwrap().is_empty());
}

pub(crate) async fn a_name_finds_its_first_event_only(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let name = message_id(42);
    let mut talk = Talk::between(1, 2);
    let mut events = talk.messages(6);
    for at in [1, 3, 5] {
        events[at].message_id = name;
        events[at].sender = user(1);
    }
    // The same name of another sender, and in another conversation: other messages.
    events[0].message_id = name;
    events[0].sender = user(2);
    let mut other = Talk::between(1, 3);
    let mut others = other.messages(1);
    others[0].message_id = name;
    others[0].sender = user(1);
    // Later ones first: what counts is the place, not when it was stored.
    store.persist(talk.batch(0, &events[3..])).await.unwrap();
    store.persist(talk.batch(0, &events)).await.unwrap();
    store.persist(other.batch(0, &others)).await.unwrap();
    let names = vec![
        (talk.id(), user(1), name),
        (talk.id(), user(2), name),
        (other.id(), user(1), name),
        (other.id(), user(3), name),
        (talk.id(), user(1), message_id(43)),
        (conversation_of(8, 9), user(8), name),
    ];
    let mut found = store.find_events(names).await.unwrap();
    found.sort_by_key(|event| (event.conversation, event.seq));
    assert_eq!(
        found,
        [events[0].clone(), events[1].clone(), others[0].clone()]
    );
}

pub(crate) async fn a_range_excludes_both_ends(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    let mut neighbour = Talk::between(1, 3);
    let events = talk.messages(10);
    let neighbours = neighbour.messages(10);
    store.persist(talk.batch(0, &events)).await.unwrap();
    let others = neighbour.batch(0, &neighbours);
    store.persist(others).await.unwrap();
    for after_seq in 0..12 {
        for before_seq in 0..12 {
            let range = SeqRange {
                after_seq,
                before_seq,
            };
            let inside = |event: &&Event| after_seq < event.seq && event.seq < before_seq;
            let mut expected: Vec<Event> = events.iter().filter(inside).cloned().collect();
            let up = store.events(talk.id(), range, false, 100, usize::MAX);
            assert_eq!(up.await.unwrap(), expected);
            expected.reverse();
            let down = store.events(talk.id(), range, true, 100, usize::MAX);
            assert_eq!(down.await.unwrap(), expected);
        }
    }
    assert!(events_of(store, conversation_of(8, 9)).await.is_empty());
}

pub(crate) async fn a_page_ends_at_its_limits(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    let mut events = talk.messages(6);
    for (event, bytes) in events.iter_mut().zip([10, 20, 30, 0, 40, 50]) {
        event.body = Bytes::from(vec![1; bytes]);
    }
    store.persist(talk.batch(0, &events)).await.unwrap();
    let seqs = async |newest_first: bool, limit: usize, bytes_max: usize| {
        let page = store.events(talk.id(), super::ALL, newest_first, limit, bytes_max);
        let page = page.await.unwrap();
        page.iter().map(|event| event.seq).collect::<Vec<_>>()
    };
    assert!(seqs(false, 0, 1_000).await.is_empty());
    assert_eq!(seqs(false, 2, 1_000).await, [1, 2]);
    assert_eq!(seqs(true, 2, 1_000).await, [6, 5]);
    // At least one, however large; to the byte; one without bytes still fits.
    assert_eq!(seqs(false, 9, 0).await, [1]);
    assert_eq!(seqs(true, 9, 49).await, [6]);
    assert_eq!(seqs(false, 9, 29).await, [1]);
    assert_eq!(seqs(false, 9, 30).await, [1, 2]);
    assert_eq!(seqs(false, 9, 60).await, [1, 2, 3, 4]);
    assert_eq!(seqs(true, 9, 90).await, [6, 5, 4]);
    assert_eq!(seqs(false, 9, 150).await, [1, 2, 3, 4, 5, 6]);
}

pub(crate) async fn missing_events_are_no_end_of_a_page(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    let mut events = talk.messages(20);
    events.retain(|event| [5, 6, 11, 12, 20].contains(&event.seq));
    store.persist(talk.batch(0, &events)).await.unwrap();
    assert_eq!(events_of(store, talk.id()).await, events);
    let range = SeqRange {
        after_seq: 7,
        before_seq: 10,
    };
    let none = store.events(talk.id(), range, false, 10, 10).await.unwrap();
    assert!(none.is_empty());
}

pub(crate) async fn a_message_index_is_found_wherever_it_is(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let case = std::sync::atomic::AtomicU64::new(1);
    // Of each event: is it a message, and is it still there?
    let events = vec((any::<bool>(), proptest::bool::weighted(0.7)), 1..60);
    check(32, events, async |events| {
        let case = case.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut talk = Talk::between(u128::from(case), u128::MAX);
        let mut kept = Vec::new();
        for (is_message, is_kept) in events {
            let event = talk.next(is_message);
            if is_kept {
                kept.push(event);
            }
        }
        store.persist(talk.batch(0, &kept)).await.unwrap();
        for message_index in 0..=talk.state.last_message_index + 1 {
            let mut found = kept.iter().filter(|e| e.message_index >= message_index);
            let expected = found.next().map(|event| event.seq);
            let answer = store.seq_of_message_index(talk.id(), message_index).await;
            assert_eq!(answer.unwrap(), expected, "of {message_index}");
        }
    });
}

pub(crate) async fn numbers_that_no_store_can_hold_are_ranges_without_end(
    fixture: &mut impl Fixture,
) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    let mut event = talk.next(true);
    event.seq = NUMBER_MAX;
    talk.state.head_seq = NUMBER_MAX;
    let batch = talk.batch(0, std::slice::from_ref(&event));
    store.persist(batch.clone()).await.unwrap();
    for (after_seq, before_seq, count) in [
        (NUMBER_MAX - 1, u64::MAX, 1),
        (NUMBER_MAX - 1, NUMBER_MAX + 1, 1),
        (NUMBER_MAX - 1, NUMBER_MAX, 0),
        (NUMBER_MAX, u64::MAX, 0),
        (u64::MAX, u64::MAX, 0),
        (u64::MAX, 0, 0),
    ] {
        let range = SeqRange {
            after_seq,
            before_seq,
        };
        for newest_first in [false, true] {
            let page = store.events(talk.id(), range, newest_first, usize::MAX, usize::MAX);
            assert_eq!(page.await.unwrap().len(), count, "{range:?}");
        }
    }
    for message_index in [2, NUMBER_MAX, NUMBER_MAX + 1, u64::MAX] {
        let seq = store.seq_of_message_index(talk.id(), message_index).await;
        assert_eq!(seq.unwrap(), None);
    }
    // What must be kept and cannot be is refused, not cut.
    let mut larger = Talk::between(1, 3);
    let mut event = larger.next(true);
    event.log_offset = NUMBER_MAX + 1;
    assert!(store.persist(larger.batch(0, &[event])).await.is_err());
    assert_eq!(state_of(store, larger.id()).await, None);
    assert_eq!(events_of(store, talk.id()).await, batch.events);
}

pub(crate) async fn an_event_is_seen_no_later_than_its_head(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    let id = talk.id();
    let writes = async {
        for _ in 0..100 {
            let base = talk.state.head_seq;
            let events = talk.messages(3);
            store.persist(talk.batch(base, &events)).await.unwrap();
        }
    };
    let reads = async {
        let mut head = 0;
        while head < 300 {
            head = state_of(store, id).await.map_or(0, |state| state.head_seq);
            let last = SeqRange {
                after_seq: head.saturating_sub(1),
                before_seq: head + 1,
            };
            let events = store.events(id, last, false, 1, usize::MAX).await.unwrap();
            assert_eq!(events.len(), usize::from(head > 0), "at the head {head}");
        }
    };
    tokio::join!(writes, reads);
}

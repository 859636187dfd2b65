//! Promises about readers' positions, and about what survives.

use super::{
    Fixture, NUMBER_MAX, Talk, conversation_of, events_of, inboxes::message, state_of, user,
};
use crate::{
    model::InboxHead,
    store::{LogIdentity, PositionAdvance, ReaderId, Store, StoreError},
};

const SEQUENCER: ReaderId = ReaderId {
    reader: "sequencer",
    topic: "messages",
    partition: 0,
};

fn log() -> LogIdentity {
    LogIdentity {
        log_id: "log one".to_owned(),
        topic_id: "topic one".to_owned(),
        partitions: 4,
    }
}

async fn save(store: &dyn Store, reader: ReaderId, from: u64, to: u64) -> Result<(), StoreError> {
    store
        .save_position(PositionAdvance { reader, from, to })
        .await
}

pub(crate) async fn a_position_starts_at_zero_and_only_rises(fixture: &mut impl Fixture) {
    let store = fixture.store();
    assert_eq!(store.open_reader(SEQUENCER, log()).await.unwrap(), 0);
    for (saved, expected) in [(5, 5), (3, 5), (5, 5), (9, 9), (0, 9)] {
        save(store, SEQUENCER, 0, saved).await.unwrap();
        assert_eq!(store.open_reader(SEQUENCER, log()).await.unwrap(), expected);
    }
}

pub(crate) async fn a_position_below_the_saved_one_is_noticed(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let went_back = |result| matches!(result, Err(StoreError::PositionBelowSaved));
    // Nothing is stored: the store is one from before the reader.
    assert!(went_back(save(store, SEQUENCER, 1, 2).await));
    assert_eq!(store.open_reader(SEQUENCER, log()).await.unwrap(), 0);
    assert!(went_back(save(store, SEQUENCER, 1, 2).await));
    for (from, to) in [(0, 5), (5, 5), (5, 8), (8, 10)] {
        save(store, SEQUENCER, from, to).await.unwrap();
        assert_eq!(store.open_reader(SEQUENCER, log()).await.unwrap(), to);
    }
    // A reader that has saved more than the store has.
    for (from, to) in [(11, 12), (NUMBER_MAX, NUMBER_MAX), (u64::MAX, NUMBER_MAX)] {
        assert!(went_back(save(store, SEQUENCER, from, to).await));
        assert_eq!(store.open_reader(SEQUENCER, log()).await.unwrap(), 10);
    }
    // One that has saved less: another is ahead of it.
    for (from, to) in [(5, 7), (7, 11)] {
        save(store, SEQUENCER, from, to).await.unwrap();
        let stored = store.open_reader(SEQUENCER, log()).await.unwrap();
        assert_eq!(stored, to.max(10));
    }
}

pub(crate) async fn positions_of_different_readers_are_apart(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let readers = [
        SEQUENCER,
        ReaderId {
            partition: 3,
            ..SEQUENCER
        },
        ReaderId {
            reader: "search",
            ..SEQUENCER
        },
        ReaderId {
            topic: "inbox",
            ..SEQUENCER
        },
    ];
    for (reader, position) in readers.iter().zip([10, 20, 30, 40]) {
        save(store, reader.clone(), 0, position).await.unwrap();
    }
    for (reader, expected) in readers.into_iter().zip([10, 20, 30, 40]) {
        assert_eq!(store.open_reader(reader, log()).await.unwrap(), expected);
    }
}

pub(crate) async fn another_log_is_refused(fixture: &mut impl Fixture) {
    let store = fixture.store();
    store.open_reader(SEQUENCER, log()).await.unwrap();
    save(store, SEQUENCER, 0, 7).await.unwrap();
    let others = [
        LogIdentity {
            log_id: "log two".to_owned(),
            ..log()
        },
        LogIdentity {
            topic_id: "topic two".to_owned(),
            ..log()
        },
        LogIdentity {
            partitions: 5,
            ..log()
        },
    ];
    let next_partition = ReaderId {
        partition: 1,
        ..SEQUENCER
    };
    for other in others {
        // The partitions of a topic are of one log, also those that were never opened.
        for reader in [SEQUENCER, next_partition.clone()] {
            let refused = store.open_reader(reader, other.clone()).await;
            let Err(StoreError::OtherLog { stored, actual }) = refused else {
                panic!("{refused:?}");
            };
            assert_ne!(stored, actual);
        }
    }
    // Refusing changes nothing; another reader, or of another topic, may follow another log.
    assert_eq!(store.open_reader(SEQUENCER, log()).await.unwrap(), 7);
    assert_eq!(store.open_reader(next_partition, log()).await.unwrap(), 0);
    let inbox = ReaderId {
        topic: "inbox",
        ..SEQUENCER
    };
    let other = LogIdentity {
        topic_id: "topic two".to_owned(),
        ..log()
    };
    assert_eq!(store.open_reader(inbox, other).await.unwrap(), 0);
}

pub(crate) async fn what_was_answered_is_there_after_a_restart(fixture: &mut impl Fixture) {
    let mut talk = Talk::between(1, 2);
    let events = talk.messages(3);
    let store = fixture.store();
    store.persist(talk.batch(0, &events)).await.unwrap();
    let changes = vec![(11, message(user(1), conversation_of(1, 2), 3, 5_000))];
    let applied = store.apply_inbox(changes).await.unwrap();
    store.open_reader(SEQUENCER, log()).await.unwrap();
    save(store, SEQUENCER, 0, 31).await.unwrap();
    store.sync().await.unwrap();
    fixture.reopen().await;
    let store = fixture.store();
    assert_eq!(events_of(store, talk.id()).await, events);
    assert_eq!(state_of(store, talk.id()).await, Some(talk.state.clone()));
    let (head, rows) = store.list_inbox(user(1), None, 10).await.unwrap();
    let expected = InboxHead {
        version: 11,
        unread_total: 3,
    };
    assert_eq!((head, rows), (expected, applied[0].rows.clone()));
    assert_eq!(store.open_reader(SEQUENCER, log()).await.unwrap(), 31);
    let other = LogIdentity {
        log_id: "log two".to_owned(),
        ..log()
    };
    let refused = store.open_reader(SEQUENCER, other).await;
    assert!(matches!(refused, Err(StoreError::OtherLog { .. })));
    // It is the same store: it goes on from there.
    let more = talk.messages(1);
    store.persist(talk.batch(3, &more)).await.unwrap();
    assert_eq!(events_of(store, talk.id()).await.len(), 4);
}

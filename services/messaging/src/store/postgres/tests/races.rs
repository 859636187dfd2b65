//! Two writers of one partition: the one that reads it now, and one that does not know yet that it
//! does not. What is stored in the end is what one of them alone would have stored.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::sync::Barrier;

use super::*;
use crate::model::{GroupState, Membership, Role, Window};

const CONVERSATIONS: u8 = 12;

/// Batches as a sequencer makes them, each built on those before.
fn batches(random: &mut StdRng, count: u64) -> Vec<SequencedBatch> {
    let mut states: Vec<ConversationState> = (0..CONVERSATIONS)
        .map(|number| ConversationState::new(between(100, number + 1)))
        .collect();
    let mut offset = 0;
    let mut made = Vec::new();
    for _ in 0..count {
        let mut batch = SequencedBatch {
            events: Vec::new(),
            conversations: Vec::new(),
        };
        for state in &mut states {
            if random.random_bool(0.5) {
                continue;
            }
            let base_head_seq = state.head_seq;
            let before = state.clone();
            // None: only marks have changed.
            for _ in 0..random.random_range(0..4) {
                offset += 1;
                state.head_seq += 1;
                state.last_message_index += 1;
                state.last_time_unix_ms += 1;
                let mut event = event(state.conversation, state.head_seq);
                event.log_offset = offset;
                event.time_unix_ms = state.last_time_unix_ms;
                event.message_id = MessageId::from_bytes(u128::from(offset).to_be_bytes());
                let head = state.head();
                let member = state.member_mut(event.sender);
                member.message_id_max = Some(event.message_id);
                member.marks.delivered = head;
                batch.events.push(event);
            }
            offset += 1;
            state.applied_end = offset;
            let head = state.head();
            let reader = state.conversation.direct_members().unwrap()[random.random_range(0..2)];
            let member = state.member_mut(reader);
            member.marks.read = head;
            // As in a group: to the tables it is all one.
            if random.random_bool(0.5) {
                member.membership = Some(Membership {
                    version: offset,
                    role: Role::from_number(random.random_range(0..4)),
                    windows: vec![Window {
                        from_seq: offset,
                        to_seq: None,
                    }],
                });
                state.group = GroupState {
                    version: offset,
                    announcement: random.random_bool(0.5),
                    history_all: random.random_bool(0.5),
                };
            }
            let mut changed = state.clone();
            changed
                .members
                .retain(|member| before.member(member.user) != Some(member));
            batch.conversations.push(ConversationUpdate {
                state: changed,
                base_head_seq,
            });
        }
        // The contract says nothing about their order.
        batch.conversations.shuffle(random);
        made.push(batch);
    }
    made
}

async fn everything(store: &dyn Store) -> Vec<(ConversationState, Vec<Event>)> {
    let ids = (0..CONVERSATIONS).map(|number| between(100, number + 1));
    let mut states = store.load_conversations(ids.collect()).await.unwrap();
    states.sort_by_key(|state| state.conversation);
    let mut all = Vec::new();
    for state in states {
        let events = store.events(state.conversation, ALL, false, usize::MAX, usize::MAX);
        all.push((state, events.await.unwrap()));
    }
    all
}

async fn deadlocks(store: &PostgresStore) -> i64 {
    with_connection(store, async |connection| {
        let count = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        sqlx::query_scalar(count).fetch_one(connection).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sequencers_of_one_partition_store_what_one_would() {
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..12 {
        let batches = batches(&mut random, 30);
        let alone = PostgresFixture::new().await.store;
        for batch in &batches {
            alone.persist(batch.clone()).await.unwrap();
        }
        let fixture = PostgresFixture::new().await;
        let start = Barrier::new(3);
        let writers = (0..3).map(|_| {
            let mut random = StdRng::seed_from_u64(random.random());
            let (store, start, batches) = (fixture.store.clone(), &start, &batches);
            async move {
                start.wait().await;
                // In order, for the one that reads the partition; any order, and again, for those
                // that did and for their statements that come late.
                let mut left: Vec<&SequencedBatch> = batches.iter().collect();
                let late: Vec<_> = batches.iter().filter(|_| random.random_bool(0.3)).collect();
                left.extend(late);
                if random.random_bool(0.7) {
                    for at in 1..left.len() {
                        let other = at.saturating_sub(random.random_range(0..5));
                        left.swap(at, other);
                    }
                }
                let mut again = Vec::new();
                while !left.is_empty() {
                    for batch in left.drain(..) {
                        match store.persist(batch.clone()).await {
                            Ok(()) => {}
                            // Built on what is not there yet.
                            Err(StoreError::HeadBelowBase { .. }) => again.push(batch),
                            Err(error) => panic!("seed {seed}, round {round}: {error}"),
                        }
                    }
                    std::mem::swap(&mut left, &mut again);
                }
            }
        });
        futures_util::future::join_all(writers).await;
        let stored = everything(&fixture.store).await;
        assert_eq!(
            stored,
            everything(&alone).await,
            "seed {seed}, round {round}"
        );
        assert_eq!(deadlocks(&fixture.store).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_sequencers_that_disagree_one_is_refused() {
    let fixture = PostgresFixture::new().await;
    for round in 1..60_u8 {
        let with = between(200, round);
        let start = Barrier::new(2);
        let writers = [1, 2].map(|body| {
            let (store, start) = (&fixture.store, &start);
            let mut event = event(with, 1);
            event.body = vec![body].into();
            let batch = SequencedBatch {
                events: vec![event],
                conversations: vec![update(with, 1, 0)],
            };
            async move {
                start.wait().await;
                store.persist(batch).await
            }
        });
        let results = futures_util::future::join_all(writers).await;
        let refused: Vec<_> = results
            .iter()
            .filter_map(|result| result.as_ref().err())
            .collect();
        let [
            StoreError::EventDiffers {
                conversation,
                seq: 1,
            },
        ] = refused[..]
        else {
            panic!("{results:?}");
        };
        assert_eq!(*conversation, with);
    }
}

fn inbox_changes(random: &mut StdRng, count: u64) -> Vec<(u64, InboxChange)> {
    let mut change_of = |offset: u64| {
        let (me, other) = (random.random_range(1..6), random.random_range(10..14));
        let mut change = change(me, other, offset);
        if random.random_bool(0.3) {
            change.preview = None;
            change.own.read = change.last;
        }
        (offset, change)
    };
    (1..=count).map(&mut change_of).collect()
}

async fn all_inboxes(store: &dyn Store) -> Vec<(InboxHead, Vec<InboxRow>)> {
    let mut all = Vec::new();
    for me in 1..6 {
        all.push(store.inbox_changes(user(me), 0, 100).await.unwrap());
        all.push(store.list_inbox(user(me), None, 100).await.unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_inbox_readers_of_one_partition_store_what_one_would() {
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..12 {
        let changes = inbox_changes(&mut random, 200);
        let alone = PostgresFixture::new().await.store;
        alone.apply_inbox(changes.clone()).await.unwrap();
        let fixture = PostgresFixture::new().await;
        let start = Barrier::new(3);
        let writers = (0..3).map(|_| {
            let mut random = StdRng::seed_from_u64(random.random());
            let (store, start, changes) = (fixture.store.clone(), &start, &changes);
            async move {
                start.wait().await;
                let mut applied = Vec::new();
                let mut at = 0;
                while at < changes.len() {
                    let end = (at + random.random_range(1..20)).min(changes.len());
                    applied.extend(store.apply_inbox(changes[at..end].to_vec()).await.unwrap());
                    // Sometimes back to a position that was saved before.
                    at = end.saturating_sub(if random.random_bool(0.2) { 7 } else { 0 });
                    at = if end == changes.len() { end } else { at };
                }
                applied
            }
        });
        let told = futures_util::future::join_all(writers).await.concat();
        let stored = all_inboxes(&fixture.store).await;
        assert_eq!(
            stored,
            all_inboxes(&alone).await,
            "seed {seed}, round {round}"
        );
        assert_eq!(deadlocks(&fixture.store).await, 0);
        // What sessions were told is one chain a user, from nothing to the end, whoever told it.
        let mut chains: BTreeMap<UserId, BTreeMap<u64, InboxApplied>> = BTreeMap::new();
        for one in told {
            let chain = chains.entry(one.user).or_default();
            assert!(
                chain.insert(one.previous_version, one).is_none(),
                "told twice"
            );
        }
        for (user, chain) in chains {
            let mut version = 0;
            let mut seen = BTreeSet::new();
            for (previous, one) in chain {
                assert_eq!(previous, version, "a gap for {user}");
                version = one.version;
                seen.extend(one.rows.iter().map(|row| row.conversation));
            }
            let (head, rows) = fixture.store.inbox_changes(user, 0, 100).await.unwrap();
            assert_eq!((head.version, rows.len()), (version, seen.len()));
        }
    }
}

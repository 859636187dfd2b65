//! Promises about members of one group.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle};

use super::{
    Fixture, GROUPS, KNOWN, append, assigned, keys, next, read_alone, record, text, within,
};
use crate::{Appended, EventLog, LogError, Membership, Record, Topic};

/// How long to look for what must not happen.
const EARLY: Duration = Duration::from_millis(100);

/// What a store would keep: the records that were dealt with, and how far each partition is.
#[derive(Default)]
struct Store {
    positions: BTreeMap<u32, u64>,
    seen: BTreeMap<u32, Vec<(u64, String)>>,
}

impl Store {
    fn deal_with(&mut self, partition: u32, records: &[Record]) {
        let seen = self.seen.entry(partition).or_default();
        seen.extend(records.iter().map(|r| (r.offset, text(r))));
        if let Some(last) = records.last() {
            self.positions.insert(partition, last.offset + 1);
        }
    }
}

/// A member that reads what it is given, as a service would, until it is told to end.
struct Working {
    task: JoinHandle<()>,
    partitions: watch::Receiver<BTreeSet<u32>>,
    stop: watch::Sender<bool>,
}

impl Working {
    async fn start(log: &Arc<dyn EventLog>, store: &Arc<Mutex<Store>>) -> Self {
        let joining = within("joining", log.join(GROUPS[0], Topic::Messages));
        let member = joining.await.expect("the group is known");
        let (held, partitions) = watch::channel(BTreeSet::new());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(work(member, store.clone(), Arc::new(held), stopped));
        Self {
            task,
            partitions,
            stop,
        }
    }

    async fn holds(&mut self, count: usize) -> BTreeSet<u32> {
        let held = self.partitions.wait_for(|held| held.len() == count);
        within("the assignment", held)
            .await
            .expect("it works")
            .clone()
    }

    async fn end(self) {
        self.stop.send_replace(true);
        within("the member's end", self.task)
            .await
            .expect("no panic");
    }
}

async fn work(
    mut member: Box<dyn Membership>,
    store: Arc<Mutex<Store>>,
    held: Arc<watch::Sender<BTreeSet<u32>>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut readers = Vec::new();
    loop {
        let reader = tokio::select! {
            assigned = member.assigned() => assigned.expect("the log is open"),
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        let (store, held) = (store.clone(), held.clone());
        readers.push(tokio::spawn(async move {
            let mut reader = reader;
            let partition = reader.partition();
            held.send_modify(|held| {
                held.insert(partition);
            });
            let at = locked(&store, |s| s.positions.get(&partition).copied());
            let mut sought = match at {
                Some(at) => reader.seek(at).await,
                None => Ok(()),
            };
            loop {
                let records = match std::mem::replace(&mut sought, Ok(())) {
                    Ok(()) => reader.next(3).await,
                    Err(error) => Err(error),
                };
                match records {
                    Ok(records) => locked(&store, |s| s.deal_with(partition, &records)),
                    Err(LogError::Revoked) => break,
                    Err(error) => panic!("the log cannot be read: {error}"),
                }
            }
            held.send_modify(|held| {
                held.remove(&partition);
            });
        }));
    }
    // Leaves the group; the readers are told.
    drop(member);
    for reader in readers {
        within("the reader's end", reader).await.expect("no panic");
    }
}

fn locked<T>(store: &Mutex<Store>, f: impl FnOnce(&mut Store) -> T) -> T {
    f(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn append_round(log: &Arc<dyn EventLog>, round: usize) -> Vec<(Appended, String)> {
    let payloads = keys(&format!("round {round}"), 60);
    let records = payloads.iter().map(|p| record(p, p.clone())).collect();
    let places = append(log, records).await;
    places.into_iter().zip(payloads).collect()
}

/// Members come and go while records come in; together they deal with each record once, in order.
pub async fn members_share_the_partitions_and_take_over_without_a_gap(fixture: &dyn Fixture) {
    let log = fixture.open().await;
    let store = Arc::new(Mutex::new(Store::default()));
    let mut appended = append_round(&log, 0).await;

    let mut one = Working::start(&log, &store).await;
    assert_eq!(one.holds(4).await, BTreeSet::from([0, 1, 2, 3]));
    appended.extend(append_round(&log, 1).await);

    let mut two = Working::start(&log, &store).await;
    let (first, second) = (one.holds(2).await, two.holds(2).await);
    assert!(first.is_disjoint(&second));
    appended.extend(append_round(&log, 2).await);

    let mut three = Working::start(&log, &store).await;
    three.holds(1).await;
    appended.extend(append_round(&log, 3).await);

    one.end().await;
    appended.extend(append_round(&log, 4).await);
    let (first, second) = (two.holds(2).await, three.holds(2).await);
    assert!(first.is_disjoint(&second));
    two.end().await;
    three.holds(4).await;
    appended.extend(append_round(&log, 5).await);

    let all_seen = async {
        while locked(&store, |s| s.seen.values().map(Vec::len).sum::<usize>()) < appended.len() {
            tokio::task::yield_now().await;
        }
    };
    within("reading everything", all_seen).await;
    three.end().await;
    appended.sort_by_key(|(place, _)| (place.partition, place.offset));
    let seen = locked(&store, |s| s.seen.clone());
    for (partition, seen) in seen {
        let of_partition = appended.iter().filter(|(p, _)| p.partition == partition);
        let expected: Vec<_> = of_partition
            .map(|(p, t)| (p.offset.expect(KNOWN), t.clone()))
            .collect();
        assert_eq!(seen, expected, "partition {partition}");
    }
    fixture.close(log).await;
}

/// Not even those that it could have had before, and it cannot move back.
pub async fn a_revoked_reader_gets_no_more_records(fixture: &dyn Fixture) {
    let log = fixture.open().await;
    append_round(&log, 0).await;
    let (_one, mut readers) = read_alone(&log, GROUPS[0]).await;
    for reader in readers.values_mut() {
        // More is at hand, in memory perhaps.
        next(reader, 1).await;
    }
    let joining = within("joining", log.join(GROUPS[0], Topic::Messages));
    let mut two = joining.await.expect("the group is known");
    // Nobody else gets a partition before its reader knows: it may be in the middle of something.
    let early = tokio::time::timeout(EARLY, two.assigned()).await;
    assert!(early.is_err(), "a partition was given to two readers");
    let revoked = async {
        let mut revoked = BTreeSet::new();
        while revoked.len() < 2 {
            for (partition, reader) in &mut readers {
                let (first, _) = match reader.range().await {
                    Ok(range) => range,
                    Err(LogError::Revoked) => {
                        revoked.insert(*partition);
                        continue;
                    }
                    Err(error) => panic!("the log cannot be read: {error}"),
                };
                // A reader that learns of it here has not been served since.
                match reader.seek(first).await {
                    Ok(()) | Err(LogError::Revoked) => {}
                    Err(error) => panic!("the log cannot be read: {error}"),
                }
            }
            tokio::task::yield_now().await;
        }
        revoked
    };
    let revoked = within("the revocation", revoked).await;
    append_round(&log, 1).await;
    for partition in &revoked {
        let reader = readers.get_mut(partition).expect("a reader");
        for _ in 0..3 {
            let refused = within("the refusal", reader.next(1)).await;
            assert_eq!(refused.err(), Some(LogError::Revoked));
            assert_eq!(reader.seek(0).await, Err(LogError::Revoked));
        }
    }
    // The other member has them, and only them.
    let mut given = BTreeSet::new();
    for _ in 0..2 {
        let mut reader = assigned(&mut two).await;
        next(&mut reader, 1).await;
        given.insert(reader.partition());
    }
    assert_eq!(given, revoked);
    fixture.close(log).await;
}

/// Its reader has something under way that the next one must know the end of.
pub async fn a_partition_that_is_kept_is_handed_on_when_its_reader_is_dropped(
    fixture: &dyn Fixture,
) {
    let log = fixture.open().await;
    append_round(&log, 0).await;
    let (_one, mut readers) = read_alone(&log, GROUPS[0]).await;
    readers
        .values_mut()
        .for_each(|reader| reader.keep_until_dropped());
    assert!(readers.values().all(|reader| !reader.is_revoked()));
    let joining = within("joining", log.join(GROUPS[0], Topic::Messages));
    let mut two = joining.await.expect("the group is known");
    let revoked = async {
        while readers.values().filter(|r| r.is_revoked()).count() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the revocation", revoked).await;
    let revoked = readers.values().filter(|reader| reader.is_revoked());
    let revoked: BTreeSet<u32> = revoked.map(|reader| reader.partition()).collect();
    for partition in &revoked {
        let reader = readers.get_mut(partition).expect("a reader");
        let refused = within("the refusal", reader.next(1)).await;
        assert_eq!(refused.err(), Some(LogError::Revoked));
        // What it says of its end still counts.
        reader.commit(1);
    }
    let early = tokio::time::timeout(EARLY, two.assigned()).await;
    assert!(early.is_err(), "a partition was given to two readers");
    for partition in &revoked {
        drop(readers.remove(partition));
    }
    for _ in 0..2 {
        let reader = assigned(&mut two).await;
        assert!(revoked.contains(&reader.partition()));
    }
    assert!(readers.values().all(|reader| !reader.is_revoked()));
    fixture.close(log).await;
}

/// A member that is left alone gets everything again.
pub async fn a_partition_comes_back_after_it_was_taken_away(fixture: &dyn Fixture) {
    let log = fixture.open().await;
    append_round(&log, 0).await;
    let store = Arc::new(Mutex::new(Store::default()));
    let mut one = Working::start(&log, &store).await;
    for _ in 0..3 {
        one.holds(4).await;
        let mut two = Working::start(&log, &store).await;
        two.holds(2).await;
        one.holds(2).await;
        two.end().await;
    }
    one.holds(4).await;
    one.end().await;
    fixture.close(log).await;
}

//! What refers to blobs, as the driver of a partition hands it on.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use event_log::{LogError, Record};
use proto::{
    error::v1::ErrorReason,
    log::v1::{ReferenceBarrier, references_record, verdict::Verdict},
};
use runtime::shutdown::Tasks;

use super::{
    cases::accepted,
    driver::Running,
    reference::Expected,
    world::{Said, World, message_id, user},
};
use crate::{codec, limits::POSITION_INTERVAL, sequencer::Sequencers};

impl World {
    /// What was confirmed is right, each time that it was made, and whatever the position has passed is
    /// among it.
    pub(super) fn check_references(&self, expected: &Expected) {
        for (offset, record) in &self.references {
            if !matches!(record, references_record::Record::Barrier(_)) {
                assert_eq!(Some(record), expected.references.get(offset), "at {offset}");
            }
        }
        for (offset, record) in expected.references.range(..self.store.position) {
            let is_there = self.references.contains(&(*offset, record.clone()));
            assert!(is_there, "the position passed what {offset} refers to");
        }
    }

    /// Unless one was lost with a node, what the last barriers say is passed on.
    pub(super) fn check_barriers(&self) {
        let said =
            self.log
                .iter()
                .filter_map(|record| match codec::decode_messages(&record.payload) {
                    Ok(codec::MessagesRecord::Barrier { as_of_unix_ms }) => Some(as_of_unix_ms),
                    _ => None,
                });
        let passed = self
            .references
            .iter()
            .filter_map(|(_, record)| match record {
                references_record::Record::Barrier(barrier) => Some(barrier.as_of_unix_ms),
                _ => None,
            });
        if !self.has_crashed {
            assert_eq!(passed.max(), said.max(), "a barrier is lost");
        }
    }
}

fn with_attachments(attachments: &[u8]) -> Said {
    Said {
        attachments: attachments.to_vec(),
        ..Said::default()
    }
}

/// A message with attachments, a barrier, and a message behind it.
fn history() -> Vec<Record> {
    let mut world = World::new();
    let [first, second, _] = world.conversations;
    world.say(first, user(1), message_id(1), with_attachments(&[1, 2]));
    world.barrier(500);
    world.log.last_mut().unwrap().key = Bytes::from_static(b"of the barrier");
    world.send(second, user(3), 1);
    world.log
}

fn barriers(running: &Running) -> Vec<(usize, Bytes, i64)> {
    let references = running.log.references.lock();
    let all = references.iter().enumerate();
    let barriers = all.filter_map(|(at, (key, record))| match record {
        references_record::Record::Barrier(ReferenceBarrier { as_of_unix_ms }) => {
            Some((at, key.clone(), *as_of_unix_ms))
        }
        _ => None,
    });
    barriers.collect()
}

#[tokio::test]
async fn position_and_barrier_wait_for_what_refers_to_blobs() {
    let running = Running::start(false);
    running.log.refuses_references.store(true, Ordering::SeqCst);
    let records = history();
    let end = records.last().unwrap().offset + 1;
    *running.log.records.lock() = records;
    running
        .eventually("the store has the events, the log refused", |r| {
            r.store.0.lock().events.len() == 2 && r.log.refused.load(Ordering::SeqCst)
        })
        .await;
    // Longer than the position takes to be saved.
    tokio::time::sleep(2 * POSITION_INTERVAL).await;
    assert_eq!(running.position(), 0, "it passed what refers to blobs");
    assert_eq!(barriers(&running), [], "it is before what refers");
    running
        .log
        .refuses_references
        .store(false, Ordering::SeqCst);
    running
        .eventually("the position is at the end", |r| r.position() == end)
        .await;
    running
        .eventually("the barrier is passed on", |r| !barriers(r).is_empty())
        .await;
    let key = Bytes::from_static(b"of the barrier");
    assert_eq!(barriers(&running), [(1, key, 500)]);
    running.stop().await;
}

#[tokio::test]
async fn a_barrier_that_the_log_refuses_holds_up_nothing_and_is_given_up() {
    let running = Running::start(false);
    running.log.refuses_barriers.store(true, Ordering::SeqCst);
    let records = history();
    let end = records.last().unwrap().offset + 1;
    *running.log.records.lock() = records;
    running
        .eventually("the position is at the end", |r| r.position() == end)
        .await;
    running.log.refuses_barriers.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(running.log.refused_barriers.load(Ordering::SeqCst), 1);
    assert_eq!(barriers(&running), []);
    running.stop().await;
}

#[tokio::test]
async fn topics_of_different_partition_counts_are_refused_with_both() {
    let running = Running::start(false);
    let tasks = Tasks::new();
    let start = async || {
        let sequencers = Sequencers::new(running.context());
        Arc::clone(&sequencers).start(&tasks).await
    };
    // The log of these tests lets nobody join, which comes after.
    assert!(matches!(start().await, Err(LogError::Closed)));
    running.log.more_references.store(2, Ordering::SeqCst);
    match start().await {
        Err(LogError::Failed(why)) => {
            assert!(why.contains("1 partitions") && why.contains('3'), "{why}");
        }
        other => panic!("{other:?}"),
    }
    running.stop().await;
}

#[test]
fn an_expired_receipt_refuses_a_message_and_acknowledges_its_retry() {
    let mut world = World::new();
    let expired = ErrorReason::ReceiptExpired as u32;
    let mut says = |id, number, refused_unless_duplicate| {
        let said = Said {
            refused_unless_duplicate,
            ..with_attachments(&[number])
        };
        world.say(world.conversations[0], user(1), message_id(id), said);
        world.settle();
        world.check();
        let offset = world.log.last().unwrap().offset;
        match world.verdicts[&offset][0] {
            Verdict::Rejected(reason) => Err(reason),
            Verdict::Accepted(_) => Ok(accepted(&world, offset).duplicate),
        }
    };
    assert_eq!(says(1, 1, expired), Err(expired));
    assert_eq!(says(2, 2, 0), Ok(false));
    assert_eq!(says(2, 2, expired), Ok(true));
    // With a new receipt, also behind a later one.
    assert_eq!(says(1, 1, 0), Ok(false));
    // A reason that this program does not know is passed on as it is.
    assert_eq!(says(3, 3, 9_999), Err(9_999));
}

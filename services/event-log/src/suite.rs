//! The conformance suite: what every adapter of the log must hold. An adapter says how it is
//! opened, in a [`Fixture`], and has [`conformance!`](crate::conformance) make its tests.
//!
//! A failed check panics, as in any test. Every wait has a deadline.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Appended, EventLog, Membership, NewRecord, PartitionReader, Record, Topic, Urgency};

mod appending;
mod reading;
mod sharing;

pub use appending::*;
pub use reading::*;
pub use sharing::*;

/// Partitions of [`Topic::Messages`] and of [`Topic::Inbox`].
pub const TOPICS: [(Topic, u32); 2] = [(Topic::Messages, 4), (Topic::Inbox, 1)];
/// Groups that may join, each for both topics.
pub const GROUPS: [&str; 2] = ["one", "two"];

/// How long anything may take that is expected to happen.
const DEADLINE: Duration = Duration::from_secs(60);

/// A log to test; each fixture has one of its own.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// Opens the log with [`TOPICS`], [`GROUPS`] and the machine's clock: empty at first, later
    /// with what it had.
    async fn open(&self) -> Arc<dyn EventLog>;

    /// Ends what was opened, so that it can be opened again.
    async fn close(&self, log: Arc<dyn EventLog>);
}

/// Makes a test of each promise: `conformance!(MyFixture::new())`.
#[macro_export]
macro_rules! conformance {
    ($fixture:expr) => {
        $crate::conformance! { $fixture;
            what_was_answered_is_there_after_reopening,
            records_of_a_key_keep_the_order_of_their_appends,
            offsets_grow_and_are_never_used_twice,
            a_log_keeps_its_identity,
            a_record_that_is_too_large_is_refused_and_nothing_else,
            headers_key_and_time_are_carried,
            derived_appends_become_durable_by_themselves,
            a_reader_sees_everything_once_and_in_order,
            a_reader_starts_at_any_position,
            a_position_outside_of_the_log_is_refused,
            a_reader_that_waits_is_woken,
            a_cancelled_next_loses_nothing,
            members_share_the_partitions_and_take_over_without_a_gap,
            a_revoked_reader_gets_no_more_records,
            a_partition_that_is_kept_is_handed_on_when_its_reader_is_dropped,
            a_partition_comes_back_after_it_was_taken_away,
            groups_do_not_disturb_each_other,
        }
    };
    ($fixture:expr; $($promise:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                $crate::suite::$promise(&$fixture).await;
            }
        )*
    };
}

/// Fails the test if it takes longer than anything should.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen in time"),
    }
}

fn record(key: &str, payload: impl Into<String>) -> NewRecord {
    NewRecord {
        key: Bytes::copy_from_slice(key.as_bytes()),
        payload: Bytes::from(payload.into()),
        headers: Vec::new(),
    }
}

/// Appends records to [`Topic::Messages`]; all must succeed.
async fn append(log: &Arc<dyn EventLog>, records: Vec<NewRecord>) -> Vec<Appended> {
    let appending = log.append_all(Topic::Messages, records, Urgency::Now);
    let results = within("the append", appending).await;
    let appended = results.into_iter().collect::<Result<_, _>>();
    appended.expect("the log takes records")
}

/// Of places whose offset is needed: the suite makes no broker forget one.
const KNOWN: &str = "the log says where";

/// Keys `name-0`, `name-1`, ...: enough of them reach every partition.
fn keys(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{name}-{n}")).collect()
}

/// Joins and takes all partitions, each at its first record.
async fn read_alone(
    log: &Arc<dyn EventLog>,
    group: &str,
) -> (Box<dyn Membership>, BTreeMap<u32, Box<dyn PartitionReader>>) {
    let joining = within("joining", log.join(group, Topic::Messages));
    let mut member = joining.await.expect("the group is known");
    let mut readers = BTreeMap::new();
    for _ in 0..log.identity(Topic::Messages).partitions {
        let mut reader = assigned(&mut member).await;
        let (first, _) = range(&mut reader).await;
        reader.seek(first).await.expect("the first offset is there");
        readers.insert(reader.partition(), reader);
    }
    (member, readers)
}

async fn assigned(member: &mut Box<dyn Membership>) -> Box<dyn PartitionReader> {
    let assigned = within("the assignment", member.assigned()).await;
    assigned.expect("the log is open")
}

async fn range(reader: &mut Box<dyn PartitionReader>) -> (u64, u64) {
    let range = within("the range", reader.range()).await;
    range.expect("the log is open")
}

async fn next(reader: &mut Box<dyn PartitionReader>, max: usize) -> Vec<Record> {
    let records = within("the next record", reader.next(max)).await;
    let records = records.expect("the log can be read");
    assert!(!records.is_empty() && records.len() <= max);
    records
}

/// Reads so many records.
async fn take(reader: &mut Box<dyn PartitionReader>, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count {
        records.extend(next(reader, count - records.len()).await);
    }
    records
}

/// Reads until the end that the log has now.
async fn to_end(reader: &mut Box<dyn PartitionReader>) -> Vec<Record> {
    let (first, end) = range(reader).await;
    let mut records = Vec::new();
    let mut position = first;
    while position < end {
        records.extend(next(reader, 7).await);
        position = records.last().map_or(end, |r: &Record| r.offset + 1);
    }
    records
}

/// Everything that the log holds, per partition.
async fn everything(log: &Arc<dyn EventLog>) -> BTreeMap<u32, Vec<Record>> {
    let (_member, readers) = read_alone(log, GROUPS[0]).await;
    let mut all = BTreeMap::new();
    for (partition, mut reader) in readers {
        all.insert(partition, to_end(&mut reader).await);
    }
    all
}

fn text(record: &Record) -> String {
    String::from_utf8_lossy(&record.payload).into_owned()
}

/// Each of these must be in the log once, at its place.
fn assert_holds(log: &BTreeMap<u32, Vec<Record>>, expected: &[(Appended, String)]) {
    for (place, payload) in expected {
        let records = log.get(&place.partition).map_or(&[][..], Vec::as_slice);
        let there: Vec<_> = records.iter().filter(|r| text(r) == *payload).collect();
        assert_eq!(there.len(), 1, "{payload} is there {} times", there.len());
        assert_eq!(
            Some(there[0].offset),
            place.offset,
            "{payload} is elsewhere"
        );
    }
    for records in log.values() {
        assert_grows(records);
    }
}

fn assert_grows(records: &[Record]) {
    let grows = records.is_sorted_by(|a, b| a.offset < b.offset);
    assert!(grows, "offsets do not grow");
}

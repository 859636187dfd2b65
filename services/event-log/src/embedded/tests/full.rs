//! A log at its bound: that it never passes it, and never stays there.

use std::sync::atomic::AtomicUsize;

use rand::RngExt;

use super::*;
use crate::PAYLOAD_BYTES_MAX;

/// Partitions of each topic.
const PARTITIONS: u32 = 2;

/// A log with one reader that derives and one that reads what was derived, as small as may be.
fn smallest(folder: &Path) -> EmbeddedConfig {
    let topics = [(Topic::Messages, PARTITIONS), (Topic::Inbox, PARTITIONS)];
    let groups = [("sequencer", Topic::Messages), ("inbox", Topic::Inbox)];
    let mut config = EmbeddedConfig::new(folder.join("log.db"), &topics, &groups);
    config.bytes_max = config.bytes_max_min();
    config
}

#[tokio::test]
async fn a_bound_at_which_a_log_could_stay_full_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = smallest(folder.path());
    let least = config.bytes_max_min();
    // Far above what it takes that nobody has to think about it, far below what anybody needs.
    assert!((1 << 20..1 << 22).contains(&least), "{least}");
    let smaller = EmbeddedConfig {
        bytes_max: least - 1,
        ..config.clone()
    };
    let refused = EmbeddedLog::open(smaller).err().unwrap();
    let says = refused.to_string();
    assert!(
        matches!(refused, OpenError::BytesMax { bytes_max, least: named }
            if bytes_max == least - 1 && named == least),
        "{refused:?}"
    );
    assert!(says.contains(&least.to_string()), "{says}");
    EmbeddedLog::open(config).unwrap();
}

/// Bytes of the file that hold something, looked up from outside.
fn bytes_in_file(folder: &Path) -> u64 {
    let connection = Connection::open(folder.join("log.db")).unwrap();
    file::used_bytes(&connection).unwrap()
}

/// A record of a size that is often at one of the ends.
fn any_record(bytes_max: usize) -> NewRecord {
    let mut rng = rand::rng();
    let bytes = match rng.random_range(0..20) {
        0 => 0,
        1 => bytes_max,
        2 => rng.random_range(2_000..2_200),
        3 => rng.random_range(4_000..4_200),
        _ => rng.random_range(0..2_000),
    };
    NewRecord {
        key: Bytes::from(rng.random_range(0..100).to_string()),
        payload: Bytes::from(vec![b'x'; bytes]),
        headers: Vec::new(),
    }
}

/// Reads a partition, derives from each batch what must be in the log before the batch is passed,
/// and passes it.
async fn derive(log: Arc<EmbeddedLog>, mut reader: Box<dyn PartitionReader>) {
    while let Ok(records) = reader.next(256).await {
        let derived = records.iter().map(|_| any_record(PAYLOAD_BYTES_MAX / 8));
        let mut derived: Vec<_> = derived.collect();
        // One of the largest that there can be, in every batch.
        derived.push(any_record(PAYLOAD_BYTES_MAX));
        while !derived.is_empty() {
            let appending = log.append_all(Topic::Inbox, derived.clone(), Urgency::Derived);
            let mut results = appending.await.into_iter();
            derived.retain(|_| !matches!(results.next(), Some(Ok(_))));
            if !derived.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        reader.commit(records.last().unwrap().offset + 1);
    }
}

async fn pass(mut reader: Box<dyn PartitionReader>) {
    while let Ok(records) = reader.next(256).await {
        reader.commit(records.last().unwrap().offset + 1);
    }
}

async fn start_readers(log: &Arc<EmbeddedLog>) -> Vec<Box<dyn Membership>> {
    let mut members = Vec::new();
    for (group, topic) in [("sequencer", Topic::Messages), ("inbox", Topic::Inbox)] {
        let mut member = log.join(group, topic).await.unwrap();
        for _ in 0..PARTITIONS {
            let reader = within(member.assigned()).await.unwrap();
            if topic == Topic::Messages {
                tokio::spawn(derive(log.clone(), reader));
            } else {
                tokio::spawn(pass(reader));
            }
        }
        members.push(member);
    }
    members
}

/// With the smallest bound that is allowed, and more under way than it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_any_allowed_bound_never_passes_it_and_empties_by_itself() {
    /// Those who append at the same time, each this much.
    const APPENDERS: usize = 64;
    const EACH: usize = 120;
    let folder = tempfile::tempdir().unwrap();
    let config = smallest(folder.path());
    let bytes_max = config.bytes_max;
    let log = EmbeddedLog::open(config).unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let appending: Vec<_> = (0..APPENDERS)
        .map(|_| {
            let (log, refused) = (log.clone(), refused.clone());
            tokio::spawn(async move {
                for _ in 0..EACH {
                    let record = any_record(PAYLOAD_BYTES_MAX / 32);
                    loop {
                        match append(&log, record.clone()).await {
                            Ok(_) => break,
                            Err(error) => assert_eq!(error, AppendError::Full),
                        }
                        refused.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            })
        })
        .collect();
    // First nobody reads, so that it is as full as it can be.
    until(|| refused.load(Ordering::Relaxed) > 10 * APPENDERS).await;
    assert!(bytes_in_file(folder.path()) <= bytes_max);
    let _members = start_readers(&log).await;
    let mut largest = 0;
    let all = async {
        for appending in appending {
            while !appending.is_finished() {
                largest = largest.max(bytes_in_file(folder.path()));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            appending.await.unwrap();
        }
    };
    within(all).await;
    println!(
        "{largest} of {bytes_max} bytes at most, {} times full",
        refused.load(Ordering::Relaxed)
    );
    assert!(largest <= bytes_max, "{largest} of {bytes_max}");
    until(|| bytes_in_file(folder.path()) < bytes_max / 8).await;
}

/// Whatever made the size look too large for a moment must not make the log full for ever.
#[tokio::test]
async fn a_size_that_was_looked_up_at_a_bad_moment_is_looked_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(smallest(folder.path())).unwrap();
    append(&log, record("a")).await.unwrap();
    log.shared.used_bytes.store(1 << 40, Ordering::Relaxed);
    assert_eq!(append(&log, record("b")).await, Err(AppendError::Full));
    let again = async {
        while append(&log, record("b")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(again).await;
}

/// Rows waste parts of pages, and what is being written is not yet in the file's size: both count.
#[test]
fn a_record_waits_only_if_there_is_room_for_it_and_its_row_beside_all_others() {
    let (queue, used_bytes) = (queue::Queue::new(1, 10), AtomicU64::new(1_000));
    let sized = batch::Sized::new(record("a")).unwrap();
    let push = |bytes_max| {
        let used_bytes = &used_bytes;
        let room = queue::Room {
            bytes_max,
            used_bytes,
        };
        let done = Box::new(|result: Result<_, _>| drop(result));
        queue.push(0, &sized, Urgency::Now, &room, done).is_ok()
    };
    let packed = sized.packed() as u64;
    let alone = 1_000 + file::ROW_BYTES_MAX + packed;
    assert!(!push(alone - 1));
    assert!(push(alone));
    // Another one in the same row.
    assert!(!push(alone + packed - 1));
    assert!(push(alone + packed));
    let queue::Work::Commit(segment) = queue.take(None) else {
        panic!("nothing to write");
    };
    let beside = alone + packed + file::ROW_BYTES_MAX + packed;
    assert!(!push(beside - 1));
    queue.recycle(segment);
    assert!(!push(alone - 1));
    assert!(push(alone));
}

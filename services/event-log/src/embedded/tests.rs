use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
};

use bytes::Bytes;
use runtime::clock::ManualClock;

use super::*;
use crate::{Appended, PartitionReader, Record, suite};

mod deleting;
mod failing;
mod full;
mod kill;
mod reading;

/// What a test does to the writer before a commit.
pub(super) type BeforeCommit = Box<dyn FnOnce(&Connection) + Send>;

mod conformance {
    use async_trait::async_trait;
    use parking_lot::Mutex;

    use super::*;

    /// A log in a folder of its own.
    struct Embedded(tempfile::TempDir, Mutex<Option<Arc<EmbeddedLog>>>);

    impl Embedded {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap(), Mutex::default())
        }
    }

    #[async_trait]
    impl suite::Fixture for Embedded {
        async fn open(&self) -> Arc<dyn EventLog> {
            let log = EmbeddedLog::open(config(self.0.path())).unwrap();
            *self.1.lock() = Some(log.clone());
            log
        }

        async fn close(&self, log: Arc<dyn EventLog>) {
            drop(log);
            let log = self.1.lock().take().unwrap();
            log.close().await;
        }
    }

    crate::conformance!(Embedded::new());
}

/// The suite's topics and groups.
fn config(folder: &Path) -> EmbeddedConfig {
    let groups = suite::GROUPS.map(|g| suite::TOPICS.map(|(topic, _)| (g, topic)));
    EmbeddedConfig::new(folder.join("log.db"), &suite::TOPICS, &groups.concat())
}

/// One partition, one group.
fn small(folder: &Path) -> EmbeddedConfig {
    let path = folder.join("log.db");
    EmbeddedConfig::new(path, &[(Topic::Messages, 1)], &[("one", Topic::Messages)])
}

/// Room without end.
static NOTHING_USED: AtomicU64 = AtomicU64::new(0);
const ANY_ROOM: queue::Room<'_> = queue::Room {
    bytes_max: u64::MAX,
    used_bytes: &NOTHING_USED,
};

fn record(payload: impl Into<Vec<u8>>) -> NewRecord {
    NewRecord {
        key: Bytes::from_static(b"key"),
        payload: Bytes::from(payload.into()),
        headers: Vec::new(),
    }
}

async fn append(log: &EmbeddedLog, record: NewRecord) -> Result<Appended, AppendError> {
    let records = vec![record];
    let appending = log.append_all(Topic::Messages, records, Urgency::Now);
    within(appending).await.remove(0)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    let patience = tokio::time::timeout(Duration::from_secs(60), future);
    patience.await.expect("it happens in time")
}

/// Waits for a level that another thread reaches.
async fn until(reached: impl Fn() -> bool) {
    let reaching = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(reaching).await;
}

async fn join(log: &EmbeddedLog, group: &str) -> (Box<dyn Membership>, Box<dyn PartitionReader>) {
    let mut member = log.join(group, Topic::Messages).await.unwrap();
    let reader = within(member.assigned()).await.unwrap();
    (member, reader)
}

/// Reads from the position on until the end.
async fn rest(reader: &mut Box<dyn PartitionReader>, from: u64) -> Vec<Record> {
    let (_, end) = reader.range().await.unwrap();
    reader.seek(from).await.unwrap();
    let mut records: Vec<Record> = Vec::new();
    while records.last().map_or(from, |r| r.offset + 1) < end {
        records.extend(within(reader.next(100)).await.unwrap());
    }
    records
}

/// Keeps the writer busy until the sender is used or dropped; returns when it is.
fn hold_writer(log: &EmbeddedLog) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (busy, is_busy) = mpsc::channel();
    *log.shared.before_commit.lock() = Some(Box::new(move |_| {
        busy.send(()).unwrap();
        let _ = released.recv();
    }));
    let done = Box::new(|r: Result<_, _>| drop(r));
    log.append(Topic::Messages, record("hold"), Urgency::Now, done);
    is_busy.recv().unwrap();
    release
}

#[tokio::test]
async fn appends_that_wait_share_commits_and_keep_their_order() {
    const APPENDS: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    let release = hold_writer(&log);
    let appending = {
        let log = log.clone();
        let records = (0..APPENDS).map(|n| record(n.to_string())).collect();
        tokio::spawn(async move { log.append_all(Topic::Messages, records, Urgency::Now).await })
    };
    until(|| log.shared.queue.waiting() == APPENDS).await;
    release.send(()).unwrap();
    let results = within(appending).await.unwrap();
    let offsets: Vec<_> = results
        .into_iter()
        .map(|r| r.unwrap().offset.unwrap())
        .collect();
    // The one that held the writer came first.
    assert_eq!(offsets, (1..=APPENDS as u64).collect::<Vec<_>>());
    let commits = 1 + APPENDS.div_ceil(queue::COMMIT_APPENDS_MAX) as u64;
    // Counted a moment after it is answered.
    until(|| log.stats().commits >= commits).await;
    assert_eq!(log.stats().commits, commits);
    let (_member, mut reader) = join(&log, "one").await;
    let there = rest(&mut reader, 1).await;
    assert!((0..APPENDS).eq(there.iter().map(|r| {
        std::str::from_utf8(&r.payload)
            .unwrap()
            .parse::<usize>()
            .unwrap()
    })));
}

#[tokio::test]
async fn nobody_else_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    append(&log, record("a")).await.unwrap();
    for name in ["log.db", "log.db-wal", "log.db-shm"] {
        let mode = fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
}

/// A test cannot cut the power; this is what SQLite's promise to survive it rests on.
#[tokio::test]
async fn every_commit_is_synced() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    let (found, settings) = mpsc::channel();
    *log.shared.before_commit.lock() = Some(Box::new(move |connection| {
        for name in [
            "PRAGMA synchronous",
            "PRAGMA journal_mode",
            "PRAGMA wal_autocheckpoint",
        ] {
            let value = |row: &rusqlite::Row<'_>| row.get::<_, rusqlite::types::Value>(0);
            found
                .send(connection.query_row(name, [], value).unwrap())
                .unwrap();
        }
    }));
    append(&log, record("a")).await.unwrap();
    let settings: Vec<_> = settings.iter().collect();
    let full = rusqlite::types::Value::Integer(2);
    assert_eq!(settings, [full, "wal".to_owned().into(), 0.into()]);
}

#[tokio::test]
async fn records_have_the_time_of_the_clock_that_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(-5);
    let config = EmbeddedConfig {
        clock: Arc::new(clock.clone()),
        ..small(folder.path())
    };
    let log = EmbeddedLog::open(config).unwrap();
    append(&log, record("a")).await.unwrap();
    clock.set(1_000);
    append(&log, record("b")).await.unwrap();
    // Clocks go back; records do not care.
    clock.set(900);
    append(&log, record("c")).await.unwrap();
    let (_member, mut reader) = join(&log, "one").await;
    let times: Vec<_> = rest(&mut reader, 0)
        .await
        .iter()
        .map(|r| r.time_unix_ms)
        .collect();
    assert_eq!(times, [-5, 1_000, 900]);
}

#[tokio::test]
async fn a_file_is_opened_as_it_was_made_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    assert!(matches!(
        EmbeddedLog::open(small(folder.path())),
        Err(OpenError::InUse(_))
    ));
    log.close().await;
    let other = EmbeddedConfig {
        topics: vec![(Topic::Messages, 2)],
        ..small(folder.path())
    };
    assert!(matches!(
        EmbeddedLog::open(other),
        Err(OpenError::PartitionCount {
            has: 1,
            wanted: 2,
            topic: Topic::Messages
        })
    ));
    // Another topic may be added later; the first keeps its place.
    let more = EmbeddedConfig {
        topics: vec![(Topic::Users, 3), (Topic::Messages, 1)],
        ..small(folder.path())
    };
    let log = EmbeddedLog::open(more).unwrap();
    assert_eq!(append(&log, record("a")).await.unwrap().offset, Some(0));
    let keyed = |n: u32| NewRecord {
        key: Bytes::from(n.to_string()),
        ..NewRecord::default()
    };
    let users = (0..50).map(keyed).collect();
    for (n, place) in log
        .append_all(Topic::Users, users, Urgency::Now)
        .await
        .iter()
        .enumerate()
    {
        let partition = log.partition_of(Topic::Users, n.to_string().as_bytes());
        assert_eq!(place.as_ref().unwrap().partition, partition);
    }
    drop(log);
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    assert_eq!(append(&log, record("b")).await.unwrap().offset, Some(1));
}

#[tokio::test]
async fn what_the_log_was_not_told_of_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    let unknown = log.join("stranger", Topic::Messages).await;
    assert!(matches!(unknown.err(), Some(LogError::Failed(_))));
    let unknown = log.join("one", Topic::Inbox).await;
    assert!(matches!(unknown.err(), Some(LogError::Failed(_))));
    let results = log
        .append_all(Topic::Inbox, vec![record("a")], Urgency::Now)
        .await;
    assert!(matches!(results[0], Err(AppendError::Failed(_))));
    assert_eq!(log.identity(Topic::Inbox).partitions, 0);
    log.close().await;
    for (topics, groups) in [
        (vec![(Topic::Messages, 0)], vec![]),
        (vec![(Topic::Messages, 1), (Topic::Messages, 1)], vec![]),
        (
            vec![(Topic::Messages, 1)],
            vec![("one".to_owned(), Topic::Inbox)],
        ),
        (vec![(Topic::Inbox, u32::MAX)], vec![]),
    ] {
        let wrong = EmbeddedConfig {
            topics,
            groups,
            ..small(folder.path())
        };
        assert!(matches!(
            EmbeddedLog::open(wrong),
            Err(OpenError::Config(_))
        ));
    }
}

#[tokio::test]
async fn closing_finishes_what_waits_and_tells_everybody() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    let release = hold_writer(&log);
    let appending = {
        let (log, records) = (log.clone(), vec![record("urgent"), record("derived")]);
        tokio::spawn(async move {
            log.append_all(Topic::Messages, records, Urgency::Derived)
                .await
        })
    };
    until(|| log.shared.queue.waiting() == 2).await;
    let (mut member, mut reader) = join(&log, "one").await;
    let waiting = tokio::spawn(async move {
        let error = member.assigned().await.err();
        (member, error)
    });
    let closing = {
        let log = log.clone();
        tokio::spawn(async move { log.close().await })
    };
    until(|| log.shared.queue.is_closed()).await;
    assert_eq!(append(&log, record("late")).await, Err(AppendError::Closed));
    release.send(()).unwrap();
    assert!(within(appending).await.unwrap().iter().all(Result::is_ok));
    within(closing).await.unwrap();
    let (_member, error) = within(waiting).await.unwrap();
    assert_eq!(error, Some(LogError::Closed));
    assert_eq!(within(reader.next(1)).await.err(), Some(LogError::Closed));
    assert!(log.join("one", Topic::Messages).await.is_err());
    // The WAL was moved into the file, which is whole without it.
    assert!(!folder.path().join("log.db-wal").exists());
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    let (_member, mut reader) = join(&log, "one").await;
    assert_eq!(rest(&mut reader, 0).await.len(), 3);
}

#[tokio::test]
async fn more_appends_than_may_wait_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        queue_max: 10,
        ..small(folder.path())
    };
    let log = EmbeddedLog::open(config).unwrap();
    let release = hold_writer(&log);
    let (done, answers) = mpsc::channel();
    for n in 0..12 {
        let done = done.clone();
        let on_done = Box::new(move |r| done.send((n, r)).unwrap());
        log.append(Topic::Messages, record("a"), Urgency::Now, on_done);
    }
    // While the writer does nothing: whoever appends is not held up.
    assert_eq!(answers.try_recv(), Ok((10, Err(AppendError::Full))));
    assert_eq!(answers.try_recv(), Ok((11, Err(AppendError::Full))));
    assert!(answers.try_recv().is_err());
    release.send(()).unwrap();
    until(|| log.stats().appends == 11).await;
    assert!(append(&log, record("a")).await.is_ok());
    // As many bytes as may wait are a bound, too.
    let release = hold_writer(&log);
    let large = vec![b'x'; crate::PAYLOAD_BYTES_MAX];
    let many = queue::QUEUE_BYTES_MAX / large.len() + 2;
    let queue = queue::Queue::new(1, usize::MAX);
    let sized = batch::Sized::new(record(large)).unwrap();
    let refused = (0..many)
        .filter(|_| {
            let done = Box::new(|r: Result<_, _>| drop(r));
            queue
                .push(0, &sized, Urgency::Now, &ANY_ROOM, done)
                .is_err()
        })
        .count();
    assert!(refused >= 2);
    release.send(()).unwrap();
}

/// Retried, because the machine may stop this thread for longer than a derived append waits.
#[test]
fn a_derived_append_shares_the_commit_of_an_urgent_one() {
    let shared = (0..50).any(|_| {
        let queue = queue::Queue::new(1, 10);
        let sized = batch::Sized::new(record("a")).unwrap();
        let push = |urgency| {
            let done = Box::new(|r: Result<_, _>| drop(r));
            assert!(queue.push(0, &sized, urgency, &ANY_ROOM, done).is_ok());
        };
        push(Urgency::Derived);
        let alone = queue.take(Some(std::time::Instant::now()));
        push(Urgency::Now);
        let both = queue.take(None);
        matches!(alone, queue::Work::Housekeep)
            && matches!(both, queue::Work::Commit(s) if s.waiting.len() == 2)
    });
    assert!(shared);
}

#[tokio::test]
async fn a_callback_that_panics_harms_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    let hook: OnAppended = Box::new(|_| panic!("on purpose"));
    log.append(Topic::Messages, record("a"), Urgency::Now, hook);
    assert_eq!(append(&log, record("b")).await.unwrap().offset, Some(1));
}

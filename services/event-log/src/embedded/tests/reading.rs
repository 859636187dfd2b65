use super::*;

/// Far behind at first, then beside the writer: the file, and memory, and the change between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_behind_catches_up_without_gap_or_repeat() {
    const BEHIND: u64 = 1_000;
    const ALL: u64 = 3_000;
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        tail_bytes_max: 1,
        ..small(folder.path())
    };
    let log = EmbeddedLog::open(config).unwrap();
    let payload = |n: u64| {
        let mut payload = n.to_le_bytes().to_vec();
        payload.resize(2_000, 0);
        payload
    };
    let records = (0..BEHIND).map(|n| record(payload(n))).collect();
    log.append_all(Topic::Messages, records, Urgency::Now).await;
    let appending = {
        let log = log.clone();
        tokio::spawn(async move {
            for n in BEHIND..ALL {
                assert_eq!(
                    append(&log, record(payload(n))).await.unwrap().offset,
                    Some(n)
                );
            }
        })
    };
    let (_member, mut reader) = join(&log, "one").await;
    reader.seek(0).await.unwrap();
    let mut expected = 0;
    while expected < ALL {
        for record in within(reader.next(17)).await.unwrap() {
            assert_eq!(record.offset, expected);
            assert_eq!(record.payload[..8], expected.to_le_bytes());
            expected += 1;
        }
    }
    within(appending).await.unwrap();
}

/// Everything below its position may be gone while it stands still.
#[tokio::test]
async fn a_reader_whose_records_were_deleted_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    for n in 0..5 {
        append(&log, record(n.to_string())).await.unwrap();
    }
    let (_member, mut reader) = join(&log, "one").await;
    reader.commit(4);
    until(|| log.shared.partitions[0].range().0 == 4).await;
    let gone = LogError::OutOfRange {
        offset: 0,
        first: 4,
        end: 5,
    };
    assert_eq!(within(reader.next(1)).await.err(), Some(gone));
}

/// A hung reader loses its partition, and what it says afterwards changes nothing.
#[tokio::test]
async fn a_reader_that_does_not_react_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        revoke_wait: Duration::from_millis(50),
        ..small(folder.path())
    };
    let log = EmbeddedLog::open(config).unwrap();
    let log = &log;
    let (one, mut zombie) = join(log, "one").await;
    let mut two = log.join("one", Topic::Messages).await.unwrap();
    // Leaves the group, while its reader is still there and does not look.
    drop(one);
    let mut reader = within(two.assigned()).await.unwrap();
    append(log, record("a")).await.unwrap();
    zombie.commit(1);
    assert_eq!(log.shared.groups[0].positions[0].load(Ordering::Relaxed), 0);
    assert_eq!(zombie.next(1).await.err(), Some(LogError::Revoked));
    drop(zombie);
    // The successor has not lost anything by that.
    reader.seek(0).await.unwrap();
    reader.commit(0);
    let mut three = log.join("one", Topic::Messages).await.unwrap();
    drop(two);
    assert_eq!(within(reader.next(1)).await.err(), Some(LogError::Revoked));
    assert_eq!(within(three.assigned()).await.unwrap().partition(), 0);
}

type Seen = Arc<parking_lot::Mutex<BTreeMap<u32, Vec<u64>>>>;

/// Reads what it is given and commits it, until it is aborted.
async fn work(log: Arc<EmbeddedLog>, seen: Seen) {
    let mut member = log.join("one", Topic::Messages).await.unwrap();
    let mut readers = tokio::task::JoinSet::new();
    loop {
        let mut reader = member.assigned().await.unwrap();
        let seen = seen.clone();
        readers.spawn(async move {
            while let Ok(records) = reader.next(5).await {
                let offsets = records.iter().map(|r| r.offset);
                seen.lock()
                    .entry(reader.partition())
                    .or_default()
                    .extend(offsets);
                reader.commit(records[records.len() - 1].offset + 1);
            }
        });
    }
}

/// Who does not seek goes on where its group has committed; what was committed is deleted
/// meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_while_records_are_deleted_and_each_is_seen_once() {
    const ROUNDS: usize = 60;
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        groups: vec![("one".to_owned(), Topic::Messages)],
        tail_bytes_max: 1,
        ..config(folder.path())
    };
    let log = EmbeddedLog::open(config).unwrap();
    let (seen, mut members) = (Seen::default(), std::collections::VecDeque::new());
    let mut expected = BTreeMap::<u32, Vec<u64>>::new();
    for round in 0..ROUNDS {
        let records = (0..50).map(|n| NewRecord {
            key: Bytes::from(n.to_string()),
            payload: Bytes::from(vec![b'x'; 3_000]),
            headers: Vec::new(),
        });
        let records = records.collect();
        for result in log.append_all(Topic::Messages, records, Urgency::Now).await {
            let place = result.unwrap();
            expected
                .entry(place.partition)
                .or_default()
                .push(place.offset.unwrap());
        }
        if round % 3 == 2 {
            let oldest: tokio::task::JoinHandle<()> = members.pop_front().unwrap();
            oldest.abort();
        } else if members.len() < 6 {
            members.push_back(tokio::spawn(work(log.clone(), seen.clone())));
        }
        // Everybody tidies at once.
        log.shared.is_full.store(true, Ordering::Relaxed);
    }
    let count = |all: &BTreeMap<u32, Vec<u64>>| all.values().map(Vec::len).sum::<usize>();
    until(|| count(&seen.lock()) >= count(&expected)).await;
    assert_eq!(*seen.lock(), expected);
    until(|| {
        log.shared
            .partitions
            .iter()
            .take(4)
            .all(|p| p.range().0 == p.range().1)
    })
    .await;
}

/// A partition whose reader was dropped is read again only when its member has left.
#[tokio::test]
async fn a_dropped_reader_leaves_its_partition_to_the_next_member() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    let (mut one, reader) = join(&log, "one").await;
    drop(reader);
    let soon = tokio::time::timeout(Duration::from_millis(20), one.assigned()).await;
    assert!(soon.is_err());
    let mut two = log.join("one", Topic::Messages).await.unwrap();
    drop(one);
    assert_eq!(within(two.assigned()).await.unwrap().partition(), 0);
}

#[tokio::test]
async fn dropping_the_log_closes_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    append(&log, record("a")).await.unwrap();
    let (mut member, mut reader) = join(&log, "one").await;
    drop(log);
    assert_eq!(within(reader.next(1)).await.err(), Some(LogError::Closed));
    assert_eq!(
        within(member.assigned()).await.err(),
        Some(LogError::Closed)
    );
    // Also from the writer itself, which cannot wait for itself.
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    let (done, ended) = mpsc::channel();
    let held = log.clone();
    let release = hold_writer(&log);
    let on_done = Box::new(move |_| {
        drop(held);
        done.send(()).unwrap();
    });
    log.append(Topic::Messages, record("b"), Urgency::Now, on_done);
    drop(log);
    release.send(()).unwrap();
    ended.recv_timeout(Duration::from_secs(60)).unwrap();
    let reopened = || EmbeddedLog::open(small(folder.path())).ok();
    until(|| reopened().is_some()).await;
}

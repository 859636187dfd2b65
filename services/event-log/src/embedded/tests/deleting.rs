use super::*;

/// The same partition, with a second group.
fn two_groups(folder: &Path) -> EmbeddedConfig {
    let mut config = small(folder);
    config.groups.push(("two".to_owned(), Topic::Messages));
    config
}

fn first(log: &EmbeddedLog) -> u64 {
    log.shared.partitions[0].range().0
}

#[tokio::test]
async fn what_all_groups_have_passed_is_deleted_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(two_groups(folder.path())).unwrap();
    for n in 0..10 {
        append(&log, record(n.to_string())).await.unwrap();
    }
    let (_one, mut reader) = join(&log, "one").await;
    reader.commit(7);
    // The second group has never read: when the position is in the file, nothing is deleted.
    let stored = || stored_position(folder.path(), "one");
    until(|| stored() == Some(7)).await;
    assert_eq!(first(&log), 0);
    let (_two, mut other) = join(&log, "two").await;
    assert_eq!(rest(&mut other, 0).await.len(), 10);
    other.commit(4);
    until(|| first(&log) == 4).await;
    let gone = LogError::OutOfRange {
        offset: 3,
        first: 4,
        end: 10,
    };
    assert_eq!(reader.seek(3).await, Err(gone));
    assert_eq!(reader.range().await, Ok((4, 10)));
    assert_eq!(rest(&mut reader, 4).await.len(), 6);
    // A position does not go back, and one beyond the end stands for the end.
    other.commit(2);
    other.commit(1_000_000);
    until(|| first(&log) == 7).await;
    drop((reader, other));
    log.close().await;
    let log = EmbeddedLog::open(two_groups(folder.path())).unwrap();
    assert_eq!(first(&log), 7);
    let (_one, mut reader) = join(&log, "one").await;
    // Without a seek, a group goes on where it was.
    assert_eq!(within(reader.next(1)).await.unwrap()[0].offset, 7);
    let (_two, mut other) = join(&log, "two").await;
    append(&log, record("new")).await.unwrap();
    assert_eq!(within(other.next(1)).await.unwrap()[0].offset, 10);
}

fn stored_position(folder: &Path, group: &str) -> Option<i64> {
    let connection = Connection::open(folder.join("log.db")).unwrap();
    let get = "SELECT next_offset FROM positions WHERE group_name = ?";
    connection.query_row(get, [group], |row| row.get(0)).ok()
}

/// The row that holds the position stays, with what was written together.
#[tokio::test]
async fn a_commit_inside_of_a_batch_deletes_none_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    append(&log, record("before")).await.unwrap();
    let release = hold_writer(&log);
    let records = (0..10).map(|n| record(n.to_string())).collect();
    let appending = {
        let log = log.clone();
        tokio::spawn(async move { log.append_all(Topic::Messages, records, Urgency::Now).await })
    };
    until(|| log.shared.queue.waiting() == 10).await;
    release.send(()).unwrap();
    let places = within(appending).await.unwrap();
    let batch = places[0].as_ref().unwrap().offset.unwrap();
    let (_member, mut reader) = join(&log, "one").await;
    reader.commit(batch + 5);
    until(|| first(&log) == batch).await;
    assert_eq!(rest(&mut reader, batch + 5).await.len(), 5);
}

#[tokio::test]
async fn offsets_are_not_used_again_when_everything_was_deleted() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let log = EmbeddedLog::open(small(folder.path())).unwrap();
        for n in 0..5 {
            let place = append(&log, record("a")).await.unwrap();
            assert_eq!(place.offset.unwrap(), round * 5 + n);
        }
        let (_member, reader) = join(&log, "one").await;
        reader.commit(u64::MAX);
        until(|| first(&log) == (round + 1) * 5).await;
        let rows = Connection::open(folder.path().join("log.db")).unwrap();
        let count = "SELECT count(*) FROM batches_0";
        let count: i64 = rows.query_row(count, [], |row| row.get(0)).unwrap();
        assert_eq!(count, 0);
        drop(rows);
        log.close().await;
    }
}

#[tokio::test]
async fn a_log_that_holds_enough_refuses_and_takes_more_when_readers_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        bytes_max: 3_000_000,
        ..two_groups(folder.path())
    };
    let log = EmbeddedLog::open(config).unwrap();
    let mut last = 0;
    for round in 0..3 {
        let full = loop {
            match append(&log, record(vec![b'x'; 100_000])).await {
                Ok(place) => last = place.offset.unwrap(),
                Err(error) => break error,
            }
        };
        assert_eq!(full, AppendError::Full, "round {round}");
        let used = log.stats().used_bytes;
        assert!(used < 3_200_000, "{used}");
        let (_one, one) = join(&log, "one").await;
        let (_two, two) = join(&log, "two").await;
        one.commit(last + 1);
        // One group alone makes no room.
        until(|| !log.shared.positions_dirty.load(Ordering::Acquire)).await;
        assert_eq!(
            append(&log, record(vec![b'x'; 200_000])).await,
            Err(AppendError::Full)
        );
        two.commit(last + 1);
        until(|| first(&log) > last).await;
        until(|| log.stats().used_bytes < 1_000_000).await;
    }
    // The room of what was deleted was used again.
    let length = std::fs::metadata(folder.path().join("log.db"))
        .unwrap()
        .len();
    assert!(length < 4_000_000, "{length}");
    assert!(last > 60, "{last}");
}

/// Readers must append what they derive before they may pass what fills the log.
#[tokio::test]
async fn a_log_full_of_messages_has_room_for_what_is_derived_from_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = EmbeddedConfig {
        bytes_max: 3_000_000,
        ..two_groups(folder.path())
    };
    config.topics.push((Topic::Inbox, 1));
    let log = EmbeddedLog::open(config).unwrap();
    while append(&log, record(vec![b'x'; 20_000])).await.is_ok() {}
    let derived = vec![record(vec![b'x'; 20_000])];
    let result = log
        .append_all(Topic::Inbox, derived, Urgency::Derived)
        .await;
    assert!(matches!(result[..], [Ok(_)]), "{result:?}");
}

/// More than one step's worth, while appends go on.
#[tokio::test]
async fn deleting_much_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    for _ in 0..10 {
        let records = (0..20).map(|_| record(vec![b'x'; 50_000])).collect();
        for result in log.append_all(Topic::Messages, records, Urgency::Now).await {
            result.unwrap();
        }
    }
    let (_member, mut reader) = join(&log, "one").await;
    reader.commit(200);
    let mut next = 200;
    while first(&log) < 200 {
        assert_eq!(
            append(&log, record("a")).await.unwrap().offset.unwrap(),
            next
        );
        next += 1;
    }
    let left = rest(&mut reader, 200).await;
    let offsets: Vec<_> = left.iter().map(|r| r.offset).collect();
    assert_eq!(offsets, (200..next).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_wal_stays_within_its_bound() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    let bound = u64::try_from(checkpoint::WAL_BYTES_MAX).unwrap() + 8 * 1024 * 1024;
    let wal = folder.path().join("log.db-wal");
    let mut longest = 0;
    for _ in 0..50 {
        let records = (0..10).map(|_| record(vec![b'x'; 200_000])).collect();
        for result in log.append_all(Topic::Messages, records, Urgency::Now).await {
            result.unwrap();
        }
        longest = longest.max(std::fs::metadata(&wal).unwrap().len());
    }
    assert!(longest < bound, "{longest}");
    log.close().await;
    assert!(
        std::fs::metadata(folder.path().join("log.db"))
            .unwrap()
            .len()
            > 100_000_000
    );
}

use super::*;

/// Lets the file have so many pages more than now, from the next commit on.
fn allow_pages(log: &EmbeddedLog, more: i64) {
    *log.shared.before_commit.lock() = Some(Box::new(move |connection| {
        let pages: i64 = connection
            .query_row("PRAGMA page_count", [], |row| row.get(0))
            .unwrap();
        let set = format!("PRAGMA max_page_count = {}", pages + more);
        connection.query_row(&set, [], |_| Ok(())).unwrap();
    }));
}

/// Records for all partitions, together too large for a few pages.
fn many(payload: &str) -> Vec<NewRecord> {
    let record = |n: usize| NewRecord {
        key: Bytes::from(n.to_string()),
        payload: Bytes::from(payload.repeat(500)),
        headers: Vec::new(),
    };
    (0..100).map(record).collect()
}

#[tokio::test]
async fn a_full_disk_fails_appends_whole_and_the_log_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(config(folder.path())).unwrap();
    let mut expected = BTreeMap::<u32, Vec<(u64, u8)>>::new();
    for round in 0..3 {
        for result in log
            .append_all(Topic::Messages, many("good"), Urgency::Now)
            .await
        {
            let place = result.unwrap();
            expected
                .entry(place.partition)
                .or_default()
                .push((place.offset.unwrap(), b'g'));
        }
        // All in one commit, so that some partitions of it have been written when there is no room.
        let release = hold_writer(&log);
        let appending = {
            let log = log.clone();
            let records = many("bad!");
            tokio::spawn(
                async move { log.append_all(Topic::Messages, records, Urgency::Now).await },
            )
        };
        until(|| log.shared.queue.waiting() == 100).await;
        allow_pages(&log, 4);
        release.send(()).unwrap();
        for result in within(appending).await.unwrap() {
            assert!(matches!(result, Err(AppendError::Failed(_))), "{result:?}");
        }
        let held = log.partition_of(Topic::Messages, b"key");
        let hold = expected.get(&held).map_or(0, |e| e.last().unwrap().0 + 1);
        expected.entry(held).or_default().push((hold, b'h'));
        allow_pages(&log, 10_000 * (round + 1));
    }
    let mut reopened = log;
    for _ in 0..2 {
        let mut member = reopened.join("one", Topic::Messages).await.unwrap();
        for _ in 0..4 {
            let mut reader = within(member.assigned()).await.unwrap();
            let there: Vec<_> = rest(&mut reader, 0)
                .await
                .iter()
                .map(|r| (r.offset, r.payload[0]))
                .collect();
            assert_eq!(there, expected[&reader.partition()]);
        }
        reopened.close().await;
        reopened = EmbeddedLog::open(config(folder.path())).unwrap();
    }
}

#[tokio::test]
async fn readers_that_go_on_make_room_on_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(small(folder.path())).unwrap();
    allow_pages(&log, 200);
    let (_member, reader) = join(&log, "one").await;
    let mut next = 0;
    for _ in 0..3 {
        let error = loop {
            match append(&log, record(vec![b'x'; 50_000])).await {
                Ok(place) => {
                    assert_eq!(place.offset.unwrap(), next);
                    next += 1;
                }
                Err(error) => break error,
            }
        };
        assert!(matches!(error, AppendError::Failed(_)), "{error:?}");
        reader.commit(next);
        until(|| log.shared.partitions[0].range().0 == next).await;
    }
    assert!(next > 30);
}

/// Not everything that stops a commit also takes it back, as a full disk does.
#[tokio::test]
async fn a_commit_that_fails_in_the_middle_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(config(folder.path())).unwrap();
    let release = hold_writer(&log);
    let appending = {
        let (log, records) = (log.clone(), many("bad!"));
        tokio::spawn(async move { log.append_all(Topic::Messages, records, Urgency::Now).await })
    };
    until(|| log.shared.queue.waiting() == 100).await;
    let run = |sql: &'static str| {
        *log.shared.before_commit.lock() = Some(Box::new(move |connection| {
            connection.execute_batch(sql).unwrap();
        }));
    };
    // Somebody has put a row where the next batch of a partition belongs.
    let used = log.partition_of(Topic::Messages, b"key");
    assert_ne!(used, 2);
    run("INSERT INTO batches_2 VALUES (0, x'00')");
    release.send(()).unwrap();
    for result in within(appending).await.unwrap() {
        assert!(matches!(result, Err(AppendError::Failed(_))), "{result:?}");
    }
    run("DELETE FROM batches_2");
    let mut next = BTreeMap::from([(used, 1)]);
    for result in log
        .append_all(Topic::Messages, many("good"), Urgency::Now)
        .await
    {
        let place = result.unwrap();
        let expected = next.entry(place.partition).or_default();
        assert_eq!(place.offset.unwrap(), *expected);
        *expected += 1;
    }
    assert_eq!(next.values().sum::<u64>(), 101);
}

/// A client that pipelines must not find its second message where its first one failed.
#[tokio::test]
async fn what_waits_behind_a_failed_append_fails_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(config(folder.path())).unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (busy, is_busy) = mpsc::channel();
    *log.shared.before_commit.lock() = Some(Box::new(move |connection| {
        busy.send(()).unwrap();
        let _ = released.recv();
        connection.execute_batch("PRAGMA query_only = 1").unwrap();
    }));
    let (results, result) = mpsc::channel();
    let append = |name: &'static str| {
        let results = results.clone();
        let done = Box::new(move |r: Result<_, _>| results.send((name, r)).unwrap());
        log.append(Topic::Messages, record(name), Urgency::Now, done);
    };
    append("first");
    is_busy.recv().unwrap();
    append("second");
    release.send(()).unwrap();
    for name in ["first", "second"] {
        let (who, result) = result.recv().unwrap();
        assert!(
            who == name && matches!(result, Err(AppendError::Failed(_))),
            "{who}: {result:?}"
        );
    }
    *log.shared.before_commit.lock() = Some(Box::new(|connection| {
        connection.execute_batch("PRAGMA query_only = 0").unwrap();
    }));
    append("third");
    assert_eq!(result.recv().unwrap().1.unwrap().offset.unwrap(), 0);
}

/// Changes the file behind the log's back, while it is closed.
fn damage(folder: &Path, sql: &str) {
    let connection = Connection::open(folder.join("log.db")).unwrap();
    assert!(connection.execute(sql, []).unwrap() > 0);
}

async fn ten_records(folder: &Path) {
    let log = EmbeddedLog::open(small(folder)).unwrap();
    for n in 0..10 {
        append(&log, record(n.to_string())).await.unwrap();
    }
    log.close().await;
}

#[tokio::test]
async fn a_damaged_row_stops_its_readers_there_and_nothing_else() {
    for sql in [
        "UPDATE batches_0 SET batch = zeroblob(length(batch)) WHERE base = 5",
        "UPDATE batches_0 SET batch = substr(batch, 1, 40) WHERE base = 5",
        "UPDATE batches_0 SET batch = x'' WHERE base = 5",
        "UPDATE batches_0 SET batch = (SELECT batch FROM batches_0 WHERE base = 4) WHERE base = 5",
        "DELETE FROM batches_0 WHERE base = 5",
    ] {
        let folder = tempfile::tempdir().unwrap();
        ten_records(folder.path()).await;
        damage(folder.path(), sql);
        let log = EmbeddedLog::open(small(folder.path())).unwrap();
        assert_eq!(
            append(&log, record("10")).await.unwrap().offset.unwrap(),
            10
        );
        let (_member, mut reader) = join(&log, "one").await;
        let mut seen = Vec::new();
        let error = loop {
            match within(reader.next(100)).await {
                Ok(records) => seen.extend(records.iter().map(|r| r.offset)),
                Err(error) => break error,
            }
        };
        assert_eq!(seen, [0, 1, 2, 3, 4], "{sql}");
        // It says where, and says so again.
        for error in [error, within(reader.next(1)).await.unwrap_err()] {
            let LogError::Failed(text) = error else {
                panic!("{error:?}");
            };
            assert!(text.contains("offset 5"), "{text}");
        }
        // Somebody who has looked into it can go on behind it.
        let behind: Vec<_> = rest(&mut reader, 6)
            .await
            .iter()
            .map(|r| r.offset)
            .collect();
        assert_eq!(behind, [6, 7, 8, 9, 10], "{sql}");
    }
}

/// Nobody can say how many records it had: none of their offsets may be used again.
#[tokio::test]
async fn a_damaged_last_row_keeps_its_offsets() {
    let folder = tempfile::tempdir().unwrap();
    ten_records(folder.path()).await;
    damage(
        folder.path(),
        "UPDATE batches_0 SET batch = x'00' WHERE base = 9",
    );
    for _ in 0..2 {
        let log = EmbeddedLog::open(small(folder.path())).unwrap();
        let place = append(&log, record("new")).await.unwrap();
        assert!(place.offset.unwrap() >= 9 + queue::COMMIT_APPENDS_MAX as u64);
        let (_member, mut reader) = join(&log, "one").await;
        reader.seek(9).await.unwrap();
        let stopped = within(reader.next(1)).await;
        assert!(matches!(stopped, Err(LogError::Failed(_))), "{stopped:?}");
        reader.seek(place.offset.unwrap()).await.unwrap();
        assert_eq!(within(reader.next(1)).await.unwrap()[0].payload, "new");
        log.close().await;
    }
}

#[tokio::test]
async fn a_file_that_is_no_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("log.db"), vec![b'x'; 10_000]).unwrap();
    assert!(EmbeddedLog::open(small(folder.path())).is_err());
    let nowhere = small(&folder.path().join("nowhere"));
    assert!(matches!(EmbeddedLog::open(nowhere), Err(OpenError::Io(_))));
}

use std::time::Duration;

use super::*;

fn migrations() -> Migrations<'static> {
    Migrations::new(vec![M::up(
        "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT NOT NULL)",
    )])
}

async fn count(database: &Database) -> i64 {
    let read = |c: &Connection| Ok(c.query_row("SELECT count(*) FROM t", [], |r| r.get(0))?);
    database.read::<_, SqliteError, _>(read).await.unwrap()
}

#[tokio::test]
async fn a_write_that_fails_takes_back_its_own_changes_only() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(&folder.path().join("t.db"), &migrations()).unwrap();
    let put = |k: i64, fail: bool| {
        database.write::<_, SqliteError, _>(move |tx| {
            tx.execute("INSERT INTO t VALUES (?, 'a')", [k])?;
            if fail { Err(SqliteError::Busy) } else { Ok(()) }
        })
    };
    let (one, two, three) = tokio::join!(put(1, false), put(2, true), put(3, false));
    assert!(one.is_ok() && three.is_ok());
    assert!(matches!(two, Err(SqliteError::Busy)));
    assert_eq!(count(&database).await, 2);
    database.sync().await.unwrap();
    drop(database);
    let database = Database::open(&folder.path().join("t.db"), &migrations()).unwrap();
    assert_eq!(count(&database).await, 2);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.db");
    let newer = Migrations::new(vec![
        M::up("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT NOT NULL)"),
        M::up("ALTER TABLE t ADD COLUMN w TEXT"),
    ]);
    drop(Database::open(&path, &newer).unwrap());
    assert!(matches!(
        Database::open(&path, &migrations()),
        Err(SqliteError::Migration { .. })
    ));
}

/// Writes that share a transaction: the first holds the writer until all of them wait.
async fn write_together(database: &Database, fails: [bool; 4]) -> Vec<bool> {
    let (go, gate) = mpsc::channel::<()>();
    let mut gate = Some(gate);
    let mut writes = Vec::new();
    for (k, fail) in (0_i64..).zip(fails) {
        let gate = gate.take();
        let database = database.clone();
        writes.push(Box::pin(async move {
            let work = move |tx: &Connection| {
                tx.execute("INSERT INTO t VALUES (?, 'a')", [k])?;
                if let Some(gate) = gate {
                    let _ = gate.recv();
                }
                if fail { Err(SqliteError::Busy) } else { Ok(()) }
            };
            database.write(work).await.is_ok()
        }));
    }
    // Polled once, so that each is queued.
    for write in &mut writes {
        assert!(futures_util::poll!(write).is_pending());
    }
    drop(go);
    futures_util::future::join_all(writes).await
}

#[tokio::test]
async fn every_place_in_a_shared_transaction_can_fail_alone() {
    for fails in 0..16_u8 {
        let fails = [0, 1, 2, 3].map(|bit| fails & (1 << bit) != 0);
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("t.db"), &migrations()).unwrap();
        let succeeded = write_together(&database, fails).await;
        assert_eq!(succeeded, fails.map(|fail| !fail));
        let keys: Vec<i64> = database
            .read::<_, SqliteError, _>(|c| {
                let mut select = c.prepare("SELECT k FROM t ORDER BY k")?;
                let keys = select.query_map([], |row| row.get(0))?;
                Ok(keys.collect::<Result<_, _>>()?)
            })
            .await
            .unwrap();
        let expected = (0_i64..).zip(fails).filter(|(_, fail)| !fail);
        assert!(keys.into_iter().eq(expected.map(|(k, _)| k)), "{fails:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_write_ahead_log_stays_bounded_while_somebody_always_reads() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(&folder.path().join("t.db"), &migrations()).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    // Each of two readers ends only after the other has begun: there is always one.
    let (began, mut begins) = tokio::sync::mpsc::channel::<mpsc::Sender<()>>(1);
    let relay = tokio::spawn(async move {
        let mut reading = None;
        while let Some(begun) = begins.recv().await {
            drop(reading.replace(begun));
        }
    });
    let mut readers = Vec::new();
    for _ in 0..2 {
        let (database, done, began) = (database.clone(), done.clone(), began.clone());
        readers.push(tokio::spawn(async move {
            while !done.load(Ordering::SeqCst) {
                let (began, done) = (began.clone(), done.clone());
                let read = database.read::<_, SqliteError, _>(move |c| {
                    c.query_row("SELECT max(k) FROM t", [], |_| Ok(()))?;
                    let (end, ended) = mpsc::channel();
                    began.blocking_send(end).map_err(|_| SqliteError::Closed)?;
                    while !done.load(Ordering::SeqCst)
                        && ended.recv_timeout(Duration::from_millis(10))
                            == Err(mpsc::RecvTimeoutError::Timeout)
                    {}
                    Ok(())
                });
                read.await.unwrap();
            }
        }));
    }
    drop(began);
    let mut longest = 0;
    for first in (0_i64..5_000).step_by(100) {
        let write = database.write::<_, SqliteError, _>(move |tx| {
            let value = "x".repeat(50_000);
            for k in first..first + 100 {
                tx.execute("INSERT INTO t VALUES (?, ?)", (k, &value))?;
            }
            Ok(())
        });
        write.await.unwrap();
        let wal = std::fs::metadata(folder.path().join("t.db-wal")).unwrap();
        longest = longest.max(wal.len());
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
    relay.await.unwrap();
    // One write more than the limit, which is seen after it.
    assert!(longest < WAL_BYTES_MAX + 10_000_000, "{longest}");
}

use super::*;
use crate::store::suite;

async fn open(folder: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(&folder.path().join("blob.db"))
        .await
        .unwrap()
}

#[tokio::test]
async fn it_keeps_what_every_store_promises() {
    suite::run(async || {
        let folder = tempfile::tempdir().unwrap();
        (open(&folder).await, folder)
    })
    .await;
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let (blob, going) = (suite::made(&store).await, suite::made(&store).await);
    let sent = suite::event(suite::conversation(), 1, &[&blob]);
    suite::apply(&store, vec![sent]).await;
    let before = suite::kept_before(suite::NOW);
    assert_eq!(store.take_removable(before, 9).await.unwrap(), [going.id]);
    drop(store);
    let store = open(&folder).await;
    assert_eq!(store.take_removable(before, 9).await.unwrap(), [going.id]);
    assert!(suite::is_there(&store, blob.id).await);
}

#[tokio::test]
async fn no_statement_reads_a_whole_table_or_sorts() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let own = [
        UPLOAD,
        UNFINISHED,
        BLOB,
        TWIN,
        KEEP,
        OLD_UPLOADS,
        END_UPLOAD,
        LEFTOVERS,
        FORGET_LEFTOVER,
        IS_THERE,
        PICTURE,
        TO_CHECK,
        BARRIER,
        CANDIDATES,
        IS_REFERENCED,
        CHECKED,
        GOING,
        FORGET_REFERENCES,
        FORGET_BLOB,
    ];
    for statement in own.iter().chain(positions::sqlite::SEARCHES).copied() {
        let plan = store.database.read::<_, StoreError, _>(move |c| {
            let mut plan = c.prepare(&format!("EXPLAIN QUERY PLAN {}", rows::sql(statement)))?;
            let count = plan.parameter_count();
            let nulls = rusqlite::params_from_iter(vec![0; count]);
            let rows = plan.query_map(nulls, |row| row.get::<_, String>(3))?;
            let rows: Result<Vec<String>, _> = rows.collect();
            Ok(rows?.join("; "))
        });
        let plan = plan.await.unwrap();
        assert!(!plan.contains("TEMP B-TREE"), "{statement}: {plan}");
        // What goes is an index of its own, and bounded by its limit.
        let bounded = [
            "SCAN CONSTANT ROW",
            "SCAN blobs USING COVERING INDEX blobs_going",
            "SCAN (subquery",
        ];
        let bounded: usize = bounded.iter().map(|scan| plan.matches(scan).count()).sum();
        assert_eq!(plan.matches("SCAN").count(), bounded, "{statement}: {plan}");
    }
}

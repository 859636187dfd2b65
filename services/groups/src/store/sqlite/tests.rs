use super::*;
use crate::store::suite;

async fn open(folder: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(&folder.path().join("groups.db"))
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
    let secret = store.secret();
    let made = suite::made(&store, 3).await;
    drop(store);
    let store = open(&folder).await;
    assert_eq!(store.secret(), secret);
    let (group, role) = store.group(made.group, made.owner).await.unwrap().unwrap();
    assert_eq!((group.member_count, role), (3, Role::Owner));
    assert_eq!(store.outstanding(made.group).await.unwrap().len(), 1);
}

#[tokio::test]
async fn no_statement_reads_a_whole_table_or_sorts_what_it_pages() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    for statement in [
        STINTS,
        SEQ,
        GROUP,
        GROUPS,
        MEMBERS,
        INVITATIONS,
        JOIN_REQUESTS,
        SNIPPET,
        OUTSTANDING,
        DUE,
        OLD_REQUESTS,
        FORGET_STINTS,
        FORGET_GROUP,
    ] {
        let plan = store.database.read::<_, StoreError, _>(move |c| {
            let mut plan = c.prepare(&format!("EXPLAIN QUERY PLAN {}", sql(statement)))?;
            let count = plan.parameter_count();
            let nulls = rusqlite::params_from_iter(vec![0; count]);
            let rows = plan.query_map(nulls, |row| row.get::<_, String>(3))?;
            let rows: Result<Vec<String>, _> = rows.collect();
            Ok(rows?.join("; "))
        });
        let plan = plan.await.unwrap();
        assert!(!plan.contains("TEMP B-TREE"), "{statement}: {plan}");
        // A scan in the order of an index is bounded by its limit.
        let scans = plan.matches("SCAN").count() - plan.matches("SCAN requests USING").count();
        assert_eq!(scans, 0, "{statement}: {plan}");
    }
}

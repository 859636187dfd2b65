use super::*;
use crate::store::suite;

#[tokio::test]
async fn it_keeps_what_every_store_promises() {
    suite::run(async || {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("profile.db")).unwrap();
        (store, folder)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_search_reads_the_index_and_sorts_only_what_few_share() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("profile.db")).unwrap();
    let plan = |sql: &'static str| {
        store.database.read::<_, StoreError, _>(move |c| {
            let mut plan = c.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let rows = plan.query_map([], |row| row.get::<_, String>(3))?;
            let rows: Result<Vec<String>, _> = rows.collect();
            Ok(rows?.join("; "))
        })
    };
    let short = plan(
        "SELECT user_id FROM search_terms WHERE whole = 0 AND term = x'61' AND username > 'b'
         ORDER BY username LIMIT 20",
    );
    let short = short.await.unwrap();
    assert!(
        short.contains("(whole=? AND term=? AND username>?)"),
        "{short}"
    );
    assert!(!short.contains("TEMP B-TREE"), "{short}");
    let long = plan(
        "SELECT DISTINCT user_id FROM search_terms
         WHERE whole = 1 AND term >= x'61626364' AND term < x'61626364ff' AND username > 'b'
         ORDER BY username LIMIT 20",
    );
    let long = long.await.unwrap();
    assert!(long.contains("(whole=? AND term>? AND term<?)"), "{long}");
}

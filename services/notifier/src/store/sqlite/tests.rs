use super::*;
use crate::store::suite;

async fn open(folder: &tempfile::TempDir) -> SqliteStore {
    let path = folder.path().join("notifier.db");
    SqliteStore::open(&path).await.unwrap()
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
async fn what_was_told_and_put_off_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let subject = suite::subject();
    let device = DeviceId::generate();
    let of = DeviceSubject { subject, device };
    let told = Told {
        seq: 3,
        read_seq: 1,
    };
    let held = Held {
        subject,
        seq: 4,
        due_unix_ms: suite::NOW,
        payload: b"record".as_slice().into(),
    };
    let settled = Settled {
        told: vec![(of, told)],
        held: vec![held.clone()],
        ..Settled::default()
    };
    store.settle(settled, suite::NOW).await.unwrap();
    let target = suite::fcm(subject.user, device, "token");
    store.put_target(target.clone(), suite::NOW).await.unwrap();
    drop(store);
    let store = open(&folder).await;
    assert_eq!(store.told(vec![of]).await.unwrap(), [told]);
    let due = store.claim_held(suite::NOW, suite::NOW + 1, 9).await;
    assert_eq!(due.unwrap(), [held]);
    let targets = store.targets(ProviderKind::Fcm, vec![subject.user]).await;
    assert_eq!(targets.unwrap(), [target]);
}

#[tokio::test]
async fn no_statement_reads_a_whole_table_or_sorts() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    for statement in SEARCHES.iter().chain(positions::sqlite::SEARCHES) {
        let plan = store.database.read::<_, StoreError, _>(move |c| {
            let mut explain = c.prepare(&format!("EXPLAIN QUERY PLAN {statement}"))?;
            let count = explain.parameter_count();
            let none = rusqlite::params_from_iter(vec![rusqlite::types::Null; count]);
            let rows = explain.query_map(none, |row| row.get::<_, String>(3))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        });
        let plan = plan.await.unwrap();
        let is_bad = |line: &String| line.starts_with("SCAN") || line.contains("TEMP B-TREE");
        assert!(!plan.iter().any(is_bad), "{statement}: {plan:?}");
    }
}

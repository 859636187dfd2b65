use proptest::prelude::*;
use runtime::ids::ConversationId;

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
    let all = SEARCHES.iter().chain(mail::SEARCHES);
    for statement in all.chain(positions::sqlite::SEARCHES) {
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

#[tokio::test]
async fn a_file_that_is_no_store_of_ours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder).await);
    let path = folder.path().join("notifier.db");
    let c = Connection::open(&path).unwrap();
    c.pragma_update(None, "user_version", 99).unwrap();
    drop(c);
    let newer = SqliteStore::open(&path).await;
    assert!(matches!(newer.err(), Some(StoreError::Corrupt(_))));
    std::fs::write(&path, [7; 8_192]).unwrap();
    let damaged = SqliteStore::open(&path).await;
    assert!(matches!(damaged.err(), Some(StoreError::Corrupt(_))));
    let nowhere = SqliteStore::open(&path.join("notifier.db")).await;
    assert!(matches!(nowhere.err(), Some(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_store_of_before_there_was_mail_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notifier.db");
    let c = Connection::open(&path).unwrap();
    c.execute_batch(include_str!("../../../migrations/sqlite/0001_initial.sql"))
        .unwrap();
    c.pragma_update(None, "user_version", 1).unwrap();
    let user = UserId::generate();
    let before = "INSERT INTO preferences VALUES (?1, 0, 2, 1, 0, 1, 2, 'UTC', 3)";
    c.execute(before, [user.as_bytes()]).unwrap();
    drop(c);
    let store = open(&folder).await;
    let kept = store.preferences(vec![user]).await.unwrap().remove(0);
    let default = Preferences::default();
    assert_eq!((kept.push, kept.version), (false, 3));
    assert_eq!(
        (kept.digest, kept.digest_hour),
        (default.digest, default.digest_hour)
    );
}

/// What is done with one of two conversations of one of two devices.
#[derive(Debug, Clone)]
enum Step {
    Settle(Vec<(usize, Told)>),
    Forget,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let told = (0..20_u64, 0..20_u64).prop_map(|(seq, read_seq)| Told { seq, read_seq });
    let settle = prop::collection::vec((0..4_usize, told), 1..6).prop_map(Step::Settle);
    prop_oneof![9 => settle, 1 => Just(Step::Forget), 1 => Just(Step::Reopen)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whoever settles, in whatever order, as replicas and repetitions do.
    #[test]
    fn what_was_told_never_goes_back(steps in prop::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mut store = open(&folder).await;
            let users = [(); 2].map(|()| UserId::generate());
            let conversation = ConversationId::direct(users[0], users[1]).unwrap();
            let devices = [(); 2].map(|()| DeviceId::generate());
            let of = |user, device| DeviceSubject {
                subject: Subject { user, conversation },
                device,
            };
            let all: Vec<_> = users
                .iter()
                .flat_map(|user| devices.iter().map(|device| of(*user, *device)))
                .collect();
            let mut model = vec![Told::default(); all.len()];
            for (step, now) in steps.into_iter().zip(suite::NOW..) {
                match step {
                    Step::Settle(told) => {
                        for (at, told) in &told {
                            model[*at].seq = model[*at].seq.max(told.seq);
                            model[*at].read_seq = model[*at].read_seq.max(told.read_seq);
                        }
                        let told = told.into_iter().map(|(at, told)| (all[at], told));
                        let settled = Settled { told: told.collect(), ..Settled::default() };
                        store.settle(settled, now).await.unwrap();
                    }
                    // Nothing is as old.
                    Step::Forget => {
                        assert_eq!(store.forget_told(suite::NOW, 9).await.unwrap(), 0);
                    }
                    Step::Reopen => {
                        drop(store);
                        store = open(&folder).await;
                    }
                }
                assert_eq!(store.told(all.clone()).await.unwrap(), model);
            }
        });
    }
}

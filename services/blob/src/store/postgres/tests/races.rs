//! What several processes do at the same moment.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use runtime::ids::UserId;

use super::*;
use crate::store::suite::{NOW, blob_of, conversation, event, kept_before, removed, upload};

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_kept_or_referred_to_while_others_remove_is_there_or_nobody_was_told_it_is()
{
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    for round in 0..12 {
        let mut blobs = Vec::new();
        for _ in 0..8 {
            blobs.push(suite::made(&stores[0]).await);
        }
        let takes = stores.iter().cycle().take(6);
        let takes = join_all(takes.map(|store| store.take_removable(kept_before(NOW), 3)));
        let keeps = blobs.iter().zip(stores.iter().cycle());
        let keeps = join_all(keeps.map(|(blob, store)| store.keep(blob.id, NOW + 5)));
        let refer = blobs.iter().zip(stores.iter().cycle().skip(1));
        let refer = join_all(refer.map(|(blob, store)| async move {
            let here = conversation();
            let missing = suite::apply(store, vec![event(here, 1, &[blob])]).await;
            (here, missing.is_empty())
        }));
        let (taken, kept, referred) = match round % 3 {
            0 => {
                let (taken, kept) = tokio::join!(takes, keeps);
                (taken, kept, Vec::new())
            }
            1 => {
                let (taken, referred) = tokio::join!(takes, refer);
                (taken, Vec::new(), referred)
            }
            _ => tokio::join!(takes, keeps, refer),
        };
        let taken: BTreeSet<BlobId> = taken.into_iter().flat_map(Result::unwrap).collect();
        for (at, blob) in blobs.iter().enumerate() {
            let is_gone = taken.contains(&blob.id);
            if let Some(kept) = kept.get(at) {
                assert!(kept.as_ref().unwrap().is_none() || !is_gone);
            }
            if let Some((here, is_there)) = referred.get(at) {
                assert!(!is_there || !is_gone);
                suite::apply(&stores[2], vec![removed(event(*here, 1, &[blob]))]).await;
            }
        }
        // Whatever was skipped is looked at again.
        let rest = stores[0].take_removable(kept_before(NOW + 5), 100).await;
        let rest: BTreeSet<BlobId> = rest.unwrap().into_iter().collect();
        assert!(blobs.iter().all(|blob| rest.contains(&blob.id)));
        for blob in rest {
            stores[0].forget_blob(blob).await.unwrap();
        }
    }
}

/// The same, step by step: a transaction that is open while another one comes.
#[tokio::test(flavor = "multi_thread")]
async fn who_refers_to_a_blob_and_who_removes_it_see_each_other_however_long_they_take() {
    let server = server();
    let [store] = replicas(&server).await;
    let before = kept_before(NOW);
    let mut c = PgConnection::connect(&server.url("blob")).await.unwrap();

    // Somebody refers to it and has not committed.
    let blob = suite::made(&store).await;
    let mut referring = c.begin().await.unwrap();
    let advance = PositionAdvance {
        reader: suite::READER,
        from: 0,
        to: 0,
    };
    let sent = vec![event(conversation(), 1, &[&blob])];
    let batch = Batch::of(sent, Vec::new());
    let missing = apply::apply(&mut referring, &batch, &advance).await;
    assert!(missing.is_ok_and(|missing| missing.is_empty()));
    let taking = store.clone();
    let taking = tokio::spawn(async move { taking.take_removable(before, 9).await });
    waits_or_ends(&server, &taking).await;
    referring.commit().await.unwrap();
    assert_eq!(taking.await.unwrap().unwrap(), []);
    assert_eq!(store.take_removable(before, 9).await.unwrap(), []);

    // Somebody takes it and has not committed.
    let blob = suite::made(&store).await;
    let mut removing = c.begin().await.unwrap();
    let taken = removal::take(&mut removing, before, 9).await;
    assert!(taken.is_ok_and(|taken| taken == [blob.id]));
    let (keeping, referring) = (store.clone(), store.clone());
    let id = blob.id;
    let keeping = tokio::spawn(async move { keeping.keep(id, NOW + 9).await });
    let sent = vec![event(conversation(), 1, &[&blob])];
    let referring = tokio::spawn(async move { suite::apply(&referring, sent).await });
    waits_or_ends(&server, &keeping).await;
    waits_or_ends(&server, &referring).await;
    removing.commit().await.unwrap();
    assert_eq!(keeping.await.unwrap().unwrap(), None);
    assert_eq!(referring.await.unwrap(), [blob.id]);
}

/// Until the task has ended, or some session waits for a lock.
async fn waits_or_ends<T>(server: &Postgres, task: &tokio::task::JoinHandle<T>) {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND datname = current_database()";
    const DEADLINE: Duration = Duration::from_secs(20);
    let mut c = PgConnection::connect(&server.url("blob")).await.unwrap();
    let begun = Instant::now();
    while !task.is_finished() {
        let waiting: i64 = sqlx::query_scalar(WAITING).fetch_one(&mut c).await.unwrap();
        if waiting > 0 {
            return;
        }
        assert!(
            begun.elapsed() < DEADLINE,
            "it neither waits for a lock nor ends"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_finished_or_ended_and_the_same_bytes_become_one_blob() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    for _ in 0..12 {
        let owner = UserId::generate();
        let uploads: Vec<Upload> = (0..6).map(|n| upload(owner, n % 2)).collect();
        for upload in &uploads {
            stores[0]
                .begin_upload(upload.clone(), 9, NOW)
                .await
                .unwrap();
        }
        let finishes = uploads.iter().zip(stores.iter().cycle());
        let finishes = finishes.map(|(upload, store)| store.finish_upload(upload, blob_of(upload)));
        let ends = stores
            .iter()
            .map(|store| store.end_uploads(NOW + 1, NOW, 2));
        let (finished, ended) = tokio::join!(join_all(finishes), join_all(ends));
        assert!(ended.into_iter().all(|ended| ended.is_ok()));
        let mut blobs = BTreeSet::new();
        for (upload, finished) in uploads.iter().zip(finished) {
            match finished.unwrap() {
                Finished::Kept(blob) => {
                    assert_eq!(blob.id, upload.blob);
                    blobs.insert((blob.source_sha256, blob.id));
                }
                Finished::Twin(blob) => {
                    assert_ne!(blob.id, upload.blob);
                    blobs.insert((blob.source_sha256, blob.id));
                }
                Finished::Gone => assert!(!suite::is_there(&stores[1], upload.blob).await),
            }
        }
        assert!(blobs.len() <= 2, "{blobs:?}");
        while stores[0].end_uploads(NOW + 1, NOW, 9).await.unwrap() > 0 {}
        for leftover in stores[0].leftovers(NOW + 1, 100).await.unwrap() {
            let of_a_blob = blobs.iter().any(|(_, blob)| *blob == leftover.blob);
            assert_eq!(leftover.bytes_can_go, !of_a_blob);
            stores[0].forget_leftover(leftover).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beginnings_at_once_are_counted_one_after_the_other() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    let owner = UserId::generate();
    let begins = (0..24).zip(stores.iter().cycle());
    let begins = begins.map(|(n, store)| store.begin_upload(upload(owner, n), 5, NOW));
    let begun = join_all(begins).await;
    let begun = begun.into_iter().map(Result::unwrap);
    let new = begun.filter(|begun| matches!(begun, Begun::Upload(..)));
    assert_eq!(new.count(), 5);
}

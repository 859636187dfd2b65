//! Promises about uploads, and about blobs as long as nothing refers to them.

use super::*;

async fn begin(store: &dyn Store, upload: &Upload) -> Begun {
    store.begin_upload(upload.clone(), 10, NOW).await.unwrap()
}

pub(crate) async fn an_upload_is_the_same_until_it_is_finished_and_then_its_blob(
    store: &dyn Store,
) {
    let first = upload(UserId::generate(), 1);
    assert_eq!(store.upload(first.owner, first.id).await.unwrap(), None);
    assert_eq!(
        begin(store, &first).await,
        Begun::Upload(first.clone(), None)
    );
    let again = Upload {
        blob: BlobId::generate(),
        begun_unix_ms: NOW + 5,
        ..first.clone()
    };
    assert_eq!(
        begin(store, &again).await,
        Begun::Upload(first.clone(), None)
    );
    for other in [
        Upload {
            size_bytes: 1,
            ..first.clone()
        },
        Upload {
            source_sha256: [2; 32],
            ..first.clone()
        },
        Upload {
            purpose: Purpose::Picture,
            ..first.clone()
        },
    ] {
        assert_eq!(begin(store, &other).await, Begun::Reused);
    }
    // Another user may use the same id.
    let others = Upload {
        owner: UserId::generate(),
        blob: BlobId::generate(),
        ..first.clone()
    };
    assert_eq!(
        begin(store, &others).await,
        Begun::Upload(others.clone(), None)
    );
    let mut blob = blob_of(&first);
    for _ in 0..2 {
        let finished = store.finish_upload(&first, blob.clone()).await.unwrap();
        assert_eq!(finished, Finished::Kept(blob.clone()));
    }
    let done = Upload {
        finished: true,
        ..first.clone()
    };
    let found = store.upload(first.owner, first.id).await.unwrap();
    assert_eq!(found, Some((done.clone(), Some(blob.clone()))));
    // It is kept for whoever is told of it, never shorter than before.
    for (until, kept) in [(NOW + 9, NOW + 9), (NOW + 3, NOW + 9)] {
        blob.kept_until_unix_ms = kept;
        let begun = store.begin_upload(again.clone(), 0, until).await.unwrap();
        assert_eq!(begun, Begun::Upload(done.clone(), Some(blob.clone())));
        assert_eq!(
            store.keep(blob.id, until).await.unwrap(),
            Some(blob.clone())
        );
        assert_eq!(
            store
                .blobs(vec![BlobId::generate(), blob.id])
                .await
                .unwrap(),
            [blob.clone()]
        );
    }
    assert_eq!(store.keep(BlobId::generate(), NOW).await.unwrap(), None);
    let plain = made_with(store, |blob| {
        blob.look = None;
        blob.media_type = MediaType::Mp4;
    });
    let plain = plain.await;
    assert_eq!(store.blobs(vec![plain.id]).await.unwrap(), [plain]);
}

pub(crate) async fn a_user_has_so_many_unfinished_uploads_at_most(store: &dyn Store) {
    let owner = UserId::generate();
    let uploads: Vec<Upload> = (0..3).map(|source| upload(owner, source)).collect();
    for upload in &uploads[..2] {
        let begun = store.begin_upload(upload.clone(), 2, NOW).await.unwrap();
        assert_eq!(begun, Begun::Upload(upload.clone(), None));
    }
    let third = async || {
        store
            .begin_upload(uploads[2].clone(), 2, NOW)
            .await
            .unwrap()
    };
    assert_eq!(third().await, Begun::TooMany);
    let known = store
        .begin_upload(uploads[0].clone(), 2, NOW)
        .await
        .unwrap();
    assert_eq!(known, Begun::Upload(uploads[0].clone(), None));
    store
        .finish_upload(&uploads[0], blob_of(&uploads[0]))
        .await
        .unwrap();
    assert_eq!(third().await, Begun::Upload(uploads[2].clone(), None));
}

pub(crate) async fn the_same_bytes_are_one_blob_and_what_came_twice_is_left_over(
    store: &dyn Store,
) {
    let owner = UserId::generate();
    let uploads: Vec<Upload> = (0..3).map(|_| upload(owner, 1)).collect();
    for upload in &uploads {
        begin(store, upload).await;
    }
    assert_eq!(
        store.finish_with_twin(&uploads[0], NOW).await.unwrap(),
        None
    );
    let mut blob = blob_of(&uploads[0]);
    store
        .finish_upload(&uploads[0], blob.clone())
        .await
        .unwrap();
    // Found before the bytes were sent, or only when they were there.
    blob.kept_until_unix_ms = NOW + 5;
    let twin = store.finish_with_twin(&uploads[1], NOW + 5).await.unwrap();
    assert_eq!(twin, Some(blob.clone()));
    for _ in 0..2 {
        let finished = store
            .finish_upload(&uploads[2], blob_of(&uploads[2]))
            .await
            .unwrap();
        assert_eq!(finished, Finished::Twin(blob.clone()));
    }
    for upload in &uploads {
        let (upload, found) = store.upload(owner, upload.id).await.unwrap().unwrap();
        assert!(upload.finished && upload.blob == blob.id);
        assert_eq!(found, Some(blob.clone()));
    }
    let left = store.leftovers(NOW + 10, 10).await.unwrap();
    let mut names: Vec<BlobId> = left.iter().map(|leftover| leftover.blob).collect();
    names.sort();
    let mut expected = vec![uploads[1].blob, uploads[2].blob];
    expected.sort();
    assert_eq!(names, expected);
    // The stage waits for the end of the upload's name.
    assert!(left.iter().all(|l| l.bytes_can_go && !l.stage_can_go));
    // Not for another purpose, and not of another user.
    let picture = Upload {
        purpose: Purpose::Picture,
        ..upload(owner, 1)
    };
    for other in [picture, upload(UserId::generate(), 1)] {
        begin(store, &other).await;
        assert_eq!(store.finish_with_twin(&other, NOW).await.unwrap(), None);
    }
}

pub(crate) async fn an_upload_that_was_ended_is_not_finished_and_its_bytes_can_go(
    store: &dyn Store,
) {
    let owner = UserId::generate();
    let old = upload(owner, 1);
    let young = Upload {
        begun_unix_ms: NOW + 1,
        ..upload(owner, 2)
    };
    begin(store, &old).await;
    begin(store, &young).await;
    assert_eq!(store.end_uploads(NOW, NOW + 50, 10).await.unwrap(), 0);
    assert_eq!(store.end_uploads(NOW + 1, NOW + 50, 10).await.unwrap(), 1);
    assert_eq!(store.end_uploads(NOW + 1, NOW + 50, 10).await.unwrap(), 0);
    assert_eq!(store.upload(owner, old.id).await.unwrap(), None);
    assert!(store.upload(owner, young.id).await.unwrap().is_some());
    let finish = async || store.finish_upload(&old, blob_of(&old)).await.unwrap();
    assert_eq!(finish().await, Finished::Gone);
    assert_eq!(store.leftovers(NOW + 50, 10).await.unwrap(), []);
    let left = store.leftovers(NOW + 51, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].owner, left[0].upload, left[0].blob),
        (owner, old.id, old.blob)
    );
    assert!(left[0].bytes_can_go && left[0].stage_can_go);
    // Its name may be used again, for another blob; who still has the old one finishes nothing.
    let anew = Upload {
        blob: BlobId::generate(),
        ..old.clone()
    };
    assert_eq!(begin(store, &anew).await, Begun::Upload(anew.clone(), None));
    assert_eq!(finish().await, Finished::Gone);
    assert_eq!(store.finish_with_twin(&old, NOW).await.unwrap(), None);
    assert!(!is_there(store, old.blob).await);
    let again = store.leftovers(NOW + 51, 10).await.unwrap();
    assert!(again[0].bytes_can_go && !again[0].stage_can_go);
    store.forget_leftover(left[0].clone()).await.unwrap();
    assert_eq!(store.leftovers(NOW + 51, 10).await.unwrap(), []);
    assert!(store.upload(owner, anew.id).await.unwrap().is_some());
}

pub(crate) async fn an_upload_that_was_given_up_counts_no_more_and_a_finished_one_stays(
    store: &dyn Store,
) {
    let owner = UserId::generate();
    let one = upload(owner, 1);
    let begin = async |upload: &Upload| {
        let begun = store.begin_upload(upload.clone(), 1, NOW).await;
        begun.unwrap()
    };
    assert_eq!(begin(&one).await, Begun::Upload(one.clone(), None));
    let other = upload(owner, 2);
    assert_eq!(begin(&other).await, Begun::TooMany);
    for _ in 0..2 {
        store.give_up(&one, NOW).await.unwrap();
    }
    assert_eq!(store.upload(owner, one.id).await.unwrap(), None);
    let left = store.leftovers(NOW + 1, 10).await.unwrap();
    assert!(left.len() == 1 && left[0].bytes_can_go && left[0].stage_can_go);
    store.forget_leftover(left[0].clone()).await.unwrap();
    // It begins again, as another blob: who has the old one gives nothing up.
    let anew = Upload {
        blob: BlobId::generate(),
        ..one.clone()
    };
    assert_eq!(begin(&anew).await, Begun::Upload(anew.clone(), None));
    store.give_up(&one, NOW).await.unwrap();
    assert!(store.upload(owner, one.id).await.unwrap().is_some());
    let blob = blob_of(&anew);
    store.finish_upload(&anew, blob.clone()).await.unwrap();
    store.give_up(&anew, NOW).await.unwrap();
    let finished = store.upload(owner, one.id).await.unwrap();
    assert_eq!(finished.and_then(|(_, blob)| blob), Some(blob));
    assert_eq!(store.leftovers(NOW + 1, 10).await.unwrap(), []);
    assert_eq!(begin(&other).await, Begun::Upload(other.clone(), None));
}

pub(crate) async fn nothing_of_a_blob_can_go_with_its_upload(store: &dyn Store) {
    let one = upload(UserId::generate(), 1);
    begin(store, &one).await;
    let blob = blob_of(&one);
    store.finish_upload(&one, blob.clone()).await.unwrap();
    assert_eq!(store.end_uploads(NOW + 1, NOW, 10).await.unwrap(), 1);
    let left = store.leftovers(NOW + 1, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert!(!left[0].bytes_can_go && left[0].stage_can_go);
    assert!(is_there(store, blob.id).await);
    // Who was not told that it was finished is told so.
    let finished = store.finish_upload(&one, blob.clone()).await.unwrap();
    assert_eq!(finished, Finished::Kept(blob));
}

pub(crate) async fn a_blob_that_goes_is_not_answered_and_its_bytes_can_come_anew(
    store: &dyn Store,
) {
    let one = upload(UserId::generate(), 1);
    begin(store, &one).await;
    let blob = blob_of(&one);
    store.finish_upload(&one, blob.clone()).await.unwrap();
    assert_eq!(
        store.take_removable(kept_before(NOW), 10).await.unwrap(),
        [blob.id]
    );
    for forgotten in [false, true] {
        if forgotten {
            store.forget_blob(blob.id).await.unwrap();
        }
        assert!(!is_there(store, blob.id).await);
        assert_eq!(store.keep(blob.id, NOW + 9).await.unwrap(), None);
        let (found, of_it) = store.upload(one.owner, one.id).await.unwrap().unwrap();
        assert_eq!((found.blob, of_it), (blob.id, None));
        let finished = store.finish_upload(&one, blob.clone()).await.unwrap();
        assert_eq!(finished, Finished::Gone);
        let video = upload(one.owner, 3);
        begin(store, &video).await;
        let with_poster = Blob {
            poster: Some(blob.id),
            ..blob_of(&video)
        };
        let finished = store.finish_upload(&video, with_poster).await.unwrap();
        assert_eq!(finished, Finished::Gone);
        let same = upload(one.owner, 1);
        begin(store, &same).await;
        assert_eq!(store.finish_with_twin(&same, NOW).await.unwrap(), None);
    }
    let anew = Upload {
        blob: BlobId::generate(),
        ..one.clone()
    };
    assert_eq!(begin(store, &anew).await, Begun::Upload(anew.clone(), None));
    let finished = store.finish_upload(&anew, blob_of(&anew)).await.unwrap();
    assert_eq!(finished, Finished::Kept(blob_of(&anew)));
}

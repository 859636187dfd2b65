//! Promises about what is kept, and what goes.

use super::*;

pub(crate) async fn a_blob_goes_when_its_receipts_have_expired_and_nothing_refers_to_it(
    store: &dyn Store,
) {
    let [plain, used, kept] = [made(store).await, made(store).await, made(store).await];
    store.keep(kept.id, NOW + 1).await.unwrap();
    let (here, there) = (conversation(), conversation());
    let missing = apply(
        store,
        vec![event(here, 1, &[&used]), event(there, 1, &[&used])],
    )
    .await;
    assert_eq!(missing, []);
    assert!(!store.has_removable(kept_before(NOW - 1)).await.unwrap());
    assert_eq!(
        store
            .take_removable(kept_before(NOW - 1), 10)
            .await
            .unwrap(),
        []
    );
    assert_eq!(remove(store).await, [plain.id]);
    assert!(!is_there(store, plain.id).await);
    // As long as one is left of those who refer to it.
    apply(store, vec![removed(event(here, 1, &[&used]))]).await;
    assert_eq!(remove(store).await, []);
    assert!(is_there(store, used.id).await);
    apply(store, vec![removed(event(there, 1, &[&used]))]).await;
    assert_eq!(remove(store).await, [used.id]);
    assert!(is_there(store, kept.id).await);
}

pub(crate) async fn what_was_removed_stays_removed_in_any_order(store: &dyn Store) {
    let [one, two, three] = [made(store).await, made(store).await, made(store).await];
    let here = conversation();
    let of = |seq, blob| event(here, seq, &[blob]);
    // In one batch, and in several; the repetition of an older one says nothing.
    apply(store, vec![removed(of(1, &one)), of(1, &one)]).await;
    apply(store, vec![removed(of(2, &two))]).await;
    apply(store, vec![of(2, &two), of(2, &two)]).await;
    apply(store, vec![of(3, &three)]).await;
    apply(store, vec![removed(of(3, &three))]).await;
    apply(store, vec![of(3, &three), of(4, &three)]).await;
    let mut expected = vec![one.id, two.id];
    expected.sort();
    assert_eq!(remove(store).await, expected);
    apply(store, vec![removed(of(4, &three)), removed(of(3, &three))]).await;
    assert_eq!(remove(store).await, [three.id]);
}

pub(crate) async fn the_picture_of_the_largest_version_is_kept(store: &dyn Store) {
    let made = async || made_with(store, |blob| blob.purpose = Purpose::Picture).await;
    let [one, two, three] = [made().await, made().await, made().await];
    let group = GroupId::generate();
    let picture = |of, version, blob: Option<&Blob>| Reference::Picture {
        of,
        version,
        blob: blob.map(|blob| blob.id),
    };
    let (group, user) = (
        PictureOf::Group(group),
        // Of the same bytes, but another kind.
        PictureOf::User(UserId::from_bytes(*group.as_bytes())),
    );
    let of = vec![picture(group, 3, Some(&two)), picture(group, 2, Some(&one))];
    apply(store, of).await;
    apply(
        store,
        vec![
            picture(group, 1, Some(&one)),
            picture(user, 0, Some(&three)),
        ],
    )
    .await;
    assert_eq!(remove(store).await, [one.id]);
    apply(store, vec![picture(group, 3, None)]).await;
    assert_eq!(remove(store).await, []);
    apply(
        store,
        vec![picture(group, 4, Some(&three)), picture(user, 1, None)],
    )
    .await;
    assert_eq!(remove(store).await, [two.id]);
    apply(store, vec![picture(group, 5, None)]).await;
    assert_eq!(remove(store).await, [three.id]);
}

pub(crate) async fn a_poster_is_kept_for_as_long_as_its_video(store: &dyn Store) {
    let poster = made(store).await;
    let video = made_with(store, |blob| {
        blob.media_type = MediaType::WebM;
        blob.poster = Some(poster.id);
    });
    let video = video.await;
    let sent = event(conversation(), 1, &[&video]);
    apply(store, vec![sent.clone()]).await;
    assert_eq!(remove(store).await, []);
    apply(store, vec![removed(sent)]).await;
    // The video first: while it goes, a crash may leave it with its poster.
    assert_eq!(remove(store).await, [video.id]);
    assert_eq!(remove(store).await, [poster.id]);
}

pub(crate) async fn a_reference_to_what_is_not_there_is_told_and_not_kept(store: &dyn Store) {
    let (going, good) = (made(store).await, made(store).await);
    let here = conversation();
    apply(store, vec![event(here, 1, &[&good])]).await;
    assert_eq!(
        store.take_removable(kept_before(NOW), 10).await.unwrap(),
        [going.id]
    );
    let never = blob_of(&upload(UserId::generate(), 1));
    let picture = Reference::Picture {
        of: PictureOf::User(UserId::generate()),
        version: 1,
        blob: Some(never.id),
    };
    let mut expected = vec![going.id, never.id];
    expected.sort();
    let mut missing = apply(store, vec![event(here, 2, &[&good, &going]), picture]).await;
    missing.sort();
    assert_eq!(missing, expected);
    // What needs it no more is no reason to look.
    assert_eq!(
        apply(store, vec![removed(event(here, 3, &[&never]))]).await,
        []
    );
    store.forget_blob(going.id).await.unwrap();
    assert_eq!(
        apply(store, vec![event(here, 2, &[&going])]).await,
        [going.id]
    );
    apply(store, vec![removed(event(here, 1, &[&good]))]).await;
    assert_eq!(remove(store).await, []);
    apply(store, vec![removed(event(here, 2, &[&good]))]).await;
    assert_eq!(remove(store).await, [good.id]);
}

pub(crate) async fn pictures_and_attachments_go_at_times_of_their_own(store: &dyn Store) {
    let attachment = made(store).await;
    let picture = made_with(store, |blob| blob.purpose = Purpose::Picture).await;
    let before = |attachments_unix_ms, pictures_unix_ms| KeptBefore {
        attachments_unix_ms,
        pictures_unix_ms,
    };
    let neither = before(NOW - 1, NOW - 1);
    assert!(!store.has_removable(neither).await.unwrap());
    for (before, blob) in [
        (before(NOW, NOW - 1), attachment.id),
        (before(NOW - 1, NOW), picture.id),
    ] {
        assert!(store.has_removable(before).await.unwrap());
        assert_eq!(store.take_removable(before, 10).await.unwrap(), [blob]);
        store.forget_blob(blob).await.unwrap();
    }
    assert!(!store.has_removable(kept_before(NOW + 9)).await.unwrap());
}

pub(crate) async fn the_barrier_is_the_earliest_of_the_latest_of_all_partitions(store: &dyn Store) {
    let read = async |partition, as_of_unix_ms: &[i64]| {
        let barrier = |as_of_unix_ms: &i64| Barrier {
            partition,
            as_of_unix_ms: *as_of_unix_ms,
        };
        let advance = PositionAdvance {
            reader: ReaderId {
                partition,
                ..READER
            },
            from: 0,
            to: 1,
        };
        let barriers = as_of_unix_ms.iter().map(barrier).collect();
        store.apply(Vec::new(), barriers, advance).await.unwrap();
    };
    assert_eq!(store.barrier(0).await.unwrap(), None);
    assert_eq!(store.barrier(2).await.unwrap(), None);
    read(0, &[5]).await;
    assert_eq!(store.barrier(2).await.unwrap(), None);
    read(1, &[3, 9, 4]).await;
    assert_eq!(store.barrier(2).await.unwrap(), Some(5));
    assert_eq!(store.barrier(3).await.unwrap(), None);
    // One that comes again, late.
    read(0, &[2]).await;
    assert_eq!(store.barrier(2).await.unwrap(), Some(5));
    read(0, &[20]).await;
    assert_eq!(store.barrier(2).await.unwrap(), Some(9));
}

pub(crate) async fn positions_and_references_move_together(store: &dyn Store) {
    assert_eq!(store.open_reader(READER, log()).await.unwrap(), 0);
    let blob = made(store).await;
    let sent = event(conversation(), 1, &[&blob]);
    let advance = |from, to| PositionAdvance {
        reader: READER,
        from,
        to,
    };
    let barrier = Barrier {
        partition: 0,
        as_of_unix_ms: 7,
    };
    let back = store.apply(vec![sent.clone()], vec![barrier], advance(4, 6));
    let back = back.await;
    assert!(
        matches!(back, Err(StoreError::PositionBelowSaved)),
        "{back:?}"
    );
    assert_eq!(store.barrier(1).await.unwrap(), None);
    assert_eq!(
        store.take_removable(kept_before(NOW - 1), 1).await.unwrap(),
        []
    );
    assert!(store.has_removable(kept_before(NOW)).await.unwrap());
    for (from, to, position) in [(0, 5, 5), (5, 9, 9), (3, 4, 9)] {
        store
            .apply(vec![sent.clone()], Vec::new(), advance(from, to))
            .await
            .unwrap();
        assert_eq!(store.open_reader(READER, log()).await.unwrap(), position);
    }
    assert!(!store.has_removable(kept_before(NOW)).await.unwrap());
    let other = LogIdentity {
        topic_id: "topic two".to_owned(),
        ..log()
    };
    let refused = store.open_reader(READER, other.clone()).await;
    assert!(
        matches!(refused, Err(StoreError::OtherLog { .. })),
        "{refused:?}"
    );
    let users = ReaderId {
        reader: "users",
        topic: "users",
        partition: 0,
    };
    assert_eq!(store.open_reader(users, other).await.unwrap(), 0);
    store.sync().await.unwrap();
}

pub(crate) async fn blobs_go_in_steps_and_what_goes_is_answered_until_it_is_forgotten(
    store: &dyn Store,
) {
    let mut blobs = Vec::new();
    for _ in 0..5 {
        blobs.push(made(store).await.id);
    }
    let take = async || store.take_removable(kept_before(NOW), 2).await.unwrap();
    let mut first = take().await;
    let mut again = take().await;
    first.sort();
    again.sort();
    assert_eq!((first.len(), &first), (2, &again));
    // One that does not go is not forgotten.
    let stays = blobs.iter().find(|blob| !first.contains(blob)).unwrap();
    store.forget_blob(*stays).await.unwrap();
    assert!(is_there(store, *stays).await);
    let mut gone = Vec::new();
    for _ in 0..3 {
        for blob in take().await {
            store.forget_blob(blob).await.unwrap();
            gone.push(blob);
        }
    }
    gone.sort();
    blobs.sort();
    assert_eq!(gone, blobs);
    assert_eq!(take().await, []);
}
